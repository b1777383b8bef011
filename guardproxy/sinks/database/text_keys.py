"""Which judged text a record is about, and the key by which records of the very same text are found. Pure."""

import hashlib
import json
import re

from guardproxy.sinks.database.words import stored_hash
from guardproxy.types import Record

TEXT_DIGITS = 32
"""How many digits at the beginning of a key stand for the text; the others stand for the side and the decision."""
_DECISION_DIGITS = 8


def judged_hash(record: Record) -> str:
    """Return the SHA-256 of the judged text, in hex. Raises ValueError if the record does not hold that text."""
    if record.exact and record.text:
        return stored_hash(record.text)
    if re.fullmatch(r"[0-9a-f]{64}", record.text):  # of `audit.text: hash`: other rules mask such a text
        return record.text
    state = "is masked" if record.text else "is erased" if record.exact else "is not stored"
    raise ValueError(f"its text {state}, so the hash of the judged text is not known")


def same_key(record: Record) -> str | None:
    """Return the key that records share which have exactly the same text and side, and the same decision about it.

    The decision is its action, the categories that reached a threshold, and whether it is that of a shadow policy: a
    label means the same on all these records. None if the judged text is not known.
    """
    try:
        text = judged_hash(record)
    except ValueError:
        return None
    decision = [record.side, record.decision.action, record.shadow, sorted(set(record.decision.categories))]
    digest = hashlib.sha256(json.dumps(decision).encode()).hexdigest()
    return text[:TEXT_DIGITS] + digest[:_DECISION_DIGITS]
