"""Frames of a stream that repeat an earlier frame in everything but a few values: they are read without parsing. Pure.

Nearly all frames of a stream differ from the one before in their text alone. A `Pattern` is the JSON text of a frame
with gaps where these values stand. A frame that fits it is the same JSON with other values there: what is between the
gaps is compared character by character, and a string in a gap is read by the JSON parser's own function for strings.
"""

import json
import re
from collections.abc import Sequence
from json.decoder import scanstring
from typing import Any, NamedTuple

Steps = tuple[str | int, ...]
"""The keys and indices that lead to a value of a body."""

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?<![\w.+-])\d{1,15}(?![\w.])')
_NUMBER = re.compile(r"(?:0|[1-9]\d{0,14})(?![\d.eE])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST = 16_384  # bytes of a frame
_TRIED = 8  # places of a value in the JSON text that are tried


class _Gap(NamedTuple):
    """A value in the JSON text, without its opening quote: the next piece of the text begins at `stop`."""

    start: int
    stop: int
    is_string: bool
    number: int  # its place among the gaps as they were asked for


class Pattern:
    """The JSON text of a frame with gaps."""

    def __init__(self, text: str, gaps: Sequence[_Gap]) -> None:
        self._first, self._last = text[: gaps[0].start], text[gaps[-1].stop :]
        ends = [*(gap.start for gap in gaps[1:]), len(text)]
        self._gaps = [(gap.is_string, text[gap.stop : end]) for gap, end in zip(gaps, ends, strict=True)]
        self._order = [gap.number for gap in gaps]

    def values(self, text: str) -> list[Any] | None:
        """Return the values in the gaps of a frame; None if it does not fit, or is no JSON that `read_json` accepts."""
        if not text.startswith(self._first) or not text.endswith(self._last):
            return None
        found: list[Any] = []
        place = len(self._first)
        value: str | int
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
        if place != len(text):
            return None
        return found if len(found) == 1 else [found[self._order.index(number)] for number in range(len(found))]


def pattern_of(data: bytes, places: Sequence[Steps]) -> Pattern | None:
    """Return the pattern of a frame, which is valid JSON, with gaps at these places.

    None if a value is neither a string nor a small whole number, or if it is not found in the JSON text.
    """
    if len(data) > _MOST:
        return None
    text = data.decode()
    body = json.loads(text)
    gaps = [_gap(text, place, value_at(body, place), number) for number, place in enumerate(places)]
    found = sorted(gap for gap in gaps if gap is not None)
    return Pattern(text, found) if len(found) == len(places) else None


def _gap(text: str, place: Steps, value: Any, number: int) -> _Gap | None:
    """Find the token at a place: what stands at the place once another value is put there."""
    is_string = isinstance(value, str)
    if not is_string and (type(value) is not int or value < 0):
        return None
    other = "\0" if value != "\0" else ""
    written = json.dumps(other)
    same = (match for match in _TOKEN.finditer(text) if json.loads(match.group()) == value)
    for match, _ in zip(same, range(_TRIED), strict=False):
        start, stop = match.span()
        changed = json.loads(f"{text[:start]}{written}{text[stop:]}")
        try:
            if value_at(changed, place) == other:
                return _Gap(start + is_string, stop, is_string, number)
        except (KeyError, TypeError):
            continue  # it was the key of an object
    return None


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
