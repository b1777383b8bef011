"""What the server is at the time of a scrape: ready or not, its version, its policies, its configuration file."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class ReloadState:
    """What the operators see of reloads.

    `problems` say why the file on disk is not in force, one line for each mistake with file, line and column;
    `restart_needed` are the changed keys that wait for a restart. `at` is the time of the latest reload that was
    applied, or that of the start, in seconds since 1970. `applied` and `refused` count reloads.
    """

    problems: tuple[str, ...] = ()
    restart_needed: tuple[str, ...] = ()
    at: float = field(default_factory=time.time)
    applied: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class ServerState:
    """The state of a process. `policies` has the version of each policy in force by its name."""

    ready: bool
    policies: Mapping[str, str]
    reload: ReloadState


class StateCollector(Collector):
    """The metrics of a state, which `state` returns at the time of a scrape."""

    def __init__(self, state: Callable[[], ServerState]) -> None:
        self._state = state
        self._build = {"version": version("guardproxy"), "python": platform.python_version()}

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        state = self._state()
        reload = state.reload
        yield _gauge("ready", "1 if requests can be guarded.", float(state.ready))
        yield _info("build", "The versions of guardproxy and of Python.", self._build)
        policies = [{"policy": name, "version": of_policy} for name, of_policy in state.policies.items()]
        yield _info("policy", "The policies in force, with the hash that their records have.", *policies)
        reloads = CounterMetricFamily(
            "guardproxy_config_reloads", "Reloads of the configuration file.", labels=["result"]
        )
        reloads.add_metric(["applied"], reload.applied)
        reloads.add_metric(["refused"], reload.refused)
        yield reloads
        yield _gauge(
            "config_last_reload_successful", "1 if the file on disk is what is in force.", float(not reload.problems)
        )
        yield _gauge(
            "config_last_reload_success_timestamp_seconds", "When the policies in force were loaded.", reload.at
        )
        yield _gauge(
            "config_restart_needed",
            "Keys of the file whose change waits for a restart.",
            len(reload.restart_needed),
        )
        keys = [{"key": key} for key in reload.restart_needed]
        yield _info("config_restart_needed", "The keys whose change waits for a restart.", *keys, labels=("key",))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"guardproxy_{name}", text, value=value)


def _info(name: str, text: str, *series: Mapping[str, str], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    """A metric that is always 1, whose labels say something."""
    names = tuple(series[0]) if series else labels
    family = GaugeMetricFamily(f"guardproxy_{name}_info", text, labels=names)
    for values in series:
        family.add_metric([values[one] for one in names], 1.0)
    return family
