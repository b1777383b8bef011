"""Measure how long one request stops the proxy's event loop, over bodies that cost much: their values, texts, frames.

    python -m bench.stalls [--only WORD] [--json FILE] [--stacks FILE]

The proxy is a process of its own: `guardproxy serve` with a guard of patterns, every API and the console, a real server
and a real SQLite store. A task in it (the heartbeat) sleeps for 5 ms again and again: a stall is the time by which it
comes too late. `stall` is the longest of a request. Of that beat, `held` is the part that the process itself causes: no
more than the CPU time of all its threads, and no more than the stall without the time in which the loop's thread waited
for a CPU, so other load on the machine lengthens `stall` and not `held`. `loop` is the CPU time of the loop's thread
alone; the rest of `held` is other threads that kept Python's lock. `answer` is the time until the whole answer has
come, `rss` the growth of the process's memory. With `--stacks` the stack of every thread is written to a file while
a beat is late by 50 ms or more.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.stall_bodies import REPLIES, Body, requests

BEAT_S = 0.005
LATE_S = 0.05
CONFIG = """\
version: 1
upstream: {url: "%s"}
guard: {family: patterns, patterns: {never: {regexes: ["never in any body [0-9]{40}"]}}}
apis: [check, moderations, litellm, nemo, bedrock]
audit: {store: "sqlite:///%s/audit.sqlite3"}
policies:
  default: {unsafe: {block: 0.5}}
"""


# --- the proxy -------------------------------------------------------------------------------------------------------


class Heartbeat:
    """Notes the longest time by which a task that sleeps BEAT_S comes too late. `stacks` gets those of late beats."""

    def __init__(self, stacks: TextIO | None) -> None:
        self.due = math.inf
        self.stall_s = self.held_s = self.loop_s = 0.0
        if stacks is not None:
            threading.Thread(target=self._write_stacks, args=(stacks, threading.get_ident()), daemon=True).start()

    async def run(self) -> None:
        """Beat until cancelled."""
        waits = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        while True:
            waited, cpu, loop = _waited_s(waits), time.process_time(), time.thread_time()
            self.due = time.perf_counter() + BEAT_S
            await asyncio.sleep(BEAT_S)
            late = time.perf_counter() - self.due
            # A read gives Python's lock away, and a thread that takes it keeps it for 5 ms: that is no stall of a beat.
            self.due = math.inf
            loop, waited = time.thread_time() - loop, _waited_s(waits) - waited
            held = max(0.0, min(late - waited, time.process_time() - cpu))
            if held >= self.held_s:
                self.stall_s, self.held_s, self.loop_s = late, held, loop

    def _write_stacks(self, file: TextIO, loop: int) -> None:
        """Write the stack of each thread, that of the loop first, again and again while a beat is late.

        The thread needs Python's lock, so a call that keeps it shows where it ended.
        """
        while True:
            time.sleep(BEAT_S)
            late = time.perf_counter() - self.due
            if late < LATE_S:
                continue
            frames = sys._current_frames()  # noqa: SLF001 - the documented way to read the stacks of threads
            file.write(f"--- {1000 * late:.0f} ms late\n")
            for thread in sorted(frames, key=lambda number: number != loop):
                stack = traceback.StackSummary.extract(traceback.walk_stack(frames[thread]), limit=12)
                file.write(" < ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in stack) + "\n")
            file.flush()

    def take(self) -> dict[str, float]:
        """Return the longest stall since the last call and its parts, in seconds, and the memory in bytes."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        taken = {"stall_s": self.stall_s, "held_s": self.held_s, "loop_s": self.loop_s}
        self.stall_s = self.held_s = self.loop_s = 0.0
        return {**taken, "rss": float(pages * os.sysconf("SC_PAGE_SIZE"))}


def _waited_s(schedstat: int) -> float:
    """Seconds for which a thread was ready and had no CPU, from its open file in /proc."""
    return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9


