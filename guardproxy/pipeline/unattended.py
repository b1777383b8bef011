"""Texts whose client has left: they are judged to their end all the same, so that the audit lacks none of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


class Unattended:
    """Judging that goes on although its client has left, each time for at most `limit_s` seconds.

    The texts of all such work may have `max_size` characters together: what goes beyond is stopped at once. Work that
    is stopped is cancelled, and may still write its records.
    """

    def __init__(self, limit_s: float, max_size: int) -> None:
        self._limit_s = limit_s
        self._max_size = max_size
        self._size = 0
        self._watches: set[asyncio.Task[None]] = set()

    async def attended(self, work: Coroutine[Any, Any, T], size: int) -> T:
        """The result of `work`. If the caller is cancelled, the work goes on; `size` is that of its texts."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._watch(task, size)
            raise

    def go_on(self, work: Coroutine[Any, Any, None], size: int) -> None:
        """Start `work` for a client that has left; `size` is the number of characters of its texts."""
        self._watch(asyncio.ensure_future(work), size)

    def _watch(self, task: "asyncio.Future[Any]", size: int) -> None:
        watch = asyncio.ensure_future(self._bounded(task, size))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def _bounded(self, task: "asyncio.Future[Any]", size: int) -> None:
        self._size += size
        try:
            # The work has started when this line runs, so it can write its records even if it is stopped now.
            await asyncio.wait({task}, timeout=self._limit_s if self._size <= self._max_size else 0)
        finally:
            if not task.done():
                log.warning("unattended_stopped", characters=size, limit_s=self._limit_s)
                task.cancel()
                await asyncio.wait({task})
            self._size -= size
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("unattended_failed", error=f"{type(error).__name__}: {error}")

    async def close(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` seconds for the work that goes on, and stop the rest."""
        if not self._watches:
            return
        _, late = await asyncio.wait(self._watches, timeout=timeout_s)
        for watch in late:
            watch.cancel()
        if late:
            await asyncio.wait(late)
