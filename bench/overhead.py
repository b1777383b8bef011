"""Measure guardproxy's overhead over a bare pass-through, both in front of the same upstream in the same run.

    python bench/overhead.py [--quick] [--json FILE] [--valgrind] [--audit] [--guards] [--shared] [--variants NAME ...]

Upstream, proxy and clients are separate processes on loopback. `bare` is a plain pass-through with starlette and httpx
over the same transport; `bare_httpcore` is `bare` over httpx's own transport; `guardproxy` is complete except for the
model: its guard judges everything safe at once. The figures are CPU time of the proxy process from /proc, and its
instructions (Linux perf, user and kernel) if the machine can count them; `--valgrind` counts user instructions in a
simulated CPU instead, independent of other load. Rounds of the variants alternate; times are the best round, CPU time
and instructions the median. `--audit` counts, in a simulated CPU too, what the records of a request cost: `guardproxy`
has no store, `audited` writes full batches to SQLite (`audit.required: false`), as at hundreds of requests per second,
`audited_slow` few records at a time, `audited_log` to the log as well; `audited_sampled` has `audit.passed: sampled`.
All threads count, until every record is written. `--guards` compares where the guard is, with new texts that no cache
knows: in the proxy's process (`uncached`), behind the `socket` of the process that workers share, and behind `http`.
The instructions (`--valgrind`) are the proxy's own. `--shared` compares what shared state in a real Redis adds to a
request with two checks, none in the cache of the process: all are found, none is, or the server is down.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

VARIANTS = ("bare", "bare_httpcore", "guardproxy")
AUDITED = ("guardproxy", "audited", "audited_slow", "audited_log", "audited_sampled")
GUARDS = ("uncached", "socket", "http")
SHARED = ("own", "shared_found", "shared_new", "shared_down")
RECORDS = 2  # of a whole reply: its turn and the reply
TURNS = [
    *((role, f"{role} {number}: tell me more. " * 8) for number in range(9) for role in ("user", "assistant")),
    *(("user", "Tell me about foxes. " * 10), ("assistant", "They are clever. " * 20), ("user", "And dogs? " * 15)),
]
CLIENTS = (1, 16, 64, 256)


@dataclass(frozen=True)
class Load:
    """A kind of request with `turns` messages; the reply streams `frames` (0: whole), `pace_s` seconds apart.

    With `fresh`, the last turn of every request has another number.
    """

    name: str
    frames: int = 0
    pace_s: float = 0.0
    turns: int = 1
    fresh: bool = False

    def request(self, host: str) -> bytes:
        """The bytes of a request. Its header `x-load` selects the upstream's answer."""
        messages = [{"role": role, "content": text} for role, text in TURNS[-self.turns :]]
        if self.fresh:
            messages[-1]["content"] += NUMBER
        body = json.dumps({"model": "m", "messages": messages, "stream": self.frames > 0}).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nx-load: frames={self.frames}&pace={self.pace_s}\r\n"
            "authorization: Bearer sk-bench\r\naccept: application/json\r\nuser-agent: OpenAI/Python\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body


NUMBER = "number 00000000"  # of a request, in its place
WHOLE = Load("whole reply")
FRESH = Load("whole reply, new turn", fresh=True)
LONGER = Load("whole reply, third turn", turns=3)
RESENT = Load("whole reply, turn 21 of a resent conversation", turns=21)
FAST = Load("stream of 100 frames, unpaced", 100)
PACED = Load("stream of 20 frames, 10 ms apart", 20, 0.01)


# --- the clients -----------------------------------------------------------------------------------------------------


_NUMBERS = itertools.count()


