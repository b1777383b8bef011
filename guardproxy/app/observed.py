"""What observes the parts of a process from outside, besides their metrics: nothing, unless `otel` is configured."""

import importlib
from importlib.util import find_spec

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from guardproxy.errors import ConfigError
from guardproxy.observe import Metrics
from guardproxy.pipeline import Pipeline
from guardproxy.ports import Guard
from guardproxy.settings import Settings
from guardproxy.web.upstream import Upstream


class Unobserved:
    """Leaves every part as it is, so that it costs nothing. `telemetry.Telemetry` puts its own parts around them."""

    pipeline: type[Pipeline] = Pipeline
    """The class of the pipeline."""

    def metrics(self) -> Metrics:
        """The metrics of the process."""
        return Metrics(CollectorRegistry())

    def guard(self, guard: Guard) -> Guard:
        """The guard."""
        return guard

    def upstream(self, upstream: Upstream) -> Upstream:
        """The client of an upstream."""
        return upstream

    def proxy(self, proxy: ASGIApp) -> ASGIApp:
        """The proxy."""
        return proxy

    def start(self, metrics: Metrics) -> None:
        """Begin to send, when the server has started."""

    async def close(self) -> None:
        """Send what waits."""


def observed(settings: Settings) -> Unobserved:
    """What observes a process, from its settings. Raises ConfigError if the extra is not installed."""
    if settings.otel is None:
        return Unobserved()
    if any(find_spec(name) is None for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")):
        raise ConfigError("otel: needs the extra `otel`; run `pip install 'guardproxy[otel]'`")
    module = importlib.import_module("guardproxy.app.telemetry")
    telemetry: Unobserved = module.Telemetry(settings.otel)
    return telemetry
