"""Splits the JSON array of Google's APIs, for streams without `alt=sse`, into frames. Pure."""

import re

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import BLANK, LIMIT, Frame, FrameDecoder, too_large, without_separators

_IN_ARRAY = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')


class JsonArray(FrameDecoder):
    """Decodes a JSON array of objects. A frame is an object with the bracket or comma that precedes it."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit)
        self._comma = b""  # what stands before the latest object, if that is a comma
        self._scan = 0
        self._start = -1  # start of the current object in the buffer; -1 outside of objects
        self._depth = 0
        self._quoted = False
        self._closed = False

    def next(self) -> Frame | None:
        """Return the next whole object, or the end of the array, None if there is none. Raises UpstreamUnreadable."""
        while (place := self._next_mark()) >= 0:
            if (frame := self._step(place)) is not None:
                return frame
        if len(self._buffer) > self._limit:
            raise too_large(self._limit)
        return None

    def finish(self) -> list[Frame]:
        """Return the rest: white space, or the incomplete end of an array that breaks off."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if not rest:
            return []
        if not rest.strip(BLANK + b",["):
            return [Frame(rest, None, complete=self._closed)]
        if self._closed or self._start < 0:
            raise UpstreamUnreadable("the JSON array contains a value that is not an object")
        rest = without_separators(rest)  # nothing before the object is changed by it
        return [Frame(rest, rest[self._start :], complete=False)]

    def _around(self, name: str) -> tuple[bytes, bytes] | None:
        return (self._comma, b"") if self._comma and not self._closed else None

    def _restart(self) -> None:
        self._scan, self._start, self._depth, self._quoted = 0, -1, min(self._depth, 1), False

    def _next_mark(self) -> int:
        """Return the position of the next structural character (in a string, the next quote or backslash), or -1."""
        found = (_IN_STRING if self._quoted else _IN_ARRAY).search(self._buffer, self._scan)
        if found is None:
            self._scan = max(self._scan, len(self._buffer))
            return -1
        return found.start()

    def _step(self, place: int) -> Frame | None:
        mark = bytes(self._buffer[place : place + 1])
        self._scan = place + 1
        if self._quoted:
            if mark == b"\\":
                self._scan += 1  # skip the escaped character, which may not have come yet
            else:
                self._quoted = False
            return None
        if self._depth <= 1:
            return self._outside(place, mark)
        if mark == b'"':
            self._quoted = True
        elif mark in b"{[":
            self._depth += 1
        elif mark in b"}]":
            self._depth -= 1
            if self._depth == 1:
                return self._cut(place + 1)
        return None

    def _outside(self, place: int, mark: bytes) -> Frame | None:
        """Handle a character of the array itself: `[`, `,`, the `{` of an object, or `]`."""
        between = bytes(self._buffer[:place]).strip(BLANK)
        if mark == b"{" and self._depth == 1 and between in (b"[", b","):
            self._depth, self._start = 2, place
            return None
        if (mark == b"[" and self._depth == 0 and not self._closed and not between) or (
            mark == b"," and self._depth == 1 and not between
        ):
            self._depth = 1
            return None
        if mark == b"]" and self._depth == 1 and between in (b"", b"["):
            self._depth, self._closed = 0, True
            return self._cut(place + 1)
        raise UpstreamUnreadable("the JSON array contains a value that is not an object")

    def _cut(self, end: int) -> Frame:
        """Return the frame up to `end`: an object with what precedes it, or the end of the array."""
        if end > self._limit:
            raise too_large(self._limit)
        start = self._start
        raw = without_separators(self.take(end))
        if start < 0:
            return Frame(raw, None)
        self._comma = raw[:start] if b"," in raw[:start] else self._comma
        return Frame(raw, raw[start:])
