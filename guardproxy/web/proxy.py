"""The proxy handler: a request is judged, forwarded, and its answer judged, as the pipeline says."""

import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from guardproxy.errors import GuardproxyError, TooLarge, UpstreamUnreadable
from guardproxy.observe import Metrics
from guardproxy.pipeline import Exchange, Pipeline, Refused
from guardproxy.policy import OnFailure, PolicySet
from guardproxy.ports import Answer, Request, Wire
from guardproxy.settings import Limits
from guardproxy.types import ActionName, Origin
from guardproxy.web.call import NO_RETRY, Call, KeptAlive, WhileConnected
from guardproxy.web.headers import HOP_BY_HOP, OF_THE_BODY, OWN_PREFIX, Headers, client_of, end_to_end, first
from guardproxy.web.paths import NotGuarded, PathList, check_path
from guardproxy.web.sniff import Sniffer, json_error
from guardproxy.web.upstream import Upstream, UpstreamResponse

log = structlog.get_logger("guardproxy.proxy")

_CHARSET: Final = re.compile(rb"charset[*0-9]*\s*=\s*[\"']*([^\s;,\"']*)")
_UTF8: Final = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
_LENGTH: Final = frozenset({b"content-length"})
_OPAQUE: Final[dict[OnFailure, ActionName]] = {"block": "block", "flag": "flag", "allow": "pass"}
_STREAM_HEADERS: Final = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
_STREAM_DROP: Final = HOP_BY_HOP | OF_THE_BODY | _LENGTH | {name for name, _ in _STREAM_HEADERS}


class Unsupported(GuardproxyError):
    """A body in a form that is not read here."""

    status = 415
    code = "unsupported_encoding"


class Redirected(GuardproxyError):
    """The upstream sends the client elsewhere, where nobody judges; clients follow."""

    status = 502
    code = "upstream_redirects"


class NotReady(GuardproxyError):
    """The guard is not to be relied on yet, or any more."""

    status = 503
    code = "not_ready"


