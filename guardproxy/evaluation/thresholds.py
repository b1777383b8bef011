"""Thresholds from labelled scores: the threshold at which a rule keeps a false-positive rate, or a recall.

Only known labels count. False positives are counted on benign rows (known to be safe as a whole, and known not to be
of the category), recall on rows known to be of the category. A threshold is refused if the rows are too few to show
that it misses its target: if none of n rows violates it, a rate over 3/n is excluded with 95 % confidence (the rule of
three), so n must be 3/target or more; of weighted rows the effective number counts. Thresholds have four digits,
rounded to the side that keeps the target.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from guardproxy.evaluation.joint import CategoryRule, fit_jointly, held_out_totals
from guardproxy.evaluation.metrics import (
    RESAMPLES,
    Floats,
    Rate,
    effective_rows,
    interval,
    rate_of,
    resample_counts,
)
from guardproxy.evaluation.report import (
    SIDES,
    Pair,
    categories_of,
    of_category_or_benign,
    one_vs_benign,
    overall,
    stopped,
    weights_of,
    with_category,
    with_label,
)
from guardproxy.evaluation.steps import floor_to_step, step_above
from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.types import SIGNALS, Side

# Scores sorted at once while resampling.
_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """The rate to keep: a false-positive rate (`fpr`) of at most `rate`, or a recall of at least `rate`."""

    measure: Literal["fpr", "recall"]
    rate: float

    @property
    def rows_needed(self) -> int:
        """How many rows of the kind that the rate is counted on are needed at least."""
        spare = self.rate if self.measure == "fpr" else 1 - self.rate
        return math.ceil(3 / spare - 1e-9)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold of a category on a side, its bootstrap interval, and the benign and unsafe rows that reach it.

    The rule also needs P(unsafe) of `with_unsafe` or more.
    """

    side: Side
    category: str
    threshold: float
    ci: tuple[float, float] | None
    benign: Rate
    unsafe: Rate
    with_unsafe: float = 0.0


@dataclass(frozen=True, slots=True)
class NoThreshold:
    """A category without a threshold, and the reason."""

    side: Side
    category: str
    reason: str


@dataclass(frozen=True, slots=True)
class SideTotals:
    """The benign and unsafe rows of a side that its rules stop."""

    side: Side
    benign: Rate
    unsafe: Rate


def find_thresholds(
    pairs: Sequence[Pair], target: Target, replies: Target | None = None
) -> list[Threshold | NoThreshold]:
    """A threshold, or the reason why there is none, for each side and each category; P(unsafe) comes last.

    `replies` is the target of the assistant side, if it has another. Signals have no threshold: they are not categories
    of harm, and a benign row may rightly carry a signal.

    Each rule alone keeps a recall, on the rows of its category. All rules of a side together keep a false-positive
    rate, because any of them blocks a text (`joint`).
    """
    out: list[Threshold | NoThreshold] = []
    for side in SIDES:
        rows = [pair for pair in pairs if pair[0].check.side == side]
        wanted = replies if replies is not None and side == "assistant" else target
        if rows:
            out += _separately(rows, side, wanted) if wanted.measure == "recall" else _jointly(rows, side, wanted)
    return out


def _jointly(rows: Sequence[Pair], side: Side, target: Target) -> list[Threshold | NoThreshold]:
    """The rules that keep the false-positive rate together; a category without a rule keeps to that of `unsafe`."""
    (scores, labels), weights = overall(rows), weights_of(with_label(rows))
    benign, benign_weights = scores[~labels], weights[~labels]
    if effective_rows(benign_weights) < target.rows_needed:
        return [NoThreshold(side, UNSAFE, _too_few(benign_weights, "benign", target))]
    fit = fit_jointly(rows, target.rate)
    if fit.unsafe > 1:
        return [NoThreshold(side, UNSAFE, "too many benign rows have a probability of 1")]
    out: list[Threshold | NoThreshold] = [
        Threshold(side, rule.category, rule.threshold, None, *_hits(rows, rule), rule.with_unsafe) for rule in fit.rules
    ]
    out += [NoThreshold(side, category, reason) for category, reason in fit.without.items()]
    # The share of benign rows that `unsafe` alone stops at its threshold: resampled, it gives other thresholds.
    own = rate_of(benign >= fit.unsafe, benign_weights)
    draws = _bootstrap(benign, benign_weights, partial(_lowest_threshold, rate=own.value))
    unsafe = rate_of(scores[labels] >= fit.unsafe, weights[labels])
    return [*out, Threshold(side, UNSAFE, fit.unsafe, interval(draws.clip(0.0, 1.0)), own, unsafe)]


def _hits(rows: Sequence[Pair], rule: CategoryRule) -> tuple[Rate, Rate]:
    """The benign rows that a rule stops, and the rows of its category."""
    weights = weights_of(rows)
    reached = np.array(
        [
            score.unsafe >= rule.with_unsafe and score.categories.get(rule.category, 0.0) >= rule.threshold
            for _, score in rows
        ]
    )
    benign = np.array([row.unsafe is False for row, _ in rows])
    members = np.array([bool(row.labels.get(rule.category)) for row, _ in rows])
    return rate_of(reached[benign], weights[benign]), rate_of(reached[members], weights[members])


