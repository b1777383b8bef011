"""Check policies: known categories, rules that can be reached, policies that a route names."""

from collections.abc import Collection, Iterator

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings import presets
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks import messages, routes, rules
from guardproxy.settings.messages import suggestion
from guardproxy.settings.yaml_tree import START, Node, Problem, SettingPath
from guardproxy.types import SIGNALS

_SIDES = ("user", "assistant")
_TEXTS = {"user": "requests", "assistant": "replies"}
# Options without effect if another option has a certain value: (option, other option, its value, reason).
_WITHOUT_EFFECT = (
    (("stream", "exposure"), ("stream", "mode"), "hold_all", "nothing is released before the whole reply is judged"),
    (("stream", "exposure"), ("stream", "mode"), "monitor", "everything is released at once"),
    (("stream", "every"), ("stream", "mode"), "hold_all", "the only check is at the end"),
    (("stream", "lag"), ("stream", "mode"), "hold_all", "nothing is released before the whole reply is judged"),
    (("stream", "lag"), ("stream", "mode"), "monitor", "everything is released at once"),
    (("block", "finish"), ("block", "how"), "error", "an error has no finish reason"),
)


def policies(root: Node, catalogue: Catalogue, categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in `policies`. `categories` may have rules; None if they are unknown."""
    node = root.get("policies")
    if node is None:
        return
    if isinstance(node.value, dict) and "default" not in node.value:
        yield Problem(node.key_position, ("policies", "default"), "is missing; requests without a route need it")
    used = routes.named(root)
    for name, policy in node.entries():
        path: SettingPath = ("policies", name)
        if name != "default" and name not in used:
            yield Problem(policy.key_position, path, "is unreachable; name it in a route or remove it")
        yield from _policy(path, policy, catalogue, categories)


def default_policies(root: Node, catalogue: Catalogue, categories: Collection[str] | None) -> list[Problem]:
    """The mistake of a document without policies whose guard has other categories than the built-in policies."""
    if root.get("policies") is not None or categories is None:
        return []
    defaults = Node({"policies": presets.default_policies()}, START, START)
    if not any(policies(defaults, catalogue, [*categories])):
        return []
    guard = root.get("guard")
    message = "is missing; add it, because the built-in policy is for another guard"
    return [Problem(guard.key_position if guard else START, ("policies",), message)]


def _policy(
    path: SettingPath, policy: Node, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    overall = policy.get(UNSAFE)
    yield from rules.rules((*path, UNSAFE), overall, overall, catalogue) if overall else ()
    yield from _preset(path, policy, catalogue, categories)
    for side in _SIDES:
        own = policy.get(side)
        yield from _side((*path, side), policy, own, catalogue, categories) if own else ()
        if not _has_rules(policy, side):
            position = own.key_position if own else policy.key_position
            message = f'has no rules, so no {_TEXTS[side]} are acted on; if you mean that, write {side}: {{"*": {{}}}}'
            yield Problem(position, (*path, side), message)
    if tool := policy.get("tool"):
        yield from _side((*path, "tool"), policy, tool, catalogue, categories)
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
    yield from messages.messages(path, policy, categories)


def _without_effect(path: SettingPath, policy: Node) -> Iterator[Problem]:
    for option, other, value, reason in _WITHOUT_EFFECT:
        node, other_node = policy.get(*option), policy.get(*other)
        if node and other_node and other_node.value == value:
            message = f"has no effect with {other[-1]}: {value}, because {reason}; remove it"
            yield Problem(node.key_position, (*path, *option), message)
    every, lag = policy.get("stream", "every"), policy.get("stream", "lag")
    if every and lag and isinstance(every.value, int):
        message = "has no effect with a number for every; write every: auto, or remove it"
        yield Problem(lag.key_position, (*path, "stream", "lag"), message)
    turns = policy.get("thread", "turns")
    for name in ("characters", "unsafe") if turns is None or turns.value in (0, 1) else ():
        if node := policy.get("thread", name):
            message = "has no effect, because no user turns are joined; write turns: 4 beside it, or remove it"
            yield Problem(node.key_position, (*path, "thread", name), message)


def _has_rules(policy: Node, side: str) -> bool:
    """Whether a side has rules, including one that exempts all categories; True as well if its type is wrong."""
    own = policy.get(side)
    if own is not None and not (isinstance(own.value, dict) and not own.value):
        return True
    preset = policy.get("preset")
    named = preset is not None and preset.value is not None
    return named or not isinstance(policy.value, dict) or policy.get(UNSAFE) is not None


def _preset(
    path: SettingPath, policy: Node, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    """The mistake of a preset for a guard that does not report every category of the embedded guard."""
    preset = policy.get("preset")
    own = catalogue.categories("classifier", {}, None)
    if preset is None or preset.text() is None or categories is None or own is None:
        return
    missing = sorted(set(own) - SIGNALS - set(categories))
    if missing:
        message = f"is for the embedded guard; this guard does not report {', '.join(missing)}; write rules instead"
        yield Problem(preset.position, (*path, "preset"), message)


def _side(
    path: SettingPath, policy: Node, side: Node, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    overall = side.get(UNSAFE) or policy.get(UNSAFE)
    entries = side.entries()
    for name, node in entries:
        if presets.is_inherited(policy, node):
            continue
        if categories is not None and name not in {ANY, UNSAFE, *categories}:
            hint = suggestion(name, [*categories, UNSAFE])
            yield Problem(node.key_position, (*path, name), f"unknown category {name!r}; {hint}")
        yield from rules.rules((*path, name), node, overall, catalogue)
    covered = {name for name, _ in entries}
    others = side.get(ANY)
    if others and categories is not None and set(categories) - SIGNALS <= covered:
        message = "is unreachable, because every category has rules; remove it"
        yield Problem(others.key_position, (*path, ANY), message)
