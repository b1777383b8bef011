"""One call: the client's HTTP request, and the state of the answer to it."""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.types import Message, Receive, Scope, Send

from guardproxy.access import Client
from guardproxy.errors import TooLarge
from guardproxy.ports import Answer
from guardproxy.types import SEVERITY, ActionName
from guardproxy.web.client import keys_of
from guardproxy.web.headers import (
    CREDENTIALS,
    NO_RETRY,
    Header,
    Headers,
    first,
    forwardable,
    holds_key,
    without_items,
    without_keys,
)
from guardproxy.web.upstream import Outgoing, UpstreamResponse

_MAX_LIST = 2000  # characters of a header that lists items; clients refuse headers of several kilobytes


class Call:
    """A request and the state of its answer. Adds the proxy's own headers to every answer.

    `action` is the most severe action on both sides, None if nothing was judged. `status` is 0 until the answer begins.
    `stream_type` is the content type of a streamed answer, of which `has_reply` says that more than comments was sent,
    `refused` that a choice ends with a refusal. `attempts` is the number of replies that were asked for. `guard_s` is
    the seconds that judging took, `saved_s` those of them in which the upstream already worked, None if it was called
    after. `began` and `sent_at` (of the latest piece) are `time.perf_counter()`. `client` is None if the configuration
    has no clients.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = os.urandom(12).hex()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: str = scope["raw_path"].decode("ascii")
        self.query: bytes = scope["query_string"]
        self.peer: str = scope["client"][0] if scope.get("client") else ""
        self.headers: Headers = scope["headers"]
        self.status = 0
        self.stream_type = ""
        self.has_reply = self.refused = False
        self.attempts = 1
        self.ended = False
        self.action: ActionName | None = None
        self.categories: tuple[str, ...] = ()
        self.dropped: Sequence[int] = ()
        self.coverage = "full"
        self.guard_s = 0.0
        self.saved_s: float | None = None
        self.client: Client | None = None
        self.responses: list[UpstreamResponse] = []
        self.began = time.perf_counter()
        self.sent_at = self.began
        self._receive = receive
        self._send = send

    @property
    def upstream_s(self) -> float:
        """Seconds spent waiting for the upstream so far."""
        return sum([response.waited_s for response in self.responses])

    def summary(self) -> dict[str, Any]:
        """What the log says of a request, by the names of its fields."""
        return {
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "action": self.action,
            "categories": self.categories,
            "upstream_ms": round(self.upstream_s * 1000, 1),
            "complete": self.ended,
        }

    @property
    def target(self) -> str:
        """The path and the query, without the keys in it."""
        return f"{self.path}?{without_keys(self.query).decode('latin-1')}"

    @property
    def forwarded(self) -> Headers:
        """The client's headers that may go to the upstream.

        A key of the proxy's own `clients` never does, nor does another header in which the client has written it.
        """
        headers = forwardable(self.headers)
        if self.client is None:
            return headers
        keys = keys_of(self.headers, self.query)
        return [pair for pair in headers if pair[0].lower() not in CREDENTIALS and not holds_key(pair[1], keys)]

    def outgoing(self, body: bytes, headers: Headers) -> Outgoing:
        """The request for an upstream, without a key of the proxy's own `clients`, and with the client's key there."""
        if self.client is None:
            return Outgoing(self.method, self.raw_path, self.query, headers, body)
        query = without_keys(self.query)
        query = without_items(query, keys_of(self.headers, self.query)) if query else query
        return Outgoing(self.method, self.raw_path, query, headers, body, self.client.upstream_keys)

    async def body(self, limit: int) -> bytes | None:
        """The request's body; None if the client has disconnected. Raises TooLarge beyond `limit` bytes."""
        declared = first(self.headers, b"content-length")
        size, parts, more = 0, [], True
        if declared.isdigit() and int(declared) > limit:
            raise TooLarge(f"the body has {int(declared)} bytes, more than the {limit} of limits.body_bytes")
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body has more than the {limit} bytes of limits.body_bytes")
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    def judged(self, action: ActionName, categories: Iterable[str], coverage: str) -> None:
        """Note the review of one side: the more severe action is kept, and the categories of both sides."""
        if self.action is None or SEVERITY[action] > SEVERITY[self.action]:
            self.action = action
        self.categories = tuple(dict.fromkeys((*self.categories, *categories)))
        if coverage != "full":
            self.coverage = coverage

    def note_refusal(self) -> None:
        """Note that a choice of a stream ends with a refusal: its headers may have left before."""
        self.refused = True

    def own_headers(self) -> Headers:
        """The headers that every answer has."""
        own = [(b"x-guardproxy-request-id", self.id.encode("ascii"))]
        if self.action is None:
            return own
        own.append((b"x-guardproxy-action", self.action.encode("ascii")))
        own.append((b"x-guardproxy-coverage", self.coverage.encode("ascii")))
        if self.action != "pass" and self.categories:
            own.append((b"x-guardproxy-categories", ",".join(self.categories).encode("ascii", "replace")))
        if self.dropped:
            own.append((b"x-guardproxy-dropped-turns", _numbers(self.dropped).encode("ascii")))
        if self.attempts > 1:
            own.append((b"x-guardproxy-attempts", b"%d" % self.attempts))
        times = f"guard;dur={self.guard_s * 1000:.1f}, upstream;dur={self.upstream_s * 1000:.1f}"
        if self.saved_s is not None:
            times += f", overlap;dur={self.saved_s * 1000:.1f}"
        own.append((b"server-timing", times.encode("ascii")))
        return own

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.own_headers()]})

    async def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.sent_at = time.perf_counter()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer. `headers` have no content-length; it is added."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self.end(body)

    async def send_answer(self, answer: Answer, *, retry: bool, more: Iterable[Header] = ()) -> None:
        """Send an answer of the proxy's own; without `retry`, the client is told not to repeat its request."""
        headers: Headers = [(b"content-type", answer.content_type.encode("latin-1")), *more]
        if not retry:
            headers.append(NO_RETRY)
        await self.answer(answer.status, headers, answer.body)


