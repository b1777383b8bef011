"""Several worker processes as one server: reloaded together, seen as one by /healthz and /metrics.

The parent process follows the configuration file, and has all workers try its policies before any of them switches. A
worker that begins later, in place of one that has ended, takes the policies in force, whatever the file says by then.
"""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from guardproxy.app.engine_keeper import EngineKeeper
from guardproxy.app.engine_link import SERVED
from guardproxy.app.group_state import GroupState, KeptState
from guardproxy.app.peers import Handler, Peer, connected, listening
from guardproxy.app.policy_file import ConfigSource, PolicyFile
from guardproxy.app.reloading import Gone, Reloader
from guardproxy.errors import ConfigError
from guardproxy.observe.families import Families, merged, rendered
from guardproxy.observe.metrics import Metrics
from guardproxy.settings import replace_text

GROUP: Final = "workers"
"""The name of the parent's socket in the folder of the group."""

# Seconds in which a worker must have tried new policies: the canaries of a slow guard, each with its time-out.
_ATTEMPT_S = 120.0
_SWITCH_S = 10.0
# Seconds for which a worker leaves requests to the others until it can judge.
_LEFT_S = 10.0
# Seconds in which the parent must have ended what runs beside the workers.
_END_S = 30.0
# A busy worker that does not answer a scrape by then is counted as it was at the latest one.
_SCRAPE_S = 2.0


