"""Counters of alerts, for Prometheus."""

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

AlertDrop = Literal["full", "refused", "erased", "closed"]
"""Why a receiver never gets an alert: its queue was full, it refused the message, the record was erased, or the process
ended and only its memory had the alert."""


class AlertMetrics:
    """The metrics of the receivers of alerts. Label values are names from the configuration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"guardproxy_alerts_{name}", help_text, ["receiver", *labels], registry=registry)

        self._sent = counter("sent", "Alerts that a receiver has taken.")
        self._failures = counter("failures", "Attempts to send alerts that failed.")
        self._dropped = counter("dropped", "Alerts that a receiver never gets.", "reason")
        self._forgotten = counter("forgotten", "Records that no longer count towards an alert: there are too many.")
        self._waiting = Gauge(
            "guardproxy_alerts_waiting", "Alerts that wait for a receiver.", ["receiver"], registry=registry
        )

    def begin(self, receiver: str) -> None:
        """Begin the series of a receiver, at 0."""
        for series in (self._sent, self._failures, self._forgotten, self._waiting):
            series.labels(receiver)
        for reason in get_args(AlertDrop):
            self._dropped.labels(receiver, reason)

    def sent(self, receiver: str, alerts: int) -> None:
        """Count `alerts` that a receiver has taken."""
        self._sent.labels(receiver).inc(alerts)

    def failed(self, receiver: str) -> None:
        """Count an attempt to send alerts that failed."""
        self._failures.labels(receiver).inc()

    def dropped(self, receiver: str, reason: AlertDrop, alerts: int) -> None:
        """Count `alerts` that a receiver never gets."""
        self._dropped.labels(receiver, reason).inc(alerts)

    def waiting(self, receiver: str, alerts: int) -> None:
        """Set how many `alerts` wait for a receiver, those that are being sent included."""
        self._waiting.labels(receiver).set(alerts)

    def forgotten(self, receiver: str, records: int) -> None:
        """Count `records` that no longer count towards an alert (`alerting.AlertWindows`)."""
        self._forgotten.labels(receiver).inc(records)
