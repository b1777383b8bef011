"""What other clients wait while one client sends a long text, and what happens at three times the capacity.

    python -m bench.fairness [--kilobytes 400] [--small 4] [--seconds 10]

Starts `guardproxy serve` with the embedded guard on one thread, in front of an upstream that answers at once, and talks
to both over sockets. Every text is new, so that no verdict comes from the cache. Three rows: `small` clients alone, one
request after the other; the same beside one client that sends messages of harmless words without a pause; and a load
of new clients at three times the rate that the first row reached. Below the table: the goodput of that load, which is
what passed per second in its time, as a share of the capacity, the rate of the first row; its slowest answer; the
memory of the process before and after it; and how long after it a lone request takes at most twice its time before.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.pages import machine

WORDS = (
    "the recipe needs tomatoes and a little salt while the train to the coast leaves at noon every week because many "
    "people like to walk along the river in spring and write letters to friends about music books gardens"
)
_HEADERS = {"content-type": "application/json"}


@dataclass(slots=True)
class Answers:
    """The answers of one load: seconds of those that passed, and how many had which other outcome."""

    passed: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    ended: list[float] = field(default_factory=list)  # when those that passed were answered, of time.perf_counter()

    @property
    def total(self) -> int:
        """The number of answers."""
        return len(self.passed) + self.other.total()

    def row(self, name: str) -> str:
        """A row of the table; shares are of all answers."""
        took = sorted(self.passed)
        p50, p99 = (f"{1000 * took[int(share * (len(took) - 1))]:.0f}" if took else "-" for share in (0.5, 0.99))
        other = ", ".join(f"{count} {what}" for what, count in sorted(self.other.items())) or "none"
        share = 100 * len(self.passed) / max(1, self.total)
        return f"| {name} | {self.total} | {share:.0f} % | {p50} | {p99} | {1000 * self.slowest:.0f} | {other} |"


def text_of(draw: random.Random, characters: int) -> str:
    """Harmless words of about this many characters, never the same twice."""
    words: list[str] = []
    size = 0
    while size < characters:
        words.append(draw.choice(WORDS.split()))
        size += len(words[-1]) + 1
    return " ".join(words)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """An upstream that answers at once, and guardproxy in front of it: its address and the id of its process."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    config = folder / "guardproxy.yaml"
    config.write_text(f"version: 1\nguard: {{threads: 1}}\nupstream: {{url: 'http://127.0.0.1:{ports[0]}'}}\n")
    commands = [
        ["-m", "bench.servers", "upstream", "--port", str(ports[0])],
        ["-m", "guardproxy", "serve", "--config", str(config), "--port", str(ports[1]), "--data-dir", str(folder)],
    ]
    with (folder / "log").open("wb") as log:
        running = [
            subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env={**os.environ}, cwd=Path.cwd())
            for command in commands
        ]
        try:
            url = f"http://127.0.0.1:{ports[1]}"
            _wait_ready(url)
            yield url, running[1].pid
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(60)


def _wait_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("guardproxy did not get ready")


async def ask(client: httpx.AsyncClient, key: str, text: str, answers: Answers) -> None:
    """Send one user turn, and note its answer."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    began = time.perf_counter()
    headers = {**_HEADERS, "authorization": f"Bearer sk-{key}-0123456789abcdef"}
    got = await client.post("/v1/chat/completions", content=body, headers=headers)
    took = time.perf_counter() - began
    answers.slowest = max(answers.slowest, took)
    if got.status_code != 200:
        answers.other[f"HTTP {got.status_code}"] += 1
    elif got.headers["x-guardproxy-action"] == "block":
        why = "verdicts" if "x-guardproxy-categories" in got.headers else "blocks without a verdict"
        answers.other[why] += 1
    else:
        answers.passed.append(took)
        answers.ended.append(began + took)


async def in_turn(client: httpx.AsyncClient, small: int, seconds: float, draw: random.Random) -> Answers:
    """`small` clients that each send the next short text when the last one is answered."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def one(key: str) -> None:
        while time.perf_counter() < end:
            await ask(client, key, text_of(draw, 120), answers)

    await asyncio.gather(*(one(f"small{index}") for index in range(small)))
    return answers


