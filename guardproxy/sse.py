"""Splits a stream of bytes into frames, without I/O: server-sent events, or JSON lines.

The frames do not depend on how the input is split. The time is linear in the size of the input.

The rule: nothing in the `raw` bytes of a frame is text that nobody judges. A frame leaves as it came if it consists of
data and of values from closed sets. Otherwise its `raw` is rewritten, so that every reader takes for data only what
`data` holds: readers that split lines as `str.splitlines` does (httpx's `iter_lines`, httpx-sse), that ignore the
format's joining of data lines, or that show comments.

- A comment is dropped, or replaced by KEEP_ALIVE if nothing else is in its event.
- `id:` with anything but digits and hexadecimal digits, `retry:` with anything but digits, and an `event:` that the
  protocol does not know are dropped. Any other field is refused.
- Several data lines become one line.
- U+0085, U+2028 and U+2029 in JSON are escaped. A control character, which JSON does not allow, is refused.
- Padding (`padding`) is not part of `data`; other characters take its place.
- A byte order mark is dropped: official clients lose the first frame to it.

Formats: WHATWG HTML, section 9.2 "Server-sent events"; NDJSON as Ollama sends it (one JSON text per line). The JSON
arrays of Google's APIs are in `wires/gemini/array.py`.
"""

import re
from collections.abc import Iterable, Sequence

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import (
    BLANK,
    CONTROLS,
    LIMIT,
    SEPARATOR,
    Frame,
    FrameDecoder,
    one_line,
    too_large,
    without_separators,
)
from guardproxy.padding import are_padding, unpadded, with_other_padding

KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which an event stream may contain between two events

_BOM = b"\xef\xbb\xbf"
_EOL = re.compile(rb"\r\n|\n|\r")
_NOT_ORDINARY = CONTROLS + b"\r"
_ID = re.compile(rb"[0-9a-fA-F:.\-]{0,64}")
_RETRY = re.compile(rb"[0-9]{1,9}")


class _LineDecoder(FrameDecoder):
    """The base of the decoders of lines: splits off the byte order mark, and finds the ends of lines."""

    def __init__(self, limit: int, eol: re.Pattern[bytes]) -> None:
        super().__init__(limit)
        self._eol = eol
        self._line = 0  # start of the current line in the buffer
        self._scan = 0  # the buffer has been searched for a line end up to here
        self._begun = False  # whether the first bytes have been checked for a byte order mark

    def _skip_bom(self) -> bool:
        """Skip a byte order mark at the start of the input. False while too few bytes have come."""
        if not self._begun:
            head = bytes(self._buffer[:3])
            if len(head) < 3 and _BOM.startswith(head):
                return False
            self._begun = True
            if head == _BOM:
                del self._buffer[:3]
        return True

    def _next_line(self, ended: bool) -> tuple[bytes, bytes] | None:
        """Return the next whole line and its end; None if no line is complete."""
        found = self._eol.search(self._buffer, self._scan)
        if found is None:
            self._scan = len(self._buffer)
            return None
        if found[0] == b"\r" and found.end() == len(self._buffer) and not ended:
            self._scan = found.start()  # the next byte may be an LF, which would belong to this line end
            return None
        line = bytes(self._buffer[self._line : found.start()])
        self._line = self._scan = found.end()
        return line, found[0]

    def _take(self) -> bytes:
        """Remove the bytes before the current line from the buffer and return them."""
        raw = super().take(self._line)
        if len(raw) > self._limit:
            raise too_large(self._limit)
        return raw

    def _restart(self) -> None:
        self._line = self._scan = 0

    def _check(self) -> None:
        if len(self._buffer) > self._limit:
            raise too_large(self._limit)


