"""The proxy handler: it has the pipeline judge a request, forwards it, and has the pipeline judge the answer."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from random import Random
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from guardproxy.asking import Asker, asked_by
from guardproxy.errors import GuardproxyError, UpstreamUnreadable
from guardproxy.observe import Metrics
from guardproxy.pipeline import AskAgain, Exchange, InPlace, Pipeline, RefusedBeforeStart, RequestReview
from guardproxy.policy import PolicySet
from guardproxy.ports import Wire
from guardproxy.routing import Asked
from guardproxy.settings import AuditSettings, Limits
from guardproxy.types import Origin
from guardproxy.web.access import Access
from guardproxy.web.another import ask_again, may_ask_again
from guardproxy.web.answers import check_charset, check_redirect, for_line_readers, is_text
from guardproxy.web.call import Call, KeepAlive, WhileConnected
from guardproxy.web.client import choose_policy, upstream_of_unread
from guardproxy.web.errors import NotReady, ShuttingDown, error_answer, may_be_repeated, retry_after, told
from guardproxy.web.failover import UpstreamPlan, Upstreams
from guardproxy.web.headers import HOP_BY_HOP, OF_THE_BODY, OWN_PREFIX, end_to_end, first
from guardproxy.web.identities import Identities
from guardproxy.web.overlap import UpstreamCall
from guardproxy.web.paths import NotGuarded, PathList, check_path, spellings
from guardproxy.web.readers import LocalPolicies
from guardproxy.web.reading import chained, check_encoding, check_reply, read_request, within
from guardproxy.web.sample import ReviewSample
from guardproxy.web.sniff import Sniffer
from guardproxy.web.upstream import UpstreamResponse
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.usage import with_earlier

log = structlog.get_logger("guardproxy.proxy")

_LENGTH: Final = frozenset({b"content-length"})
_STREAM_HEADERS: Final = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
_STREAM_DROP: Final = HOP_BY_HOP | OF_THE_BODY | _LENGTH | {b"content-type"} | {name for name, _ in _STREAM_HEADERS}


class LivePolicies:
    """The policies in force. A reload replaces `current`; a request keeps the policies it began with."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = policies


