"""The composition root: settings to objects to an ASGI application. The only place that joins names to objects."""

import asyncio
import contextlib
import inspect
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from guardproxy import actions, families, sinks, wires
from guardproxy.engine.cache import Cached
from guardproxy.engine.open import open_engine
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe import Metrics, Observers, configure_logging
from guardproxy.pipeline import Pipeline
from guardproxy.policy import Policy
from guardproxy.ports import Action, Family, Guard, Sink, Wire
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, Known, Settings
from guardproxy.settings import load as load_settings
from guardproxy.sinks.database import default_store_url
from guardproxy.types import Taxonomy
from guardproxy.views import VIEWS
from guardproxy.web.app import create_app
from guardproxy.web.demo_process import start_demo
from guardproxy.web.moderations import moderations
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import Limits, LivePolicies, Proxy
from guardproxy.web.upstream import Upstream

log = structlog.get_logger("guardproxy")

# How a worker process is told what to serve: a JSON object of `serve`'s arguments.
_WORKER_ENV = "GUARDPROXY_WORKER"
# How often the configuration file is looked at.
_RELOAD_S = 1.0
# Verdicts kept; one is about a kilobyte.
_CACHED_VERDICTS = 20_000
_REWRITES = ("replace", "redact")


# --- names -----------------------------------------------------------------------------------------------------------


def known(*, builtin_only: bool = False) -> Known:
    """What a configuration may name; with `builtin_only` nothing of the user's own."""
    return Known(
        families=families.REGISTRY,
        options={name: _options(name) for name in families.REGISTRY},
        categories=_categories,
        rewrites=_REWRITES,
        wires=wires.REGISTRY,
        views=VIEWS,
        stores=[name for name in sinks.REGISTRY if name != "log"],
        builtin_only=builtin_only,
    )


def _options(name: str) -> Collection[str]:
    signature = inspect.signature(load(name, families.REGISTRY, "family"))
    return [option for option in signature.parameters if option != "taxonomy"]