class Sse(_LineDecoder):
    """Decodes server-sent events; `events` are the names of events that the protocol knows.

    `padded` says whether the protocol adds padding to events.
    The format tells readers to skip a line that is neither a field nor a comment. Here it raises UpstreamUnreadable: a
    client that is not so strict would read a line that nobody has judged.
    """

    def __init__(self, limit: int = LIMIT, events: Iterable[str] = (), *, padded: bool = False) -> None:
        super().__init__(limit, _EOL)
        self._padded = padded
        self._around_padding = (b"", b"")  # what stands before and behind that of the latest event, if it has any
        self._names = frozenset(name.encode() for name in events) | {b""}
        self._blank = b"\n"  # the blank line at the end of the latest event
        self._start_event()

    def _start_event(self) -> None:
        self._data: list[bytes] = []
        self._event = b""
        self._kept: list[bytes] = []  # the lines that may leave, with their ends
        self._data_place = 0  # of the data line in `_kept`
        self._data_end = b""
        self._is_changed = False  # `_kept` is not what came

    def next(self) -> Frame | None:
        """Return the next complete event, None if there is none. Raises UpstreamUnreadable."""
        frame = self._next(ended=False)
        if frame is None:
            self._check()
        return frame

    def take(self, size: int) -> bytes:
        """Remove bytes from the start of the input, which end with an event, and return them with other padding."""
        raw = super().take(size)
        return with_other_padding(raw) if self._around_padding[0] else raw

    def finish(self) -> list[Frame]:
        """Return the rest; a last event without its blank line is an incomplete frame."""
        frames = [*iter(lambda: self._next(ended=True), None)]
        if self._buffer:
            if line := bytes(self._buffer[self._line :]):
                self._field(line, b"")
            self._line = len(self._buffer)
            frames.append(self._frame(b"", complete=False))
        return frames

    def _around(self, name: str) -> tuple[bytes, bytes] | None:
        # The line feed behind a carriage return at the end of an event, which has not come yet, would belong to it.
        if self._line or self._blank == b"\r":
            return None
        named = b"event: " + name.encode() + self._blank if name else b""
        return named + b"data: ", self._blank * 2

    def _parted(self, pieces: Sequence[bytes], name: str) -> tuple[list[list[bytes]], list[int]]:
        """Split the next events. Padding stands in them as in the latest one, and in no piece."""
        before, behind = self._around_padding
        if not before:
            return super()._parted(pieces, name)
        if not pieces[-1].endswith(behind[1:]):
            return [], []
        columns, ends = super()._parted([*pieces[:-1], pieces[-1].removesuffix(behind[1:]) + before, behind], name)
        return (columns[:-1], ends) if columns and are_padding(before, columns[-1]) else ([], [])

    def _next(self, *, ended: bool) -> Frame | None:
        if not self._skip_bom():
            return None
        if self._line == 0 and (frame := self._ordinary_event()) is not None:
            return frame
        while (found := self._next_line(ended)) is not None:
            line, end = found
            if not line:
                self._blank = end
                return self._frame(end, complete=True)
            self._field(line, end)
        return None

    def _ordinary_event(self) -> Frame | None:
        """Take an event of a `data:` line, behind the name of a known event or none, with line ends as the latest's.

        Nearly all events are such.
        """
        end = self._buffer.find(self._blank * 2, max(self._scan - 3, 0)) if self._blank != b"\r" else -1
        if end <= 0:
            return None
        event = bytes(self._buffer[:end])
        text = event.replace(b"\r\n", b"\n") if self._blank == b"\r\n" else event
        if len(text.translate(None, _NOT_ORDINARY)) != len(text) or (not text.isascii() and SEPARATOR.search(text)):
            return None
        name, line = "", text
        if text.startswith(b"event:"):
            first, _, line = text[6:].partition(b"\n")
            if (known := first.removeprefix(b" ")) not in self._names:
                return None
            name = known.decode()
        if not line.startswith(b"data:") or b"\n" in line:
            return None
        size = end + 2 * len(self._blank)
        if size > self._limit:
            raise too_large(self._limit)
        raw = super().take(size)
        return Frame(*self._without_padding(raw, line[6:] if line.startswith(b" ", 5) else line[5:]), name)

    def _field(self, line: bytes, end: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add_data(line, end)
            return
        if name not in (b"", b"event", b"id", b"retry"):
            raise UpstreamUnreadable("a line of the event stream is neither a field of the format nor a comment")
        if name == b"event":
            self._event = value
        if (
            (name == b"event" and value in self._names)
            or (name == b"id" and _ID.fullmatch(value))
            or (name == b"retry" and _RETRY.fullmatch(value))
        ):
            self._kept.append(line + end)
        else:
            self._is_changed = True

    def _add_data(self, line: bytes, end: bytes) -> None:
        plain = without_separators(line)
        self._data.append(plain[4:].removeprefix(b":").removeprefix(b" "))
        self._data_end = end or self._data_end
        if len(self._data) == 1:
            self._data_place = len(self._kept)
            self._kept.append(plain + end)
        if len(self._data) > 1 or plain != line:
            self._is_changed = True

    def _frame(self, end: bytes, complete: bool) -> Frame:
        """Return the event of the lines so far; `end` is the blank line behind them."""
        try:
            event = self._event.decode()
        except UnicodeDecodeError as error:
            raise UpstreamUnreadable("the name of a stream's event is not UTF-8") from error
        data = b" ".join(self._data) if self._data else None  # a line break in JSON is a blank: outside of strings
        raw = self._take()
        if self._is_changed:
            raw = self._rewritten(data, end, complete)
        self._start_event()
        if data is not None:
            raw, data = self._without_padding(raw, data)
        return Frame(raw, data, event, complete or not raw)

    def _without_padding(self, raw: bytes, data: bytes) -> tuple[bytes, bytes]:
        if not self._padded:
            return raw, data
        raw, data, *around = unpadded(raw, data)
        self._around_padding = around[0], around[1]
        return raw, data

    def _rewritten(self, data: bytes | None, end: bytes, complete: bool) -> bytes:
        if data is not None and len(self._data) > 1:
            self._kept[self._data_place] = b"data: " + data + self._data_end
        if self._kept:
            if end == b"\n" and self._kept[-1].endswith(b"\r"):
                end = b"\r"  # an LF would belong to the line end before it, and the event would go on
            return b"".join(self._kept) + end
        return KEEP_ALIVE if complete else b""


class Ndjson(_LineDecoder):
    """Decodes lines of JSON. A blank line is a frame without data.

    A carriage return inside a line, which some readers take for a line end, becomes a space.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, re.compile(rb"\n"))

    def next(self) -> Frame | None:
        """Return the next whole line, None if there is none. Raises UpstreamUnreadable."""
        if not self._skip_bom():
            return None
        if self._next_line(ended=False) is None:
            self._check()
            return None
        return _json_line(self._take(), complete=True)

    def _around(self, name: str) -> tuple[bytes, bytes] | None:
        return b"", b"\n"

    def finish(self) -> list[Frame]:
        """Return the last line, as incomplete, if it has no line end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [_json_line(rest, complete=False)] if rest else []


def _json_line(raw: bytes, complete: bool) -> Frame:
    raw = one_line(raw)
    return Frame(raw, raw.strip(BLANK) or None, complete=complete)
