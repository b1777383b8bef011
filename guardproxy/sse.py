"""Bytes to frames, without I/O: server-sent events, JSON lines, and a JSON array sent piece by piece.

Every decoder gives the same frames whatever the split of its input, and the `raw` of its frames, joined, is its input
byte for byte: comments, blank lines, byte order mark and line ends included. Time is linear in the input.

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
_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_BLANK = b" \t\r\n"


class Frame(NamedTuple):
    """One frame as it came. `data` is its payload, None where it has none (comment, blank line, byte order mark).

    `complete` is False for what the input ended in the middle of.
    """

    raw: bytes
    data: bytes | None
    event: str = ""
    complete: bool = True


class FrameDecoder(Protocol):
    """Bytes in, frames out."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises UpstreamUnreadable."""
        ...

    def finish(self) -> list[Frame]:
        """The input has ended: what was left. Raises UpstreamUnreadable."""
        ...


def _too_large(limit: int) -> UpstreamUnreadable:
    return UpstreamUnreadable(f"a frame of the stream is larger than {limit} bytes")


class _LineDecoder:
    """What the line-based decoders share: a byte order mark at the start, and lines whatever the split."""

    def __init__(self, limit: int, eol: re.Pattern[bytes]) -> None:
        self._limit = limit
        self._eol = eol
        self._buffer = bytearray()
        self._line = 0  # where the line being read starts
        self._scan = 0  # how far it has been searched for its end
        self._begun = False

    def _bom(self) -> list[Frame] | None:
        """The frame of a byte order mark, if there is one; None while it is not yet known."""
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
        """The next whole line without its end; None where there is none yet."""
        found = self._eol.search(self._buffer, self._scan)
        if found is None:
            self._scan = len(self._buffer)
            return None
        if found[0] == b"\r" and found.end() == len(self._buffer) and not ended:
            self._scan = found.start()  # it may be the first half of CR LF
            return None
        line = bytes(self._buffer[self._line : found.start()])
        self._line = self._scan = found.end()
        return line

    def _take(self) -> bytes:
        """The bytes up to the line being read, taken out of the buffer."""
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
    """Server-sent events. A line that is neither a field of the format nor a comment is refused, not skipped."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, _EOL)
        self._data: list[bytes] = []
        self._event = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames = self._frames(ended=False)
        self._check()
        return frames

    def finish(self) -> list[Frame]:
        """What was left; a last event without its blank line is a frame that is not complete."""
        self._begun = self._begun or self._buffer[:3] != _BOM
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
            self._simple(frames)
        while (line := self._next_line(ended)) is not None:
            if line:
                self._field(line)
            else:
                frames.append(self._frame(complete=True))
        return frames

    def _simple(self, frames: list[Frame]) -> None:
        """The events at the head of the buffer that are one line of data, ended by LF: what nearly all events are."""
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
    """One JSON text per line. A blank line is a frame without data."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, re.compile(rb"\n"))

    def feed(self, data: bytes) -> list[Frame]:
        """The lines that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames = self._bom()
        if frames is None:
            return []
        while (line := self._next_line(ended=False)) is not None:
            frames.append(Frame(self._take(), line.strip(_BLANK) or None))
        self._check()
        return frames

    def finish(self) -> list[Frame]:
        """The last line, where it has no line end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [Frame(rest, rest.strip(_BLANK) or None, complete=False)] if rest else []


class JsonArray:
    """A JSON array of objects, an object per frame; a frame's `raw` includes what separates it from the one before."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scan = 0
        self._start = -1  # where the object being read starts
        self._depth = 0
        self._quoted = False
        self._closed = False

    def feed(self, data: bytes) -> list[Frame]:
        """The objects that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames: list[Frame] = []
        while (place := self._next_mark()) >= 0:
            frames += self._step(place)
        if len(self._buffer) > self._limit:
            raise _too_large(self._limit)
        return frames

    def finish(self) -> list[Frame]:
        """What was left: white space, or an array that breaks off (not complete)."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if not rest:
            return []
        if not rest.strip(_BLANK + b",["):
            return [Frame(rest, None, complete=self._closed)]
        if self._closed or self._start < 0:
            raise UpstreamUnreadable("the JSON array has something else than objects in it")
        return [Frame(rest, rest[self._start :], complete=False)]

    def _next_mark(self) -> int:
        """Where the next character that matters is; -1 where there is none yet."""
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
                self._scan += 1  # the escaped character, here or yet to come
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
        """A mark of the array itself: `[` or `,` and then `{`, or `]`."""
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
        raise UpstreamUnreadable("the JSON array has something else than objects in it")

    def _cut(self, end: int, data: bytes | None) -> Frame:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scan, self._start = 0, -1
        return Frame(raw, data)
