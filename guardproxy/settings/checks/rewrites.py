"""Check rewrites: the side that each is for, the options that it needs, and routes on which it makes no sense."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from guardproxy.policy import REGENERATE, STEER, UNSAFE
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_REDACT = "redact"
_SIDES = ("user", "tool", "assistant")
# The side that a rewrite is not for, and why.
_WRONG_SIDE: dict[tuple[str | int, str], str] = {
    ("assistant", STEER): "tells the model something before it answers, so it is for requests; write it under user",
    ("tool", REGENERATE): "asks for another reply, so it is for replies; write it under assistant",
    ("user", REGENERATE): "asks for another reply, so it is for replies; write it under assistant",
}
# The options of a policy's section `rewrite` that only one rewrite uses.
_USED_BY = {
    "max_checks": _REDACT,
    "instruction": STEER,
    "retry_instruction": REGENERATE,
    "tries": REGENERATE,
    "retry_s": REGENERATE,
}


def rewrites(path: SettingPath, policy: Node) -> Iterator[Problem]:
    """Every mistake in the rewrites of the policy at `path`."""
    used = {name for *_, name, _ in _named(policy)}
    for below, name, node in _named(policy):
        place = (*path, *below)
        if below[0] == UNSAFE and name in (STEER, REGENERATE):
            side = "user" if name == STEER else "assistant"
            yield Problem(node.position, place, f"is for one side only; write these rules under {side}")
        elif message := _WRONG_SIDE.get((below[0], name)):
            yield Problem(node.position, place, message)
        if name == STEER and policy.get("rewrite", "instruction") is None:
            message = "needs what the model is told; write rewrite: {instruction: TEXT} in the policy"
            yield Problem(node.position, place, message)
        mode = policy.get("stream", "mode")
        if name == REGENERATE and mode is not None and mode.text() == "monitor":
            message = "has no effect on streams with mode: monitor, which passes them on at once; write mode: hold_all"
            yield Problem(node.position, place, message)
    for option, rewrite in _USED_BY.items():
        unused = policy.get("rewrite", option)
        if unused is not None and rewrite not in used:
            message = f"has no effect, because no rule of the policy has how: {rewrite}; add one, or remove it"
            yield Problem(unused.key_position, (*path, "rewrite", option), message)


def on_routes(root: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """The routes on which requests are steered in vain."""
    section = root.get("routes")
    for index, route in section.elements() if section else []:
        overlap, protocol = route.get("overlap"), route.get("when", "protocol")
        policy = next((one for one in _policies(route) if _steers(root.get("policies", one.text() or ""))), None)
        if policy is None:
            continue
        named = policy.text()
        if overlap is not None and overlap.value is True:
            message = (
                f"sends a request that the policy {named} steers without its instruction first, and then again; "
                "remove it, or write block in place of how: steer"
            )
            yield Problem(overlap.key_position, ("routes", index, "overlap"), message)
        if protocol is not None and _only_vectors(protocol.text() or "", catalogue):
            message = f"{named} has how: steer, but no model answers in this protocol: it blocks there; write block"
            yield Problem(policy.position, ("routes", index), message)


def _policies(route: Node) -> Iterator[Node]:
    """The policies that act on the requests of a route."""
    if (policy := route.get("policy")) is not None:
        yield policy
    offered = route.get("may_choose")
    for _, node in offered.elements() if offered else []:
        yield node


def _steers(policy: Node | None) -> bool:
    return policy is not None and any(name == STEER for *_, name, _ in _named(policy))


def _named(policy: Node) -> list[tuple[SettingPath, str, Node]]:
    """Each rewrite that the policy names: where, its name, and the node that has the name."""
    groups: list[tuple[SettingPath, Node]] = [
        ((side, name), node) for side in _SIDES for name, node in _rules(policy, side)
    ]
    if (overall := policy.get(UNSAFE)) is not None:
        groups.append(((UNSAFE,), overall))
    found = []
    for path, rules in groups:
        how = rules.get("rewrite", "how")
        if how is not None and how.text():
            found.append(((*path, "rewrite", "how"), how.text() or "", how))
    return found


def _rules(policy: Node, side: str) -> Collection[tuple[str, Node]]:
    own = policy.get(side)
    return own.entries() if own is not None else ()


def _only_vectors(pattern: str, catalogue: Catalogue) -> bool:
    matching = [name for name in catalogue.wires if fnmatchcase(name.casefold(), pattern.strip().casefold())]
    return bool(matching) and all(name in catalogue.vectors for name in matching)
