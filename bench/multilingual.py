"""Scores of a multilingual guard by language, on dev/ and on the project's own texts that are held out.

    python bench/multilingual.py --model FOLDER --data ../shared/data

The first table has the area under the ROC curve of dev/multijail (harmful) against dev/benign_multilingual (harmless),
in languages that both sets have; a language of only one set is measured against the other set's rows of all languages.
The threshold is the lowest at which at most --most of the harmless rows of every language are stopped; the table has
the shares of harmless and harmful rows that it stops. The harmless rows are questions and sentences from
encyclopaedias, unlike harmful requests in more than harm, so the figures flatter. The second table has the shares that
the presets stop by their rules for user turns, which were fitted to the embedded guard. Then come the same tables for
the texts of `training/multilingual_*.jsonl` that are held out, at the same threshold: most of the harmless ones are
twins of the harmful ones, and much harder.
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

from guardproxy import app  # noqa: E402
from guardproxy.families import classifier  # noqa: E402
from guardproxy.policy import PRESETS, decide  # noqa: E402
from guardproxy.ports import Reading  # noqa: E402
from guardproxy.settings import MULTILINGUAL, load  # noqa: E402
from guardproxy.types import Check, Conversation, Message, Part, Verdict  # noqa: E402
from training import fit, measure  # noqa: E402
from training.mixture import read_rows  # noqa: E402
from training.multilingual import language_of, turns  # noqa: E402

Floats = NDArray[np.float64]
Scores = Mapping[str, Sequence[float]]  # by language
Judged = Mapping[str, Sequence[Verdict]]  # by language


def area(harmful: Sequence[float], harmless: Sequence[float]) -> float:
    """The chance that a harmful row has a higher score than a harmless one; equal scores count half."""
    bad, good = np.asarray(harmful)[:, None], np.asarray(harmless)[None]
    return float((bad > good).mean() + (bad == good).mean() / 2)


def threshold(harmless: Scores, most: float) -> float:
    """The lowest of the scores above which at most the share `most` of the harmless rows of every language lie."""
    return max(sorted(scores)[len(scores) - 1 - int(most * len(scores))] for scores in harmless.values())


def share(stopped: Sequence[bool]) -> str:
    """The share that is stopped, in percent and in numbers."""
    return f"{100 * sum(stopped) / len(stopped):.1f} % ({sum(stopped)}/{len(stopped)})" if stopped else "-"


def above(scores: Sequence[float], limit: float) -> str:
    """The share of the scores above the limit."""
    return share([score > limit for score in scores])


def unsafe(judged: Judged) -> Scores:
    """P(unsafe) by language."""
    return {language: [verdict.unsafe for verdict in verdicts] for language, verdicts in judged.items()}


def table(harmful: Scores, harmless: Scores, limit: float) -> None:
    """Print a line for every language, and one for all; `limit` is the threshold."""
    every_bad, every_good = ([score for scores in side.values() for score in scores] for side in (harmful, harmless))
    print("\n| language | ROC-AUC | harmless stopped | harmful stopped |\n|---|--:|--:|--:|")
    for language in sorted({*harmful, *harmless}):
        bad, good = harmful.get(language, ()), harmless.get(language, ())
        note = "" if bad and good else " *"
        value = area(bad or every_bad, good or every_good)
        print(f"| {language} | {value:.3f}{note} | {above(good, limit)} | {above(bad, limit)} |")
    print(f"| all | {area(every_bad, every_good):.3f} | {above(every_good, limit)} | {above(every_bad, limit)} |")
    if set(harmful) != set(harmless):
        print("\n* against the rows of all languages of the other side")


def presets_table(harmful: Judged, harmless: Judged) -> None:
    """Print a line for every language, and one for all: what each preset stops."""
    policies = {preset: load(None, {}, app.catalogue(), preset).policies.policies["default"] for preset in PRESETS}
    heads = [f"`{preset}`: {side} stopped" for preset in policies for side in ("harmless", "harmful")]
    print(f"\n| language | {' | '.join(heads)} |\n|---|{'--:|' * len(heads)}")

    def line(name: str, sides: Sequence[Sequence[Verdict]]) -> None:
        cells = [
            share([decide(policy, "user", verdict).action in ("block", "rewrite") for verdict in side])
            for policy in policies.values()
            for side in sides
        ]
        print(f"| {name} | {' | '.join(cells)} |")

    for language in sorted({*harmful, *harmless}):
        line(language, (harmless.get(language, ()), harmful.get(language, ())))
    line("all", [[verdict for verdicts in side.values() for verdict in verdicts] for side in (harmless, harmful)])


class Judge:
    """Gives texts the guard's verdicts as user turns."""

    def __init__(self, folder: Path) -> None:
        self._model = fit.trained_model(folder).eval()
        self._tokenizer = fit.load_tokenizer(folder)
        self._calibration = json.loads((folder / "calibration.json").read_text("utf-8"))
        self._family = classifier.open_family()

    def by_language(self, texts: Sequence[tuple[str, str]]) -> dict[str, list[Verdict]]:
        """The verdicts on (language, text) pairs, by language."""
        logits = fit.text_logits(self._model, self._tokenizer, [(None, text) for _, text in texts])
        out: dict[str, list[Verdict]] = defaultdict(list)
        for (language, text), row in zip(texts, measure.probabilities(logits, self._calibration), strict=True):
            check = Check(Conversation((Message("user", (Part("text", text),)),)), "user")
            reading = Reading(tuple(float(chance) for chance in row))
            out[language].append(self._family.parse(check, [reading], MULTILINGUAL))
        return out


def calibration_error(harmful: Judged, harmless: Judged) -> float:
    """The expected calibration error of P(unsafe), over all languages."""
    pairs = [
        (truth, verdict.unsafe)
        for truth, side in ((1.0, harmful), (0.0, harmless))
        for verdicts in side.values()
        for verdict in verdicts
    ]
    truth, chance = np.array(pairs).T
    return measure.calibration_error(truth, chance)


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
    limit = threshold(unsafe(harmless), options.most)
    print(f"threshold {limit:.4f}: it stops at most {100 * options.most:g} % of the harmless rows of any language")
    print("\ndev/multijail and dev/benign_multilingual")
    table(unsafe(harmful), unsafe(harmless), limit)
    presets_table(harmful, harmless)
    held = turns(held_out=True)
    if held:
        own = [[(t.language, t.text) for t in held if bool(t.categories) == is_bad] for is_bad in (True, False)]
        bad, good = (judge.by_language(side) for side in own)
        print(f"\nthe project's own texts that are held out, calibration error {calibration_error(bad, good):.3f}")
        table(unsafe(bad), unsafe(good), limit)
        presets_table(bad, good)


if __name__ == "__main__":
    main()
