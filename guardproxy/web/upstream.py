"""The HTTP client for one upstream: its addresses, its credentials, its time-outs, and the answer as it comes."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple

import httpx

from guardproxy.errors import ConfigError, GuardproxyError, UpstreamUnavailable, UpstreamUnreadable
from guardproxy.frozen import frozen
from guardproxy.upstreams import Ejection, Ending, RepeatAfter, ending_of
from guardproxy.web.answers import AnswerHeaders
from guardproxy.web.decode import ContentDecoder, decoder_for
from guardproxy.web.headers import CREDENTIALS, HOP_BY_HOP, NO_RETRY, Headers, end_to_end, join, without_keys
from guardproxy.web.model_names import with_models
from guardproxy.web.patience import Patience
from guardproxy.web.transport import (
    MALFORMED,
    SLICE,
    Fields,
    Slices,
    aiohttp_transport,
    kind,
    malformed,
    never_sent,
    notice_closed,
)

# Headers by which some servers change the method of a request: a request that passes as a GET must stay a GET.
_OTHER_METHOD: Final = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
# Headers that the proxy sets itself or that do not concern the upstream.
_REPLACED: Final = HOP_BY_HOP | _OTHER_METHOD | {b"host", b"content-length", b"expect"}


class UpstreamTimeout(UpstreamUnavailable):
    """The upstream did not answer in time, although it may have received the request."""

    status = 504
    code = "upstream_timeout"


class UpstreamResponse:
    """An answer whose body is not read yet. The names in `headers` are in lower case.

    `waited_s` is the seconds spent on waiting for upstreams so far, since the request was sent. The whole body must
    come within the upstream's `answer_s` seconds from then on. `repeated`: more than one call of this request has
    reached an upstream, so the client should not repeat it once more.
    """

    def __init__(self, response: httpx.Response, upstream: "Upstream", waited_s: float, *, repeated: bool) -> None:
        self.upstream = upstream
        self.repeated = repeated
        self.waited_s = waited_s
        self._answer_s = upstream.answer_s
        self._ends = time.perf_counter() - waited_s + upstream.answer_s
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        if not upstream.cookies:
            self.headers = [pair for pair in self.headers if pair[0] != b"set-cookie"]
        if repeated and self.status >= 400:
            self.headers = [*(pair for pair in self.headers if pair[0] != NO_RETRY[0]), NO_RETRY]
        self._stream = response.stream
        self._between_chunks_s = upstream.between_chunks_s

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises UpstreamTimeout if the upstream sends nothing for too long or takes too long to the end,
        UpstreamUnavailable if it breaks off, UpstreamUnreadable if its framing is malformed.
        """
        pending, patience = aiter(self._stream), Patience()  # type: ignore[arg-type]
        try:
            while True:
                began = time.perf_counter()
                if began >= self._ends:  # what has already arrived is read without a wait, which a timeout would end
                    raise self._too_slow()
                try:
                    patience.begin(min(self._between_chunks_s, self._ends - began))
                    chunk = await anext(pending, None)
                except httpx.HTTPError as error:
                    raise UpstreamUnavailable(f"the upstream broke its answer off ({kind(error)})") from None
                except MALFORMED as error:
                    raise malformed(error) from None
                except asyncio.CancelledError:
                    if not patience.is_over():
                        raise
                    if time.perf_counter() >= self._ends:
                        raise self._too_slow() from None
                    raise UpstreamTimeout(f"the upstream was silent for {self._between_chunks_s:g} s") from None
                finally:
                    patience.end()
                    self.waited_s += time.perf_counter() - began
                if chunk is None:
                    return
                yield chunk
        finally:
            patience.close()

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


_NO_KEYS: Final[Mapping[str, str]] = {}


class Outgoing(NamedTuple):
    """A request for an upstream. `path` and `query` are percent-encoded, `headers` are the client's.

    `keys` has the client's own keys at upstreams, by the upstream's name, for `clients` of the configuration.
    """

    method: str
    path: str
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes
    keys: Mapping[str, str] = _NO_KEYS


@frozen
class Attempt:
    """How one call ended: with a response or an error. `wait_s`: the seconds of its `Retry-After`, None without one."""

    ending: Ending
    response: httpx.Response | None = None
    error: GuardproxyError | None = None
    wait_s: float | None = None


@frozen
class Retries:
    """How often one upstream is called at most for a request, after which endings, and how long a wait may be."""

    attempts: int = 3
    after: RepeatAfter = "unsent"
    max_wait_s: float = 20.0


_RETRIES: Final = Retries()
_EJECTION: Final = Ejection()


