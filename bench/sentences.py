"""What sentences judged by themselves stop, of harm among harmless text and of ordinary prompts: docs/evaluation.md.

    python -m bench.sentences docs/evaluation.md [DATA] [--rows 1000] [--seed 0]

The embedded guard judges every text as a whole and by its passages, as the proxy does, without views. A text is stopped
if a preset blocks it as a whole, or a passage from the P(unsafe) in the column's head on. DATA is a folder of labelled
rows (default: ../shared/data/dev), of whose prompts at most `--rows` are drawn. Neighbours are drawn from the everyday
prompts with the same seed; of the plain harmful prompts that get neighbours, those count that the preset blocks alone.
Verdicts are stored, as those of `evaluate`.
"""

import argparse
import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from bench.pages import fill, machine
from bench.presets import FOREIGN
from bench.sampling import add_options, by_label
from bench.shipped import Stored, measured_guard, weights
from guardproxy import app
from guardproxy.evaluation.datasets import read
from guardproxy.policy import PRESETS, Policy, decide
from guardproxy.sentences import passages
from guardproxy.settings import load
from guardproxy.types import Check, Conversation, Message, Part, Verdict

ROOT = Path(__file__).parents[1]
LEAST = (0.7, 0.78, 0.8, 0.86, 0.9, 0.94)
AT_ONCE = 64
_STOP = re.compile(r"[.!?]+(?=[\s,]|$)")
HARMFUL, BLOCKED = "plain harmful prompts", "blocked ones"


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on a text as a whole, and on each of its passages."""

    whole: Verdict
    parts: tuple[Verdict, ...]

    def stopped(self, policy: Policy, least: float | None) -> bool:
        """Whether the policy blocks the text, or a passage from a P(unsafe) of `least` on, if that is set."""
        counted = (self.whole,)
        if least is not None:
            counted += tuple(verdict for verdict in self.parts if verdict.unsafe >= least)
        return any(decide(policy, "user", verdict).action == "block" for verdict in counted)


def groups(data: Path, rows: int, seed: int) -> dict[str, list[str]]:
    """The texts of each row of the table."""
    files = [file for file in sorted(data.glob("*.jsonl.gz")) if file.name.partition(".")[0] not in FOREIGN]
    labelled = [row for file in files for row in read(file).rows if row.check.side == "user" and row.unsafe is not None]
    drawn = by_label(labelled, rows, seed)
    everyday, harmful = (
        [row.check.turn.text for row in read(ROOT / "training" / f"{name}.jsonl").rows]
        for name in ("everyday", "harmful")
    )
    draw, half = random.Random(seed), harmful[::2]

    def among(texts: Sequence[str], before: int, after: int, joint: str = " ") -> list[str]:
        return [joint.join([*draw.sample(everyday, before), text, *draw.sample(everyday, after)]) for text in texts]

    def without_stops(texts: Sequence[str], joint: str) -> list[str]:
        return [_STOP.sub("", text).replace("\n", " ") for text in among(texts, 2, 2, joint)]

    return {
        "unsafe prompts": [row.check.turn.text for row in drawn if row.unsafe],
        "benign prompts": [row.check.turn.text for row in drawn if not row.unsafe],
        "everyday prompts": everyday,
        "everyday prompts, three at a time": among(everyday[::3], 1, 1),
        HARMFUL: harmful,
        f"{BLOCKED} before a harmless prompt": among(half, 0, 1),
        f"{BLOCKED} behind a harmless prompt": among(half, 1, 0),
        f"{BLOCKED} among four harmless prompts": among(half, 2, 2),
        f"{BLOCKED} before twelve harmless prompts": among(half, 0, 12),
        f"{BLOCKED} among twelve harmless prompts": among(half, 6, 6),
        f"{BLOCKED} among four, joined by `and`, without stops": without_stops(half, " and "),
        f"{BLOCKED} among four, joined by commas, without stops": without_stops(half, ", "),
        f"{BLOCKED} before four numbers": [
            f"{text} {' '.join(str(draw.randrange(10**8)) for _ in range(4))}" for text in half
        ],
    }


async def judged(guard: Stored, texts: Sequence[str]) -> list[Judged]:
    """The verdicts on each text."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def verdict(text: str) -> Verdict:
        async with slots:
            return await guard.judge(
                Check(Conversation((Message("user", (Part("messages[0].content", text),)),)), "user")
            )

    async def both(text: str) -> Judged:
        whole, *parts = await asyncio.gather(*map(verdict, (text, *passages(text))))
        return Judged(whole, tuple(parts))

    return await asyncio.gather(*map(both, texts))


async def measured(data: Path, rows: int, seed: int) -> str:
    """The text between the marks of the page: a table for each preset."""
    policies = {name: load(None, {}, app.catalogue(), name).policies.policies["default"] for name in PRESETS}
    texts = groups(data, rows, seed)
    async with measured_guard() as (guard, _):
        found = {name: await judged(guard, group) for name, group in texts.items()}
        print(f"{time.process_time():.0f} s of CPU time, {guard.new} checks, {guard.known} verdicts from the store")
    benign = texts["benign prompts"]
    cut = [passages(text) for text in benign]
    again = sum(len(passage) for found_in in cut for passage in found_in) / sum(map(len, benign))
    several = sum(map(bool, cut)) / len(cut)
    summary = (
        f"On {machine()}, weights `{weights()}`, drawn with the seed {seed}; in percent. Of the benign prompts, "
        f"{several:.0%} have several passages; these have {again:.0%} of the characters of all benign prompts."
    )
    blocks = [summary]
    for preset, policy in policies.items():
        head = [f"`{preset}`, of", "number", "as a whole", *(f"from {least:g}" for least in LEAST)]
        lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
        alone = [one.stopped(policy, None) for one in found[HARMFUL][::2]]
        for name, judged_texts in found.items():
            group = list(compress(judged_texts, alone)) if name.startswith(BLOCKED) else judged_texts
            shares = [100 * sum(one.stopped(policy, least) for one in group) / len(group) for least in (None, *LEAST)]
            lines.append(f"| {name} | {len(group):,} | {' | '.join(f'{share:.1f}' for share in shares)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main() -> None:
    """Measure, and write the tables between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    add_options(parser, 1000, "the most labelled prompts")
    args = parser.parse_args()
    fill(args.page, "sentences", asyncio.run(measured(args.data, args.rows, args.seed)))


if __name__ == "__main__":
    main()
