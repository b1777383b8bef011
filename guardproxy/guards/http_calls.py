"""Calls of a server over HTTP/1.1, for guards whose model runs there: bounded answers, and how a call failed."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ssl import SSLCertVerificationError
from typing import Final, NamedTuple

import httpx

from guardproxy.guards.links import ReplicaFailed

# The most bytes of an answer: a verdict, or the most probable tokens, have some thousands.
_ANSWER_BYTES: Final = 1 << 20


class Answered(NamedTuple):
    """An answer. `retry_s`: the seconds until the next call that it asks for, None if it names none."""

    status: int
    body: bytes
    retry_s: float | None = None


class HttpCalls:
    """Calls of one server, whose addresses begin with `base`.

    `transport` is the network below, for this server alone; `never_sent` says of its errors whether they mean that
    nothing was sent. `key` is sent as a bearer token. A connection must come about within `connect_s` seconds.
    """

    def __init__(
        self,
        base: httpx.URL,
        transport: httpx.AsyncBaseTransport,
        never_sent: Callable[[httpx.HTTPError], bool],
        *,
        key: str | None = None,
        connect_s: float = 2.0,
    ) -> None:
        self._base = base
        self._transport = transport
        self._never_sent = never_sent
        self._headers = [(b"host", base.netloc), (b"content-type", b"application/json")]
        if key is not None:
            self._headers.append((b"authorization", f"Bearer {key}".encode("latin-1")))
        self._extensions: Mapping[str, object] = {"timeout": {"connect": connect_s, "pool": connect_s}}

    def url(self, path: str) -> httpx.URL:
        """The address of a path, such as `/v1/check`."""
        return self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + path.encode())

    async def call(
        self, method: str, url: httpx.URL, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> Answered:
        """The answer to a call with further `headers`, whatever its status. Raises ReplicaFailed."""
        sent = [*self._headers, (b"content-length", b"%d" % len(body)), *headers]
        stream = httpx.ByteStream(body)
        request = httpx.Request(method, url, headers=sent, stream=stream, extensions=dict(self._extensions))
        try:
            async with _answer(self._transport, request) as response:
                return Answered(response.status_code, await _body(response), _retry_s(response))
        except ReplicaFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the transport raises errors of its own for malformed answers
            if isinstance(error, httpx.HTTPError) and self._never_sent(error):
                raise ReplicaFailed("unsent", _unreached(error)) from None
            raise ReplicaFailed("unknown", f"it broke the connection off ({_kind(error)})") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


async def _body(response: httpx.Response) -> bytes:
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > _ANSWER_BYTES:
            raise ReplicaFailed("failed", f"its answer has more than {_ANSWER_BYTES} bytes")
    return b"".join(pieces)


def _retry_s(response: httpx.Response) -> float | None:
    """The seconds of Retry-After, in its form as a number, which servers of models use."""
    header = response.headers.get("retry-after", "").strip()
    return float(header) if header.isascii() and header.isdecimal() else None


def _unreached(error: Exception) -> str:
    """Why there is no connection. Of a certificate that was refused, OpenSSL's reason, which quotes no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SSLCertVerificationError) and (reason := getattr(cause, "verify_message", "")):
            return f"its certificate is refused: {reason}; check replicas.tls.ca, and the names in the certificate"
        cause = cause.__cause__
    return f"it cannot be reached ({_kind(error)})"


def _kind(error: Exception) -> str:
    """The name of an error. Its text is left out: it may quote the answer."""
    return type(error.__cause__ or error).__name__


@asynccontextmanager
async def _answer(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> AsyncIterator[httpx.Response]:
    response = await transport.handle_async_request(request)
    try:
        yield response
    finally:
        await response.aclose()
