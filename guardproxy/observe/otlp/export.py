"""What sends spans, metrics and logs over OTLP, each in batches by a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import get_current
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer

from guardproxy.observe.families import Families
from guardproxy.observe.otlp.metrics import metric_of

SCOPE: Final = "guardproxy"
_TIMEOUT_S: Final = 10
# The exporters' own lines stay in the log on standard error: sent, each would bring the next.
_OWN: Final = ("opentelemetry", "urllib3", "requests")
_SEVERITIES: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class Exporters:
    """Sends to the collector at `endpoint`. A collector that does not answer delays nothing but the end of the process.

    `resource` says who sends. `sample` is the share of the requests without a sampled parent that are traced.
    """

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], resource: Mapping[str, str], version: str, *, sample: float
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._headers = dict(headers)
        self._resource = Resource.create(dict(resource))
        self._version = version
        self._sample = sample
        self._closers: list[Callable[[], object]] = []

    def tracer(self, *, send: bool) -> Tracer:
        """What makes spans; with `send`, they are sent."""
        sampler = ParentBased(TraceIdRatioBased(self._sample))
        provider = TracerProvider(sampler=sampler, resource=self._resource, shutdown_on_exit=False)
        if send:
            exporter = OTLPSpanExporter(f"{self._endpoint}/v1/traces", headers=self._headers, timeout=_TIMEOUT_S)
            provider.add_span_processor(BatchSpanProcessor(exporter))
        self._closers.append(provider.shutdown)
        return provider.get_tracer(SCOPE, self._version)

    def send_logs(self) -> None:
        """Send every line of the log as well, as it stands on standard error: masked, with the trace it belongs to."""
        provider = LoggerProvider(resource=self._resource, shutdown_on_exit=False)
        exporter = OTLPLogExporter(f"{self._endpoint}/v1/logs", headers=self._headers, timeout=_TIMEOUT_S)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        root = logging.getLogger()
        handler = _OtlpHandler(provider)
        if root.handlers:
            handler.setFormatter(root.handlers[0].formatter)
        root.addHandler(handler)
        self._closers += [lambda: root.removeHandler(handler), provider.shutdown]

    def send_metrics(self, families: Callable[[], Families], interval_s: float) -> None:
        """Send the metrics every `interval_s` seconds, and once more at the end."""
        exporter = OTLPMetricExporter(f"{self._endpoint}/v1/metrics", headers=self._headers, timeout=_TIMEOUT_S)
        scope = InstrumentationScope(SCOPE, self._version)
        ended = threading.Event()
        began = time.time_ns()

        def send() -> None:
            metrics = [metric_of(family, began, time.time_ns(), _CUMULATIVE) for family in families()]
            found = [metric for metric in metrics if metric is not None]
            data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(scope, found, "")], "")])
            exporter.export(data)

        def run() -> None:
            while not ended.wait(interval_s):
                send()
            send()
            exporter.shutdown()

        thread = threading.Thread(target=run, name="otlp metrics", daemon=True)
        thread.start()
        self._closers += [ended.set, lambda: thread.join(2 * _TIMEOUT_S)]

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        for close in self._closers:
            close()


_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class _OtlpHandler(logging.Handler):
    """Hands the lines of the log to a provider of OpenTelemetry."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._logger = provider.get_logger(SCOPE)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OWN):
            return
        try:
            body = self.format(record)
        except Exception:  # noqa: BLE001 - as in the standard library: a line that cannot be written stops nothing
            self.handleError(record)
            return
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                observed_timestamp=time.time_ns(),
                context=get_current(),
                severity_text=record.levelname,
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                body=body,
                attributes={"logger.name": record.name},
            )
        )
