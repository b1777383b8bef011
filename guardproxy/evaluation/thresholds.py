"""Thresholds from labelled scores: the threshold at which a rule keeps a false-positive rate, or a recall.

Only known labels count. False positives are counted on benign rows (known to be safe as a whole, and known not to be
of the category), recall on rows known to be of the category. A threshold is refused if the rows are too few to show
that it misses its target: if none of n rows violates it, a rate over 3/n is excluded with 95 % confidence (the rule of
three), so n must be 3/target or more. Thresholds have four digits, rounded to the side that keeps the target.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from guardproxy.evaluation.metrics import RESAMPLES, Floats, Rate, interval
from guardproxy.evaluation.report import SIDES, Pair, categories_of, one_vs_benign, overall
from guardproxy.evaluation.scoring import Score
from guardproxy.policy import UNSAFE
from guardproxy.types import SIGNALS, Side

_STEPS = 10_000
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
    """The threshold of a category on a side, its bootstrap interval, and the benign and unsafe rows that reach it."""

    side: Side
    category: str
    threshold: float
    ci: tuple[float, float] | None
    benign: Rate
    unsafe: Rate


@dataclass(frozen=True, slots=True)
class NoThreshold:
    """A category without a threshold, and the reason."""

    side: Side
    category: str
    reason: str


@dataclass(frozen=True, slots=True)
class SideTotals:
    """The benign and unsafe rows of a side that reach any of its thresholds."""

    side: Side
    benign: Rate
    unsafe: Rate


def find_thresholds(pairs: Sequence[Pair], target: Target) -> list[Threshold | NoThreshold]:
    """A threshold, or the reason why there is none, for each side and each labelled category; P(unsafe) comes last.

    Signals have no threshold: they are not categories of harm, and a benign row may rightly carry a signal.

    Each rule alone keeps a recall, on the rows of its category. All rules of a side together keep a false-positive
    rate, because any of them blocks a text: each rule gets the same share of the benign rows, the largest share with
    which all of them together block no more than the target.
    """
    out: list[Threshold | NoThreshold] = []
    for side in SIDES:
        rows = [pair for pair in pairs if pair[0].check.side == side]
        if rows and target.measure == "recall":
            out += _rules(rows, side, target, target.rate)
        elif rows:
            out += _jointly(rows, side, target)
    return out


def _jointly(rows: Sequence[Pair], side: Side, target: Target) -> list[Threshold | NoThreshold]:
    """The rules with the largest equal share that keep the target together, found by bisection."""
    n = sum(row.unsafe is False for row, _ in rows)
    kept, beyond = 0, math.floor(target.rate * n + 1e-9) + 1
    while beyond - kept > 1:
        middle = (kept + beyond) // 2
        sides = side_totals(rows, _rules(rows, side, target, middle / n, resamples=0))
        if all(totals.benign.hits <= target.rate * n + 1e-9 for totals in sides):
            kept = middle
        else:
            beyond = middle
    return _rules(rows, side, target, kept / n if n else 0.0)


def _rules(
    rows: Sequence[Pair], side: Side, target: Target, rate: float, resamples: int = RESAMPLES
) -> list[Threshold | NoThreshold]:
    """Each category's rule that keeps `rate` by itself; with `resamples` 0 the rules have no intervals."""
    out: list[Threshold | NoThreshold] = []
    for category in (*(category for category in categories_of(rows) if category not in SIGNALS), UNSAFE):
        scores, labels = overall(rows) if category == UNSAFE else one_vs_benign(rows, category)
        benign, unsafe = np.sort(scores[~labels]), np.sort(scores[labels])
        counted, kind = (benign, "benign") if target.measure == "fpr" else (unsafe, "unsafe")
        if len(counted) < target.rows_needed:
            needs = f"{target.measure} {target.rate:g} needs {target.rows_needed} or more"
            out.append(NoThreshold(side, category, f"{len(counted)} {kind} rows are known; {needs}"))
            continue
        statistic = _lowest_threshold if target.measure == "fpr" else _highest_threshold
        threshold = float(statistic(counted[None, :], rate)[0])
        if not 0 < threshold <= 1:
            out.append(NoThreshold(side, category, f"too many {kind} rows have a probability of {round(threshold)}"))
            continue
        draws = _bootstrap(counted, partial(statistic, rate=rate), resamples) if resamples else None
        ci = None if draws is None else interval(draws.clip(0.0, 1.0))
        hits = [Rate(int((values >= threshold).sum()), len(values)) for values in (benign, unsafe)]
        out.append(Threshold(side, category, threshold, ci, *hits))
    return out


def side_totals(pairs: Sequence[Pair], results: Sequence[Threshold | NoThreshold]) -> list[SideTotals]:
    """For each side with thresholds, the rows that reach any of them."""
    out: list[SideTotals] = []
    for side in SIDES:
        rules = [result for result in results if isinstance(result, Threshold) and result.side == side]
        if not rules:
            continue
        rows = [(row, score) for row, score in pairs if row.check.side == side and row.unsafe is not None]
        over = [any(_probability(score, rule.category) >= rule.threshold for rule in rules) for _, score in rows]
        benign = [hit for (row, _), hit in zip(rows, over, strict=True) if not row.unsafe]
        unsafe = [hit for (row, _), hit in zip(rows, over, strict=True) if row.unsafe]
        out.append(SideTotals(side, Rate(sum(benign), len(benign)), Rate(sum(unsafe), len(unsafe))))
    return out


def _probability(score: Score, category: str) -> float:
    """The score's probability of a category; 0, which is under every threshold, if it has none."""
    return score.unsafe if category == UNSAFE else score.categories.get(category, 0.0)


def _lowest_threshold(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores, the lowest four-digit threshold that at most `rate` of them reach."""
    n = ascending.shape[1]
    return _step_above(ascending[:, n - 1 - math.floor(rate * n + 1e-9)])


def _highest_threshold(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores, the highest four-digit threshold that at least `rate` of them reach."""
    n = ascending.shape[1]
    return floor_to_step(ascending[:, n - math.ceil(rate * n - 1e-9)])


def _step_above(scores: Floats) -> Floats:
    """The lowest four-digit number above each score."""
    nearest = np.round(scores * _STEPS)
    # The division is compared with the score: a score may be a four-digit number, and the product has rounding errors.
    return np.where(nearest / _STEPS > scores, nearest, nearest + 1) / _STEPS


def floor_to_step(scores: Floats) -> Floats:
    """The highest four-digit number that is not above each score."""
    nearest = np.round(scores * _STEPS)
    return np.where(nearest / _STEPS <= scores, nearest, nearest - 1) / _STEPS


def _bootstrap(scores: Floats, statistic: Callable[[Floats], Floats], resamples: int) -> Floats:
    """The statistic of `resamples` sorted resamples of the scores, with a fixed seed."""
    n = len(scores)
    generator = np.random.default_rng(0)
    out: list[Floats] = []
    at_once = max(1, _CELLS // n)
    for start in range(0, resamples, at_once):
        draws = generator.integers(0, n, size=(min(at_once, resamples - start), n))
        out.append(statistic(np.sort(scores[draws], axis=1)))
    return np.concatenate(out)
