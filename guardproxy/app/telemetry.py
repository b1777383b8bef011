"""Traces: a span for each request, judged turn, check, call of the upstream, and for the time a stream is held back.

Each is made by a part around the one that does the work. The spans of a request are children of its own, and that is a
child of the client's, if it sends a `traceparent`; the upstream gets the `traceparent` of its call.
"""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardproxy import __version__
from guardproxy.app.observed import Unobserved
from guardproxy.errors import GuardproxyError
from guardproxy.observe import Metrics
from guardproxy.observe.otlp.export import Exporters
from guardproxy.observe.otlp.names import of_check, of_request, of_turn
from guardproxy.pipeline import Exchange, Pipeline, RequestReview
from guardproxy.ports import Guard
from guardproxy.settings import OtelSettings
from guardproxy.types import Check, Origin, Record, Verdict
from guardproxy.web.traced import traced_transport
from guardproxy.web.upstream import Upstream

_W3C: Final = TraceContextTextMapPropagator()
# The request that a task works for, as soon as it is read.
_ORIGIN: Final[ContextVar[list[Origin]]] = ContextVar("origin")


class Telemetry(Unobserved):
    """Spans, metrics and logs over OTLP, as the settings say."""

    def __init__(self, settings: OtelSettings) -> None:
        resource = {
            "service.name": settings.service_name,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
        self._settings = settings
        self._exporters = Exporters(settings.endpoint, settings.headers, resource, __version__, sample=settings.sample)
        self._tracer = self._exporters.tracer(send="traces" in settings.signals)
        self._guard = ""
        self.pipeline = _TracedPipeline

    def metrics(self) -> Metrics:
        """Metrics that make spans of records and of held streams."""
        experimental = self._settings.semconv == "experimental"
        return _TracedMetrics(self._tracer, lambda: self._guard, experimental=experimental)

    def guard(self, guard: Guard) -> Guard:
        """A guard whose checks have spans."""
        self._guard = guard.name
        return _TracedGuard(guard, self._tracer)

    def upstream(self, upstream: Upstream) -> Upstream:
        """The upstream, with a span for each of its calls."""
        upstream.wrap(lambda inner: traced_transport(inner, self._tracer, _origin))
        return upstream

    def proxy(self, proxy: ASGIApp) -> ASGIApp:
        """The proxy, with a span for each request."""
        return _TracedApp(proxy, self._tracer)

    def start(self, metrics: Metrics) -> None:
        """Begin to send metrics and logs."""
        if "metrics" in self._settings.signals:
            self._exporters.send_metrics(metrics.families, self._settings.interval_s)
        if "logs" in self._settings.signals:
            self._exporters.send_logs()

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.to_thread(self._exporters.close)


def _origin() -> Origin | None:
    """The origin of the request for which this runs; None for one that passes unread."""
    found = _ORIGIN.get([])
    return found[0] if found else None


class _TracedApp:
    """Makes a span for each request, in which everything that the request causes runs."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        span = self._tracer.start_span(
            f"{scope['method']} request",
            context=_W3C.extract(carrier, contexts.Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )
        _ORIGIN.set([])

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                for name, value in message["headers"]:
                    if name == b"x-guardproxy-action":
                        span.set_attribute("guardproxy.action", value.decode("latin-1"))
                if message["status"] >= 500:
                    span.set_status(StatusCode.ERROR)
            await send(message)

        token = contexts.attach(trace.set_span_in_context(span))
        try:
            await self._app(scope, receive, noted)
        finally:
            contexts.detach(token)
            span.end()


class _TracedPipeline(Pipeline):
    """Notes for the spans of a request what the proxy has read of it."""

    async def review_request(self, exchange: Exchange) -> RequestReview:
        origin, policy = exchange.origin, exchange.policy
        _ORIGIN.get([]).append(origin)
        span = trace.get_current_span()
        span.set_attributes(of_request(origin, policy.name, policy.version))
        return await super().review_request(exchange)


class _TracedGuard:
    """A guard whose checks have spans."""

    def __init__(self, guard: Guard, tracer: Tracer) -> None:
        self._guard = guard
        self._tracer = tracer
        self.name = guard.name
        self.taxonomy = guard.taxonomy

    async def judge(self, check: Check) -> Verdict:
        with self._tracer.start_as_current_span(
            f"check {check.side}", attributes={"guardproxy.guard": self.name}, record_exception=False
        ) as span:
            try:
                verdict = await self._guard.judge(check)
            except GuardproxyError as error:
                span.set_attribute("error.type", error.code)
                raise
            span.set_attributes(dict(of_check(self.name, check, verdict)))
            return verdict

    def forget(self, stream: str) -> None:
        self._guard.forget(stream)

    async def start(self) -> None:
        await self._guard.start()

    async def close(self) -> None:
        await self._guard.close()


class _TracedMetrics(Metrics):
    """Metrics that make a span of each record, and of the time that a stream is held back."""

    def __init__(self, tracer: Tracer, guard: Any, *, experimental: bool) -> None:
        super().__init__(CollectorRegistry())
        self._tracer = tracer
        self._guard = guard
        self._experimental = experimental

    def decision(self, record: Record) -> None:
        super().decision(record)
        names = of_turn(record, self._guard(), experimental=self._experimental)
        end = int(record.time * 1e9)
        begin = end - int(record.latency_s * 1e9)
        span = self._tracer.start_span(names.name, attributes=dict(names.attributes), start_time=begin)
        for name, attributes in names.events:
            span.add_event(name, dict(attributes), timestamp=end)
        if record.error:
            span.set_status(StatusCode.ERROR)
        span.end(end)

    @contextmanager
    def stream_held(self) -> Iterator[None]:
        # Not the current span: the stream is a generator, which may be closed in another context.
        span = self._tracer.start_span("hold stream", start_time=time.time_ns())
        try:
            with super().stream_held():
                yield
        finally:
            span.end()
