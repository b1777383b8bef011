"""Observers of what is decided: the sinks of the audit, the metrics and the logs, and what they may keep of a text."""

from guardproxy.observe.logs import configure_logging, mask_credentials, request_context
from guardproxy.observe.metrics import Metrics
from guardproxy.observe.observers import Observers
from guardproxy.observe.redaction import TextRule, credentials, redact

__all__ = [
    "Metrics",
    "Observers",
    "TextRule",
    "configure_logging",
    "credentials",
    "mask_credentials",
    "redact",
    "request_context",
]
