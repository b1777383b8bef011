"""Measure the embedded guard's AUPRC on disguised unsafe texts; write it into docs/evaluation.md.

    python -m bench.robustness docs/evaluation.md FOLDER

FOLDER has the files of `SETS`. The sample of a set is its first unsafe and its first safe rows in the order of their
texts' SHA-256, with texts of up to LONGEST characters. Each disguise is applied to the unsafe texts only.
"""

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.pages import fill, machine
from bench.shipped import shipped, weights
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.evaluation.metrics import measure
from guardproxy.evaluation.scoring import ScoreStore, open_score_store, score
from guardproxy.evaluation.tables import number
from guardproxy.ports import Guard
from guardproxy.types import Check, Conversation, Message, Part, Verdict
from tests.escapes import tricks
from tests.escapes.disguises import DISGUISES, Disguise

SETS = {"openai_mod": "OpenAI moderation", "toxicchat_train_human": "ToxicChat"}
UNSAFE, SAFE, LONGEST = 40, 120, 300

# About 600 tokens: more than two windows of the embedded guard.
_PADDING = tricks.HARMLESS * 40
CHANGES: dict[str, Disguise] = DISGUISES | {
    "after long harmless text": lambda text: _PADDING + text,
    "before long harmless text": lambda text: f"{text} {_PADDING}",
}


class KeptLoaded:
    """A guard that stays loaded, with its verdict cache, from one scoring to the next."""

    def __init__(self, guard: Guard) -> None:
        self.name, self.taxonomy = guard.name, guard.taxonomy
        self._guard = guard

    async def judge(self, check: Check) -> Verdict:
        """The guard's verdict."""
        return await self._guard.judge(check)

    def forget(self, stream: str) -> None:
        """Pass the call on."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Do nothing: the guard is already loaded."""

    async def close(self) -> None:
        """Do nothing: the caller releases the guard."""


def sample(rows: Sequence[LabelledRow]) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """The first UNSAFE unsafe and SAFE safe rows, in the order of their texts' SHA-256."""
    short = [row for row in rows if len(row.check.turn.text) <= LONGEST]
    ordered = sorted(short, key=lambda row: hashlib.sha256(row.check.turn.text.encode()).digest())
    unsafe = [row for row in ordered if row.unsafe]
    safe = [row for row in ordered if row.unsafe is False]
    return unsafe[:UNSAFE], safe[:SAFE]


def disguised(row: LabelledRow, disguise: Disguise) -> LabelledRow:
    """The row with its judged text disguised."""
    *before, turn = row.check.conversation.messages
    message = Message(turn.role, (Part(turn.parts[0].path, disguise(turn.text)),))
    return replace(row, check=Check(Conversation((*before, message)), row.check.side))


class Scores:
    """P(unsafe) of rows by a guard, with the named views."""

    def __init__(self, guard: Guard, store: ScoreStore, views: Sequence[str]) -> None:
        self._guard, self._store, self._views = guard, store, views

    async def of(self, rows: Sequence[LabelledRow]) -> list[float]:
        """P(unsafe) of each row. Exits if a row gets no verdict."""
        scored = await score(rows, self._guard, self._store, _ignore_step, self._views)
        known = [row_score.unsafe for row_score in scored.scores if row_score is not None]
        if len(known) != len(rows):
            raise SystemExit(f"rows without a verdict: {'; '.join(scored.failures)}")
        return known


def _ignore_step(rows: int) -> None:
    """Do nothing: the progress bar counts changes, not rows."""


def auprc(unsafe: Sequence[float], safe: Sequence[float]) -> str:
    """Average precision with its bootstrap interval."""
    labels = np.array([True] * len(unsafe) + [False] * len(safe))
    measured_slice = measure(np.array([*unsafe, *safe]), labels)
    return number(measured_slice.values["auprc"], measured_slice.ci["auprc"])


async def column(
    rows: Sequence[LabelledRow], ways: Sequence[Scores], step: Callable[[], object]
) -> dict[str, list[str]]:
    """For a set: the AUPRC of each change, for each way of scoring."""
    unsafe, safe = sample(rows)
    plain = [await way.of(safe) for way in ways]
    out: dict[str, list[str]] = {}
    for name, change in CHANGES.items():
        changed = [disguised(row, change) for row in unsafe]
        out[name] = [auprc(await way.of(changed), others) for way, others in zip(ways, plain, strict=True)]
        step()
    return out


async def measured(folder: Path) -> str:
    """The text between the marks of the page."""
    began = time.monotonic()
    rows = {name: read(folder / f"{name}.jsonl.gz", {}, None).rows for name in SETS}
    guard, policy = shipped()
    await guard.start()
    try:
        with tempfile.TemporaryDirectory() as place, tqdm(total=len(SETS) * len(CHANGES), disable=None) as bar:
            path = Path(place) / "scores.sqlite3"
            with open_score_store(path, "text") as bare, open_score_store(path, "views") as full:
                ways = [Scores(KeptLoaded(guard), bare, ()), Scores(KeptLoaded(guard), full, policy.views)]
                columns = [await column(rows[name], ways, bar.update) for name in SETS]
    finally:
        await guard.close()
    sizes = " and ".join(f"{len(u)} + {len(s)} of `{n}`" for n in SETS for u, s in [sample(rows[n])])
    head = [f"{title}, {way}" for title in SETS.values() for way in ("text alone", "with views")]
    lines = [f"| unsafe texts | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    lines += [f"| {name} | {' | '.join(cell for cells in columns for cell in cells[name])} |" for name in CHANGES]
    summary = (
        f"On {machine()}, in {time.monotonic() - began:.0f} s, weights `{weights()}`: AUPRC over {sizes} (unsafe + "
        f"safe rows, texts of up to {LONGEST} characters), with intervals of 1,000 bootstrap resamples."
    )
    return "\n".join([summary, "", *lines])


def main() -> None:
    """Measure, and replace the text between the marks of the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("folder", type=Path, help="the folder of the labelled data")
    args = parser.parse_args()
    fill(args.page, "robustness", asyncio.run(measured(args.folder)))


if __name__ == "__main__":
    main()
