"""Write each record as one log line."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from guardproxy.types import Record

_AT_ONCE = 4  # lines that are written before other tasks run


class LogSink:
    """Writes each record as a log line "decision": the turn, the decision and its reasons.

    The line holds the fields that an operator reads or counts; the store holds the whole record. With `text`, the line
    also holds the judged text.
    """

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._log = structlog.get_logger("guardproxy.audit")

    async def write(self, records: Sequence[Record]) -> None:
        """Write one line per record."""
        log = self._log.bind()  # once: binding takes as long as writing
        for place, record in enumerate(records, 1):
            log.info("decision", **self._fields(record))
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _fields(self, record: Record) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "record": record.id,
            "request_id": record.origin.request_id,
            "side": record.side,
            "turn": record.turn,
            "action": record.decision.action,
            "outcome": record.outcome,
            "reasons": [f"{r.category} {r.probability:.3f} >= {r.thresholds}" for r in record.decision.reasons],
            "route": record.origin.route,
            "policy": f"{record.policy}@{record.policy_version}",
            "ms": round(record.latency_s * 1000, 1),
        }
        if record.verdict is not None:
            fields["unsafe"] = round(record.verdict.unsafe, 4)
        if record.choice:
            fields["choice"] = record.choice
        if record.decision.cause != "verdict":
            fields["cause"] = record.decision.cause
        if record.error:
            fields["error"] = record.error
        if record.shadow:
            fields["shadow"] = True
        if self._text:
            fields["text"] = record.text
        return fields

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


def open_sink(*, text: bool = False) -> LogSink:
    """Open a sink that writes to the log, with the judged text if `text` is true."""
    return LogSink(text=text)