class LivePolicies:
    """The policies in force. A reload puts new ones here; a request keeps those it began with."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = policies


class Proxy:
    """An ASGI application. `ready` says why requests cannot be guarded now; empty where they can.

    `allow` names requests that pass unread because they carry no chat, `refuse` requests that are refused even where
    a wire reads them. A stream that is held back shows every `keepalive_s` seconds that it lives, where its protocol
    has a way. Logging is to be configured before: requests to which nothing happened are logged as debug.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        pipeline: Pipeline,
        wires: Sequence[Wire],
        policies: LivePolicies,
        allow: PathList,
        refuse: PathList,
        limits: Limits,
        metrics: Metrics,
        ready: Callable[[], str],
        keepalive_s: float = 15.0,
    ) -> None:
        self._upstream = upstream
        self._pipeline = pipeline
        self._wires = tuple(wires)
        self._policies = policies
        self._allow = allow
        self._refuse = refuse
        self._limits = limits
        self._metrics = metrics
        self._ready = ready
        self._keepalive_s = keepalive_s
        self._log = log.bind()  # bound once: a line that is not written should cost nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Whatever goes wrong is an error answer, never unjudged text.

        An answer that breaks in the middle is left unfinished, which closes the connection: the client cannot take
        it for whole.
        """
        call = Call(scope, receive, send)
        wire: Wire | None = None
        structlog.contextvars.bind_contextvars(request_id=call.id)
        try:
            check_path(call.path)
            wire = self._wire_of(call)
            body = await call.body(self._limits.body_bytes)
            if body is None:
                return
            async with WhileConnected(call, receive) as connected:
                await self._handle(call, wire, body)
            if connected.gone:
                log.info("client_left", wire=wire.name if wire else "none", status=call.status)
                return
        except GuardproxyError as error:
            log.warning("request_failed", code=error.code, error=str(error), cause=_cause(error))
            await self._fail(call, wire, error)
        except Exception:  # the last line: unjudged text must not leave, whatever broke
            log.exception("request_broke")
            await self._fail(call, wire, GuardproxyError(f"internal error, see the log of request {call.id}"))
        self._account(call, wire)

    def _wire_of(self, call: Call) -> Wire | None:
        """The wire that reads a request; None for one that passes unread. Raises NotGuarded."""
        if not self._refuse.names(call.method, call.path):
            method = "POST" if call.method == "OPTIONS" else call.method
            wire = next((wire for wire in self._wires if wire.claims(method, call.path)), None)
            if wire is not None and call.method != "OPTIONS":
                return wire
            if wire is not None or self._allow.names(call.method, call.path):
                return None
        raise NotGuarded(
            f"guardproxy cannot read {call.method} {call.path}, so it does not forward it; if it carries no chat, "
            f"the operator can let it pass by adding '{call.method} {call.path}' to paths.allow"
        )

    async def _handle(self, call: Call, wire: Wire | None, body: bytes) -> None:
        if wire is None:
            body = b"" if call.method == "OPTIONS" else body  # it asks what a path allows, a wire's paths too
            async with self._upstream.send(call.method, call.raw_path, call.query, call.headers, body) as response:
                await self._relay(call, response)
            return
        if reason := self._ready():
            raise NotReady(reason)
        exchange = self._exchange(call, wire, body)
        began = time.perf_counter()
        review = await self._pipeline.review_request(exchange)
        call.guard_s += time.perf_counter() - began
        call.dropped = review.dropped
        call.judged(review.action, review.categories, review.coverage)
        if review.refusal is not None:
            await self._give(call, wire.refuse(exchange.request, review.refusal), retry=False)
        else:
            await self._forward(call, review.exchange, review.body)

    def _exchange(self, call: Call, wire: Wire, body: bytes) -> Exchange:
        """The request as the pipeline sees it. Raises Unreadable, Unsupported, TooLarge."""
        _check_plain(call.headers)
        request = replace(wire.parse_request(call.target, body), received=time.time())
        self._check_size(request)
        client = client_of(call.headers, call.query)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers}
        chosen = self._policies.current.choose(call.path, request.model, client, headers)
        origin = Origin(
            request_id=call.id,
            route=chosen.route,
            wire=wire.name,
            upstream=self._upstream.url,
            model=request.model,
            client=client,
            stream=request.stream,
        )
        return Exchange(wire, request, origin, chosen.policy, chosen.shadow)

    def _check_size(self, request: Request) -> None:
        messages = request.conversation.messages
        if len(messages) > self._limits.messages:
            raise TooLarge(f"{len(messages)} messages are more than the {self._limits.messages} of limits.messages")
        characters = sum(message.size for message in messages)
        if characters > self._limits.characters:
            raise TooLarge(f"{characters} characters are more than the {self._limits.characters} of limits.characters")

    async def _forward(self, call: Call, exchange: Exchange, body: bytes) -> None:
        """Send the request on, and judge the answer."""
        headers = [pair for pair in call.headers if pair[0] != b"accept-encoding"]
        headers.append((b"accept-encoding", b"identity"))
        async with self._upstream.send(call.method, call.raw_path, call.query, headers, body) as response:
            call.response = response
            self._metrics.upstream(response.waited_s)
            if first(response.headers, b"location") and 300 <= response.status < 400:
                raise Redirected("the upstream answers with a redirect, which leads past the guard; see upstream.url")
            if not 200 <= response.status < 300:
                await self._failure(call, exchange, response)
                return
            source = response.decoded()
            sniffer = Sniffer(first(response.headers, b"content-type"), lines=exchange.wire.lines)
            while (data := await anext(source, None)) is not None:
                known = sniffer.add(data)
                self._check_reply(len(sniffer.head))
                if known:
                    break
            head, content_type = bytes(sniffer.head), sniffer.stream_type
            if content_type:
                await self._stream(call, exchange, response, _chain(head, source), content_type)
            else:
                await self._whole(call, exchange, response, await self._read(head, source))

    async def _failure(self, call: Call, exchange: Exchange, response: UpstreamResponse) -> None:
        """Pass an upstream's error on as it came, unless what it says must not pass: servers quote the model in it.

        One that is not of the protocol is a server's own page, and opaque.
        """
        raw = await self._read(b"", response.chunks())
        began = time.perf_counter()
        try:
            passes = await self._error_passes(call, exchange, response, raw)
        except UpstreamUnreadable:
            action = _OPAQUE[exchange.policy.on_opaque["assistant"]] if raw else "pass"
            call.judged(action, (), "partial" if raw else "full")
            passes = action != "block"
        call.guard_s += time.perf_counter() - began
        if passes:
            drop = _dropped(response, HOP_BY_HOP | _LENGTH)
            await call.answer(response.status, end_to_end(response.headers, drop), raw)
        else:
            told = exchange.wire.error(response.status, "content_filter", exchange.policy.block.message)
            await self._give(call, told, retry=False)

    async def _error_passes(self, call: Call, exchange: Exchange, response: UpstreamResponse, raw: bytes) -> bool:
        """Whether an error's body is to pass. Raises UpstreamUnreadable where it is none of the protocol."""
        body = await self._read(b"", response.undone(_chain(raw)))
        sniffer = Sniffer(first(response.headers, b"content-type"), lines=exchange.wire.lines)
        sniffer.add(body)
        if sniffer.stream_type:
            pieces = self._pipeline.review_stream(exchange, _chain(body), sniffer.stream_type)
            passes = b"".join([piece async for piece in pieces]) == body
            call.judged("pass" if passes else "block", (), "full")
            return passes
        review = await self._pipeline.review_reply(exchange, body)
        call.judged(review.action, review.categories, review.coverage)
        return review.refusal is None and review.body is body

    def _check_reply(self, size: int) -> None:
        limit = self._limits.reply_bytes
        if size > limit:
            raise UpstreamUnreadable(f"it has more than the {limit} bytes of limits.reply_bytes")

    async def _read(self, head: bytes, source: AsyncIterator[bytes]) -> bytes:
        parts, size = [], 0
        async for part in _chain(head, source):
            parts.append(part)
            size += len(part)
            self._check_reply(size)
        return b"".join(parts)

    async def _whole(self, call: Call, exchange: Exchange, response: UpstreamResponse, body: bytes) -> None:
        began = time.perf_counter()
        review = await self._pipeline.review_reply(exchange, body)
        call.guard_s += time.perf_counter() - began
        call.judged(review.action, review.categories, review.coverage)
        if review.refusal is not None:
            await self._give(call, exchange.wire.refuse(exchange.request, review.refusal), retry=False)
            return
        changed = review.body is not body or first(response.headers, b"content-encoding")
        drop = _dropped(response, HOP_BY_HOP | _LENGTH | OF_THE_BODY if changed else HOP_BY_HOP | _LENGTH)
        await call.answer(response.status, end_to_end(response.headers, drop), review.body)

    async def _stream(
        self,
        call: Call,
        exchange: Exchange,
        response: UpstreamResponse,
        source: AsyncIterator[bytes],
        content_type: str,
    ) -> None:
        headers = end_to_end(response.headers, _dropped(response, _STREAM_DROP | {b"content-type"}))
        headers += [*_STREAM_HEADERS, (b"content-type", content_type.encode("latin-1"))]
        kept = KeptAlive(call, exchange.wire.keepalive, self._keepalive_s, response.status, headers)
        pieces = self._pipeline.review_stream(exchange, source, content_type, kept.stop)
        try:
            async with aclosing(pieces), kept:
                if exchange.policy.block.how != "error":  # else the first text, or the first comment, is its start
                    await kept.begin()
                async for piece in pieces:
                    await kept.begin()
                    await call.send(piece)
                await kept.begin()
        except Refused as refused:
            call.judged("block", refused.refusal.categories, "full")
            await self._give(call, exchange.wire.refuse(exchange.request, refused.refusal), retry=False)
        else:
            await call.end()

    async def _relay(self, call: Call, response: UpstreamResponse) -> None:
        """Pass an answer on as it came, unread."""
        call.response = response
        await call.start(response.status, end_to_end(response.headers, _dropped(response, HOP_BY_HOP)))
        async for chunk in response.chunks():
            await call.send(chunk)
        await call.end()

    async def _give(self, call: Call, answer: Answer, *, retry: bool) -> None:
        headers: Headers = [(b"content-type", answer.content_type.encode("latin-1"))]
        if not retry:
            headers.append(NO_RETRY)
        await call.answer(answer.status, headers, answer.body)

    async def _fail(self, call: Call, wire: Wire | None, error: GuardproxyError) -> None:
        """Answer with an error, in the shape that the client's SDK knows; too late for that, leave it broken.

        What the upstream could not be read for stays in the log: it may quote what was not judged.
        """
        if call.status:
            return
        message = str(error)
        if isinstance(error, UpstreamUnreadable):
            message = f"the upstream's answer cannot be read, so it cannot be judged; see request {call.id} in the log"
        shape = wire.error if wire is not None else json_error
        retry = error.status in {502, 503, 504} and not isinstance(error, UpstreamUnreadable | Redirected)
        await self._give(call, shape(error.status, error.code, message), retry=retry)

    def _account(self, call: Call, wire: Wire | None) -> None:
        name = wire.name if wire is not None else "none"
        seconds = time.perf_counter() - call.began
        self._metrics.request(name, call.status)
        if call.action is not None and call.ended and call.status < 500:
            self._metrics.added(max(0.0, seconds - call.upstream_s))
        usual = call.ended and call.status < 400 and call.action in {None, "pass"}
        (self._log.debug if usual else self._log.info)(
            "request",
            wire=name,
            method=call.method,
            path=call.path,
            status=call.status,
            action=call.action,
            categories=call.categories,
            ms=round(seconds * 1000, 1),
            upstream_ms=round(call.upstream_s * 1000, 1),
            complete=call.ended,
        )


def _check_plain(headers: Headers) -> None:
    """Raises Unsupported where an upstream could read the body as other text than the UTF-8 that is judged here."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise Unsupported("a compressed request body is not read here; send it without content-encoding")
        if name == b"content-type" and not _UTF8.issuperset(_CHARSET.findall(value.lower())):
            raise Unsupported("JSON is UTF-8; send it without another charset in content-type")


def _cause(error: GuardproxyError) -> str:
    """What lies behind an error, in its words: the `repr` of some holds the whole body that they are about."""
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else ""


def _dropped(response: UpstreamResponse, drop: frozenset[bytes]) -> frozenset[bytes]:
    """`drop`, and whatever an upstream says under the proxy's own names."""
    return drop.union(name for name, _ in response.headers if name.startswith(OWN_PREFIX))


async def _chain(head: bytes, source: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    if head:
        yield head
    if source is not None:
        async for chunk in source:
            yield chunk
