"""The thresholds of all rules of a side as one decision: the most unsafe rows stopped at a rate of benign rows.

`unsafe` alone comes first. A category gets a rule of its own only if that rule stops more unsafe rows at the same rate,
on rows that it was not fitted on, by more than chance: its thresholds are fitted on one half of the rows and measured
on the other half, and the other way round. The category for which this gains most comes first; then the others are
tried again beside it. A category with fewer than MIN_ROWS rows is not tried.

A rule has two thresholds, for the category and for P(unsafe), each from a coarse grid: tenths of the category's own
rows. The threshold of `unsafe` follows from them: the lowest that keeps the rate. docs/decisions/0008 has the reasons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardproxy.evaluation.metrics import Floats, Ints, Rate, rate_of
from guardproxy.evaluation.report import Pair, weights_of, with_label
from guardproxy.evaluation.steps import STEPS, floor_to_step, step_above
from guardproxy.types import SIGNALS

Bools = NDArray[np.bool_]

# A category with fewer rows has no rule of its own.
MIN_ROWS = 30
# Standard deviations of chance that the gain on held-out rows must exceed: 95 % in one direction, as only gains count.
_DEVIATIONS = 1.645
_TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True, slots=True)
class CategoryRule:
    """A rule that stops rows whose category and P(unsafe) both reach their thresholds; 0 is no condition."""

    category: str
    threshold: float
    with_unsafe: float


@dataclass(frozen=True, slots=True)
class JointFit:
    """The threshold of `unsafe`, the rules beside it, and why the other categories have no rule."""

    unsafe: float
    rules: tuple[CategoryRule, ...]
    without: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Sample:
    """P(unsafe), each category's probability, the label, the rows known to be of each category, and their weights.

    `falling` is the order of the rows by P(unsafe), the highest first.
    """

    unsafe: Floats
    categories: Mapping[str, Floats]
    harmful: Bools
    members: Mapping[str, Bools]
    weights: Floats
    falling: Ints

    def part(self, chosen: Bools) -> "_Sample":
        return _Sample(
            self.unsafe[chosen],
            {name: values[chosen] for name, values in self.categories.items()},
            self.harmful[chosen],
            {name: values[chosen] for name, values in self.members.items()},
            self.weights[chosen],
            np.argsort(-self.unsafe[chosen], kind="stable"),
        )

    def total(self, chosen: Bools) -> float:
        """How many rows the chosen ones stand for."""
        return float(self.weights[chosen].sum())

    def halves(self) -> tuple["_Sample", "_Sample"]:
        """Every second row of each label, and the others."""
        place = np.where(self.harmful, np.cumsum(self.harmful), np.cumsum(~self.harmful))
        return self.part(place % 2 == 1), self.part(place % 2 == 0)

    def reached(self, rules: Sequence[CategoryRule]) -> Bools:
        """The rows that a rule of a category stops."""
        out = np.zeros(len(self.unsafe), dtype=np.bool_)
        for rule in rules:
            out |= (self.categories[rule.category] >= rule.threshold) & (self.unsafe >= rule.with_unsafe)
        return out


def fit_jointly(pairs: Sequence[Pair], rate: float) -> JointFit:
    """The rules for the rows of a side that stop at most `rate` of the benign rows. `unsafe` is over 1 if none can."""
    sample = _sample(pairs)
    without = {
        name: f"{members.sum()} rows are known, {MIN_ROWS} or more are needed"
        for name, members in sample.members.items()
        if members.sum() < MIN_ROWS
    }
    rules: tuple[CategoryRule, ...] = ()
    while True:
        left = [name for name in sample.members if name not in {*without, *(rule.category for rule in rules)}]
        gains = {name: _held_out_gain(sample, rules, name, rate) for name in left}
        paying = [name for name in left if gains[name][0] > _DEVIATIONS * gains[name][1]]
        found = _best_rule(sample, rules, max(paying, key=lambda name: gains[name][0]), rate) if paying else None
        if found is None:
            break
        rules = _refitted(sample, (*rules, found), rate)
    for name, (gain, deviation) in gains.items():
        without[name] = f"held out, a rule of its own gains {gain:+.0f} unsafe rows; {_chance(deviation)}"
    without = {name: without[name] for name in sample.members if name in without}
    return JointFit(_unsafe_threshold(sample, rules, rate), rules, without)


def _chance(deviation: float) -> str:
    return f"by chance it could gain {_DEVIATIONS * deviation:.0f}" if deviation else "none stops more"


def held_out_totals(pairs: Sequence[Pair], categories: Sequence[str], rate: float) -> tuple[Rate, Rate]:
    """The benign and unsafe rows stopped by `unsafe` and rules for the categories, both fitted on the other half."""
    sample = _sample(pairs)
    stopped, harmful, weights = [], [], []
    for fitted, measured in (sample.halves(), sample.halves()[::-1]):
        rules: tuple[CategoryRule, ...] = ()
        for name in categories:
            found = _best_rule(fitted, rules, name, rate)
            rules = (*rules, found) if found else rules
        stopped.append(measured.reached(rules) | (measured.unsafe >= _unsafe_threshold(fitted, rules, rate)))
        harmful.append(measured.harmful)
        weights.append(measured.weights)
    hits, unsafe, each = np.concatenate(stopped), np.concatenate(harmful), np.concatenate(weights)
    return rate_of(hits[~unsafe], each[~unsafe]), rate_of(hits[unsafe], each[unsafe])


def _sample(pairs: Sequence[Pair]) -> _Sample:
    known = with_label(pairs)
    names = [name for name in dict.fromkeys(n for _, score in known for n in score.categories) if name not in SIGNALS]
    unsafe = np.array([score.unsafe for _, score in known], dtype=np.float64)
    return _Sample(
        unsafe,
        # A score without the category is under every threshold.
        {name: np.array([score.categories.get(name, -1.0) for _, score in known]) for name in names},
        np.array([bool(row.unsafe) for row, _ in known], dtype=np.bool_),
        {name: np.array([bool(row.unsafe and row.labels.get(name)) for row, _ in known]) for name in names},
        weights_of(known),
        np.argsort(-unsafe, kind="stable"),
    )


def _unsafe_threshold(sample: _Sample, rules: Sequence[CategoryRule], rate: float) -> float:
    """The lowest four-digit threshold of `unsafe` that keeps the rate beside the rules; over 1 if none does."""
    benign, reached = ~sample.harmful, sample.reached(rules)
    spare = rate * sample.total(benign) + 1e-9 - sample.total(benign & reached)
    rest = benign & ~reached
    if spare < 0:
        return math.inf
    falling = sample.falling[rest[sample.falling]]
    first = int(np.searchsorted(np.cumsum(sample.weights[falling]), spare, side="right"))
    return float(step_above(sample.unsafe[falling[first : first + 1]])[0]) if first < len(falling) else 1 / STEPS


def _stopped(sample: _Sample, rules: Sequence[CategoryRule], rate: float) -> Bools:
    """The unsafe rows that the rules stop together with `unsafe`; none if `unsafe` cannot keep the rate."""
    threshold = _unsafe_threshold(sample, rules, rate)
    if threshold > 1:
        return np.zeros(len(sample.unsafe), dtype=np.bool_)
    return sample.harmful & (sample.reached(rules) | (sample.unsafe >= threshold))


def _best_rule(sample: _Sample, rules: Sequence[CategoryRule], name: str, rate: float) -> CategoryRule | None:
    """The rule of the grid that stops most beside the rules, or None if none stops more than they do.

    By itself it may cost at most half of the rate: with more, it would leave `unsafe` nothing on other rows.
    """
    members = sample.members[name]
    best, most = None, sample.total(_stopped(sample, rules, rate))
    if not members.any():
        return None
    thresholds = np.unique(floor_to_step(np.quantile(sample.categories[name][members], _TENTHS)))[::-1]
    conditions = np.unique(floor_to_step(np.quantile(sample.unsafe[members], _TENTHS)))
    for with_unsafe in (0.0, *conditions[conditions > 0]):
        for threshold in thresholds[thresholds > 0]:
            rule = CategoryRule(name, float(threshold), float(with_unsafe))
            cost = sample.total(sample.reached([rule]) & ~sample.harmful)
            stopped = sample.total(_stopped(sample, (*rules, rule), rate))
            if stopped > most and cost <= rate * sample.total(~sample.harmful) / 2:
                best, most = rule, stopped
    return best


def _refitted(sample: _Sample, rules: tuple[CategoryRule, ...], rate: float) -> tuple[CategoryRule, ...]:
    """The rules, each fitted once more beside the others; one that no longer gains anything keeps its thresholds."""
    for place, rule in enumerate(rules):
        others = (*rules[:place], *rules[place + 1 :])
        better = _best_rule(sample, others, rule.category, rate)
        rules = (*rules[:place], better or rule, *rules[place + 1 :])
    return rules


def _held_out_gain(sample: _Sample, rules: tuple[CategoryRule, ...], name: str, rate: float) -> tuple[float, float]:
    """How many more unsafe rows a rule of the category stops, summed over both halves, and its standard deviation.

    The rule is fitted on the other half; `unsafe` keeps the rate in the measured half with the rule and without it. By
    chance, a row that only the one or the other stops is as likely to be gained as lost.
    """
    gain = variance = 0.0
    for fitted, measured in (sample.halves(), sample.halves()[::-1]):
        rule = _best_rule(fitted, rules, name, rate)
        if rule is not None:
            before, after = _stopped(measured, rules, rate), _stopped(measured, (*rules, rule), rate)
            gain += measured.total(after) - measured.total(before)
            variance += float((measured.weights[after != before] ** 2).sum())
    return gain, math.sqrt(variance)
