"""The objects of one process, built from its settings, and their lifetime."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from guardproxy import actions, wires
from guardproxy.app.audit import exclusions_of, follow_exclusions, keep_of, open_sinks, retain
from guardproxy.app.console import PATHS, console_routes, console_store
from guardproxy.app.guards import combined, local_guards, members, reads_label_lists, with_cache
from guardproxy.app.languages import languages_read
from guardproxy.app.registries import catalogue
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exclusions, Pipeline
from guardproxy.policy import Policy, PresetName
from guardproxy.ports import Action, Wire
from guardproxy.registry import load
from guardproxy.settings import Settings
from guardproxy.settings import load as load_settings
from guardproxy.sinks.database import AuditStore
from guardproxy.web.answers import AnswerHeaders
from guardproxy.web.app import create_app
from guardproxy.web.identities import Identities
from guardproxy.web.moderations import moderations
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import LivePolicies, Proxy
from guardproxy.web.sample import ReviewSample
from guardproxy.web.upstream import Upstream
from guardproxy.web.visitors import Visitors, is_loopback

log = structlog.get_logger("guardproxy")

# Seconds between two looks at the configuration file.
_RELOAD_S = 1.0
# Seconds that requests have to end when the server stops, and after them the texts whose client has left.
GRACE_S = 20


FileStamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration and the data lie, and the state of the file when it was read.

    `file` are the settings of the file without the overrides of the command line, which a reload compares; a changed
    `stamp` means a changed file. `preset` is the policy of a file without policies.
    """

    config: str | None
    data_dir: str | None
    builtin_only: bool
    file: Settings
    stamp: FileStamp
    preset: PresetName | None = None


def read(
    config: str | None, data_dir: str | None, *, builtin_only: bool = False, preset: PresetName | None = None
) -> ConfigSource:
    """Load a configuration file, or the built-in defaults. Raises ConfigError with every mistake."""
    # Taken first: a change between the two is then noticed, at the cost of a reload at worst.
    stamp = _stamp(config) if config is not None else None
    file = load_settings(config, os.environ, catalogue(builtin_only=builtin_only), preset)
    return ConfigSource(config, data_dir, builtin_only, file, stamp, preset)


