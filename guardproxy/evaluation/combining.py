"""How to combine guards, fitted to labelled scores: the bounds of a cascade, or the weights of a mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardproxy.errors import ConfigError
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.metrics import Floats, Rate
from guardproxy.evaluation.scoring import Score, ScoredRows
from guardproxy.evaluation.steps import floor_to_step
from guardproxy.policy import UNSAFE

# Positive rows of a category, and likewise negative ones, that fitting its weights takes at least.
MIN_ROWS = 50

_ROUNDS = 500
# The least likelihood of a label: a single row on which a guard is confidently wrong must not dominate.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class CascadeBounds:
    """The bounds of a cascade, and its verdicts compared with the second guard alone on the same rows.

    `skipped`: rows that the first guard decides. `lost`: unsafe rows that the second guard finds and the cascade
    misses, out of all that the second guard finds. `added`: benign rows that only the cascade calls unsafe, out of all
    benign rows. The second guard calls a row unsafe from `threshold` on.
    """

    low: float
    high: float
    threshold: float
    skipped: Rate
    lost: Rate
    added: Rate


@dataclass(frozen=True, slots=True)
class MeanWeights:
    """The weights of a category's mean, one per guard, adding up to 1.

    `loss` of the mean and `losses` of each guard alone are mean negative log-likelihoods per row, in nats: lower is
    better.
    """

    category: str
    weights: tuple[float, ...]
    n: int
    positives: int
    loss: float
    losses: tuple[float, ...]


def bounds(
    first: ScoredRows, second: ScoredRows, *, fpr: float, recall: float, threshold: float = 0.5
) -> CascadeBounds:
    """The bounds that skip the most rows, keep `recall` of the second guard's finds and add at most `fpr`.

    `low` is the highest bound with at most 1 - `recall` of the unsafe rows that the second guard finds below it.
    `high` is the lowest bound above which the benign rows that the second guard passes are at most `fpr` of all benign
    rows. Both have four digits. The policy compares the first guard's verdict on a skipped row with the same
    `threshold` as the second guard's, so low <= threshold <= high: a row skipped below is called safe, a row skipped
    above unsafe. Raises ConfigError if either kind has fewer than 3/rate rows (the rule of three).
    """
    rows = [pair for pair in _aligned([first, second]) if pair[0].unsafe is not None]
    labels = np.array([bool(row.unsafe) for row, _ in rows], dtype=np.bool_)
    first_scores = np.array([scores[0].unsafe for _, scores in rows])
    flagged = np.array([scores[1].unsafe for _, scores in rows]) >= threshold
    caught, clean = np.sort(first_scores[labels & flagged]), np.sort(first_scores[~labels & ~flagged])[::-1]
    benign = int((~labels).sum())
    for kind, n, spare in (
        ("unsafe rows found by the second guard", len(caught), 1 - recall),
        ("benign rows", benign, fpr),
    ):
        needed = math.ceil(3 / spare - 1e-9)
        if n < needed:
            raise ConfigError(f"a cascade with these targets needs {needed} {kind} or more, not {n}")
    losable, addable = math.floor((1 - recall) * len(caught) + 1e-9), math.floor(fpr * benign + 1e-9)
    low = float(min(threshold, *floor_to_step(caught[losable : losable + 1])))
    # The slice is empty if every clean row may be added: then the threshold alone bounds `high`.
    high = float(max([threshold, *-floor_to_step(-clean[addable : addable + 1])]))
    skipped = (first_scores < low) | (first_scores > high)
    called = np.where(skipped, first_scores >= threshold, flagged)
    return CascadeBounds(
        low=low,
        high=high,
        threshold=threshold,
        skipped=Rate(int(skipped.sum()), len(rows)),
        lost=Rate(int((labels & flagged & ~called).sum()), len(caught)),
        added=Rate(int((~labels & ~flagged & called).sum()), benign),
    )


def weights(scored: Sequence[ScoredRows]) -> list[MeanWeights]:
    """The weights that fit the labels best, for P(unsafe) and each category with MIN_ROWS positives and negatives.

    A row counts for a category if every guard has a score of it. The likelihood of a mixture of probabilities is
    concave in its weights, so expectation maximisation (Dempster, Laird and Rubin 1977) finds the maximum.
    """
    rows = _aligned(scored)
    out: list[MeanWeights] = []
    for category in (*dict.fromkeys(category for row, _ in rows for category in row.labels), UNSAFE):
        known = [
            (label, values)
            for row, scores in rows
            if (label := _label(row, category)) is not None
            and None not in (values := [_probability(score, category) for score in scores])
        ]
        labels = np.array([label for label, _ in known], dtype=np.bool_)
        if min(labels.sum(), (~labels).sum()) >= MIN_ROWS:
            probabilities = np.array([values for _, values in known], dtype=np.float64)
            out.append(_fit_weights(category, probabilities, labels))
    return out


def _label(row: LabelledRow, category: str) -> bool | None:
    return row.unsafe if category == UNSAFE else row.labels.get(category)


def _probability(score: Score, category: str) -> float | None:
    return score.unsafe if category == UNSAFE else score.categories.get(category)


def _aligned(scored: Sequence[ScoredRows]) -> list[tuple[LabelledRow, tuple[Score, ...]]]:
    """The rows that every guard has scored, each with its scores in the order of the guards."""
    columns = zip(scored[0].rows, *(guard.scores for guard in scored), strict=True)
    return [(row, tuple(scores)) for row, *scores in columns if None not in scores]


def _fit_weights(category: str, probabilities: Floats, labels: NDArray[np.bool_]) -> MeanWeights:
    """Run expectation maximisation over `probabilities` (rows, guards)."""
    likelihood = np.where(labels[:, None], probabilities, 1 - probabilities).clip(_EPSILON, 1.0)
    mixture = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(_ROUNDS):
        share = likelihood * mixture
        mixture = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    losses = -np.log(likelihood).mean(axis=0)
    return MeanWeights(
        category=category,
        weights=tuple(float(weight) for weight in mixture),
        n=len(labels),
        positives=int(labels.sum()),
        loss=float(-np.log(likelihood @ mixture).mean()),
        losses=tuple(float(loss) for loss in losses),
    )
