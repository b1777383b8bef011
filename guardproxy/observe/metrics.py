"""Counters, gauges and histograms for Prometheus.

Two kinds of caller: `Observers.record` counts records (`decision`, and `audit_*` for its queues); every other method is
called directly where the time is measured, for example `guard` by `pipeline/judging.py`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from guardproxy.observe.families import Families, families_of, rendered
from guardproxy.types import Record, Side, Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Every value of a label is a time series of its own. Values beyond this many are counted as "other".
_MAX_VALUES = 100


class _BoundedLabel:
    """Bounds the number of values of a label: returns "other" for new values once there are too many."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= _MAX_VALUES:
            return "other"
        self._seen.add(value)
        return value


class Metrics:
    """The metrics of one process, in a given registry. All times are in seconds.

    Label values are names from the configuration (wires, sides, actions, categories, sinks) or from a fixed list
    (languages), never texts that a client chooses, such as models or paths.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._wire, self._category, self._sink = _BoundedLabel(), _BoundedLabel(), _BoundedLabel()

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"guardproxy_{name}", help_text, labels, registry=registry)

        def seconds(name: str, help_text: str, *labels: str) -> Histogram:
            return Histogram(f"guardproxy_{name}_seconds", help_text, labels, registry=registry, buckets=_SECONDS)

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"guardproxy_{name}", help_text, registry=registry)

        self._requests = counter("requests", "Requests answered.", "wire", "status")
        self._failures = counter("failures", "Requests and streams that ended in an error, by its code.", "code")
        self._decisions = counter("decisions", "Judged turns by decision.", "side", "action")
        by_category = ("side", "category", "action")
        self._categories = counter("category_decisions", "Judged turns by category and decision.", *by_category)
        self._shadow = counter("shadow_decisions", "Decisions of shadow policies, which do not act.", "side", "action")
        self._guard_errors = counter(
            "guard_errors", "Turns without a verdict because the guard failed or was overloaded.", "cause"
        )
        self._unread = counter("unread_languages", "Judged turns in languages that are not read.", "side", "language")
        guard_s = seconds("guard", "Time to a verdict on all views of a text.", "cached")
        self._cached_s, self._judged_s = guard_s.labels("true"), guard_s.labels("false")
        self._queue_s = seconds("guard_queue", "Time that checks waited in the guard's queue.")
        self._forward_s = seconds("guard_forward", "Time of the guard model's forward passes.")
        self._batch = Histogram(
            "guardproxy_guard_batch_checks", "Checks in one batch of the guard.", registry=registry, buckets=_COUNTS
        )
        self._computed = counter("guard_tokens_computed", "Tokens that the guard model computed.")
        self._reused = counter("guard_tokens_reused", "Tokens that the guard model reused from its prefix cache.")
        self._refused = counter(
            "guard_refused", "Texts that the guard's queue did not accept: overload, too_long.", "reason"
        )
        self._expected = gauge("guard_expected_seconds", "Seconds of work that waits for the guard or runs.")
        self._queue = gauge("guard_queue_checks", "Checks that wait for the guard or run.")
        self._upstream_s = seconds("upstream", "Time from sending a request upstream to the first byte of the reply.")
        self._added_s = seconds("added", "Time that guardproxy added to an answer.")
        self._streams = gauge("streams_held", "Streamed replies being held until they are judged.")
        self._held = gauge("held_bytes", "Bytes of streamed replies being held until they are judged.")
        gauge("event_loop_tasks", "Tasks of the event loop.").set_function(_tasks)
        self._audit_failures = counter("audit_failures", "Records that a sink failed to store.", "sink")
        self._audit_dropped = counter("audit_dropped", "Records dropped because the queue of a sink was full.", "sink")
        self._audit_written = counter("audit_written", "Records that a sink stored.", "sink")
        self._retained = counter(
            "audit_retention_erased", "Records, and texts alone, that were kept no longer.", "what"
        )
        self._retention_failures = counter("audit_retention_failures", "Attempts to erase old records that failed.")

    def request(self, wire: str, status: int) -> None:
        """Count a request answered with the HTTP `status`; `wire` is the protocol's name, or "none"."""
        self._requests.labels(self._wire(wire), f"{status // 100}xx").inc()

    def failed(self, code: str) -> None:
        """Count a request or a stream that ended in an error; `code` is that of the error, or of `BoundedHttp`."""
        self._failures.labels(code).inc()

    def decision(self, record: Record) -> None:
        """Count the decision of a judged turn. Only `Observers.record` calls this, once for every record."""
        action = record.decision.action
        if record.shadow:
            self._shadow.labels(record.side, action).inc()
            return
        self._decisions.labels(record.side, action).inc()
        for category in record.decision.categories:
            self._categories.labels(record.side, self._category(category), action).inc()
        if record.error:
            # The cause is "opaque" if an unreadable part decided in the end; the guard has failed nevertheless.
            cause = record.decision.cause
            self._guard_errors.labels(cause if cause in ("guard_error", "overload") else "guard_error").inc()

    def unread(self, side: Side, languages: Iterable[str]) -> None:
        """Count a judged turn by each of its `languages` that the guard does not read: codes, or "other"."""
        for language in languages:
            self._unread.labels(side, language).inc()

    def guard(self, seconds: float, usage: Usage) -> None:
        """Observe the `seconds` to a verdict, and its cost.

        `pipeline/judging.py` calls this once for every judged text, with all of its views, including texts without a
        record of their own: windows of a stream, candidates of a rewrite. A cached verdict counts only its time.
        """
        if usage.cached:
            self._cached_s.observe(seconds)
            return
        self._judged_s.observe(seconds)
        self._queue_s.observe(usage.queue_s)
        self._forward_s.observe(usage.forward_s)
        self._computed.inc(usage.tokens_computed)
        self._reused.inc(usage.tokens_reused)
        if usage.batch:
            self._batch.observe(usage.batch)

    def guard_refused(self, reason: Literal["overload", "too_long"]) -> None:
        """Count a text that the guard's queue did not accept, because it is full or because the text takes too long."""
        self._refused.labels(reason).inc()

    def queue_from(self, queues: Callable[[], Iterable[tuple[int, float]]]) -> None:
        """Call `queues` for the checks that wait or run at each guard, and their seconds, when metrics are rendered."""
        self._queue.set_function(lambda: sum(checks for checks, _ in queues()))
        self._expected.set_function(lambda: sum(seconds for _, seconds in queues()))

    def held_from(self, held: Callable[[], int]) -> None:
        """Call `held` for the bytes that all streamed replies hold, when metrics are rendered."""
        self._held.set_function(held)

    def upstream(self, seconds: float) -> None:
        """Observe the `seconds` to the first byte of an upstream's reply."""
        self._upstream_s.observe(seconds)

    def added(self, seconds: float) -> None:
        """Observe the `seconds` that guardproxy added to an answer: its duration without the wait for the upstream."""
        self._added_s.observe(seconds)

    @contextmanager
    def stream_held(self) -> Iterator[None]:
        """Count a streamed reply as held inside this context."""
        with self._streams.track_inprogress():
            yield

    def audit_written(self, sink: str, records: int) -> None:
        """Count `records` that `sink` has stored."""
        self._audit_written.labels(self._sink(sink)).inc(records)

    def audit_failed(self, sink: str, records: int) -> None:
        """Count `records` that `sink` failed to store."""
        self._audit_failures.labels(self._sink(sink)).inc(records)

    def audit_dropped(self, sink: str, records: int) -> None:
        """Count `records` dropped because the queue of `sink` was full, or because it was closed."""
        self._audit_dropped.labels(self._sink(sink)).inc(records)

    def retention(self, records: int, texts: int) -> None:
        """Count the `records`, and the `texts` of other records, that were erased because they are kept no longer."""
        self._retained.labels("record").inc(records)
        self._retained.labels("text").inc(texts)

    def retention_failed(self) -> None:
        """Count an attempt to erase old records that failed."""
        self._retention_failures.inc()

    def render(self) -> tuple[str, bytes]:
        """Return the content type and body of a scrape, in Prometheus' text format."""
        return rendered(self.families())

    def families(self) -> Families:
        """Return all metrics as JSON values, for `families.merged`."""
        return families_of(self._registry)


def _tasks() -> int:
    """The number of tasks of the running event loop; 0 outside of one."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0
