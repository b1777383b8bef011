"""Audit records, metrics and logs of the process, and the masking of texts in them.

A record of a judged turn takes one path: `Observers.record` masks it, hands it to every sink (store, files, log) and
counts it (`Metrics.decision`). Everything that is not part of a record is counted where it happens, by a direct call of
`Metrics`: requests and the proxy's own time by `web`, the guard's time and tokens by `pipeline/judging.py` beside the
record, held streams by `pipeline/stream.py`, the sinks' queues by `Observers`.
"""

from guardproxy.observe.logs import configure_logging, mask_event, request_context
from guardproxy.observe.masking import TextRule, mask_credentials, mask_personal_data
from guardproxy.observe.metrics import Metrics
from guardproxy.observe.observers import Observers, Receipt
from guardproxy.observe.upstream_metrics import UpstreamMetrics

__all__ = [
    "Metrics",
    "Observers",
    "Receipt",
    "TextRule",
    "UpstreamMetrics",
    "configure_logging",
    "mask_credentials",
    "mask_event",
    "mask_personal_data",
    "request_context",
]
