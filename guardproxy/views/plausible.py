"""Measure how much a text resembles words, and decide whether bytes are text. Pure."""

import re
from functools import lru_cache
from itertools import pairwise

# The most frequent letter pairs of English: about three in four pairs of English text, one in seven of random text.
_COMMON = frozenset(
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro "  # noqa: SIM905
    "ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so "
    "rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia am fi ci vi pl "
    "ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke ui bo ki do ck pi ip".split()
)


@lru_cache(maxsize=8192)
def pairs(word: str) -> tuple[int, int]:
    """Return the number of common letter pairs of a lower-case word, and the number of all its pairs."""
    return sum(a + b in _COMMON for a, b in pairwise(word)), max(0, len(word) - 1)


WORD = re.compile(r"[A-Za-z]+")
_SOLID = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")


def worded(text: str) -> bool:
    """Whether at least 40 % of the letter pairs in `text` are common in English."""
    counts = [pairs(word.lower()) for word in WORD.findall(text)]
    return 5 * sum(common for common, _ in counts) >= 2 * sum(count for _, count in counts) > 0


def decoded(data: bytes) -> str | None:
    """Return `data` as text if it is printable UTF-8, mostly letters or digits, and at least a quarter letters."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    solid = "".join(text.split())
    if len(data) < 4 or not solid.isprintable() or (len(data) < 12 and not text.isascii()):
        return None
    return (
        text
        if 5 * len(_SOLID.findall(solid)) >= 3 * len(solid) and 4 * len(_LETTER.findall(solid)) >= len(solid)
        else None
    )
