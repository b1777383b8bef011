"""Streamed replies cut at their words: when the first text leaves, how much harm leaves before the cut, what it costs.

    python -m bench.first_words score SCORES [DATA] [--rows 150] [--minutes 40]
    python -m bench.first_words report SCORES [DATA]

`score` judges prefixes of replies with the embedded guard and adds a line for each reply to SCORES: at the end of every
word of the first 20, then of words at distances of a tenth of the words before, where `every: auto` and `every: 200`
check, and at the end of the reply. The replies are those of BeaverTails and HarmBench in DATA, in the order of their
SHA-256. `report` simulates settings on these scores: a stream of 50 tokens of 4.5 characters a second, with checks that
take the seconds that SECONDS names. Intervals are 95 % bootstrap intervals over replies.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from guardproxy import app
from guardproxy.engine.open_runner import open_runner
from guardproxy.engine.runner import Runner, WorkItem
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.families import classifier
from guardproxy.guards.cache import check_key
from guardproxy.guards.local import PROBE
from guardproxy.holdback import FIRST_CHECK, position_after
from guardproxy.pipeline.choice_checks import cut
from guardproxy.policy import Policy, decide, is_clearly_passed
from guardproxy.ports import Reading
from guardproxy.settings import load_text
from guardproxy.types import Check, Conversation, Message, Part
from guardproxy.verdicts import worst_reading

ROOT = Path(__file__).parents[1]
SETS = ("beavertails_30k_test", "harmbench_response")
FAMILY = classifier.open_family()
BATCH = 2048
FIRST_WORDS, GROWTH = 20, 0.1
TODAY = EARLY = 200
# What a stream brings, and what a check costs: seconds for each check, and for each token of the small and large model.
CHARACTERS_S, CHECK_S, SECONDS = 50 * 4.5, 0.005, (0.00015, 0.0009)


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
    chosen |= {end for _, end in by_number(text, TODAY)} | {end for _, end in by_grid(text)}
    return sorted(chosen)


def by_number(text: str, every: int) -> list[tuple[int, int]]:
    """Where `every: NUMBER` checks, if frames are words: the position at which a check is due, and what it judges."""
    ends = ends_of_words(text)
    found: list[tuple[int, int]] = []
    while later := [end for end in ends if end >= (found[-1][1] if found else 0) + every]:
        found.append((later[0], later[0]))
    return [pair for pair in found if pair[1] < len(text)]


def by_grid(text: str) -> list[tuple[int, int]]:
    """Where `every: auto` checks, as `by_number` says it."""
    found, position = [], FIRST_CHECK
    while position <= len(text):
        found.append((position, cut(Message("assistant", (Part("a", text),)), position).size))
        position = position_after(position)
    return found


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
        clear = is_clearly_passed(policy, "assistant", verdict)
        windows = sorted({n for some in prompts for n in some})
        rows.append([upto, action == "block", clear, round(verdict.unsafe, 4), windows])
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


# --- simulating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What is simulated: where checks are due and what they judge, and what they may release and stop."""

    name: str
    checks: Callable[[str], list[tuple[int, int]]]
    lag: int = 0
    early: int = 0  # checks before this position only release
    careful: bool = False  # and need a verdict well below the thresholds


@dataclass(frozen=True)
class Streamed:
    """One reply under one setting: seconds and characters. `first_s` is None if no text of it leaves."""

    stopped: bool
    released: int
    harmful: int
    first_s: float | None
    longest_pause_s: float
    tokens: int
    tokens_of_one_check: int


def streamed(row: Mapping[str, Any], text: str, setting: Setting) -> Streamed:
    """Simulate a stream of words. The text of the last frame that `lag` allows leaves after the check."""
    scores = {upto: (blocks, clear, windows) for upto, blocks, clear, _, windows in row["prefixes"]}
    ends, seen = ends_of_words(text), set[int]()
    now = first = 0.0
    leaves: list[float] = [0.0]
    released = tokens = 0
    stopped = False
    for due, upto in [*setting.checks(text), (len(text), len(text))]:
        blocks, clear, windows = scores[upto]
        now = max(now, due / CHARACTERS_S) + CHECK_S
        for number in windows:
            size, second = row["windows"][number]
            if number not in seen:
                tokens += size * (1 + second)
                now += size * (SECONDS[0] + second * SECONDS[1])
        seen.update(windows)
        is_last = due == len(text) and upto == len(text)
        early = due < setting.early and not is_last
        stopped = blocks and not early
        if stopped:
            break
        if blocks or (early and setting.careful and not clear):
            continue
        limit = len(text) if is_last else max((end for end in ends if end <= upto - setting.lag), default=0)
        if limit > released:
            first = first or now
            leaves.append(now)
            released = limit
    whole = sum(size * (1 + second) for size, second in (row["windows"][number] for number in scores[len(text)][2]))
    pause = max((after - before for before, after in pairwise(leaves)), default=now)
    harmful = max(0, released - start_of_harm(row, text))
    return Streamed(stopped, released, harmful, first or None, pause, tokens, whole)


