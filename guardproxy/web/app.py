"""The ASGI application: the proxy, and the paths that guardproxy answers itself."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.errors import GuardproxyError
from guardproxy.observe import Metrics
from guardproxy.web.cors import with_cors
from guardproxy.web.errors import error_answer
from guardproxy.web.headers import NO_RETRY
from guardproxy.web.moderations import MODERATIONS
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.visitors import Visitors

log = structlog.get_logger("guardproxy.proxy")

_NO_RETRY = {NO_RETRY[0].decode("ascii"): NO_RETRY[1].decode("ascii")}
Lifespan = (
    Callable[[Starlette], AbstractAsyncContextManager[None]]
    | Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, Any]]]
)
OPERATOR_PATHS = ("/healthz", "/readyz", "/metrics")


def operator_routes(
    *,
    policies: LivePolicies,
    scrape: Callable[[], Awaitable[tuple[str, bytes]]],
    ready: Callable[[], str],
    health: Callable[[], Mapping[str, Any]] = dict,
) -> list[BaseRoute]:
    """The endpoints for operators: OPERATOR_PATHS.

    `scrape` returns the content type and the body of the metrics. `ready` returns why the proxy is not ready, empty if
    it is. `health` returns what /healthz says besides.
    """

    async def healthz(request: Request) -> Response:
        return _json({"status": "ok", "policy": policies.current.version, **health()})

    async def readyz(request: Request) -> Response:
        reason = ready()
        return _json({"status": reason or "ready", "policy": policies.current.version}, 503 if reason else 200)

    async def metrics(request: Request) -> Response:
        content_type, body = await scrape()
        return Response(body, headers={"content-type": content_type})

    endpoints = zip(OPERATOR_PATHS, (healthz, readyz, metrics), strict=True)
    return [Route(path, endpoint) for path, endpoint in endpoints]


def create_app(
    proxy: ASGIApp,
    *,
    metrics: Metrics,
    lifespan: Lifespan,
    routes: Sequence[BaseRoute] = (),
    own_paths: Sequence[str] = (),
    visitors: Visitors | None = None,
    cors: Sequence[str] = (),
) -> ASGIApp:
    """The application that clients call. `lifespan` starts and stops its parts.

    `routes` are endpoints of guardproxy itself. They answer requests to `own_paths`; a path that ends in `/` includes
    all paths below it, and all other paths go to the proxy. `visitors` checks the host and the origin of every request;
    without it, every host is served and pages of other origins are refused. Pages of the origins `cors`, which
    `visitors` must admit, may read what the proxy and MODERATIONS answer.
    """
    own = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _refused})
    return _Front(own, proxy, own_paths, visitors or Visitors(), metrics, cors=cors)


def create_admin_app(routes: Sequence[BaseRoute], visitors: Visitors, metrics: Metrics) -> ASGIApp:
    """The application of a listener for operators, which proxies nothing."""
    own = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    return _Front(own, own, (), visitors, metrics)


class _Front:
    """Dispatches requests to guardproxy's own endpoints or to the proxy.

    Proxied requests skip Starlette's router, which would add more latency than the rest of the proxy's own work.
    """

    def __init__(
        self,
        own: ASGIApp,
        proxy: ASGIApp,
        paths: Sequence[str],
        visitors: Visitors,
        metrics: Metrics,
        *,
        cors: Sequence[str] = (),
    ) -> None:
        self._own = own
        self._moderations = with_cors(own, cors)
        self._visitors = visitors
        self._metrics = metrics
        self._proxy = with_cors(proxy, cors)
        self._paths = frozenset(path for path in paths if not path.endswith("/"))
        self._prefixes = tuple(path for path in paths if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            try:
                self._visitors.check(scope["headers"])
            except GuardproxyError as error:
                await self._refuse(path, error)(scope, receive, send)
                return
            if path not in self._paths and not path.startswith(self._prefixes):
                self._metrics.in_flight += 1
                try:
                    await self._proxy(scope, receive, send)
                finally:
                    self._metrics.in_flight -= 1
                return
            if path == MODERATIONS:
                await self._moderations(scope, receive, send)
                return
        await self._own(scope, receive, send)

    def _refuse(self, path: str, error: GuardproxyError) -> Response:
        log.warning("request_failed", code=error.code, error=str(error))
        self._metrics.request("none", error.status)
        self._metrics.failed(error.code)
        answer = error_answer(path, error.status, error.code, str(error))
        return Response(answer.body, answer.status, media_type=answer.content_type, headers=_NO_RETRY)


async def _refused(request: Request, error: Exception) -> Response:
    """The error for a path or a method that no endpoint has, as JSON like every other error."""
    if not isinstance(error, HTTPException):
        raise error
    path, headers = request.scope["path"], error.headers or {}
    message = f"guardproxy has no path {path}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"this path takes {headers.get('Allow', '')}, not {request.method}"
    code = HTTPStatus(error.status_code).name.lower()
    answer = error_answer(path, error.status_code, code, message)
    return Response(answer.body, answer.status, media_type=answer.content_type, headers=headers)


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body).encode(), status, media_type="application/json")
