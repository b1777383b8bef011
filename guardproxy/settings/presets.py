"""Presets: named sets of rules for the embedded guard, on which a policy can build.

Their thresholds are for the guard's own probabilities. With a calibration they are calibrated too, so that a preset
decides the same.
"""

from guardproxy.calibration import Calibration, Platt
from guardproxy.policy import PRESETS, UNSAFE, PresetName
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import START, Node, SourcePosition
from guardproxy.types import Side

DEFAULT_PRESET: PresetName = "balanced"
_NONE, _NO_SHIFT = Node(None, START, START), Node(0.0, START, START)


def default_policies(preset: PresetName | None = None, guard: Node | None = None) -> Node:
    """The policies of a file without any: the preset's rules. `guard` is the section of that name.

    Raises ConfigError if the package is damaged.
    """
    name = Node(preset or DEFAULT_PRESET, START, START)
    policies = Node({"default": Node({"preset": name}, START, START)}, START, START)
    root = Node({"policies": policies} if guard is None else {"policies": policies, "guard": guard}, START, START)
    apply_presets(root)
    return policies


def apply_presets(root: Node) -> None:
    """Add the rules of its preset to every policy that names one.

    A policy's own rules of a category replace the preset's, and its `unsafe` beside the sides replaces those of both
    sides. The added rules have the position of the preset's name (`is_inherited`). An unknown name adds nothing.
    """
    policies, calibration = root.get("policies"), _calibration(root)
    for _, policy in policies.entries() if policies else []:
        chosen = policy.get("preset")
        if chosen is not None and chosen.text() in PRESETS:
            _add(policy, preset_rules(str(chosen.value)), chosen.position, calibration)


def is_inherited(policy: Node, rule: Node) -> bool:
    """Whether a rule of a policy comes from its preset."""
    preset = policy.get("preset")
    return preset is not None and rule.position == preset.position


def _calibration(root: Node) -> Calibration:
    """The maps of the guard that have numbers; any other value is reported as a mistake of its type."""
    return Calibration(**{side: _maps(root.get("guard", "calibration", side)) for side in ("user", "assistant")})


def _maps(section: Node | None) -> dict[str, Platt]:
    found: dict[str, Platt] = {}
    for category, node in section.entries() if section else []:
        slope, shift = (node.get("slope") or _NONE).number(), (node.get("shift") or _NO_SHIFT).number()
        if slope is not None and slope > 0 and shift is not None:
            found[category] = Platt(slope, shift)
    return found


def _add(policy: Node, preset: Node, position: SourcePosition, calibration: Calibration) -> None:
    if not isinstance(policy.value, dict):
        return
    overall = policy.get(UNSAFE) is not None
    for side, rules in preset.entries():
        own = policy.value.setdefault(side, Node({}, position, position))
        if isinstance(own.value, dict):
            for category, rule in rules.entries():
                if not (overall and category == UNSAFE):
                    own.value.setdefault(category, _calibrated(rule, position, calibration, side, category))


def _calibrated(rule: Node, position: SourcePosition, calibration: Calibration, side: str, category: str) -> Node:
    """A copy of a rule with calibrated thresholds, whose nodes all have the same position."""
    whose: Side = "user" if side == "user" else "assistant"
    thresholds = {
        action: calibration.value(whose, UNSAFE if action == "with_unsafe" else category, node.number() or 0.0)
        for action, node in rule.entries()
    }
    nodes = {action: Node(threshold, position, position) for action, threshold in thresholds.items()}
    return Node(nodes, position, position)
