"""Every record as one log line."""

from collections.abc import Sequence

import structlog

from guardproxy.sinks.shared import to_dict
from guardproxy.types import Record


class LogSink:
    """Writes each record as a line "decision"; the judged text only if asked for."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._log = structlog.get_logger("guardproxy.audit")

    async def write(self, records: Sequence[Record]) -> None:
        """One line per record."""
        for record in records:
            fields = to_dict(record)
            if not self._text:
                del fields["text"]
            # The line has a time of its own; the record's is when the turn was judged.
            self._log.info("decision", **fields)

    async def close(self) -> None:
        """Nothing to release."""


def open_sink(*, text: bool = False) -> LogSink:
    """A sink that writes to the log, with the judged text where `text` says so."""
    return LogSink(text=text)
