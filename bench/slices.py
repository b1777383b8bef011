"""Measures of the embedded guard on parts of the labelled rows: those kept aside, and texts by their length.

    python -m bench.slices docs/evaluation.md [DATA]

The quarter that is kept aside has the rows whose text's SHA-256 begins with a byte below 64. The recipe was chosen by
scores on the other rows, so the difference shows how much the choice flatters it. Thresholds and the bound of the
cascade were chosen on all rows. Stored scores of `evaluate` are used.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from bench.pages import fill, machine
from bench.presets import FOREIGN
from bench.shipped import weights
from guardproxy.cli import parser
from guardproxy.cli.evaluate import guard_settings, read_rows, score_by
from guardproxy.evaluation.metrics import measure
from guardproxy.evaluation.report import Pair, overall, pairs_of
from guardproxy.evaluation.tables import number

QUARTER = 64
MEASURES = ("auprc", "roc_auc", "recall_at_1pct_fpr", "recall_at_5pct_fpr")
HEAD = "AUPRC | ROC-AUC | recall at 1 % FPR | recall at 5 % FPR |"
LENGTHS = (0, 60, 200, 600, 2000, 1 << 30)  # characters
SIDES = {"user": "prompts", "assistant": "replies"}
ROOT = Path(__file__).parents[1]


def is_aside(pair: Pair) -> bool:
    """Whether the row is in the quarter that no choice was made on."""
    return hashlib.sha256(pair[0].check.turn.text.encode()).digest()[0] < QUARTER


def line(name: str, pairs: Sequence[Pair]) -> Iterator[str]:
    """The number of rows, of unsafe rows, and MEASURES with intervals; nothing unless there are rows of both labels."""
    scores, labels = overall(pairs)
    if 0 < labels.sum() < len(labels):
        found = measure(scores, labels)
        cells = [number(found.values[key], found.ci[key]) for key in MEASURES]
        yield f"| {name} | {found.n:,} | {found.positives:,} | {' | '.join(cells)} |"


def quarters(pairs: Sequence[Pair]) -> Iterator[str]:
    """Two rows for each set, and for all prompts: the quarter kept aside below the others."""
    yield f"| set | rows | unsafe | {HEAD}"
    yield f"| --- | ---: | ---: |{' ---: |' * len(MEASURES)}"
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(f"`{pair[0].dataset}`", []).append(pair)
    groups["all prompts"] = [pair for pair in pairs if pair[0].check.side == "user"]
    for name, group in groups.items():
        yield from line(name, [pair for pair in group if not is_aside(pair)])
        yield from line(f"{name}, kept aside", [pair for pair in group if is_aside(pair)])


def lengths(pairs: Sequence[Pair]) -> Iterator[str]:
    """A row for each side and each range of characters of the judged text."""
    yield f"| texts | rows | unsafe | {HEAD}"
    yield f"| --- | ---: | ---: |{' ---: |' * len(MEASURES)}"
    for side, name in SIDES.items():
        for low, high in pairwise(LENGTHS):
            chosen = [
                pair for pair in pairs if pair[0].check.side == side and low <= len(pair[0].check.turn.text) < high
            ]
            bounds = f"{low:,} characters or more" if high == LENGTHS[-1] else f"{low:,} to {high - 1:,} characters"
            yield from line(f"{name} of {bounds}", chosen)


def main() -> None:
    """Score the rows, or take their stored scores, and write both tables into the page."""
    options = argparse.ArgumentParser(prog="python -m bench.slices", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("page", type=Path)
    options.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    args = options.parse_args()
    files = [path for path in sorted(args.data.glob("*.jsonl.gz")) if path.name.partition(".")[0] not in FOREIGN]
    evaluated = parser().parse_args(["evaluate", *map(str, files), "--guard", "embedded"])
    settings = guard_settings(evaluated)["embedded"]
    pairs = pairs_of(score_by("embedded", settings, read_rows(evaluated), evaluated))
    where = f"On {machine()}, weights `{weights()}`; in brackets 95 % of 1,000 bootstrap resamples:"
    fill(args.page, "aside", "\n".join([where, "", *quarters(pairs)]))
    fill(args.page, "lengths", "\n".join([where, "", *lengths(pairs)]))


if __name__ == "__main__":
    main()
