"""What kind of answer a body is, and the error body for clients whose protocol is not known."""

import json
from typing import Final

from guardproxy.ports import Answer

_SSE: Final = "text/event-stream"
_LINES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_SSE_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def stream_type(content_type: bytes, head: bytes) -> str:
    """The content type to read a stream by; empty where the body is a whole reply.

    The first bytes count more than the header: servers answer a stream request with one JSON object, under either
    content type, and some send events as text/plain.
    """
    declared = content_type.decode("latin-1")
    kind = declared.partition(";")[0].strip().lower()
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if kind in _LINES:
        return declared
    if kind == _SSE:
        return "" if start[:1] in {b"{", b"["} else declared
    return _SSE if start.startswith(_SSE_FIELDS) else ""


def json_error(status: int, code: str, message: str) -> Answer:
    """OpenAI's error body, which most clients can show."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Answer(status, "application/json", json.dumps({"error": error}).encode())
