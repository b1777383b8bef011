"""The network below the upstream client: httpx over aiohttp's pool, its errors, and TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, ItemsView
from contextlib import suppress
from typing import Final

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport

from guardproxy.errors import UpstreamUnreadable

# What the parser of aiohttp raises for a malformed answer. httpx-aiohttp does not translate these errors.
MALFORMED: Final = (aiohttp.ClientError, HttpProcessingError, ValueError)
# Seconds that an idle connection is kept: less than the five after which uvicorn and Node close it, because a request
# that crosses the closing is lost.
_IDLE_S: Final = 4.0
# A body of more bytes is written in slices of this size, so that writing it does not block other requests.
SLICE: Final = 1 << 18


class _Silent(aiohttp.BaseConnector):
    """Reuses no connection on which something came while it was idle: the next client would get that for its answer."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection from the pool, or a new one."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class _TcpConnector(_Silent, aiohttp.TCPConnector):
    pass


class _UnixConnector(_Silent, aiohttp.UnixConnector):
    pass


async def notice_closed() -> None:
    """Have the event loop handle what has arrived, so that a connection which the upstream has closed is not reused.

    A request that is written to such a connection is lost, and a POST may not be sent again. One turn of the loop reads
    the end of a connection, the next removes it from the pool.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def drop(response: httpx.Response) -> None:
    with suppress(httpx.HTTPError):  # the response is not used, so an error while closing it does not matter
        await response.stream.aclose()  # type: ignore[union-attr]


class Fields(httpx.Headers):
    """Headers that aiohttp asks for all items: httpx would look for their charset at each of them."""

    def items(self) -> ItemsView[str, str]:
        """The names and values, as in `httpx.Headers`."""
        raw = self.raw
        try:
            found = {name.decode("ascii"): value.decode("ascii") for name, value in raw}
        except UnicodeDecodeError:
            return super().items()
        return found.items() if len(found) == len(raw) else super().items()


class Slices(httpx.AsyncByteStream):
    """A large body in slices. Each iteration starts from the beginning, for retries."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), SLICE):
            yield self._body[start : start + SLICE]


def kind(error: Exception) -> str:
    """The name of a transport error. Its text is left out, here and in the log: it may quote the upstream's answer."""
    return type(error.__cause__ or error).__name__


def malformed(error: Exception) -> UpstreamUnreadable:
    """The error for an answer that the HTTP parser refuses."""
    return UpstreamUnreadable(f"its HTTP is malformed ({kind(error)})")


def never_sent(error: httpx.HTTPError) -> bool:
    """Whether a transport error means that no byte of the request was sent.

    httpx-aiohttp raises ConnectTimeout for every lost connection, so aiohttp's own error, its cause, is checked first.
    """
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


def tls_context(
    *, verify: bool = True, authorities: str | None = None, cert: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """How the upstream's certificate is checked, and the proxy's own; TLS 1.2 at least. All names are of PEM files.

    Without `authorities`, Mozilla's list is trusted. Raises OSError for an unusable file; ssl.SSLError is one.
    """
    if authorities is None:
        context = httpx.create_ssl_context(verify=verify, trust_env=False)
    else:
        context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        # The password is for a key that has one: without it, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    return context


def aiohttp_transport(
    max_connections: int, tls: ssl.SSLContext | None, *, trust_env: bool, uds: str | None = None
) -> httpx.AsyncBaseTransport:
    """httpx over aiohttp's connection pool, configured to add no headers, keep no cookies and decode nothing.

    With `uds`, every connection goes to the Unix socket at this path.
    """
    context = tls or httpx.create_ssl_context(trust_env=trust_env)

    def connector() -> aiohttp.BaseConnector:
        if uds is not None:
            return _UnixConnector(uds, limit=max_connections, keepalive_timeout=_IDLE_S)
        return _TcpConnector(limit=max_connections, keepalive_timeout=_IDLE_S, ssl=context)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=trust_env,
        )

    transport: httpx.AsyncBaseTransport = AiohttpTransport(verify=context, client=session)
    return transport
