"""Words and phrases, listed as they are or by their hashes, as a text has them: in any case, behind any signs. Pure."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import regex

from guardproxy.patterns import LONGEST_WORD, UNSPACED, WORD, Reach
from guardproxy.types import Span

_SHA256 = re.compile(r"[0-9a-f]{64}")
# What is listed with such letters is found anywhere in a run of them.
_UNSPACED: Final[Any] = regex.compile(rf"[{UNSPACED}]")
_MOST_WORDS = 20
# Divides an ASCII text into words faster than an expression does.
_SPACED: Final = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


class Phrases:
    """Finds the phrases of several categories by their words."""

    def __init__(self) -> None:
        self._plain: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        self._sizes: defaultdict[str, set[int]] = defaultdict(set)  # of the phrases with a first word
        self._hashed: defaultdict[bytes, list[str]] = defaultdict(list)
        self._words: defaultdict[str, int] = defaultdict(int)  # the most words of a phrase, by category
        self._most_hashed = 0

    @staticmethod
    def without_spaces(phrase: str) -> bool:
        """Whether a phrase is in a script whose words have no spaces between them."""
        return _UNSPACED.search(phrase) is not None

    def add(self, phrase: str, category: str) -> str:
        """Add a phrase; return its mistake, empty if there is none."""
        text = phrase.strip()
        spans = [match.span() for match in WORD.finditer(text)]
        if not spans or spans[0][0] > 0 or spans[-1][1] < len(text):
            return f"{phrase!r} must begin and end with a letter or digit; write it as an expression under regexes"
        if len(spans) > _MOST_WORDS:
            return f"{phrase!r} has more than {_MOST_WORDS} words; write a part of it"
        if any(end - start > LONGEST_WORD for start, end in spans):
            return f"has a word of more than {LONGEST_WORD} characters; write an expression under regexes"
        words = tuple([_key(text[start:end]) for start, end in spans])
        self._plain[words].append(category)
        self._sizes[words[0]].add(len(words))
        self._words[category] = max(self._words[category], len(spans))
        return ""

    def add_hash(self, digest: str, category: str, words: int) -> str:
        """Add the hash of a phrase of at most `words` words; return its mistake, empty if there is none."""
        if not _SHA256.fullmatch(digest):
            return "must be a SHA-256 in 64 lower-case hex digits"
        self._hashed[bytes.fromhex(digest)].append(category)
        self._words[category] = max(self._words[category], words)
        self._most_hashed = max(self._most_hashed, words)
        return ""

    def reach(self, category: str) -> Reach:
        """How far back from the end of a growing text a phrase of the category may begin that is not whole yet."""
        return Reach(words=self._words.get(category, 0))

    def find(self, text: str, unfinished: bool) -> Iterator[tuple[Span, str, str]]:
        """The place, the category and the label of every phrase. In an `unfinished` text as `PatternFamily.hits`."""
        if not self._words or self._has_none(text):
            return
        words = [(_key(match.group()), *match.span()) for match in WORD.finditer(text)]
        if unfinished and words and words[-1][2] == len(text):
            words.pop()  # may go on
        for place, (key, start, _) in enumerate(words):
            for size in self._sizes.get(key, ()):
                phrase = words[place : place + size]
                for category in self._plain.get(tuple([word for word, _, _ in phrase]), ()):
                    yield (start, phrase[-1][2]), category, "words"
            if self._hashed:
                yield from self._of_hashes(words, place)

    def _of_hashes(self, words: list[tuple[str, int, int]], place: int) -> Iterator[tuple[Span, str, str]]:
        phrase = ""
        for key, _, end in words[place : place + self._most_hashed]:
            if not key:
                return
            phrase = f"{phrase} {key}" if phrase else key
            for category in self._hashed.get(_digest(phrase), ()):
                yield (words[place][1], end), category, "sha256"

    def _has_none(self, text: str) -> bool:
        """Whether it is certain that no phrase is in the text, at little cost."""
        if self._hashed:
            return False
        if text.isascii():
            return self._sizes.keys().isdisjoint(text.lower().translate(_SPACED).split())
        return self._sizes.keys().isdisjoint(map(_key, WORD.findall(text)))


def _key(word: str) -> str:
    """What spellings of a word have in common: NFKC, without case; empty for a word that is too long for a list."""
    if len(word) > LONGEST_WORD:
        return ""
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())


def _digest(phrase: str) -> bytes:
    return hashlib.sha256(phrase.encode("utf-8", "surrogatepass")).digest()
