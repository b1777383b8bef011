"""Whether a body is a stream or a whole reply, found from its first bytes."""

import json
import re
from typing import Final

_SSE: Final = "text/event-stream"
_NDJSON: Final = "application/x-ndjson"
_LINES: Final = frozenset({_NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_SSE_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM: Final = b"\xef\xbb\xbf"
_SOLID: Final = re.compile(rb"[^ \t\r\n]")
_NAME: Final = 6  # bytes of the longest field's name, with its colon


class Sniffer:
    """Reads a body until its kind is known, in time linear in what it reads.

    The first bytes count more than the header: servers answer a stream request with one JSON object, under any
    content type, and some send events or lines of JSON as text/plain or application/json. `lines` says that streams
    of this protocol are lines: then a first line that is JSON by itself is a stream's, if its header says so or more
    follows; other protocols have events.
    """

    def __init__(self, content_type: bytes, *, lines: bool) -> None:
        self._declared = content_type.decode("latin-1")
        self._kind = self._declared.partition(";")[0].strip().lower()
        self._lines = lines
        self._scan = 0  # how far it has been searched
        self._start = -1  # where the text begins
        self._end = -1  # where its first line ends
        self.head = bytearray()

    def add(self, data: bytes) -> bool:
        """Whether the body need not be read any further to tell its kind."""
        self.head += data
        if self._start < 0 and not self._begins():
            return False
        if len(self.head) - self._start < _NAME:
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
        """The content type to read a stream by; empty where the body is a whole reply."""
        start = bytes(self.head[self._start : self._start + _NAME]) if self._start >= 0 else b""
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
        found = _SOLID.search(self.head, self._scan)
        self._start = found.start() if found else -1
        self._scan = found.start() if found else max(self._scan, len(self.head))
        return found is not None

    def _goes_on(self) -> bool:
        return self._end >= 0 and _SOLID.search(self.head, self._end) is not None

    def _is_line(self) -> bool:
        """Whether the first line is a stream's. One that says so in its header may be broken, as a stream's."""
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
