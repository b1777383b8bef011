"""Check routes: policies that exist, conditions that requests can meet, routes that no earlier one hides."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from guardproxy.policy import PolicySet
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.messages import HEADER_NAME, may_be_hash, suggestion
from guardproxy.settings.model import APIS
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath
from guardproxy.stricter import reads_more

_CASELESS = ("path", "model", "client", "protocol", "method")


def named(root: Node) -> set[str]:
    """The policies that routes name."""
    routes = root.get("routes")
    used: set[str] = set()
    for _, route in routes.elements() if routes else []:
        used |= {node.text() or "" for _, node in _targets(route)}
    return used


def _targets(route: Node) -> list[tuple[SettingPath, Node]]:
    """The policies of a route, each with its path in the route."""
    policy = route.get("policy")
    targets: list[tuple[SettingPath, Node]] = [(("policy",), policy)] if policy else []
    for key in ("shadow", "may_choose"):
        section = route.get(key)
        targets += [((key, index), node) for index, node in (section.elements() if section else [])]
    return targets


def routes(root: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """Every mistake in `routes` but those of `choices`."""
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
        yield from _offered(path, route)
        yield from _conditions((*path, "when"), route, root, catalogue)
        for before, other in earlier:
            if _covers(other, route):
                message = f"is unreachable, because routes[{before}] matches all its requests; remove or reorder them"
                yield Problem(route.position, path, message)
                break
        earlier.append((index, route))


def choices(root: Node, policies: PolicySet) -> Iterator[Problem]:
    """The policies that callers cannot choose because they read other texts than the route's own (`reads_more`)."""
    section = root.get("routes")
    for index, node in section.elements() if section else []:
        route = policies.routes[index]
        own = policies.policies[route.policy]
        for place, name in enumerate(route.may_choose):
            if differing := reads_more(own, policies.policies[name]):
                chosen = node.get("may_choose", place) or node
                what = " and ".join(differing)
                message = (
                    f"{name} reads other texts than {own.name} does, so it could find less: give both the same {what}"
                )
                yield Problem(chosen.position, ("routes", index, "may_choose", place), message)


def _name(path: SettingPath, route: Node, seen: set[str]) -> Iterator[Problem]:
    node = route.get("name")
    name = node.text() if node else None
    if node and name in seen:
        owner = "requests without a route" if name == "default" else "an earlier route"
        yield Problem(node.position, (*path, "name"), f"the name {name} is that of {owner}; choose another")
    seen.add(name or "")


def _offered(path: SettingPath, route: Node) -> Iterator[Problem]:
    """The policies in `may_choose` that are no choice."""
    policy, offered = route.get("policy"), route.get("may_choose")
    seen: set[str] = set()
    for index, node in offered.elements() if offered else []:
        name = node.text() or ""
        if policy and name == policy.text():
            message = "is the route's policy itself, which applies anyway; remove it"
            yield Problem(node.position, (*path, "may_choose", index), message)
        elif name in seen:
            yield Problem(node.position, (*path, "may_choose", index), "is already listed; remove it")
        seen.add(name)


def _conditions(path: SettingPath, route: Node, root: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """The conditions that no request can meet."""
    pattern = route.get("when", "path")
    if pattern and pattern.text() and (pattern.text() or "")[0] not in "/*?[":
        yield Problem(pattern.position, (*path, "path"), "must begin with / or *")
    header = route.get("when", "header")
    for name, node in header.entries() if header else []:
        if not HEADER_NAME.fullmatch(name):
            yield Problem(node.key_position, (*path, "header", name), "is not a valid header name")
    wires, clients = root.get("wires"), root.get("clients")
    protocols = [node.text() or "" for _, node in wires.elements()] if wires else [*catalogue.wires]
    # The wires of a user's own have a name that only the loaded object knows.
    known = None if any(":" in name for name in protocols) else [*protocols, *APIS]
    yield from _unmet((*path, "protocol"), route.get("when", "protocol"), known, "protocol")
    names = [name for name, _ in clients.entries()] if clients else None
    yield from _unmet((*path, "client"), route.get("when", "client"), names, "client")
    yield from _hashed(path, route, root)
    method = route.get("when", "method")
    unread = (method.text() if method else None) or "POST"
    for key in ("model", "protocol", "user") if unread != "POST" else ():
        if (condition := route.get("when", key)) is not None:
            message = f"no {unread} request has one, because only POST requests are read; remove one of both conditions"
            yield Problem(condition.position, (*path, key), message)


def _hashed(path: SettingPath, route: Node, root: Node) -> Iterator[Problem]:
    """The names of end users and clients where records have their hashes: such a route matches nothing."""
    plain = root.get("audit", "user_plain")
    user, client = route.get("when", "user"), route.get("when", "client")
    if user and user.text() and not (plain and plain.value is True) and not may_be_hash(user.text() or ""):
        message = "no end user matches, because they are hashes; write the hash, or audit: {user_plain: true}"
        yield Problem(user.position, (*path, "user"), message)
    if client and client.text() and not root.get("clients") and not may_be_hash(client.text() or ""):
        message = "no client matches, because without clients they are hashes of keys; write the hash, or clients"
        yield Problem(client.position, (*path, "client"), message)


def _unmet(path: SettingPath, node: Node | None, known: Collection[str] | None, noun: str) -> Iterator[Problem]:
    """The mistake of a pattern that matches none of the `known` names; None if these are unknown."""
    pattern = node.text() if node else None
    if node is None or not pattern or known is None:
        return
    if not any(fnmatchcase(name.casefold(), pattern.strip().casefold()) for name in known):
        message = f"no {noun} matches {pattern!r}; {suggestion(pattern, sorted(known))}"
        yield Problem(node.position, path, message)


def _covers(earlier: Node, later: Node) -> bool:
    """Whether the earlier route matches every request of the later: each of its conditions holds if the later's do."""
    if not isinstance(earlier.value, dict) or not isinstance(later.value, dict):
        return False
    conditions, later_conditions = earlier.get("when"), later.get("when")
    if conditions and not isinstance(conditions.value, dict):
        return False
    present = later_conditions.plain_value() if later_conditions and isinstance(later_conditions.value, dict) else {}
    required = conditions.plain_value() if conditions else {}
    return all(value in (None, "*") or _implies(key, present.get(key), value) for key, value in required.items())


def _implies(key: str, narrower: object, wider: object) -> bool:
    """Whether every text that the pattern `narrower` matches is matched by `wider`, as far as it can be told."""
    if narrower == wider:
        return True
    if not isinstance(narrower, str) or not isinstance(wider, str):
        return False
    if key in _CASELESS:
        narrower, wider = narrower.casefold(), wider.casefold()
    narrower, wider = narrower.strip(), wider.strip()
    if not any(sign in narrower for sign in "*?["):
        return fnmatchcase(narrower, wider)
    beginning = wider.removesuffix("*")
    return wider.endswith("*") and not any(sign in beginning for sign in "*?[") and narrower.startswith(beginning)
