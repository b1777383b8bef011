"""Curves as a picture: precision against recall, and the share of unsafe rows against the probability, with intervals.

Needs Matplotlib, which the extra `eval` installs.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from guardproxy.errors import ConfigError
from guardproxy.evaluation.metrics import Rate, precision_recall, reliability
from guardproxy.evaluation.report import overall, pairs_of, weights_of, with_label
from guardproxy.evaluation.scoring import ScoredRows


def plot(scored: Mapping[str, ScoredRows], path: Path) -> None:
    """Write both curves of every guard to `path`, in the format of its ending (png, svg, pdf).

    All rows with an overall label count. Raises ConfigError if the file cannot be written or the rows lack unsafe or
    safe rows.
    """
    try:
        drawn(scored, path).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def drawn(scored: Mapping[str, ScoredRows], path: Path) -> Figure:
    """The figure that `plot` writes; the area under its precision-recall curve is the average precision."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rows in scored.items():
        pairs = with_label(pairs_of(rows))
        (scores, labels), weights = overall(pairs), weights_of(pairs)
        if labels.all() or not labels.any():
            raise ConfigError(f"{path}: curves need both unsafe and safe rows; add rows of the missing kind")
        recall, precision = precision_recall(scores, labels, weights)
        # Without interpolation, a precision holds for the recalls up to its own; so the area is the average precision.
        left.step([0.0, *recall], [precision[0], *precision], where="pre", label=name)
        mean, share, effective = reliability(scores, labels, weights=weights)
        bounds = [Rate(part * n, n).interval for part, n in zip(share, effective, strict=True)]
        # A share of 0 or 1 is at the end of its interval; rounding must not put it outside.
        errors = [
            [max(0.0, part - low), max(0.0, high - part)] for part, (low, high) in zip(share, bounds, strict=True)
        ]
        right.errorbar(mean, share, yerr=np.transpose(errors), marker="o", capsize=3, elinewidth=1, label=name)
        base = float(weights[labels].sum() / weights.sum())
    left.axhline(base, color="grey", linestyle=":", label="share of unsafe rows")
    right.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    left.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="probability", ylabel="share unsafe", title="Reliability", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    return figure
