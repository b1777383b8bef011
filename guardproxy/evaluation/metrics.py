"""Measures of scores against labels, each with a bootstrap interval. NumPy only; tied scores share a threshold.

Average precision is sum((R_k - R_k-1) * P_k) over falling thresholds, without interpolation, as in scikit-learn; the
Llama Guard paper (arXiv:2312.06674) reports it as AUPRC. Recall at a false-positive rate is the recall of the lowest
threshold that keeps the rate. The expected calibration error has 15 bins of equal width (Guo et al. 2017,
arXiv:1706.04599). Intervals hold the middle 95 % of the measure over 1,000 resamples of the rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MEASURES = (
    "auprc",
    "roc_auc",
    "f1",
    "precision",
    "recall",
    "fpr",
    "recall_at_1pct_fpr",
    "recall_at_5pct_fpr",
    "ece",
)
BINS = 15
RESAMPLES = 1000
LEVEL = 0.95

# Quantile of the normal distribution for 95 % intervals.
_Z = 1.959964

# Numbers in memory at once while resampling: about 100 MB over all arrays.
_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures of one slice; a measure that its labels do not define is None. `ci` holds each measure's (low, high)."""

    n: int
    positives: int
    values: Mapping[str, float | None]
    ci: Mapping[str, tuple[float, float] | None]


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `n` rows, with the 95 % Wilson score interval (Wilson 1927).

    Of weighted rows, both are effective numbers (`effective_rows`), which need not be whole.
    """

    hits: float
    n: float

    @property
    def value(self) -> float:
        """The share; NaN without rows."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound; (0, 1) without rows."""
        if not self.n:
            return 0.0, 1.0
        centre = self.value + _Z**2 / (2 * self.n)
        half = _Z * math.sqrt(self.value * (1 - self.value) / self.n + _Z**2 / (4 * self.n**2))
        scale = 1 + _Z**2 / self.n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def rate_of(hits: NDArray[np.bool_], weights: Floats) -> Rate:
    """The share of hits (n,) by weight (n,); without weights other than 1, the plain counts.

    If the hits are among the rows of great weight, the share varies more than the effective number of all rows says:
    then n is the number of rows of equal weight whose share would vary as much (Korn and Graubard 1998).
    """
    if (weights == 1).all():
        return Rate(int(hits.sum()), len(hits))
    n, share = effective_rows(weights), float(weights[hits].sum() / weights.sum())
    variance = float((weights**2 * (hits - share) ** 2).sum() / weights.sum() ** 2)
    if 0 < share < 1:
        n = min(n, share * (1 - share) / variance)
    return Rate(share * n, n)


def effective_rows(weights: Floats) -> float:
    """How many rows of equal weight say as much: the square of the sum over the sum of the squares (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def measure(
    scores: Floats,
    labels: NDArray[np.bool_],
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    weights: Floats | None = None,
) -> Measured:
    """All MEASURES of `scores` (n,) in [0, 1] against `labels` (n,); a score of `threshold` or more means unsafe.

    A row counts as many times as its weight in `weights` (n,) says, each once by default.

    Undefined are: AUPRC, ROC-AUC and recall at a false-positive rate without both classes; F1, precision and recall
    without positives; the false-positive rate without negatives; precision if no row reaches the threshold. The
    resampling is seeded: equal input gives equal intervals.
    """
    ordered = _Ordered.of(scores, labels, threshold, weights)
    n = len(scores)
    point = {name: float(column[0]) for name, column in ordered.measures(ordered.weights[None, :]).items()}
    values = {name: None if np.isnan(value) else value for name, value in point.items()}
    if n < 2:
        return Measured(n, int(labels.sum()), values, dict.fromkeys(MEASURES))
    draws = _resampled(ordered, n, resamples)
    return Measured(n, int(labels.sum()), values, {name: interval(draws[name]) for name in MEASURES})


def interval(draws: Floats) -> tuple[float, float] | None:
    """The middle 95 % of `draws`; None if more than a twentieth of them are undefined."""
    known = draws[~np.isnan(draws)]
    if len(known) < LEVEL * len(draws):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resample_counts(n: int, resamples: int, seed: int = 0) -> Floats:
    """How often each of n rows is drawn when n rows are drawn with replacement; shape (resamples, n)."""
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    offsets = np.arange(resamples)[:, None] * n
    return np.bincount((draws + offsets).ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def precision_recall(scores: Floats, labels: NDArray[np.bool_], weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Recall and precision at each distinct score, in falling order; `weights` as for `measure`."""
    ordered = _Ordered.of(scores, labels, 0.5, weights)
    true, false = ordered.counts(ordered.weights[None, :])
    return true[0] / (true[0, -1] or 1.0), true[0] / (true[0] + false[0])


