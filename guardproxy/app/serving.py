"""Serve in this process or in several, with the demo upstream unless another is configured."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from guardproxy.app.access import OPEN, serves_anybody
from guardproxy.app.audit import store_address
from guardproxy.app.console import is_served
from guardproxy.app.engine_keeper import EngineKeeper
from guardproxy.app.engine_link import SERVED
from guardproxy.app.guards import guard_name, needs_engine
from guardproxy.app.kinds import is_finder
from guardproxy.app.listening import address_of, free_port, server_options
from guardproxy.app.policy_file import ConfigSource, read
from guardproxy.app.port_sharing import ConnectionCounts, SharedPortLoop
from guardproxy.app.service import Service
from guardproxy.app.shared_state import check_state
from guardproxy.app.supervisor import Supervisor
from guardproxy.app.workers import WorkerGroup
from guardproxy.console.visits import BASE
from guardproxy.demo.process import start_demo
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe import configure_logging
from guardproxy.settings import DEFAULT_PRESET, DEMO, Settings
from guardproxy.sinks.database import DATABASES, AuditStore

# The environment variable that passes the arguments of `serve` to worker processes, as a JSON object.
_WORKER_ENV = "GUARDPROXY_WORKER"
# What the configuration file had when the server started, in the folder of the workers: all of them begin with it.
_FILE = "configuration"
# Seconds for which a worker that cannot start answers that it is not ready, before another one takes its place.
_AGAIN_S = 10.0

# For each protocol: a path, the header with the client's key, and a body.
_ASKED = '"messages": [{"role": "user", "content": "What is the capital of France?"}]'
_BEARER = "authorization: Bearer $KEY"
_EXAMPLES = {
    "openai_chat": ("/v1/chat/completions", _BEARER, f'{{"model": "MODEL", {_ASKED}}}'),
    "openai_responses": ("/v1/responses", _BEARER, '{"model": "MODEL", "input": "What is the capital of France?"}'),
    "ollama": ("/api/chat", _BEARER, f'{{"model": "MODEL", {_ASKED}}}'),
    "anthropic_messages": (
        "/v1/messages",
        "x-api-key: $KEY",
        f'{{"model": "MODEL", "max_tokens": 100, {_ASKED}}}',
    ),
    "gemini": (
        "/v1beta/models/MODEL:generateContent",
        "x-goog-api-key: $KEY",
        '{"contents": [{"parts": [{"text": "What is the capital of France?"}]}]}',
    ),
}
# Services whose own protocol is not OpenAI's.
_HOSTS = {"api.anthropic.com": "anthropic_messages", "generativelanguage.googleapis.com": "gemini"}

_log = structlog.get_logger("guardproxy.audit")
_serving_log = structlog.get_logger("guardproxy.serving")


def serve(settings: Settings, source: ConfigSource) -> int:
    """Serve until stopped; return the exit status. Raises ConfigError if the guard or demo upstream cannot start."""
    settings = _with_ports(settings)
    as_json = log_as_configured(settings)
    with contextlib.ExitStack() as stack:
        uses_demo = any(upstream.url == DEMO for upstream in settings.by_name.values())
        demo = stack.enter_context(start_demo()) if uses_demo else ""
        announce(_rows(settings, source), banner(settings, source), as_json=as_json)
        migrate_store(settings, source)
        check_state(settings)
        if settings.server.workers > 1:
            return _serve_workers(settings, source, demo)
        return _serve_here(settings.with_demo(demo), source)


def announce(rows: Mapping[str, str], banner: str, *, as_json: bool) -> None:
    """Say with what the server starts: as a line of the log if that is JSON, otherwise as a text."""
    if as_json:  # a program reads the lines, which cannot read a banner between them
        _serving_log.info("starting", **{name.replace(" ", "_"): value for name, value in rows.items()})
    else:
        sys.stderr.write(banner)


def _with_ports(settings: Settings) -> Settings:
    """The settings with the ports on which the server will listen. Raises ConfigError if it cannot."""
    server, admin = settings.server, settings.admin
    port = free_port(server.host, server.port, "choose others with --host and --port")
    if admin is not None:
        if admin.port == port:
            raise ConfigError(f"port {port} is the proxy's and that of admin.port; choose another")
        admin = replace(admin, port=free_port(admin.host, admin.port, "change admin.host or admin.port"))
    return replace(settings, server=replace(server, port=port), admin=admin)


def migrate_store(settings: Settings, source: ConfigSource) -> None:
    """Bring an old audit store to the current version before any worker starts: it may take longer than a write may.

    Raises ConfigError if the store has a version that cannot be used. Whether another failure of the store stops the
    start is the matter of `Observers`.
    """
    asyncio.run(_migrate_store(store_address(settings, source.data_dir)))


async def _migrate_store(address: str) -> None:
    if address.partition("://")[0] not in DATABASES:
        return
    store = AuditStore(address)
    try:
        await store.open()
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        _log.warning("audit_store_not_opened", error=type(error).__name__)
    finally:
        await store.close()


def log_as_configured(settings: Settings) -> bool:
    """Configure the log of this process; return whether it is JSON lines."""
    as_json = {"auto": None, "json": True, "console": False}[settings.log.format]
    return configure_logging(settings.log.level, json=as_json, text=settings.audit.text)


def _serve_here(settings: Settings, source: ConfigSource) -> int:
    def stop() -> None:
        server.should_exit = True

    service = Service(settings, source, stop, stopping=lambda: server.should_exit)
    server = uvicorn.Server(uvicorn.Config(service.app, **_options(settings)))
    signal.signal(signal.SIGHUP, lambda *_: service.reload())
    server.run()
    if service.failure is not None:
        raise service.failure
    return 0 if server.started else 1


def _serve_workers(settings: Settings, source: ConfigSource, demo: str) -> int:
    """Serve from several processes on the same port; those that judge with a model share the process that runs it.

    `demo` is the demo upstream's address. If none was ready yet, a worker that cannot start ends all of them. Raises
    ConfigError with its message.
    """
    with tempfile.TemporaryDirectory(prefix="guardproxy-") as folder:
        failure = Path(folder) / "failure"
        (Path(folder) / _FILE).write_text(source.text, "utf-8")
        arguments = {
            "folder": folder,
            "config": source.config,
            "data_dir": source.data_dir,
            "builtin_only": source.builtin_only,
            "preset": source.preset,
            "upstream": settings.upstream.url,
            "demo": demo,
            "admin_port": settings.admin.port if settings.admin else None,
            "failure": str(failure),
            "parent": os.getpid(),
            "limits": str(Path(folder) / "limits"),
        }
        os.environ[_WORKER_ENV] = json.dumps(arguments)
        counts = Path(folder) / "connections"
        ConnectionCounts.create(counts)
        options = {
            "factory": True,
            "workers": settings.server.workers,
            "loop": partial(SharedPortLoop, counts),
            **_options(settings),
        }
        engine = EngineKeeper() if needs_engine(settings) else None
        with WorkerGroup(Path(folder), source, engine) as group:
            Supervisor(uvicorn.Config("guardproxy.app.serving:worker", **options), group.ask).run()
        if failure.exists():
            raise ConfigError(failure.read_text("utf-8").splitlines())
    return 0


def arguments_of_workers() -> Mapping[str, Any]:
    """The arguments that `serve` has put into the environment of the processes that it starts."""
    arguments: Mapping[str, Any] = json.loads(os.environ[_WORKER_ENV])
    return arguments


def source_of(arguments: Mapping[str, Any]) -> ConfigSource:
    """The configuration with which the server started. Raises ConfigError if something that it names has changed."""
    return read(
        arguments["config"],
        arguments["data_dir"],
        builtin_only=arguments["builtin_only"],
        preset=arguments["preset"],
        text=(Path(arguments["folder"]) / _FILE).read_text("utf-8"),
    )


def worker() -> ASGIApp:
    """The application of a worker process, from the arguments that `serve` put into the environment.

    While it is made, SIGTERM ends the process at once: nothing is served yet. uvicorn has set its own handler before,
    which waits until the application is there.
    """
    of_server = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    arguments = arguments_of_workers()
    try:
        source = source_of(arguments)
    except ConfigError as error:
        # It was valid when the first workers started, so something that it names has changed: these go on, and uvicorn
        # restarts this worker until that is valid again.
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise SystemExit(1) from None
    settings = replace(source.file, upstream=replace(source.file.upstream, url=arguments["upstream"]))
    settings = settings.with_demo(arguments["demo"])
    if settings.admin is not None:
        settings = replace(settings, admin=replace(settings.admin, port=arguments["admin_port"] or settings.admin.port))
    log_as_configured(settings)
    # uvicorn sets this for access_log=False before it calls the factory, and configure_logging undoes it.
    logging.getLogger("uvicorn.access").propagate = False
    try:
        service = Service(
            settings,
            source,
            lambda: _failed(arguments, service.failure),
            group=Path(arguments["folder"]),
            shared_limits=arguments["limits"],
        )
    except GuardproxyError as error:
        _failed(arguments, error)
        raise SystemExit(1) from None
    signal.signal(signal.SIGTERM, of_server)
    return service.app


def _failed(arguments: Mapping[str, Any], error: GuardproxyError | None) -> None:
    """A worker cannot start: end the parent process with all its workers, unless they have served.

    Then the others go on, such as those whose audit store has gone since. This one ends after a while, in which it
    answers that it is not ready, and the parent starts another one.
    """
    if (Path(arguments["folder"]) / SERVED).exists():
        _serving_log.error("worker_cannot_start", error=str(error), again_s=_AGAIN_S)
        ending = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        ending.daemon = True
        ending.start()
        return
    Path(arguments["failure"]).write_text(str(error), "utf-8")
    os.kill(arguments["parent"], signal.SIGTERM)


def _options(settings: Settings) -> dict[str, Any]:
    """The options of uvicorn."""
    server = settings.server
    return {
        "host": server.host,
        "port": server.port,
        "timeout_graceful_shutdown": server.grace_s,
        # uvicorn ends a worker that answers no ping for so long: on a busy machine, one that still loads its libraries.
        "timeout_worker_healthcheck": 60,
        **server_options(server, server.tls),
    }


def banner(settings: Settings, source: ConfigSource) -> str:
    """The text that `serve` prints at its start: what it runs with, and a command to try it."""
    lines = [f"  {name:<13} {value}" for name, value in _rows(settings, source).items()]
    return "\n".join(["guardproxy", *lines, "", "Try it:", f"  {_example(settings)}", "", ""])


def _rows(settings: Settings, source: ConfigSource) -> dict[str, str]:
    """What the server runs with, by name."""
    admin = settings.admin
    url = _address(settings)
    admin_url = address_of(admin.host, admin.port, admin.tls) if admin else url
    store = store_address(settings, source.data_dir)
    preset = "" if "policies" in settings.sections else f", preset {source.preset or DEFAULT_PRESET}"
    rows = {
        "listening on": url,
        "guard": guard_summary(settings),
        "policy": f"{settings.name}{preset}, version {settings.policies.version}",
        "audit store": store.rpartition("@")[2] if "@" in store else store,
        "upstream": _upstream_summary(settings),
    }
    if serves_anybody(settings):
        rows["open to"] = OPEN
    if admin:
        rows["metrics"] = f"{admin_url}/metrics"
    if is_served(settings):
        rows["console"] = f"{admin_url}{BASE}/"
    return rows


def _address(settings: Settings) -> str:
    server = settings.server
    return address_of(server.host, server.port, server.tls)


def _upstream_summary(settings: Settings) -> str:
    shown = {DEMO: "demo (SmolLM2-135M-Instruct on this machine)"}
    if not settings.upstreams:
        return shown.get(settings.upstream.url, settings.upstream.url)
    return ", ".join(f"{name} {shown.get(one.url, one.url)}" for name, one in settings.upstreams.items())


def _example(settings: Settings) -> str:
    """A command for the upstream that serves requests without a route."""
    group = settings.upstream_groups.get("default")
    upstream = settings.by_name[group.members[0] if group else "default"]
    host = urlsplit(upstream.url).hostname or ""
    known = [*upstream.protocols, _HOSTS.get(host, "openai_chat")]
    path, key, body = next(_EXAMPLES[name] for name in known if name in _EXAMPLES)
    sends_key = upstream.url != DEMO and not upstream.key and upstream.client_key is not False
    needs_key = sends_key or settings.clients is not None
    model = "demo" if upstream.url == DEMO else "MODEL"
    head = f' -H "{key}"' if needs_key else ""
    head += " -H 'anthropic-version: 2023-06-01'" if path == "/v1/messages" else ""
    address = _address(settings) + path.replace("MODEL", model)
    return f"curl {address} -H 'content-type: application/json'{head} -d '{body.replace('MODEL', model)}'"


def guard_summary(settings: Settings) -> str:
    """The guard of a configuration in a line."""
    guard = settings.guard
    if guard.service is not None:
        return f"{guard.family} (a service{f' at {guard.service.url}' if guard.service.url else ''})"
    if not settings.members and guard.replicas is not None:
        return f"{guard_name(settings)} ({guard.family}, replicas {', '.join(guard.replicas.urls)})"
    if not settings.members:
        return guard.family if is_finder(guard) else f"{guard.model} ({guard.family}, device {guard.device})"
    if guard.by_language:
        return f"{guard.by_language.first}, for other languages {guard.by_language.others}"
    return (" before " if guard.cascade else " and ").join(settings.members)
