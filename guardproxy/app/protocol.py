"""HTTP/1.1 as the server reads it: uvicorn's protocol, less the trailers of chunked bodies, within bounds."""

import asyncio
import sys
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from guardproxy.app.port_sharing import SharedPortLoop
from guardproxy.settings import ServerSettings

HEADER_BYTES: Final = 65_536  # of the request line and the headers of a request
# The key of the lifespan's state with what counts a connection that is refused or cut, by its code.
REFUSED: Final = "guardproxy.refused"
_CODES: Final = {
    HTTPStatus.REQUEST_TIMEOUT: "request_timeout",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "headers_too_large",
    HTTPStatus.SERVICE_UNAVAILABLE: "too_many_connections",
}
_UNREAD: Final = "answer_unread"
CODES: Final = (*_CODES.values(), _UNREAD)
"""The codes under which `BoundedHttp` counts what it refuses or cuts."""


class WithoutTrailers(HttpToolsProtocol):
    """Discards trailers (RFC 9110, 6.5.1), which uvicorn appends to the headers, and stays with HTTP/1.1.

    A trailer that became a header could choose another policy, or carry a credential that no check has seen. uvicorn
    adds each field to `self.headers`, which is the list in the scope of the request; so that list is exchanged as soon
    as the header section ends.

    A request may ask for another protocol, as Java's client does for HTTP/2 (`Upgrade: h2c`); a server may ignore that
    (RFC 9110, 7.8). The parser leaves the body of such a request out, so it reads the request again without `Upgrade`.
    """

    _received = _again = b""

    def data_received(self, data: bytes) -> None:
        """Read on, and read again what `handle_websocket_upgrade` leaves."""
        self._again = data
        while self._again and not self.transport.is_closing():
            self._received, self._again = self._again, b""
            super().data_received(self._received)

    def on_headers_complete(self) -> None:
        """Start the request. The fields that follow are trailers, and go to a list that nothing reads."""
        super().on_headers_complete()
        self.headers = []

    def _should_upgrade(self) -> bool:
        """Whether the request is not started, and `handle_websocket_upgrade` gets it."""
        return bool(self.parser.get_method() != b"CONNECT")

    def handle_websocket_upgrade(self) -> None:
        """Read the request again without `Upgrade`: uvicorn calls this where the parser stops behind its headers."""
        stopped, scope = sys.exception(), self.scope
        if isinstance(stopped, HttpParserUpgrade):
            fields = [b"%b: %b\r\n" % pair for pair in scope["headers"] if pair[0] != b"upgrade"]
            line = (scope["method"].encode(), self.url, scope["http_version"].encode(), b"".join(fields))
            self.parser = HttpRequestParser(self)  # behind `Connection: close` the old one reads nothing more
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._again = b"%b %b HTTP/%b\r\n%b\r\n" % line + self._received[stopped.args[0] :]


class BoundedHttp(WithoutTrailers):
    """Bounds what a client may cost: connections, the size and the time of headers, the time of bodies and of answers.

    A client that is too slow to send gets 408, one with too long headers or trailers 431, and each is closed. For one
    connection too many, the one that has waited longest for a further request is closed; if none waits, the new one
    gets 503. A client that does not read is cut.
    """

    def __init__(self, bounds: ServerSettings, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = bounds
        self._head = 0  # bytes of the headers so far, or of the trailers
        self._in_body = False
        self._came = False  # whether what was received last had a piece of a body, or the end of headers or of a body
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    # --- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        self._changed(1)
        if len(self.connections) > self._bounds.max_connections and not self._close_an_idle_one():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._expect(self._bounds.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        _stop(self._reading, self._writing)
        super().connection_lost(exc)
        self._changed(-1)

    def _changed(self, change: int) -> None:
        """Count the connection among those of this worker, if there are several workers."""
        if isinstance(self.loop, SharedPortLoop):
            self.loop.connection_changed(change)

    def _close_an_idle_one(self) -> bool:
        """Close the connection that has waited longest for a further request; return whether there is one."""
        ends = {
            waits.when(): one.transport
            for one in self.connections
            if isinstance(one, BoundedHttp)
            and (waits := one.timeout_keep_alive_task)
            and not one.transport.is_closing()
        }
        if ends:
            ends[min(ends)].close()
        return bool(ends)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        self._count(_CODES[status])
        if not self._has_begun():
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()
        self._write_within()

    def _count(self, code: str) -> None:
        if (count := self.app_state.get(REFUSED)) is not None:
            count(code)

    def _has_begun(self) -> bool:
        """Whether an answer has begun behind which the client would read an error as its rest."""
        if self.cycle is None:
            return False
        return self.cycle.response_started if self._in_body else not self.cycle.response_complete

    # --- reading -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read on. Headers and trailers that go on for too long are refused: the parser keeps them."""
        if self.transport.is_closing():
            return
        if self._reading is None and not self._in_body:
            self._expect(self._bounds.header_timeout_s)
        self._came = False
        super().data_received(data)
        if not self._came and self.parser is not None and self._reading is not None:
            self._head += len(data)
            if self._head > HEADER_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too long."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self._head, self._in_body, self._came = 0, True, True
        self._expect(self._bounds.body_timeout_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, unless the request was refused."""
        self._head, self._came = 0, True
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; the next one may follow."""
        _stop(self._reading)
        self._reading, self._in_body = None, False
        self._head, self._came = 0, True
        if not self.transport.is_closing():
            super().on_message_complete()

    def _expect(self, seconds: float) -> None:
        _stop(self._reading)
        self._reading = self.loop.call_later(seconds, self._too_slow, seconds)

    def _too_slow(self, seconds: float) -> None:
        if self.flow.read_paused:  # the proxy does not read: the client may wait for it
            self._expect(seconds)
        elif not self._in_body and not self._head:
            self.transport.close()  # nothing was sent
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    # --- writing -----------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Wait until the client has read enough, for a while."""
        super().pause_writing()
        self._write_within()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        _stop(self._writing)
        self._writing = None

    def on_response_complete(self) -> None:
        """Wait until the client has read the rest, for a while."""
        super().on_response_complete()
        self._write_within()

    def _write_within(self) -> None:
        """Cut the connection if the client leaves unread what waits to be written."""
        if self._writing is None and self.transport.get_write_buffer_size():
            self._writing = self.loop.call_later(self._bounds.write_timeout_s, self._unread)

    def _unread(self) -> None:
        self._writing = None
        if self.transport.get_write_buffer_size():
            self._count(_UNREAD)
            self.transport.abort()


def _stop(*clocks: asyncio.TimerHandle | None) -> None:
    for clock in clocks:
        if clock is not None:
            clock.cancel()
