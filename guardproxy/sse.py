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
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, takewhile
from operator import itemgetter
from typing import NamedTuple, Protocol

from guardproxy.errors import UpstreamUnreadable
from guardproxy.padding import are_padding, unpadded, with_other_padding

LIMIT = 32 * 1024 * 1024  # bytes of one frame; the last frame of a Responses stream repeats the whole answer

KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which an event stream may contain between two events

_BOM = b"\xef\xbb\xbf"
_EOL = re.compile(rb"\r\n|\n|\r")
BLANK = b" \t\r\n"

# JSON allows no control character except for these blanks.
_CONTROLS = bytes(byte for byte in range(32) if byte not in BLANK)
_NOT_ORDINARY = _CONTROLS + b"\r"
# What has a meaning of its own in a JSON string, and what may not leave as it is.
_NOT_PLAIN = re.compile(rb'["\\\x00-\x1f]|\xc2\x85|\xe2\x80[\xa8\xa9]')
# The characters above ASCII at which `str.splitlines` ends a line.
_SEPARATOR = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")
_ESCAPES = {b"\xc2\x85": rb"\u0085", b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029"}
_ID = re.compile(rb"[0-9a-fA-F:.\-]{0,64}")
_RETRY = re.compile(rb"[0-9]{1,9}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,14}")
_LOOKS_AHEAD = 32 * 1024  # bytes


class Frame(NamedTuple):
    """A frame. `raw` is what the client may get of it: its own bytes, unless the rule of this module changes them.

    `data` is its payload, None for a comment or a blank line. `event` is the name of the event, whether or not `raw`
    contains it. `complete` is False for the last frame of an input that ended in the middle of it.
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


def too_large(limit: int) -> UpstreamUnreadable:
    """The error for a frame of more than `limit` bytes."""
    return UpstreamUnreadable(f"a frame of the stream is larger than {limit} bytes")


def one_line(text: bytes) -> bytes:
    """Return a JSON text in one line for every reader; line ends behind it stay.

    A line break in JSON is outside of strings, where a space means the same. Raises as `without_separators`.
    """
    text = without_separators(text)
    line = text.rstrip(b"\r\n")
    if b"\r" in line or b"\n" in line:
        text = line.replace(b"\r", b" ").replace(b"\n", b" ") + text[len(line) :]
    return text


def without_separators(text: bytes) -> bytes:
    """Return JSON text with the separators escaped at which `str.splitlines` ends a line.

    A separator can only be in a string, where its escape means the same. Raises UpstreamUnreadable for a control
    character.
    """
    if len(text.translate(None, _CONTROLS)) != len(text):
        raise UpstreamUnreadable("a frame of the stream contains a control character, which JSON does not allow")
    return text if text.isascii() else _SEPARATOR.sub(lambda found: _ESCAPES[found[0]], text)


def _until_odd(column: list[bytes], is_number: bool) -> list[bytes]:
    """Return the values in front of the first that is empty, and no number or no string without escapes."""
    if is_number:
        return [*takewhile(_NUMBER.fullmatch, column)]
    if b"" in column or _NOT_PLAIN.search(b" ".join(column)):
        return [*takewhile(lambda value: value and not _NOT_PLAIN.search(value), column)]
    return column


class _LineDecoder:
    """The base of the decoders of lines: splits off the byte order mark, and finds the ends of lines."""

    def __init__(self, limit: int, eol: re.Pattern[bytes]) -> None:
        self._limit = limit
        self._eol = eol
        self._buffer = bytearray()
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
        raw = bytes(self._buffer[: self._line])
        del self._buffer[: self._line]
        self._line = self._scan = 0
        if len(raw) > self._limit:
            raise too_large(self._limit)
        return raw

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
        self._start_event()

    def _start_event(self) -> None:
        self._data: list[bytes] = []
        self._event = b""
        self._kept: list[bytes] = []  # the lines that may leave, with their ends
        self._data_place = 0  # of the data line in `_kept`
        self._data_end = b""
        self._is_changed = False  # `_kept` is not what came

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that `data` completes. Raises UpstreamUnreadable."""
        self.add(data)
        frames = self._frames(ended=False)
        self._check()
        return frames

    def add(self, data: bytes) -> None:
        """Add input, whose events `next` takes and `repetitions` finds."""
        self._buffer += data

    def next(self) -> Frame | None:
        """Return the next complete event, None if there is none. Raises UpstreamUnreadable."""
        frames = self._frames(ended=False, one=True)
        if frames:
            return frames[0]
        self._check()
        return None

    def repetitions(
        self, pieces: Sequence[bytes], numbers: Collection[int], name: str = ""
    ) -> tuple[list[list[str]], list[int]]:
        """Find the next events as long as they are `data: ` and these pieces of JSON text, with a value in each gap.

        The gaps in `numbers` have whole numbers, the others strings without escapes: there, one piece ends with the
        quote before the string, and the next begins with the one behind it. `name` is that of the events, if they have
        one. Returns the values of each gap, none of which is empty, and where each event ends in the input. It looks
        no further than _LOOKS_AHEAD bytes, so that the time is linear whatever the caller leaves in the input. Padding
        stands in the events as in the latest one, and in no piece.
        """
        before, behind = self._around_padding
        if before:
            if not pieces[-1].endswith(behind[1:]):
                return [], []
            pieces = [*pieces[:-1], pieces[-1].removesuffix(behind[1:]) + before, behind]
        head, tail = (f"event: {name}\ndata: " if name else "data: ").encode() + pieces[0], pieces[-1] + b"\n\n"
        is_start = self._line == 0 and self._buffer.startswith(head)
        end = self._buffer.rfind(tail, len(head), _LOOKS_AHEAD) if is_start else -1
        if end < 0:
            return [], []
        events = bytes(self._buffer[len(head) : end]).split(tail + head)
        columns, rest = [], events
        for piece in pieces[1:-1]:
            parted = [*takewhile(itemgetter(1), [event.partition(piece) for event in rest])]
            columns.append([value for value, _, _ in parted])
            rest = [behind for _, _, behind in parted]
        columns.append(rest)
        if before and not are_padding(before, columns[-1]):
            return [], []
        columns = [_until_odd(column, place in numbers) for place, column in enumerate(columns)]
        count = min(map(len, columns))
        if before:
            del columns[-1]
        try:
            values = [b"\0".join(column[:count]).decode().split("\0") for column in columns] if count else []
        except UnicodeDecodeError:
            return [], []
        around = len(head) + len(tail)
        ends = [*accumulate([len(event) + around for event in events[:count]])]
        return (values, ends) if values and ends[-1] <= self._limit else ([], [])

    def take(self, size: int) -> bytes:
        """Remove bytes from the start of the input, which end with an event, and return them."""
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scan = 0
        return with_other_padding(raw) if self._around_padding[0] else raw

    def finish(self) -> list[Frame]:
        """Return the rest; a last event without its blank line is an incomplete frame."""
        frames = self._frames(ended=True)
        if self._buffer:
            if line := bytes(self._buffer[self._line :]):
                self._field(line, b"")
            self._line = len(self._buffer)
            frames.append(self._frame(b"", complete=False))
        return frames

    def _frames(self, ended: bool, *, one: bool = False) -> list[Frame]:
        frames: list[Frame] = []
        if not self._skip_bom():
            return frames
        if self._line == 0:
            self._take_ordinary_events(frames, one=one)
            if not self._buffer:
                return frames
        while not (one and frames) and (found := self._next_line(ended)) is not None:
            line, end = found
            if line:
                self._field(line, end)
            else:
                frames.append(self._frame(end, complete=True))
        return frames

    def _take_ordinary_events(self, frames: list[Frame], *, one: bool) -> None:
        """Take events of a `data:` line, behind the name of a known event or none, with LF line ends: nearly all."""
        end = (self._buffer.find if one else self._buffer.rfind)(b"\n\n", max(self._scan - 1, 0))
        block = bytes(self._buffer[: max(end, 0)])
        if len(block.translate(None, _NOT_ORDINARY)) != len(block) or (
            not block.isascii() and _SEPARATOR.search(block)
        ):
            return
        taken = 0
        for text in block.split(b"\n\n"):
            name, line = "", text
            if text.startswith(b"event:"):
                first, _, line = text[6:].partition(b"\n")
                if (known := first.removeprefix(b" ")) not in self._names:
                    break
                name = known.decode()
            if not line.startswith(b"data:") or b"\n" in line:
                break
            size = len(text) + 2
            if size > self._limit:
                raise too_large(self._limit)
            data = line[6:] if line.startswith(b" ", 5) else line[5:]
            frames.append(Frame(*self._without_padding(text + b"\n\n", data), name))
            taken += size
        if taken:
            del self._buffer[:taken]
            self._scan = 0

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

    def feed(self, data: bytes) -> list[Frame]:
        """Return the lines that `data` completes. Raises UpstreamUnreadable."""
        self._buffer += data
        frames: list[Frame] = []
        if not self._skip_bom():
            return frames
        while self._next_line(ended=False) is not None:
            frames.append(_json_line(self._take(), complete=True))
        self._check()
        return frames

    def finish(self) -> list[Frame]:
        """Return the last line, as incomplete, if it has no line end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [_json_line(rest, complete=False)] if rest else []


def _json_line(raw: bytes, complete: bool) -> Frame:
    raw = one_line(raw)
    return Frame(raw, raw.strip(BLANK) or None, complete=complete)
