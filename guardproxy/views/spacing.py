"""Undo letters that are written apart: `b o m b`, `b.o.m.b`, one letter per line. Pure, time linear in the text."""

import re
from collections import Counter
from functools import cache, lru_cache
from itertools import groupby, pairwise

from guardproxy.views.decoding import EXACT
from guardproxy.views.plausible import pairs
from guardproxy.views.seals import Seals

_SPACED = re.compile(r"(?<!\S)[^\W_](?: [^\W_](?!\S))++")
_DOTTED = re.compile(r"(?<![^\W_])[^\W_](?P<by>[.\-_*·~'`,/\\|+])[^\W_](?![^\W_])(?:(?P=by)[^\W_](?![^\W_]))*+")
# At least four single letters or digits, with up to eight characters of white space and signs between two of them.
_SIGNS = r"[\s.\-_*·~'`,/\\|+]"
_APART = re.compile(rf"(?<![^\W_])[^\W_](?:{_SIGNS}{{1,8}}+[^\W_](?![^\W_])){{3,}}+")
# Single characters of any kind, which together may be an encoding: `& # 9 8 ;`.
_SINGLES = re.compile(r"(?<![^\s\"'(])\S(?:\s{1,8}+\S(?!\S)){11,}+(?:\s{1,8}+\S(?=[.,:!?\"')]))?")
# Every match of the patterns contains a match of this pattern, which ordinary text seldom has.
_LONE_PAIR = re.compile(rf"(?<![^\W_])[^\W_]{_SIGNS}{{1,8}}+[^\W_](?![^\W_])")
_MOST = 32  # characters of a group of an encoding
_GROUPS = 3  # of equal length, at least
# An encoding has digits in words, or capitals behind small letters or digits.
_ODD = re.compile("[a-z0-9][A-Z]|[A-Za-z][0-9]|[0-9][a-z]")
ODD_PLACES = 4  # that an encoding of a few words has
_WORDS_BEFORE = 4  # words of the same length that may stand before an encoding
_WHITE = re.compile(r"\s+")
_GAP = re.compile(rf"{_SIGNS}+")
_LONG = 12  # characters that are too many for the columns of a table or the names in a formula


def unspaced(text: str) -> str:
    """Join words and encodings that are written character by character; wider gaps separate words."""
    if odd_places(text) >= ODD_PLACES:
        text = ungrouped(text)
    if not _LONE_PAIR.search(text):
        return text
    text = _SINGLES.sub(_encoding, text)
    if any(_is_hidden(match.group()) for match in _APART.finditer(text)):
        text = _APART.sub(_words, text)
    if not any(_is_word(match) for pattern in (_SPACED, _DOTTED) for match in pattern.finditer(text)):
        return text
    text = _DOTTED.sub(_together, text)
    return re.sub(r" {2,}", " ", _SPACED.sub(_together, text))


@lru_cache(maxsize=1)
def odd_places(text: str) -> int:
    """Return how many places of a text look like an encoding. The last result is kept: a growing text asks twice."""
    return len(_ODD.findall(text))


def ungrouped(text: str) -> str:
    """Join encodings that are written in groups of one length."""
    for size in _sizes(text):
        text = _grouped(size).sub(_ungrouped, text)
    return text


def _sizes(text: str) -> list[int]:
    """Return the lengths that several words in a row have."""
    runs = groupby(map(len, text.split()))
    return sorted({size for size, run in runs if 2 <= size <= _MOST and sum(1 for _ in run) >= _GROUPS})


@cache
def _grouped(size: int) -> re.Pattern[str]:
    """Return the pattern of an encoding in groups of a length. The last group may be shorter."""
    group, last = rf"[A-Za-z0-9+/]{{{size}}}", rf"[A-Za-z0-9+/]{{0,{size}}}+={{0,6}}"
    return re.compile(rf"(?<![!-~])(?:{group}\s){{{_GROUPS},}}+(?:{last}(?![^\s.,!?\"')\]]))?")


def _ungrouped(match: re.Match[str]) -> str:
    """Join the groups of a run if together they encode a text; words before them stay."""
    groups = match.group().split()
    for first in range(min(_WORDS_BEFORE, len(groups) - 3)):
        joined = "".join(groups[first:])
        if _is_encoding(joined):
            return " ".join([*groups[:first], joined]) + match.group()[len(match.group().rstrip()) :]
    return match.group()


def _is_encoding(text: str) -> bool:
    return any(decode(text, Seals()) != text for _, decode in EXACT)


def _encoding(match: re.Match[str]) -> str:
    """Join a run of single characters if an encoding is among them."""
    run = match.group()
    joined = _joined(run, _WHITE)
    return joined if _is_encoding(joined) else run


def _is_word(match: re.Match[str]) -> bool:
    """Whether the spaced letters may be a word: at least four characters and three different letters."""
    spaced = match.group()
    return len(spaced) >= 7 and len({char for char in spaced[:80] if char.isalpha()}) >= 3


def _together(match: re.Match[str]) -> str:
    word = match.group()[::2]
    return match.group() if word.isdigit() else word


def _is_hidden(apart: str) -> bool:
    """Whether single letters between any gaps are a text, and not the cells of a table, a list or a formula.

    Letters in the order of the alphabet are no text. Short runs must have the letter pairs of English; long ones must
    be mostly letters, because another language or an encoding may be in them.
    """
    letters = [char for char in _GAP.sub("", apart[:2000]).lower() if char.isalpha()]
    if len(set(letters)) < 3:
        return False
    common, count = pairs("".join(letters)) if len(letters) >= 4 else (0, 1)
    if 2 * sum(ord(second) - ord(first) == 1 for first, second in pairwise(letters)) >= count:
        return False
    if 2 * common >= count:
        return True
    solid = len(_GAP.sub("", apart[:2000]))
    return len(letters) >= _LONG and len(set(letters)) >= 6 and 2 * len(letters) > solid


def _words(match: re.Match[str]) -> str:
    return _joined(match.group(), _GAP) if _is_hidden(match.group()) else match.group()


def _joined(run: str, gap: re.Pattern[str]) -> str:
    """Join the characters of a run.

    If two thirds of the gaps are equal, all others are between words, or signs of the text. Otherwise the longest four
    in ten are between words, if they are longer than the rest; in a short run, gaps of over twice the shortest length.
    """
    gaps = gap.findall(run)
    usual, times = Counter(gaps).most_common(1)[0]
    if 3 * times >= 2 * len(gaps):
        return gap.sub(lambda match: _between(match.group(), usual), run)
    lengths = sorted(map(len, gaps))
    within = max(lengths[6 * len(gaps) // 10], 2 * lengths[0] if len(gaps) < _LONG else 0)
    return gap.sub(lambda match: "" if len(match.group()) <= within else " ", run)


def _between(gap: str, usual: str) -> str:
    """Return what a gap stands for in a run whose letters are apart by `usual`: nothing, its own signs, or a space."""
    if gap == usual:
        return ""
    return (gap.replace(usual, "") or " ") if usual.isspace() else gap
