"""One process's worth of guardproxy, from its settings."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from guardproxy import actions, sinks, wires
from guardproxy.app.names import cached, combined, known, members, reads_lists
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.guards.local import LocalGuard
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Pipeline
from guardproxy.policy import Policy
from guardproxy.ports import Action, Sink, Wire
from guardproxy.registry import load
from guardproxy.settings import Settings
from guardproxy.settings import load as load_settings
from guardproxy.sinks.database import default_store_url
from guardproxy.web.app import create_app
from guardproxy.web.moderations import moderations
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import Limits, LivePolicies, Proxy
from guardproxy.web.upstream import Upstream

log = structlog.get_logger("guardproxy")

# How often the configuration file is looked at.
_RELOAD_S = 1.0


Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration and the data are; what a reload reads again.

    `file` is what the configuration said when it was read, without what the command line says in its place; `stamp`
    tells whether it has changed since.
    """

    config: str | None
    data_dir: str | None
    builtin_only: bool
    file: Settings
    stamp: Stamp


def read(config: str | None, data_dir: str | None, *, builtin_only: bool = False) -> ConfigSource:
    """The place of a configuration, which is read. Raises ConfigError with every mistake in it."""
    stamp = _stamp(config) if config is not None else None
    file = load_settings(config, os.environ, known(builtin_only=builtin_only))
    return ConfigSource(config, data_dir, builtin_only, file, stamp)


class Service:
    """One process's worth of guardproxy: starts and stops its parts, and takes up a changed configuration.

    `on_failure` is called where it cannot start. A guard that fails the canaries is tried again every `canaries_s`.
    """

    def __init__(
        self,
        settings: Settings,
        place: ConfigSource,
        on_failure: Callable[[], None] | None = None,
        *,
        canaries_s: float = 5.0,
    ) -> None:
        self._settings = settings
        self._place = place
        self._on_failure = on_failure
        self._canaries_s = canaries_s
        self.failure: GuardproxyError | None = None
        self._reason = "the guard is loading"
        judges = members(settings, floor=_floor(settings))
        self._guard = cached(combined(settings, judges))
        self._policies = LivePolicies(settings.policies)
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.queue_from(lambda: sum(one.stats.queued for one in judges if isinstance(one, LocalGuard)))
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
            await self._get_ready()
        except GuardproxyError as error:
            self._fail(error)
        except Exception as error:  # else the server would say for ever that the guard is loading
            log.exception("start_broke")
            self._fail(GuardproxyError(f"the guard cannot be started: {type(error).__name__}: {error}"))
        else:
            await self._follow_file()

    def _fail(self, error: GuardproxyError) -> None:
        self.failure = error
        self._reason = f"start failed: {error}"
        log.error("start_failed", error=str(error))
        if self._on_failure is not None:
            self._on_failure()

    async def _get_ready(self) -> None:
        """Return once the canaries separate: a guard that is out of reach may come back."""
        while reason := await self._pipeline.canaries(self._policies.current.policies["default"]):
            if reason != self._reason:
                log.error("not_ready", reason=reason)
            self._reason = reason
            await asyncio.sleep(self._canaries_s)
        self._reason = ""
        log.info("ready", guard=self._guard.name, policy=self._policies.current.version)

    # --- reload ------------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        """Take up the policies and routes of the configuration file whenever it changes."""
        path = self._place.config
        if path is None:
            return
        seen = self._place.stamp  # from before the weights were loaded, which takes its time
        while True:
            now = _stamp(path)
            if now != seen:
                seen = now
                await self._reload(path)
            await asyncio.sleep(_RELOAD_S)

    async def _reload(self, path: str) -> None:
        """A file with mistakes leaves the old policies in force, and the log says what is wrong with it."""
        names = known(builtin_only=self._place.builtin_only)
        try:
            new = await asyncio.to_thread(load_settings, path, os.environ, names)
            _check_reload(self._place.file, new)
            openers = _actions(new.policies.policies)
            reason = await self._pipeline.canaries(new.policies.policies["default"])
        except ConfigError as error:
            log.error("reload_refused", problems=error.problems, in_force=self._policies.current.version)
            return
        except Exception:  # the next file may be better
            log.exception("reload_broke", in_force=self._policies.current.version)
            return
        if reason:
            log.error("reload_refused", problems=[reason], in_force=self._policies.current.version)
            return
        self._pipeline.use(openers)
        self._policies.current = new.policies
        log.info("policies_reloaded", policy=new.policies.version)


def _check_reload(old: Settings, new: Settings) -> None:
    """Raises ConfigError where a change needs a restart."""
    fixed = ("server", "upstream", "guard", "members", "taxonomy", "wires", "limits", "paths", "audit", "log")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    if changed:
        raise ConfigError(f"{new.name}: changes of {', '.join(changed)} need a restart")
    lowest = [_floor(old), _floor(new)]
    if lowest[1] < lowest[0] and reads_lists(new):
        raise ConfigError(
            f"{new.name}: a threshold of {lowest[1]:g} is under the {lowest[0]:g} that the guard was started to read "
            "categories from; restart to take it up"
        )


def _floor(settings: Settings) -> float:
    """Under this P(unsafe) no category can reach a threshold, so none needs to be read."""
    return min(policy.floor for policy in settings.policies.policies.values())


def _stamp(path: str) -> Stamp:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


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
