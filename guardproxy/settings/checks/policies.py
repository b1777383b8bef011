"""What policies and routes mean: known categories, rules that can be reached, routes that lead somewhere."""

from collections.abc import Collection, Iterator
from typing import Protocol

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.schema import suggest
from guardproxy.settings.yaml_tree import Node, Path, Problem
from guardproxy.types import SIGNALS

_SIDES = ("user", "assistant")
_TEXTS = {"user": "requests", "assistant": "replies"}
# Thresholds from the mildest action to the most severe.
_LADDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("flag", ("flag",)),
    ("rewrite", ("rewrite", "at")),
    ("block", ("block",)),
)
# Settings that do nothing beside another one: (key, beside which, with what value, why).
_IDLE = (
    (("stream", "exposure"), ("stream", "mode"), "hold_all", "nothing leaves before the whole reply is judged"),
    (("stream", "exposure"), ("stream", "mode"), "monitor", "everything leaves at once"),
    (("stream", "every"), ("stream", "mode"), "hold_all", "there is one check, at the end"),
    (("block", "finish"), ("block", "how"), "error", "an error has no finish reason"),
)


class Names(Protocol):
    """What of the registries a policy may name."""

    @property
    def rewrites(self) -> Collection[str]:
        """Names of rewrites."""
        ...

    @property
    def views(self) -> Collection[str]:
        """Names of views."""
        ...

    def fault(self, name: str, names: Collection[str], kind: str) -> str | None:
        """What is wrong with a name."""
        ...


def policies(root: Node, known: Names, categories: Collection[str] | None) -> Iterator[Problem]:
    """Every policy, and whether there is one for every request."""
    node = root.get("policies")
    if node is None:
        return
    entries = node.entries()
    if isinstance(node.value, dict) and "default" not in node.value:
        yield Problem(node.key, ("policies", "default"), "is missing: requests that no route takes need it")
    used = _used(root)
    for name, policy in entries:
        path: Path = ("policies", name)
        if name != "default" and name not in used:
            yield Problem(policy.key, path, "unreachable: no route leads to it")
        yield from _policy(path, policy, known, categories)


def _used(root: Node) -> set[str]:
    """The policies that routes name."""
    routes = root.get("routes")
    used: set[str] = set()
    for _, route in routes.items() if routes else []:
        shadow = route.get("shadow")
        named = [route.get("policy"), *(one for _, one in (shadow.items() if shadow else []))]
        used |= {node.text() or "" for node in named if node}
    return used


def _policy(path: Path, policy: Node, known: Names, categories: Collection[str] | None) -> Iterator[Problem]:
    for side in _SIDES:
        rules = policy.get(side)
        yield from _side((*path, side), rules, known, categories) if rules else ()
        if not _has_rules(policy, side):
            key = rules.key if rules else policy.key
            message = (
                f'has no rule: no {_TEXTS[side]} would be acted on; where that is meant, write {side}: {{"*": {{}}}}'
            )
            yield Problem(key, (*path, side), message)
    overall = policy.get(UNSAFE)
    yield from _rules((*path, UNSAFE), overall, known) if overall else ()
    views = policy.get("views")
    for place, view in views.items() if views else []:
        name = view.text()
        fault = known.fault(name, known.views, "view") if name else None
        if fault:
            yield Problem(view.mark, (*path, "views", place), fault)
    roles = policy.get("judge", "roles")
    if roles and isinstance(roles.value, list) and "user" not in roles.plain():
        yield Problem(roles.mark, (*path, "judge", "roles"), "must name user")
    for idle, beside, value, why in _IDLE:
        node, other = policy.get(*idle), policy.get(*beside)
        if node and other and other.value == value:
            yield Problem(node.key, (*path, *idle), f"has no effect with {beside[-1]}: {value}: {why}")


def _has_rules(policy: Node, side: str) -> bool:
    """Whether a side has rules, be it that it exempts everything by name; True where the shape is wrong anyway."""
    rules = policy.get(side)
    if rules is not None and not (isinstance(rules.value, dict) and not rules.value):
        return True
    return not isinstance(policy.value, dict) or policy.get(UNSAFE) is not None


