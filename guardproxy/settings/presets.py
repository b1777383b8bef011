"""Presets: named sets of rules for the embedded guard, on which a policy can build."""

from guardproxy.policy import PRESETS, UNSAFE, PresetName
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import START, Node, SourcePosition

DEFAULT_PRESET: PresetName = "balanced"


def default_policies(preset: PresetName | None = None) -> Node:
    """The policies of a file without any: the preset's rules. Raises ConfigError if the package is damaged."""
    name = Node(preset or DEFAULT_PRESET, START, START)
    policies = Node({"default": Node({"preset": name}, START, START)}, START, START)
    apply_presets(Node({"policies": policies}, START, START))
    return policies


def apply_presets(root: Node) -> None:
    """Add the rules of its preset to every policy that names one.

    A policy's own rules of a category replace the preset's, and its `unsafe` beside the sides replaces those of both
    sides. The added rules have the position of the preset's name (`is_inherited`). An unknown name adds nothing.
    """
    policies = root.get("policies")
    for _, policy in policies.entries() if policies else []:
        chosen = policy.get("preset")
        if chosen is not None and chosen.text() in PRESETS:
            _add(policy, preset_rules(str(chosen.value)), chosen.position)


def is_inherited(policy: Node, rule: Node) -> bool:
    """Whether a rule of a policy comes from its preset."""
    preset = policy.get("preset")
    return preset is not None and rule.position == preset.position


def _add(policy: Node, preset: Node, position: SourcePosition) -> None:
    if not isinstance(policy.value, dict):
        return
    overall = policy.get(UNSAFE) is not None
    for side, rules in preset.entries():
        own = policy.value.setdefault(side, Node({}, position, position))
        if isinstance(own.value, dict):
            for category, rule in rules.entries():
                if not (overall and category == UNSAFE):
                    own.value.setdefault(category, _moved(rule, position))


def _moved(node: Node, position: SourcePosition) -> Node:
    """A copy of a scalar or mapping whose nodes all have the same position."""
    if isinstance(node.value, dict):
        return Node({key: _moved(child, position) for key, child in node.value.items()}, position, position)
    return Node(node.value, position, position)
