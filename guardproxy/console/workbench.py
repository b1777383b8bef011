"""The workbench: other thresholds, tried at once on the records that the filter selects."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Any, Final

from guardproxy.calibration import Calibration
from guardproxy.console.charts import Box, Chart, histogram
from guardproxy.console.feed import PERIODS, acting, chips
from guardproxy.console.parts import ConsoleParts, LoadedTurns
from guardproxy.console.thresholds import (
    PREFIX,
    SIDES,
    RulePlace,
    places,
    read_thresholds,
    unreachable,
    with_policy,
    with_thresholds,
    yaml_difference,
)
from guardproxy.console.visits import Page, Query, Visit, address
from guardproxy.policy import UNSAFE, Policy, PolicySet, Rule
from guardproxy.replay import (
    CHANGES,
    Change,
    Replay,
    ReplayReport,
    decide_again,
    is_unsafe,
    policy_for,
    stops,
    stored_turn,
)
from guardproxy.sinks.database import Filter, FilterError
from guardproxy.types import Side

QUERY: Final = ("of", "at", f"{PREFIX}*")
RECORDS: Final = 5_000  # the newest records that are decided again
_KEPT_S: Final = 60.0  # how long the records of a filter stay in memory while somebody moves thresholds
_KEPT: Final = 3
_ROWS: Final = 10
_WIDTH, _HEIGHT, _BINS = 300.0, 64.0, 25


@dataclass(frozen=True, slots=True)
class Slider:
    """A threshold that can be moved."""

    place: RulePlace
    rule: Rule
    value: float


@dataclass(frozen=True, slots=True)
class Panel:
    """A category with its scores and thresholds."""

    category: str
    name: str
    chart: Chart
    sliders: Sequence[Slider]
    scored: int


@dataclass(frozen=True, slots=True)
class Measure:
    """A share of labelled records with its 95 % interval; `value` is None without records."""

    hits: int
    n: int
    interval: tuple[float, float]

    @property
    def value(self) -> float | None:
        """The share."""
        return self.hits / self.n if self.n else None


async def workbench(visit: Visit) -> Page:
    """The thresholds of a policy with the scores of the records, and what would change."""
    policy, side, chosen = _chosen(visit)
    loaded = await load(visit)
    outcome = await asyncio.to_thread(compare, visit.parts, policy, chosen, loaded)
    query = _filters(visit)
    values = {
        "policy": policy,
        "policies": sorted(visit.parts.policies().policies),
        "side": side,
        "sides": SIDES,
        "panels": await asyncio.to_thread(panels, policy, side, chosen, loaded, visit.parts.categories),
        "hidden": [(place.key, value) for place, value in chosen.items() if place.side != side],
        "chips": chips(query, "/workbench"),
        "query": query,
        "periods": PERIODS,
        "result_at": address("/workbench/result"),
        "json": address("/workbench.json", visit.query),
        "csv": address("/workbench.csv", visit.query),
        **outcome,
    }
    return Page("workbench.html", values, lambda: _data(outcome), lambda: _table(outcome))


async def result(visit: Visit) -> Page:
    """What would change, as a part of the page."""
    policy, _, chosen = _chosen(visit)
    outcome = await asyncio.to_thread(compare, visit.parts, policy, chosen, await load(visit))
    return Page("workbench_result.html", outcome)


async def load(visit: Visit) -> LoadedTurns:
    """The newest records of the filter. Records that arrive later count after a minute."""
    chosen = acting(visit.filter())
    key, kept, now = json.dumps(_filters(visit)), visit.parts.kept, time.monotonic()
    for known in [name for name, loaded in kept.items() if now - loaded.at > _KEPT_S]:
        del kept[known]
    if key not in kept:
        loaded = await _read(visit, chosen, now)
        while len(kept) >= _KEPT:
            del kept[min(kept, key=lambda name: kept[name].at)]
        kept[key] = loaded
    return kept[key]


async def _read(visit: Visit, chosen: Filter, now: float) -> LoadedTurns:
    found = await visit.parts.store.recent(chosen, RECORDS)
    turns = await asyncio.to_thread(lambda: [stored_turn(number, fields) for number, fields in found])
    given = await visit.parts.store.labels([turn.id for turn in turns])
    return LoadedTurns(turns, {name: labels[-1].kind for name, labels in given.items()}, now)


def _chosen(visit: Visit) -> tuple[Policy, Side, dict[RulePlace, float]]:
    policies = visit.parts.policies().policies
    name, side = visit.value("of", "default"), visit.value("at", "user")
    if name not in policies:
        raise FilterError("of", f"there is no policy {name!r}; there are {', '.join(sorted(policies))}")
    if side not in SIDES:
        raise FilterError("at", f"{side!r} is no side; choose {' or '.join(SIDES)}")
    policy = policies[name]
    try:
        return policy, "user" if side == "user" else "assistant", read_thresholds(policy, visit.query)
    except ValueError as error:
        raise FilterError("threshold", str(error)) from None


def _filters(visit: Visit) -> Query:
    return {
        key: values
        for key, values in visit.query.items()
        if key not in ("of", "at", "before", "after") and not key.startswith(PREFIX)
    }


# --- what would change -----------------------------------------------------------------------------------------------


def compare(
    parts: ConsoleParts, policy: Policy, chosen: Mapping[RulePlace, float], loaded: LoadedTurns
) -> dict[str, Any]:
    """Decide the records again under the policy with its new thresholds, and compare with the one in force.

    Both sides of the comparison are decided again: otherwise what changed in the configuration since would count too.
    """
    now, new = parts.policies(), with_policy(parts.policies(), with_thresholds(policy, chosen))
    before = _decided(now, loaded)
    turns = [turn._replace(decision=before[turn.number]) if turn.number in before else turn for turn in loaded.turns]
    # The label speaks of the decision of then, so `labels` count here and not in the replay.
    replay = Replay(new, {}, rows=_ROWS)
    for turn in turns:
        replay.add(turn)
    report = replay.report()
    yaml, difference = yaml_difference(policy, with_thresholds(policy, chosen), chosen) if chosen else ([], [])
    return {
        "report": report,
        "changes": _changes(report),
        "measured": _measured(parts, loaded, before, _decided(new, loaded)),
        "labelled": len(loaded.labels),
        "records": len(loaded.turns),
        "capped": len(loaded.turns) == RECORDS,
        "changed": sorted(chosen.items(), key=lambda item: item[0].key),
        "unreachable": unreachable(with_thresholds(policy, chosen)),
        "yaml": "\n".join(yaml),
        "difference": difference,
    }


def _decided(policies: PolicySet, loaded: LoadedTurns) -> dict[int, Any]:
    """The decision of these policies about every record that has a verdict."""
    found: dict[int, Any] = {}
    known: dict[tuple[str, str, str], Policy] = {}
    for turn in loaded.turns:
        if turn.shadow or turn.failed:
            continue
        key = (turn.route, turn.model, turn.client)
        if key not in known:
            known[key] = policy_for(policies, *key).policy
        found[turn.number] = decide_again(known[key], turn)
    return found


def _changes(report: ReplayReport) -> dict[Change, int]:
    counted: dict[Change, int] = dict.fromkeys(CHANGES, 0)
    for group, number in report.changes.items():
        counted[group.change] += number
    return counted


def _measured(
    parts: ConsoleParts, loaded: LoadedTurns, before: Mapping[int, Any], after: Mapping[int, Any]
) -> dict[str, Any]:
    """Precision and recall of what is stopped, by the labels, now and with the new thresholds."""
    measured: dict[str, Any] = {}
    for name, decisions in (("now", before), ("new", after)):
        hits = stopped = unsafe = 0
        for turn in loaded.turns:
            kind = loaded.labels.get(turn.id)
            if kind is None or kind == "none" or turn.number not in decisions:
                continue
            bad, stop = is_unsafe(kind, turn.decision), stops(decisions[turn.number])
            hits, stopped, unsafe = hits + (bad and stop), stopped + stop, unsafe + bad
        measured[name] = {
            "precision": Measure(hits, stopped, parts.interval(hits, stopped)),
            "recall": Measure(hits, unsafe, parts.interval(hits, unsafe)),
        }
    return measured


# --- the scores ------------------------------------------------------------------------------------------------------


def panels(
    policy: Policy, side: Side, chosen: Mapping[RulePlace, float], loaded: LoadedTurns, names: Mapping[str, str]
) -> list[Panel]:
    """The categories of a side that have a rule, the overall probability first."""
    rules = {place: rule for place, rule in places(policy).items() if place.side == side}
    categories = sorted({place.category for place in rules}, key=lambda name: (name != UNSAFE, name))
    found: list[Panel] = []
    for category in categories:
        scores = _scores(loaded, policy.calibration, side, category, set(categories))
        sliders = [
            Slider(place, rule, chosen.get(place, rule.threshold))
            for place, rule in rules.items()
            if place.category == category
        ]
        title = (
            "P(unsafe), over all categories" if category == UNSAFE else names.get(category, category.replace("_", " "))
        )
        if category == "*":
            title = "every other category"
        found.append(Panel(category, title, _bars(scores), sliders, sum(map(len, scores.values()))))
    return found


def _scores(
    loaded: LoadedTurns, calibration: Calibration, side: Side, category: str, named: set[str]
) -> dict[str, list[float]]:
    """The scores of the records of a side by what their label says of the decision: `right`, `wrong`, `unlabelled`."""
    scores: dict[str, list[float]] = {"wrong": [], "right": [], "unlabelled": []}
    for turn in loaded.turns:
        if turn.side != side or turn.verdict is None or turn.shadow:
            continue
        verdict = calibration.applied(side, turn.verdict)
        if category == UNSAFE:
            score: float | None = verdict.unsafe
        elif category == "*":
            others = [finding.probability for finding in verdict.findings if finding.category not in named]
            score = max(others, default=None)
        else:
            own = [finding.probability for finding in verdict.findings if finding.category == category]
            score = max(own, default=None)
        if score is not None:
            label = loaded.labels.get(turn.id)
            kind = "unlabelled" if label is None or label == "none" else "right" if label == "correct" else "wrong"
            scores[kind].append(score)
    return scores


def _bars(scores: Mapping[str, Sequence[float]]) -> Chart:
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


# --- other forms -----------------------------------------------------------------------------------------------------


def _data(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "records": outcome["records"],
        "changes": outcome["changes"],
        "labelled": outcome["labelled"],
        **{
            name: {key: {"hits": one.hits, "n": one.n, "ci": list(one.interval)} for key, one in measures.items()}
            for name, measures in outcome["measured"].items()
        },
        "thresholds": [{"rule": place.key.removeprefix(PREFIX), "value": value} for place, value in outcome["changed"]],
        "yaml": outcome["yaml"],
        "rows": [
            {"id": row.turn.id, "change": row.change, "before": row.turn.decision.action, "after": row.after.action}
            for rows in outcome["report"].rows.values()
            for row in rows
        ],
    }


def _table(outcome: Mapping[str, Any]) -> list[Sequence[Any]]:
    rows = [row for found in outcome["report"].rows.values() for row in found]
    head = ["number", "id", "side", "change", "before", "after", "categories", "text"]
    return [
        head,
        *(
            [
                *(row.turn.number, row.turn.id, row.turn.side, row.change, row.turn.decision.action, row.after.action),
                " ".join(row.after.categories),
                row.turn.text,
            ]
            for row in rows
        ),
    ]
