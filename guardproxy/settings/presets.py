"""Presets: named rules for the embedded guard, and how it reads user turns, on which a policy can build.

Their thresholds are for the guard's own probabilities. With a calibration they are calibrated too, so that a preset
decides the same.
"""

from guardproxy.calibration import Calibration, Platt
from guardproxy.policy import PRESETS, UNSAFE, PresetName
from guardproxy.settings.model import EMBEDDED
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import START, Node, SourcePosition
from guardproxy.types import Side

DEFAULT_PRESET: PresetName = "balanced"
_THREAD, _SENTENCES = "thread", "sentences"
_FAMILY = "classifier"  # of the embedded guard
_OTHERS = frozenset({"all", "cascade", "by_language", "by_role"})
_NONE, _NO_SHIFT = Node(None, START, START), Node(0.0, START, START)


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
    sides. The options of `thread` and `sentences` are added if the guard is the embedded one alone: with others they
    were not measured, and they cost further checks. What is added has the position of the preset's name
    (`is_inherited`). An unknown name adds nothing.
    """
    policies, calibration = root.get("policies"), _calibration(root)
    embedded = _is_embedded(root.get("guard"))
    for _, policy in policies.entries() if policies else []:
        chosen = policy.get("preset")
        if chosen is not None and chosen.text() in PRESETS:
            preset = preset_rules(str(chosen.value))
            _add_rules(policy, preset, chosen.position, calibration)
            for section in (_THREAD, _SENTENCES) if embedded else ():
                _add_options(policy, preset, section, chosen.position, calibration)


def is_inherited(policy: Node, node: Node) -> bool:
    """Whether a rule or an option of a policy comes from its preset."""
    preset = policy.get("preset")
    return preset is not None and node.position == preset.position


def _is_embedded(guard: Node | None) -> bool:
    """Whether the section `guard` stands for the embedded guard, and for no other one beside it."""
    if guard is None:
        return True
    named = {key: node.value for key, node in guard.entries() if node.value is not None}
    of_family = named.get("family", _FAMILY) == _FAMILY
    return of_family and named.get("model", EMBEDDED) == EMBEDDED and not _OTHERS.intersection(named)


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


def _add_rules(policy: Node, preset: Node, position: SourcePosition, calibration: Calibration) -> None:
    if not isinstance(policy.value, dict):
        return
    overall = policy.get(UNSAFE) is not None
    for side, rules in preset.entries():
        if side in (_THREAD, _SENTENCES):
            continue
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


def _add_options(policy: Node, preset: Node, section: str, position: SourcePosition, calibration: Calibration) -> None:
    """Add the options of `thread` or `sentences` that the policy does not set, unless it joins no turns."""
    given = preset.get(section)
    if given is None or not isinstance(policy.value, dict):
        return
    own = policy.value.setdefault(section, Node({}, position, position))
    turns = own.get("turns")
    if isinstance(own.value, dict) and not (turns is not None and turns.value in (0, 1)):
        for option, node in given.entries():
            value = calibration.value("user", UNSAFE, node.number() or 0.0) if option == UNSAFE else node.value
            own.value.setdefault(option, Node(value, position, position))