def _separately(rows: Sequence[Pair], side: Side, target: Target) -> list[Threshold | NoThreshold]:
    """Each category's highest threshold that keeps the recall by itself."""
    out: list[Threshold | NoThreshold] = []
    for category in (*(category for category in categories_of(rows) if category not in SIGNALS), UNSAFE):
        if category == UNSAFE:
            (scores, labels), weights = overall(rows), weights_of(with_label(rows))
        else:
            scores, labels = one_vs_benign(rows, category)
            weights = weights_of(with_category(of_category_or_benign(rows, category), category))
        unsafe, unsafe_weights = scores[labels], weights[labels]
        if effective_rows(unsafe_weights) < target.rows_needed:
            out.append(NoThreshold(side, category, _too_few(unsafe_weights, "unsafe", target)))
            continue
        order = np.argsort(-unsafe, kind="stable")
        threshold = float(_highest_threshold(unsafe[order], unsafe_weights[order][None, :], target.rate)[0])
        if not 0 < threshold <= 1:
            out.append(NoThreshold(side, category, "too many unsafe rows have a probability of 0"))
            continue
        draws = _bootstrap(unsafe, unsafe_weights, partial(_highest_threshold, rate=target.rate))
        false, found = (rate_of(scores[kind] >= threshold, weights[kind]) for kind in (~labels, labels))
        out.append(Threshold(side, category, threshold, interval(draws.clip(0.0, 1.0)), false, found))
    return out


def _too_few(weights: Floats, kind: str, target: Target) -> str:
    return too_few(weights, kind, target.rows_needed, f"{target.measure} {target.rate:g}")


def too_few(weights: Floats, kind: str, needed: int, purpose: str) -> str:
    """How many rows of a kind are known, and how many more the purpose needs."""
    rows = math.floor(effective_rows(weights) + 1e-9)
    counted = f"{rows} {kind} rows are known"
    if len(weights) > rows:
        counted = f"{len(weights)} {kind} rows are known, which count as {rows} because their weights differ"
    return f"{counted}; {purpose} needs {needed} or more, so add {needed - rows}"


def side_rules(results: Sequence[Threshold | NoThreshold], side: Side) -> SideRules:
    """The rules that the thresholds of a side are."""
    return SideRules(
        {
            result.category: (Rule("block", result.threshold, with_unsafe=result.with_unsafe),)
            for result in results
            if isinstance(result, Threshold) and result.side == side
        }
    )


def side_totals(pairs: Sequence[Pair], results: Sequence[Threshold | NoThreshold]) -> list[SideTotals]:
    """For each side with thresholds, the rows that a policy with these rules stops."""
    policy = Policy("calibrated", "", side_rules(results, "user"), side_rules(results, "assistant"))
    out: list[SideTotals] = []
    for side in SIDES:
        if policy.side(side).by_category:
            rows = [pair for pair in pairs if pair[0].check.side == side]
            benign, unsafe = (
                stopped([pair for pair in rows if pair[0].unsafe is label], policy) for label in (False, True)
            )
            out.append(SideTotals(side, benign, unsafe))
    return out


def held_out(
    pairs: Sequence[Pair], results: Sequence[Threshold | NoThreshold], targets: Mapping[Side, Target]
) -> list[SideTotals]:
    """As `side_totals`, but each row meets thresholds that were fitted on the other half of the rows."""
    out: list[SideTotals] = []
    for side in SIDES:
        categories = [category for category in side_rules(results, side).by_category if category != UNSAFE]
        rows = [pair for pair in pairs if pair[0].check.side == side]
        if side_rules(results, side).by_category:
            out.append(SideTotals(side, *held_out_totals(rows, categories, targets[side].rate)))
    return out


def _lowest_threshold(falling: Floats, weights: Floats, rate: float) -> Floats:
    """For each row of `weights` (draws, n), the lowest four-digit threshold that at most `rate` of the weight reaches.

    `falling` (n,) are the scores, the highest first.
    """
    reached = np.cumsum(weights, axis=1)
    return step_above(falling[np.argmax(reached > rate * reached[:, -1:] + 1e-9, axis=1)])


def _highest_threshold(falling: Floats, weights: Floats, rate: float) -> Floats:
    """As `_lowest_threshold`, but the highest threshold that at least `rate` of the weight reaches."""
    reached = np.cumsum(weights, axis=1)
    return floor_to_step(falling[np.argmax(reached >= rate * reached[:, -1:] - 1e-9, axis=1)])


def _bootstrap(scores: Floats, weights: Floats, statistic: Callable[[Floats, Floats], Floats]) -> Floats:
    """The statistic of RESAMPLES resamples of the weighted scores, with fixed seeds."""
    order = np.argsort(-scores, kind="stable")
    out: list[Floats] = []
    at_once = max(1, _CELLS // len(scores))
    for seed, start in enumerate(range(0, RESAMPLES, at_once)):
        drawn = resample_counts(len(scores), min(at_once, RESAMPLES - start), seed)
        out.append(statistic(scores[order], drawn * weights[order]))
    return np.concatenate(out)
