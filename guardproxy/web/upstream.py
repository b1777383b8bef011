"""The HTTP client for the upstream: one httpx transport, its timeouts and its retries."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import aiohttp
import httpx
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from guardproxy.errors import ConfigError, GuardproxyError, UpstreamUnavailable, UpstreamUnreadable
from guardproxy.web.answers import check_framing
from guardproxy.web.decode import ContentDecoder, decoder_for
from guardproxy.web.headers import CREDENTIALS, HOP_BY_HOP, Headers, end_to_end, join, without_keys

log = structlog.get_logger("guardproxy.upstream")

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# Headers by which some servers change the method of a request: a request that passes as a GET must stay a GET.
_OTHER_METHOD: Final = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
# Headers that the proxy sets itself or that do not concern the upstream.
_REPLACED: Final = HOP_BY_HOP | _OTHER_METHOD | {b"host", b"content-length", b"expect"}
# What the parser of aiohttp raises for a malformed answer. httpx-aiohttp does not translate these errors.
_MALFORMED: Final = (aiohttp.ClientError, HttpProcessingError, ValueError)
# Seconds that an idle connection is kept: less than the five after which uvicorn and Node close it, because a request
# that crosses the closing is lost.
_IDLE_S: Final = 4.0
# A body of more bytes is written in slices of this size, so that writing it does not block other requests.
_SLICE: Final = 1 << 18


class UpstreamTimeout(UpstreamUnavailable):
    """The upstream did not answer in time, although it may have received the request."""

    status = 504
    code = "upstream_timeout"


class UpstreamResponse:
    """An answer whose body is not read yet. The names in `headers` are in lower case.

    `waited_s` is the time of waiting for the upstream so far. The whole body must come within `answer_s` from then on.
    """

    def __init__(self, response: httpx.Response, between_chunks_s: float, answer_s: float, waited_s: float) -> None:
        self.waited_s = waited_s
        self._answer_s = answer_s
        self._ends = time.perf_counter() - waited_s + answer_s
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._stream = response.stream
        self._between_chunks_s = between_chunks_s

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises UpstreamTimeout if the upstream sends nothing for too long or takes too long to the end,
        UpstreamUnavailable if it breaks off, UpstreamUnreadable if its framing is malformed.
        """
        pending = aiter(self._stream)  # type: ignore[arg-type]
        while True:
            began = time.perf_counter()
            if began >= self._ends:  # what has already arrived is read without a wait, which a timeout would end
                raise self._too_slow()
            try:
                async with asyncio.timeout(min(self._between_chunks_s, self._ends - began)):
                    chunk = await anext(pending, None)
            except TimeoutError:
                if time.perf_counter() >= self._ends:
                    raise self._too_slow() from None
                raise UpstreamTimeout(f"the upstream was silent for {self._between_chunks_s:g} s") from None
            except httpx.HTTPError as error:
                raise UpstreamUnavailable(f"the upstream broke its answer off ({_kind(error)})") from None
            except _MALFORMED as error:
                raise _malformed(error) from None
            finally:
                self.waited_s += time.perf_counter() - began
            if chunk is None:
                return
            yield chunk

    def _too_slow(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"the upstream's answer took longer than {self._answer_s:g} s")

    def decoded(self) -> AsyncIterator[bytes]:
        """The body with its content-encoding decoded. Raises UpstreamUnreadable if that is unknown or broken."""
        return self.decode(self.chunks())

    def decode(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Decode `chunks` of this body. Raises as `decoded`, also for several content-encodings."""
        encodings = [value for name, value in self.headers if name == b"content-encoding"]
        if len(encodings) > 1:
            raise UpstreamUnreadable("it has several content-encodings")
        decoder = decoder_for(encodings[0] if encodings else b"")
        return chunks if decoder is None else _decoded(decoder, chunks)


async def _decoded(decoder: ContentDecoder, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for piece in decoder.feed(chunk):
            yield piece
    decoder.finish()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How an attempt ended: with a response or an error.

    `retry_in_s`: the seconds to wait before the next attempt, 0 if the upstream did not say; None: do not retry.
    """

    response: httpx.Response | None = None
    error: GuardproxyError | None = None
    retry_in_s: float | None = None


class Upstream:
    """The LLM behind the proxy.

    `base_url` may have a path (see `headers.join`). With a `key` for the upstream, the client's credentials are removed
    and the key is sent in `key_header`, as a bearer token if that is `authorization`. A request is sent at most
    `attempts` times, and not again once the upstream may have acted on it, unless `retry_unsafe` is set. If its answer
    has a `Retry-After` longer than `max_wait_s`, it is not retried. Proxies from the environment are used only with
    `trust_env`. Redirects are passed on, not followed. Cookies are not kept.

    `transport` replaces the network. Raises ConfigError if `base_url` is not an HTTP URL.
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
        answer_s: float = 3600.0,
        attempts: int = 3,
        max_wait_s: float = 20.0,
        retry_unsafe: bool = False,
        max_connections: int = 256,
        tls: ssl.SSLContext | None = None,
        trust_env: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = base_url
        self._base = _base(base_url)
        self._key = _credential(key, key_header) if key is not None else None
        self._drop = _REPLACED if self._key is None else _REPLACED.union(CREDENTIALS, {self._key[0].lower()})
        self._first_byte_s = first_byte_s
        self._between_chunks_s = between_chunks_s
        self._answer_s = answer_s
        self._attempts = attempts
        self._max_wait_s = max_wait_s
        self._retry_unsafe = retry_unsafe
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s}}
        self._transport = transport or aiohttp_transport(max_connections, tls, trust_env=trust_env)
        # Parsing a URL takes a tenth of the time of a whole exchange.
        self._address = lru_cache(maxsize=256)(self._parse_address)

    def _parse_address(self, path: str) -> httpx.URL:
        prefix = self._base.raw_path.decode("ascii")
        return self._base.copy_with(raw_path=join(prefix, path).encode("ascii"))

    @asynccontextmanager
    async def send(
        self, method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> AsyncIterator[UpstreamResponse]:
        """The answer to a request; `path` and `query` are percent-encoded. Leaving the context drops its unread rest.

        Raises UpstreamUnavailable without an answer, UpstreamTimeout if it is late, UpstreamUnreadable if it is broken.
        """
        request = self._request(method, path, query, headers, body)
        began = time.perf_counter()
        attempt = await self._attempt(request)
        if attempt.retry_in_s is not None and self._attempts > 1:
            attempt = await self._retry(request, attempt)
        if attempt.response is None:
            raise attempt.error or UpstreamUnavailable("no answer")
        try:
            waited_s = time.perf_counter() - began
            response = UpstreamResponse(attempt.response, self._between_chunks_s, self._answer_s, waited_s)
            check_framing(response.status, response.headers)
            yield response
        finally:
            await _drop(attempt.response)

    def wrap(self, wrapper: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]) -> None:
        """Send every call through what `wrapper` makes of the network."""
        self._transport = wrapper(self._transport)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def _request(
        self, method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> httpx.Request:
        out = [(b"host", self._base.netloc), *end_to_end(headers, self._drop)]
        if self._key is not None:
            out.append(self._key)
            # Gemini's clients may send their key in the query.
            query = without_keys(query)
        if body or method in {"POST", "PUT", "PATCH"}:
            out.append((b"content-length", b"%d" % len(body)))
        target = f"{path}?{query.decode('ascii')}" if query else path
        url = self._parse_address(target) if b"key=" in query else self._address(target)  # the cache must not keep keys
        if len(body) > _SLICE:
            return httpx.Request(method, url, headers=out, stream=_Slices(body), extensions=self._extensions)
        return httpx.Request(method, url, headers=out, content=body, extensions=self._extensions)

    async def _attempt(self, request: httpx.Request) -> _Attempt:
        """Send the request once; say whether it may be sent again."""
        repeatable = request.method in IDEMPOTENT or self._retry_unsafe
        await _notice_closed()
        try:
            async with asyncio.timeout(self._first_byte_s):
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            return _Attempt(error=UpstreamTimeout(f"no answer from the upstream in {self._first_byte_s:g} s"))
        except httpx.HTTPError as error:
            if never_sent(error):
                failure = UpstreamUnavailable("the upstream cannot be reached")
                failure.__cause__ = error
                return _Attempt(error=failure, retry_in_s=0.0)
            failure = UpstreamUnavailable(f"the upstream broke the connection off ({_kind(error)})")
            return _Attempt(error=failure, retry_in_s=0.0 if repeatable else None)
        except _MALFORMED as error:
            return _Attempt(error=_malformed(error))
        return _Attempt(response=response, retry_in_s=self._retry_in_s(response, repeatable=repeatable))

    def _retry_in_s(self, response: httpx.Response, *, repeatable: bool) -> float | None:
        """Decide whether an answer is retried, and when: `_Attempt.retry_in_s`.

        A 429 or 503 with a `Retry-After` means that the upstream did not act on the request; a 502 or 504 does not.
        """
        if response.status_code not in {429, 502, 503, 504}:
            return None
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        declined = response.status_code in {429, 503} and wait is not None
        if not (declined or repeatable) or (wait or 0.0) > self._max_wait_s:
            return None
        return wait or 0.0

    async def _retry(self, request: httpx.Request, failed: _Attempt) -> _Attempt:
        """Retry after a first attempt has `failed`: it ran without tenacity, which would add 80 µs to every request."""
        first_attempt = [failed]

        async def attempt_again() -> _Attempt:
            return first_attempt.pop() if first_attempt else await self._attempt(request)

        async def before_sleep(state: RetryCallState) -> None:
            last = _last(state)
            status = last.response.status_code if last.response is not None else None
            log.warning("upstream_retry", attempt=state.attempt_number, status=status, error=str(last.error or ""))
            if last.response is not None:
                await _drop(last.response)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            retry=retry_if_result(lambda attempt: attempt.retry_in_s is not None),
            wait=self._pause,
            before_sleep=before_sleep,
            retry_error_callback=_last,
        )
        return await retrying(attempt_again)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: as the upstream asked, else an exponential back-off from 0.25 s."""
        return min(_last(state).retry_in_s or 0.25 * 2.0 ** (state.attempt_number - 1), self._max_wait_s)


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
    return state.outcome.result()  # type: ignore[no-any-return]


async def _notice_closed() -> None:
    """Have the event loop handle what has arrived, so that a connection which the upstream has closed is not reused.

    A request that is written to such a connection is lost, and a POST may not be sent again. One turn of the loop reads
    the end of a connection, the next removes it from the pool.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _drop(response: httpx.Response) -> None:
    with suppress(httpx.HTTPError):  # the response is not used, so an error while closing it does not matter
        await response.stream.aclose()  # type: ignore[union-attr]


class _Slices(httpx.AsyncByteStream):
    """A large body in slices. Each iteration starts from the beginning, for retries."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _SLICE):
            yield self._body[start : start + _SLICE]


def _kind(error: Exception) -> str:
    """The name of a transport error. Its text is left out, here and in the log: it may quote the upstream's answer."""
    return type(error.__cause__ or error).__name__


def _malformed(error: Exception) -> UpstreamUnreadable:
    """The error for an answer that the HTTP parser refuses."""
    return UpstreamUnreadable(f"its HTTP is malformed ({_kind(error)})")


def never_sent(error: httpx.HTTPError) -> bool:
    """Whether a transport error means that no byte of the request was sent.

    httpx-aiohttp raises ConnectTimeout for every lost connection, so aiohttp's own error, its cause, is checked first.
    """
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


def retry_after(value: str | None, date: str | None) -> float | None:
    """The seconds in a `Retry-After` header (RFC 9110, 10.2.3); None if it is absent or not readable.

    A date is compared with the answer's own `Date`, so the clocks of proxy and upstream need not agree.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(date or "")).total_seconds())
    except (TypeError, ValueError):
        return None


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


def aiohttp_transport(max_connections: int, tls: ssl.SSLContext | None, *, trust_env: bool) -> httpx.AsyncBaseTransport:
    """httpx over aiohttp's connection pool, configured to add no headers, keep no cookies and decode nothing."""
    context = tls or httpx.create_ssl_context(trust_env=trust_env)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=_IDLE_S, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=trust_env,
        )

    transport: httpx.AsyncBaseTransport = AiohttpTransport(verify=context, client=session)
    return transport
