"""Connections to a replica that stay open: HTTP/1.1 at the cost of a parser, for answers of a bounded size.

A client for any server costs more per call than the rest of a check: docs/decisions/0039-connections-of-replicas.md.
"""

import asyncio
import ssl
from collections import deque
from functools import partial
from random import randrange
from socket import SOCK_STREAM
from typing import Final, cast

import httpx
from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from guardproxy.guards.links import ReplicaFailed
from guardproxy.upstreams import Ending

# The most bytes of an answer, a verdict has some thousands; and of them before its body.
_ANSWER_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 16
# Seconds after which the next address of a name is tried as well (RFC 8305).
_NEXT_ADDRESS_S: Final = 0.25
_INFORMATIONAL: Final = range(100, 200)


class Connections:
    """The connections to the server at `base`, each for one call at a time. Use them from one event loop.

    At most `most` are open, and one comes about within `connect_s` seconds. With https, `tls` says which certificates
    count. With `uds`, every connection goes to the Unix socket at this path. One that is idle is closed after `idle_s`
    seconds: less than the five after which many servers and balancers close it, because a call that crosses the closing
    fails.
    """

    def __init__(
        self,
        base: httpx.URL,
        tls: ssl.SSLContext | None = None,
        *,
        uds: str | None = None,
        most: int = 256,
        connect_s: float = 2.0,
        idle_s: float = 4.0,
    ) -> None:
        self._host = base.raw_host.decode("ascii")
        self._port = base.port or (443 if base.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if base.scheme == "https" else None
        self._uds = uds
        self._most = most
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._calls = asyncio.Semaphore(most)
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()  # the one that has waited longest first
        self._closing: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return the status and the body of its answer. Raises ReplicaFailed.

        There is no time limit but that for the connection. A call that is cancelled ends its connection, by which the
        server notices.
        """
        await self._admitted()
        try:
            connection = self._kept() or await self._connected()
            try:
                return await connection.exchange(request)
            finally:
                self._keep(connection)
        finally:
            self._calls.release()

    def close(self) -> None:
        """End all connections, and every call that waits for an answer."""
        self._closed = True
        if self._closing is not None:
            self._closing.cancel()
        for connection in [*self._open]:
            connection.abort()

    async def _admitted(self) -> None:
        if not self._calls.locked():
            await self._calls.acquire()
            return
        try:
            async with asyncio.timeout(self._connect_s):
                await self._calls.acquire()
        except TimeoutError:
            reason = f"all {self._most} connections to it are in use; raise guard.replicas.max_connections"
            raise ReplicaFailed("unsent", reason) from None

    # --- the connections that wait for a call ------------------------------------------------------------------------

    def _kept(self) -> "_Connection | None":
        """The connection that was used last, among those that are still open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _keep(self, connection: "_Connection") -> None:
        if not connection.usable or self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_at = loop.time() + self._idle_s
        self._idle.append(connection)
        if self._closing is None:
            self._closing = loop.call_at(connection.idle_at, self._close_idle)

    def _close_idle(self) -> None:
        """Close the connections that have waited for too long; they are the first ones."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_at <= loop.time():
            self._idle.popleft().close()
        self._closing = loop.call_at(self._idle[0].idle_at, self._close_idle) if self._idle else None

    # --- new connections ---------------------------------------------------------------------------------------------

    async def _connected(self) -> "_Connection":
        """A new connection. Raises ReplicaFailed."""
        if self._closed:
            raise ReplicaFailed("unsent", "the proxy is stopping")
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._connect()
        except ssl.SSLCertVerificationError as error:
            # OpenSSL's reason, which quotes no answer.
            told = f"{error.verify_message}; check replicas.tls.ca, and the names in the certificate"
            raise ReplicaFailed("unsent", f"its certificate is refused: {told}") from None
        except TimeoutError:
            late = f"no connection within {self._connect_s:g} s"
            raise ReplicaFailed("unsent", f"it cannot be reached ({late})") from None
        # A name that cannot be one is a UnicodeError, and a connection that is lost at once a RuntimeError of uvloop.
        except (OSError, UnicodeError, RuntimeError) as error:
            raise ReplicaFailed("unsent", f"it cannot be reached ({_reason(error)})") from None

    async def _connect(self) -> "_Connection":
        loop, made = asyncio.get_running_loop(), partial(_Connection, self._open)
        if self._uds is not None:
            _, connection = await loop.create_unix_connection(made, self._uds)
            return connection
        found = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        # Several servers may share a name: each connection begins with another one.
        first = randrange(len(found))
        opened = await start_connection(
            [*found[first:], *found[:first]], happy_eyeballs_delay=_NEXT_ADDRESS_S, loop=loop
        )
        name = self._host.rstrip(".") if self._tls else None
        _, connection = await loop.create_connection(made, sock=opened, ssl=self._tls, server_hostname=name)
        return connection


class _Connection(asyncio.Protocol):
    """One connection. `opened` has it as long as it is open. What comes outside of a call makes it unusable."""

    def __init__(self, opened: set["_Connection"]) -> None:
        self.usable = False
        """Whether it is open and can take the next call."""
        self.idle_at = 0.0
        """When it has waited too long for a call, on the event loop's clock."""
        self._opened = opened
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._in_head = True

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer. Raises ReplicaFailed."""
        if self._transport is None:
            raise ReplicaFailed("unsent", "it closed the new connection")
        self.usable, self._body, self._size, self._in_head = False, [], 0, True
        waiting: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._transport.write(request)
        return await waiting

    def close(self) -> None:
        """End the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection without sending the rest of a request."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # --- what the transport tells ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a call."""
        self._transport, self.usable = cast("asyncio.Transport", transport), True
        self._opened.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the call that waits for an answer."""
        self._transport, self.usable = None, False
        self._opened.discard(self)
        self._fail("unknown", f"it broke the connection off ({_reason(error) if error else 'without an answer'})")

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._waiting is None:
            self.abort()  # the next call would take it for its answer
            return
        self._size += len(data)
        if self._size > _ANSWER_BYTES:
            self._give_up(f"its answer has more than {_ANSWER_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._give_up(f"its answer is not HTTP/1.1 ({error})")  # a constant of the parser's
        except HttpParserUpgrade:
            self._give_up("its answer changes the protocol")
        else:
            if self._in_head and self._size > _HEAD_BYTES:
                self._give_up(f"its answer has headers of more than {_HEAD_BYTES} bytes")

    def _give_up(self, reason: str) -> None:
        self._fail("failed", reason)
        self.abort()

    def _fail(self, ending: Ending, reason: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ReplicaFailed(ending, reason))

    # --- what the parser tells ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Use the connection no more if this is no answer to a call."""
        if self._waiting is None:
            self.usable = False

    def on_headers_complete(self) -> None:
        """Read the body, unless a real answer follows."""
        self._in_head = self._parser.get_status_code() in _INFORMATIONAL

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._body.append(piece)

    def on_message_complete(self) -> None:
        """End the call. The connection takes the next one, unless the server closes it or has not read the request."""
        waiting = self._waiting
        if self._in_head or waiting is None or self._transport is None:
            return
        self._waiting = None
        self.usable = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        if not waiting.done():
            waiting.set_result((self._parser.get_status_code(), b"".join(self._body)))


def _reason(error: Exception) -> str:
    """What the system says of an error, or its name. The text of another error may quote the answer."""
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
