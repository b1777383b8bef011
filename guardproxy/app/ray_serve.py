"""The guard as an application of Ray Serve, on one machine or many: `serve run config/ray_serve.yaml`.

Each replica is what `guardproxy guard` runs in a process: one guard with its queue, its batches and its prefix cache,
and the same paths, so that `guard.runner: http` asks it. Serve starts the replicas, shares the requests between them,
and starts more of them while work waits.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingContext
from starlette.applications import Starlette
from starlette.types import ASGIApp

from guardproxy.app.guarding import without_upstreams
from guardproxy.app.policy_file import read
from guardproxy.app.service import Service
from guardproxy.app.serving import log_as_configured
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings

_ARGUMENTS: Mapping[str, type] = {"builtin_only": bool, "config": str, "data_dir": str}
# What replicas report for the autoscaling: the seconds of work of the checks that wait or run, as the guard's queue
# estimates them from their tokens.
_WORK = "guardproxy_guard_expected_seconds"
# Seconds between two looks at a guard that loads.
_LOOK_S = 0.2


def app(args: Mapping[str, Any]) -> serve.Application:
    """The application of the `args` in Serve's file: `config` (a path, on every machine the same), `data_dir`,
    `builtin_only`; each as the option of `guardproxy guard`. Raises ConfigError.
    """
    unknown = sorted(set(args) - set(_ARGUMENTS))
    if unknown:
        raise ConfigError(f"args: unknown {', '.join(unknown)}; the arguments are {', '.join(_ARGUMENTS)}")
    for name, kind in _ARGUMENTS.items():
        if args.get(name) is not None and type(args[name]) is not kind:
            expected = "true or false" if kind is bool else "a text"
            raise ConfigError(f"args.{name}: must be {expected}, not {args[name]!r}")
    return _DEPLOYMENT.bind(args.get("config"), args.get("data_dir"), builtin_only=args.get("builtin_only") or False)


class _LoadedService(Service):
    """A service that is asked nothing before its guard is loaded and tells the canaries apart."""

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with super()._lifespan(app) as state:
            while self._reason and self.failure is None:  # noqa: ASYNC110 - a service sets no event for it
                await asyncio.sleep(_LOOK_S)
            if self.failure is not None:
                raise self.failure
            yield state

    def work_s(self) -> float:
        """Seconds of work of the checks that wait or run."""
        return sum(guard.stats.expected_s for guard in self._local)


class GuardReplica:
    """A replica. Its arguments are those of `app`."""

    def __init__(self, config: str | None, data_dir: str | None, *, builtin_only: bool) -> None:
        source = read(config, data_dir, builtin_only=builtin_only)
        _check(source.file)
        settings = without_upstreams(source.file)
        log_as_configured(settings)
        self._service = _LoadedService(settings, source, alone=True)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._service.app

    def check_health(self) -> None:
        """Raise if the guard cannot be used any more: Serve then starts another replica in place of this one."""
        if self._service.failure is not None:
            raise self._service.failure

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `QueuedWork` reads."""
        return {_WORK: self._service.work_s()}


def _check(settings: Settings) -> None:
    """Raise ConfigError for what replicas cannot have, because several of them may run on one machine."""
    if settings.admin is not None:
        raise ConfigError(
            f"{settings.name}: admin: replicas of Ray Serve have no port of their own; remove the section"
        )
    if settings.audit.store == "embedded":
        raise ConfigError(
            f"{settings.name}: audit.store: several replicas cannot share the embedded store; write none, or the "
            "address of a PostgreSQL database"
        )


class QueuedWork:
    """A policy of Serve's autoscaling: so many replicas that each has `target_s` seconds of work, waiting or running.

    Serve keeps the number between `min_replicas` and `max_replicas`, and waits with changes as its file says.
    """

    def __init__(self, target_s: float = 0.5) -> None:
        if type(target_s) not in (int, float) or not 0 < target_s < math.inf:
            raise ConfigError(f"policy_kwargs.target_s: must be seconds, more than 0, not {target_s!r}")
        self._target_s = target_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and no state."""
        reported = context.aggregated_metrics.get(_WORK, {})
        if not reported:  # no replica has reported yet
            return context.target_num_replicas, {}
        return max(1, math.ceil(sum(reported.values()) / self._target_s)), {}


_DEPLOYMENT = serve.deployment(name="guard")(serve.ingress()(GuardReplica))
