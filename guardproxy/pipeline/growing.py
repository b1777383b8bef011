"""Replies that are judged again and again while they grow, because a caller asks: each is recorded once, at its end.

Most callers do not say which text is the last one, so a reply has ended when nothing more came for a while.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from guardproxy.errors import AuditUnavailable

log = structlog.get_logger("guardproxy.audit")

Write = Callable[[], Coroutine[Any, Any, None]]


class GrowingReplies:
    """Keeps what there is to record of each reply, by its name, until nothing more has come for `wait_s` seconds."""

    def __init__(self, wait_s: float = 10.0) -> None:
        self._wait_s = wait_s
        self._waiting: dict[str, tuple[Write, asyncio.Task[None]]] = {}

    def grown(self, name: str, write: Write) -> None:
        """Write this record of the reply, in place of the one that waits, unless another one takes its place."""
        self.ended(name)
        self._waiting[name] = write, asyncio.create_task(self._write_later(name))

    def ended(self, name: str) -> None:
        """Drop the record that waits: a later one is written at once."""
        if waiting := self._waiting.pop(name, None):
            waiting[1].cancel()

    async def finish(self, name: str) -> None:
        """Write the record that waits: the reply has ended."""
        if waiting := self._waiting.pop(name, None):
            waiting[1].cancel()
            await _written(waiting[0])

    async def close(self) -> None:
        """Write the records that wait."""
        for write, task in self._waiting.values():
            task.cancel()
            await _written(write)
        self._waiting.clear()

    async def _write_later(self, name: str) -> None:
        await asyncio.sleep(self._wait_s)
        write, _ = self._waiting.pop(name)
        await _written(write)


async def _written(write: Write) -> None:
    try:
        await write()
    except AuditUnavailable as error:  # only with `audit.required`, which writes every record at once
        log.error("record_not_stored", error=str(error))
