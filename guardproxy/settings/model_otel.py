"""The shape of the section `otel` of a configuration file; see `model` for its conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, Len

Signal = Literal["traces", "metrics", "logs"]


@dataclass(frozen=True, slots=True)
class OtelSettings:
    """OpenTelemetry: traces, metrics and logs, sent over OTLP. Needs the extra `otel`."""

    endpoint: Annotated[str, Len(1)]
    """Base address of the collector for OTLP over HTTP, such as http://localhost:4318; /v1/traces etc. are appended."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of every call of the collector, each value as ${env:NAME}."""
    service_name: Annotated[str, Len(1)] = "guardproxy"
    """The `service.name` of everything that is sent."""
    signals: tuple[Signal, ...] = ("traces", "metrics", "logs")
    """What is sent. Without `traces`, the upstream still gets a `traceparent`."""
    interval_s: Annotated[float, Interval(gt=0, le=3600)] = 60.0
    """Seconds between two times at which the metrics are sent."""
    sample: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """The share of the requests that are traced, if the client's `traceparent` does not decide that."""
    semconv: Literal["released", "experimental"] = "released"
    """`experimental`: judged turns have the names that are proposed for guardrails; which any version may change."""
