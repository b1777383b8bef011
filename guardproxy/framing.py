"""The frames of a stream, and the base of the decoders that split bytes into them. Pure.

Nearly all frames of a stream repeat one shape: the same bytes but for a text and a few values. `repetitions` finds them
in a row, without parsing any. A row is accepted by its bytes alone: what stands around the values is compared byte by
byte, and every value is checked to be a whole JSON string or number. So each of its frames is the JSON text of the
shape with other values, whatever they contain.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from itertools import accumulate, takewhile
from operator import itemgetter
from typing import NamedTuple

from guardproxy.errors import UpstreamUnreadable

LIMIT = 32 * 1024 * 1024  # bytes of one frame; the last frame of a Responses stream repeats the whole answer
BLANK = b" \t\r\n"
# JSON allows no control character except for these blanks.
CONTROLS = bytes(byte for byte in range(32) if byte not in BLANK)
# The characters above ASCII at which `str.splitlines` ends a line.
SEPARATOR = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")

_ESCAPES = {b"\xc2\x85": rb"\u0085", b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029"}
# What has a meaning of its own in a JSON string, and what may not leave as it is.
_NOT_PLAIN = re.compile(rb'["\\\x00-\x1f]|\xc2\x85|\xe2\x80[\xa8\xa9]')
# A JSON string without its quotes (RFC 8259, section 7), one piece of which must not start with a part of another.
_STRING = re.compile(rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,14}")
_LOOKS_AHEAD = 32 * 1024  # bytes


class Frame(NamedTuple):
    """A frame. `raw` is what the client may get of it: its own bytes, unless the rule of `sse` changes them.

    `data` is its payload, None for a comment or a blank line. `event` is the name of the event, whether or not `raw`
    contains it. `complete` is False for the last frame of an input that ended in the middle of it.
    """

    raw: bytes
    data: bytes | None
    event: str = ""
    complete: bool = True


class Repetitions(NamedTuple):
    """Frames in a row that repeat one shape.

    `columns`: the values of each gap, none of which is empty; `ends`: where each frame ends in the input.
    """

    columns: Sequence[Sequence[str]]
    ends: Sequence[int]


NO_REPETITIONS = Repetitions((), ())


class FrameDecoder(ABC):
    """Splits a stream of bytes into frames, which do not depend on how the input is split.

    A frame may have `limit` bytes. The buffer begins at the start of a frame whenever `next` has returned.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises UpstreamUnreadable."""
        self.add(data)
        return [*iter(self.next, None)]

    def add(self, data: bytes) -> None:
        """Add input, whose frames `next` takes and `repetitions` finds."""
        self._buffer += data

    @abstractmethod
    def next(self) -> Frame | None:
        """Return the next complete frame, None if there is none. Raises UpstreamUnreadable."""

    @abstractmethod
    def finish(self) -> list[Frame]:
        """Return the rest as frames, after the end of the input. Raises UpstreamUnreadable."""

    @abstractmethod
    def _around(self, name: str) -> tuple[bytes, bytes] | None:
        """Return what stands before and behind the JSON text of a frame like the latest one, at the buffer's start.

        `name` is that of the event. None if no such frame can begin there.
        """

    @abstractmethod
    def _restart(self) -> None:
        """Forget what was found out about the frame that the buffer begins with: other bytes begin it now."""

    def repetitions(self, pieces: Sequence[bytes], numbers: Collection[int], name: str = "") -> Repetitions:
        """Find the next frames as long as they are these pieces of JSON text, with a value in each gap.

        The gaps in `numbers` have whole numbers, the others strings: there, one piece ends with the quote before the
        string, and the next begins with the one behind it. `name` is that of the events, if they have one. It looks no
        further than _LOOKS_AHEAD bytes, so that the time is linear whatever the caller leaves in the input.
        """
        parted, ends = self._parted(pieces, name)
        columns = [_numbers(column) if place in numbers else _texts(column) for place, column in enumerate(parted)]
        count = min(map(len, columns), default=0)
        return Repetitions([column[:count] for column in columns], ends[:count]) if count else NO_REPETITIONS

    def _parted(self, pieces: Sequence[bytes], name: str) -> tuple[list[list[bytes]], list[int]]:
        """Split the next frames at these pieces: the values of each gap, unchecked, and where each frame ends."""
        around = self._around(name)
        if around is None:
            return [], []
        head, tail = around[0] + pieces[0], pieces[-1] + around[1]
        most = min(_LOOKS_AHEAD, self._limit)
        end = self._buffer.rfind(tail, len(head), most) if self._buffer.startswith(head) else -1
        if end < 0:
            return [], []
        frames = bytes(self._buffer[len(head) : end]).split(tail + head)
        columns, rest = [], frames
        for piece in pieces[1:-1]:
            parted = [*takewhile(itemgetter(1), [frame.partition(piece) for frame in rest])]
            columns.append([value for value, _, _ in parted])
            rest = [behind for _, _, behind in parted]
        around_size = len(head) + len(tail)
        return [*columns, rest], [*accumulate([len(frame) + around_size for frame in frames])]

    def take(self, size: int) -> bytes:
        """Remove bytes from the start of the input, which end with a frame, and return them."""
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._restart()
        return raw


def _numbers(column: list[bytes]) -> list[str]:
    """Return the values in front of the first that is no whole number."""
    return [value.decode() for value in takewhile(_NUMBER.fullmatch, column)]


def _texts(column: list[bytes]) -> list[str]:
    """Return the strings in front of the first that is empty, is no JSON string, or may not leave as it is."""
    is_plain = b"" not in column and not _NOT_PLAIN.search(b" ".join(column))
    whole = column if is_plain else [*takewhile(_is_text, column)]
    try:
        joined = b'","'.join(whole).decode()
    except UnicodeDecodeError:
        return []
    if is_plain or "\\" not in joined:
        return joined.split('","') if whole else []
    texts: list[str] = json.loads(f'["{joined}"]')
    return [*takewhile(_has_no_surrogate, texts)] if "\\u" in joined else texts


def _is_text(value: bytes) -> bool:
    return bool(value) and _STRING.fullmatch(value) is not None and SEPARATOR.search(value) is None


def _has_no_surrogate(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


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
    if len(text.translate(None, CONTROLS)) != len(text):
        raise UpstreamUnreadable("a frame of the stream contains a control character, which JSON does not allow")
    return text if text.isascii() else SEPARATOR.sub(lambda found: _ESCAPES[found[0]], text)
