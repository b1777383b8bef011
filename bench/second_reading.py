"""What the weight of the small model in the embedded guard's mean changes: `first_weight` of `cascade.json`.

    python -m bench.second_reading [--rows 500] [DATA]

Both models read every window of the rows of DATA (default: ../shared/data/dev), of each set the first `--rows` in the
order of their SHA-256, without views. Then each weight makes its means of the windows that the small model is unsure
of. The table has AUPRC of `unsafe` by set, and the share of all unsafe prompts above the threshold that 1, 3 and 5 % of
all benign prompts reach, with the count of everyday prompts above the threshold of 3 %.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.pages import machine
from guardproxy.engine.load import second_reading
from guardproxy.engine.model_files import PACKAGED
from guardproxy.engine.open_runner import open_runner
from guardproxy.engine.runner import Runner
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.evaluation.metrics import measure
from guardproxy.families import classifier
from guardproxy.guards.cache import check_key
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


def twice_read(row: LabelledRow, models: Sequence[Runner]) -> TwiceRead:
    """Let the small and the large model, which cut texts alike, read every window of a row."""
    prompts = []
    for prompt in FAMILY.render(row.check):
        readings = [[result.reading for result in model.run(model.encode(prompt))] for model in models]
        prompts.append(tuple(zip(*readings, strict=True)))
    return TwiceRead(row, tuple(prompts))


def above(scores: np.ndarray, benign: np.ndarray, rate: float) -> np.ndarray:
    """Which scores are above the threshold that a share `rate` of the benign scores exceeds."""
    threshold: float = np.sort(benign)[::-1][int(rate * len(benign))]
    return scores > threshold


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument("--rows", type=int, default=500, help="the most rows of each set")
    args = parser.parse_args()
    models = [open_runner(FAMILY.render(PROBE)[0], model=name) for name in PACKAGED]
    low = second_reading().low
    sets: dict[str, Sequence[TwiceRead]] = {}
    for path in (EVERYDAY, *sorted(args.data.glob("*.jsonl.gz"))):
        dataset = read(path)
        if dataset.name not in FOREIGN:
            known = [row for row in dataset.rows if row.unsafe is not None]
            chosen = sorted(known, key=lambda row: check_key(row.check))[: args.rows]
            sets[dataset.name] = [twice_read(row, models) for row in chosen]
    for model in models:
        model.close()
    measured = [name for name, rows in sets.items() if len({row.row.unsafe for row in rows}) == 2]
    print(f"{machine()}, at most {args.rows} rows of each set\n")
    heads = [f"unsafe prompts at {rate:.0%}" for rate in RATES]
    print(f"| weight | {' | '.join(measured)} | {' | '.join(heads)} | everyday prompts |")
    print(f"|--:|{'--:|' * (len(measured) + len(RATES) + 1)}")
    for weight in WEIGHTS:
        scores = {name: np.array([row.unsafe(weight, low) for row in rows]) for name, rows in sets.items()}
        labels = {name: np.array([bool(row.row.unsafe) for row in rows]) for name, rows in sets.items()}
        cells = [f"{measure(scores[name], labels[name]).values['auprc']:.3f}" for name in measured]
        prompts = [name for name, rows in sets.items() if name != EVERYDAY.stem and rows[0].row.check.side == "user"]
        pooled = np.concatenate([scores[name] for name in prompts])
        unsafe = np.concatenate([labels[name] for name in prompts])
        cells += [f"{above(pooled[unsafe], pooled[~unsafe], rate).mean():.1%}" for rate in RATES]
        stopped = above(scores[EVERYDAY.stem], pooled[~unsafe], 0.03)
        print(f"| {weight:g} | {' | '.join(cells)} | {stopped.sum()} of {len(stopped)} |")


if __name__ == "__main__":
    main()
