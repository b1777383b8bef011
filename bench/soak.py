"""A proxy under a steady load of mixed protocols, clients that leave, and upstreams that break.

    python -m bench.soak [--seconds 1800] [--share 0.7] [--clients 4]

Starts `guardproxy serve` with the embedded guard on one thread, in front of an upstream over raw sockets that speaks
every protocol and, for some requests, breaks in one of the ways of `tests/faults/upstream.py`. First it measures the
capacity: the requests per second of `--clients` clients that ask one after the other. Then it sends `--share` of that
rate for `--seconds`: three quarters ordinary requests, a fifth of them streams, one in eight a fault, and one in eight
from a client that leaves. At the end everything that the process holds must be what it was before: sockets, tasks,
bytes; memory and the audit chain are reported. The exit status is 1 if an ordinary request got no answer of its
protocol, an answer came later than 10 seconds, or something was still held.
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bench.fairness import text_of
from bench.pages import machine
from tests.conformance.speech import PROTOCOLS, Protocol, plain
from tests.faults.stand import Counts, Proxy, serving
from tests.faults.upstream import RawUpstream, chunk, raw_upstream, whole

_CONFIG = """\
version: 1
upstream: {{url: "{upstream}", timeouts: {{first_byte_s: 3, between_chunks_s: 3, answer_s: 10}}}}
guard: {{threads: 1}}
limits: {{stream_bytes: 1000000, reply_bytes: 1000000}}
console: {{enabled: false}}
log: {{level: error, format: json}}
"""
_FAULTS = (
    *("silent", "closes", "resets", "no-http", "endless-head", "stalled-body", "short-body", "no-json", "endless-body"),
    *("stalls", "slow-stream", "dies", "resets-late", "bad-chunk", "bad-frame", "comments", "old-stream", "old-dies"),
)
_SLOWEST_S = 10.0
_REPLY = "The train leaves at noon, and the walk along the river takes an hour."


class Speaker(RawUpstream):
    """An upstream that answers every protocol; a request whose model is the name of a fault gets that fault."""

    def play(self, connection: socket.socket, target: str, body: Mapping[str, Any]) -> bool:
        """Answer a request; return whether the connection stays open."""
        if body.get("model") in _FAULTS:
            return super().play(connection, target, body)
        protocol, stream = _protocol_of(target, body)
        if not stream:
            connection.sendall(whole(plain(protocol.whole(_REPLY))))
            return True
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {protocol.content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for frame in protocol.streamed(_REPLY.split(" ")):
            connection.sendall(chunk(frame))
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")
        return True


_SPOKEN = [PROTOCOLS[name] for name in ("chat", "completions", "responses", "messages", "ollama-chat", "gemini")]


def _protocol_of(target: str, body: Mapping[str, Any]) -> tuple[Protocol, bool]:
    for protocol in _SPOKEN:
        for stream in (False, True):
            if target.partition("?")[0] == protocol.target(stream=stream).partition("?")[0]:
                return protocol, stream if protocol.name == "gemini" else bool(body.get("stream"))
    raise ValueError(target)


class Load:
    """Requests of every kind, and what became of them."""

    def __init__(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        self._client = client
        self._draw = draw
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.slowest = 0.0

    async def ordinary(self) -> None:
        """A request of any protocol."""
        protocol, stream = self._draw.choice(_SPOKEN), self._draw.random() < 0.2
        began = time.monotonic()
        got = await self._post(protocol, text_of(self._draw, 120), stream=stream)
        self.slowest = max(self.slowest, time.monotonic() - began)
        outcome = f"HTTP {got.status_code}" if got is not None else "nothing"
        self.outcomes[outcome] += 1
        if got is None or got.status_code not in {200, 503, 529}:
            self.wrong[f"{protocol.name}: {outcome}"] += 1

    async def fault(self) -> None:
        """A request whose upstream breaks."""
        name = self._draw.choice(_FAULTS)
        stream = any(word in name for word in ("stream", "stalls", "dies", "late", "bad", "comments"))
        body = {**PROTOCOLS["chat"].ask(text_of(self._draw, 120), stream), "model": name}
        began = time.monotonic()
        with suppress(httpx.TransportError):
            await self._client.post("/v1/chat/completions", json=body)
        self.slowest = max(self.slowest, time.monotonic() - began - 10)  # `answer_s` is the upstream's share of it
        self.outcomes["fault"] += 1

    async def leaves(self) -> None:
        """A client that leaves within a second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._draw.random()):
                await self._post(self._draw.choice(_SPOKEN), text_of(self._draw, 120), stream=self._draw.random() < 0.5)
        self.outcomes["left"] += 1

    async def one(self) -> None:
        """A request of any kind."""
        kind = self._draw.random()
        await (self.ordinary() if kind < 0.75 else self.fault() if kind < 0.875 else self.leaves())

    async def _post(self, protocol: Protocol, text: str, *, stream: bool) -> httpx.Response | None:
        try:
            return await self._client.post(protocol.target(stream=stream), json=protocol.ask(text, stream))
        except httpx.TransportError as error:
            self.wrong[type(error).__name__] += 1
            return None


async def capacity(load: Load, clients: int, seconds: float) -> float:
    """Ordinary requests per second of clients that ask one after the other."""
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await load.ordinary()

    await asyncio.gather(*(one() for _ in range(clients)))
    return load.outcomes["HTTP 200"] / seconds


async def run(proxy: Proxy, args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=proxy.url, timeout=60, limits=limits) as client:
        first = Load(client, random.Random(args.seed))
        rate = args.share * await capacity(first, args.clients, min(15.0, args.seconds))
        print(
            f"capacity {rate / args.share:.1f} ordinary requests/s; load {rate:.1f} requests/s for {args.seconds:g} s"
        )
        await asyncio.sleep(6)
        before, memory = proxy.counts(), [proxy.rss()]
        load, tasks, began = Load(client, random.Random(args.seed + 1)), set(), time.monotonic()
        while (now := time.monotonic()) < began + args.seconds:
            task = asyncio.create_task(load.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if (now - began) / args.seconds > len(memory) / 10:
                memory.append(proxy.rss())
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
    memory.append(proxy.rss())
    print(json.dumps({"outcomes": load.outcomes, "wrong": load.wrong, "slowest_s": round(load.slowest, 1)}))
    print("memory in MB:", *(size >> 20 for size in memory))
    held = _held_after(proxy, before)
    print(f"before {before}; after {held}")
    late = load.slowest > _SLOWEST_S
    return int(bool(load.wrong) or late or (held.tasks, held.held_bytes) != (before.tasks, 0))


def _held_after(proxy: Proxy, before: Counts) -> Counts:
    """What the proxy holds when idle connections are closed, after at most half a minute."""
    end = time.monotonic() + 30
    while (now := proxy.counts()) != before and time.monotonic() < end:
        time.sleep(0.5)
    return now


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder, raw_upstream(Speaker) as upstream:
        config = _CONFIG.format(upstream=upstream.url)
        with serving(Path(folder), config, f"sqlite:///{folder}/audit.sqlite3") as proxy:
            status = asyncio.run(run(proxy, args))
            verify = [sys.executable, "-m", "guardproxy", "audit", "verify", "--data-dir", folder]
            print("audit verify:", subprocess.run(verify, check=False, capture_output=True, text=True).stdout.strip())
            return status


if __name__ == "__main__":
    sys.exit(main())
