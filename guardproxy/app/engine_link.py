"""The way of a worker to the engine process of its group, in which the guards' models run."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from guardproxy.app.peers import Peer, connected
from guardproxy.app.reloading import Gone
from guardproxy.asking import Asker
from guardproxy.checkapi import failure_of, verdict_of
from guardproxy.errors import ConfigError
from guardproxy.guards.links import GuardIdentity, ReplicaFailed, call_for
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.types import Check, Taxonomy, Verdict
from guardproxy.upstreams import Ejection

log = structlog.get_logger("guardproxy")

ENGINE: Final = "engine"
"""The name of the engine's socket in the folder of the group."""

SERVED: Final = "served"
"""The name of the file in the folder of the group that is there once a worker of it was ready."""

# Seconds between two attempts to connect while the worker starts.
_PAUSE_S: Final = 0.1
# Seconds before the first new question to an engine that cannot load its models, and the most between two of them.
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 8.0
_EJECTION: Final = Ejection(failures=3, first_s=0.5, longest_s=2.0)


class EngineConnection:
    """The connection of a worker to the engine whose socket is in `folder`; made anew when it has ended."""

    def __init__(self, folder: Path) -> None:
        self.dtypes: Mapping[str, str] = {}
        """The type of the weights of every model, by the guard's name, once they are loaded."""
        self._folder = folder
        self._peer: Peer | None = None
        self._running: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    def guard(self, name: str, taxonomy: Taxonomy, *, timeout_s: float, floor: float) -> ReplicaGuard:
        """The guard `name` of the engine. A check that the engine loses fails at once: there is no other one to ask."""
        options = AskOptions(timeout_s=timeout_s, attempts=1, check_every_s=1.0, start_s=None, ejection=_EJECTION)
        return ReplicaGuard(name, taxonomy, [EngineLink(self, name)], options, floor=floor)

    async def loaded(self) -> None:
        """Wait until the engine has loaded its models. Raises ConfigError if it cannot.

        Once a worker was ready, what keeps a new engine from loading them may pass: then this waits, as others do.
        """
        pause_s = _FIRST_S
        while True:
            try:
                with suppress(Gone, ReplicaFailed):
                    self.dtypes = await self.call("loaded")
                    return
            except ConfigError as error:
                if not (self._folder / SERVED).exists():
                    raise
                log.error("engine_cannot_load", error=str(error), again_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_S)
            await asyncio.sleep(_PAUSE_S)

    async def call(self, name: str, value: Any = None) -> Any:
        """Call a handler of the engine. Raises its ConfigError, Gone, and ReplicaFailed without a connection."""
        peer = self._peer
        if peer is None or peer.closed:
            peer = await self._connected()
        return await peer.call(name, value, timeout_s=None)

    async def _connected(self) -> Peer:
        async with self._connecting:
            if self._peer is None or self._peer.closed:
                try:
                    self._peer = await connected(self._folder, ENGINE, {})
                except OSError as error:
                    raise ReplicaFailed("unsent", f"the engine process is not running ({error.strerror})") from None
                self._running = asyncio.create_task(self._peer.run(), name="engine")
            return self._peer

    async def close(self) -> None:
        """End the connection."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])


class EngineLink:
    """Implements `ReplicaLink` for one guard of the engine."""

    def __init__(self, connection: EngineConnection, guard: str) -> None:
        self.name = ENGINE
        self._connection = connection
        self._guard = guard

    async def identity(self) -> GuardIdentity:
        """What the guard is. Raises ReplicaFailed, also while its model is loaded."""
        found = await self._call("identity", self._guard)
        if found is None:
            raise ReplicaFailed("declined", "the engine process is loading its models")
        return GuardIdentity(*found)

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The verdict, and the version of the guard. Raises as `ReplicaLink.judge`."""
        value = {"guard": self._guard, "call": call_for(check, asker)}
        answer = await self._call("judge", value)
        if "failure" in answer:
            status, body = answer["failure"]
            raise failure_of(status, body.encode())
        return verdict_of(answer["verdict"]), answer["version"]

    def facts(self) -> dict[str, str | int]:
        """Nothing: the engine is of this program."""
        return {}

    async def forget(self, stream: str) -> None:
        """Tell the guard that a streamed reply has ended. Raises ReplicaFailed."""
        await self._call("forget", {"guard": self._guard, "stream": stream})

    async def close(self) -> None:
        """Do nothing: other guards may use the connection."""

    async def _call(self, name: str, value: Any) -> Any:
        try:
            return await self._connection.call(name, value)
        except Gone:
            raise ReplicaFailed("unknown", "the engine process has ended") from None
        except ConfigError as error:
            raise ReplicaFailed("failed", str(error)) from None
