"""The ASGI application: the proxy, and the paths that guardproxy answers itself."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.observe import Metrics
from guardproxy.web.proxy import LivePolicies, Proxy

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def create_app(
    proxy: Proxy,
    *,
    policies: LivePolicies,
    metrics: Metrics,
    ready: Callable[[], str],
    lifespan: Lifespan,
    routes: Sequence[BaseRoute] = (),
    own_paths: Sequence[str] = (),
) -> ASGIApp:
    """The application to serve. `lifespan` starts and stops its parts.

    `routes` are further endpoints of guardproxy itself. They answer requests to `own_paths`; a path that ends in `/`
    includes all paths below it. `ready` returns why the proxy is not ready, empty if it is.
    """

    async def healthz(request: Request) -> Response:
        return _json({"status": "ok", "policy": policies.current.version})

    async def readyz(request: Request) -> Response:
        reason = ready()
        return _json({"status": reason or "ready", "policy": policies.current.version}, 503 if reason else 200)

    async def scrape(request: Request) -> Response:
        content_type, body = metrics.render()
        return Response(body, headers={"content-type": content_type})

    own = Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape), *routes],
        lifespan=lifespan,
    )
    return _Front(own, proxy, ("/healthz", "/readyz", "/metrics", *own_paths))


class _Front:
    """Dispatches requests to guardproxy's own endpoints or to the proxy.

    Proxied requests skip Starlette's router, which would add more latency than the rest of the proxy's own work.
    """

    def __init__(self, own: ASGIApp, proxy: ASGIApp, paths: Sequence[str]) -> None:
        self._own = own
        self._proxy = proxy
        self._paths = frozenset(path for path in paths if not path.endswith("/"))
        self._prefixes = tuple(path for path in paths if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path not in self._paths and not path.startswith(self._prefixes):
                await self._proxy(scope, receive, send)
                return
        await self._own(scope, receive, send)


def _json(body: Mapping[str, str], status: int = 200) -> Response:
    return Response(json.dumps(body).encode(), status, media_type="application/json")