class Service:
    """The objects of one process: starts and stops them, and applies changes of the configuration file.

    `on_failure` is called if they cannot start. A guard that fails the canaries is tried again every `canaries_s`
    seconds. `random` draws the sample of `audit.sample_passed`; without it, one that nobody can predict. `stopping`
    tells whether the server waits for its open answers to end.
    """

    def __init__(
        self,
        settings: Settings,
        source: ConfigSource,
        on_failure: Callable[[], None] | None = None,
        *,
        canaries_s: float = 5.0,
        random: Random | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._source = source
        self._sections = source.file.sections
        self._on_failure = on_failure
        self._canaries_s = canaries_s
        self._stopping = stopping
        self.failure: GuardproxyError | None = None
        self._reason = "the guard is loading"
        guards = members(settings, floor=_floor(settings), data_dir=source.data_dir)
        self._guard = with_cache(combined(settings, guards))
        self._local = local_guards(guards)
        self._policies = LivePolicies(settings.policies)
        self._sample = ReviewSample(settings.audit.sample_passed, random or Random())
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.queue_from(lambda: sum(guard.stats.queued for guard in self._local))
        opened = open_sinks(settings, source.data_dir)
        self._store = opened.get("store")
        self._tasks: list[asyncio.Task[None]] = []
        self._exclusions = Exclusions()
        self._exclusions.use("configuration", exclusions_of(settings))
        self._observers = Observers(
            opened,
            text=settings.audit.text,
            required=settings.audit.required,
            passed=settings.audit.passed,
            metrics=self._metrics,
        )
        self._upstream = _upstream(settings)
        self._pipeline = Pipeline(
            self._guard,
            self._observers,
            self._metrics,
            _actions(settings.policies.policies),
            after_disconnect_s=settings.audit.after_disconnect_s,
            reads=languages_read(settings),
            exclusions=self._exclusions,
        )
        self._review = console_store(settings, source.data_dir)
        self.app = self._app(settings)

    def _app(self, settings: Settings) -> ASGIApp:
        identities = Identities(settings.audit)
        endpoint = moderations(
            self._pipeline.judging,
            self._policies,
            limits=settings.limits,
            ready=lambda: self._reason,
            model=self._guard.name,
            identities=identities,
            sample=self._sample,
        )
        proxy = Proxy(
            upstream=self._upstream,
            pipeline=self._pipeline,
            wires=_wires(settings.wires),
            policies=self._policies,
            allow=PathList(settings.paths.allow),
            refuse=PathList(settings.paths.refuse, wide=True),
            limits=settings.limits,
            metrics=self._metrics,
            ready=lambda: self._reason,
            answer_headers=AnswerHeaders(settings.upstream.response_headers),
            identities=identities,
            sample=self._sample,
        )
        console = self._review and console_routes(
            self._review,
            settings,
            self._source.data_dir,
            policies=self._policies,
            judging=self._pipeline.judging,
            stopping=self._stopping,
        )
        return create_app(
            proxy,
            policies=self._policies,
            metrics=self._metrics,
            ready=lambda: self._reason,
            lifespan=self._lifespan,
            dtypes=self._dtypes,
            routes=[Route("/v1/moderations", endpoint, methods=["POST"]), *(console or ())],
            own_paths=["/v1/moderations", *(PATHS if console else ())],
            visitors=Visitors(
                settings.server.hosts, settings.server.origins, loopback=is_loopback(settings.server.host)
            ),
        )

    def _dtypes(self) -> dict[str, str]:
        """The type of the weights of every model that this process has loaded, by the guard's name."""
        return {guard.name: guard.dtype for guard in self._local if guard.dtype is not None}

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start in the background: /healthz answers while the weights load, /readyz once the canaries pass."""
        running = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._reason = "shutting down"
            await _cancelled([running])
            await _cancelled(self._tasks)
            await self._pipeline.close(GRACE_S)
            await self._observers.close()
            if self._review is not None:
                await self._review.close()
            await self._guard.close()
            await self._upstream.aclose()

    async def _run(self) -> None:
        try:
            await self._observers.start()  # first: the weights take longer than an unreachable store
            self._tend_store()
            await self._guard.start()
            await self._wait_until_ready()
        except GuardproxyError as error:
            self._fail(error)
        except Exception as error:  # otherwise /readyz would report for ever that the guard is loading
            log.exception("start_broke")
            self._fail(GuardproxyError(f"the guard cannot be started: {type(error).__name__}: {error}"))
        else:
            await self._follow_file()

    def _tend_store(self) -> None:
        """Begin the tasks that tend a store in a database."""
        if not isinstance(self._store, AuditStore):
            return
        tasks = [follow_exclusions(self._store, self._exclusions)]
        keep = keep_of(self._settings)
        if keep is not None:
            tasks.append(retain(self._store, keep, self._metrics))
        self._tasks += map(asyncio.create_task, tasks)

    def _fail(self, error: GuardproxyError) -> None:
        self.failure = error
        self._reason = f"start failed: {error}"
        log.error("start_failed", error=str(error))
        if self._on_failure is not None:
            self._on_failure()

    async def _wait_until_ready(self) -> None:
        """Run the canaries until they pass: a guard that is unreachable now may come back."""
        while reason := await self._pipeline.canaries(self._policies.current.policies["default"]):
            if reason != self._reason:
                log.error("not_ready", reason=reason)
            self._reason = reason
            await asyncio.sleep(self._canaries_s)
        self._reason = ""
        log.info("ready", guard=self._guard.name, policy=self._policies.current.version, dtype=self._dtypes())

    # --- reload ------------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        """Apply the policies and routes of the configuration file whenever it changes."""
        path = self._source.config
        if path is None:
            return
        # From before the weights were loaded, so that a change during that time is noticed.
        applied = before = self._source.stamp
        while True:
            current = _stamp(path)
            # A file that is still being written would be read in part, so wait until it has stopped changing.
            if current != applied and current == before and await self._reload(path, current):
                applied = current
            before = current
            await asyncio.sleep(_RELOAD_S)

    async def _reload(self, path: str, stamp: FileStamp) -> bool:
        """Apply the file's policies; if it has mistakes, log them and keep the current policies.

        Returns False, and applies nothing, if the file has changed while it was read.
        """
        try:
            settings, openers, reason = await self._read_again(path)
            problems = [reason] if reason else []
        except ConfigError as error:
            problems = error.problems
        except Exception:  # keep following the file: its next version may work
            log.exception("reload_broke", in_force=self._policies.current.version)
            return True
        if _stamp(path) != stamp:
            return False
        if problems:
            log.error("reload_refused", problems=problems, in_force=self._policies.current.version)
            return True
        self._pipeline.use(openers)
        self._policies.current = settings.policies
        self._exclusions.use("configuration", exclusions_of(settings))
        self._sections = settings.sections
        log.info("policies_reloaded", policy=settings.policies.version)
        return True

    async def _read_again(self, path: str) -> tuple[Settings, Mapping[str, Callable[[Policy], Action]], str]:
        """The file's settings, the openers of their actions, and why the guard fails with them. Raises ConfigError."""
        names = catalogue(builtin_only=self._source.builtin_only)
        settings = await asyncio.to_thread(load_settings, path, os.environ, names, self._source.preset)
        _check_reload(self._source.file, settings, self._sections)
        openers = _actions(settings.policies.policies)
        return settings, openers, await self._pipeline.canaries(settings.policies.policies["default"])


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _check_reload(old: Settings, new: Settings, sections: frozenset[str]) -> None:
    """Raise ConfigError if a change needs a restart. `sections` are those of the file when it was last applied.

    A section that has gone would silently put the built-in policy in force; the file may be half-written.
    """
    if gone := sorted(sections - new.sections):
        names = ", ".join(gone)
        raise ConfigError(f"{new.name}: {names}: was in the file and is missing now; complete the file, or restart")
    # Exclusions and the calibration are applied as the policies are.
    old = replace(old, audit=replace(old.audit, exclusions=new.audit.exclusions))
    old = replace(old, guard=replace(old.guard, calibration=new.guard.calibration))
    inside = ("server", "upstream", "guard", "members", "taxonomy", "wires", "limits", "paths", "audit", "console")
    fixed = (*inside, "log")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    if changed:
        raise ConfigError(f"{new.name}: changes of {', '.join(changed)} need a restart")
    old_floor, new_floor = _floor(old), _floor(new)
    if new_floor < old_floor and reads_label_lists(new):
        raise ConfigError(
            f"{new.name}: a threshold of {new_floor:g} is below {old_floor:g}, from which the running guard reads "
            "categories; restart to apply it"
        )


def _floor(settings: Settings) -> float:
    """The P(unsafe) below which no category can reach a threshold, so that none needs to be read."""
    return min(policy.floor for policy in settings.policies.policies.values())


def _stamp(path: str) -> FileStamp:
    """The modification time, size and inode of a file, or None if it is missing."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _wires(names: Sequence[str] | None) -> list[Wire]:
    return [load(name, wires.REGISTRY, "wire") for name in (names if names is not None else wires.REGISTRY)]


def _actions(policies: Mapping[str, Policy]) -> Mapping[str, Callable[[Policy], Action]]:
    """The openers of every built-in action and of every `module:attribute` that a rule names."""
    sides = [side for policy in policies.values() for side in (policy.user, policy.assistant)]
    named = {rule.how for side in sides for rules in side.by_category.values() for rule in rules if rule.how}
    return {name: load(name, actions.REGISTRY, "rewrite") for name in {*actions.REGISTRY, *named}}


def _upstream(settings: Settings) -> Upstream:
    upstream = settings.upstream
    verify: ssl.SSLContext | bool = upstream.verify
    if upstream.ca_file is not None:
        try:
            verify = ssl.create_default_context(cafile=upstream.ca_file)
        except OSError as error:
            raise ConfigError(f"upstream.ca_file: {upstream.ca_file}: {error}; name a PEM file") from error
    return Upstream(
        upstream.url,
        key=upstream.key,
        key_header=upstream.key_header,
        connect_s=upstream.timeouts.connect_s,
        first_byte_s=upstream.timeouts.first_byte_s,
        between_chunks_s=upstream.timeouts.between_chunks_s,
        attempts=upstream.retries.attempts,
        max_wait_s=upstream.retries.max_wait_s,
        retry_unsafe=upstream.retries.unsafe_methods,
        max_connections=upstream.max_connections,
        verify=verify,
    )
