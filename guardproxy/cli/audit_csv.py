"""Audit records as CSV, for spreadsheets."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from guardproxy.cli.audit_table import printable

if TYPE_CHECKING:
    from guardproxy.sinks.database import StoredRecord

_NAMES = (
    *("number", "time", "request_id", "client", "user", "session", "side", "action", "cause", "categories", "unsafe"),
    *("policy", "shadow", "route", "wire", "model", "answered_model", "outcome", "complete", "sampled", "latency_s"),
    *("error", "labels", "text", "id", "hash"),
)
# A spreadsheet takes a cell that begins so, also after spaces, for a formula and may run it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_header() -> str:
    """The names of the columns."""
    return _line(_NAMES)


def csv_row(stored: "StoredRecord") -> str:
    """A record as a line. Control characters are escaped, and a text that looks like a formula begins with `'`."""
    record, origin = stored.record, stored.record.origin
    texts = {
        "request_id": origin.request_id,
        "client": origin.client,
        "user": origin.user,
        "session": origin.session,
        "side": record.side,
        "action": record.decision.action,
        "cause": record.decision.cause,
        "categories": " ".join(record.decision.categories),
        "policy": record.policy,
        "route": origin.route,
        "wire": origin.wire,
        "model": origin.model,
        "answered_model": record.reply.model if record.reply else "",
        "outcome": record.outcome,
        "error": record.error,
        "labels": " ".join(f"{label.kind}:{label.by}" for label in stored.labels),
        "text": record.text,
        "id": record.id,
        "hash": stored.hash,
    }
    values = {
        "number": str(stored.seq),
        "time": datetime.fromtimestamp(record.time, UTC).isoformat(),
        "unsafe": "" if record.verdict is None else repr(record.verdict.unsafe),
        "shadow": str(record.shadow).lower(),
        "complete": str(record.complete).lower(),
        "sampled": str(record.sampled).lower(),
        "latency_s": repr(record.latency_s),
        **{name: _protected(text) for name, text in texts.items()},
    }
    return _line([values[name] for name in _NAMES])


def _protected(text: str) -> str:
    return f"'{printable(text)}" if text.lstrip(" \xa0\u3000").startswith(_FORMULA) else printable(text)


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
