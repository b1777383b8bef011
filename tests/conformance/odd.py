"""Harmless exchanges in JSON that no serialiser would write: a proxy that parses and writes them again changes them."""

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

_ALPHABETS = (
    "abcdefghij KLMNOP.,!? '-",
    "äöüßéñçøåÆŁ „“«»",
    "жизнь море ИЙ",
    "海辺の潮　満ちる",
    "שלום مرحبا",
    '🌊🐚👩‍🚀 e\u0301 \u200b\u2028\u00a0\ufeff"\\/\t\n\r\b\f\x00\x7f',
)
# Numbers in forms that a parser does not keep.
_NUMBERS = ("0", "-0", "1.50", "1e3", "1E+2", "-0.0", "2.5e-7", "12345678901234567890", "0.1000")
_SPACES = ("", "", "", " ", "  ", "\t")
_BREAKS = ("", "", " ", "\n", "\r\n  ")
# Values of an unknown field that are no text.
_HARMLESS = ("true", "false", "null", '"v1.2"', '"on"', "[]", "{}", '{"a":1.0,"b":[true]}', "[1.5, 2e0]", *_NUMBERS)


def text(rng: random.Random) -> str:
    """Return a few words of some alphabet with odd characters among them; never blank."""
    letters = rng.choice(_ALPHABETS)
    return "w" + "".join(rng.choice(letters) for _ in range(rng.randint(0, 40)))


class Odd:
    """Writes JSON with keys in any order, unknown fields, escapes, spaces and odd numbers.

    With `lines`, line breaks may stand between tokens.
    """

    def __init__(self, rng: random.Random, *, lines: bool = False) -> None:
        self._rng = rng
        self._spaces = _BREAKS if lines else _SPACES

    def __call__(self, value: Any) -> bytes:
        """Return the JSON text of a value."""
        return self._value(value).encode()

    def _value(self, value: Any) -> str:
        if isinstance(value, dict):
            return self._object(value)
        if isinstance(value, list):
            return self._joined("[", [self._value(item) for item in value], "]")
        if isinstance(value, str):
            return self._string(value)
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return str(value)

    def _object(self, value: dict[str, Any]) -> str:
        members = [self._member(key, self._value(item)) for key, item in value.items()]
        if self._rng.random() < 0.4:
            members.append(self._member(f"x_{self._rng.randint(0, 99)}", self._rng.choice(_HARMLESS)))
        self._rng.shuffle(members)
        return self._joined("{", members, "}")

    def _member(self, key: str, value: str) -> str:
        return f'"{key}"{self._space()}:{self._space()}{value}'

    def _joined(self, start: str, items: Sequence[str], end: str) -> str:
        between = f"{self._space()},{self._space()}"
        return f"{start}{self._space()}{between.join(items)}{self._space()}{end}"

    def _space(self) -> str:
        return self._rng.choice(self._spaces)

    def _string(self, value: str) -> str:
        return '"' + "".join(self._character(char) for char in value) + '"'

    def _character(self, char: str) -> str:
        if char < " " or char in '"\\' or self._rng.random() < 0.1:
            units = char.encode("utf-16-be").hex()
            escape = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
            return escape.upper().replace("\\U", "\\u") if self._rng.random() < 0.5 else escape
        return "\\/" if char == "/" else char


def several_lines(dump: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return JSON in several `data:` lines of an event, if `dump` has put line breaks into it."""
    return lambda value: b"\ndata: ".join(dump(value).splitlines())


def frame(rng: random.Random, raw: bytes) -> bytes:
    """Return an event in another form: line ends, no space behind the colon, more fields and comments."""
    if rng.random() < 0.3:
        raw = raw.replace(b"data: ", b"data:")
    if rng.random() < 0.3:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if rng.random() < 0.2:
        raw = rng.choice((b": keep-alive\n\n", b":\r\n", b"id: 7\n", b"retry: 100\n", b"\n", b"\r\n\r\n")) + raw
    return raw


def as_it_leaves(stream: bytes) -> bytes:
    """Return a stream as the proxy forwards it: without comments inside events, every event's data in one line."""
    out = re.sub(rb"(?:^|(?<=\n)):\r\n(?=[a-z])", b"", stream)
    while (joined := re.sub(rb"(?m)^data: ?([^\r\n]*)\r?\ndata: ?", rb"data: \1 ", out)) != out:
        out = joined
    for char in "\x85\u2028\u2029":
        out = out.replace(char.encode(), f"\\u{ord(char):04x}".encode())
    return out


def split(rng: random.Random, raw: bytes) -> list[bytes]:
    """Cut bytes into pieces of any size."""
    cuts = sorted(rng.randint(0, len(raw)) for _ in range(rng.randint(0, 12)))
    places = [0, *cuts, len(raw)]
    return [raw[start:end] for start, end in pairwise(places) if start < end]
