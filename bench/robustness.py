"""How much of the embedded guard's AUPRC is left where unsafe texts come in disguise, into docs/evaluation.md.

    python -m bench.robustness docs/evaluation.md FOLDER

FOLDER holds the files of `SETS`. Of each, the first rows of either label in the order of their texts' SHA-256 are
taken, texts of up to LONGEST characters. Each disguise is put on the unsafe ones; the safe ones stay as they are.
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

# About 600 tokens: two windows of the embedded guard and more.
_PADDING = tricks.HARMLESS * 40
CHANGES: dict[str, Disguise] = DISGUISES | {
    "behind long harmless text": lambda text: _PADDING + text,
    "before long harmless text": lambda text: f"{text} {_PADDING}",
}


class Kept:
    """A guard that stays loaded from one scoring to the next; what it was asked before comes from its cache."""

    def __init__(self, guard: Guard) -> None:
        self.name, self.taxonomy = guard.name, guard.taxonomy
        self._guard = guard

    async def judge(self, check: Check) -> Verdict:
        """The guard's verdict."""
        return await self._guard.judge(check)

    def forget(self, stream: str) -> None:
        """Passed on."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Loaded already."""

    async def close(self) -> None:
        """Whoever loaded it releases it."""


def sample(rows: Sequence[LabelledRow]) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Unsafe and safe rows, by the fixed rule."""
    short = [row for row in rows if len(row.check.turn.text) <= LONGEST]
    ordered = sorted(short, key=lambda row: hashlib.sha256(row.check.turn.text.encode()).digest())
    unsafe = [row for row in ordered if row.unsafe]
    safe = [row for row in ordered if row.unsafe is False]
    return unsafe[:UNSAFE], safe[:SAFE]


def disguised(row: LabelledRow, disguise: Disguise) -> LabelledRow:
    """The row with the disguise on its judged text."""
    *before, turn = row.check.conversation.messages
    message = Message(turn.role, (Part(turn.parts[0].path, disguise(turn.text)),))
    return replace(row, check=Check(Conversation((*before, message)), row.check.side))


class Scores:
    """P(unsafe) of rows by one guard, with some views or none."""

    def __init__(self, guard: Guard, store: ScoreStore, views: Sequence[str]) -> None:
        self._guard, self._store, self._views = guard, store, views

    async def of(self, rows: Sequence[LabelledRow]) -> list[float]:
        """One of each row. Ends the program where a row got no verdict."""
        found = await score(rows, self._guard, self._store, _unseen, self._views)
        known = [one.unsafe for one in found.scores if one is not None]
        if len(known) != len(rows):
            raise SystemExit(f"rows without a verdict: {'; '.join(found.failures)}")
        return known


def _unseen(rows: int) -> None:
    """The bar counts changes, not rows."""


def auprc(unsafe: Sequence[float], safe: Sequence[float]) -> str:
    """Average precision with its bootstrap interval."""
    labels = np.array([True] * len(unsafe) + [False] * len(safe))
    found = measure(np.array([*unsafe, *safe]), labels)
    return number(found.values["auprc"], found.ci["auprc"])


async def column(
    rows: Sequence[LabelledRow], ways: Sequence[Scores], step: Callable[[], object]
) -> dict[str, list[str]]:
    """Of one set: for each change, the AUPRC in each way of scoring."""
    unsafe, safe = sample(rows)
    plain = [await way.of(safe) for way in ways]
    out: dict[str, list[str]] = {}
    for name, change in CHANGES.items():
        changed = [disguised(row, change) for row in unsafe]
        out[name] = [auprc(await way.of(changed), others) for way, others in zip(ways, plain, strict=True)]
        step()
    return out


async def measured(folder: Path) -> str:
    """All that stands between the marks."""
    began = time.monotonic()
    rows = {name: read(folder / f"{name}.jsonl.gz", {}, None).rows for name in SETS}
    guard, policy = shipped()
    await guard.start()
    try:
        with tempfile.TemporaryDirectory() as place, tqdm(total=len(SETS) * len(CHANGES), disable=None) as bar:
            path = Path(place) / "scores.sqlite3"
            with open_score_store(path, "text") as bare, open_score_store(path, "views") as full:
                ways = [Scores(Kept(guard), bare, ()), Scores(Kept(guard), full, policy.views)]
                columns = [await column(rows[name], ways, bar.update) for name in SETS]
    finally:
        await guard.close()
    sizes = " and ".join(f"{len(u)} + {len(s)} of `{n}`" for n in SETS for u, s in [sample(rows[n])])
    head = [f"{title}, {way}" for title in SETS.values() for way in ("text alone", "with views")]
    lines = [f"| unsafe texts | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    lines += [f"| {name} | {' | '.join(cell for one in columns for cell in one[name])} |" for name in CHANGES]
    told = (
        f"On {machine()}, in {time.monotonic() - began:.0f} s, weights `{weights()}`: AUPRC over {sizes} (unsafe + "
        f"safe rows, texts of up to {LONGEST} characters), with intervals of 1,000 bootstrap resamples."
    )
    return "\n".join([told, "", *lines])


def main() -> None:
    """Measure, and replace what stands between the marks of the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("folder", type=Path, help="where the labelled data is")
    args = parser.parse_args()
    fill(args.page, "robustness", asyncio.run(measured(args.folder)))


if __name__ == "__main__":
    main()
