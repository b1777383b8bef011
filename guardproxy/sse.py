"""Splits a stream of bytes into frames, without I/O: server-sent events, JSON lines, or the items of a JSON array.

The frames do not depend on how the input is split. The `raw` bytes of all frames together are the input: comments,
blank lines, byte order mark and line ends included. The time is linear in the size of the input.

Formats: WHATWG HTML, section 9.2 "Server-sent events"; NDJSON as Ollama sends it (one JSON text per line); the JSON
array of Google's APIs for streams without `alt=sse`.
"""

import re
from typing import NamedTuple, Protocol

from guardproxy.errors import UpstreamUnreadable

LIMIT = 32 * 1024 * 1024  # bytes of one frame; the last frame of a Responses stream repeats the whole answer

_BOM = b"\xef\xbb\xbf"
_EOL = re.compile(rb"\r\n|\n|\r")
_IN_ARRAY = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"


class Frame(NamedTuple):
    """A frame as it came. `data` is its payload, None for a comment, a blank line or a byte order mark.

    `complete` is False for the last frame of an input that ended in the middle of it.
    """

    raw: bytes
    data: bytes | None
    event: str = ""
    complete: bool = True


class FrameDecoder(Protocol):
    """Splits a stream into frames."""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises UpstreamUnreadable."""
        ...

    def finish(self) -> list[Frame]:
        """Return the rest as frames, after the end of the input. Raises UpstreamUnreadable."""
        ...


def _too_large(limit: int) -> UpstreamUnreadable:
    return UpstreamUnreadable(f"a frame of the stream is larger than {limit} bytes")


class _LineDecoder:
    """The base of the decoders of lines: splits off the byte order mark, and finds the ends of lines."""

    def __init__(self, limit: int, eol: re.Pattern[bytes]) -> None:
        self._limit = limit
        self._eol = eol
        self._buffer = bytearray()
        self._line = 0  # start of the current line in the buffer
        self._scan = 0  # the buffer has been searched for a line end up to here
        self._begun = False  # whether the first bytes have been checked for a byte order mark

    def _bom(self) -> list[Frame] | None:
        """Return the frame of a byte order mark, if the input begins with it; None while too few bytes have come."""
        if self._begun:
            return []
        head = bytes(self._buffer[:3])
        if len(head) < 3 and _BOM.startswith(head):
            return None
        self._begun = True
        if head != _BOM:
            return []
        del self._buffer[:3]
        return [Frame(head, None)]

    def _next_line(self, ended: bool) -> bytes | None:
        """Return the next whole line without its end; None if no line is complete."""
        found = self._eol.search(self._buffer, self._scan)
        if found is None:
            self._scan = len(self._buffer)
            return None
        if found[0] == b"\r" and found.end() == len(self._buffer) and not ended:
            self._scan = found.start()  # the next byte may be an LF, which would belong to this line end
            return None
        line = bytes(self._buffer[self._line : found.start()])
        self._line = self._scan = found.end()
        return line

    def _take(self) -> bytes:
        """Remove the bytes before the current line from the buffer and return them."""
        raw = bytes(self._buffer[: self._line])
        del self._buffer[: self._line]
        self._line = self._scan = 0
        if len(raw) > self._limit:
            raise _too_large(self._limit)
        return raw

    def _check(self) -> None:
        if len(self._buffer) > self._limit:
            raise _too_large(self._limit)


class Sse(_LineDecoder):
    """Decodes server-sent events.

    The format tells readers to skip a line that is neither a field nor a comment. Here it raises UpstreamUnreadable: a
    client that is not so strict would read a line that nobody has judged.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, _EOL)
        self._data: list[bytes] = []
        self._event = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames = self._frames(ended=False)
        self._check()
        return frames

    def finish(self) -> list[Frame]:
        """Return the rest; a last event without its blank line is an incomplete frame."""
        frames = self._frames(ended=True)
        if self._buffer:
            self._field(bytes(self._buffer[self._line :]))
            self._line = len(self._buffer)
            frames.append(self._frame(complete=False))
        return frames

    def _frames(self, ended: bool) -> list[Frame]:
        frames = self._bom()
        if frames is None:
            return []
        if self._line == 0:
            self._take_one_line_events(frames)
        while (line := self._next_line(ended)) is not None:
            if line:
                self._field(line)
            else:
                frames.append(self._frame(complete=True))
        return frames

    def _take_one_line_events(self, frames: list[Frame]) -> None:
        """Take events of a single `data:` line with LF line ends, as nearly all are, on a fast path."""
        buffer, begin, scan = self._buffer, 0, self._scan
        while (end := buffer.find(b"\n", scan)) >= 0 and buffer.startswith(b"\n", end + 1):
            raw = bytes(buffer[begin : end + 2])
            if not raw.startswith(b"data:") or b"\r" in raw:
                break
            if len(raw) > self._limit:
                raise _too_large(self._limit)
            frames.append(Frame(raw, raw[6:-2] if raw[5] == 32 else raw[5:-2]))
            begin = scan = end + 2
        if begin:
            del buffer[:begin]
            self._scan = 0

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name not in (b"", b"id", b"retry"):
            raise UpstreamUnreadable("a line of the event stream is neither a field of the format nor a comment")

    def _frame(self, complete: bool) -> Frame:
        try:
            event = self._event.decode()
        except UnicodeDecodeError as error:
            raise UpstreamUnreadable("the name of a stream's event is not UTF-8") from error
        data = b"\n".join(self._data) if self._data else None
        self._data, self._event = [], b""
        return Frame(self._take(), data, event, complete)


class Ndjson(_LineDecoder):
    """Decodes lines of JSON. A blank line is a frame without data."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, re.compile(rb"\n"))

    def feed(self, data: bytes) -> list[Frame]:
        """Return the lines that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames = self._bom()
        if frames is None:
            return []
        while (line := self._next_line(ended=False)) is not None:
            frames.append(Frame(self._take(), line.strip(_BLANK) or None))
        self._check()
        return frames

    def finish(self) -> list[Frame]:
        """Return the last line, as incomplete, if it has no line end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [Frame(rest, rest.strip(_BLANK) or None, complete=False)] if rest else []


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
            raise _too_large(self._limit)
        return frames

    def finish(self) -> list[Frame]:
        """Return the rest: white space, or the incomplete end of an array that breaks off."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if not rest:
            return []
        if not rest.strip(_BLANK + b",["):
            return [Frame(rest, None, complete=self._closed)]
        if self._closed or self._start < 0:
            raise UpstreamUnreadable("the JSON array contains a value that is not an object")
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
                return [self._cut(place + 1, bytes(self._buffer[self._start : place + 1]))]
        return []

    def _outside(self, place: int, mark: bytes) -> list[Frame]:
        """Handle a character of the array itself: `[`, `,`, the `{` of an object, or `]`."""
        between = bytes(self._buffer[:place]).strip(_BLANK)
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
            return [self._cut(place + 1, None)]
        raise UpstreamUnreadable("the JSON array contains a value that is not an object")

    def _cut(self, end: int, data: bytes | None) -> Frame:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scan, self._start = 0, -1
        return Frame(raw, data)
