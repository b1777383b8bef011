"""Curves as a picture: precision against recall, and how often a probability comes true.

Needs Matplotlib, which comes with the extra `eval`.
"""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from guardproxy.errors import ConfigError
from guardproxy.evaluation.metrics import precision_recall, reliability
from guardproxy.evaluation.report import overall, pairs_of
from guardproxy.evaluation.scoring import Scored


def plot(scored: Mapping[str, Scored], path: Path) -> None:
    """Write both curves of every guard to `path`, in the format that its ending says (png, svg, pdf).

    Guards are judged on all rows with an overall label. Raises ConfigError where the file cannot be written
    or the rows are not of both kinds.
    """
    try:
        drawn(scored, path).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def drawn(scored: Mapping[str, Scored], path: Path) -> Figure:
    """Both curves, as `plot` writes them; the area under a precision-recall curve is the average precision."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, found in scored.items():
        scores, labels = overall(pairs_of(found))
        if labels.all() or not labels.any():
            raise ConfigError(f"{path}: curves need rows that are unsafe and rows that are not")
        recall, precision = precision_recall(scores, labels)
        # A precision is that of the recalls up to its own.
        left.step([0.0, *recall], [precision[0], *precision], where="pre", label=name)
        mean, share, _ = reliability(scores, labels)
        right.plot(mean, share, marker="o", label=name)
        base = float(labels.mean())
    left.axhline(base, color="grey", linestyle=":", label="share of unsafe rows")
    right.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as often as said")
    left.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="probability", ylabel="share unsafe", title="Reliability", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    return figure