def _categories(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Collection[str] | None:
    family = _family(name, options, taxonomy)
    return [category.id for category in family.taxonomy.categories]


def _family(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Family:
    """The family of a guard. Raises ConfigError for options that it does not take."""
    opened: Family = load(name, families.REGISTRY, "family")(taxonomy=taxonomy, **options)
    return opened


# --- the guard -------------------------------------------------------------------------------------------------------


def guard(settings: Settings) -> Guard:
    """The guard of a configuration, not started."""
    floor = min(policy.floor for policy in settings.policies.policies.values())
    return Cached(_engine(settings.guard, settings.taxonomy, floor), _CACHED_VERDICTS)


def _engine(given: GuardSettings, taxonomy: Taxonomy | None, floor: float) -> Guard:
    return open_engine(
        name=given.model,
        family=_family(given.family, given.options, taxonomy),
        model=given.model,
        device=given.device,
        dtype=given.dtype,
        max_batch_tokens=given.max_batch_tokens,
        timeout_s=given.timeout_s,
        max_wait_s=given.max_wait_s,
        floor=floor,
        threads=given.threads,
    )


# --- the service -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where the configuration and the data are; what a reload reads again."""

    config: str | None
    data_dir: str | None
    builtin_only: bool = False


class Service:
    """One process's worth of guardproxy: starts and stops its parts, and takes up a changed configuration."""

    def __init__(self, settings: Settings, place: Place, on_failure: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._place = place
        self._on_failure = on_failure
        self.failure: GuardproxyError | None = None
        self._reason = "the guard is loading"
        self._guard = guard(settings)
        self._policies = LivePolicies(settings.policies)
        self._metrics = Metrics(CollectorRegistry())
        self._observers = Observers(
            _sinks(settings, place.data_dir),
            text=settings.audit.text,
            required=settings.audit.required,
            metrics=self._metrics,
        )
        self._upstream = _upstream(settings)
        self._pipeline = Pipeline(self._guard, self._observers, self._metrics, _actions(settings.policies.policies))
        self.app = self._app(settings)

    def _app(self, settings: Settings) -> ASGIApp:
        given = settings.limits
        limits = Limits(given.body_bytes, given.reply_bytes, given.characters, given.messages)
        endpoint = moderations(
            self._pipeline.judging,
            self._policies,
            limits=limits,
            ready=lambda: self._reason,
            model=self._guard.name,
        )
        proxy = Proxy(
            upstream=self._upstream,
            pipeline=self._pipeline,
            wires=_wires(settings.wires),
            policies=self._policies,
            allow=PathList(settings.paths.allow),
            refuse=PathList(settings.paths.refuse),
            limits=limits,
            metrics=self._metrics,
            ready=lambda: self._reason,
        )
        return create_app(
            proxy,
            policies=self._policies,
            metrics=self._metrics,
            ready=lambda: self._reason,
            lifespan=self._lifespan,
            routes=[Route("/v1/moderations", endpoint, methods=["POST"])],
            own_paths=["/v1/moderations"],
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """The server answers /healthz while the weights load, /readyz once the canaries separate."""
        running = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._reason = "shutting down"
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await self._observers.close()
            await self._guard.close()
            await self._upstream.aclose()

    async def _run(self) -> None:
        try:
            await self._guard.start()
            await self._observers.start()
            self._reason = await self._pipeline.canaries(self._settings.policies.policies["default"])
        except GuardproxyError as error:
            self.failure = error
            self._reason = f"start failed: {error}"
            log.error("start_failed", error=str(error))
            if self._on_failure is not None:
                self._on_failure()
            return
        if self._reason:
            log.error("not_ready", reason=self._reason)
        else:
            log.info("ready", guard=self._guard.name, policy=self._policies.current.version)
        await self._follow_file()

    # --- reload ------------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        """Take up the policies and routes of the configuration file whenever it changes."""
        path = self._place.config
        if path is None:
            return
        # What the file says, without what the command line said in its place.
        file = load_settings(path, os.environ, known(builtin_only=self._place.builtin_only))
        seen = _stamp(path)
        while True:
            await asyncio.sleep(_RELOAD_S)
            now = _stamp(path)
            if now != seen:
                seen = now
                await self._reload(path, file)

    async def _reload(self, path: str, file: Settings) -> None:
        """A file with mistakes leaves the old policies in force, and the log says what is wrong with it."""
        names = known(builtin_only=self._place.builtin_only)
        try:
            new = await asyncio.to_thread(load_settings, path, os.environ, names)
            _check_reload(file, new)
        except ConfigError as error:
            log.error("reload_refused", problems=error.problems, in_force=self._policies.current.version)
            return
        reason = await self._pipeline.canaries(new.policies.policies["default"])
        if reason:
            log.error("reload_refused", problems=[reason], in_force=self._policies.current.version)
            return
        self._pipeline.use(_actions(new.policies.policies))
        self._policies.current = new.policies
        log.info("policies_reloaded", policy=new.policies.version)


def _check_reload(old: Settings, new: Settings) -> None:
    """Raises ConfigError where a change needs a restart."""
    fixed = ("server", "upstream", "guard", "taxonomy", "wires", "limits", "paths", "audit", "log")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    if changed:
        raise ConfigError(f"{new.name}: changes of {', '.join(changed)} need a restart")
    lowest = [min(policy.floor for policy in one.policies.policies.values()) for one in (old, new)]
    if lowest[1] < lowest[0]:
        raise ConfigError(
            f"{new.name}: a threshold of {lowest[1]:g} is under the {lowest[0]:g} that the guard was started to read "
            "categories from; restart to take it up"
        )


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# --- parts -----------------------------------------------------------------------------------------------------------


def _wires(names: Sequence[str] | None) -> list[Wire]:
    return [load(name, wires.REGISTRY, "wire") for name in (names if names is not None else wires.REGISTRY)]


def _actions(policies: Mapping[str, Policy]) -> Mapping[str, Callable[[Policy], Action]]:
    """The openers of every action: the built-in ones, and those that rules name as `module:attribute`."""
    sides = [side for policy in policies.values() for side in (policy.user, policy.assistant)]
    named = {rule.how for side in sides for rules in side.by_category.values() for rule in rules if rule.how}
    return {name: load(name, actions.REGISTRY, "rewrite") for name in {*actions.REGISTRY, *named}}


def _sinks(settings: Settings, data_dir: str | None) -> Mapping[str, Sink]:
    out: dict[str, Sink] = {}
    store = settings.audit.store
    if store == "embedded":
        store = default_store_url(data_dir)
    if "://" in store:
        out["store"] = load(store.partition("://")[0], sinks.REGISTRY, "store")(store)
    elif store != "none":
        out["store"] = load(store, sinks.REGISTRY, "sink")()
    if settings.audit.log:
        out["log"] = load("log", sinks.REGISTRY, "sink")()
    return out


def _upstream(settings: Settings) -> Upstream:
    given = settings.upstream
    verify: ssl.SSLContext | bool = given.verify
    if given.ca_file is not None:
        try:
            verify = ssl.create_default_context(cafile=given.ca_file)
        except OSError as error:
            raise ConfigError(f"upstream.ca_file: {given.ca_file}: {error}") from error
    return Upstream(
        given.url,
        key=given.key,
        key_header=given.key_header,
        connect_s=given.timeouts.connect_s,
        first_byte_s=given.timeouts.first_byte_s,
        between_chunks_s=given.timeouts.between_chunks_s,
        attempts=given.retries.attempts,
        max_wait_s=given.retries.max_wait_s,
        retry_unsafe=given.retries.unsafe_methods,
        max_connections=given.max_connections,
        verify=verify,
    )


# --- serving ---------------------------------------------------------------------------------------------------------


def serve(settings: Settings, place: Place) -> int:
    """Serve until stopped; the exit status. Raises ConfigError where the guard or the demo upstream cannot start."""
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
    config = _uvicorn("guardproxy.build:worker", settings)
    uvicorn.run(
        "guardproxy.build:worker",
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
        "guard": f"{settings.guard.model} ({settings.guard.family}, device {settings.guard.device})",
        "policy": f"{settings.name}, version {settings.policies.version}",
        "audit store": store.rpartition("@")[2] if "@" in store else store,
        "upstream": shown,
    }
    lines = [f"  {name:<13} {value}" for name, value in rows.items()]
    body = '{"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    curl = f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    return "\n".join(["guardproxy", *lines, "", "Try it:", curl, "", ""])
