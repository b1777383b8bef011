"""Scores of a multilingual guard by language, on dev/ and on the project's own texts that are held out.

    python bench/multilingual.py --model FOLDER --data ../shared/data

The first table has the area under the ROC curve of dev/multijail (harmful) against dev/benign_multilingual (harmless),
in languages that both sets have; a language of only one set is measured against the other set's rows of all languages.
The threshold is the lowest at which at most --most of the harmless rows of every language are stopped; the table has
the shares of harmless and harmful rows that it stops. The harmless rows are questions and sentences from
encyclopaedias, unlike harmful requests in more than harm, so the figures flatter. The second table has the texts of
`training/multilingual_*.jsonl` that are held out, at the same threshold: most of the harmless ones are twins of the
harmful ones, and much harder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file also runs as a script

from training import fit, measure  # noqa: E402
from training.mixture import read_rows  # noqa: E402
from training.multilingual import language_of, turns  # noqa: E402

Floats = NDArray[np.float64]
Scores = Mapping[str, Sequence[float]]  # by language


def area(harmful: Sequence[float], harmless: Sequence[float]) -> float:
    """The chance that a harmful row has a higher score than a harmless one; equal scores count half."""
    bad, good = np.asarray(harmful)[:, None], np.asarray(harmless)[None]
    return float((bad > good).mean() + (bad == good).mean() / 2)


def threshold(harmless: Scores, most: float) -> float:
    """The lowest of the scores above which at most the share `most` of the harmless rows of every language lie."""
    return max(sorted(scores)[len(scores) - 1 - int(most * len(scores))] for scores in harmless.values())


def share(scores: Sequence[float], limit: float) -> str:
    """How many of the scores are above the limit, in percent and in numbers."""
    stopped = sum(score > limit for score in scores)
    return f"{100 * stopped / len(scores):.1f} % ({stopped}/{len(scores)})" if scores else "-"


def table(harmful: Scores, harmless: Scores, limit: float) -> None:
    """Print a line for every language, and one for all; `limit` is the threshold."""
    every_bad, every_good = ([score for scores in side.values() for score in scores] for side in (harmful, harmless))
    print("\n| language | ROC-AUC | harmless stopped | harmful stopped |\n|---|--:|--:|--:|")
    for language in sorted({*harmful, *harmless}):
        bad, good = harmful.get(language, ()), harmless.get(language, ())
        note = "" if bad and good else " *"
        value = area(bad or every_bad, good or every_good)
        print(f"| {language} | {value:.3f}{note} | {share(good, limit)} | {share(bad, limit)} |")
    print(f"| all | {area(every_bad, every_good):.3f} | {share(every_good, limit)} | {share(every_bad, limit)} |")
    if set(harmful) != set(harmless):
        print("\n* against the rows of all languages of the other side")


class Judge:
    """Gives texts the guard's calibrated probability of `unsafe`."""

    def __init__(self, folder: Path) -> None:
        self._model = fit.trained_model(folder).eval()
        self._tokenizer = fit.load_tokenizer(folder)
        self._calibration = json.loads((folder / "calibration.json").read_text("utf-8"))

    def by_language(self, texts: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
        """The probabilities of (language, text) pairs, by language."""
        logits = fit.text_logits(self._model, self._tokenizer, [(None, text) for _, text in texts])
        out: dict[str, list[float]] = defaultdict(list)
        for (language, _), chance in zip(texts, measure.probabilities(logits, self._calibration)[:, 0], strict=True):
            out[language].append(float(chance))
        return out


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the guard")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder with dev/")
    parser.add_argument("--most", type=float, default=0.03, help="the share of harmless rows that may be stopped")
    options = parser.parse_args()
    judge = Judge(options.model)
    sides = [
        [(language_of(row), row["messages"][-1]["content"]) for row in read_rows(options.data / "dev", name)]
        for name in ("multijail", "benign_multilingual")
    ]
    harmful, harmless = (judge.by_language(side) for side in sides)
    limit = threshold(harmless, options.most)
    print(f"threshold {limit:.4f}: it stops at most {100 * options.most:g} % of the harmless rows of any language")
    print("\ndev/multijail and dev/benign_multilingual")
    table(harmful, harmless, limit)
    held = turns(held_out=True)
    if held:
        own = [[(t.language, t.text) for t in held if bool(t.categories) == is_bad] for is_bad in (True, False)]
        print("\nthe project's own texts that are held out")
        table(judge.by_language(own[0]), judge.by_language(own[1]), limit)


if __name__ == "__main__":
    main()
