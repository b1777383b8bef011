"""The parts of a row that are sealed apart from its content, so that they can be erased without it. Pure.

A sealed part is 32 random hex digits, the salt, and a JSON value in ASCII. The content of the row holds the seal of the
part: its SHA-256. So the chain covers the part, and an erasure of it leaves the content as it is. Without the salt,
nobody can test a guess of an erased part against its seal.
"""

import hashlib
import json
import secrets
from typing import Any

from guardproxy.sinks.shared import from_dict, to_dict
from guardproxy.types import Record

ERASED = ""  # stands in place of a part that was erased
SEAL = "seal"
_SALT = 32


def seal(value: Any) -> tuple[str, str]:
    """Return the seal of a new part with this value, and the part."""
    part = secrets.token_hex(_SALT // 2) + json.dumps(value, separators=(",", ":"))
    return seal_of(part), part


def seal_of(part: str) -> str:
    """Return the seal of a part, in hex."""
    return hashlib.sha256(part.encode()).hexdigest()


def value_of(part: str) -> Any:
    """Return the value in a part. Raises ValueError."""
    return json.loads(part[_SALT:])


def record_content(record: Record) -> tuple[str, str]:
    """Return the content of the row of a record, which is JSON in ASCII, and its text as a sealed part."""
    text_seal, part = seal(record.text)
    content = {**to_dict(record), "text": {SEAL: text_seal}}
    return json.dumps(content, separators=(",", ":")), part


def read_record(content: str, part: str | None) -> Record:
    """Return the record of a row. If its text was erased, that is empty.

    Version 0.1.0 had the text in the content. Raises ValueError, KeyError or TypeError if this is not a record.
    """
    data = json.loads(content)
    if text_seal(data) is not None:
        data["text"] = value_of(part) if part else ""
    return from_dict(data)


def text_seal(data: Any) -> str | None:
    """Return the seal of the text in the content of a row; None if the row has no sealed text."""
    text = data.get("text")
    return text[SEAL] if isinstance(text, dict) else None
