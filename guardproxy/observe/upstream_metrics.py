"""What the calls to each upstream come to, for Prometheus."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

# Of calls: those of `called`.
_RESULTS = ("2xx", "3xx", "4xx", "429", "5xx", "unsent", "unknown")
AskedAgain = Literal["passed", "withheld", "failed"]


class UpstreamMetrics:
    """Counters and states by upstream, in a given registry. Label values are names from the configuration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"guardproxy_upstream_{name}", help_text, ("upstream", *labels), registry=registry)

        self._calls = counter("calls", "Calls to an upstream by status, or why there was none.", "result")
        self._failovers = counter("failovers", "Requests that went on to another upstream after this one.")
        self._asked_again = counter("asked_again", "Replies in the place of withheld ones.", "result")
        self._ejections = counter("ejections", "Times that an upstream was taken out of use.")
        self._up = Gauge("guardproxy_upstream_up", "Whether an upstream is in use.", ("upstream",), registry=registry)
        self._counted: dict[tuple[str, int | str], Counter] = {}  # `labels` takes a lock, and more time than counting

    def follow(self, names: Iterable[str], states: Callable[[], Mapping[str, str]]) -> None:
        """Show the upstreams of these `names`; call `states` for their states when metrics are rendered."""
        for name in names:
            self._failovers.labels(name)
            self._ejections.labels(name)
            for what in get_args(AskedAgain):
                self._asked_again.labels(name, what)
            for result in _RESULTS:
                self._calls.labels(name, result)
            self._up.labels(name).set_function(partial(_is_up, states, name))

    def called(self, name: str, result: int | str) -> None:
        """Count a call: `result` is the status, or the ending if there was no answer."""
        child = self._counted.get((name, result))
        if child is None:
            label = f"{result // 100}xx" if isinstance(result, int) and result != 429 else str(result)
            child = self._counted[name, result] = self._calls.labels(name, label)
        child.inc()

    def failed_over(self, name: str) -> None:
        """Count a request that went on to another upstream after this one."""
        self._failovers.labels(name).inc()

    def asked_again(self, name: str, result: AskedAgain) -> None:
        """Count a reply that was asked for in the place of a withheld one, and what became of it."""
        self._asked_again.labels(name, result).inc()

    def ejected(self, name: str) -> None:
        """Count an ejection."""
        self._ejections.labels(name).inc()


def _is_up(states: Callable[[], Mapping[str, str]], name: str) -> float:
    return float(states()[name] in ("up", "limited"))
