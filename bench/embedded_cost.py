"""What a check of the embedded guard costs: its two models alone, both as they ship, and with a prompt's passages.

    python -m bench.embedded_cost [--rows 150] [DATA]

The prompts are the everyday prompts of this repository and, if DATA is there, the benign prompts of ToxicChat, in the
order of their SHA-256. Each guard judges one prompt after the other on one thread; times are CPU seconds of the
process, which other programs change little. The passages of a prompt (`guardproxy/sentences.py`) are judged at the
same time as the prompt, as the preset `balanced` does. `100 tokens` are twenty texts of that length, without stops;
their row has the median, the others the mean.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from bench.pages import machine
from guardproxy import app
from guardproxy.app.guards import members
from guardproxy.evaluation.datasets import read
from guardproxy.guards.cache import check_key
from guardproxy.ports import Guard
from guardproxy.sentences import passages
from guardproxy.settings import EMBEDDED, EMBEDDED_PARTS, load, load_text
from guardproxy.types import Check, Conversation, Message, Part, Verdict

ROOT = Path(__file__).parents[1]
# Everyday words of one word piece each, so that the text has 98 tokens and the two control tokens of a window.
WORDS = "the of and to in is you that it he was for on are as with his they at be this have from or one had by"


def prompts(path: Path, rows: int) -> list[Check]:
    """The first benign user turns of a file in the order of their SHA-256."""
    benign = [row.check for row in read(path).rows if row.unsafe is False and row.check.side == "user"]
    return sorted(benign, key=check_key)[:rows]


def of_text(text: str) -> Check:
    """The check of a user's text."""
    return Check(Conversation((Message("user", (Part("text", text),)),)), "user")


def steady() -> list[Check]:
    """Twenty texts of 100 tokens: different ones, because equal windows are computed once."""
    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS.split(), k=98)) for _ in range(20)]
    return [of_text(text) for text in texts]


def opened(model: str) -> Guard:
    """The guard of a model on one thread, without a verdict cache."""
    settings = load_text(f"guard: {{model: {model}, threads: 1}}", "bench", {}, app.catalogue())
    return members(settings)[0]


def of_passages(text: str) -> list[Check]:
    """The checks of the text's passages."""
    least = load(None, {}, app.catalogue(), "balanced").policies.policies["default"].sentences.unsafe
    return [replace(of_text(passage), least=least or 0.0) for passage in passages(text)]


async def judged(guard: Guard, groups: Sequence[Sequence[Check]]) -> tuple[list[float], list[Verdict]]:
    """Milliseconds of CPU time of each group of checks, one group after the other, and the first verdicts."""
    await guard.judge(groups[0][0])
    took, verdicts = [], []
    for group in groups:
        began = time.process_time()
        verdicts.append((await asyncio.gather(*map(guard.judge, group)))[0])
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
            took, verdicts = await judged(guard, [[check] for check in checks])
            times[name].append(typical(name, took))
            counts = [verdict.usage.tokens_computed for verdict in verdicts]
            if model == EMBEDDED_PARTS[0]:
                tokens[name] = counts
            if model == EMBEDDED:
                more = [both > one for both, one in zip(counts, tokens[name], strict=True)]
                asked[name] = 100 * fmean(more)
                with_passages = [[check, *of_passages(check.turn.text)] for check in checks]
                times[name].append(typical(name, (await judged(guard, with_passages))[0]))
        await guard.close()
    print(f"{machine()}, one thread, milliseconds of CPU time per check\n")
    models = " | ".join((*EMBEDDED_PARTS, EMBEDDED))
    print(f"| prompts | checks | tokens | {models} | with its passages | reach the large model |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, checks in groups.items():
        cells = [f"{len(checks)}", f"{fmean(tokens[name]):.0f}", *times[name], f"{asked[name]:.0f} %"]
        print(f"| {name} | {' | '.join(cells)} |")


def typical(name: str, took: Sequence[float]) -> str:
    """The median of texts of the same length, otherwise the mean."""
    return f"{median(took) if name == '100 tokens' else fmean(took):.1f}"


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
