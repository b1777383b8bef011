"""Whether a body is a stream or a whole reply, found from its first bytes."""

import json
import re
from typing import Final

_SSE: Final = "text/event-stream"
_NDJSON: Final = "application/x-ndjson"
_LINES: Final = frozenset({_NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_SSE_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM: Final = b"\xef\xbb\xbf"
_NOT_SPACE: Final = re.compile(rb"[^ \t\r\n]")
_LONGEST_FIELD: Final = 6  # bytes of the longest field name with its colon


class Sniffer:
    """Reads the start of a body until it is known whether the body is a stream, in linear time.

    The first bytes count more than the content type: some servers answer a stream request with one JSON object under
    any content type, others send events or JSON lines as text/plain or application/json.

    `lines`: the protocol's streams are JSON lines, not server-sent events. Then a body is a stream if its first line is
    JSON on its own and either the content type says so or more lines follow.
    """

    def __init__(self, content_type: bytes, *, lines: bool) -> None:
        self._declared = content_type.decode("latin-1")
        self._kind = self._declared.partition(";")[0].strip().lower()
        self._lines = lines
        self._scan = 0  # searched up to here
        self._start = -1  # the first byte that is not white space; -1: not found yet
        self._end = -1  # the end of the first line; -1: not found yet
        self.head = bytearray()

    def add(self, data: bytes) -> bool:
        """Add the next bytes; return whether the kind of the body is known now."""
        self.head += data
        if self._start < 0 and not self._begins():
            return False
        if len(self.head) - self._start < _LONGEST_FIELD:
            return False
        if not self._lines or self.head[self._start] != ord("{"):
            return True
        if self._end < 0:
            self._end = self.head.find(b"\n", self._scan)
            self._scan = len(self.head) if self._end < 0 else self._end + 1
        if self._end < 0:
            return False
        return self._kind in _LINES or self._goes_on()

    @property
    def stream_type(self) -> str:
        """The content type to read the body with if it is a stream; empty if it is a whole reply."""
        start = bytes(self.head[self._start : self._start + _LONGEST_FIELD]) if self._start >= 0 else b""
        if start.startswith(_SSE_FIELDS):
            return self._declared if self._kind == _SSE else _SSE
        if start[:1] == b"{" and self._lines and self._is_line():
            return self._declared if self._kind in _LINES else _NDJSON
        if start[:1] in {b"{", b"["} or self._kind != (_SSE if not self._lines else _NDJSON):
            return ""
        return self._declared

    def _begins(self) -> bool:
        if self._scan == 0 and len(self.head) < len(_BOM) and _BOM.startswith(bytes(self.head)):
            return False
        if self._scan == 0 and self.head.startswith(_BOM):
            self._scan = len(_BOM)
        found = _NOT_SPACE.search(self.head, self._scan)
        self._start = found.start() if found else -1
        self._scan = found.start() if found else max(self._scan, len(self.head))
        return found is not None

    def _goes_on(self) -> bool:
        return self._end >= 0 and _NOT_SPACE.search(self.head, self._end) is not None

    def _is_line(self) -> bool:
        """Whether the first line belongs to a stream. If the content type says so, its JSON need not be valid."""
        line = self.head[self._start :] if self._end < 0 else self.head[self._start : self._end]
        if self._kind in _LINES:
            return line.rstrip().endswith(b"}")
        if not self._goes_on():
            return False
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return False
        return True
