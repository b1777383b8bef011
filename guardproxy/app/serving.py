"""Serving: in this process, or in several; with the demo upstream where no other is named."""

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from guardproxy.app.service import ConfigSource, Service, read
from guardproxy.demo.process import start_demo
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe import configure_logging
from guardproxy.settings import Settings
from guardproxy.sinks.database import default_store_url

# How a worker process is told what to serve: a JSON object of `serve`'s arguments.
_WORKER_ENV = "GUARDPROXY_WORKER"


def serve(settings: Settings, place: ConfigSource) -> int:
    """Serve until stopped; the exit status. Raises ConfigError where the guard or the demo upstream cannot start."""
    port = _free_port(settings.server.host, settings.server.port)
    settings = replace(settings, server=replace(settings.server, port=port))
    configure_logging(settings.log.level, json=_as_json(settings))
    with contextlib.ExitStack() as stack:
        upstream = settings.upstream.url
        if upstream == "demo":
            demo = stack.enter_context(start_demo())
            settings = replace(settings, upstream=replace(settings.upstream, url=demo))
        sys.stderr.write(banner(settings, place, upstream))
        if settings.server.workers > 1:
            return _serve_workers(settings, place)
        return _serve_here(settings, place)


def _free_port(host: str, port: int) -> int:
    """`port`, or any for 0, if it can be listened on: tried before anything is loaded, and named by the banner.

    Raises ConfigError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, _, _, _, address in found:
            try:
                port = _bound(family, (address[0], port, *address[2:]))
            except OSError as error:
                # `localhost` may stand for an address of a family that this machine has not; uvicorn leaves it out.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} or len(found) == 1:
                    raise
    except OSError as error:
        why = f"port {port} of {host} cannot be listened on: {error.strerror or error}"
        raise ConfigError(f"{why}; --host and --port name others") from error
    return port


def _bound(family: int, address: tuple[Any, ...]) -> int:
    """The port of an address that could be listened on. Raises OSError."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def _as_json(settings: Settings) -> bool | None:
    return {"auto": None, "json": True, "console": False}[settings.log.format]


def _serve_here(settings: Settings, place: ConfigSource) -> int:
    def stop() -> None:
        server.should_exit = True

    service = Service(settings, place, stop)
    server = uvicorn.Server(uvicorn.Config(service.app, **_options(settings)))
    server.run()
    if service.failure is not None:
        raise service.failure
    return 0 if server.started else 1


def _serve_workers(settings: Settings, place: ConfigSource) -> int:
    """Several processes on one port, each with a guard of its own. One that cannot start ends all.

    Raises ConfigError with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="guardproxy-") as folder:
        failure = Path(folder) / "failure"
        told = {
            "config": place.config,
            "data_dir": place.data_dir,
            "builtin_only": place.builtin_only,
            "upstream": settings.upstream.url,
            "failure": str(failure),
        }
        os.environ[_WORKER_ENV] = json.dumps(told)
        uvicorn.run(
            "guardproxy.app.serving:worker", factory=True, workers=settings.server.workers, **_options(settings)
        )
        if failure.exists():
            raise ConfigError(failure.read_text("utf-8").splitlines())
    return 0


def worker() -> ASGIApp:
    """The application of one of several worker processes, as `serve` has told them."""
    told = json.loads(os.environ[_WORKER_ENV])
    try:
        place = read(told["config"], told["data_dir"], builtin_only=told["builtin_only"])
    except ConfigError as error:
        # It was right when the first workers started: they go on, and this one is started anew until it is mended.
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise SystemExit(1) from None
    settings = replace(place.file, upstream=replace(place.file.upstream, url=told["upstream"]))
    configure_logging(settings.log.level, json=_as_json(settings))
    logging.getLogger("uvicorn.access").propagate = False  # uvicorn has silenced it, as it was told, before this
    try:
        service = Service(settings, place, lambda: _end_all(told["failure"], service.failure))
    except GuardproxyError as error:
        _end_all(told["failure"], error)
        raise SystemExit(1) from None
    return service.app


def _end_all(told: str, why: GuardproxyError | None) -> None:
    """End the parent process, and all workers with it; `told` is the file that says why."""
    Path(told).write_text(str(why), "utf-8")
    os.kill(os.getppid(), signal.SIGTERM)


def _options(settings: Settings) -> dict[str, Any]:
    """uvicorn's options."""
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,  # the upstream's own pass
        "date_header": False,
        "timeout_graceful_shutdown": 20,
    }


def banner(settings: Settings, place: ConfigSource, upstream: str) -> str:
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
