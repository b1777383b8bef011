"""The metrics of several processes as those of one server.

Counts and amounts are added up. Where a sum says nothing, the worst of the values counts, or the one that all share.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Families = list[list[Any]]
"""Metrics as JSON values: for each its name, type and help, and its samples as lists of name, labels and value."""

_LEAST: Final = frozenset(
    {
        "guardproxy_ready",
        "guardproxy_upstream_up",
        "guardproxy_guard_replica_up",
        "guardproxy_shared_state_up",
        "guardproxy_config_last_reload_successful",
        "process_start_time_seconds",
        "process_max_fds",
    }
)
_MOST: Final = frozenset(
    {
        "guardproxy_build_info",
        "guardproxy_policy_info",
        "guardproxy_config_reloads",  # all processes reload together
        "guardproxy_config_last_reload_success_timestamp_seconds",
        "guardproxy_config_restart_needed",
        "guardproxy_config_restart_needed_info",
    }
)


def families_of(registry: CollectorRegistry) -> Families:
    """The metrics of a registry now, without the times at which its series began."""
    return [
        [
            metric.name,
            metric.type,
            metric.documentation,
            [[one.name, one.labels, one.value] for one in metric.samples if not one.name.endswith("_created")],
        ]
        for metric in registry.collect()
    ]


def merged(processes: Iterable[Families], *, ended: bool = False) -> Families:
    """The metrics of several processes. Of processes that have `ended`, only counts are left."""
    found: dict[str, list[Any]] = {}
    series: dict[str, dict[tuple[Any, ...], list[Any]]] = {}
    for families in processes:
        for name, kind, text, samples in families:
            if ended and kind not in ("counter", "histogram"):
                continue
            found.setdefault(name, [name, kind, text])
            _add(series.setdefault(name, {}), name, samples)
    return [[*head, [*series[name].values()]] for name, head in found.items()]


def _add(series: dict[tuple[Any, ...], list[Any]], name: str, samples: Sequence[Any]) -> None:
    for sample, labels, value in samples:
        key = (sample, *sorted(labels.items()))
        if key not in series:
            series[key] = [sample, labels, value]
        elif name in _LEAST:
            series[key][2] = min(series[key][2], value)
        elif name in _MOST:
            series[key][2] = max(series[key][2], value)
        else:
            series[key][2] += value


def rendered(families: Families) -> tuple[str, bytes]:
    """The content type and the body of a scrape, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, kind, text, samples in self._families:
            metric = Metric(name, text, kind)
            metric.samples = [Sample(sample, labels, value) for sample, labels, value in samples]
            yield metric


def labels_of(families: Families) -> Mapping[str, frozenset[str]]:
    """The names of the labels of each metric that has a series, without those of histograms' buckets."""
    return {
        name: frozenset(label for _, labels, _ in samples for label in labels if label != "le")
        for name, _, _, samples in families
    }
