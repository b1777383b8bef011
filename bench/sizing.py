"""How many proxies, guards, bytes and what money a load needs: from measured costs, into docs/sizing.md.

    python -m bench.sizing [--measure [--seconds 60]]
    python -m bench.sizing --turns 20000 [--core-hour 0.04] [--memory-gb-hour 0.005] [--storage-gb-month 0.1]
    python -m bench.sizing --turns 20000 --tokens-per-turn 300 --tokens-per-second 40000 [--gpu-hour 2.5]

Without `--turns`, writes the table of loads and that of the queueing model into the page. `--measure` also compares the
model with a real `guardproxy serve` on this machine at 50, 70 and 90 % of the capacity that it has there, and writes
both beside each other; it needs a quiet machine. With `--turns`, prints the plan of one load in guarded turns a minute;
what costs money only with your prices.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.audit import made
from bench.fairness import Answers, ask, served, text_of
from bench.overload import Judged, Machine, Texts
from bench.pages import fill, machine
from guardproxy.asking import Asker
from guardproxy.checkapi import verdict_fields
from guardproxy.engine.fair_queue import Ticket
from guardproxy.sharing import Sealer
from guardproxy.sinks.database import AuditStore
from guardproxy.types import Finding, Usage, Verdict

PAGE: Final = Path(__file__).parents[1] / "docs" / "sizing.md"
LOADS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)  # guarded turns a minute
# Measured, by the section of RESULTS.md. An exchange has two guarded turns: the request and its reply.
EXCHANGE_MS: Final = 1.86  # Overhead: CPU of a whole reply, 16 clients, guard in the process, no store
STREAM: Final = 11.32 / 2.61  # Overhead: instructions of a stream of 100 frames, times those of a whole reply
OVER_HTTP: Final = 0.187  # A guard in another process: behind HTTP, of the request
RECORDS: Final = 0.320  # What auditing adds to a request: SQLite, full batches, of the request
GUARD_MS: Final = {  # Engine: the embedded guard on benign ToxicChat, one thread, CPU
    "with AMX, bfloat16": 32.5,
    "without AMX, float32": 56.5,
}
GUARD_MB, PROXY_MB, PARENT_MB = 1020, 59, 169  # A guard in another process: worker, parent and what it forks from
GUARD_CORES: Final = 2  # of a replica: as many as all measurements had
BUSY: Final = 0.6  # of the time, so that a turn seldom waits


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load in guarded turns a minute needs, in cores of the processor on which `guard_ms` was measured."""

    turns: float
    guard_ms: float
    record_bytes: float
    stream: float = 1.0

    @property
    def proxy_cores(self) -> float:
        """Cores of the proxies, in front of replicas over HTTP, with every record stored."""
        return self.turns / 120 * EXCHANGE_MS * self.stream * (1 + OVER_HTTP + RECORDS) / 1000 / BUSY

    @property
    def workers(self) -> int:
        """Workers of the proxies; one core each."""
        return whole(self.proxy_cores)

    @property
    def guard_cores(self) -> float:
        """Cores of the guard's replicas."""
        return self.turns / 60 * self.guard_ms / 1000 / BUSY

    @property
    def replicas(self) -> int:
        """The guard's replicas."""
        return whole(self.guard_cores / GUARD_CORES)

    @property
    def memory_gb(self) -> float:
        """Memory of all processes."""
        return (self.replicas * GUARD_MB + self.workers * PROXY_MB + PARENT_MB) / 1000

    @property
    def audit_gb_day(self) -> float:
        """What the records of a day take, if all are kept."""
        return self.turns * 1440 * self.record_bytes / 1e9