class Upstream:
    """An LLM service behind the proxy.

    `base_url` may have a path (see `headers.join`); a path that begins with `strip_path` is sent without it. With a
    `key` for the upstream, the client's credentials are removed and the key is sent in `key_header`, as a bearer token
    if that is `authorization`; without `client_key` they are removed as well. `private` are further headers that are
    removed with them, in lower case. Without `cookies`, none pass in either direction. `protocols` are the names of the
    wires that it serves, empty for all of them; `models` has its own names for the client's (`upstreams.model_at`);
    `response_headers` are those of `AnswerHeaders`. Proxies from the environment are used only with `trust_env`.
    Redirects are passed on, not followed. Cookies are not kept.

    `transport` replaces the network. Raises ConfigError if `base_url` is not an HTTP URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str = "default",
        key: str | None = None,
        key_header: str = "authorization",
        client_key: bool = True,
        private: Iterable[bytes] = (),
        cookies: bool = True,
        strip_path: str = "",
        models: Sequence[tuple[str, str]] = (),
        protocols: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        connect_s: float = 5.0,
        first_byte_s: float = 120.0,
        between_chunks_s: float = 60.0,
        answer_s: float = 3600.0,
        retries: Retries = _RETRIES,
        weight: float = 1.0,
        ejection: Ejection = _EJECTION,
        max_connections: int = 256,
        tls: ssl.SSLContext | None = None,
        trust_env: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.url = name, base_url
        self.retries, self.weight, self.ejection = retries, weight, ejection
        self.cookies, self.protocols = cookies, frozenset(protocols)
        self.answer_headers = AnswerHeaders(response_headers)
        self._base, self._strip, self._models = _base(base_url), strip_path.rstrip("/"), tuple(models)
        self._host = (b"host", self._base.netloc)
        self._key_header = key_header.lower()
        self._key = _credential(key, key_header) if key is not None else None
        self.is_shared = key is not None or not client_key
        self._drop = _REPLACED if cookies else _REPLACED | {b"cookie"}
        if self.is_shared:
            self._drop = self._drop.union(CREDENTIALS, private, {key_header.lower().encode("ascii")})
        self.first_byte_s, self.between_chunks_s, self.answer_s = first_byte_s, between_chunks_s, answer_s
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s}}
        self._transport = transport or aiohttp_transport(max_connections, tls, trust_env=trust_env)
        self._address = lru_cache(maxsize=256)(self._parse_address)  # parsing takes a tenth of an exchange

    def _parse_address(self, path: str) -> httpx.URL:
        prefix = self._base.raw_path.decode("ascii")
        if self._strip and path.startswith((self._strip + "/", self._strip + "?")):
            path = path[len(self._strip) :]
        return self._base.copy_with(raw_path=join(prefix, path).encode("ascii"))

    def wrap(self, wrapper: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]) -> None:
        """Send every call through what `wrapper` makes of the network."""
        self._transport = wrapper(self._transport)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def call(self, outgoing: Outgoing) -> Attempt:
        """Send a request once."""
        request = self._request(outgoing)
        await notice_closed()
        try:
            async with asyncio.timeout(self.first_byte_s):
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            error = UpstreamTimeout(f"no answer from the upstream in {self.first_byte_s:g} s")
            return Attempt("unknown", error=error)
        except httpx.HTTPError as error:
            if never_sent(error):
                failure = UpstreamUnavailable("the upstream cannot be reached")
                failure.__cause__ = error
                return Attempt("unsent", error=failure)
            failure = UpstreamUnavailable(f"the upstream broke the connection off ({kind(error)})")
            return Attempt("unknown", error=failure)
        except MALFORMED as error:
            return Attempt("unknown", error=malformed(error))
        status = response.status_code
        if status < 400:
            return Attempt("answered", response)
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        return Attempt(ending_of(status), response, wait_s=wait)

    def _request(self, outgoing: Outgoing) -> httpx.Request:
        method, path, query, headers, body, keys = outgoing
        if self._models:
            path, body = with_models(path, body, self._models)
        out = [self._host, *end_to_end(headers, self._drop)]
        if self.name in keys:
            name, _ = credential = _credential(keys[self.name], self._key_header)
            out = [*(pair for pair in out if pair[0] != name), credential]
        elif self._key is not None:
            out.append(self._key)
        if self.is_shared:
            # Gemini's clients may send their key in the query.
            query = without_keys(query)
        if body or method in {"POST", "PUT", "PATCH"}:
            out.append((b"content-length", b"%d" % len(body)))
        target = f"{path}?{query.decode('ascii')}" if query else path
        url = self._parse_address(target) if b"key=" in query else self._address(target)  # the cache must not keep keys
        if len(body) > SLICE:
            return httpx.Request(method, url, headers=out, stream=Slices(body), extensions=self._extensions)
        request = httpx.Request(method, url, stream=httpx.ByteStream(body), extensions=self._extensions)
        request.headers = Fields(out)
        request.read()  # with `content` instead, httpx would look for headers to add, and copy the others
        return request


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
