"""Serving: in this process, or in several; with the demo upstream where no other is named."""

import contextlib
import json
import os
import socket
import sys
from dataclasses import replace

import uvicorn
from starlette.types import ASGIApp

from guardproxy.build.names import known
from guardproxy.build.service import Place, Service
from guardproxy.observe import configure_logging
from guardproxy.settings import Settings
from guardproxy.settings import load as load_settings
from guardproxy.sinks.database import default_store_url
from guardproxy.web.demo_process import start_demo

# How a worker process is told what to serve: a JSON object of `serve`'s arguments.
_WORKER_ENV = "GUARDPROXY_WORKER"


def serve(settings: Settings, place: Place) -> int:
    """Serve until stopped; the exit status. Raises ConfigError where the guard or the demo upstream cannot start."""
    configure_logging(settings.log.level, json=_as_json(settings))
    with contextlib.ExitStack() as stack:
        upstream = settings.upstream.url
        if upstream == "demo":
            demo = stack.enter_context(start_demo())
            settings = replace(settings, upstream=replace(settings.upstream, url=demo))
        if settings.server.port == 0 and settings.server.workers == 1:
            settings = replace(settings, server=replace(settings.server, port=_free_port(settings.server.host)))
        sys.stderr.write(banner(settings, place, upstream))
        if settings.server.workers > 1:
            return _serve_workers(settings, place)
        return _serve_here(settings, place)


def _free_port(host: str) -> int:
    """A port that is free now, so that the banner can name it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _as_json(settings: Settings) -> bool | None:
    return {"auto": None, "json": True, "console": False}[settings.log.format]


def _serve_here(settings: Settings, place: Place) -> int:
    def stop() -> None:
        server.should_exit = True

    service = Service(settings, place, stop)
    server = uvicorn.Server(_uvicorn(service.app, settings))
    server.run()
    if service.failure is not None:
        raise service.failure
    return 0 if server.started else 1


def _serve_workers(settings: Settings, place: Place) -> int:
    """Several processes on one port, each with a guard of its own."""
    told = {
        "config": place.config,
        "data_dir": place.data_dir,
        "builtin_only": place.builtin_only,
        "upstream": settings.upstream.url,
    }
    os.environ[_WORKER_ENV] = json.dumps(told)
    server = settings.server
    config = _uvicorn("guardproxy.build.serving:worker", settings)
    uvicorn.run(
        "guardproxy.build.serving:worker",
        factory=True,
        host=server.host,
        port=server.port,
        workers=server.workers,
        log_config=None,
        access_log=False,
        loop=config.loop,
        http=config.http,
        server_header=False,
        date_header=False,
    )
    return 0


def worker() -> ASGIApp:
    """The application of one of several worker processes, as `serve` has told them."""
    told = json.loads(os.environ[_WORKER_ENV])
    settings = load_settings(told["config"], os.environ, known(builtin_only=told["builtin_only"]))
    settings = replace(settings, upstream=replace(settings.upstream, url=told["upstream"]))
    configure_logging(settings.log.level, json=_as_json(settings))
    return Service(settings, Place(told["config"], told["data_dir"], told["builtin_only"])).app


def _uvicorn(app: ASGIApp | str, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        server_header=False,  # the upstream's own pass
        date_header=False,
        timeout_graceful_shutdown=20,
    )


def banner(settings: Settings, place: Place, upstream: str) -> str:
    """What the server runs with, and a line to try it."""
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = f"http://{host}:{server.port}"
    store = settings.audit.store
    if store == "embedded":
        store = default_store_url(place.data_dir)
    shown = "demo (SmolLM2-135M-Instruct on this machine)" if upstream == "demo" else upstream
    rows = {
        "listening on": url,
        "guard": _judges(settings),
        "policy": f"{settings.name}, version {settings.policies.version}",
        "audit store": store.rpartition("@")[2] if "@" in store else store,
        "upstream": shown,
    }
    lines = [f"  {name:<13} {value}" for name, value in rows.items()]
    body = '{"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    curl = f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    return "\n".join(["guardproxy", *lines, "", "Try it:", curl, "", ""])


def _judges(settings: Settings) -> str:
    given = settings.guard
    if not settings.members:
        return f"{given.model} ({given.family}, device {given.device})"
    return (" before " if given.cascade else " and ").join(settings.members)
