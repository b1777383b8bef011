"""How to combine guards, from labelled scores: the bounds of a cascade, and the weights of a mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardproxy.errors import ConfigError
from guardproxy.evaluation.datasets import Row
from guardproxy.evaluation.metrics import Floats, Rate
from guardproxy.evaluation.scoring import Score, Scored
from guardproxy.evaluation.thresholds import step_upto
from guardproxy.policy import UNSAFE

# Rows of each kind, labelled of a category and not of it, from which on weights are fitted to it.
ROWS = 50

_ROUNDS = 500
# The least likelihood of a label, so that one row that a guard is sure and wrong of does not decide alone.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a cascade, and what it does against the dear guard alone on the same rows.

    `skipped` rows are decided by the cheap guard. `lost` unsafe rows are found by the dear guard and let go by the
    cascade, out of those that the dear one finds; `added` benign rows are called unsafe by the cascade only, out of
    all benign ones. The dear guard calls unsafe from `threshold` on.
    """

    low: float
    high: float
    threshold: float
    skipped: Rate
    lost: Rate
    added: Rate


@dataclass(frozen=True, slots=True)
class Weight:
    """The weights of one category's mean (one per guard, adding up to 1), and how well it and each guard fit.

    The fit is the mean negative log-likelihood per row, in nats: less is better.
    """

    category: str
    weights: tuple[float, ...]
    n: int
    positives: int
    loss: float
    losses: tuple[float, ...]


def bounds(cheap: Scored, dear: Scored, *, fpr: float, recall: float, threshold: float = 0.5) -> Bounds:
    """The bounds that save most while they keep `recall` of what the dear guard finds and add at most `fpr`.

    `low` is the highest bound under which at most 1 - `recall` of the unsafe rows that the dear guard finds lie;
    `high` the lowest over which there are, of all benign rows, at most `fpr` that the dear guard lets pass. Both have
    four digits. The verdict of a cheap guard that is not asked on is held against the same `threshold` as the dear
    one's, so it lies between them: what is skipped below is not called unsafe, and what is skipped above is. Raises
    ConfigError where either kind has fewer rows than 3/rate, by the rule of three.
    """
    rows = [pair for pair in _aligned([cheap, dear]) if pair[0].unsafe is not None]
    labels = np.array([bool(row.unsafe) for row, _ in rows], dtype=np.bool_)
    first = np.array([scores[0].unsafe for _, scores in rows])
    flagged = np.array([scores[1].unsafe for _, scores in rows]) >= threshold
    caught, clean = np.sort(first[labels & flagged]), np.sort(first[~labels & ~flagged])[::-1]
    benign = int((~labels).sum())
    for kind, n, spare in (
        ("unsafe rows found by the dear guard", len(caught), 1 - recall),
        ("benign rows", benign, fpr),
    ):
        needed = math.ceil(3 / spare - 1e-9)
        if n < needed:
            raise ConfigError(f"a cascade with these targets needs {needed} {kind} or more, not {n}")
    lost, allowed = math.floor((1 - recall) * len(caught) + 1e-9), math.floor(fpr * benign + 1e-9)
    low = float(min(threshold, *step_upto(caught[lost : lost + 1])))
    # Where all clean rows may be added there is none left to lie under the bound.
    high = float(max([threshold, *-step_upto(-clean[allowed : allowed + 1])]))
    skipped = (first < low) | (first > high)
    called = np.where(skipped, first >= threshold, flagged)
    return Bounds(
        low=low,
        high=high,
        threshold=threshold,
        skipped=Rate(int(skipped.sum()), len(rows)),
        lost=Rate(int((labels & flagged & ~called).sum()), len(caught)),
        added=Rate(int((~labels & ~flagged & called).sum()), benign),
    )


def weights(scored: Sequence[Scored]) -> list[Weight]:
    """The weights that fit the labels best, for P(unsafe) and for each category with ROWS rows of it and not of it.

    A category takes part where every guard has a score of it. The likelihood of a mixture of probabilities is concave
    in its weights, so expectation maximisation (Dempster, Laird and Rubin 1977) finds the best ones.
    """
    rows = _aligned(scored)
    out: list[Weight] = []
    for category in (*dict.fromkeys(category for row, _ in rows for category in row.labels), UNSAFE):
        held = [
            (label, values)
            for row, scores in rows
            if (label := _label(row, category)) is not None
            and None not in (values := [_value(score, category) for score in scores])
        ]
        labels = np.array([label for label, _ in held], dtype=np.bool_)
        if min(labels.sum(), (~labels).sum()) >= ROWS:
            probabilities = np.array([values for _, values in held], dtype=np.float64)
            out.append(_fitted(category, probabilities, labels))
    return out


def _label(row: Row, category: str) -> bool | None:
    return row.unsafe if category == UNSAFE else row.labels.get(category)


def _value(score: Score, category: str) -> float | None:
    return score.unsafe if category == UNSAFE else score.categories.get(category)


def _aligned(scored: Sequence[Scored]) -> list[tuple[Row, tuple[Score, ...]]]:
    """The rows that every guard has scored, each with the scores in the order of the guards."""
    together = zip(scored[0].rows, *(one.scores for one in scored), strict=True)
    return [(row, tuple(scores)) for row, *scores in together if None not in scores]


def _fitted(category: str, probabilities: Floats, labels: NDArray[np.bool_]) -> Weight:
    """EM over `probabilities` (rows, guards); the mean negative log-likelihood goes with the weights."""
    likelihood = np.where(labels[:, None], probabilities, 1 - probabilities).clip(_EPSILON, 1.0)
    found = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(_ROUNDS):
        share = likelihood * found
        found = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    losses = -np.log(likelihood).mean(axis=0)
    return Weight(
        category=category,
        weights=tuple(float(weight) for weight in found),
        n=len(labels),
        positives=int(labels.sum()),
        loss=float(-np.log(likelihood @ found).mean()),
        losses=tuple(float(loss) for loss in losses),
    )
