"""The panels of the workbench: a category's scores, its thresholds as fields, and what can be added to it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Final
from urllib.parse import quote

from guardproxy.calibration import Calibration
from guardproxy.console.charts import Box, Chart, histogram
from guardproxy.console.parts import LoadedTurns
from guardproxy.console.thresholds import (
    ACTION_PARTS,
    NUMBERS,
    OWN,
    CategoryRules,
    Edits,
    Part,
    Place,
    key_of,
    number,
    query_of_edits,
    rules_of,
)
from guardproxy.policy import ANY, UNSAFE, Policy
from guardproxy.toolviews import is_of_tool
from guardproxy.types import SIGNALS, Side

_WIDTH, _HEIGHT, _BINS = 300.0, 64.0, 25
_WORDS: Final[Mapping[Part, str]] = {
    "flag": "flag from",
    "rewrite": "rewrite from",
    "block": "block from",
    "with_unsafe": "needs P(unsafe) from",
    "rewrite_with_unsafe": "rewrite needs P(unsafe) from",
}
_ADDED: Final[Mapping[Part, str]] = {
    "flag": "flag",
    "rewrite": "rewrite",
    "block": "block",
    "with_unsafe": "condition on P(unsafe)",
    "rewrite_with_unsafe": "condition of the rewrite",
}


@dataclass(frozen=True, slots=True)
class ThresholdField:
    """A threshold that can be moved. `value` is what its field shows, `now` what the policy in force has, or nothing.

    `at` is where the threshold stands in the histogram, None for a condition, which is about another probability.
    """

    key: str
    id: str
    part: Part
    words: str
    value: str
    now: str
    at: float | None
    mistake: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A category with its scores and thresholds.

    `own`: it has rules of its own; without, it follows "*" if `follows`. `how` is the rewrite's name and the one in
    force, empty without a rewrite. `missing` are what can be added, each with its key and its words.
    """

    category: str
    name: str
    id: str
    chart: Chart
    scored: int
    counted: str
    fields: Sequence[ThresholdField]
    how: tuple[str, str, str] | None
    missing: Sequence[tuple[str, str]]
    own: bool
    follows: bool
    own_key: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Panels:
    """The panels of a side; `hidden` are the changes that no field of theirs shows."""

    ruled: Sequence[Panel]
    others: Sequence[Panel]
    hidden: Sequence[tuple[str, str]]


def panels(policy: Policy, side: Side, edits: Edits, loaded: LoadedTurns, names: Mapping[str, str]) -> Panels:
    """The categories of a side: those with rules, the overall probability first, and those that could have some."""
    now = rules_of(policy)
    new = {**now, **edits.rules}
    own = {category: rules for (of, category), rules in new.items() if of == side and rules is not None}
    known = {UNSAFE, ANY, *names, *own, *(category for of, category in now if of == side), *_seen(loaded, side)}
    found = [
        _panel(
            (side, category),
            own,
            now.get((side, category)),
            edits,
            scores_of(loaded, policy.calibration, side, category, set(own), tools=policy.tool is None),
            name=name_of(category, names),
        )
        for category in sorted(known, key=lambda name: (name != UNSAFE, name == ANY, names.get(name, name)))
    ]
    shown = {field.key for panel in found for field in panel.fields} | {
        panel.how[0] for panel in found if panel.how is not None
    }
    hidden = [(key, values[-1]) for key, values in query_of_edits(policy, edits).items() if key not in shown]
    return Panels([panel for panel in found if panel.own], [panel for panel in found if not panel.own], hidden)


def panel_id(place: Place) -> str:
    """The id of the element of a category's panel."""
    return f"p-{quote(key_of(place, ''), safe='')}"


def field_id(key: str) -> str:
    """The id of the field of a threshold."""
    return f"n-{quote(key, safe='')}"


def name_of(category: str, names: Mapping[str, str]) -> str:
    """A category's name for people."""
    if category == UNSAFE:
        return "P(unsafe), over all categories"
    return "Every other category" if category == ANY else names.get(category, category.replace("_", " "))


