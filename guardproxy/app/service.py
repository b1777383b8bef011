"""The objects of one process, built from its settings, and their lifetime."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from guardproxy import wires
from guardproxy.app.access import clients_of, open_access
from guardproxy.app.alerts import ProcessAlerts
from guardproxy.app.apis import account, api_routes, apis_of, floor_for, nothing_else, own_path
from guardproxy.app.audit import follow_exclusions, keep_of, open_sinks, retain
from guardproxy.app.collection import collect_between_requests, leave_out_what_exists
from guardproxy.app.console import PATHS, console_routes, console_store, own_visitors
from guardproxy.app.engine_link import EngineConnection
from guardproxy.app.exclusions import exclusions_of
from guardproxy.app.finders import action_openers, personal_masking
from guardproxy.app.guards import combined, local_guards, members, needs_engine, replica_guards, traits, with_cache
from guardproxy.app.languages import languages_of_guard, languages_read
from guardproxy.app.listening import admin_listener
from guardproxy.app.observed import observed
from guardproxy.app.policy_file import ConfigSource, PolicyFile
from guardproxy.app.protocol import CODES, REFUSED
from guardproxy.app.registries import open_wires
from guardproxy.app.reloading import LOOK_S, Gone
from guardproxy.app.shared_state import guard_id, open_state
from guardproxy.app.upstreams import upstreams_of
from guardproxy.app.workers import Membership
from guardproxy.checkapi import Account
from guardproxy.errors import ConfigError, GuardproxyError, error_codes
from guardproxy.observe import Metrics, Observers
from guardproxy.observe.state import ServerState
from guardproxy.pipeline import Exclusions, Judging, Pipeline
from guardproxy.ports import Guard, Sink
from guardproxy.settings import CONTINUED, Settings
from guardproxy.sinks.database import AuditStore
from guardproxy.views import compile_patterns
from guardproxy.web.apis import ApiParts
from guardproxy.web.app import OPERATOR_PATHS, create_admin_app, create_app, operator_routes
from guardproxy.web.identities import Identities
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import LivePolicies, Proxy
from guardproxy.web.sample import ReviewSample
from guardproxy.web.visitors import Visitors, is_loopback

log = structlog.get_logger("guardproxy")


class Service:
    """The objects of one process: starts and stops them, and applies changes of the configuration file.

    `on_failure` is called if they cannot start. A guard that fails the canaries is tried again every `canaries_s`
    seconds; the configuration file is looked at every `look_s` seconds. `random` draws the sample of
    `audit.sample_passed`; without it, one that nobody can predict. `stopping` tells whether the server waits for its
    open answers to end. `group` is the folder of the group of workers to which the process belongs, None if it serves
    alone; in `shared_limits` all workers count what clients use. `alone`: the guard without the proxy.
    """

    def __init__(
        self,
        settings: Settings,
        source: ConfigSource,
        on_failure: Callable[[], None] | None = None,
        *,
        canaries_s: float = 5.0,
        look_s: float = LOOK_S,
        random: Random | None = None,
        stopping: Callable[[], bool] = lambda: False,
        group: Path | None = None,
        shared_limits: str | None = None,
        alone: bool = False,
    ) -> None:
        settings.require()
        self._alone = alone
        self._apis = apis_of(settings, alone=alone)
        self._settings, self._source = settings, source
        self._on_failure = on_failure
        self._canaries_s, self._stopping = canaries_s, stopping
        self.failure: GuardproxyError | None = None
        self._reason = "the guard is loading"
        self._engine = EngineConnection(group) if group is not None and needs_engine(settings) else None
        self._guards = members(
            settings, floor=floor_for(settings, alone=alone), data_dir=source.data_dir, engine=self._engine
        )
        self._observed = observed(settings)
        self._shared = open_state(settings)
        self._guard = self._observed.guard(self._with_cache())
        self._local, self._remote = local_guards(self._guards), replica_guards(self._guards)
        self._policies = LivePolicies(settings.policies)
        self._file = PolicyFile(source, self._policies, self._prepare, look_s=look_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._access = open_access(settings, shared_limits)
        self._sample = ReviewSample(settings.audit.sample_passed, random or Random())
        self._metrics = self._open_metrics()
        self._membership = Membership(group, self._file, self._metrics) if group is not None else None
        self._begin_series(settings)
        opened = open_sinks(settings, source.data_dir)
        self._store = opened.get("store")
        self._tasks: list[asyncio.Task[None]] = []
        self._exclusions = Exclusions()
        self._exclusions.use("configuration", exclusions_of(settings))
        self._alerts = ProcessAlerts(settings, source.data_dir, self._metrics)
        self._observers = self._open_observers({**opened, **self._alerts.sinks})
        self._upstreams = upstreams_of(settings, self._metrics.upstreams, self._observed.upstream)
        self._pipeline = self._open_pipeline(settings)
        self._review = console_store(settings, source.data_dir)
        self._admin: ASGIApp | None = None
        self.app = self._app(settings)

    def _with_cache(self) -> Guard:
        """The guard with its cache. One without a model judges faster than another process could tell its verdict."""
        shared = self._shared if traits(self._settings).has_model else None
        return with_cache(combined(self._settings, self._guards), shared)

    def _open_metrics(self) -> Metrics:
        metrics = self._observed.metrics()
        metrics.queue_from(lambda: [(guard.stats.queued, guard.stats.expected_s) for guard in self._local])
        if self._remote:
            metrics.replicas_from(lambda: {guard.name: guard.report() for guard in self._remote})
        if self._shared is not None:
            metrics.shared_state_from(self._shared.report)
        metrics.state_from(self._state)
        return metrics

    def _open_observers(self, sinks: Mapping[str, Sink]) -> Observers:
        audit = self._settings.audit
        return Observers(
            sinks,
            text=audit.text,
            personal=personal_masking(self._settings),
            required=audit.required,
            passed=audit.passed,
            metrics=self._metrics,
        )

    def _account(self) -> Account:
        floor = floor_for(self._settings, alone=self._alone)
        return account(self._settings, self._guard, floor, self._source.data_dir)

    def _begin_series(self, settings: Settings) -> None:
        self._metrics.begin(
            settings.policies,
            wires=[*(settings.wires if settings.wires is not None else wires.REGISTRY), *self._apis],
            categories=[category.id for category in self._guard.taxonomy.categories],
            codes={*error_codes(), *CODES, "client_left"},
        )

    def _state(self) -> ServerState:
        policies = {name: policy.version for name, policy in self._policies.current.policies.items()}
        return ServerState(not self._reason, policies, self._file.state)

    def _open_pipeline(self, settings: Settings) -> Pipeline:
        return self._observed.pipeline(
            self._guard,
            self._observers,
            self._metrics,
            action_openers(settings),
            max_characters=settings.limits.characters,
            after_disconnect_s=settings.audit.after_disconnect_s,
            reads=languages_read(settings),
            exclusions=self._exclusions,
            infer_sessions=CONTINUED in settings.audit.session,
            traits=traits(settings),
            shared=self._shared or (None if self._membership is None else self._membership.state),
        )

    def _app(self, settings: Settings) -> ASGIApp:
        identities = Identities(settings.audit)
        parts = ApiParts(
            self._pipeline.judging,
            self._policies,
            settings.limits,
            lambda: self._reason,
            identities,
            self._sample,
            self._access,
            self._metrics,
        )
        console = self._review and console_routes(
            self._review,
            settings,
            self._source.data_dir,
            policies=self._policies,
            judgings=[self._pipeline.judging, *self._members(settings)],
            stopping=self._stopping,
            editor=self._file,
        )
        server = settings.server
        operators = [*self._operator_routes(), *(console or ())]
        routes = api_routes(self._apis, parts, self._pipeline, self._account, alone=self._alone)
        own_paths = [own_path(name) for name in self._apis]
        if settings.admin is None:
            routes += operators
            own_paths += [*OPERATOR_PATHS, *(PATHS if console else ())]
        else:
            visitors = own_visitors(settings, loopback=is_loopback(settings.admin.host))
            self._admin = create_admin_app(operators, visitors, self._metrics)
        return create_app(
            nothing_else if self._alone else self._observed.proxy(self._proxy(settings, identities)),
            metrics=self._metrics,
            lifespan=self._lifespan,
            routes=routes,
            own_paths=own_paths,
            visitors=Visitors(server.hosts, (*server.origins, *server.cors.origins), loopback=is_loopback(server.host)),
            cors=server.cors.origins,
        )

    def _proxy(self, settings: Settings, identities: Identities) -> Proxy:
        return Proxy(
            upstreams=self._upstreams,
            pipeline=self._pipeline,
            wires=open_wires(settings.wires),
            policies=self._policies,
            allow=PathList(settings.paths.allowed),
            refuse=PathList(settings.paths.refuse, wide=True),
            limits=settings.limits,
            metrics=self._metrics,
            ready=lambda: self._reason,
            identities=identities,
            sample=self._sample,
            access=self._access,
        )

    def _operator_routes(self) -> list[BaseRoute]:
        return operator_routes(
            policies=self._policies,
            scrape=self._membership.scrape if self._membership is not None else self._scrape,
            # The operators' own listener still answers while the server waits for its open answers to end.
            ready=lambda: self._reason or ("shutting down" if self._stopping() else ""),
            health=self._health,
        )

    async def _scrape(self) -> tuple[str, bytes]:
        return self._metrics.render()

    def _health(self) -> Mapping[str, Any]:
        """What /healthz says: the types of the weights, the states of the upstreams, the latest reload of the file."""
        state = self._file.state
        latest = {"in_force": not state.problems, "at": _iso(state.at), "problems": state.problems}
        about: dict[str, Any] = {"dtype": self._dtypes()}
        if self._remote:
            about["replicas"] = {guard.name: guard.about() for guard in self._remote}
        if not self._alone:
            about["upstreams"] = self._upstreams.states()
        if self._shared is not None:
            about["shared_state"] = self._shared.state()
        return {**about, "reload": latest, "restart_needed": state.restart_needed}

    def reload(self) -> None:
        """Read the configuration file again soon. From any thread, and from the handler of a signal."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._file.ask)

    def _members(self, settings: Settings) -> list[Judging]:
        """What judges with each of the guards that are combined. Their work is in no metric."""
        if len(self._guards) < 2:
            return []
        return [
            Judging(
                with_cache(guard),
                self._observers,
                Metrics(CollectorRegistry()),
                self._pipeline.judging.actions,
                reads=languages_of_guard(member.guard),
                exclusions=self._exclusions,
            )
            for guard, member in zip(self._guards, settings.members.values(), strict=True)
        ]

    def _dtypes(self) -> dict[str, str]:
        """The type of the weights of every model that this process or its engine has loaded, by the guard's name."""
        local = {guard.name: guard.dtype for guard in self._local if guard.dtype is not None}
        return local if self._engine is None else {**self._engine.dtypes, **local}

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        """Start in the background: /healthz answers while the weights load, /readyz once the canaries pass."""
        self._loop = asyncio.get_running_loop()
        self._observed.start(self._metrics)
        running = asyncio.create_task(self._run())
        try:
            if self._membership is not None:
                await self._membership.leave_to_others(running)
            async with admin_listener(self._admin, self._settings):
                yield {REFUSED: self._metrics.failed}
        finally:
            self._reason = "shutting down"
            await _cancelled([running, *self._tasks])
            await self._pipeline.close(self._settings.server.grace_s)
            await self._observers.close()
            await self._alerts.close()
            if self._review is not None:
                await self._review.close()
            await self._guard.close()
            if self._shared is not None:
                await self._shared.close()
            if self._engine is not None:
                await self._engine.close()
            await self._upstreams.aclose()
            if self._membership is not None:
                await self._membership.close()
            await self._observed.close()

    async def _run(self) -> None:
        try:
            if self._membership is not None:
                await self._membership.connect()
            await self._observers.start()  # first: the weights take longer than an unreachable store
            await self._alerts.begin()  # before anybody is answered, so that no record comes before it
            self._tend_store()
            if self._engine is not None:
                await self._engine.loaded()
            await self._guard.start()
            await self._wait_until_ready()
        except GuardproxyError as error:
            self._fail(error)
        except Exception as error:  # otherwise /readyz would report for ever that the guard is loading
            log.exception("start_broke")
            self._fail(GuardproxyError(f"the guard cannot be started: {type(error).__name__}: {error}"))
        else:
            if self._membership is None:
                await self._file.follow()

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
        while reason := await self._obstacle():
            if reason != self._reason:
                log.error("not_ready", reason=reason)
            self._reason = reason
            await asyncio.sleep(self._canaries_s)
        compile_patterns()
        leave_out_what_exists()
        self._tasks.append(asyncio.create_task(collect_between_requests(lambda: self._metrics.in_flight)))
        if self._shared is not None:  # now: the canaries were judged here
            data_dir = self._source.data_dir
            self._shared.begin(partial(guard_id, self._settings, self._account(), self._guards, data_dir))
        self._reason = ""
        log.info("ready", guard=self._guard.name, policy=self._policies.current.version, dtype=self._dtypes())

    async def _obstacle(self) -> str:
        """Why the guard cannot be trusted, or the process is not one of its server's; empty otherwise."""
        reason = await self._pipeline.canaries(self._policies.current.policies["default"])
        if not reason and self._membership is not None:
            try:
                await self._membership.join()
            except (GuardproxyError, Gone, TimeoutError) as error:
                return f"the worker cannot take up the policies in force: {error}"
        return reason

    async def _prepare(self, settings: Settings) -> Callable[[], None]:
        """What puts new policies in force, after the canaries. Raises ConfigError if the guard fails them."""
        openers = action_openers(settings)
        if reason := await self._pipeline.canaries(settings.policies.policies["default"]):
            raise ConfigError(reason)

        def use() -> None:
            self._pipeline.use(openers)
            self._exclusions.use("configuration", exclusions_of(settings))
            self._begin_series(settings)
            self._access.clients = clients_of(settings)

        return use


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