async def _client(address: tuple[str, int], request: bytes, until: float, times: list[float], left: list[int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    length = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
    while time.perf_counter() < until and left[0] > 0:
        left[0] -= 1
        began = time.perf_counter()
        writer.write(request.replace(NUMBER.encode(), b"number %08d" % next(_NUMBERS)))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the proxy answered {head[:200]!r}")
        if found := length.search(head):
            await reader.readexactly(int(found.group(1)))
        else:
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
            if b"[DONE]" not in body:
                raise RuntimeError("the stream ended without [DONE]")
        times.append(time.perf_counter() - began)
    writer.close()


async def run_load(url: str, load: Load, clients: int, seconds: float, most: int) -> list[float]:
    host, port = url.removeprefix("http://").split(":")
    times: list[float] = []
    until, left = time.perf_counter() + seconds, [most]
    request = load.request(f"{host}:{port}")
    await asyncio.gather(*(_client((host, int(port)), request, until, times, left) for _ in range(clients)))
    return times


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    """One round of a variant: its duration, each request's time, and the proxy's CPU time and instructions."""

    seconds: float
    times: list[float]
    cpu_s: float = 0.0
    instructions: float | None = None


@dataclass
class Result:
    """All rounds of a variant with the same load and number of clients."""

    load: str
    variant: str
    clients: int
    rounds: list[Round] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The figures of the result; CPU time and instructions are per request."""
        counted = [run.instructions / len(run.times) / 1e6 for run in self.rounds if run.instructions is not None]
        return {
            "load": self.load,
            "variant": self.variant,
            "clients": self.clients,
            "requests_per_s": max(len(run.times) / run.seconds for run in self.rounds),
            "p50_ms": min(statistics.median(run.times) for run in self.rounds) * 1000,
            "cpu_ms": statistics.median(run.cpu_s / len(run.times) for run in self.rounds) * 1000,
            "m_instructions": statistics.median(counted) if counted else None,
        }


def _cpu_s(pid: int) -> float:
    """CPU seconds that all threads of a process have used, to the nanosecond (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Perf:
    """Count a process's instructions, user and kernel, during the context; `count` is None if the machine cannot."""

    def __init__(self, pid: int) -> None:
        self._command = ["perf", "stat", "-x", ",", "-e", "instructions:u,instructions:k", "-p", str(pid)]
        self.count: float | None = None

    @staticmethod
    def works() -> bool:
        """Whether this machine can count instructions."""
        if shutil.which("perf") is None:
            return False
        command = ["perf", "stat", "-x", ",", "-e", "instructions:u,instructions:k", "true"]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        return len(re.findall(r"^\d+,", output, re.MULTILINE)) == 2

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        time.sleep(0.3)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGINT)
        output = self._process.communicate()[1]
        counts = re.findall(r"^(\d+),", output, re.MULTILINE)
        self.count = float(sum(map(int, counts))) if len(counts) == 2 else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(variant: str, target: str = "", wrapper: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """Run a server in a separate process; yield its URL and process id."""
    port = free_port()
    servers = str(Path(__file__).with_name("servers.py"))
    command = [*wrapper, sys.executable, servers, variant, "--port", str(port), "--target", target]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{variant} did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", running.pid
    finally:
        running.terminate()
        running.wait(60)


def measure(
    load: Load, clients: Sequence[int], rounds: int, seconds: float, variants: Sequence[str], *, perf: bool
) -> list[Result]:
    """Measure all variants under a load, in alternating rounds."""
    results = []
    with process("upstream") as (target, pid), contextlib.ExitStack() as stack:
        running = {"direct": (target, pid)}
        running |= {name: stack.enter_context(process(name, target)) for name in variants}
        for url, _ in running.values():
            asyncio.run(run_load(url, load, 4, 1.0, 10**9))  # warm
        for number in clients:
            at = {name: Result(load.name, name, number) for name in running}
            for _ in range(rounds):
                for name, (url, server) in running.items():
                    at[name].rounds.append(_round(url, server, load, number, seconds, perf=perf and name in variants))
            results += at.values()
    return results


def _round(url: str, pid: int, load: Load, clients: int, seconds: float, *, perf: bool) -> Round:
    counting = Perf(pid) if perf else None
    with counting or contextlib.nullcontext():
        before, began = _cpu_s(pid), time.perf_counter()
        times = asyncio.run(run_load(url, load, clients, seconds, 10**9))
        took, used = time.perf_counter() - began, _cpu_s(pid) - before
    return Round(took, times, used, counting.count if counting else None)


def simulate(
    load: Load, clients: Sequence[int], requests: int, variants: Sequence[str] = VARIANTS
) -> list[dict[str, Any]]:
    """Millions of user instructions per request, counted by valgrind's callgrind."""
    rows = []
    with process("upstream") as (target, _), tempfile.TemporaryDirectory() as folder:
        for name in variants:
            out = Path(folder) / name
            wrapper = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
            with process(name, target, wrapper) as (url, pid):
                asyncio.run(run_load(url, load, 4, 600, 40))  # warm
                for number in clients:
                    asyncio.run(run_load(url, load, number, 600, 2 * number))
                    _settle(pid)
                    _control(pid, "-i", "on")
                    _control(pid, "-z")
                    done = len(asyncio.run(run_load(url, load, number, 600, requests)))
                    _settle(pid)
                    _control(pid, "-d", f"{name}-{number}")
                    _control(pid, "-i", "off")
                    dump = max(Path(folder).glob(f"{name}.*"), key=lambda path: int(path.suffix[1:]))
                    total = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
                    counted = int(total.group(1)) / done / 1e6 if total else None
                    rows.append({"load": load.name, "variant": name, "clients": number, "m_user_instructions": counted})
    return rows


def _settle(pid: int) -> None:
    """Wait until the server has nothing more to do: records are written after their answers."""
    used = -1.0
    while (now := _cpu_s(pid)) - used > 0.1:
        used = now
        time.sleep(1.5)


def _control(pid: int, *arguments: str) -> None:
    subprocess.run(["callgrind_control", *arguments, str(pid)], check=True, capture_output=True)


# --- the report ------------------------------------------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """The figures as a Markdown table; CPU time and instructions are per request."""
    rows = [result.row() for result in results]
    lines = [
        "| load | variant | clients | requests/s | p50 ms | added p50 ms | CPU ms | M instructions | times bare |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        alike = [other for other in rows if (other["load"], other["clients"]) == (row["load"], row["clients"])]
        of = {other["variant"]: other for other in alike}
        cost = "m_instructions" if row["m_instructions"] is not None else "cpu_ms"
        times = "" if row["variant"] == "direct" else f"{row[cost] / of['bare'][cost]:.2f}"
        counted = "" if row["m_instructions"] is None else f"{row['m_instructions']:.2f}"
        used = "" if row["variant"] == "direct" else f"{row['cpu_ms']:.3f}"
        added = "" if row["variant"] == "direct" else f"{row['p50_ms'] - of['direct']['p50_ms']:.2f}"
        lines.append(
            f"| {row['load']} | {row['variant']} | {row['clients']} | {row['requests_per_s']:.0f} "
            f"| {row['p50_ms']:.2f} | {added} | {used} | {counted} | {times} |"
        )
    return "\n".join(lines)


def simulated_table(rows: list[dict[str, Any]]) -> str:
    """The figures of `simulate` as a Markdown table."""
    lines = ["| load | variant | clients | M user instructions/request | times bare |", "|---|---|---|---|---|"]
    for row in rows:
        same = (row["load"], row["clients"])
        bare = next(other for other in rows if other["variant"] == "bare" and (other["load"], other["clients"]) == same)
        counted = row["m_user_instructions"]
        times = counted / bare["m_user_instructions"]
        lines.append(f"| {row['load']} | {row['variant']} | {row['clients']} | {counted:.2f} | {times:.2f} |")
    return "\n".join(lines)


def guards_table(rows: list[dict[str, Any]], key: str, unit: str) -> str:
    """What asking a guard in another process adds to a request, as a Markdown table; the first row is in-process."""
    lines = [f"| guard | {unit} per request | added | of the request |", "|---|--:|--:|--:|"]
    for row in rows:
        added = row[key] - rows[0][key]
        share = f"{added:.3f} | {added / rows[0][key]:.1%} |" if row is not rows[0] else " | |"
        lines.append(f"| {row['variant']} | {row[key]:.3f} | {share}")
    return "\n".join(lines)


def audit_table(rows: list[dict[str, Any]]) -> str:
    """What auditing adds to a request and to each of its records, as a Markdown table."""
    lines = ["| variant | M user instructions/request | added | of the request | per record |", "|---|---|---|---|---|"]
    plain = rows[0]["m_user_instructions"]
    for row in rows:
        counted = row["m_user_instructions"]
        added = counted - plain
        share = f"{added:.3f} | {added / plain:.1%} | {added / RECORDS:.3f}" if row is not rows[0] else " | | "
        lines.append(f"| {row['variant']} | {counted:.2f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--valgrind", action="store_true", help="count user instructions in a simulated CPU instead")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="the proxies; bare is needed")
    parser.add_argument("--guards", action="store_true", help="compare guards in other processes, with new texts")
    parser.add_argument("--shared", action="store_true", help="compare what shared state adds, with new texts")
    parser.add_argument("--audit", action="store_true", help="count what auditing adds, in a simulated CPU")
    args = parser.parse_args()
    if args.audit:
        rows = simulate(WHOLE, (16,), 256 if args.quick else 1024, AUDITED)  # 64 requests make a batch
        print(audit_table(rows))
    elif (args.guards or args.shared) and args.valgrind:
        rows = simulate(FRESH, (16,), 32 if args.quick else 128, SHARED if args.shared else GUARDS)
        print(guards_table(rows, "m_user_instructions", "M user instructions"))
    elif args.guards or args.shared:
        rounds, seconds = (2, 1.0) if args.quick else (9, 2.0)
        variants = SHARED if args.shared else GUARDS
        rows = [one.row() for one in measure(FRESH, (1,), rounds, seconds, variants, perf=False)][1:]
        print(guards_table(rows, "p50_ms", "ms (best p50)"), guards_table(rows, "cpu_ms", "CPU ms"), sep="\n\n")
    elif args.valgrind:
        rows = (
            simulate(WHOLE, CLIENTS, 256, args.variants)
            + simulate(LONGER, (16,), 128, args.variants)
            + simulate(RESENT, (16,), 64, args.variants)
            + simulate(FAST, (16,), 64, args.variants)
        )
        print(simulated_table(rows))
    else:
        perf = Perf.works()
        if not perf:
            print("perf cannot count instructions on this machine: the table compares CPU time instead\n")
        rounds, seconds = (1, 1.0) if args.quick else (5, 3.0)
        results = measure(WHOLE, CLIENTS, rounds, seconds, args.variants, perf=perf)
        for load in (LONGER, RESENT, FAST, PACED):
            results += measure(load, (16,), rounds, seconds, args.variants, perf=perf)
        print(table(results))
        rows = [result.row() for result in results]
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
