"""The measures equal scikit-learn's on random data, and are None if the labels do not define them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from guardproxy.evaluation.metrics import MEASURES, measure, precision_recall, reliability

# Few distinct scores make ties; both classes occur.
ROWS = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=80).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] and labels."""
    return np.array([score / 12 for score, _ in rows]), np.array([label for _, label in rows])


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_they_are_scikit_learns(rows: list[tuple[int, bool]], threshold: float) -> None:
    """Average precision, ROC-AUC and the measures at a threshold agree, ties included."""
    scores, labels = arrays(rows)
    found = measure(scores, labels, threshold, resamples=1).values
    called = scores >= threshold
    assert found["auprc"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["f1"] == pytest.approx(reference.f1_score(labels, called, zero_division=0))
    assert found["recall"] == pytest.approx(reference.recall_score(labels, called))
    assert found["fpr"] == pytest.approx(1 - reference.recall_score(~labels, ~called))
    if called.any():
        assert found["precision"] == pytest.approx(reference.precision_score(labels, called))
    else:
        assert found["precision"] is None


@settings(deadline=None)
@given(ROWS)
def test_recall_at_a_rate_of_false_positives(rows: list[tuple[int, bool]]) -> None:
    """Recall at an FPR is the highest recall among the thresholds that keep the rate."""
    scores, labels = arrays(rows)
    found = measure(scores, labels, resamples=1).values
    fpr, tpr, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    for name, rate in (("recall_at_1pct_fpr", 0.01), ("recall_at_5pct_fpr", 0.05)):
        assert found[name] == pytest.approx(tpr[fpr <= rate].max())


@given(ROWS)
def test_calibration_error_by_definition(rows: list[tuple[int, bool]]) -> None:
    """The expected calibration error is the mean gap between score and share over 15 bins of equal width."""
    scores, labels = arrays(rows)
    gaps = 0.0
    for low in range(15):
        held = np.minimum((scores * 15).astype(int), 14) == low
        if held.any():
            gaps += held.sum() * abs(scores[held].mean() - labels[held].mean())
    assert measure(scores, labels, resamples=1).values["ece"] == pytest.approx(gaps / len(rows))


def test_intervals_cover_and_repeat() -> None:
    """About 57 of 60 intervals hold the known ROC-AUC, and equal input gives equal intervals."""
    random = np.random.default_rng(7)
    truth, held = 0.760250, 0  # P(Z1 + 1 > Z0) for standard normals: Phi(1/sqrt(2))
    for _ in range(60):
        labels = random.random(300) < 0.3
        scores = 1 / (1 + np.exp(-(random.normal(size=300) + labels)))
        low, high = measure(scores, labels, resamples=300).ci["roc_auc"]
        held += low <= truth <= high
    assert held >= 52
    assert measure(scores, labels) == measure(scores, labels)


def test_more_resamples_than_fit_at_once() -> None:
    """Many rows are resampled in batches, and the interval is narrow and holds the measure."""
    random = np.random.default_rng(3)
    labels = random.random(5000) < 0.2
    scores = np.clip(random.normal(0.3 + 0.3 * labels, 0.2), 0, 1)
    found = measure(scores, labels)
    low, high = found.ci["auprc"]
    assert low < found.values["auprc"] < high
    assert high - low < 0.08


@pytest.mark.parametrize(
    ("labels", "unknown"),
    [
        ([1, 1], {"auprc", "roc_auc", "fpr", "recall_at_1pct_fpr", "recall_at_5pct_fpr"}),
        ([0, 0], set(MEASURES) - {"fpr", "ece"}),
    ],
)
def test_one_class_defines_little(labels: list[int], unknown: set[str]) -> None:
    """With only unsafe or only safe rows, a measure that needs both is None, not a meaningless number."""
    found = measure(np.array([0.9, 0.1]), np.array(labels, dtype=bool))
    assert {name for name, value in found.values.items() if value is None} == unknown
    assert all(found.ci[name] is None for name in unknown)


def test_one_row_has_no_interval() -> None:
    """A single row has measures but no intervals."""
    found = measure(np.array([0.9]), np.array([True]))
    assert (found.n, found.positives, found.values["recall"]) == (1, 1, 1.0)
    assert set(found.ci.values()) == {None}


@settings(deadline=None)
@given(ROWS)
def test_curves(rows: list[tuple[int, bool]]) -> None:
    """Precision and recall equal scikit-learn's without its added last point; every row falls into a bin."""
    scores, labels = arrays(rows)
    recall, precision = precision_recall(scores, labels)
    true_precision, true_recall, _ = reference.precision_recall_curve(labels, scores)
    assert recall == pytest.approx(true_recall[:-1][::-1])
    assert precision == pytest.approx(true_precision[:-1][::-1])
    mean, share, counts = reliability(scores, labels)
    assert counts.sum() == len(rows)
    assert (mean * counts).sum() == pytest.approx(scores.sum())
    assert (share * counts).sum() == pytest.approx(labels.sum())
