"""Calls of the upstream with a span each."""

from collections.abc import AsyncIterator, Callable

import httpx
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guardproxy.observe.otlp.names import of_upstream_call
from guardproxy.types import Origin

_W3C = TraceContextTextMapPropagator()


def traced_transport(
    inner: httpx.AsyncBaseTransport, tracer: Tracer, origin: Callable[[], Origin | None]
) -> httpx.AsyncBaseTransport:
    """`inner`, with a span for each call. `origin` returns that of the request for which the call is."""
    return _TracedTransport(inner, tracer, origin)


class _TracedTransport(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, tracer: Tracer, origin: Callable[[], Origin | None]) -> None:
        self._inner = inner
        self._tracer = tracer
        self._origin = origin

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        names = of_upstream_call(self._origin(), request.method, url.host, port)
        span = self._tracer.start_span(names.name, kind=SpanKind.CLIENT, attributes=dict(names.attributes))
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(span))
        for name, value in carrier.items():
            request.headers[name] = value
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            _fail(span, type(error).__name__)
            span.end()
            raise
        span.set_attribute("http.response.status_code", response.status_code)
        if response.status_code >= 400:
            _fail(span, str(response.status_code))
        response.stream = _TracedBody(response.stream, span)  # type: ignore[arg-type]
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _TracedBody(httpx.AsyncByteStream):
    """The body of an answer, with whose end the span of the call ends."""

    def __init__(self, inner: httpx.AsyncByteStream, span: Span) -> None:
        self._inner = inner
        self._span = span

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._inner:
                yield piece
        except Exception as error:
            _fail(self._span, type(error).__name__)
            raise

    async def aclose(self) -> None:
        if self._span.is_recording():
            self._span.end()
        await self._inner.aclose()


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
