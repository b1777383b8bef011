"""Calls between two processes of the server, over a socket: JSON messages, each behind its length."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

import structlog

from guardproxy.app.reloading import Gone
from guardproxy.errors import ConfigError

log = structlog.get_logger("guardproxy")

_LENGTH: Final = 4  # bytes of a message's length

Handler = Callable[[Any], Awaitable[Any]]


class Peer(asyncio.Protocol):
    """The other end of a connection: `call` calls its handlers, and its calls are answered with `handlers`.

    Arguments and answers are JSON values. A ConfigError of a handler is raised at the caller. When the connection ends,
    every call that waits raises Gone, and every call that is answered is cancelled.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether there is no connection, or not any more."""
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take every message that is complete."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) >= start + _LENGTH:
            end = start + _LENGTH + int.from_bytes(buffer[start : start + _LENGTH], "big")
            if len(buffer) < end:
                break
            self._received(json.loads(buffer[start + _LENGTH : end]))
            start = end
        del buffer[:start]

    def connection_lost(self, error: Exception | None) -> None:
        """End what waits at both ends."""
        self._transport = None
        for task in self._tasks.values():
            task.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Gone("the connection has ended"))
        self._lost.set()

    async def run(self) -> None:
        """Wait for the end of the connection; end it when this is cancelled."""
        try:
            await self._lost.wait()
        finally:
            if self._transport is not None:
                self._transport.close()

    def _received(self, message: Mapping[str, Any]) -> None:
        if "call" in message:
            number = message["number"]
            self._tasks[number] = task = asyncio.ensure_future(self._answer(message))
            task.add_done_callback(partial(self._ended, number))
        elif "drop" in message:
            if (dropped := self._tasks.get(message["drop"])) is not None:
                dropped.cancel()
        else:
            self._take(message)

    def _ended(self, number: int, _: asyncio.Task[None]) -> None:
        self._tasks.pop(number, None)

    def _take(self, message: Mapping[str, Any]) -> None:
        waiting = self._waiting.get(message["answer"])
        if waiting is None or waiting.done():
            return  # the caller waits no longer
        if "problems" in message:
            waiting.set_exception(ConfigError(message["problems"]))
        else:
            waiting.set_result(message["value"])

    async def _answer(self, message: Mapping[str, Any]) -> None:
        answer = {"answer": message["number"]}
        try:
            answer["value"] = await self._handlers[message["call"]](message["value"])
        except ConfigError as error:
            answer["problems"] = error.problems
        except Exception as error:  # otherwise the caller would wait for ever
            log.exception("call_broke", call=message["call"])
            answer["problems"] = [f"{message['call']} broke: {type(error).__name__}; the log has the details"]
        self._write(answer)

    def _write(self, message: Mapping[str, Any]) -> None:
        if self._transport is not None:
            data = json.dumps(message, separators=(",", ":")).encode()
            self._transport.write(len(data).to_bytes(_LENGTH, "big") + data)

    async def call(self, name: str, value: Any = None, *, timeout_s: float | None) -> Any:
        """Call the handler `name` of the other end. Raises its ConfigError, TimeoutError, and Gone without a peer.

        A call that is cancelled or late is cancelled at the other end.
        """
        if self.closed:
            raise Gone("the connection has ended")
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"call": name, "number": number, "value": value})
            async with asyncio.timeout(timeout_s):
                return await self._waiting[number]
        except (asyncio.CancelledError, TimeoutError):
            self._write({"drop": number})
            raise
        finally:
            del self._waiting[number]


async def connected(folder: Path, name: str, handlers: Mapping[str, Handler]) -> Peer:
    """A connection to the socket `name` in `folder`. Raises OSError."""
    with _address(folder, name) as address:
        _, peer = await asyncio.get_running_loop().create_unix_connection(lambda: Peer(handlers), address)
    return peer


async def listening(folder: Path, name: str, accept: Callable[[], Peer]) -> asyncio.Server:
    """A server on the socket `name` in `folder`; `accept` makes the peer of a new connection. Raises OSError."""
    with _address(folder, name) as address:
        return await asyncio.get_running_loop().create_unix_server(accept, address)


@contextmanager
def _address(folder: Path, name: str) -> Iterator[str]:
    """The path of a socket in `folder`, by a descriptor: the address of a socket has at most 107 characters."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