def reliability(
    scores: Floats, labels: NDArray[np.bool_], bins: int = BINS, weights: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Mean score, share of positives and effective rows of each non-empty bin; `weights` as for `measure`."""
    each = np.ones(len(scores)) if weights is None else weights
    row_bins = _bin(scores, bins)
    total, squares = np.bincount(row_bins, each, bins), np.bincount(row_bins, each**2, bins)
    used = total > 0
    mean = np.bincount(row_bins, scores * each, bins)[used] / total[used]
    share = np.bincount(row_bins, labels * each, bins)[used] / total[used]
    return mean, share, total[used] ** 2 / squares[used]


def calibration_error(scores: Floats, labels: NDArray[np.bool_], weights: Floats) -> float:
    """The expected calibration error alone, as in `measure`."""
    ordered = _Ordered.of(scores, labels, 0.5, weights)
    return float(ordered.expected_calibration_error(ordered.weights[None, :])[0])


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Rows by falling score.

    `ends`: the last row of each group of equal scores; `starts`: the first row of each non-empty bin; `over`: how many
    rows reach the threshold.
    """

    scores: Floats
    labels: Floats
    weights: Floats
    ends: Ints
    starts: Ints
    over: int

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[np.bool_], threshold: float, weights: Floats | None) -> "_Ordered":
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        bins = _bin(ordered, BINS)
        starts = np.append(0, np.flatnonzero(np.diff(bins)) + 1)
        over = int((ordered >= threshold).sum())
        each = np.ones(len(scores)) if weights is None else weights[order]
        return cls(ordered, labels[order].astype(np.float64), each, ends, starts, over)

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """True and false positives at each distinct score, shape (draws, thresholds), for `weights` (draws, n).

        The columns of `weights` are in the order of the scores.
        """
        true = np.cumsum(weights * self.labels, axis=1)[:, self.ends]
        false = np.cumsum(weights * (1 - self.labels), axis=1)[:, self.ends]
        return true, false

    def measures(self, weights: Floats) -> dict[str, Floats]:
        """Each measure's value per draw; NaN if it is undefined."""
        true, false = self.counts(weights)
        positives, negatives = true[:, -1], false[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = np.c_[np.zeros(len(true)), true / positives[:, None]]
            fall_out = np.c_[np.zeros(len(true)), false / negatives[:, None]]
            precision = np.nan_to_num(true / (true + false))
            at = self._at_threshold(weights, positives, negatives)
            out = {
                "auprc": (np.diff(recall) * precision).sum(axis=1),
                "roc_auc": (np.diff(fall_out) * (recall[:, 1:] + recall[:, :-1]) / 2).sum(axis=1),
                **at,
                "recall_at_1pct_fpr": np.where(fall_out <= 0.01, recall, 0).max(axis=1),
                "recall_at_5pct_fpr": np.where(fall_out <= 0.05, recall, 0).max(axis=1),
                "ece": self.expected_calibration_error(weights),
            }
        both = (positives > 0) & (negatives > 0)
        for name in ("auprc", "roc_auc", "recall_at_1pct_fpr", "recall_at_5pct_fpr"):
            out[name] = np.where(both, out[name], np.nan)
        return out

    def _at_threshold(self, weights: Floats, positives: Floats, negatives: Floats) -> dict[str, Floats]:
        called, labels = weights[:, : self.over], self.labels[: self.over]
        true, false = called @ labels, called @ (1 - labels)
        f1 = 2 * true / (true + false + positives)
        return {
            "f1": np.where(positives > 0, f1, np.nan),
            "precision": np.where(positives > 0, true / (true + false), np.nan),
            "recall": true / positives,
            "fpr": false / negatives,
        }

    def expected_calibration_error(self, weights: Floats) -> Floats:
        """The expected calibration error per draw."""
        gap = np.add.reduceat(weights * (self.scores - self.labels), self.starts, axis=1)
        return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1), dtype=np.float64)


def _bin(scores: Floats, bins: int) -> Ints:
    """The bin of each score; a score of 1 falls into the last bin."""
    return np.minimum((scores * bins).astype(np.intp), bins - 1)


def _resampled(ordered: _Ordered, n: int, resamples: int) -> dict[str, Floats]:
    """The measures over all resamples, computed in batches so that memory stays bounded."""
    at_once = max(1, _CELLS // n)
    parts: list[dict[str, Floats]] = []
    for seed, start in enumerate(range(0, resamples, at_once)):
        drawn = resample_counts(n, min(at_once, resamples - start), seed)
        parts.append(ordered.measures(drawn * ordered.weights))
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
