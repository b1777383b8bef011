"""Measure the embedded guard's AUPRC on disguised unsafe texts; write it into docs/evaluation.md.

    python -m bench.robustness docs/evaluation.md FOLDER [--rows 20] [--seed 0]

FOLDER has the files of `SETS`. Of each set, `--rows` unsafe texts and three times as many safe ones are drawn, of up to
LONGEST characters. The disguises are applied to the unsafe texts only, and the sets are measured together. Verdicts are
stored, as those of `evaluate`.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.pages import fill, machine
from bench.sampling import add_options, stratified
from bench.shipped import measured_guard, weights
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.evaluation.metrics import measure
from guardproxy.evaluation.scoring import open_score_store, score
from guardproxy.evaluation.tables import number
from guardproxy.guards.cache import check_key
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.types import Check, Conversation, Message, Part
from tests.escapes import tricks
from tests.escapes.disguises import DISGUISES, Disguise

SETS = ("openai_mod", "toxicchat_train_human")
LONGEST, SAFE_PER_UNSAFE = 150, 3

# About 600 tokens: more than two windows of the embedded guard.
_PADDING = tricks.HARMLESS * 40
# Some of every kind of disguise: docs/escapes.md has them all.
_CHOSEN = (
    "plain",
    "upper case",
    "full width",
    "look-alikes",
    "zero-width spaces",
    "bidi override",
    "tag characters",
    "variation selectors",
    "spaced letters",
    "dotted letters",
    "leetspeak",
    "leetspeak in words",
    "reversed",
    "rot13",
    "rot13 in prose",
    "Morse",
    "base32",
    "base64",
    "base64 in prose",
    "base85 in prose",
    "hex",
    "unicode escapes",
    "URL, every letter",
    "HTML markup",
    "base64 in base64",
    "spaced letters in base64",
    "leetspeak in words in spaced letters",
)
CHANGES: dict[str, Disguise] = {name: DISGUISES[name] for name in _CHOSEN} | {
    "after long harmless text": lambda text: _PADDING + text,
    "before long harmless text": lambda text: f"{text} {_PADDING}",
}


def sample(rows: Sequence[LabelledRow], number: int, seed: int) -> list[LabelledRow]:
    """At most `number` of the short rows of a set and a label, drawn at random."""
    short = [row for row in rows if len(row.check.turn.text) <= LONGEST]
    return stratified([short], number, seed, lambda row: check_key(row.check))


def disguised(row: LabelledRow, disguise: Disguise) -> LabelledRow:
    """The row with its judged text disguised."""
    *before, turn = row.check.conversation.messages
    message = Message(turn.role, (Part(turn.parts[0].path, disguise(turn.text)),))
    return replace(row, check=Check(Conversation((*before, message)), row.check.side))


def auprc(unsafe: Sequence[float], safe: Sequence[float]) -> str:
    """Average precision with its bootstrap interval."""
    labels = np.array([True] * len(unsafe) + [False] * len(safe))
    measured_slice = measure(np.array([*unsafe, *safe]), labels)
    return number(measured_slice.values["auprc"], measured_slice.ci["auprc"])


async def probabilities(
    rows: Sequence[LabelledRow], guard: Guard, views: Sequence[str], place: Path, bar: tqdm
) -> list[float]:
    """P(unsafe) of each row, with the named views. Exits if a row gets no verdict."""
    with open_score_store(place, repr(views)) as store:
        scored = await score(rows, guard, store, bar.update, views)
    known = [row_score.unsafe for row_score in scored.scores if row_score is not None]
    if len(known) != len(rows):
        raise SystemExit(f"rows without a verdict: {'; '.join(scored.failures)}")
    return known


async def table(unsafe: Sequence[LabelledRow], safe: Sequence[LabelledRow], guard: Guard, policy: Policy) -> list[str]:
    """The AUPRC of each change, of the text alone and with the views of the policy."""
    changed = [disguised(row, change) for change in CHANGES.values() for row in unsafe]
    columns: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place, tqdm(total=2 * len([*safe, *changed]), disable=None) as bar:
        for views in ((), policy.views):
            found = await probabilities([*safe, *changed], guard, views, Path(place) / "scores.sqlite3", bar)
            others, by_change = found[: len(safe)], found[len(safe) :]
            starts = range(0, len(by_change), len(unsafe))
            columns.append([auprc(by_change[start : start + len(unsafe)], others) for start in starts])
    lines = ["| unsafe texts | text alone | with views |", "| --- | ---: | ---: |"]
    return lines + [f"| {name} | {alone} | {full} |" for name, alone, full in zip(CHANGES, *columns, strict=True)]


async def measured(folder: Path, number_unsafe: int, seed: int) -> str:
    """The text between the marks of the page."""
    chosen: dict[bool, list[LabelledRow]] = {True: [], False: []}
    sizes = []
    for name in SETS:
        rows = read(folder / f"{name}.jsonl.gz", {}, None).rows
        drawn = [
            sample([row for row in rows if row.unsafe is label], number, seed)
            for label, number in ((True, number_unsafe), (False, SAFE_PER_UNSAFE * number_unsafe))
        ]
        chosen[True] += drawn[0]
        chosen[False] += drawn[1]
        sizes.append(f"{len(drawn[0])} + {len(drawn[1])} of `{name}`")
    async with measured_guard() as (guard, policy):
        lines = await table(chosen[True], chosen[False], guard, policy)
        print(f"{time.process_time():.0f} s of CPU time, {guard.new} checks, {guard.known} verdicts from the store")
    summary = (
        f"On {machine()}, weights `{weights()}`: AUPRC over {' and '.join(sizes)} (unsafe + safe rows, texts of up to "
        f"{LONGEST} characters, drawn with the seed {seed}), with intervals of 1,000 bootstrap resamples."
    )
    return "\n".join([summary, "", *lines])


def main() -> None:
    """Measure, and replace the text between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("folder", type=Path, help="the folder of the labelled data")
    add_options(parser, 20, "the unsafe texts of each set")
    args = parser.parse_args()
    fill(args.page, "robustness", asyncio.run(measured(args.folder, args.rows, args.seed)))


if __name__ == "__main__":
    main()