class _RemoteWorker:
    """A worker as the parent sees it: a `Participant`, with its metrics as they were when it last told them."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.metrics: Families = []

    async def attempt(self, text: str) -> tuple[str, tuple[str, ...]]:
        try:
            version, restart = await self.peer.call("attempt", text, timeout_s=_ATTEMPT_S)
        except TimeoutError:
            raise ConfigError(f"a worker has not tried the new policies within {_ATTEMPT_S:g} seconds") from None
        return version, tuple(restart)

    async def switch(self) -> None:
        await self.peer.call("switch", timeout_s=_SWITCH_S)

    async def refused(self, problems: Sequence[str]) -> None:
        await self.peer.call("refused", list(problems), timeout_s=_SWITCH_S)

    async def scraped(self) -> Families:
        """Its metrics now, or those of the latest scrape if it does not answer in time."""
        with contextlib.suppress(TimeoutError, Gone, ConfigError):
            self.metrics = await self.peer.call("metrics", timeout_s=_SCRAPE_S)
        return self.metrics


class WorkerGroup:
    """The workers in their parent process: a thread that listens on a socket in `folder`, to which they connect.

    With an `engine`, they share its models: it is started before them, and ended behind them.
    """

    def __init__(self, folder: Path, source: ConfigSource, engine: EngineKeeper | None = None) -> None:
        self._folder = folder
        self._workers: list[_RemoteWorker] = []
        self._members: list[_RemoteWorker] = []
        self._ended: Families = []
        self._path = source.config or ""
        self._reloader = Reloader(source.config, source.text, source.stamp, lambda: list(self._members))
        self._first = source.text
        self._engine = engine
        self._state = KeptState()
        self._following: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
        self._listening = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_END_S)

    def ask(self) -> None:
        """Have the configuration file read again. From any thread."""
        self._loop.call_soon_threadsafe(self._reloader.ask)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(listening(self._folder, GROUP, self._accept))
        tasks = [self._loop.create_task(self._reloader.follow())]
        if self._engine is not None:
            tasks.append(self._loop.create_task(self._engine.keep()))
        self._listening.set()
        self._loop.run_forever()
        for task in tasks:
            task.cancel()
        server.close()
        self._loop.run_until_complete(asyncio.wait(tasks))
        if self._engine is not None:
            self._loop.run_until_complete(self._engine.close())

    def _accept(self) -> Peer:
        handlers: dict[str, Handler] = {"save": self._save, "scrape": self._scrape, **self._state.handlers}
        peer = Peer(handlers)
        worker = _RemoteWorker(peer)
        handlers["join"] = partial(self._join, worker)
        handlers["leave"] = partial(self._leave, worker)
        self._workers.append(worker)
        task = self._loop.create_task(self._until_gone(worker))
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return peer

    async def _until_gone(self, worker: _RemoteWorker) -> None:
        try:
            await worker.peer.run()
        finally:
            self._workers.remove(worker)
            await self._leave(worker)
            # What it has counted stays counted: a sum that falls would look like a restart of the server.
            self._ended = merged([self._ended, worker.metrics], ended=True)

    async def _join(self, worker: _RemoteWorker, _: object) -> Mapping[str, Any]:
        async with self._reloader.changing:
            self._members.append(worker)
            (self._folder / SERVED).touch()
            new = self._reloader.text if self._reloader.text != self._first else None
            return {"text": new, "problems": self._reloader.problems}

    async def _leave(self, worker: _RemoteWorker, _: object = None) -> None:
        if worker in self._members:
            self._members.remove(worker)

    async def _save(self, change: Mapping[str, str]) -> None:
        """Replace the file by a text and put it in force, for a worker whose console has changed it."""
        old, text = change["old"].encode(), change["text"]
        try:
            await self._reloader.change(text, partial(asyncio.to_thread, replace_text, self._path, old, text))
        except Gone as error:
            raise ConfigError("the workers do not answer; try again") from error

    async def _scrape(self, _: object) -> Families:
        found = await asyncio.gather(*(worker.scraped() for worker in self._workers))
        return merged([self._ended, *found, *([self._engine.families()] if self._engine is not None else [])])


class Membership:
    """A worker process in the group of its parent. `connect` first; `join` when its guard can judge."""

    def __init__(self, folder: Path, file: PolicyFile, metrics: Metrics) -> None:
        self.state = GroupState(self._call)
        """What the workers know together."""
        self._folder = folder
        self._file = file
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        self._peer: Peer | None = None
        self._running: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect to the parent, which can then ask for the metrics. Raises OSError."""
        handlers = {"attempt": self._attempt, "switch": self._switch, "refused": self._file.refused}
        self._peer = await connected(self._folder, GROUP, {**handlers, "metrics": self._families})
        self._running = asyncio.create_task(self._peer.run(), name="workers")
        self._file.save_by(self._save)

    async def leave_to_others(self, starting: asyncio.Task[None]) -> None:
        """Wait until a worker that takes the place of another has started, but not for ever: then it says why not."""
        if (self._folder / SERVED).exists():
            await asyncio.wait([starting], timeout=_LEFT_S)

    async def join(self) -> None:
        """Take part in reloads from now on, with the policies in force. Raises ConfigError if the guard fails them."""
        async with self._one_at_a_time:
            answer = await self._parent.call("join", timeout_s=_ATTEMPT_S)
            if answer["text"] is not None:
                try:
                    await self._file.attempt(answer["text"])
                except ConfigError:
                    await self._parent.call("leave", timeout_s=_SWITCH_S)
                    raise
                await self._file.switch()
            if answer["problems"]:
                await self._file.refused(answer["problems"])

    async def close(self) -> None:
        """End the connection."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    @property
    def _parent(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("not connected")
        return self._peer

    async def _call(self, name: str, value: Any, *, timeout_s: float) -> Any:
        return await self._parent.call(name, value, timeout_s=timeout_s)

    async def _attempt(self, text: str) -> tuple[str, tuple[str, ...]]:
        async with self._one_at_a_time:
            return await self._file.attempt(text)

    async def _switch(self, _: object) -> None:
        await self._file.switch()

    async def _families(self, _: object) -> Families:
        return self._metrics.families()

    async def _save(self, text: str, old: bytes) -> None:
        await self._parent.call("save", {"text": text, "old": old.decode()}, timeout_s=_ATTEMPT_S + _SWITCH_S)

    async def scrape(self) -> tuple[str, bytes]:
        """The content type and the body of a scrape of all workers; of this one alone if the parent does not answer."""
        try:
            return rendered(await self._parent.call("scrape", timeout_s=2 * _SCRAPE_S))
        except (Gone, TimeoutError, ConfigError):
            return self._metrics.render()
