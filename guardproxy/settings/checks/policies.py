"""Check policies and routes: known categories, rules and routes that can be reached, policies that exist."""

from collections.abc import Collection, Iterator

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings import packaged
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.messages import suggestion
from guardproxy.settings.yaml_tree import START, Node, Problem, SettingPath
from guardproxy.types import SIGNALS

_SIDES = ("user", "assistant")
_TEXTS = {"user": "requests", "assistant": "replies"}
# The actions from the mildest to the most severe, each with the path of its threshold.
_THRESHOLDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("flag", ("flag",)),
    ("rewrite", ("rewrite", "at")),
    ("block", ("block",)),
)
# Options without effect if another option has a certain value: (option, other option, its value, reason).
_WITHOUT_EFFECT = (
    (("stream", "exposure"), ("stream", "mode"), "hold_all", "nothing is released before the whole reply is judged"),
    (("stream", "exposure"), ("stream", "mode"), "monitor", "everything is released at once"),
    (("stream", "every"), ("stream", "mode"), "hold_all", "the only check is at the end"),
    (("block", "finish"), ("block", "how"), "error", "an error has no finish reason"),
)


def policies(root: Node, catalogue: Catalogue, categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in `policies`. `categories` may have rules; None if they are unknown."""
    node = root.get("policies")
    if node is None:
        return
    if isinstance(node.value, dict) and "default" not in node.value:
        yield Problem(node.key_position, ("policies", "default"), "is missing; requests without a route need it")
    used = _used(root)
    for name, policy in node.entries():
        path: SettingPath = ("policies", name)
        if name != "default" and name not in used:
            yield Problem(policy.key_position, path, "is unreachable; name it in a route or remove it")
        yield from _policy(path, policy, catalogue, categories)


def default_policies(root: Node, catalogue: Catalogue, categories: Collection[str] | None) -> list[Problem]:
    """The mistake of a document without policies whose guard has other categories than the built-in policies."""
    if root.get("policies") is not None or categories is None:
        return []
    defaults = Node({"policies": packaged.default_policies()}, START, START)
    if not any(policies(defaults, catalogue, [*categories])):
        return []
    guard = root.get("guard")
    message = "is missing; add it, because the built-in policy is for another guard"
    return [Problem(guard.key_position if guard else START, ("policies",), message)]


def _used(root: Node) -> set[str]:
    """The policies that routes name."""
    routes = root.get("routes")
    used: set[str] = set()
    for _, route in routes.elements() if routes else []:
        used |= {node.text() or "" for _, node in _targets(route)}
    return used


def _targets(route: Node) -> list[tuple[SettingPath, Node]]:
    """The policies of a route, each with its path in the route."""
    policy, shadow = route.get("policy"), route.get("shadow")
    targets: list[tuple[SettingPath, Node]] = [(("policy",), policy)] if policy else []
    return [*targets, *((("shadow", index), node) for index, node in (shadow.elements() if shadow else []))]


def _policy(
    path: SettingPath, policy: Node, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    for side in _SIDES:
        rules = policy.get(side)
        yield from _side((*path, side), rules, catalogue, categories) if rules else ()
        if not _has_rules(policy, side):
            position = rules.key_position if rules else policy.key_position
            message = f'has no rules, so no {_TEXTS[side]} are acted on; if you mean that, write {side}: {{"*": {{}}}}'
            yield Problem(position, (*path, side), message)
    overall = policy.get(UNSAFE)
    yield from _rules((*path, UNSAFE), overall, catalogue) if overall else ()
    views = policy.get("views")
    for index, view in views.elements() if views else []:
        name = view.text()
        error = catalogue.name_error(name, catalogue.views, "view") if name else None
        if error:
            yield Problem(view.position, (*path, "views", index), error)
    roles = policy.get("judge", "roles")
    if roles and isinstance(roles.value, list) and "user" not in roles.plain_value():
        yield Problem(roles.position, (*path, "judge", "roles"), "must include user")
    yield from _without_effect(path, policy)


def _without_effect(path: SettingPath, policy: Node) -> Iterator[Problem]:
    for option, other, value, reason in _WITHOUT_EFFECT:
        node, other_node = policy.get(*option), policy.get(*other)
        if node and other_node and other_node.value == value:
            message = f"has no effect with {other[-1]}: {value}, because {reason}; remove it"
            yield Problem(node.key_position, (*path, *option), message)


def _has_rules(policy: Node, side: str) -> bool:
    """Whether a side has rules, including one that exempts all categories; True as well if its type is wrong."""
    rules = policy.get(side)
    if rules is not None and not (isinstance(rules.value, dict) and not rules.value):
        return True
    return not isinstance(policy.value, dict) or policy.get(UNSAFE) is not None


def _side(
    path: SettingPath, rules: Node, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    entries = rules.entries()
    for name, node in entries:
        if categories is not None and name not in {ANY, UNSAFE, *categories}:
            hint = suggestion(name, [*categories, UNSAFE])
            yield Problem(node.key_position, (*path, name), f"unknown category {name!r}; {hint}")
        yield from _rules((*path, name), node, catalogue)
    covered = {name for name, _ in entries}
    others = rules.get(ANY)
    if others and categories is not None and set(categories) - SIGNALS <= covered:
        message = "is unreachable, because every category has rules; remove it"
        yield Problem(others.key_position, (*path, ANY), message)


def _rules(path: SettingPath, rules: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """The mistakes of a category's rules: a milder action must begin below every more severe one."""
    nodes = [(name, below, rules.get(*below)) for name, below in _THRESHOLDS]
    thresholds = [
        (name, below, node, number)
        for name, below, node in nodes
        if node and (number := _probability(node)) is not None
    ]
    for index, (_, below, node, number) in enumerate(thresholds):
        for severer, _, _, limit in thresholds[index + 1 :]:
            if number >= limit:
                message = f"is unreachable, because {severer} applies from {limit:g}; lower it"
                yield Problem(node.position, (*path, *below), message)
                break
    how = rules.get("rewrite", "how")
    name = how.text() if how else None
    error = catalogue.name_error(name, catalogue.rewrites, "rewrite") if name else None
    if how and error:
        yield Problem(how.position, (*path, "rewrite", "how"), error)


def _probability(node: Node) -> float | None:
    """A value in [0, 1], or None."""
    value = node.value
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def routes(root: Node) -> Iterator[Problem]:
    """Every mistake in `routes`: unknown policies, repeated names, and routes that an earlier one makes unreachable."""
    section, policies = root.get("routes"), root.get("policies")
    names = [name for name, _ in policies.entries()] if policies else ["default"]
    earlier: list[tuple[int, Node]] = []
    seen = {"default"}
    for index, route in section.elements() if section else []:
        path: SettingPath = ("routes", index)
        for below, node in _targets(route):
            name = node.text()
            if name and name not in names:
                message = f"unknown policy {name!r}; {suggestion(name, names)}"
                yield Problem(node.position, (*path, *below), message)
        yield from _name(path, route, seen)
        pattern = route.get("when", "path")
        if pattern and pattern.text() and (pattern.text() or "")[0] not in "/*?[":
            yield Problem(pattern.position, (*path, "when", "path"), "must begin with / or *")
        for before, other in earlier:
            if _covers(other, route):
                message = f"is unreachable, because routes[{before}] matches all its requests; remove or reorder them"
                yield Problem(route.position, path, message)
                break
        earlier.append((index, route))


def _name(path: SettingPath, route: Node, seen: set[str]) -> Iterator[Problem]:
    node = route.get("name")
    name = node.text() if node else None
    if node and name in seen:
        owner = "requests without a route" if name == "default" else "an earlier route"
        yield Problem(node.position, (*path, "name"), f"the name {name} is that of {owner}; choose another")
    seen.add(name or "")


def _covers(earlier: Node, later: Node) -> bool:
    """Whether the earlier route matches every request of the later: it has no condition that the later lacks."""
    if not isinstance(earlier.value, dict) or not isinstance(later.value, dict):
        return False
    conditions, later_conditions = earlier.get("when"), later.get("when")
    if conditions and not isinstance(conditions.value, dict):
        return False
    present = later_conditions.plain_value() if later_conditions and isinstance(later_conditions.value, dict) else {}
    required = conditions.plain_value() if conditions else {}
    return all(value in (None, "*") or present.get(key) == value for key, value in required.items())
