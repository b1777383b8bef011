"""Serve in this process or in several, with the demo upstream unless another is configured."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from guardproxy.app.audit import store_address
from guardproxy.app.console import is_served
from guardproxy.app.policy_file import ConfigSource, read
from guardproxy.app.protocol import BoundedHttp
from guardproxy.app.service import Service
from guardproxy.console.visits import BASE
from guardproxy.demo.process import start_demo
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe import configure_logging
from guardproxy.settings import DEFAULT_PRESET, Settings
from guardproxy.sinks.database import DATABASES, AuditStore

# The environment variable that passes the arguments of `serve` to worker processes, as a JSON object.
_WORKER_ENV = "GUARDPROXY_WORKER"

_log = structlog.get_logger("guardproxy.audit")


def serve(settings: Settings, source: ConfigSource) -> int:
    """Serve until stopped; return the exit status. Raises ConfigError if the guard or demo upstream cannot start."""
    port = _free_port(settings.server.host, settings.server.port)
    settings = replace(settings, server=replace(settings.server, port=port))
    configure_logging(settings.log.level, json=_as_json(settings), text=settings.audit.text)
    with contextlib.ExitStack() as stack:
        upstream = settings.upstream.url
        if upstream == "demo":
            demo = stack.enter_context(start_demo())
            settings = replace(settings, upstream=replace(settings.upstream, url=demo))
        sys.stderr.write(banner(settings, source, upstream))
        asyncio.run(_migrate_store(store_address(settings, source.data_dir)))
        if settings.server.workers > 1:
            return _serve_workers(settings, source)
        return _serve_here(settings, source)


async def _migrate_store(address: str) -> None:
    """Bring an old audit store to the current version before any worker starts: it may take longer than a write may.

    Raises ConfigError if the store has a version that cannot be used. Whether another failure of the store stops the
    start is the matter of `Observers`.
    """
    if address.partition("://")[0] not in DATABASES:
        return
    store = AuditStore(address)
    try:
        await store.open()
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        _log.warning("audit_store_not_opened", error=type(error).__name__)
    finally:
        await store.close()


def _free_port(host: str, port: int) -> int:
    """`port`, or a free port for 0. Raises ConfigError if the server cannot listen on it.

    This is tried before anything is loaded, and the banner shows the port.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, _, _, _, address in addresses:
            try:
                port = _bound(family, (address[0], port, *address[2:]))
            except OSError as error:
                # `localhost` may resolve to an address family that this machine lacks; uvicorn skips it as well.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} or len(addresses) == 1:
                    raise
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot listen on port {port} of {host}: {reason}; choose others with --host and --port"
        raise ConfigError(message) from error
    return port


def _bound(family: int, address: tuple[Any, ...]) -> int:
    """Bind a socket to an address and release it; return its port. Raises OSError."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def _as_json(settings: Settings) -> bool | None:
    return {"auto": None, "json": True, "console": False}[settings.log.format]


def _serve_here(settings: Settings, source: ConfigSource) -> int:
    def stop() -> None:
        server.should_exit = True

    service = Service(settings, source, stop, stopping=lambda: server.should_exit)
    server = uvicorn.Server(uvicorn.Config(service.app, **_options(settings)))
    server.run()
    if service.failure is not None:
        raise service.failure
    return 0 if server.started else 1


def _serve_workers(settings: Settings, source: ConfigSource) -> int:
    """Serve from several processes on the same port, each with its own guard.

    A worker that cannot start ends all of them. Raises ConfigError with its message.
    """
    with tempfile.TemporaryDirectory(prefix="guardproxy-") as folder:
        failure = Path(folder) / "failure"
        arguments = {
            "config": source.config,
            "data_dir": source.data_dir,
            "builtin_only": source.builtin_only,
            "preset": source.preset,
            "upstream": settings.upstream.url,
            "failure": str(failure),
        }
        os.environ[_WORKER_ENV] = json.dumps(arguments)
        uvicorn.run(
            "guardproxy.app.serving:worker", factory=True, workers=settings.server.workers, **_options(settings)
        )
        if failure.exists():
            raise ConfigError(failure.read_text("utf-8").splitlines())
    return 0


def worker() -> ASGIApp:
    """The application of a worker process, from the arguments that `serve` put into the environment."""
    arguments = json.loads(os.environ[_WORKER_ENV])
    try:
        source = read(
            arguments["config"],
            arguments["data_dir"],
            builtin_only=arguments["builtin_only"],
            preset=arguments["preset"],
        )
    except ConfigError as error:
        # The file was valid when the first workers started: these go on, and uvicorn restarts this worker until the
        # file is valid again.
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise SystemExit(1) from None
    settings = replace(source.file, upstream=replace(source.file.upstream, url=arguments["upstream"]))
    configure_logging(settings.log.level, json=_as_json(settings), text=settings.audit.text)
    # uvicorn sets this for access_log=False before it calls the factory, and configure_logging undoes it.
    logging.getLogger("uvicorn.access").propagate = False
    try:
        service = Service(settings, source, lambda: _end_all(arguments["failure"], service.failure))
    except GuardproxyError as error:
        _end_all(arguments["failure"], error)
        raise SystemExit(1) from None
    return service.app


def _end_all(failure: str, error: GuardproxyError | None) -> None:
    """Write the error to the file `failure`, and end the parent process with all its workers."""
    Path(failure).write_text(str(error), "utf-8")
    os.kill(os.getppid(), signal.SIGTERM)


def _options(settings: Settings) -> dict[str, Any]:
    """The options of uvicorn."""
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "http": partial(BoundedHttp, settings.server),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,  # the upstream's headers pass through
        "date_header": False,
        "timeout_keep_alive": settings.server.idle_timeout_s,
        "timeout_graceful_shutdown": settings.server.grace_s,
    }


def banner(settings: Settings, source: ConfigSource, upstream: str) -> str:
    """The text that `serve` prints at its start: what it runs with, and a command to try it."""
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = f"http://{host}:{server.port}"
    store = store_address(settings, source.data_dir)
    preset = "" if "policies" in settings.sections else f", preset {source.preset or DEFAULT_PRESET}"
    shown = "demo (SmolLM2-135M-Instruct on this machine)" if upstream == "demo" else upstream
    rows = {
        "listening on": url,
        "guard": _guard_summary(settings),
        "policy": f"{settings.name}{preset}, version {settings.policies.version}",
        "audit store": store.rpartition("@")[2] if "@" in store else store,
        "upstream": shown,
    }
    if is_served(settings):
        rows["console"] = f"{url}{BASE}/"
    lines = [f"  {name:<13} {value}" for name, value in rows.items()]
    body = '{"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    curl = f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    return "\n".join(["guardproxy", *lines, "", "Try it:", curl, "", ""])


def _guard_summary(settings: Settings) -> str:
    guard = settings.guard
    if not settings.members:
        return f"{guard.model} ({guard.family}, device {guard.device})"
    if guard.by_language:
        return f"{guard.by_language.first}, for other languages {guard.by_language.others}"
    return (" before " if guard.cascade else " and ").join(settings.members)
