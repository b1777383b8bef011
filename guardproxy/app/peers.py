"""Calls between two processes of the server, over a socket: JSON messages, each behind its length."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from guardproxy.app.reloading import Gone
from guardproxy.errors import ConfigError

log = structlog.get_logger("guardproxy")

Handler = Callable[[Any], Awaitable[Any]]


class Peer:
    """The other end of a connection: `call` calls its handlers, `run` answers its calls with `handlers`.

    Arguments and answers are JSON values. A ConfigError of a handler is raised at the caller.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.closed = False
        """Whether the connection has ended."""

    async def run(self) -> None:
        """Answer calls until the connection ends; then every call that waits raises Gone."""
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                message = json.loads(await self._reader.readexactly(size))
                if "call" in message:
                    number = message["number"]
                    self._tasks[number] = task = asyncio.create_task(self._answer(message))
                    task.add_done_callback(partial(self._ended, number))
                elif "drop" in message:
                    if (dropped := self._tasks.get(message["drop"])) is not None:
                        dropped.cancel()
                else:
                    self._take(message)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.closed = True
            for task in self._tasks.values():
                task.cancel()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Gone("the connection has ended"))
            self._writer.close()

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
        data = json.dumps(message).encode()
        self._writer.write(len(data).to_bytes(4, "big") + data)

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
            if not self.closed:
                self._write({"drop": number})
            raise
        finally:
            del self._waiting[number]


@contextmanager
def socket_in(folder: Path, name: str) -> Iterator[str]:
    """The path of a socket in `folder`, by a descriptor: the address of a socket has at most 107 characters."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