def _panel(
    place: Place,
    own: Mapping[str, CategoryRules],
    before: CategoryRules | None,
    edits: Edits,
    scores: Mapping[str, Sequence[float]],
    *,
    name: str,
) -> Panel:
    category = place[1]
    rules = own.get(category)
    shown = rules or CategoryRules()
    offered = [part for part in NUMBERS if _fits(part, category, shown)]
    every = sorted(score for values in scores.values() for score in values)
    half = sum(score >= 0.5 for score in every)
    return Panel(
        category,
        name,
        panel_id(place),
        bars(scores),
        len(every),
        f"{len(every):,} scores, {half:,} of them 0.5 or more"
        + "".join(f", {len(scores[kind]):,} labelled {kind}" for kind in ("wrong", "right") if scores[kind]),
        [_field(place, part, shown, before, edits) for part in offered if getattr(shown, part) is not None],
        (key_of(place, "how"), shown.how, before.how if before and before.rewrite is not None else "")
        if shown.rewrite is not None
        else None,
        [(key_of(place, part), _ADDED[part]) for part in offered if getattr(shown, part) is None],
        rules is not None,
        ANY in own and category not in (UNSAFE, ANY, *SIGNALS),
        key_of(place, OWN),
        place in edits.rules,
    )


def _fits(part: Part, category: str, rules: CategoryRules) -> bool:
    """Whether a category may have a part: a condition needs an action, and P(unsafe) itself has none."""
    if part in ACTION_PARTS:
        return True
    if part == "with_unsafe":
        return category != UNSAFE and bool(rules.rules())
    both = rules.rewrite is not None and (rules.flag is not None or rules.block is not None)
    return category != UNSAFE and (both or rules.rewrite_with_unsafe is not None)


def _field(
    place: Place, part: Part, rules: CategoryRules, before: CategoryRules | None, edits: Edits
) -> ThresholdField:
    key, value, now = key_of(place, part), getattr(rules, part), getattr(before, part) if before else None
    return ThresholdField(
        key,
        field_id(key),
        part,
        _WORDS[part],
        edits.unreadable.get(key, number(value)),
        "" if now is None else number(now),
        value if part in ACTION_PARTS else None,
        edits.mistakes.get(key, ""),
    )


def _seen(loaded: LoadedTurns, side: Side) -> set[str]:
    """The categories that records of a side have a score of."""
    return {
        finding.category
        for turn in loaded.turns
        if turn.side == side and turn.verdict is not None
        for finding in turn.verdict.findings
    }


def scores_of(
    loaded: LoadedTurns,
    calibration: Calibration,
    side: Side,
    category: str,
    named: Collection[str],
    *,
    tools: bool = True,
) -> dict[str, list[float]]:
    """The scores of the records of a side by what their label says of the decision: `right`, `wrong`, `unlabelled`.

    "*" has the highest score of the categories that are not `named`. What was found in the results of tools counts with
    `tools`; it does not if the policy has rules of its own for these.
    """
    scores: dict[str, list[float]] = {"wrong": [], "right": [], "unlabelled": []}
    for turn in loaded.turns:
        if turn.side != side or turn.verdict is None or turn.shadow:
            continue
        verdict = calibration.applied(side, turn.verdict)
        findings = [finding for finding in verdict.findings if tools or not is_of_tool(finding.view)]
        own = [finding.probability for finding in findings if finding.category == category]
        if category == UNSAFE:
            own.append(verdict.unsafe)
        elif category == ANY:
            own = [one.probability for one in findings if one.category not in named and one.category != UNSAFE]
        score = max(own, default=None)
        if score is not None:
            label = loaded.labels.get(turn.id)
            kind = "unlabelled" if label is None or label == "none" else "right" if label == "correct" else "wrong"
            scores[kind].append(score)
    return scores


def bars(scores: Mapping[str, Sequence[float]]) -> Chart:
    """A histogram whose heights are logarithms: most scores lie near 0, the interesting ones are few."""
    counted = histogram(scores, _BINS)
    most = max((sum(counts[at] for counts in counted.values()) for at in range(_BINS)), default=0)
    boxes: list[Box] = []
    step = _WIDTH / _BINS
    for at in range(_BINS):
        total = sum(counts[at] for counts in counted.values())
        y, full = _HEIGHT, _HEIGHT * log1p(total) / log1p(most) if most else 0.0
        for kind, counts in counted.items():
            if counts[at]:
                size = full * counts[at] / total
                y -= size
                title = f"{at / _BINS:.2f} to {(at + 1) / _BINS:.2f}: {counts[at]:,} {kind}"
                boxes.append(Box(at * step, y, step - 1, size, kind, title))
    return Chart(_WIDTH, _HEIGHT, boxes)
