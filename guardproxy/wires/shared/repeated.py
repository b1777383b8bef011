"""Frames of a stream that repeat an earlier frame in everything but a few values: they are read without parsing. Pure.

Nearly all frames of a stream differ from the one before in their text alone. A `Pattern` is the JSON text of a frame
with gaps where these values stand. A frame that fits it is the same JSON with other values there: what is between the
gaps is compared character by character, and a string in a gap is read by the JSON parser's own function for strings.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs lack it
from typing import Any, NamedTuple

Steps = tuple[str | int, ...]
"""The keys and indices that lead to a value of a body."""

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,14})(?![0-9.eE])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST = 16_384  # bytes of a frame
_TRIED = 4  # places in the JSON text that are tried
_OTHER = 9_007_199_254_740_993  # a number that no frame has: more digits than a gap takes


class Gaps(NamedTuple):
    """Where a frame may differ from the one before and still be read as its repetition: the places in its body.

    The value at the first place is the frame's only text, and whatever this value is, it becomes a piece of the same
    part. `echo` is the key of the log probabilities that follow the text, empty if there are none.
    """

    places: tuple[Steps, ...]
    echo: str = ""


class _Gap(NamedTuple):
    """A value in the JSON text, without its opening quote: the next piece of the text begins at `stop`."""

    start: int
    stop: int
    is_string: bool
    number: int  # its place among the gaps as they were asked for


class Pattern:
    """The JSON text of a frame with gaps."""

    def __init__(self, text: str, gaps: Sequence[_Gap]) -> None:
        self._first = text[: gaps[0].start]
        self._begin = len(self._first)
        ends = [*(gap.start for gap in gaps[1:]), len(text)]
        self._gaps = [(gap.is_string, text[gap.stop : end]) for gap, end in zip(gaps, ends, strict=True)]
        behind = [f'"{piece}' if is_string else piece for is_string, piece in self._gaps]
        self.pieces = [piece.encode() for piece in (self._first, *behind)]
        """What stands around the gaps, with the quotes of strings."""
        self.numbers = [place for place, gap in enumerate(gaps) if not gap.is_string]
        """The gaps that have whole numbers."""
        self._order = [place for _, place in sorted((gap.number, place) for place, gap in enumerate(gaps))]

    def values(self, text: str) -> list[Any] | None:
        """Return the values in the gaps of a frame; None if it does not fit, or is no JSON that `read_json` accepts."""
        if not text.startswith(self._first):
            return None
        found: list[Any] = []
        place = self._begin
        for is_string, piece in self._gaps:
            if is_string:
                try:
                    value, place = scanstring(text, place)
                except ValueError:
                    return None
                if not value.isascii() and _SURROGATE.search(value):
                    return None
            else:
                digits = _NUMBER.match(text, place)
                if digits is None:
                    return None
                value, place = int(digits.group()), digits.end()
            if not text.startswith(piece, place):
                return None
            found.append(value)
            place += len(piece)
        return [found[number] for number in self._order] if place == len(text) else None

    def rows(self, columns: Sequence[Sequence[str]]) -> list[tuple[Any, ...]]:
        """Return the values of each frame, as `values` does, from those of each gap for all frames."""
        values = [[*map(int, column)] if place in self.numbers else column for place, column in enumerate(columns)]
        return [*zip(*(values[place] for place in self._order), strict=True)] if values else []


def pattern_of(data: bytes, body: Mapping[str, Any], places: Sequence[Steps]) -> Pattern | None:
    """Return the pattern of a frame with gaps at these places of its `body`, which was read from `data`.

    None if a value is neither a string nor a small whole number, or if it is not found in the JSON text: a string may
    be written in many ways.
    """
    if len(data) > _MOST:
        return None
    text = data.decode()
    gaps = [_gap(text, place, value_at(body, place), number) for number, place in enumerate(places)]
    found = sorted(gap for gap in gaps if gap is not None)
    return Pattern(text, found) if len(found) == len(places) else None


def _gap(text: str, place: Steps, value: Any, number: int) -> _Gap | None:
    """Find the value at a place, behind its key: where another value must be written so that it stands at the place."""
    is_string = isinstance(value, str)
    if not is_string and (type(value) is not int or value < 0):
        return None
    other: str | int = "\0" if is_string else _OTHER
    written = {json.dumps(value), json.dumps(value, ensure_ascii=False)}
    keys = re.finditer(re.escape(json.dumps(place[-1])) + r"[ \t\r\n]*:[ \t\r\n]*", text)
    for start in islice((key.end() for key in keys), _TRIED):
        for value_text in written:
            stop = start + len(value_text)
            if text.startswith(value_text, start) and _is_at(
                f"{text[:start]}{json.dumps(other)}{text[stop:]}", place, other
            ):
                return _Gap(start + is_string, stop, is_string, number)
    return None


def _is_at(text: str, place: Steps, value: str | int) -> bool:
    try:
        return bool(value_at(json.loads(text), place) == value)
    except (ValueError, LookupError, TypeError):
        return False


def value_at(body: Any, place: Steps) -> Any:
    """Return the value at a place of a body. Raises KeyError, IndexError or TypeError if there is none."""
    for step in place:
        body = body[step]
    return body


def with_value(body: Any, place: Steps, value: Any) -> Any:
    """Return a body with another value at a place; what lies beside the way to it is shared with `body`."""
    if not place:
        return value
    copy = body.copy()
    copy[place[0]] = with_value(body[place[0]], place[1:], value)
    return copy
