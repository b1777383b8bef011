"""Counters, gauges and histograms for Prometheus.

Two kinds of caller: `Observers.record` counts records (`decision`, and `audit_*` for its queues); every other method is
called directly where the time is measured, for example `guard` by `pipeline/judging.py`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import product
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from guardproxy.observe.alert_metrics import AlertMetrics
from guardproxy.observe.families import Families, families_of, rendered
from guardproxy.observe.replica_metrics import ReplicaCollector, ReplicaReport
from guardproxy.observe.state import ServerState, StateCollector
from guardproxy.observe.state_metrics import SharedStateCollector, StateCounts
from guardproxy.observe.upstream_metrics import UpstreamMetrics
from guardproxy.policy import UNSAFE, PolicySet, SideRules
from guardproxy.types import SEVERITY, ActionName, Record, Side, Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_BY_DECISION = ("side", "action", "policy", "route")
_BY_CATEGORY = ("side", "category", "action", "policy")
_BY_SHADOW = ("side", "action", "policy")
_SIDES: Final[tuple[Side, ...]] = ("user", "assistant")
_ACTIONS: Final[tuple[ActionName, ...]] = ("pass", "flag", "rewrite", "block")
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


def _counter(registry: CollectorRegistry, name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"guardproxy_{name}", help_text, labels, registry=registry)


class Metrics:
    """The metrics of one process, in a given registry. All times are in seconds.

    Label values are names from the configuration (wires, sides, actions, categories, sinks) or from a fixed list
    (languages), never texts that a client chooses, such as models or paths.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._wire, self._category, self._sink = _BoundedLabel(), _BoundedLabel(), _BoundedLabel()
        self._policy, self._route = _BoundedLabel(), _BoundedLabel()
        ProcessCollector(registry=registry)

        counter = partial(_counter, registry)

        def seconds(name: str, help_text: str, *labels: str) -> Histogram:
            return Histogram(f"guardproxy_{name}_seconds", help_text, labels, registry=registry, buckets=_SECONDS)

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"guardproxy_{name}", help_text, registry=registry)

        self.in_flight = 0
        gauge("requests_in_flight", "Requests that are being answered.").set_function(lambda: self.in_flight)
        self._requests = counter("requests", "Requests answered.", "wire", "status")
        self._failures = counter("failures", "Requests and streams that ended in an error, by its code.", "code")
        self._decisions = counter("decisions", "Judged turns by decision.", *_BY_DECISION)
        self._categories = counter("category_decisions", "Judged turns by category and decision.", *_BY_CATEGORY)
        self._shadow = counter("shadow_decisions", "Decisions of shadow policies, which do not act.", *_BY_SHADOW)
        self._cut = counter("streams_cut", "Choices of streamed replies whose rest was withheld or replaced.", "action")
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
        self.upstreams, self.alerts = UpstreamMetrics(registry), AlertMetrics(registry)
        self._upstream_s = seconds("upstream", "Time from sending a request upstream to the first byte of the reply.")
        self._added_s = seconds("added", "Time that guardproxy added to an answer.")
        self._streams = gauge("streams_held", "Streamed replies being held until they are judged.")
        self._held = gauge("held_bytes", "Bytes of streamed replies being held until they are judged.")
        gauge("event_loop_tasks", "Tasks of the event loop.").set_function(_tasks)
        self._define_audit(registry)
        # Finding a series takes several times as long as counting in it.
        self._answered = lru_cache(maxsize=1024)(self._series_of_answers)
        self._decided = lru_cache(maxsize=1024)(self._series_of_decisions)

    def _series_of_answers(self, wire: str, hundreds: int) -> Counter:
        return self._requests.labels(self._wire(wire), f"{hundreds}xx")

    def _series_of_decisions(self, side: Side, action: ActionName, policy: str, route: str) -> Counter:
        return self._decisions.labels(side, action, self._policy(policy), self._route(route))

    def _define_audit(self, registry: CollectorRegistry) -> None:
        self._audit_failures = _counter(registry, "audit_failures", "Records that a sink failed to store.", "sink")
        self._audit_dropped = _counter(
            registry, "audit_dropped", "Records dropped because the queue of a sink was full.", "sink"
        )
        self._audit_written = _counter(registry, "audit_written", "Records that a sink stored.", "sink")
        self._retained = _counter(
            registry, "audit_retention_erased", "Records, and texts alone, that were kept no longer.", "what"
        )
        self._retention_failures = _counter(
            registry, "audit_retention_failures", "Attempts to erase old records that failed."
        )

    def begin(
        self, policies: PolicySet, *, wires: Iterable[str], categories: Iterable[str], codes: Iterable[str]
    ) -> None:
        """Begin the series that these names can have, with 0: rates and alerts need them before the first event.

        Called again for other policies, it adds theirs. `categories` are those that the guard knows, `codes` those of
        all errors.
        """
        for wire, status in product([*wires, "none"], ("2xx", "3xx", "4xx", "5xx")):
            self._requests.labels(self._wire(wire), status)
        for code in codes:
            self._failures.labels(code)
        self._begin_decisions(policies, tuple(categories))
        for child, values in (
            (self._cut, ("block", "rewrite")),
            (self._guard_errors, ("guard_error", "overload")),
            (self._refused, ("overload", "too_long")),
            (self._retained, ("record", "text")),
        ):
            for value in values:
                child.labels(value)

    def _begin_decisions(self, policies: PolicySet, categories: Sequence[str]) -> None:
        for route, name in _by_route(policies):
            for side, action in product(_SIDES, _ACTIONS):
                self._decisions.labels(side, action, self._policy(name), self._route(route))
        shadows = {name for route in policies.routes for name in route.shadow}
        for name, side, action in product(sorted(shadows), _SIDES, _ACTIONS):
            self._shadow.labels(side, action, self._policy(name))
        for policy, side, category in product(policies.policies.values(), _SIDES, [*categories, UNSAFE]):
            for action in _actions(policy.side(side), category):
                self._categories.labels(side, self._category(category), action, self._policy(policy.name))

    def begin_sink(self, sink: str) -> None:
        """Begin the series of a sink, with 0."""
        for counts in (self._audit_written, self._audit_failures, self._audit_dropped):
            counts.labels(self._sink(sink))

    def request(self, wire: str, status: int) -> None:
        """Count a request answered with the HTTP `status`; `wire` is the protocol's name, or "none"."""
        self._answered(wire, status // 100).inc()

    def failed(self, code: str) -> None:
        """Count a request or a stream that ended in an error; `code` is that of the error, or of `BoundedHttp`."""
        self._failures.labels(code).inc()

    def decision(self, record: Record) -> None:
        """Count the decision of a judged turn. Only `Observers.record` calls this, once for every record."""
        action = record.decision.action
        if record.shadow:
            self._shadow.labels(record.side, action, self._policy(record.policy)).inc()
            return
        self._decided(record.side, action, record.policy, record.origin.route).inc()
        for category in record.decision.categories:
            self._categories.labels(record.side, self._category(category), action, self._policy(record.policy)).inc()
        if (
            record.outcome != "pass"
            and record.side == "assistant"
            and record.origin.stream
            and record.reply is not None
        ):
            self._cut.labels(action).inc()
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

    def state_from(self, state: Callable[[], ServerState]) -> None:
        """Call `state` for what the server is when metrics are rendered."""
        self._registry.register(StateCollector(state))

    def replicas_from(self, reports: Callable[[], Mapping[str, ReplicaReport]]) -> None:
        """Call `reports` for the replicas of each guard, by its name, when metrics are rendered."""
        self._registry.register(ReplicaCollector(reports))

    def shared_state_from(self, report: Callable[[], tuple[bool, StateCounts]]) -> None:
        """Call `report` for whether the shared state is up, and its counts, when metrics are rendered."""
        self._registry.register(SharedStateCollector(report))

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


def _by_route(policies: PolicySet) -> list[tuple[str, str]]:
    """The name of each route with that of its policy, and `default` for requests that no route takes."""
    return [*((route.name, route.policy) for route in policies.routes), ("default", "default")]


def _actions(rules: SideRules, category: str) -> tuple[ActionName, ...]:
    """The actions of turns for whose decision `category` is a reason: another rule may be more severe."""
    least = min((SEVERITY[rule.action] for rule in rules.covering(category)), default=None)
    used = {rule.action for of_category in rules.by_category.values() for rule in of_category}
    return tuple(action for action in SEVERITY if action in used and least is not None and SEVERITY[action] >= least)


def _tasks() -> int:
    """The number of tasks of the running event loop; 0 outside of one."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0
