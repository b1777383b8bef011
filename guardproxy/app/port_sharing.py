"""One port for several workers: a new connection goes to a worker that has no more open ones than the others.

The kernel wakes all processes that wait on a socket, and the first one of them would take every connection that is
there: of 32 connections that a client's pool opens at once, one of two workers often got all.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

# Seconds for which a worker leaves a new connection to those that have fewer. One that hangs cannot take it.
_LEAVE_S: Final = 0.02
# How many it takes then, before it waits again: together the rate if the others hang.
_AT_ONCE: Final = 4
# Seconds until it tries again if the system has no descriptor or memory for a connection.
_PAUSE_S: Final = 1.0
_WORKERS: Final = 256  # with a count of their own
_CELL_BYTES: Final = 8

_log = structlog.get_logger("guardproxy.server")


class ConnectionCounts:
    """The open connections of each worker, in a file that they map: pairs of a process id and a number."""

    @staticmethod
    def create(path: Path) -> None:
        """Write the file. Raises OSError."""
        path.write_bytes(bytes(2 * _CELL_BYTES * _WORKERS))

    def __init__(self, path: Path) -> None:
        """Take the place of a process that has ended, or a new one. Raises OSError."""
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
            fcntl.flock(file, fcntl.LOCK_EX)
            pids = self._cells[::2]
            self._place = 2 * next(place for place, pid in enumerate(pids) if not _lives(pid))
            self._cells[self._place + 1] = 0
            self._cells[self._place] = os.getpid()
            fcntl.flock(file, fcntl.LOCK_UN)  # the map has a descriptor of its own, which would keep the lock

    def add(self, change: int) -> None:
        """Change the number of this worker."""
        self._cells[self._place + 1] += change

    def another_has_fewer(self) -> bool:
        """Whether another worker that lives has fewer."""
        own = self._cells[self._place + 1]
        return any(
            self._cells[place + 1] < own and place != self._place and _lives(self._cells[place])
            for place in range(0, len(self._cells), 2)
        )

    def leave(self) -> None:
        """Give the place back: this worker takes no more connections."""
        self._cells[self._place] = 0


class SharedPortLoop(uvloop.Loop):
    """uvloop's loop, whose servers on a socket of several processes leave connections to those that have fewer.

    `counts` is the file of `ConnectionCounts`. Protocols tell `connection_changed` of each connection.
    """

    def __init__(self, counts: Path) -> None:
        super().__init__()
        self._counts = ConnectionCounts(counts)

    def connection_changed(self, change: int) -> None:
        """A connection has opened (1) or closed (-1)."""
        self._counts.add(change)

    async def create_server(self, protocol_factory: Any, *arguments: Any, **options: Any) -> Any:
        """A server. One on a socket with SO_REUSEPORT has the connections that the kernel chose for it alone."""
        shared = options.get("sock")
        if shared is None or shared.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            return await super().create_server(protocol_factory, *arguments, **options)
        shared.listen(options["backlog"])
        return SharedListener(self, shared, protocol_factory, options.get("ssl"), self._counts)


class SharedListener:
    """A server as uvicorn uses one, which leaves connections for a moment to workers that have fewer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        protocol_factory: Callable[[], asyncio.Protocol],
        tls: Any,
        counts: ConnectionCounts,
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._socket.setblocking(False)
        self._protocol_factory = protocol_factory
        self._tls = tls
        self._counts = counts
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = loop.create_task(self._accept(), name="accept")

    def close(self) -> None:
        """Take no more connections. Those that are open stay open."""
        self._accepting.cancel()
        self._counts.leave()

    async def wait_closed(self) -> None:
        """Wait until `close` has taken effect."""
        await asyncio.wait([self._accepting, *self._opening])

    async def _accept(self) -> None:
        while True:
            await self._readable()
            most = 1
            if self._counts.another_has_fewer():
                await asyncio.sleep(_LEAVE_S)
                most = _AT_ONCE
            try:
                for _ in range(most):
                    self._take(self._socket.accept()[0])
            except (BlockingIOError, ConnectionAbortedError):
                continue  # another worker has taken it, or the client is gone
            except OSError as error:
                _log.error("accept_failed", error=str(error), again_s=_PAUSE_S)
                await asyncio.sleep(_PAUSE_S)

    async def _readable(self) -> None:
        """Wait until a connection is there."""
        there: asyncio.Future[None] = self._loop.create_future()

        def ready() -> None:
            if not there.done():
                there.set_result(None)

        self._loop.add_reader(self._socket, ready)
        try:
            await there
        finally:
            self._loop.remove_reader(self._socket)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._counts.add(1)  # until the protocol counts it: with TLS, when the handshake is done
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            # A client that fails the handshake has its connection closed; there is no request to answer.
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(self._protocol_factory, connection, ssl=self._tls)
        finally:
            self._counts.add(-1)


def _lives(pid: int) -> bool:
    """Whether a process has this id; 0 is none."""
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
