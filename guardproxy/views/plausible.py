"""Measure how much a text resembles words, and decide whether bytes are text. Pure."""

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar, TypeVarTuple

# The most frequent letter pairs of English: about four in five pairs of English text, one in five of random text.
_COMMON_PAIRS = """
th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic ne
ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so rs un lo wa
ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia am fi ci vi pl ig tu ev ld ry mp
fe bl ab gh ty op wo sa ay ex ke ui bo ki do ck pi ip
"""
_COMMON = frozenset(_COMMON_PAIRS.split())


@lru_cache(maxsize=8192)
def pairs(word: str) -> tuple[int, int]:
    """Return the number of common letter pairs of a lower-case word, and the number of all its pairs."""
    return sum(a + b in _COMMON for a, b in pairwise(word)), max(0, len(word) - 1)


_REMEMBERED = 256  # characters: longer texts are seldom read twice, and would take much memory
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


def remembered(function: Callable[[str, *Ts], R]) -> Callable[[str, *Ts], R]:
    """Keep what a pure function returned for short texts: every check of a growing reply reads its words again."""
    kept: Callable[[str, *Ts], R] = lru_cache(maxsize=4096)(function)  # type: ignore[assignment]  # takes any values

    def call(text: str, *args: *Ts) -> R:
        return kept(text, *args) if len(text) <= _REMEMBERED else function(text, *args)

    return call


WORD = re.compile(r"[A-Za-z]+")
_SOLID = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")


def pairs_of(text: str) -> tuple[int, int]:
    """Return the number of common letter pairs in the words of a text, and the number of their pairs."""
    counts = [pairs(word) for word in WORD.findall(text.lower())]
    return sum(common for common, _ in counts), sum(count for _, count in counts)


def worded(text: str) -> bool:
    """Whether at least 40 % of the letter pairs in `text` are common in English."""
    common, count = pairs_of(text)
    return 5 * common >= 2 * count > 0


_ESCAPE = re.compile(
    r"&#[xX]?[0-9A-Fa-f]{1,7};|%[0-9A-Fa-f]{2}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[ux]\{[0-9A-Fa-f]{1,6}\}|=[0-9A-F]{2}"
)
_ENCODED = re.compile(rf"{_ESCAPE.pattern}|(?:[0-9A-Fa-f]{{2}}){{4,}}")


# Numbers and Morse code, which may be characters.
CODED = re.compile(
    r"(?:[01]{5,8}[ ,]{1,2}){6,}|(?<![0-9])[01]{48,}|(?<![0-9])(?:[0-9]{2,3}[ ,]{1,2}){8,}|(?:[.-]{1,6}[ /]{1,3}){8,}"
)
_SURELY_TEXT = 24  # bytes


def encoded(text: str) -> bool:
    """Whether at least half of a text, and eight characters, are escapes or runs of hex digits."""
    encoded = sum(len(match.group()) for match in _ENCODED.finditer(text))
    return 2 * encoded >= max(16, len("".join(text.split())))


_NO_CHARACTER = "\ufffd"  # what a decoder puts in the place of a byte that is no text
_LONG_RUN = re.compile(r"[0-9A-Za-z+/_-]{20,}")  # may be an encoding
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def words_among(data: bytes) -> str | None:
    """Return the words, or an encoding, among bytes of which some are no text; None if all of them are data.

    Spaces take the place of the bytes that are no text. At most a quarter of the characters may be such, 40 % of 48
    characters or more: of random bytes, nearly two thirds are no printable ASCII. Less than 16 characters are too few.
    """
    text = data.decode(errors="replace")
    most = len(text) * (4 if len(text) >= 48 else 2.5) / 10
    if len(text) < 16 or text.count(_NO_CHARACTER) > most:
        return None
    spaced, controls = _CONTROL.subn(" ", text)
    if controls + text.count(_NO_CHARACTER) > most:
        return None
    spaced = spaced.replace(_NO_CHARACTER, " ")
    is_worded = worded(spaced) and 2 * len(_LETTER.findall(spaced)) >= len(text)
    return spaced if is_worded or _LONG_RUN.search(spaced) else None


def decoded(data: bytes) -> str | None:
    """Return `data` as text if it is printable UTF-8 that other bytes are not by chance.

    That is ASCII from _SURELY_TEXT bytes on; else text that is mostly letters or digits and a quarter letters, or text
    that is `encoded`. NUL bytes, which UTF-16 has between letters, do not count.
    """
    data = data.replace(b"\0", b"")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    solid = "".join(text.split())
    if len(data) < 4 or not solid.isprintable() or (len(data) < 12 and not text.isascii()):
        return None
    if len(data) >= _SURELY_TEXT and text.isascii():
        return text
    wordy = 5 * len(_SOLID.findall(solid)) >= 3 * len(solid) and 4 * len(_LETTER.findall(solid)) >= len(solid)
    return text if wordy or encoded(text) else None


_HEX_RUN = re.compile(r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2}){8,}(?![0-9A-Za-z])")
_BASE64_RUN = re.compile(r"(?=\S*[0-9])(?=\S*[A-Z])(?=\S*[a-z])[A-Za-z0-9+/_-]{16,}")


def holds_encoding(text: str) -> bool:
    """Whether a text contains three escapes, text in hex digits, or sixteen characters of base64 in a row."""
    if len(_ESCAPE.findall(text)) >= 3 or any(_BASE64_RUN.match(word) for word in text.split()):
        return True
    return any(decoded(bytes.fromhex(digits)) for digits in _HEX_RUN.findall(text))
