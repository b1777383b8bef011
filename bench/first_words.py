"""Streamed replies cut at their words: when the first text leaves, how much harm leaves before the cut, what it costs.

    python -m bench.first_words score SCORES [DATA] [--rows 150] [--minutes 40]
    python -m bench.first_words report SCORES [DATA]

`score` judges prefixes of replies with the embedded guard and adds a line for each reply to SCORES: every word of the
first 20, then the words at distances of a tenth of the words before, each position at which `every: 200` checks, and the end. The
replies are those of BeaverTails and HarmBench in DATA, in the order of their SHA-256. `report` simulates settings on
these scores: a stream of 50 tokens (of the guard's tokenizer) a second, with a check that takes CHECK_S.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from guardproxy import app
from guardproxy.engine.open_runner import open_runner
from guardproxy.engine.runner import Runner, WorkItem
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.families import classifier
from guardproxy.guards.cache import check_key
from guardproxy.guards.local import PROBE
from guardproxy.policy import Policy, decide
from guardproxy.ports import Reading
from guardproxy.settings import load_text
from guardproxy.types import Check, Conversation, Message, Part
from guardproxy.verdicts import worst_reading

ROOT = Path(__file__).parents[1]
SETS = ("beavertails_30k_test", "harmbench_response")
FAMILY = classifier.open_family()
BATCH = 2048
FIRST_WORDS, GROWTH = 20, 0.1
TODAY = 200


# --- scoring ---------------------------------------------------------------------------------------------------------


def replies(data: Path, rows: int) -> list[LabelledRow]:
    """`rows` unsafe and `rows` safe replies of the first set; behind ten of each, one of each of the second."""
    first, second = ([*_in_turn(data / f"{name}.jsonl.gz")] for name in SETS)
    out: list[LabelledRow] = []
    for number in range(rows):
        out += first[number]
        if number % 10 == 9:
            out += second[number // 10]
    return out


def _in_turn(path: Path) -> Iterator[tuple[LabelledRow, LabelledRow]]:
    """Unsafe and safe rows in turn, each in the order of their SHA-256."""
    found = sorted(read(path).rows, key=lambda row: check_key(row.check))
    return zip(*([row for row in found if row.unsafe is unsafe] for unsafe in (True, False)), strict=False)


def ends_of_words(text: str) -> list[int]:
    """The positions behind the words of a text; the last is the end of the text."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return [*ends[:-1], len(text)]


def positions(text: str) -> list[int]:
    """The positions at which a reply is scored."""
    ends = ends_of_words(text)
    chosen, word = set(ends[:FIRST_WORDS]) | {len(text)}, FIRST_WORDS
    while word < len(ends):
        chosen.add(ends[word])
        word += max(1, round(GROWTH * word))
    for start in range(TODAY, len(text), TODAY):
        chosen.add(next(end for end in ends if end >= start))
    return sorted(chosen)


def scored(runner: Runner, policy: Policy, row: LabelledRow) -> dict[str, Any]:
    """The decision at each position of a reply, and the windows (by number) that the guard reads for it."""
    *before, turn = row.check.conversation.messages
    places: dict[Any, int] = {}
    items: list[WorkItem] = []
    prefixes = []
    for upto in positions(turn.text):
        check = Check(Conversation((*before, Message("assistant", (Part("a", turn.text[:upto]),)))), "assistant", "s")
        prompts = []
        for prompt in FAMILY.render(check):
            numbers = []
            for item in runner.encode(prompt, "s"):
                if item.data not in places:
                    places[item.data] = len(items)
                    items.append(item)
                numbers.append(places[item.data])
            prompts.append(numbers)
        prefixes.append((upto, check, prompts))
    readings, unsure = computed(runner, items)
    rows = []
    for upto, check, prompts in prefixes:
        verdict = FAMILY.parse(check, [worst_reading([readings[n] for n in some]) for some in prompts], "embedded")
        action = decide(policy, "assistant", verdict).action
        rows.append([upto, action == "block", round(verdict.unsafe, 4), sorted({n for some in prompts for n in some})])
    runner.forget("s")
    sizes = [[item.cost, second] for item, second in zip(items, unsure, strict=True)]
    return {"id": row.id, "set": row.dataset, "unsafe": row.unsafe, "windows": sizes, "prefixes": rows}


def computed(runner: Runner, items: Sequence[WorkItem]) -> tuple[list[Reading], list[bool]]:
    """The reading of each window, and whether both models read it."""
    readings: list[Reading] = []
    again: list[tuple[int, WorkItem]] = []
    for batch in batches(items):
        for result in runner.run(batch):
            if result.then is not None:
                again.append((len(readings), result.then))
            readings.append(result.reading)
    results = [result for batch in batches([item for _, item in again]) for result in runner.run(batch)]
    for (number, _), result in zip(again, results, strict=True):
        readings[number] = result.reading
    second = {number for number, _ in again}
    return readings, [number in second for number in range(len(items))]


def batches(items: Sequence[WorkItem]) -> Iterator[list[WorkItem]]:
    """The items in batches of at most BATCH tokens."""
    batch: list[WorkItem] = []
    for item in items:
        if batch and sum(one.cost for one in batch) + item.cost > BATCH:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def score(path: Path, data: Path, rows: int, minutes: float) -> None:
    """Add the scores of the replies that `path` lacks, until the time is over."""
    policy = load_text("version: 1", "bench", {}, app.catalogue()).policies.policies["default"]
    done = {json.loads(line)["id"] for line in path.read_text().splitlines()} if path.exists() else set()
    runner = open_runner(FAMILY.render(PROBE)[0], model="embedded", threads=1)
    until = time.monotonic() + 60 * minutes
    with path.open("a") as file:
        for row in replies(data, rows):
            if row.id not in done and time.monotonic() < until:
                print(json.dumps(scored(runner, policy, row)), file=file, flush=True)
    runner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("score", "report"))
    parser.add_argument("scores", type=Path)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=40)
    args = parser.parse_args()
    if args.what == "score":
        score(args.scores, args.data, args.rows, args.minutes)


if __name__ == "__main__":
    main()
