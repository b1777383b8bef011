"""Thresholds from labelled scores: where a rule meets a rate of false positives, or of recall.

Only known labels count. False positives are counted on benign rows (known to be safe as a whole, and known not to be
of the category), recall on rows known to be of it. A threshold is refused where the rows could not show that it misses
its target: with none of n rows against it, a rate over 3/n is excluded with 95 % confidence (the rule of three), so
n must be 3/target or more. Thresholds have four digits, rounded to the side that keeps the target.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from guardproxy.evaluation.metrics import RESAMPLES, Floats, interval
from guardproxy.evaluation.report import SIDES, Pair, categories_of, one_vs_benign, overall
from guardproxy.evaluation.scoring import Score
from guardproxy.policy import UNSAFE
from guardproxy.types import Side

_STEP = 1e-4
# Scores sorted at once while resampling.
_CELLS = 4_000_000
# Quantile of the normal distribution for 95 % intervals.
_Z = 1.959964


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
class Rate:
    """`hits` of `n` rows, with the 95 % Wilson score interval (Wilson 1927)."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share; NaN of no rows."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound; all of [0, 1] where there are no rows."""
        if not self.n:
            return 0.0, 1.0
        centre = self.value + _Z**2 / (2 * self.n)
        half = _Z * math.sqrt(self.value * (1 - self.value) / self.n + _Z**2 / (4 * self.n**2))
        scale = 1 + _Z**2 / self.n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


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
    """A threshold, or why there is none, for each side and each category that has labels, P(unsafe) last."""
    out: list[Found | Refused] = []
    for side in SIDES:
        rows = [pair for pair in pairs if pair[0].check.side == side]
        categories = (*categories_of(rows), UNSAFE) if rows else ()
        out += [_one(rows, side, category, target) for category in categories]
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


def _one(rows: Sequence[Pair], side: Side, category: str, target: Target) -> Found | Refused:
    scores, labels = overall(rows) if category == UNSAFE else one_vs_benign(rows, category)
    benign, unsafe = np.sort(scores[~labels]), np.sort(scores[labels])
    counted, kind = (benign, "benign") if target.measure == "fpr" else (unsafe, "unsafe")
    if len(counted) < target.needed:
        why = f"{len(counted)} {kind} rows are known; {target.measure} {target.rate:g} needs {target.needed} or more"
        return Refused(side, category, why)
    place = _over if target.measure == "fpr" else _under
    threshold = float(place(counted[None, :], target.rate)[0])
    if not 0 < threshold <= 1:
        why = f"more than {target.rate:g} of {len(benign)} benign rows have a probability of 1"
        if threshold <= 0:
            why = f"under {target.rate:g} of {len(unsafe)} unsafe rows have a probability over 0"
        return Refused(side, category, why)
    return Found(
        side=side,
        category=category,
        threshold=threshold,
        ci=interval(np.clip(_bootstrap(counted, lambda draws: place(draws, target.rate)), 0.0, 1.0)),
        benign=Rate(int((benign >= threshold).sum()), len(benign)),
        unsafe=Rate(int((unsafe >= threshold).sum()), len(unsafe)),
    )


def _over(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores the lowest threshold, in steps, that at most `rate` of them reach."""
    n = ascending.shape[1]
    highest_kept_out = ascending[:, n - 1 - math.floor(rate * n + 1e-9)]
    return np.round((np.floor(highest_kept_out / _STEP) + 1) * _STEP, 4)


def _under(ascending: Floats, rate: float) -> Floats:
    """For each row of sorted scores the highest threshold, in steps, that at least `rate` of them reach."""
    n = ascending.shape[1]
    lowest_kept = ascending[:, n - math.ceil(rate * n - 1e-9)]
    return np.round(np.floor(lowest_kept / _STEP) * _STEP, 4)


def _bootstrap(scores: Floats, statistic: Callable[[Floats], Floats]) -> Floats:
    """The statistic of RESAMPLES sorted resamples of the scores, seeded."""
    n = len(scores)
    generator = np.random.default_rng(0)
    out: list[Floats] = []
    at_once = max(1, _CELLS // n)
    for start in range(0, RESAMPLES, at_once):
        draws = generator.integers(0, n, size=(min(at_once, RESAMPLES - start), n))
        out.append(statistic(np.sort(scores[draws], axis=1)))
    return np.concatenate(out)