class Proxy:
    """An ASGI application. `ready` returns why requests cannot be guarded now, empty if they can.

    `allow` names requests that pass unread because they carry no chat, `refuse` requests that are refused although a
    wire reads them. While a stream is held back, a comment is sent every `keepalive_s` seconds if its protocol has any.
    Records name the end user and session that `identities` finds; `sample` draws the requests that they mark. `access`
    decides who may send a request.
    Configure logging before: unremarkable requests are logged at level debug.
    """

    def __init__(
        self,
        *,
        upstreams: Upstreams,
        pipeline: Pipeline,
        wires: Sequence[Wire],
        policies: LivePolicies,
        allow: PathList,
        refuse: PathList,
        limits: Limits,
        metrics: Metrics,
        ready: Callable[[], str],
        keepalive_s: float = 15.0,
        identities: Identities | None = None,
        sample: ReviewSample | None = None,
        access: Access | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._pipeline = pipeline
        self._wires = tuple(wires)
        self._policies = policies
        self._allow = allow
        self._refuse = refuse
        self._limits = limits
        self._local = LocalPolicies()
        self._metrics = metrics
        self._ready = ready
        self._keepalive_s = keepalive_s
        self._identities = identities or Identities(AuditSettings())
        self._sample = sample or ReviewSample(0.0, Random())
        self._access = access or Access()
        self._log = log.bind()  # bound once, because binding takes time even if the line is not written
        self._debugs: bool = self._log.is_enabled_for(logging.DEBUG)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A failure gives an error answer, never unjudged text.

        If the answer has begun when something fails, it stays incomplete and the connection closes: so the client does
        not mistake it for a complete answer. A stream has the protocol's error as its last event.
        """
        call = Call(scope, receive, send)
        wire: Wire | None = None
        structlog.contextvars.bind_contextvars(request_id=call.id)
        try:
            check_path(call.path)
            wire = self._wire_of(call)
            call.client = self._access.admit(call.headers, call.query)
            body = await call.body(self._limits.body_bytes)
            if body is None:
                self._metrics.failed("client_left")
                return
            async with WhileConnected(call, receive) as connected:
                await self._handle(call, wire, body)
            if connected.gone:
                log.info("client_left", wire=wire.name if wire else "none", status=call.status)
                self._metrics.failed("client_left")
                return
        except GuardproxyError as error:
            log.warning("request_failed", code=error.code, error=str(error), cause=_cause(error))
            await self._fail(call, wire, error)
        except asyncio.CancelledError:  # by the server, which stops: `server.grace_s` is over
            log.warning("request_stopped", wire=wire.name if wire else "none", status=call.status)
            await self._fail(call, wire, ShuttingDown("the proxy is shutting down; repeat the request"))
        except Exception:  # whatever failed, the answer is an error and not unjudged text
            log.exception("request_broke")
            await self._fail(call, wire, GuardproxyError(f"internal error, see the log of request {call.id}"))
        self._log_and_count(call, wire)

    def _wire_of(self, call: Call) -> Wire | None:
        """The wire that reads a request; None if the request passes unread. Raises NotGuarded."""
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
            # Content of these methods has no meaning (RFC 9110, section 9.3), and nobody judges it here.
            body = b"" if call.method in ("GET", "HEAD", "OPTIONS") else body
            await self._pass(call, body)
            return
        if reason := self._ready():
            raise NotReady(reason)
        exchange, plan, overlap = await self._exchange(call, wire, body)
        asker = asked_by(exchange.origin.client or call.peer)
        began = time.perf_counter()
        early = exchange.request.raw if overlap else None
        async with UpstreamCall(partial(self._send, call, plan), early) as upstream:
            review = await self._pipeline.review_request(exchange)
            call.guard_s += time.perf_counter() - began
            call.dropped = review.dropped
            call.judged(review.action, review.categories, review.coverage)
            if review.refusal is None:
                await self._forward(call, review, plan, upstream, asker)
        if review.refusal is not None:
            await call.send_answer(wire.refuse(exchange.request, review.refusal), retry=False)

    async def _pass(self, call: Call, body: bytes) -> None:
        """Forward a request unread, and its answer."""
        policies, asked = self._policies.current, Asked((call.path,), method=call.method)
        target = upstream_of_unread(policies, asked, call.headers, call.query, known=call.client)
        plan = self._upstreams.plan_unread(target, call.path)
        async with self._upstreams.send(plan, call.outgoing(body, call.forwarded)) as response:
            check_redirect(response.status, response.headers)
            await self._relay(call, response)

    def _send(self, call: Call, plan: UpstreamPlan, body: bytes) -> AbstractAsyncContextManager[UpstreamResponse]:
        headers = [pair for pair in call.forwarded if pair[0] != b"accept-encoding"]
        return self._upstreams.send(plan, call.outgoing(body, [*headers, (b"accept-encoding", b"identity")]))

    async def _exchange(self, call: Call, wire: Wire, body: bytes) -> tuple[Exchange, UpstreamPlan, bool]:
        """The request as the pipeline takes it, its upstreams, and `Route.overlap`.

        Raises Unreadable, Unsupported, TooLarge, LimitReached, NotServed.
        """
        check_encoding(call.headers)
        request = await read_request(wire, call.target, body, self._limits, received=time.time(), request_id=call.id)
        policies = self._policies.current
        other_paths = spellings(call.path, partial(wire.claims, call.method)) if policies.routes else ()
        models = wire.models(request) if policies.routes_by_model else ()
        user, session = self._identities.of(request.body, call.headers)
        asked = Asked((call.path, *other_paths), protocol=wire.name, method=call.method, user=user)
        client, chosen = choose_policy(policies, asked, models, call.headers, call.query, known=call.client)
        self._access.charge(call.client, request.conversation.messages)
        plan = self._upstreams.plan(chosen.upstream, wire.name)
        origin = Origin(
            request_id=call.id,
            route=chosen.route,
            wire=wire.name,
            upstream=plan.url,
            model=request.model,
            client=client,
            stream=request.stream,
            user=user,
            session=session,
        )
        in_force = tuple(policies.policies.values())
        policy = self._local.of(chosen.policy, call.headers)
        account = plan.upstreams[0].name
        exchange = Exchange(wire, request, origin, policy, chosen.shadow, self._sample.draw(), in_force, None, account)
        if request.resumes is not None and plan.group is not None:
            # Only the upstream that gave a reply knows it.
            possible = [(upstream.url, upstream.name) for upstream in plan.upstreams]
            plan = plan.only(await self._pipeline.gave_resumed(exchange, possible))
            exchange = exchange.at(plan.upstreams[0].url, plan.upstreams[0].name)
        return exchange, plan, chosen.overlap

    async def _forward(
        self, call: Call, review: RequestReview, plan: UpstreamPlan, upstream: UpstreamCall, asker: Asker
    ) -> None:
        """Forward the request, and send the judged answer to the client, or another one in its place."""
        try:
            async with upstream.answer(review.body) as response:
                call.saved_s, asker.answered = upstream.saved_s, True
                plan = plan.only(response.upstream.name)
                await self._answer(call, review.exchange, response)
        except AskAgain as withheld:
            await upstream.stop()
            send, answer = partial(self._send, call, plan), partial(self._answer, call)
            await ask_again(call, review, withheld, send=send, answer=answer, metrics=self._metrics.upstreams)

    async def _answer(self, call: Call, exchange: Exchange, response: UpstreamResponse) -> None:
        """Send the judged answer of an upstream to the client. Raises AskAgain."""
        call.responses.append(response)
        if response.upstream.name != exchange.account:
            exchange = exchange.at(response.upstream.url, response.upstream.name)
        self._metrics.upstream(response.waited_s)
        check_redirect(response.status, response.headers)
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
        if call.stream_type not in ("", content_type):
            raise UpstreamUnreadable("it is not of the content type that the client expects")
        if content_type:
            stream = within(chained(head, source), self._limits.stream_bytes)
            await self._stream(call, exchange, response, stream, content_type)
        else:
            await self._whole(call, exchange, response, await self._read(head, source))

    async def _failure(self, call: Call, exchange: Exchange, response: UpstreamResponse) -> None:
        """Send an upstream's error on, byte for byte or cleaned, or an error without its text, as its review says."""
        raw = await self._read(b"", response.chunks())
        began = time.perf_counter()
        body, stream_type = await self._error_body(exchange, response, raw)
        review = await self._pipeline.review_error(exchange, body, stream_type)
        call.guard_s += time.perf_counter() - began
        call.judged(review.action, review.categories, review.coverage)
        if body is None:
            raise UpstreamUnreadable("it is an error whose body is not text in UTF-8")
        if review.passes:
            drop = HOP_BY_HOP | _LENGTH if review.cleaned is None else HOP_BY_HOP | _LENGTH | OF_THE_BODY
            sent = raw if review.cleaned is None else review.cleaned
            await call.answer(response.status, response.upstream.answer_headers.select(response.headers, drop), sent)
        else:
            refusal = exchange.policy.block.refusal(review.categories)
            why = reason(exchange.request, refusal)
            error = exchange.wire.error(response.status, "content_filter", refusal.message, why)
            await call.send_answer(error, retry=False)

    async def _error_body(self, exchange: Exchange, response: UpstreamResponse, raw: bytes) -> tuple[bytes | None, str]:
        """The decoded body (None if it cannot be decoded to text), and its content type if it is a stream."""
        try:
            body = await self._read(b"", response.decode(chained(raw))) if raw else b""
            check_charset(response.headers, body)
            await check_reply(body, self._limits)
        except UpstreamUnreadable:
            return None, ""
        if not is_text(body):
            return None, ""
        sniffer = Sniffer(first(response.headers, b"content-type"), lines=exchange.wire.lines)
        sniffer.add(body)
        return body, sniffer.stream_type

    def _check_reply(self, size: int) -> None:
        limit = self._limits.reply_bytes
        if size > limit:
            raise UpstreamUnreadable(f"it has more than the {limit} bytes of limits.reply_bytes")

    async def _read(self, head: bytes, source: AsyncIterator[bytes]) -> bytes:
        parts, size = [], 0
        async for part in chained(head, source):
            parts.append(part)
            size += len(part)
            self._check_reply(size)
        return b"".join(parts)

    async def _whole(self, call: Call, exchange: Exchange, response: UpstreamResponse, body: bytes) -> None:
        check_charset(response.headers, body)
        await check_reply(body, self._limits)
        began = time.perf_counter()
        review = await self._pipeline.review_reply(exchange, body)
        call.guard_s += time.perf_counter() - began
        if review.again is not None and may_ask_again(call, exchange):
            raise review.again
        call.judged(review.action, review.categories, review.coverage)
        if review.refusal is not None:
            await call.send_answer(exchange.wire.refuse(exchange.request, review.refusal), retry=False)
            return
        safe = with_earlier(review.body, exchange.earlier)
        safe = for_line_readers(safe, exchange.wire.lines) if exchange.request.stream else safe
        changed = safe != body or first(response.headers, b"content-encoding")
        drop = HOP_BY_HOP | _LENGTH | OF_THE_BODY if changed else HOP_BY_HOP | _LENGTH
        await call.answer(response.status, response.upstream.answer_headers.select(response.headers, drop), safe)

    async def _stream(
        self,
        call: Call,
        exchange: Exchange,
        response: UpstreamResponse,
        source: AsyncIterator[bytes],
        content_type: str,
    ) -> None:
        check_charset(response.headers)
        headers = response.upstream.answer_headers.select(response.headers, _STREAM_DROP)
        headers += [*_STREAM_HEADERS, (b"content-type", content_type.encode("latin-1"))]
        call.stream_type = content_type
        keep_alive = KeepAlive(call, exchange.wire.keepalive, self._keepalive_s, response.status, headers)
        in_place = InPlace(keep_alive.try_refuse_with_error, partial(may_ask_again, call, exchange), call.note_refusal)
        pieces = self._pipeline.review_stream(exchange, source, content_type, in_place)
        try:
            async with aclosing(pieces), keep_alive:
                if not exchange.waits_for_text:  # otherwise it begins with the first text or comment
                    await keep_alive.begin()
                async for piece in pieces:
                    await keep_alive.begin()
                    call.has_reply = True
                    await call.send(with_earlier(piece, exchange.earlier))
                await keep_alive.begin()
        except RefusedBeforeStart as refused:
            call.judged("block", refused.refusal.categories, "full")
            await call.send_answer(exchange.wire.refuse(exchange.request, refused.refusal), retry=False)
        else:
            await call.end()

    async def _relay(self, call: Call, response: UpstreamResponse) -> None:
        """Send an answer on byte for byte, without reading it."""
        call.responses.append(response)
        drop = HOP_BY_HOP.union(name for name, _ in response.headers if name.startswith(OWN_PREFIX))
        await call.start(response.status, end_to_end(response.headers, drop))
        async for chunk in response.chunks():
            await call.send(chunk)
        await call.end()

    async def _fail(self, call: Call, wire: Wire | None, error: GuardproxyError) -> None:
        """Answer with an error of the client's protocol, in a stream that has begun as its last event."""
        self._metrics.failed(error.code)
        error_of = wire.error if wire is not None else partial(error_answer, call.path)
        answer = error_of(error.status, error.code, told(error, call.id))
        if call.status:
            if call.stream_type and wire is not None:
                await call.send(wire.error_event(answer, call.stream_type))
            return
        await call.send_answer(answer, retry=may_be_repeated(error), more=retry_after(error))

    def _log_and_count(self, call: Call, wire: Wire | None) -> None:
        name = wire.name if wire is not None else "none"
        seconds = time.perf_counter() - call.began
        self._metrics.request(name, call.status)
        if call.action is not None and call.ended and call.status < 500:
            self._metrics.added(max(0.0, seconds - call.upstream_s))
        usual = call.ended and call.status < 400 and call.action in {None, "pass"}
        if usual and not self._debugs:
            return
        (self._log.debug if usual else self._log.info)(
            "request", wire=name, ms=round(seconds * 1000, 1), **call.summary()
        )


def _cause(error: GuardproxyError) -> str:
    """The cause of an error for the log. Not its `repr`, which for some errors holds the whole body."""
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else ""
