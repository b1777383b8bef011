"""What the weight of the small model in the embedded guard's mean changes: `first_weight` of `cascade.json`.

    python -m bench.second_reading docs/evaluation.md [DATA] [--rows 200] [--seed 0]

Both models read every window of the rows of DATA (default: ../shared/data/dev), of each set at most `--rows`, of each
label its share, without views; of the everyday prompts all. Then each weight makes its means of the windows that the
small model is unsure of. The table has AUPRC of `unsafe` by set, and the share of all unsafe prompts above the
threshold that 1, 3 and 5 % of all benign prompts reach, with the count of everyday prompts above the threshold of 3 %.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.batches import read_all
from bench.pages import fill, machine
from bench.sampling import add_options, by_label
from bench.shipped import weights
from guardproxy.engine.load import second_reading
from guardproxy.engine.model_files import PACKAGED
from guardproxy.engine.open_runner import open_runner
from guardproxy.engine.runner import Runner
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.evaluation.metrics import Rate, measure
from guardproxy.evaluation.tables import number
from guardproxy.families import classifier
from guardproxy.guards.local import PROBE
from guardproxy.ports import Reading
from guardproxy.verdicts import worst_reading

ROOT = Path(__file__).parents[1]
FAMILY = classifier.open_family()
EVERYDAY = ROOT / "training" / "everyday.jsonl"
# Languages that the guard was not trained to read.
FOREIGN = {"benign_multilingual", "multijail"}
WEIGHTS = (0.0, 0.15, 0.3, 0.5, 1.0)
RATES = (0.01, 0.03, 0.05)


@dataclass(frozen=True)
class TwiceRead:
    """A labelled row, and for each of its prompts the readings of every window by the small and by the large model."""

    row: LabelledRow
    prompts: tuple[tuple[tuple[Reading, Reading], ...], ...]

    def unsafe(self, weight: float, low: float) -> float:
        """P(unsafe), if the small model has this weight in the mean of windows of which it is unsure."""
        found = [worst_reading([_mean(*window, weight, low) for window in windows]) for windows in self.prompts]
        return FAMILY.parse(self.row.check, found, "embedded").unsafe


def _mean(small: Reading, large: Reading, weight: float, low: float) -> Reading:
    if small.probabilities[0] < low:
        return small
    pairs = zip(small.probabilities, large.probabilities, strict=True)
    return Reading(tuple(weight * one + (1 - weight) * other for one, other in pairs))


def twice_read(rows: Sequence[LabelledRow], models: Sequence[Runner]) -> list[TwiceRead]:
    """Let the small and the large model, which cut texts alike, read every window of the rows."""
    prompts = [FAMILY.render(row.check) for row in rows]
    flat = [prompt for of_row in prompts for prompt in of_row]
    small, large = (read_all(model, flat) for model in models)
    both = iter([tuple(zip(*windows, strict=True)) for windows in zip(small, large, strict=True)])
    return [TwiceRead(row, tuple(next(both) for _ in of_row)) for row, of_row in zip(rows, prompts, strict=True)]


def above(scores: np.ndarray, benign: np.ndarray, rate: float) -> np.ndarray:
    """Which scores are above the threshold that a share `rate` of the benign scores exceeds."""
    threshold: float = np.sort(benign)[::-1][int(rate * len(benign))]
    return scores > threshold


def share(hits: np.ndarray) -> str:
    """The share of hits with its interval."""
    rate = Rate(hits.sum(), len(hits))
    low, high = rate.interval
    return f"{rate.value:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Measure, and write the table between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    add_options(parser, 200, "the most rows of each set")
    args = parser.parse_args()
    models = [open_runner(FAMILY.render(PROBE)[0], model=name) for name in PACKAGED]
    low = second_reading().low
    sets: dict[str, Sequence[TwiceRead]] = {}
    for path in (EVERYDAY, *sorted(args.data.glob("*.jsonl.gz"))):
        dataset = read(path)
        if dataset.name not in FOREIGN:
            most = len(dataset.rows) if path == EVERYDAY else args.rows
            sets[dataset.name] = twice_read(by_label(dataset.rows, most, args.seed), models)
    for model in models:
        model.close()
    measured = [name for name, rows in sets.items() if len({row.row.unsafe for row in rows}) == 2]
    drawn = f"at most {args.rows} rows of each set, drawn with the seed {args.seed}"
    lines = [f"On {machine()}, weights `{weights()}`, {drawn}; in brackets 95 % intervals:", ""]
    heads = [f"unsafe prompts at {rate:.0%}" for rate in RATES]
    lines += [
        f"| weight | {' | '.join(measured)} | {' | '.join(heads)} | everyday prompts |",
        f"|--:|{'--:|' * (len(measured) + len(RATES) + 1)}",
    ]
    for weight in WEIGHTS:
        scores = {name: np.array([row.unsafe(weight, low) for row in rows]) for name, rows in sets.items()}
        labels = {name: np.array([bool(row.row.unsafe) for row in rows]) for name, rows in sets.items()}
        measures = [measure(scores[name], labels[name]) for name in measured]
        cells = [number(each.values["auprc"], each.ci["auprc"]) for each in measures]
        prompts = [name for name, rows in sets.items() if name != EVERYDAY.stem and rows[0].row.check.side == "user"]
        pooled = np.concatenate([scores[name] for name in prompts])
        unsafe = np.concatenate([labels[name] for name in prompts])
        cells += [share(above(pooled[unsafe], pooled[~unsafe], rate)) for rate in RATES]
        stopped = above(scores[EVERYDAY.stem], pooled[~unsafe], 0.03)
        lines.append(f"| {weight:g} | {' | '.join(cells)} | {stopped.sum()} of {len(stopped)} |")
    fill(args.page, "weight", "\n".join(lines))
    print(f"{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
