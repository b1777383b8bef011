"""Decode runs of letters and signs that are the digits of bytes: base64, base32, base58, base85. Pure.

Bytes count as decoded only if they are text, which random bytes are not: words, hashes and keys stay as they are.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator

from guardproxy.views.plausible import decoded, encoded, remembered, worded
from guardproxy.views.seals import Seals

BASE64 = re.compile(
    r"(?<![\w+/-])(?=[A-Za-z0-9+/_-]{12}|[A-Za-z0-9+/_-]{6,11}=)"
    r"(?:[A-Za-z0-9+/]{40,}+\r?\n(?=[A-Za-z0-9+/]))*+[A-Za-z0-9+/_-]++={0,2}"
)
# Letters of one case: a run of both is no base32.
_BASE32 = re.compile(
    r"(?<![0-9A-Za-z])(?=[A-Za-z2-7]{16}|[A-Za-z2-7]{8,15}=)"
    r"(?:(?:[A-Z2-7]{40,}+\r?\n(?=[A-Z2-7]))*+[A-Z2-7]++|(?:[a-z2-7]{40,}+\r?\n(?=[a-z2-7]))*+[a-z2-7]++)"
    r"(?![0-9A-Za-z])={0,6}"
)
_BASE58 = re.compile(r"(?<![0-9A-Za-z])[1-9A-HJ-NP-Za-km-z]{16,}+(?![0-9A-Za-z])")
_DIGITS58 = {char: place for place, char in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_MOST58 = 4096  # the time to convert a number grows with the square of its length
_BRACKETED85 = re.compile(r"<~[!-uz\s]*+~>")
_BASE85 = re.compile(r"(?<![!-~])[!-~]{20,}+")
_ZEROMQ = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_RFC1924 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_FROM_ZEROMQ = str.maketrans(_ZEROMQ, _RFC1924)
_READERS85: tuple[Callable[[str], bytes], ...] = (
    base64.a85decode,
    base64.b85decode,
    lambda run: base64.b85decode(run.translate(_FROM_ZEROMQ)),
)
_SIGNS_BEFORE, _SIGNS_BEHIND = "\"'`([{<:=", "\"'`)]}>.,:;!?"
_FIRST = 40  # characters of base85 that show whether the rest is worth the time
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
LONG_WORD = 16
_TOKEN = re.compile(rf"(?<![!-~])[!-~]{{{LONG_WORD},}}+")
_UU = re.compile(r"^begin [0-7]{3,4} [^\n]*\n((?:[!-M][ -`]{1,61}\r?\n?)++)(?:[ `]?\r?\n?end)?", re.MULTILINE)


def unbase64(text: str, seals: Seals) -> str:
    """Decode base64 in both alphabets, in one line or in lines."""
    return BASE64.sub(lambda match: base64_text(match.group(), seals), text)


def base64_text(encoded: str, seals: Seals) -> str:
    """Return what a match of BASE64 encodes, or the match itself."""
    return _lines_text(encoded, _from_base64, seals)


def _lines_text(encoded: str, decode: Callable[[str], str | None], seals: Seals) -> str:
    """Decode the lines of a run together, or each line by itself if they encode no text together or are sealed."""
    whole = decode("".join(encoded.split()))
    if "\n" in encoded and (whole is None or seals.run):
        lines = [(line, decode(line.strip())) for line in encoded.splitlines(keepends=True)]
        if whole is None or all(text is not None for _, text in lines):
            return "".join(line if text is None else seals.around_run(line, text) for line, text in lines)
    return encoded if whole is None else seals.around_run(encoded, whole)


@remembered
def _from_base64(encoded: str) -> str | None:
    bare = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1 or (len(bare) < 12 and bare == encoded):
        return None
    try:
        text = decoded(base64.b64decode(bare + "=" * (-len(bare) % 4)))
    except (binascii.Error, ValueError):
        return None
    # A short word can be valid base64 by chance, so its decoding must contain words.
    return text if text is None or len(bare) >= 24 or worded(text) else None


def has_long_word(text: str) -> bool:
    """Whether a text has a word of LONG_WORD characters, without which nothing is encoded but in base64."""
    return max(map(len, text.split()), default=0) >= LONG_WORD


def unbase32(text: str, seals: Seals) -> str:
    """Decode base32, in capitals or small letters, in one line or in lines."""
    return _BASE32.sub(lambda match: _lines_text(match.group(), _from_base32, seals), text)


@remembered
def _from_base32(encoded: str) -> str | None:
    bare = encoded.rstrip("=")
    try:
        text = decoded(base64.b32decode(bare + "=" * (-len(bare) % 8), casefold=True))
    except (binascii.Error, ValueError):
        return None
    return text if text is None or len(bare) >= 32 or worded(text) else None


def unbase58(text: str, seals: Seals) -> str:
    """Decode base58 of up to _MOST58 digits."""
    return _BASE58.sub(lambda match: seals.around_run(match.group(), _base58_text(match.group())), text)


@remembered
def _base58_text(run: str) -> str:
    if len(run) > _MOST58:
        return run
    number = 0
    for char in run:
        number = number * 58 + _DIGITS58[char]
    text = decoded(number.to_bytes((number.bit_length() + 7) // 8))
    return text if text is not None and (len(run) >= 32 or worded(text)) else run


def unbase85(text: str, seals: Seals) -> str:
    """Decode base85: Ascii85, with or without its brackets, and the alphabets of RFC 1924 and of ZeroMQ."""
    text = _BRACKETED85.sub(lambda match: seals.around_run(match.group(), _bracketed_text(match.group())), text)
    return _BASE85.sub(lambda match: _base85_text(match.group(), seals), text)


def _bracketed_text(run: str) -> str:
    return _from_base85(base64.a85decode, run[2:-2]) or run


@remembered
def _base85_text(run: str, seals: Seals) -> str:
    """Return what a run encodes; quotation marks, brackets and the end of a sentence around it stay."""
    for start, stop in _within(run):
        for read in _READERS85:
            text = _from_base85(read, run[start:stop])
            if text is not None:
                return run[:start] + seals.around_run(run, text) + run[stop:]
    return run


def _within(run: str) -> Iterator[tuple[int, int]]:
    """Yield the bounds of a run with and without up to two signs before it, and four behind it, that prose may have."""
    before = len(run) - len(run.lstrip(_SIGNS_BEFORE))
    behind = len(run) - len(run.rstrip(_SIGNS_BEHIND))
    for start in range(min(before, 2) + 1):
        for stop in range(len(run), len(run) - min(behind, 4) - 1, -1):
            if stop - start >= LONG_WORD:
                yield start, stop


def _from_base85(read: Callable[[str], bytes], run: str) -> str | None:
    try:
        if _CONTROL.search(read(run[:_FIRST])):
            return None
        text = decoded(read(run))
    except (ValueError, UnicodeEncodeError):
        return None
    return text if text is not None and (len(run) >= 30 or worded(text)) else None


def unturned(text: str, seals: Seals) -> str:
    """Turn words around that are an encoding backwards."""
    return _TOKEN.sub(lambda match: seals.around_run(match.group(), _turned(match.group())), text)


@remembered
def _turned(run: str) -> str:
    turned = run[::-1]
    if encoded(turned) and not encoded(run):
        return turned
    readers = (unbase64, unbase32, unbase58, unbase85)
    return turned if any(read(turned, Seals()) != turned for read in readers) else run


def unuu(text: str, seals: Seals) -> str:
    """Decode uuencoded lines below their header."""
    if "begin " not in text:
        return text
    return _UU.sub(lambda match: seals.around_run(match.group(), _uu_text(match.group(1)) or match.group()), text)


def _uu_text(lines: str) -> str | None:
    try:
        return decoded(b"".join(map(binascii.a2b_uu, lines.splitlines())))
    except binascii.Error:
        return None
