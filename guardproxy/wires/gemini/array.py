"""Splits the JSON array of Google's APIs, for streams without `alt=sse`, into frames. Pure."""

import re

from guardproxy.errors import UpstreamUnreadable
from guardproxy.sse import BLANK, LIMIT, Frame, too_large, without_separators

_IN_ARRAY = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')


class JsonArray:
    """Decodes a JSON array of objects. A frame is an object with the bracket or comma that precedes it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scan = 0
        self._start = -1  # start of the current object in the buffer; -1 outside of objects
        self._depth = 0
        self._quoted = False
        self._closed = False

    def feed(self, data: bytes) -> list[Frame]:
        """Return the objects that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames: list[Frame] = []
        while (place := self._next_mark()) >= 0:
            frames += self._step(place)
        if len(self._buffer) > self._limit:
            raise too_large(self._limit)
        return frames

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

    def _next_mark(self) -> int:
        """Return the position of the next structural character (in a string, the next quote or backslash), or -1."""
        found = (_IN_STRING if self._quoted else _IN_ARRAY).search(self._buffer, self._scan)
        if found is None:
            self._scan = max(self._scan, len(self._buffer))
            return -1
        return found.start()

    def _step(self, place: int) -> list[Frame]:
        mark = bytes(self._buffer[place : place + 1])
        self._scan = place + 1
        if self._quoted:
            if mark == b"\\":
                self._scan += 1  # skip the escaped character, which may not have come yet
            else:
                self._quoted = False
            return []
        if self._depth <= 1:
            return self._outside(place, mark)
        if mark == b'"':
            self._quoted = True
        elif mark in b"{[":
            self._depth += 1
        elif mark in b"}]":
            self._depth -= 1
            if self._depth == 1:
                return [self._cut(place + 1)]
        return []

    def _outside(self, place: int, mark: bytes) -> list[Frame]:
        """Handle a character of the array itself: `[`, `,`, the `{` of an object, or `]`."""
        between = bytes(self._buffer[:place]).strip(BLANK)
        if mark == b"{" and self._depth == 1 and between in (b"[", b","):
            self._depth, self._start = 2, place
            return []
        if (mark == b"[" and self._depth == 0 and not self._closed and not between) or (
            mark == b"," and self._depth == 1 and not between
        ):
            self._depth = 1
            return []
        if mark == b"]" and self._depth == 1 and between in (b"", b"["):
            self._depth, self._closed = 0, True
            return [self._cut(place + 1)]
        raise UpstreamUnreadable("the JSON array contains a value that is not an object")

    def _cut(self, end: int) -> Frame:
        """Return the frame up to `end`: an object with what precedes it, or the end of the array."""
        if end > self._limit:
            raise too_large(self._limit)
        raw = without_separators(bytes(self._buffer[:end]))
        frame = Frame(raw, raw[self._start :] if self._start >= 0 else None)
        del self._buffer[:end]
        self._scan, self._start = 0, -1
        return frame