def watched(app: ASGIApp, heart: Heartbeat) -> ASGIApp:
    """The application with a heartbeat, which `GET /stall` reads and resets."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(heart.run()))
        if scope["type"] == "http" and scope["path"] == "/stall":
            body = json.dumps(heart.take()).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return serve


def serve_proxy(port: int, target: str, folder: Path, stacks: str) -> None:
    """Serve the proxy until stopped."""
    from guardproxy.app import Service, read  # noqa: PLC0415 - only the server's process needs it
    from guardproxy.app.listening import server_options  # noqa: PLC0415

    config = folder / "guardproxy.yaml"
    config.write_text(CONFIG % (target, folder))
    source = read(str(config), str(folder))
    with Path(stacks).open("a") if stacks else contextlib.nullcontext() as file:
        app = watched(Service(source.file, source).app, Heartbeat(file))
        uvicorn.run(app, port=port, **server_options(source.file.server, None))


def serve_upstream(port: int) -> None:
    """Serve an upstream that answers with the reply that the header `x-reply` names."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        name = dict(scope["headers"]).get(b"x-reply", b"short").decode()
        content_type, pieces = REPLIES[name]
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type.encode())]}
        await send(start)
        for piece in pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    uvicorn.run(app, port=port, log_config=None, access_log=False, lifespan="off")


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run this file with `--serve` and arguments; yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "bench.stalls", "--port", str(port), *arguments]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments} did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(60)


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The figures of one request. Seconds, and bytes; `status` 0 if there was no answer in time."""

    name: str
    status: int
    answer_s: float
    stall_s: float
    held_s: float
    loop_s: float
    rss: float


async def measure(url: str, body: Body) -> Measured:
    """Send a request while the heartbeat beats. The beats after the answer count, too: the record is written then."""
    async with httpx.AsyncClient(timeout=180) as client:
        before = (await client.get(f"{url}/stall")).json()
        began, status = time.perf_counter(), 0
        method, content = ("POST", body.body) if body.body else ("GET", None)
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.request(method, url + body.path, content=content, headers=_headers(body))
            status = answer.status_code
        took = time.perf_counter() - began
        await asyncio.sleep(0.5)
        after = (await client.get(f"{url}/stall")).json()
    parts = (after["stall_s"], after["held_s"], after["loop_s"])
    return Measured(body.name, status, took, *parts, after["rss"] - before["rss"])


def _headers(body: Body) -> dict[str, str]:
    return {"content-type": "application/json", "x-reply": body.reply, "authorization": "Bearer sk-bench"}


async def run(url: str, bodies: Sequence[Body]) -> AsyncIterator[Measured]:
    """Measure each body, one after the other."""
    for body in bodies:
        yield await measure(url, body)


async def report(url: str, only: str) -> list[Measured]:
    """Measure the bodies whose name contains `only`, and print a line for each."""
    print("| body | status | answer s | stall ms | held ms | loop ms | rss MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = []
    async for row in run(url, [body for body in requests() if only in body.name]):
        found.append(row)
        stall, held, loop = (seconds * 1000 for seconds in (row.stall_s, row.held_s, row.loop_s))
        figures = f"{row.answer_s:.2f} | {stall:.0f} | {held:.0f} | {loop:.0f} | {row.rss / 2**20:.0f}"
        print(f"| {row.name} | {row.status} | {figures} |", flush=True)
    return found


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only bodies whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--stacks", metavar="FILE", default="", help="write the stacks of late beats to this file")
    parser.add_argument("--serve", choices=("proxy", "upstream"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--target", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "upstream":
        serve_upstream(args.port)
    elif args.serve == "proxy":
        serve_proxy(args.port, args.target, Path(args.folder), args.stacks)
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            process("--serve", "upstream") as below,
            process("--serve", "proxy", "--target", below, "--folder", folder, "--stacks", args.stacks) as url,
        ):
            rows = asyncio.run(report(url, args.only))
        if args.json:
            Path(args.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
