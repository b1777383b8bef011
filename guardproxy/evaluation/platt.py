"""Platt scaling fitted to labelled scores: the map that makes a guard's probabilities the frequencies of the rows.

The logit of a probability times a slope, plus a shift, by weighted logistic regression (Platt 1999). The slope has a
normal prior around 1 with a standard deviation of 1, worth a few rows: rows that a probability separates completely
would otherwise make it infinite. The shift has none, so the mean calibrated probability is the share of unsafe rows.

A map is given only if it is shown to help: on rows that it was not fitted on (five folds), the log loss must fall by
more than two standard errors. docs/decisions/0016 has the reasons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardproxy.calibration import NEAREST, Calibration, Platt
from guardproxy.evaluation.metrics import Floats, calibration_error, effective_rows
from guardproxy.evaluation.report import (
    SIDES,
    Pair,
    categories_of,
    one_vs_all,
    overall,
    weights_of,
    with_category,
    with_label,
)
from guardproxy.evaluation.thresholds import too_few
from guardproxy.policy import UNSAFE
from guardproxy.types import SIGNALS, Side

Bools = NDArray[np.bool_]

# Rows of each kind that a map takes at least; of weighted rows the effective number.
MIN_ROWS = 30
# The largest share of a side's unsafe rows that may name no category: they could be of any.
_NAMELESS = 0.1
_FOLDS = 5
# Standard errors that the fall of the loss on held-out rows must exceed.
_ERRORS = 2.0
# A slope below this is none: the share of unsafe rows does not rise with the probability.
_LEAST_SLOPE = 0.01
_STEPS = 100


@dataclass(frozen=True, slots=True)
class PlattFit:
    """The map of a category on a side, and its calibration error and log loss (nats per row), before and after.

    Both are those of rows that the map was not fitted on. `rows` and `positives` are counts, not weights.
    """

    side: Side
    category: str
    scaling: Platt
    rows: int
    positives: int
    error: tuple[float, float]
    loss: tuple[float, float]


@dataclass(frozen=True, slots=True)
class NoFit:
    """A category without a map, and the reason."""

    side: Side
    category: str
    reason: str


def fit_calibration(pairs: Sequence[Pair]) -> list[PlattFit | NoFit]:
    """A map, or the reason why there is none, for each side and category; P(unsafe) comes first.

    `pairs` have the guard's own probabilities. Signals have no map: nobody labels them.
    """
    out: list[PlattFit | NoFit] = []
    for side in SIDES:
        rows = [pair for pair in pairs if pair[0].check.side == side]
        if not rows:
            continue
        (scores, labels), weights = overall(rows), weights_of(with_label(rows))
        out.append(_fit(side, UNSAFE, scores, labels, weights))
        if nameless := _nameless(rows):
            out.append(NoFit(side, "every category", nameless))
            continue
        for category in (name for name in categories_of(rows) if name not in SIGNALS):
            (scores, labels), weights = one_vs_all(rows, category), weights_of(with_category(rows, category))
            out.append(_fit(side, category, scores, labels, weights))
    return out


def calibration_of(results: Sequence[PlattFit | NoFit], known: Calibration) -> Calibration:
    """The maps that were found, beside those of `known` that were not found again."""
    found = [result for result in results if isinstance(result, PlattFit)]
    user, assistant = ({fit.category: fit.scaling for fit in found if fit.side == side} for side in SIDES)
    return Calibration({**known.user, **user}, {**known.assistant, **assistant})


def _nameless(rows: Sequence[Pair]) -> str:
    """Why no category of a side can have a map: too many unsafe rows name none. Empty if that is not so."""
    unsafe = [row for row, _ in rows if row.unsafe]
    without = sum(not any(row.labels.values()) for row in unsafe)
    spare = int(_NAMELESS * len(unsafe))
    if without <= spare:
        return ""
    return (
        f"{without} of {len(unsafe)} unsafe rows name no category, and {spare} may, so label {without - spare} of them "
        "with a category"
    )


def _fit(side: Side, category: str, scores: Floats, labels: Bools, weights: Floats) -> PlattFit | NoFit:
    kinds = ("unsafe", "benign") if category == UNSAFE else (category, "other")
    missing = [
        too_few(weights[chosen], kind, MIN_ROWS, "a calibration")
        for kind, chosen in zip(kinds, (labels, ~labels), strict=True)
        if effective_rows(weights[chosen]) < MIN_ROWS
    ]
    if missing:
        return NoFit(side, category, "; ".join(missing))
    slope, shift = _regressed(scores, labels, weights)
    if slope < _LEAST_SLOPE:
        return NoFit(side, category, "the share of such rows does not rise with the guard's probability")
    held_out = _held_out(scores, labels, weights)
    before, after = _losses(scores, labels), _losses(held_out, labels)
    fall, chance = _mean_and_error(before - after, weights)
    if fall <= _ERRORS * chance:
        gain = f"held out, a map {'lowers' if fall > 0 else 'raises'} the loss by {abs(fall):.4f} nats per row"
        reason = f"{gain}, and chance alone could by {_ERRORS * chance:.4f}; the guard's own probabilities stay"
        return NoFit(side, category, reason)
    return PlattFit(
        side,
        category,
        Platt(round(slope, 4), round(shift, 4)),
        len(scores),
        int(labels.sum()),
        (calibration_error(scores, labels, weights), calibration_error(held_out, labels, weights)),
        (float(np.average(before, weights=weights)), float(np.average(after, weights=weights))),
    )


def _regressed(scores: Floats, labels: Bools, weights: Floats) -> tuple[float, float]:
    """Slope and shift with the highest posterior probability, by Newton's method; the weights count as many rows."""
    each = weights * effective_rows(weights) / weights.sum()
    inside = scores.clip(NEAREST, 1 - NEAREST)
    columns = np.stack([np.log(inside) - np.log1p(-inside), np.ones(len(scores))])
    prior = np.array([1.0, 0.0])

    def cost(at: Floats) -> float:
        logits = at @ columns
        return float(each @ (np.logaddexp(0.0, logits) - labels * logits) + prior @ (at - prior) ** 2 / 2)

    found = prior
    for _ in range(_STEPS):
        expected = 0.5 * (1 + np.tanh(found @ columns / 2))
        gradient = columns @ (each * (expected - labels)) + prior * (found - prior)
        curvature = (columns * (each * expected * (1 - expected))) @ columns.T + np.diag(prior) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # The cost is convex, so some part of the step lowers it until the minimum is found.
        parts = (0.5**halvings for halvings in range(30))
        part = next((part for part in parts if cost(found - part * step) < cost(found)), 0.0)
        found = found - part * step
        if part * np.abs(step).max() < 1e-9:
            break
    return float(found[0]), float(found[1])


def _held_out(scores: Floats, labels: Bools, weights: Floats) -> Floats:
    """Each score by the map of the rows of the other folds; every fifth row of each label is in the same fold."""
    place = np.where(labels, np.cumsum(labels), np.cumsum(~labels)) % _FOLDS
    out = scores.copy()
    for fold in range(_FOLDS):
        others = place != fold
        slope, shift = _regressed(scores[others], labels[others], weights[others])
        scaling = Platt(max(slope, _LEAST_SLOPE), shift)
        out[~others] = [scaling.value(float(score)) for score in scores[~others]]
    return out


def _losses(scores: Floats, labels: Bools) -> Floats:
    """The negative log-likelihood of each label, in nats."""
    return np.asarray(-np.log(np.where(labels, scores, 1 - scores).clip(NEAREST, 1.0)), dtype=np.float64)


def _mean_and_error(values: Floats, weights: Floats) -> tuple[float, float]:
    """The weighted mean and its standard error."""
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum())
