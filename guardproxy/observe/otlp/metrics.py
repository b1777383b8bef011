"""The metrics of /metrics as OpenTelemetry's data, under the same names without Prometheus' `_total`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)


def metric_of(family: list[Any], began: int, now: int, temporality: AggregationTemporality) -> Metric | None:
    """A metric from one of `Families`; None if it has no series. The times are in nanoseconds since 1970."""
    name, kind, text, samples = family
    if not samples:
        return None
    unit = "s" if name.endswith("_seconds") else "By" if name.endswith("_bytes") else "1"
    if kind == "histogram":
        points = [_histogram(labels, parts, began, now) for labels, parts in _by_series(name, samples)]
        return Metric(name, text, unit, Histogram(points, temporality))
    numbers = [NumberDataPoint(dict(labels), began, now, float(value)) for _, labels, value in samples]
    if kind == "counter":
        return Metric(name, text, unit, Sum(numbers, temporality, is_monotonic=True))
    return Metric(name, text, unit, Gauge(numbers))


def _by_series(name: str, samples: Iterable[Any]) -> Iterable[tuple[Mapping[str, str], dict[str, Any]]]:
    """The labels of each histogram, with its `sum`, its `count` and its `bucket`s: (bound, cumulative count)."""
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = defaultdict(lambda: {"bucket": []})
    for sample, labels, value in samples:
        own = {label: text for label, text in labels.items() if label != "le"}
        parts = found[tuple(sorted(own.items()))]
        part = sample.removeprefix(f"{name}_")
        if part == "bucket":
            parts["bucket"].append((labels["le"], value))
        else:
            parts[part] = value
    return [(dict(labels), parts) for labels, parts in found.items()]


def _histogram(labels: Mapping[str, str], parts: Mapping[str, Any], began: int, now: int) -> HistogramDataPoint:
    cumulative = [count for _, count in parts["bucket"]]
    counts = [int(count - before) for before, count in zip([0, *cumulative], cumulative, strict=False)]
    bounds = [float(bound) for bound, _ in parts["bucket"] if bound != "+Inf"]
    inf = float("inf")
    return HistogramDataPoint(
        dict(labels), began, now, int(parts["count"]), float(parts["sum"]), counts, bounds, inf, -inf
    )
