"""What is counted and timed, for Prometheus."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from guardproxy.types import Record, Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A label takes at most this many values; later ones are counted as "other". Every value is a time series of its own.
_MOST_VALUES = 100


class _Bounded:
    """Keeps the number of values of a label bounded, whatever it is given."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= _MOST_VALUES:
            return "other"
        self._seen.add(value)
        return value


class Metrics:
    """The metrics of one process, in the registry it is given. All times are in seconds.

    Labels are names of the configuration (wires, sides, actions, categories, sinks), never texts of a client such as
    models or paths.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._wire, self._category, self._sink = _Bounded(), _Bounded(), _Bounded()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"guardproxy_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(f"guardproxy_{name}_seconds", what, labels, registry=registry, buckets=_SECONDS)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"guardproxy_{name}", what, registry=registry)

        self._requests = counter("requests", "Requests answered.", "wire", "status")
        self._decisions = counter("decisions", "Judged turns by what was decided.", "side", "action")
        self._categories = counter(
            "category_decisions", "Judged turns by category that reached a threshold.", "side", "category", "action"
        )
        self._shadow = counter("shadow_decisions", "What shadow policies would have decided.", "side", "action")
        self._guard_errors = counter("guard_errors", "Turns that the guard could not judge.", "cause")
        self._guard_s = seconds("guard", "From asking the guard to its verdict.", "cached")
        self._queue_s = seconds("guard_queue", "Wait of a check before the guard read it.")
        self._forward_s = seconds("guard_forward", "Forward passes of the guard model for a check.")
        self._batch = Histogram(
            "guardproxy_guard_batch_checks", "Checks in one batch.", registry=registry, buckets=_COUNTS
        )
        self._computed = counter("guard_tokens_computed", "Tokens the guard model read.")
        self._reused = counter("guard_tokens_reused", "Tokens whose keys and values were already there.")
        self._queue = gauge("guard_queue_checks", "Checks that wait for the guard now.")
        self._upstream_s = seconds("upstream", "From sending a request upstream to the first byte of its answer.")
        self._added_s = seconds("added", "What guardproxy itself added to the time of an answer.")
        self._streams = gauge("streams_held", "Streamed replies that are held until they are judged, now.")
        self._audit_failures = counter("audit_failures", "Records that a sink could not store.", "sink")
        self._audit_dropped = counter("audit_dropped", "Records dropped because a sink did not keep up.", "sink")
        self._audit_written = counter("audit_written", "Records stored.", "sink")

    def request(self, wire: str, status: int) -> None:
        """A request was answered with the HTTP `status`; `wire` is the protocol's name, or "none"."""
        self._requests.labels(self._wire(wire), f"{status // 100}xx").inc()

    def decision(self, record: Record) -> None:
        """A turn was judged. `Observers.record` says so for every record; nobody else needs to."""
        action = record.decision.action
        if record.shadow:
            self._shadow.labels(record.side, action).inc()
            return
        self._decisions.labels(record.side, action).inc()
        for category in record.decision.categories:
            self._categories.labels(record.side, self._category(category), action).inc()
        if record.error:
            # What no guard can read may have decided in the end; the guard has failed all the same.
            cause = record.decision.cause
            self._guard_errors.labels(cause if cause in ("guard_error", "overload") else "guard_error").inc()

    def guard(self, seconds: float, usage: Usage) -> None:
        """The guard gave a verdict after `seconds`; `usage` says what it cost."""
        self._guard_s.labels("true" if usage.cached else "false").observe(seconds)
        if usage.cached:
            return
        self._queue_s.observe(usage.queue_s)
        self._forward_s.observe(usage.forward_s)
        self._computed.inc(usage.tokens_computed)
        self._reused.inc(usage.tokens_reused)
        if usage.batch:
            self._batch.observe(usage.batch)

    def queue_from(self, waiting: Callable[[], float]) -> None:
        """Read the number of checks that wait for the guard from `waiting` whenever metrics are rendered."""
        self._queue.set_function(waiting)

    def upstream(self, seconds: float) -> None:
        """The upstream's first byte came after `seconds`."""
        self._upstream_s.observe(seconds)

    def added(self, seconds: float) -> None:
        """guardproxy added `seconds` to an answer: its whole time less the time spent waiting for the upstream."""
        self._added_s.observe(seconds)

    @contextmanager
    def stream_held(self) -> Iterator[None]:
        """A streamed reply is held back inside this context."""
        with self._streams.track_inprogress():
            yield

    def audit_written(self, sink: str, records: int) -> None:
        """`sink` has stored `records`."""
        self._audit_written.labels(self._sink(sink)).inc(records)

    def audit_failed(self, sink: str, records: int) -> None:
        """`sink` could not store `records`."""
        self._audit_failures.labels(self._sink(sink)).inc(records)

    def audit_dropped(self, sink: str, records: int) -> None:
        """`records` were dropped because `sink` did not keep up."""
        self._audit_dropped.labels(self._sink(sink)).inc(records)

    def render(self) -> tuple[str, bytes]:
        """The content type and the body of a scrape, in Prometheus' text format."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)
