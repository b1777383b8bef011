"""Stored records as the rows of a table, for CSV."""

from datetime import UTC, datetime

from guardproxy.sinks.database.queries import StoredRecord

SHEET_HEAD = (
    *("number", "time", "request_id", "client", "user", "session", "side", "action", "cause", "categories", "unsafe"),
    *("policy", "shadow", "route", "wire", "model", "answered_model", "outcome", "complete", "sampled", "exclusion"),
    *("latency_s", "error", "labels", "text", "id", "hash"),
)


def sheet_row(stored: StoredRecord) -> list[object]:
    """Return a record as the cells below `SHEET_HEAD`. The time is that of UTC."""
    record, origin = stored.record, stored.record.origin
    return [
        *(stored.seq, datetime.fromtimestamp(record.time, UTC).isoformat(), origin.request_id),
        *(origin.client, origin.user, origin.session, record.side, record.decision.action, record.decision.cause),
        *(" ".join(record.decision.categories), record.verdict.unsafe if record.verdict else None),
        *(record.policy, record.shadow, origin.route, origin.wire, origin.model),
        *(record.reply.model if record.reply else "", record.outcome, record.complete, record.sampled),
        *(record.exclusion, record.latency_s, record.error),
        *(" ".join(f"{label.kind}:{label.by}" for label in stored.labels), record.text, record.id, stored.hash),
    ]
