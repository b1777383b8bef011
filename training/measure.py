"""Scores of a trained guard: average precision with bootstrap intervals, calibration, false-positive rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.labels import CATEGORIES, OUTPUTS
from training.mixture import last_exchange, read_rows

Floats = NDArray[np.floating[Any]]


def average_precision(truth: Floats, score: Floats) -> float:
    """Area under the precision-recall curve: the sum of precision times the step in recall; ties are one step."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.diff(score[order]) != 0, True)
    hits, rank = hits[last], np.flatnonzero(last) + 1
    steps = np.diff(hits, prepend=0.0)
    return float(np.sum(steps * hits / rank) / max(hits[-1], 1.0))


def interval(truth: Floats, score: Floats, draws: int = 500, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the average precision over rows."""
    rng = np.random.default_rng(seed)
    picks = (rng.integers(0, len(truth), len(truth)) for _ in range(draws))
    values = [average_precision(truth[p], score[p]) for p in picks]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def calibration_error(truth: Floats, probability: Floats, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of the probability."""
    row_bin = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        (row_bin == b).mean() * abs(truth[row_bin == b].mean() - probability[row_bin == b].mean())
        for b in range(bins)
        if (row_bin == b).any()
    ]
    return float(np.sum(gaps))


def fit_calibration(truth: Floats, logit: Floats, weight: Floats) -> tuple[float, float]:
    """The (temperature, bias) for which sigmoid(logit / temperature + bias) has the least weighted log loss.

    The targets are moved away from 0 and 1 by an amount that depends on the number of rows, as in Platt 1999, so that
    separable rows have a finite optimum.
    """
    hits = truth.sum()
    truth = np.where(truth > 0, (hits + 1) / (hits + 2), 1 / (len(truth) - hits + 2))
    x, y, w = (torch.tensor(a, dtype=torch.float64) for a in (logit, truth, weight))
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(x * scale.exp() + bias, y, weight=w)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float((-scale).detach().exp()), float(bias.detach())


def probabilities(logits: Floats, calibration: Mapping[str, Mapping[str, float]]) -> Floats:
    """Calibrated probabilities of (texts, outputs) logits."""
    temperature = np.array([calibration[name]["temperature"] for name in OUTPUTS])
    bias = np.array([calibration[name]["bias"] for name in OUTPUTS])
    return np.asarray(1 / (1 + np.exp(-(logits / temperature + bias))))


def _measure_output(truth: list[int], score: Floats) -> dict[str, Any]:
    known = np.array(truth, dtype=float)
    low, high = interval(known, score)
    return {
        "auprc": round(average_precision(known, score), 4),
        "ci": [round(low, 4), round(high, 4)],
        "positives": int(known.sum()),
        "rows": len(truth),
    }


def measure_file(rows: Sequence[dict[str, Any]], probability: Floats) -> dict[str, Any]:
    """AUPRC of `unsafe`, of every category (1-vs-all) and of `jailbreak`; false-positive rate and recall at 0.5."""
    out: dict[str, Any] = {}
    for column, name in enumerate(OUTPUTS):
        truth = [_truth(row, name) for row in rows]
        known = [i for i, value in enumerate(truth) if value is not None]
        values = [int(truth[i] or 0) for i in known]
        if 0 < sum(values) < len(values):
            out[name] = _measure_output(values, probability[known, column])
    safe = [i for i, row in enumerate(rows) if row["unsafe"] == 0]
    if safe:
        out["false_positives_at_half"] = round(float((probability[safe, 0] >= 0.5).mean()), 4)
    unsafe = [i for i, row in enumerate(rows) if row["unsafe"] == 1]
    if unsafe:
        out["recall_at_half"] = round(float((probability[unsafe, 0] >= 0.5).mean()), 4)
    return out


def _truth(row: dict[str, Any], name: str) -> int | None:
    if name == "unsafe":
        value = row["unsafe"]
    elif name == "jailbreak":
        value = row.get("jailbreaking")
    else:
        value = row["labels"].get(name)
    return None if value is None else int(value)


def dev_rows(data: Path, names: Sequence[str] = ("*",)) -> dict[str, list[dict[str, Any]]]:
    """The rows of the sets in `data`/dev with these names, or of all."""
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in (row for name in names for row in read_rows(data / "dev", name)):
        by_set.setdefault(row["source"], []).append(row)
    return by_set


def dev_pairs(by_set: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str | None, str]]:
    """The (question, judged text) pairs of `dev_rows`, in the same order."""
    return [last_exchange(row) for rows in by_set.values() for row in rows]


def measure_dev(by_set: Mapping[str, list[dict[str, Any]]], probability: Floats) -> dict[str, Any]:
    """`measure_file` for every set, and by side for all sets together."""
    out: dict[str, Any] = {}
    start = 0
    for name, rows in by_set.items():
        out[name] = measure_file(rows, probability[start : start + len(rows)])
        start += len(rows)
    everything = [row for rows in by_set.values() for row in rows]
    for side in ("user", "assistant"):
        chosen = [i for i, row in enumerate(everything) if row["side"] == side]
        out[f"all_{side}"] = measure_file([everything[i] for i in chosen], probability[chosen])
    return out


def as_table(result: Mapping[str, Any]) -> str:
    """Lines of text for each set: AUPRC [interval] of each output, then false-positive rate and recall at 0.5."""
    lines = []
    for name, scores in result.items():
        head = f"{name:24}"
        for output in OUTPUTS:
            if output in scores:
                score = scores[output]
                lines.append(
                    f"{head} {output:22} {score['auprc']:.3f} [{score['ci'][0]:.3f}, {score['ci'][1]:.3f}]"
                    f"  {score['positives']}/{score['rows']}"
                )
        rates = [f"{k} {scores[k]:.3f}" for k in ("false_positives_at_half", "recall_at_half") if k in scores]
        lines.append(f"{head} {'  '.join(rates)}")
    return "\n".join(lines)


__all__ = [
    "CATEGORIES",
    "as_table",
    "average_precision",
    "calibration_error",
    "dev_pairs",
    "dev_rows",
    "fit_calibration",
    "measure_dev",
    "probabilities",
]
