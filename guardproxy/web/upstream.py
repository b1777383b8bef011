"""The upstream: one httpx transport, its timeouts and its retries."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import aiohttp
import httpx
import structlog
from httpx_aiohttp import AiohttpTransport
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from guardproxy.errors import ConfigError, UpstreamUnavailable
from guardproxy.web.decode import Decoder, decoder_for
from guardproxy.web.headers import CREDENTIALS, HOP_BY_HOP, Headers, end_to_end, first, join

log = structlog.get_logger("guardproxy.upstream")

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# By these some servers take a request for one of another method: what passes as a GET must stay one.
_OTHER_METHOD: Final = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
# Said anew to the upstream, or not its business.
_REPLACED: Final = HOP_BY_HOP | _OTHER_METHOD | {b"host", b"content-length", b"expect"}
# A larger body is written in slices of this size, so that other requests get their turn in between.
_SLICE: Final = 1 << 18


class UpstreamTimeout(UpstreamUnavailable):
    """The upstream was reached, or may have been, and did not answer in time."""

    status = 504
    code = "upstream_timeout"


class UpstreamResponse:
    """An answer whose body is still to be read. Names in `headers` are in lower case.

    `waited_s` is the time spent waiting for the upstream so far, from the sending of the request on.
    """

    def __init__(self, response: httpx.Response, between_chunks_s: float, waited_s: float) -> None:
        self.waited_s = waited_s
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._stream = response.stream
        self._between_chunks_s = between_chunks_s

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they come. Raises UpstreamTimeout after too long a silence, UpstreamUnavailable."""
        pending = aiter(self._stream)  # type: ignore[arg-type]
        while True:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self._between_chunks_s):
                    chunk = await anext(pending, None)
            except TimeoutError:
                raise UpstreamTimeout(f"the upstream was silent for {self._between_chunks_s:g} s") from None
            except httpx.HTTPError as error:
                raise UpstreamUnavailable("the upstream broke its answer off") from error
            finally:
                self.waited_s += time.perf_counter() - began
            if chunk is None:
                return
            yield chunk

    def decoded(self) -> AsyncIterator[bytes]:
        """The body without its content-encoding; raises UpstreamUnreadable where that is unknown or broken."""
        return self.undone(self.chunks())

    def undone(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`chunks` of the body without its content-encoding. Raises as `decoded`."""
        decoder = decoder_for(first(self.headers, b"content-encoding"))
        return chunks if decoder is None else _decoded(decoder, chunks)


async def _decoded(decoder: Decoder, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for piece in decoder.feed(chunk):
            yield piece
    decoder.finish()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How a try ended: with a response or an error.

    `again_s` is the time to wait before the next try, 0 where the upstream did not say; None: there must be none.
    """

    response: httpx.Response | None = None
    error: UpstreamUnavailable | None = None
    again_s: float | None = None


class Upstream:
    """The LLM behind the proxy.

    `base_url` may carry a path (see `headers.join`). With a `key` of its own the clients' credentials stop here, and
    the key goes out in `key_header`, as a bearer token where that is `authorization`. A request is sent `attempts`
    times at most, and never again once the upstream may have acted on it, unless `retry_unsafe` says so; a
    `Retry-After` beyond `max_wait_s` is the client's to obey. Environment proxies count only with `trust_env`;
    redirects are passed on, not followed; cookies are the client's and not kept.

    `transport` stands in for the network. Raises ConfigError where `base_url` is no such URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        key_header: str = "authorization",
        connect_s: float = 5.0,
        first_byte_s: float = 120.0,
        between_chunks_s: float = 60.0,
        attempts: int = 3,
        max_wait_s: float = 20.0,
        retry_unsafe: bool = False,
        max_connections: int = 256,
        verify: ssl.SSLContext | bool = True,
        trust_env: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = base_url
        self._base = _base(base_url)
        self._key = _credential(key, key_header) if key is not None else None
        self._drop = _REPLACED if key is None else _REPLACED.union(CREDENTIALS)
        self._first_byte_s = first_byte_s
        self._between_chunks_s = between_chunks_s
        self._attempts = attempts
        self._max_wait_s = max_wait_s
        self._retry_unsafe = retry_unsafe
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s}}
        self._transport = transport or aiohttp_transport(max_connections, verify, trust_env=trust_env)
        # Parsing a URL costs a tenth of a whole exchange.
        self._address = lru_cache(maxsize=256)(self._parse_address)

    def _parse_address(self, path: str) -> httpx.URL:
        prefix = self._base.raw_path.decode("ascii")
        return self._base.copy_with(raw_path=join(prefix, path).encode("ascii"))

    @asynccontextmanager
    async def send(
        self, method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> AsyncIterator[UpstreamResponse]:
        """The answer to a request; leaving the context drops what was not read of it.

        `path` and `query` are percent-encoded, `headers` the client's. Raises UpstreamUnavailable where there is no
        answer, UpstreamTimeout where it does not come in time.
        """
        request = self._request(method, path, query, headers, body)
        began = time.perf_counter()
        attempt = await self._attempt(request)
        if attempt.again_s is not None and self._attempts > 1:
            attempt = await self._retry(request, attempt)
        if attempt.response is None:
            raise attempt.error or UpstreamUnavailable("no answer")
        try:
            yield UpstreamResponse(attempt.response, self._between_chunks_s, time.perf_counter() - began)
        finally:
            await _drop(attempt.response)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def _request(
        self, method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> httpx.Request:
        out = [(b"host", self._base.netloc), *end_to_end(headers, self._drop)]
        if self._key is not None:
            out.append(self._key)
            # Gemini's other place for a client's key.
            query = b"&".join(item for item in query.split(b"&") if not item.startswith(b"key="))
        if body or method in {"POST", "PUT", "PATCH"}:
            out.append((b"content-length", b"%d" % len(body)))
        target = f"{path}?{query.decode('ascii')}" if query else path
        url = self._parse_address(target) if b"key=" in query else self._address(target)  # keys are not kept
        if len(body) > _SLICE:
            return httpx.Request(method, url, headers=out, stream=_Slices(body), extensions=self._extensions)
        return httpx.Request(method, url, headers=out, content=body, extensions=self._extensions)

    async def _attempt(self, request: httpx.Request) -> _Attempt:
        """One try, and whether the request may be sent again."""
        repeatable = request.method in IDEMPOTENT or self._retry_unsafe
        try:
            async with asyncio.timeout(self._first_byte_s):
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            return _Attempt(error=UpstreamTimeout(f"no answer from the upstream in {self._first_byte_s:g} s"))
        except httpx.HTTPError as error:
            unsent = never_sent(error)
            failure = UpstreamUnavailable(
                "the upstream cannot be reached" if unsent else "the upstream broke the connection off"
            )
            failure.__cause__ = error
            return _Attempt(error=failure, again_s=0.0 if unsent or repeatable else None)
        return _Attempt(response=response, again_s=self._wait_of(response, repeatable=repeatable))

    def _wait_of(self, response: httpx.Response, *, repeatable: bool) -> float | None:
        """`_Attempt.again_s` of an answer.

        A 429 or 503 that names a time says that the request was not acted on; a 502 or 504 says nothing of the kind.
        """
        if response.status_code not in {429, 502, 503, 504}:
            return None
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        declined = response.status_code in {429, 503} and wait is not None
        if not (declined or repeatable) or (wait or 0.0) > self._max_wait_s:
            return None
        return wait or 0.0

    async def _retry(self, request: httpx.Request, failed: _Attempt) -> _Attempt:
        """Try again after a first try has `failed`, which is made without tenacity because that costs 80 µs."""
        known = [failed]

        async def again() -> _Attempt:
            return known.pop() if known else await self._attempt(request)

        async def before_sleep(state: RetryCallState) -> None:
            last = _last(state)
            status = last.response.status_code if last.response is not None else None
            log.warning("upstream_retry", attempt=state.attempt_number, status=status, error=str(last.error or ""))
            if last.response is not None:
                await _drop(last.response)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            retry=retry_if_result(lambda attempt: attempt.again_s is not None),
            wait=self._pause,
            before_sleep=before_sleep,
            retry_error_callback=_last,
        )
        return await retrying(again)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try: what the upstream asked for, else 0.25, 0.5, 1, ... up to the limit."""
        return min(_last(state).again_s or 0.25 * 2.0 ** (state.attempt_number - 1), self._max_wait_s)


def _base(url: str) -> httpx.URL:
    problem = f"upstream {url!r} is not of the form http(s)://host[:port][/path]"
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(problem) from error
    if base.scheme not in {"http", "https"} or not base.host or base.query or base.fragment or base.userinfo:
        raise ConfigError(problem)
    return base


def _credential(key: str, name: str) -> tuple[bytes, bytes]:
    value = f"Bearer {key}" if name.lower() == "authorization" else key
    return name.lower().encode("ascii"), value.encode("latin-1")


def _last(state: RetryCallState) -> _Attempt:
    if state.outcome is None:
        raise RuntimeError("tenacity asks before the first attempt has ended")
    result: _Attempt = state.outcome.result()
    return result


async def _drop(response: httpx.Response) -> None:
    with suppress(httpx.HTTPError):  # how a connection ends that nobody listens to is of no interest
        await response.stream.aclose()  # type: ignore[union-attr]


class _Slices(httpx.AsyncByteStream):
    """A large body in slices; every iteration begins anew."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _SLICE):
            yield self._body[start : start + _SLICE]


def never_sent(error: httpx.HTTPError) -> bool:
    """Whether a transport's error means that no byte of the request has left.

    httpx-aiohttp calls every lost connection a ConnectTimeout, so aiohttp's own error behind it is asked first.
    """
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3); None where there is none that can be read.

    A time of day is read against the answer's own `Date`, so that the clocks need not agree.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(date or "")).total_seconds())
    except (TypeError, ValueError):
        return None


def aiohttp_transport(
    max_connections: int, verify: ssl.SSLContext | bool, *, trust_env: bool
) -> httpx.AsyncBaseTransport:
    """httpx over aiohttp's connection pool, which is told to add, keep and change nothing."""
    context = verify if isinstance(verify, ssl.SSLContext) else httpx.create_ssl_context(verify, trust_env=trust_env)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=20.0, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=trust_env,
        )

    transport: httpx.AsyncBaseTransport = AiohttpTransport(verify=context, client=session)
    return transport
