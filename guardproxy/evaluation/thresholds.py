"""Thresholds from labelled scores: where a rule meets a rate of false positives, or of recall.

Only known labels count. False positives are counted on benign rows (known to be safe as a whole, and known not to be
of the category), recall on rows known to be of it. A threshold is refused where the rows could not show that it misses
its target: with none of n rows against it, a rate over 3/n is excluded with 95 % confidence (the rule of three), so
n must be 3/target or more. Thresholds have four digits, rounded to the side that keeps the target.
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
    """The rate to keep: at most `rate` false positives (`fpr`), or at least `rate` of the unsafe rows (`recall`)."""

    measure: Literal["fpr", "recall"]
    rate: float

    @property
    def needed(self) -> int:
        """Rows of the kind that the rate is counted on, at least."""
        spare = self.rate if self.measure == "fpr" else 1 - self.rate
        return math.ceil(3 / spare - 1e-9)


@dataclass(frozen=True, slots=True)
class Found:
    """The threshold of a category on a side, its bootstrap interval, and what it does to the rows."""

    side: Side
    category: str
    threshold: float
    ci: tuple[float, float] | None
    benign: Rate
    unsafe: Rate


@dataclass(frozen=True, slots=True)
class Refused:
    """A category for which no threshold can be stated, and why."""

    side: Side
    category: str
    why: str


@dataclass(frozen=True, slots=True)
class Together:
    """What all thresholds of a side do together: rows over any of them, benign and unsafe ones."""

    side: Side
    benign: Rate
    unsafe: Rate


def search(pairs: Sequence[Pair], target: Target) -> list[Found | Refused]:
    """A threshold, or why there is none, for each side and each category that has labels, P(unsafe) last.

    Signals are no categories of harm, and a benign row may rightly carry one, so they have none.

    A recall is kept by each rule alone, on the rows of its category. A rate of false positives is kept by all rules
    of a side together, because a text is blocked by any of them: each rule gets the same share of the benign rows, the
    largest with which all of them do not block more than the target.
    """
    out: list[Found | Refused] = []
    for side in SIDES:
        rows = [pair for pair in pairs if pair[0].check.side == side]
        if rows and target.measure == "recall":
            out += _rules(rows, side, target, target.rate)
        elif rows:
            out += _jointly(rows, side, target)
    return out


def _jointly(rows: Sequence[Pair], side: Side, target: Target) -> list[Found | Refused]:
    """The rules with the largest share each that keep the target together, found by halving the range."""
    n = sum(row.unsafe is False for row, _ in rows)
    kept, beyond = 0, math.floor(target.rate * n + 1e-9) + 1
    while beyond - kept > 1:
        tried = (kept + beyond) // 2
        sides = together(rows, _rules(rows, side, target, tried / n, resamples=0))
        if all(one.benign.hits <= target.rate * n + 1e-9 for one in sides):
            kept = tried
        else:
            beyond = tried
    return _rules(rows, side, target, kept / n if n else 0.0)


def _rules(
    rows: Sequence[Pair], side: Side, target: Target, rate: float, resamples: int = RESAMPLES
) -> list[Found | Refused]:
    """The rule of each category that keeps `rate` by itself; without resamples they have no intervals."""
    out: list[Found | Refused] = []
    for category in (*(one for one in categories_of(rows) if one not in SIGNALS), UNSAFE):
        scores, labels = overall(rows) if category == UNSAFE else one_vs_benign(rows, category)
        benign, unsafe = np.sort(scores[~labels]), np.sort(scores[labels])
        counted, kind = (benign, "benign") if target.measure == "fpr" else (unsafe, "unsafe")
        if len(counted) < target.needed:
            needs = f"{target.measure} {target.rate:g} needs {target.needed} or more"
            out.append(Refused(side, category, f"{len(counted)} {kind} rows are known; {needs}"))
            continue
        place = _over if target.measure == "fpr" else _under
        threshold = float(place(counted[None, :], rate)[0])
        if not 0 < threshold <= 1:
            out.append(Refused(side, category, f"too many {kind} rows have a probability of {round(threshold)}"))
            continue
        draws = _bootstrap(counted, partial(place, rate=rate), resamples) if resamples else None
        ci = None if draws is None else interval(draws.clip(0.0, 1.0))
        hits = [Rate(int((values >= threshold).sum()), len(values)) for values in (benign, unsafe)]
        out.append(Found(side, category, threshold, ci, *hits))
    return out


def together(pairs: Sequence[Pair], found: Sequence[Found | Refused]) -> list[Together]:
    """For each side with thresholds, the rows that any of its rules would act on."""
    out: list[Together] = []
    for side in SIDES:
        rules = [one for one in found if isinstance(one, Found) and one.side == side]
        if not rules:
            continue
        rows = [(row, score) for row, score in pairs if row.check.side == side and row.unsafe is not None]
        over = [any(_value(score, rule.category) >= rule.threshold for rule in rules) for _, score in rows]
        benign = [hit for (row, _), hit in zip(rows, over, strict=True) if not row.unsafe]
        unsafe = [hit for (row, _), hit in zip(rows, over, strict=True) if row.unsafe]
        out.append(Together(side, Rate(sum(benign), len(benign)), Rate(sum(unsafe), len(unsafe))))
    return out


def _value(score: Score, category: str) -> float:
    """The score's probability of a category; one that it does not hold is under every threshold."""
    return score.unsafe if category == UNSAFE else score.categories.get(category, 0.0)


def _over(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores the lowest threshold, in steps, that at most `rate` of them reach."""
    n = ascending.shape[1]
    return step_above(ascending[:, n - 1 - math.floor(rate * n + 1e-9)])


def _under(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores the highest threshold, in steps, that at least `rate` of them reach."""
    n = ascending.shape[1]
    return step_upto(ascending[:, n - math.ceil(rate * n - 1e-9)])


def step_above(scores: Floats) -> Floats:
    """The lowest number of four digits above each score. Compared, not computed: a score may be such a number."""
    nearest = np.round(scores * _STEPS)
    return np.where(nearest / _STEPS > scores, nearest, nearest + 1) / _STEPS


def step_upto(scores: Floats) -> Floats:
    """The highest number of four digits that is not above each score."""
    nearest = np.round(scores * _STEPS)
    return np.where(nearest / _STEPS <= scores, nearest, nearest - 1) / _STEPS


def _bootstrap(scores: Floats, statistic: Callable[[Floats], Floats], resamples: int) -> Floats:
    """The statistic of sorted resamples of the scores, seeded."""
    n = len(scores)
    generator = np.random.default_rng(0)
    out: list[Floats] = []
    at_once = max(1, _CELLS // n)
    for start in range(0, resamples, at_once):
        draws = generator.integers(0, n, size=(min(at_once, resamples - start), n))
        out.append(statistic(np.sort(scores[draws], axis=1)))
    return np.concatenate(out)
