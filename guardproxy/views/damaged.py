"""Encodings of a text with a few bytes that are no text, which a reader skips. Pure.

They are undone last, if a round of exact decodings finds nothing else: elsewhere, bytes that are no text show that a
run is no encoding, or that words stand before it.
"""

import base64
import re

from guardproxy.views.plausible import decoded, words_among
from guardproxy.views.seals import Seals

_ALPHABET = "0-9A-Za-z+/_-"
_BYTE = r"(?:%|\\x|0x|=)[0-9A-Fa-f]{2}"
_RUN = re.compile(
    rf"(?P<bytes>{_BYTE}(?:[ ,]{{0,2}}{_BYTE}){{15,}})"
    rf"|(?<![{_ALPHABET}])[{_ALPHABET}]{{24,}}={{0,6}}(?![{_ALPHABET}])"
)
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_BASE32 = re.compile(r"[A-Za-z2-7]+=*")
_MARKS = re.compile(r"\\x|0x|[%=, ]")


def undamaged(text: str, seals: Seals) -> str:
    """Decode runs of base64, base32, hex digits and escaped bytes that are words but for a few bytes."""

    def words(match: re.Match[str]) -> str:
        run = match.group()
        for data in [bytes.fromhex(_MARKS.sub("", run))] if match["bytes"] else _readings(run):
            if decoded(data) is None and (found := words_among(data)) is not None:
                return seals.around_run(run, found)
        return run

    return _RUN.sub(words, text)


def _readings(run: str) -> list[bytes]:
    """The bytes of a run in each encoding whose digits it has, the smallest alphabet first."""
    bare = run.rstrip("=")
    found = [bytes.fromhex(bare)] if _HEX.fullmatch(bare) else []
    if _BASE32.fullmatch(bare) and len(bare) % 8 not in (1, 3, 6):
        found.append(base64.b32decode(bare + "=" * (-len(bare) % 8), casefold=True))
    if len(bare) % 4 != 1:
        found.append(base64.b64decode(bare.replace("-", "+").replace("_", "/") + "=" * (-len(bare) % 4)))
    return found
