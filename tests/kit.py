"""Helpers of many tests: a scripted upstream, a guard that finds words, and uvicorn in a thread."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.app.protocol import WithoutTrailers
from guardproxy.errors import GuardUnavailable
from guardproxy.types import Category, Check, Finding, Record, Taxonomy, Verdict

# Ports below those that systems give to outgoing connections, which any process may take at any time.
_PORTS = iter(random.SystemRandom().sample(range(16_000, 32_000), 16_000))


def free_port() -> int:
    """A free port of the loopback interface, another one each time."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def until(holds: Callable[[], Any], why: str = "it does not happen", seconds: float = 60.0) -> Any:
    """Wait until something holds, and return it."""
    end, pause_s = time.monotonic() + seconds, 0.01
    while not (found := holds()):
        assert time.monotonic() < end, why
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.2)  # what takes longer, such as the start of a process, is asked less often
    return found


async def eventually(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something holds, while other tasks of the event loop run."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what holds is set by the code under test, which has no event for it
            await asyncio.sleep(0.002)


def children(process: int, words: bytes = b"") -> list[int]:
    """The ids of a process's own processes with these words in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process and words in command:
            found.append(int(folder.name))
    return sorted(found)


def forking(process: int) -> list[int]:
    """The id of the process from which the workers of a server fork."""
    return children(process, b"multiprocessing.forkserver")


def workers_of(process: int) -> list[int]:
    """The ids of the workers of a server."""
    return [worker for one in forking(process) for worker in children(one)]


@contextmanager
def serve(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve `app` with uvicorn in a thread, on a free port of the loopback interface; yield its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        settings = {"log_config": None, "access_log": False, "server_header": False, "date_header": False}
        settings |= {"http": WithoutTrailers, "ws": "none", **options}
        server = _Server(uvicorn.Config(app, timeout_graceful_shutdown=2, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.running.wait(0.1):
                assert thread.is_alive(), "the application did not start"
                assert time.monotonic() < deadline, "the application did not start in time"
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.end()
            thread.join(60)
            assert not thread.is_alive(), "the application did not end"


class _Server(uvicorn.Server):
    """uvicorn's server without its pauses: it looks every tenth of a second whether to end, and waits as long then."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.running = threading.Event()
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """End the server, from another thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended by itself
                self._loop.call_soon_threadsafe(self._ended.set)

    async def main_loop(self) -> None:
        """Wait for `end`."""
        await self.on_tick(0)
        self._loop = asyncio.get_running_loop()
        self.running.set()
        if not self.should_exit:
            await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection, close those that are idle, and wait for the others."""
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - of uvicorn
                    await asyncio.sleep(0.002)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


@dataclass(frozen=True)
class Seen:
    """A request as the upstream received it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True)
class Scripted:
    """An answer. `body` lists what to do, in order: send bytes, wait seconds or for an event, or break off (None)."""

    body: Sequence[bytes | float | threading.Event | None] = (b"",)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass
class ScriptedUpstream:
    """An ASGI application that keeps every request and answers with `script` in order, the last answer repeatedly.

    `left` is set when a client has left, `pauses` when an answer has come to a pause.
    """

    script: list[Scripted]
    seen: list[Seen] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    pauses: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        self.seen.append(Seen(scope["method"], target, headers, body))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        play = asyncio.create_task(self._play(answer, send))
        watch = asyncio.create_task(self._watch(receive))
        try:
            await asyncio.wait({play, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            play.cancel()
            await asyncio.wait({play, watch})
        if not play.cancelled():
            play.result()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def _play(self, answer: Scripted, send: Send) -> None:
        head = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        for item in answer.body:
            if item is None:
                return
            if isinstance(item, threading.Event | float | int):
                self.pauses.set()
            if isinstance(item, threading.Event):
                await eventually(item.is_set)
            elif isinstance(item, float | int):
                await asyncio.sleep(item)
            else:
                await send({"type": "http.response.body", "body": item, "more_body": True})
                await asyncio.sleep(0)
        await send({"type": "http.response.body"})


class WordGuard:
    """A guard that finds the (category, probability) of each of `words` in a text. A text with FAIL fails."""

    def __init__(self, words: Mapping[str, tuple[str, float]], delay_s: float = 0.0) -> None:
        self.name = "words"
        self.words = words
        self.delay_s = delay_s
        self.taxonomy = Taxonomy("words", tuple(Category(c, c) for c in sorted({c for c, _ in words.values()})))
        self.asked: list[Check] = []
        self.cancelled = threading.Event()

    async def judge(self, check: Check) -> Verdict:
        self.asked.append(check)
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        text = check.turn.text
        if "FAIL" in text:
            raise GuardUnavailable("told to fail")
        found = tuple(Finding(category, p) for word, (category, p) in self.words.items() if word in text)
        return Verdict(max((finding.probability for finding in found), default=0.0), found, self.name)

    def forget(self, stream: str) -> None:
        pass

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


class ListSink:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def write(self, records: Sequence[Record]) -> None:
        self.records += records

    async def close(self) -> None:
        pass


WORDS = {"poison": ("weapons", 0.9), "secret": ("privacy", 0.9), "rude": ("hate", 0.9)}
