"""Presets: named rules for the embedded guard, and how it reads a conversation, on which a policy can build."""

from guardproxy.policy import PRESETS, UNSAFE, PresetName
from guardproxy.settings.model import EMBEDDED
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import START, Node, SourcePosition

DEFAULT_PRESET: PresetName = "balanced"
_THREAD = "thread"


def default_policies(preset: PresetName | None = None, guard: Node | None = None) -> Node:
    """The policies of a file without any that has this section `guard`: the preset.

    Raises ConfigError if the package is damaged.
    """
    name = Node(preset or DEFAULT_PRESET, START, START)
    policies = Node({"default": Node({"preset": name}, START, START)}, START, START)
    document = {"policies": policies} if guard is None else {"policies": policies, "guard": guard}
    apply_presets(Node(document, START, START))
    return policies


def apply_presets(root: Node) -> None:
    """Add what its preset says to every policy that names one.

    A policy's own rules of a category replace the preset's, and its `unsafe` beside the sides replaces those of both
    sides. The options of `thread` are added if the guard is the embedded one alone: with others they were not measured,
    and they cost a check for each request. What is added has the position of the preset's name (`is_inherited`). An
    unknown name adds nothing.
    """
    policies = root.get("policies")
    embedded = _is_embedded(root.get("guard"))
    for _, policy in policies.entries() if policies else []:
        chosen = policy.get("preset")
        if chosen is not None and chosen.text() in PRESETS:
            preset = preset_rules(str(chosen.value))
            _add_rules(policy, preset, chosen.position)
            if embedded:
                _add_thread(policy, preset, chosen.position)


def is_inherited(policy: Node, node: Node) -> bool:
    """Whether a rule or an option of a policy comes from its preset."""
    preset = policy.get("preset")
    return preset is not None and node.position == preset.position


def _is_embedded(guard: Node | None) -> bool:
    """Whether the section `guard` stands for the embedded guard, and for no other one beside it."""
    if guard is None:
        return True
    named = {key: node.value for key, node in guard.entries() if node.value is not None}
    return named.get("model", EMBEDDED) == EMBEDDED and not {"all", "cascade", "by_language"} & set(named)


def _add_rules(policy: Node, preset: Node, position: SourcePosition) -> None:
    if not isinstance(policy.value, dict):
        return
    overall = policy.get(UNSAFE) is not None
    for side, rules in preset.entries():
        if side == _THREAD:
            continue
        own = policy.value.setdefault(side, Node({}, position, position))
        if isinstance(own.value, dict):
            for category, rule in rules.entries():
                if not (overall and category == UNSAFE):
                    own.value.setdefault(category, _moved(rule, position))


def _add_thread(policy: Node, preset: Node, position: SourcePosition) -> None:
    """Add the options of `thread` that the policy does not set, unless it joins no turns."""
    thread = preset.get(_THREAD)
    if thread is None or not isinstance(policy.value, dict):
        return
    own = policy.value.setdefault(_THREAD, Node({}, position, position))
    turns = own.get("turns")
    if isinstance(own.value, dict) and not (turns is not None and turns.value in (0, 1)):
        for option, value in thread.entries():
            own.value.setdefault(option, _moved(value, position))


def _moved(node: Node, position: SourcePosition) -> Node:
    """A copy of a scalar or mapping whose nodes all have the same position."""
    if isinstance(node.value, dict):
        return Node({key: _moved(child, position) for key, child in node.value.items()}, position, position)
    return Node(node.value, position, position)
