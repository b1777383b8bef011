"""The metrics of the state that several processes share, made at the time of a scrape."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Final, Literal, get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guardproxy.ports import StateKind

KINDS: Final[tuple[StateKind, ...]] = get_args(StateKind)
# `refused`: a value without its seal, or that its reader cannot read; `failed`: a call that broke or was late;
# `skipped`: not asked, because the store is taken for down.
GetResult = Literal["found", "missing", "refused", "failed", "skipped"]
PutResult = Literal["kept", "failed", "skipped"]


@dataclass(slots=True)
class StateCounts:
    """What was asked of the store, by kind and by what came of it."""

    gets: dict[tuple[StateKind, GetResult], int] = field(
        default_factory=lambda: dict.fromkeys(product(KINDS, get_args(GetResult)), 0)
    )
    puts: dict[tuple[StateKind, PutResult], int] = field(
        default_factory=lambda: dict.fromkeys(product(KINDS, get_args(PutResult)), 0)
    )


class SharedStateCollector(Collector):
    """The metrics of one store. `report` returns whether it is up, and its counts, at the time of a scrape."""

    def __init__(self, report: Callable[[], tuple[bool, StateCounts]]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        up, counts = self._report()
        labels = ("kind", "result")
        is_up = GaugeMetricFamily("guardproxy_shared_state_up", "Whether the shared state is in use.")
        is_up.add_metric((), float(up))
        gets = CounterMetricFamily("guardproxy_shared_state_gets", "Values that were looked for.", labels=labels)
        puts = CounterMetricFamily("guardproxy_shared_state_puts", "Values that were to be kept.", labels=labels)
        for found, count in counts.gets.items():
            gets.add_metric(found, count)
        for kept, count in counts.puts.items():
            puts.add_metric(kept, count)
        yield from (is_up, gets, puts)
