"""What a check of the embedded guard costs: its two models alone, and both as they ship, on ordinary prompts.

    python -m bench.embedded_cost [--rows 150] [DATA]

The prompts are the everyday prompts of this repository and, if DATA is there, the benign prompts of ToxicChat, in the
order of their SHA-256. Each guard judges one prompt after the other on one thread; times are CPU seconds of the
process, which other programs change little. `100 tokens` are twenty texts of that length; their row has the median, the
others the mean.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from bench.pages import machine
from guardproxy import app
from guardproxy.app.guards import members
from guardproxy.evaluation.datasets import read
from guardproxy.guards.cache import check_key
from guardproxy.ports import Guard
from guardproxy.settings import EMBEDDED, EMBEDDED_PARTS, load_text
from guardproxy.types import Check, Conversation, Message, Part, Verdict

ROOT = Path(__file__).parents[1]
# Everyday words of one word piece each, so that the text has 98 tokens and the two control tokens of a window.
WORDS = "the of and to in is you that it he was for on are as with his they at be this have from or one had by"


def prompts(path: Path, rows: int) -> list[Check]:
    """The first benign user turns of a file in the order of their SHA-256."""
    benign = [row.check for row in read(path).rows if row.unsafe is False and row.check.side == "user"]
    return sorted(benign, key=check_key)[:rows]


def steady() -> list[Check]:
    """Twenty texts of 100 tokens: different ones, because equal windows are computed once."""
    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS.split(), k=98)) for _ in range(20)]
    return [Check(Conversation((Message("user", (Part("text", text),)),)), "user") for text in texts]


def opened(model: str) -> Guard:
    """The guard of a model on one thread, without a verdict cache."""
    settings = load_text(f"guard: {{model: {model}, threads: 1}}", "bench", {}, app.catalogue())
    return members(settings)[0]


async def judged(guard: Guard, checks: Sequence[Check]) -> tuple[list[float], list[Verdict]]:
    """Milliseconds of CPU time of each check, one after the other, and the verdicts."""
    await guard.judge(checks[0])
    took, verdicts = [], []
    for check in checks:
        began = time.process_time()
        verdicts.append(await guard.judge(check))
        took.append(1000 * (time.process_time() - began))
    return took, verdicts


async def measured(groups: dict[str, list[Check]]) -> None:
    """Print a row for each group of prompts."""
    times: dict[str, list[str]] = {name: [] for name in groups}
    tokens: dict[str, list[int]] = {name: [] for name in groups}
    asked: dict[str, float] = {}
    for model in (*EMBEDDED_PARTS, EMBEDDED):
        guard = opened(model)
        await guard.start()
        for name, checks in groups.items():
            took, verdicts = await judged(guard, checks)
            times[name].append(f"{median(took) if name == '100 tokens' else fmean(took):.1f}")
            counts = [verdict.usage.tokens_computed for verdict in verdicts]
            if model == EMBEDDED_PARTS[0]:
                tokens[name] = counts
            if model == EMBEDDED:
                more = [both > one for both, one in zip(counts, tokens[name], strict=True)]
                asked[name] = 100 * fmean(more)
        await guard.close()
    print(f"{machine()}, one thread, milliseconds of CPU time per check\n")
    print(f"| prompts | checks | tokens | {' | '.join((*EMBEDDED_PARTS, EMBEDDED))} | reach the large model |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, checks in groups.items():
        cells = [f"{len(checks)}", f"{fmean(tokens[name]):.0f}", *times[name], f"{asked[name]:.0f} %"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument("--rows", type=int, default=150)
    args = parser.parse_args()
    groups = {"100 tokens": steady(), "everyday": prompts(ROOT / "training" / "everyday.jsonl", args.rows)}
    toxicchat = args.data / "toxicchat_train_human.jsonl.gz"
    if toxicchat.is_file():
        groups["ToxicChat, benign"] = prompts(toxicchat, args.rows)
    asyncio.run(measured(groups))


if __name__ == "__main__":
    main()
