"""The languages of a text. Pure."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from guardproxy.languages.latin import ENGLISH, NO_LANGUAGE, Scores, Window, scores, windows
from guardproxy.languages.scripts import counted

# A script's language counts with this many letters, or with fewer if these are a third of all letters.
_ENOUGH = 12
_ENOUGH_ALONE = 3
_SHARE = 3
# A window of fewer letters proves nothing.
_FEWEST_LETTERS = 10
# Beside English, so few letters of another language are a name or a title.
_FEWEST_BESIDE = 16
# By how much the score of another language is above that of English and of no language.
_MARGIN = 2.0
# By how much the score of English is above that of every other language and of no language.
_ENGLISH_MARGIN = 0.5
# In a text of more characters, the Latin alphabet is read in samples; other scripts are counted in all of it.
READ_WHOLE = 8_000
_SAMPLES = 32
# The languages of texts up to this many characters are cached.
_CACHED_CHARACTERS = 4096


def languages_in(text: str) -> tuple[str, ...]:
    """`languages_of` a text. Those of short texts are cached: several rooms ask, and clients send turns again."""
    return _cached_languages(text) if len(text) <= _CACHED_CHARACTERS else languages_of(text)


def languages_of(text: str) -> tuple[str, ...]:
    """The languages of a text, as codes of ISO 639-1 or `other`, the language with the most letters first.

    Empty if no language has enough letters: code, numbers, addresses and names have none.
    """
    found: dict[str, int] = {}
    latin = len(text)
    if not text.isascii():
        count = counted(text)
        latin, found = count.latin, _enough(count.others, count.latin)
    if latin >= _FEWEST_LETTERS:
        for language, letters in _latin(windows(_sampled(text))).items():
            found[language] = found.get(language, 0) + letters
    return tuple(sorted(found, key=lambda language: (-found[language], language)))


_cached_languages = lru_cache(maxsize=8192)(languages_of)


def _enough(others: Mapping[str, int], latin: int) -> dict[str, int]:
    total = latin + sum(others.values())
    return {
        language: letters
        for language, letters in others.items()
        if letters >= _ENOUGH or (letters >= _ENOUGH_ALONE and letters * _SHARE >= total)
    }


def _sampled(text: str) -> str:
    """The text, or samples of it at equal distances: its beginning and its end are among them."""
    if len(text) <= READ_WHOLE:
        return text
    size = READ_WHOLE // _SAMPLES
    starts = np.linspace(0, len(text) - size, _SAMPLES).astype(int).tolist()
    return "\n".join(text[start : start + size] for start in starts)


def _latin(found: list[Window]) -> dict[str, int]:
    """The letters of each language in the Latin alphabet that has enough of them."""
    readable = [window for window in found if window.letters >= _FEWEST_LETTERS]
    if not readable:
        return {}
    scored = scores(readable)
    letters = np.array([window.letters for window in readable])
    first, second = scored.labels.index(ENGLISH), scored.labels.index(NO_LANGUAGE)
    known = [column for column in range(len(scored.labels)) if column not in (first, second)]
    foreign = scored.rows[:, known]
    best, english = foreign.max(axis=1), scored.rows[:, first]
    is_foreign = best - scored.rows[:, [first, second]].max(axis=1) >= _MARGIN
    is_english = english - np.maximum(best, scored.rows[:, second]) >= _ENGLISH_MARGIN
    out: dict[str, int] = {}
    if is_english.any():
        out[ENGLISH] = int(letters[is_english].sum())
    names = [scored.labels[column] for column in known]
    named = _named(Scores(tuple(names), foreign[is_foreign]), letters[is_foreign])
    fewest = _FEWEST_BESIDE if len(readable) > 1 else _FEWEST_LETTERS
    return {**out, **{language: number for language, number in named.items() if number >= fewest}}


def _named(scored: Scores, letters: npt.NDArray[np.int64]) -> dict[str, int]:
    """The letters of each language in windows of other languages than English.

    The language with the highest sum gets every window in which no other language is clearly better: similar languages
    share words. Then the next language of the windows that are left.
    """
    out: dict[str, int] = {}
    rows = scored.rows
    while len(rows):
        column = int(rows.sum(axis=0).argmax())
        own = rows.max(axis=1) - rows[:, column] < _MARGIN
        if not own.any():
            own = rows.argmax(axis=1) == int(rows[0].argmax())
            column = int(rows[0].argmax())
        out[scored.labels[column]] = int(letters[own].sum())
        rows, letters = rows[~own], letters[~own]
    return out