def start_of_harm(row: Mapping[str, Any], text: str) -> int:
    """Where the sentence begins at whose words the guard would first stop the reply; its end if it never would."""
    upto = next((prefix[0] for prefix in row["prefixes"] if prefix[1]), None)
    if upto is None:
        return len(text)
    return max((m.end() for m in re.finditer(r"[.!?:]+[\"')]*\s+|\n+", text) if m.end() < upto), default=0)


def interval(values: Sequence[float], statistic: Callable[[Any], float], digits: int) -> str:
    """A statistic of values with its bootstrap interval."""
    data, rng = np.asarray(values), np.random.default_rng(1)
    draws = [statistic(data[rng.integers(0, len(data), len(data))]) for _ in range(2000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{statistic(data):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percentile(share: float) -> Callable[[Any], float]:
    """A percentile as a function."""
    return lambda data: float(np.percentile(data, share))


def line(setting: Setting, rows: Sequence[Mapping[str, Any]], texts: Mapping[tuple[str, str], str]) -> str:
    """The line of a table for one setting."""
    found = [(row, streamed(row, texts[row["set"], row["id"]], setting)) for row in rows]
    ends = [next(prefix[1] for prefix in row["prefixes"][::-1]) for row in rows]
    whole = [one for (_, one), end in zip(found, ends, strict=True) if not end and not one.stopped]
    harmful = [one.harmful for (row, one), end in zip(found, ends, strict=True) if end and row["unsafe"]]
    firsts = [one.first_s or 0.0 for one in whole]
    safe = [one.stopped for (row, one), end in zip(found, ends, strict=True) if not end and not row["unsafe"]]
    tokens = np.array([(one.tokens, one.tokens_of_one_check) for one in whole])
    cells = [
        setting.name,
        interval(firsts, percentile(50), 2),
        f"{np.percentile(firsts, 95):.2f}",
        interval(harmful, percentile(50), 0),
        interval(harmful, percentile(95), 0),
        interval(harmful, np.mean, 0),
        interval(tokens, lambda data: float(data[:, 0].sum() / data[:, 1].sum()), 2),
        f"{np.median(tokens[:, 0] / tokens[:, 1]):.2f}",
        f"{np.median([one.longest_pause_s for one in whole]):.2f}",
        f"{np.percentile([one.longest_pause_s for one in whole], 95):.2f}",
        f"{sum(safe)} of {len(safe)}",
    ]
    return f"| {' | '.join(cells)} |"


def auto(lag: int) -> Setting:
    """`every: auto` with a lag."""
    return Setting(f"`auto`, lag {lag}", by_grid, lag, EARLY, careful=True)


def report(path: Path, data: Path) -> str:
    """The tables of docs/streams.md."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    texts = {
        (row.dataset, row.id): row.check.turn.text for name in SETS for row in read(data / f"{name}.jsonl.gz").rows
    }
    settings = (
        Setting("`every: 200`", lambda text: by_number(text, TODAY)),
        *(auto(lag) for lag in (0, 20, 40, 60, 70)),
        Setting("`auto`, lag 40, but every check may stop", by_grid, 40),
        Setting("`auto`, lag 40, but with whole thresholds", by_grid, 40, EARLY),
    )
    unsafe = [row["prefixes"][-1][1] for row in rows if row["unsafe"]]
    count = f"{len(rows)} replies, {len(unsafe)} of them unsafe, of which the guard stops {sum(unsafe)} as a whole."
    head = (
        "first text s",
        "95 %",
        "harmful characters, median",
        "95 %",
        "mean",
        "tokens",
        "median",
        "longest wait s",
        "95 %",
        "benign stopped",
    )
    return "\n".join(
        [
            count,
            "",
            f"| setting | {' | '.join(head)} |",
            "|---|" + "--:|" * 10,
            *(line(setting, rows, texts) for setting in settings),
        ]
    )


def main() -> None:
    """Score or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("score", "report"))
    parser.add_argument("scores", type=Path)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument(
        "--rows", type=int, default=200, help="the most unsafe and the most safe replies of BeaverTails"
    )
    parser.add_argument("--minutes", type=float, default=40, help="when to stop scoring; a later call goes on")
    args = parser.parse_args()
    if args.what == "score":
        score(args.scores, args.data, args.rows, args.minutes)
    else:
        print(report(args.scores, args.data))


if __name__ == "__main__":
    main()