async def beside(client: httpx.AsyncClient, args: argparse.Namespace, draw: random.Random) -> tuple[Answers, Answers]:
    """The small clients beside one that sends long texts; the answers of both."""
    large = Answers()

    async def send() -> None:
        while True:
            await ask(client, "large", text_of(draw, 1000 * args.kilobytes), large)

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.5)
    small = await in_turn(client, args.small, args.seconds, draw)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return small, large


async def flood(client: httpx.AsyncClient, rate: float, seconds: float, draw: random.Random) -> Answers:
    """New clients at a steady `rate` per second, whatever has been answered."""
    answers, tasks = Answers(), []
    began = time.perf_counter()
    for number in itertools.count():
        due = began + number / rate
        if due > began + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(client, f"new{number}", text_of(draw, 120), answers)))
    await asyncio.gather(*tasks)
    return answers


async def lone(client: httpx.AsyncClient, draw: random.Random) -> float:
    """The seconds of a short request."""
    answers = Answers()
    await ask(client, "lone", text_of(draw, 120), answers)
    return answers.slowest


async def overload(
    client: httpx.AsyncClient, capacity: float, process: int, args: argparse.Namespace, draw: random.Random
) -> tuple[Answers, str]:
    """Three times the capacity: the answers, and what is said below the table."""
    usual = statistics.median([await lone(client, draw) for _ in range(5)])
    memory, began = _rss(process), time.perf_counter()
    over = await flood(client, 3 * capacity, args.seconds, draw)
    memory_after, ended = _rss(process), time.perf_counter()
    while await lone(client, draw) > 2 * usual and time.perf_counter() < ended + 60:
        pass
    back = time.perf_counter() - ended
    goodput = sum(at <= began + args.seconds for at in over.ended) / args.seconds
    return over, (
        f"3 x capacity for {args.seconds:g} s: capacity {capacity:.1f}/s, goodput {goodput:.1f}/s "
        f"({100 * goodput / capacity:.0f} %); slowest answer {over.slowest:.1f} s; memory {memory >> 20} MB before, "
        f"{memory_after >> 20} MB after; a lone request takes {1000 * usual:.0f} ms before, and at most twice as long "
        f"from {back:.1f} s after the last answer on"
    )


def _rss(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def measured(url: str, process: int, args: argparse.Namespace) -> tuple[list[str], str]:
    """The rows of the table, and what is said below it."""
    draw = random.Random(args.seed)
    limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await in_turn(client, args.small, 2, draw)
        alone = await in_turn(client, args.small, args.seconds, draw)
        rows = [alone.row(f"{args.small} small clients alone")]
        capacity = len(alone.passed) / args.seconds
        small, large = await beside(client, args, draw)
        rows.append(small.row(f"{args.small} small clients beside one of {args.kilobytes} KB"))
        rows.append(large.row(f"that client of {args.kilobytes} KB"))
        await asyncio.sleep(3)
        over, said = await overload(client, capacity, process, args, draw)
        rows.append(over.row(f"{3 * capacity:.0f} new clients a second, 3 x capacity"))
        after = await in_turn(client, args.small, 3, draw)
        rows.append(after.row(f"{args.small} small clients right after"))
    return rows, said


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kilobytes", type=int, default=400)
    parser.add_argument("--small", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (url, process):
        rows, said = asyncio.run(measured(url, process, args))
    print(f"{machine()}; guardproxy, its upstream and the clients share the cores\n")
    print("| load | answers | passed | p50 ms | p99 ms | slowest ms | others |")
    print("|---|--:|--:|--:|--:|--:|---|")
    print("\n".join(rows))
    print(f"\n{said}")


if __name__ == "__main__":
    main()