def _numbers(numbers: Sequence[int]) -> str:
    """A header value of ascending numbers, with three or more consecutive numbers as `4-9`, cut at _MAX_LIST."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    value = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
    return value if len(value) <= _MAX_LIST else value[:_MAX_LIST].rpartition(",")[0] + ",..."


class WhileConnected:
    """Cancels the code inside this context when the client disconnects. The context then ends with `gone` set."""

    def __init__(self, call: Call, receive: Receive) -> None:
        self.gone = False
        self._call = call
        self._receive = receive

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not in a task")
        self._task = task
        self._watch = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        message: Message = {}
        while message.get("type") != "http.disconnect":
            message = await self._receive()
        # Servers also send http.disconnect after the whole answer was sent.
        if not self._call.ended:
            self.gone = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watch.cancel()
        if not self.gone:
            return False
        self._task.uncancel()
        return kind is asyncio.CancelledError


class KeepAlive:
    """Keeps the connection of a stream open while its text is held back.

    Sends `comment` whenever nothing was sent for `every_s` seconds, so that no proxy or client closes the connection.
    The stream begins, with `status` and `headers`, by a call of `begin` or with its first comment. With an empty
    `comment` nothing is sent.
    """

    def __init__(self, call: Call, comment: bytes, every_s: float, status: int, headers: Headers) -> None:
        self._call = call
        self._comment = comment
        self._every_s = every_s
        self._status = status
        self._headers = headers
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Send the status and the headers, once."""
        if not self._call.status:
            await self._call.start(self._status, self._headers)

    def try_refuse_with_error(self) -> bool:
        """Return whether nothing was sent yet; if so, never begin the stream, so that an error can be the answer."""
        if self._call.status:
            return False
        if self._task is not None:
            self._task.cancel()
        return True

    async def __aenter__(self) -> Self:
        self._call.sent_at = time.perf_counter()  # the interval starts here, not before the upstream's answer
        if self._comment:
            self._task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        while True:
            remaining = self._call.sent_at + self._every_s - time.perf_counter()
            if remaining <= 0:
                await self.begin()
                await self._call.send(self._comment)
                remaining = self._every_s
            await asyncio.sleep(remaining)

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