def whole(number: float) -> int:
    """The next whole number, at least one."""
    return max(1, int(-(-number // 1)))


# --- bytes ------------------------------------------------------------------------------------------------------------


async def record_bytes(rows: int = 4000) -> float:
    """Bytes that a record of 40 words and 12 categories takes in SQLite, with its indices."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "audit.sqlite3"
        store, draw = AuditStore(f"sqlite:///{file}"), random.Random(7)
        await store.write([])
        empty = _size(folder)
        for first in range(0, rows, 200):
            await store.write([made(number, draw) for number in range(first, first + 200)])
        await store.close()
        return (_size(folder) - empty) / rows


def _size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def verdict_bytes() -> int:
    """Bytes of a verdict of six categories in the shared state: its key and its value, without what Redis adds."""
    names = ("harassment", "illicit", "self_harm", "sexual", "violence_hate", "jailbreak")
    verdict = Verdict(0.0123456789, tuple(Finding(name, 0.0123456789) for name in names), "embedded", "t@1", Usage())
    sealer = Sealer("s" * 32, "guardproxy")
    key = sealer.key("verdict", b"", b"")
    return len(key) + len(sealer.seal(key, verdict_fields(verdict)))


# --- the queue -------------------------------------------------------------------------------------------------------

REQUESTS, REPLIES = Texts(22, 30, 0.3), Texts(112, 124, 0.1)  # tokens of the texts that `measured` sends
CLIENTS, SHARES = 8, (0.5, 0.7, 0.9)


class ClosedMachine(Machine):
    """The simulated guard with clients that each send the next request when the last one is answered."""

    def end(self, ticket: Ticket[Judged]) -> None:
        """Count a check; the client of a reply comes again at once."""
        super().end(ticket)
        if ticket.reply and len(self.done) < 2000:
            self.admit(Asker(ticket.asker.client), self.now, reply=False)


def simulated(share: float, seconds: float, seed: int = 7) -> tuple[float, list[float]]:
    """The capacity of the simulated guard, in requests a second of its own clock, and the times at a share of it.

    Times are multiples of 1 / capacity, so that they say the same of a machine of any speed.
    """
    closed = ClosedMachine(REQUESTS, REPLIES, seed)
    closed.serve(deque([0.0] * CLIENTS))
    capacity = len(closed.done) / closed.now
    draw, at, arrivals = random.Random(seed), 0.0, deque[float]()
    while at < seconds:
        at += draw.expovariate(share * capacity)
        arrivals.append(at)
    opened = Machine(REQUESTS, REPLIES, seed)
    opened.serve(arrivals)
    return capacity, sorted((end - came) * capacity for came, end in opened.done)


async def measured(url: str, seconds: float) -> list[str]:
    """Rows of the real server beside the simulated one, at shares of the capacity that it has just shown."""
    rows, draw = [], random.Random(7)
    limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await _closed(client, seconds / 6, draw)
        for share in SHARES:
            capacity = await _closed(client, seconds / 3, draw)
            took = await _open(client, share * capacity, seconds, draw)
            _, model = simulated(share, 100)
            real = " | ".join(f"{1000 * took[int(part * (len(took) - 1))]:.0f}" for part in (0.5, 0.95))
            said = " | ".join(f"{1000 * model[int(part * (len(model) - 1))] / capacity:.0f}" for part in (0.5, 0.95))
            load = os.getloadavg()[0]
            rows.append(f"| {share:.0%} | {capacity:.1f} | {len(took)} | {real} | {said} | {load:.0f} |")
    return rows


async def _closed(client: httpx.AsyncClient, seconds: float, draw: random.Random) -> float:
    """Requests a second that pass with a few clients that never pause."""
    answers, began = Answers(), time.perf_counter()

    async def one(key: str) -> None:
        while time.perf_counter() < began + seconds:
            await ask(client, key, text_of(draw, 120), answers)

    await asyncio.gather(*(one(f"c{number}") for number in range(CLIENTS)))
    return answers.total / (time.perf_counter() - began)


async def _open(client: httpx.AsyncClient, rate: float, seconds: float, draw: random.Random) -> Sequence[float]:
    """Seconds of the answers to requests that come at random times, whatever has been answered."""
    answers, tasks, number = Answers(), list[asyncio.Task[None]](), 0
    due = began = time.perf_counter()
    while due < began + seconds:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        number += 1
        tasks.append(asyncio.create_task(ask(client, f"o{number}", text_of(draw, 120), answers)))
    await asyncio.gather(*tasks)
    return sorted(answers.passed)


# --- what is printed -------------------------------------------------------------------------------------------------


def table(size: float) -> str:
    """The table of loads."""
    head = "| guarded turns a minute | " + " | ".join(f"guard replicas {name}" for name in GUARD_MS)
    sizes = f"{size:.0f} bytes of SQLite for a record of 40 words and 12 categories, {verdict_bytes()} bytes of the "
    lines = [
        f"Measured for this table: {sizes}shared state for a verdict of six categories.\n",
        f"{head} | proxy workers, whole replies | streams of 100 frames | memory GB | records GB a day |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for turns in LOADS:
        plans = [Plan(turns, cost, size) for cost in GUARD_MS.values()]
        streamed = Plan(turns, plans[0].guard_ms, size, STREAM).workers
        replicas = " | ".join(f"{plan.replicas:,}" for plan in plans)
        lines.append(
            f"| {turns:,} | {replicas} | {plans[0].workers:,} | {streamed:,} "
            f"| {plans[0].memory_gb:,.1f} | {plans[0].audit_gb_day:,.1f} |"
        )
    return "\n".join(lines)


def model_table() -> str:
    """How long exchanges take in the model, as multiples of the mean time of one at full load."""
    lines = ["| share of the capacity | p50 | p95 | p99 |", "|--:|--:|--:|--:|"]
    for share in SHARES:
        took = simulated(share, 100)[1]
        parts = " | ".join(f"{took[int(part * (len(took) - 1))]:.1f}" for part in (0.5, 0.95, 0.99))
        lines.append(f"| {share:.0%} | {parts} |")
    return "\n".join(lines)


def one_load(args: argparse.Namespace, size: float) -> str:
    """The plan of a load, with its cost if there are prices."""
    lines = []
    for name, cost in GUARD_MS.items():
        plan = Plan(args.turns, cost, size)
        processes = f"{plan.replicas} guard replicas of {GUARD_CORES} cores, {plan.workers} proxy workers"
        sizes = f"{plan.memory_gb:.1f} GB of memory, {plan.audit_gb_day:.1f} GB of records a day"
        lines += [f"embedded guard on cores {name}:", f"  {processes}, {sizes}"]
        cores = plan.replicas * GUARD_CORES + plan.workers
        lines += _money(args, cores, plan.memory_gb, plan.audit_gb_day)
    if args.tokens_per_second and args.tokens_per_turn:
        gpus = whole(args.turns / 60 * args.tokens_per_turn / args.tokens_per_second / BUSY)
        lines.append(f"a generative guard at your {args.tokens_per_second:g} tokens/s: {gpus} GPUs (not measured)")
        if args.gpu_hour is not None:
            lines.append(f"  {gpus * args.gpu_hour:.2f} an hour for the GPUs")
    return "\n".join(lines)


def _money(args: argparse.Namespace, cores: int, memory_gb: float, audit_gb_day: float) -> list[str]:
    priced = [
        (args.core_hour, cores, "cores"),
        (args.memory_gb_hour, memory_gb, "memory"),
        (args.storage_gb_month and args.storage_gb_month / 730, 30 * audit_gb_day, "records of 30 days"),
    ]
    given = [(price * amount, what) for price, amount, what in priced if price is not None]
    if not given:
        return []
    parts = ", ".join(f"{money:.2f} {what}" for money, what in given)
    return [f"  {sum(money for money, _ in given):.2f} an hour: {parts}"]


def main() -> None:
    """Write the page, or print a plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="compare the queueing model with a real server")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each row of that comparison")
    for name in ("turns", "core-hour", "memory-gb-hour", "storage-gb-month", "gpu-hour", "tokens-per-turn"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--tokens-per-second", type=float)
    args = parser.parse_args()
    size = asyncio.run(record_bytes())
    if args.turns:
        print(one_load(args, size))
        return
    fill(PAGE, "loads", table(size))
    fill(PAGE, "model", model_table())
    if args.measure:
        with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (url, _):
            rows = asyncio.run(measured(url, args.seconds))
        head = "| share of the capacity | capacity, requests/s | answers | measured p50 ms | p95 ms | model p50 ms "
        head += "| p95 ms | load average |"
        lines = [f"{machine()}, which the server, the upstream and the clients share.\n", head]
        fill(PAGE, "queue", "\n".join([*lines, "|--:|--:|--:|--:|--:|--:|--:|--:|", *rows]))


if __name__ == "__main__":
    main()
