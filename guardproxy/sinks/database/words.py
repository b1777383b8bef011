"""The words of a text, as the store's index of texts holds them, and searches for words. Pure.

Both databases get words that are already separated, so a search finds the same records in both.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

_MOST_TERMS = 64
_WORD_CHARACTERS = 64  # a longer word is several words: PostgreSQL refuses words of more than 2,046 bytes
# Scripts that put no space between words: each character is a word of its own.
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]{{1,{_WORD_CHARACTERS}}}")
# A text in quotes, or one without; either may end in an asterisk.
_TERM = re.compile(r'"([^"]*)"(\*?)|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class SearchTerm:
    """Words that follow each other in a text; with `prefix`, the last one may go on."""

    words: tuple[str, ...]
    prefix: bool = False


def words(text: str) -> list[str]:
    """Split a text into words without case, accents and punctuation."""
    folded = text.casefold()
    if not folded.isascii():
        decomposed = unicodedata.normalize("NFKD", folded).casefold()
        folded = "".join(c for c in decomposed if not unicodedata.category(c).startswith("M"))
    return [match.group() for match in _PIECE.finditer(folded)]  # `findall` would keep Python's lock to its end


def search_terms(text: str) -> list[SearchTerm]:
    """Parse a search: every word and every phrase in quotes must occur; `word*` stands for all words that begin so.

    Raises ValueError if the search has no word or too many.
    """
    terms: dict[SearchTerm, None] = {}
    for quoted, star, plain in _TERM.findall(text):
        found = tuple(words(quoted or plain))
        if found:
            terms[SearchTerm(found, prefix=bool(star) or plain.endswith("*"))] = None
    if not terms:
        raise ValueError("has no word to search for")
    if len(terms) > _MOST_TERMS:
        raise ValueError(f'has more than {_MOST_TERMS} different words: put a phrase in quotes ("...")')
    return list(terms)


def name_hash(name: str) -> str:
    """Return what a store holds for this end user or session where it keeps no names: the beginning of the hash."""
    return stored_hash(name.strip())[:16]


def stored_hash(text: str) -> str:
    """Return what a store with `audit.text: hash` holds for this whole text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