def _side(path: Path, rules: Node, known: Names, categories: Collection[str] | None) -> Iterator[Problem]:
    entries = rules.entries()
    for name, node in entries:
        if categories is not None and name not in {ANY, UNSAFE, *categories}:
            hint = suggest(name, [*categories, UNSAFE])
            yield Problem(node.key, (*path, name), f"unknown category {name!r}; {hint}")
        yield from _rules((*path, name), node, known)
    covered = {name for name, _ in entries}
    rest = rules.get(ANY)
    if rest and categories is not None and set(categories) - SIGNALS <= covered:
        yield Problem(rest.key, (*path, ANY), "unreachable: no category is left for it")


def _rules(path: Path, rules: Node, known: Names) -> Iterator[Problem]:
    """One category's thresholds: a milder action must begin below every more severe one."""
    steps = [(name, where, rules.get(*where)) for name, where in _LADDER]
    given = [(name, where, node) for name, where, node in steps if node and _number(node) is not None]
    for place, (_, where, node) in enumerate(given):
        for severer, _, other in given[place + 1 :]:
            if (_number(node) or 0.0) >= (_number(other) or 0.0):
                message = f"unreachable: {severer} acts from {_number(other):g} on, so this must be below it"
                yield Problem(node.mark, (*path, *where), message)
                break
    how = rules.get("rewrite", "how")
    name = how.text() if how else None
    fault = known.fault(name, known.rewrites, "rewrite") if name else None
    if how and fault:
        yield Problem(how.mark, (*path, "rewrite", "how"), fault)


def _number(node: Node) -> float | None:
    """A threshold; None where the value is none."""
    value = node.value
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def routes(root: Node) -> Iterator[Problem]:
    """Every route: its policies exist, its name is its own, and no earlier route takes all its requests."""
    node = root.get("routes")
    listed = root.get("policies")
    names = [name for name, _ in listed.entries()] if listed else ["default"]
    earlier: list[tuple[int, Node]] = []
    seen = {"default"}
    for place, route in node.items() if node else []:
        path: Path = ("routes", place)
        yield from _targets(path, route, names)
        yield from _name(path, route, seen)
        when = route.get("when", "path")
        if when and when.text() and (when.text() or "")[0] not in "/*?[":
            yield Problem(when.mark, (*path, "when", "path"), "must begin with / or *")
        for before, other in earlier:
            if _takes_all(other, route):
                yield Problem(route.mark, path, f"unreachable: routes[{before}] takes every request that it is for")
                break
        earlier.append((place, route))


def _targets(path: Path, route: Node, names: list[str]) -> Iterator[Problem]:
    shadow = route.get("shadow")
    targets: list[tuple[Path, Node | None]] = [(("policy",), route.get("policy"))]
    targets += [(("shadow", place), node) for place, node in (shadow.items() if shadow else [])]
    for where, node in targets:
        name = node.text() if node else None
        if node and name and name not in names:
            yield Problem(node.mark, (*path, *where), f"unknown policy {name!r}; {suggest(name, names)}")


def _name(path: Path, route: Node, seen: set[str]) -> Iterator[Problem]:
    node = route.get("name")
    name = node.text() if node else None
    if node and name in seen:
        why = "is what requests without a route have" if name == "default" else "is that of an earlier route"
        yield Problem(node.mark, (*path, "name"), f"the name {name} {why}")
    seen.add(name or "")


def _takes_all(first: Node, second: Node) -> bool:
    """Whether each condition of the first route is one of the second, so that nothing is left for the second."""
    if not isinstance(first.value, dict) or not isinstance(second.value, dict):
        return False
    given, others = first.get("when"), second.get("when")
    if given and not isinstance(given.value, dict):
        return False
    theirs = others.plain() if others and isinstance(others.value, dict) else {}
    conditions = given.plain() if given else {}
    return all(value in (None, "*") or theirs.get(key) == value for key, value in conditions.items())
