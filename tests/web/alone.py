"""The proxy called in process, over an upstream transport with scripted answers: no socket, no server."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from structlog.testing import capture_logs

from guardproxy.web.upstream import Upstream
from tests.kit import Scripted, Seen
from tests.web.kit import parts_of

CHAT = "/v1/chat/completions"
Pairs = list[tuple[bytes, bytes]]


class _Body(httpx.AsyncByteStream):
    def __init__(self, script: Scripted, pauses: list[float]) -> None:
        self._script = script
        self._pauses = pauses

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for item in self._script.body:
            if item is None:
                raise httpx.ReadError("broken off")
            if isinstance(item, bytes):
                yield item
            else:
                await asyncio.sleep(item)
                self._pauses.append(item)


@dataclass
class ScriptedTransport(httpx.AsyncBaseTransport):
    """Keeps every request and answers with the script in order, the last answer repeatedly.

    `pauses` has the pauses of its answers that are over.
    """

    script: list[Scripted]
    seen: list[Seen] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        headers = [(name.decode().lower(), value.decode("latin-1")) for name, value in request.headers.raw]
        body = await request.aread()
        self.seen.append(Seen(request.method, request.url.raw_path.decode(), headers, body))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        return httpx.Response(answer.status, headers=raw, stream=_Body(answer, self.pauses))


@dataclass
class Got:
    """What the client received: `ended` if the answer is complete, `begun_s` the seconds until it began.

    `begun_early`: it began before the first pause of the upstream was over.
    """

    status: int = 0
    headers: Pairs = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    begun_s: float = 0.0
    begun_early: bool = False

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]

    def header(self, name: str) -> str | None:
        """The only value of a header; None if it is absent."""
        values = self.all(name)
        assert len(values) < 2, name
        return values[0] if values else None


class Alone:
    """A proxy without a server. `leaves_s`: the client disconnects after so many seconds, once its request is sent."""

    def __init__(self, *script: Scripted, upstream: Mapping[str, Any] | None = None, **changes: Any) -> None:
        self.transport = ScriptedTransport(list(script))
        settings = {"transport": self.transport, **(upstream or {})}
        self.logs: list[Any] = []
        self._upstream, self._changes = Upstream("http://up.test/base", **settings), changes
        self.metrics = ""

    @property
    def seen(self) -> list[Seen]:
        """The requests that the upstream received."""
        return self.transport.seen

    def ask(
        self,
        body: bytes,
        path: str = CHAT,
        *,
        method: str = "POST",
        query: bytes = b"",
        headers: Pairs | None = None,
        leaves_s: float | None = None,
        cut: bool = False,
    ) -> Got:
        """The answer to a request; with `cut` the client disconnects before its body is complete."""
        got, began = Got(), time.monotonic()
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body[:9], "more_body": True}]
        messages += [{"type": "http.disconnect"}] if cut else [{"type": "http.request", "body": body[9:]}]

        async def receive() -> dict[str, Any]:
            if not messages:
                await asyncio.sleep(60 if leaves_s is None else leaves_s)
                return {"type": "http.disconnect"}
            return messages.pop(0)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert got.status == 0, "an answer begins once"
                got.status, got.headers, got.begun_s = message["status"], message["headers"], time.monotonic() - began
                got.begun_early = not self.transport.pauses
            else:
                assert got.status, "an answer begins with its head"
                assert not got.ended
                got.pieces.append(message["body"])
                got.ended = not message.get("more_body", False)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": headers or [],
        }

        async def run() -> None:
            proxy, _, observers, metrics = parts_of(self._upstream, **self._changes)
            await observers.start()
            await proxy(scope, receive, send)  # type: ignore[arg-type]
            await observers.close()
            self.metrics = metrics.render()[1].decode()

        with capture_logs() as self.logs:
            asyncio.run(run())
        return got

    def metric(self, name: str) -> float:
        """The value of a metric after the last request, 0 if it was never counted."""
        lines = (line.rpartition(" ") for line in self.metrics.splitlines() if line[:1] != "#")
        return next((float(value) for key, _, value in lines if key == f"guardproxy_{name}"), 0.0)

    def logged(self, event: str) -> dict[str, Any] | None:
        """The only log entry of an event; None if there is none."""
        entries = [entry for entry in self.logs if entry["event"] == event]
        assert len(entries) < 2, event
        return entries[0] if entries else None
