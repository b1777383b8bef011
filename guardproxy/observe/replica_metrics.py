"""The metrics of guards whose models run in other processes, made at the time of a scrape."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# How a call ends: `given_up` by the caller, or because another replica was faster.
RESULTS: Final = ("answered", "declined", "failed", "unsent", "unknown", "given_up")


@dataclass(slots=True)
class ReplicaCounts:
    """Calls of a replica by how they ended (`RESULTS`), and how often it was ejected, or asked as the second."""

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    ejections: int = 0
    hedges: int = 0


ReplicaReport = Mapping[str, tuple[bool, ReplicaCounts]]
"""Whether each replica of a guard is in use, and its counts, by its address."""


class ReplicaCollector(Collector):
    """The metrics of replicas. `reports` returns a report for each guard by its name, at the time of a scrape."""

    def __init__(self, reports: Callable[[], Mapping[str, ReplicaReport]]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        labels = ("guard", "replica")
        up = GaugeMetricFamily("guardproxy_guard_replica_up", "Whether a replica is in use.", labels=labels)
        calls = CounterMetricFamily(
            "guardproxy_guard_replica_calls", "Calls of a replica by how they ended.", labels=(*labels, "result")
        )
        ejections = CounterMetricFamily(
            "guardproxy_guard_replica_ejections", "Times that a replica was taken out of use.", labels=labels
        )
        hedges = CounterMetricFamily(
            "guardproxy_guard_replica_hedges", "Checks that a replica was asked as the second.", labels=labels
        )
        for guard, report in self._reports().items():
            for replica, (is_up, counts) in report.items():
                up.add_metric((guard, replica), float(is_up))
                ejections.add_metric((guard, replica), counts.ejections)
                hedges.add_metric((guard, replica), counts.hedges)
                for result, count in counts.calls.items():
                    calls.add_metric((guard, replica, result), count)
        yield from (up, calls, ejections, hedges)
