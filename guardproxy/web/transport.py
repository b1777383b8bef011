"""HTTP/1.1 to the upstream over aiohttp's connection pool: it adds no headers, keeps no cookies and decodes nothing."""

import ssl
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

import aiohttp
import httpx

from guardproxy.web.headers import Headers

# Seconds that an idle connection is kept: less than the five after which uvicorn and Node close it, because a request
# that crosses the closing is lost.
_IDLE_S: Final = 4.0
# A body of more bytes is written in slices of this size, so that writing it does not block other requests.
_SLICE: Final = 1 << 18
_READ: Final = 1 << 14  # the most bytes of a body in one read


class Sent(NamedTuple):
    """A request to the upstream. `url` is complete and percent-encoded, `headers` are those on the wire."""

    method: str
    url: str
    headers: Headers
    body: bytes


class Received(Protocol):
    """An answer of the upstream. The names in `headers` are in lower case."""

    status: int
    headers: Headers

    def read_ready(self) -> bytes | None:
        """What has come of the body, without waiting: empty at its end, None if nothing has come yet."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end."""
        ...

    async def close(self) -> None:
        """Drop what was not read of the body."""
        ...


class Transport(Protocol):
    """Sends requests. Its errors, also those of `Received`, are aiohttp's, or ValueError."""

    async def send(self, request: Sent) -> Received:
        """Send a request and return the answer as soon as its headers have come."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class AiohttpTransport:
    """A Transport over one aiohttp session, which opens with the first request.

    Opening a connection, or waiting for one of at most `max_connections`, takes at most `connect_s` seconds.
    """

    def __init__(
        self, max_connections: int, connect_s: float, tls: ssl.SSLContext | None = None, *, trust_env: bool = False
    ) -> None:
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, connect=connect_s)
        self._tls = tls or httpx.create_ssl_context(trust_env=trust_env)
        self._trust_env = trust_env
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Sent) -> Received:
        """Send a request and return the answer as soon as its headers have come."""
        if self._session is None:
            self._session = self._open()
        method, url, headers, body = request
        written = [(name.decode("ascii"), _text(value)) for name, value in headers]
        data = _slices(body) if len(body) > _SLICE else body or None
        return _Answer(await self._session.request(method, url, headers=written, data=data, allow_redirects=False))

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=_IDLE_S, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            timeout=self._timeout,
            trust_env=self._trust_env,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


class _Answer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Headers = [(name.lower(), value) for name, value in response.raw_headers]
        self._response = response
        self._body = response.content

    def read_ready(self) -> bytes | None:
        data = self._body.read_nowait(_READ)
        return data if data or self._body.at_eof() else None

    async def read(self) -> bytes:
        return await self._body.read(_READ)

    async def close(self) -> None:
        self._response.release()
        await self._response.wait_for_close()


def _text(value: bytes) -> str:
    """The value of a header as aiohttp takes it: it writes UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE):
        yield body[start : start + _SLICE]
