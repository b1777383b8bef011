"""The upstream's call, which may begin while the request is still judged."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from guardproxy.web.upstream import UpstreamResponse


class UpstreamCall:
    """Calls the upstream once its body is known, or with `early`, a body, from the beginning of the context on.

    `send` opens the call with a body. An early call is used if the request is forwarded as it came; otherwise it is
    cancelled, and its connection is closed. Nothing of its answer is read before `answer`.
    """

    def __init__(
        self, send: Callable[[bytes], AbstractAsyncContextManager[UpstreamResponse]], early: bytes | None = None
    ) -> None:
        self._send = send
        self._early = early
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[UpstreamResponse] | None = None
        self._began = self._answered = 0.0
        self.saved_s: float | None = None
        """The seconds for which the early call and the judging ran at the same time, once it is used."""

    async def __aenter__(self) -> Self:
        if self._early is not None:
            self._began = time.perf_counter()
            self._task = asyncio.create_task(self._open(self._early))
        return self

    async def _open(self, body: bytes) -> UpstreamResponse:
        try:
            return await self._stack.enter_async_context(self._send(body))
        finally:
            self._answered = time.perf_counter()

    def answer(self, body: bytes) -> AbstractAsyncContextManager[UpstreamResponse]:
        """The answer to the request with this body. Raises the errors of `send`."""
        return self._send(body) if self._task is None else self._answer(self._task, body)

    @asynccontextmanager
    async def _answer(self, early: asyncio.Task[UpstreamResponse], body: bytes) -> AsyncIterator[UpstreamResponse]:
        if body != self._early:
            await self.stop()
            async with self._send(body) as response:
                yield response
            return
        judged = time.perf_counter()
        response = await early
        self.saved_s = min(judged, self._answered) - self._began
        yield response

    async def stop(self) -> None:
        """Cancel an early call, and close its connection."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # nobody else asks for it, which asyncio would log
        await self._stack.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
