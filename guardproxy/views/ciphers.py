"""Undo ciphers of letters, and letters that run backwards: guesses, in views of their own. Pure, linear in time.

A cipher is undone where that makes the words more English. All ciphers but rot13 are tried only if a frequent word is
in the text in its cipher form, so an ordinary text costs a look at its words.
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from guardproxy.views.plausible import WORD, pairs, pairs_of

_FREQUENT_WORDS = """
the and that with have this from they will would there their what about which when make like time just know take
people into year your good some could them other than then look only come over think also back after work first
well even want because these give most how can you are for not was were who why where does did has had its our
out explain write tell show describe help need should way use using without someone something more any all get
find build buy create sell steal kill hurt steps step instructions guide list detail please plan best home house
money child children women woman man men girl boy him her his she
to of in is it my me do an on so if we at as by up or go
"""
_FREQUENT = frozenset(_FREQUENT_WORDS.split())
_UPPER = string.ascii_uppercase
# A word by itself: not in a key, a hash or other data.
_ALONE = re.compile(r"(?<![0-9A-Za-z+/=])[A-Za-z]++(?![0-9+/=])")
_TOKEN = re.compile(r"\S+")
_MARKS = ".,:;!?\"'()"
_WEIGHT = 3  # common letter pairs that a frequent word, or a capital at its beginning, is worth


@dataclass(frozen=True, slots=True, eq=False)
class _Cipher:
    """How to undo a cipher on a stretch of text, and what it reads as a word."""

    undo: Callable[[str], str]
    unit: re.Pattern[str] = WORD
    is_certain: bool = False

    def gain(self, word: str) -> int:
        """Return how many more common letter pairs a word has after undoing than before."""
        return _common(self.undo(word))[0] - _common(word)[0]

    def is_english(self, words: Sequence[str]) -> bool:
        """Whether words are English once undone: three words gain, and 55 % or more of their pairs are common.

        A cipher that is one of many needs two frequent words as well, since many keys make some words of any letters.
        """
        plain = [self.undo(word) for word in words]
        if not self.is_certain and sum(word.strip(_MARKS).lower() in _FREQUENT for word in set(plain)) < 2:
            return False
        counts = [_common(word) for word in plain]
        common, total = sum(common for common, _ in counts), sum(total for _, total in counts)
        return len({word.lower() for word in words if _gain(self, word) > 0}) >= 3 and 20 * common >= 11 * total


class _Turned(_Cipher):
    """Letters backwards. Most common pairs are common backwards too, so the words and capitals count as well."""

    __slots__ = ()

    def gain(self, word: str) -> int:
        """Return the gain in common pairs, and _WEIGHT for a frequent word and for a capital that comes first."""
        turned = word[::-1]
        pairs_gained = pairs(turned.lower())[0] - pairs(word.lower())[0]
        return pairs_gained + _WEIGHT * (_evidence(turned) - _evidence(word))


def _evidence(word: str) -> int:
    return (word.lower() in _FREQUENT) + (len(word) > 1 and word[0].isupper() and word[1:].islower())


@lru_cache(maxsize=16384)
def _gain(cipher: _Cipher, word: str) -> int:
    return cipher.gain(word)


def _common(text: str) -> tuple[int, int]:
    return pairs(text.lower()) if text.isalpha() else pairs_of(text)


def _letters(alphabet: str) -> Callable[[str], str]:
    table = str.maketrans(_UPPER + _UPPER.lower(), alphabet + alphabet.lower())
    return lambda text: text.translate(table)


_TABLE47 = {33 + place: 33 + (place + 47) % 94 for place in range(94)}
_SHIFTS = {shift: _Cipher(_letters(_UPPER[shift:] + _UPPER[:shift]), _ALONE) for shift in range(1, 26)}
_ROT13 = _Cipher(_SHIFTS[13].undo, is_certain=True)
_ATBASH = _Cipher(_letters(_UPPER[::-1]), _ALONE)
_ROT47 = _Cipher(lambda text: text.translate(_TABLE47), _TOKEN)
_BACKWARDS = _Turned(lambda text: text[::-1], _ALONE)
_WORDS_BACKWARDS = _Turned(lambda text: _TOKEN.sub(lambda match: match.group()[::-1], text), _ALONE)


def _strange(word: str) -> bool:
    common, count = pairs(word)
    return 5 * common < 3 * count


def _forms(word: str) -> tuple[str, str, str]:
    return word, word.capitalize(), word.upper()


# Frequent words of at least three letters in their cipher forms. Forms that look like words are left out: they may be
# words.
_LONG = sorted(word for word in _FREQUENT if len(word) > 2)
_ALL_SHIFTED = {
    _SHIFTS[26 - shift].undo(form): _SHIFTS[shift]
    for shift in range(1, 26)
    for word in _LONG
    if shift != 13 and _SHIFTS[26 - shift].undo(word) not in _FREQUENT
    for form in _forms(word)
}
_SHIFTED = {form: cipher for form, cipher in _ALL_SHIFTED.items() if _strange(form.lower())}
SHORT = 40  # words of a text in which forms that look like words are looked for as well
_ATBASHED = frozenset(_ATBASH.undo(form) for word in _LONG if _strange(_ATBASH.undo(word)) for form in _forms(word))
_ROTATED47 = frozenset(_ROT47.undo(form) for word in _LONG for form in _forms(word))
_TURNED = frozenset(form[::-1] for word in _LONG if word[::-1] not in _FREQUENT for form in _forms(word))


def unrot13(text: str) -> Iterator[str]:
    """Yield the text with its words in rot13 undone."""
    yield _undone(text, _ROT13)


def uncaesar(text: str) -> Iterator[str]:
    """Yield the text with each other shift of the alphabet undone."""
    for cipher in _shifts(text):
        yield _undone(text, cipher)


def _shifts(text: str) -> list[_Cipher]:
    count, different = _words(text)
    forms = _SHIFTED if count > SHORT else _ALL_SHIFTED
    return list(dict.fromkeys(forms[word] for word in sorted(forms.keys() & different)))


def unatbash(text: str) -> Iterator[str]:
    """Yield the text with the words undone in which A stands for Z, B for Y, and so on."""
    if not _ATBASHED.isdisjoint(_words(text)[1]):
        yield _undone(text, _ATBASH)


def unrot47(text: str) -> Iterator[str]:
    """Yield the text with its words in rot47 undone."""
    if not _ROTATED47.isdisjoint(_words(text)[1]):
        yield _undone(text, _ROT47)


def unreversed(text: str) -> Iterator[str]:
    """Yield the text with its letters turned around: those of the whole run, and those of each word."""
    if not _TURNED.isdisjoint(_words(text)[1]):
        yield _undone(text, _BACKWARDS)
        yield _undone(text, _WORDS_BACKWARDS)


def tried(text: str) -> frozenset[_Cipher]:
    """Return the ciphers that are tried on a text of more than SHORT words: rot13, and those that its words are in."""
    words = _words(text)[1]
    others = ((_ATBASHED, (_ATBASH,)), (_ROTATED47, (_ROT47,)), (_TURNED, (_BACKWARDS, _WORDS_BACKWARDS)))
    found = (cipher for forms, ciphers in others if not forms.isdisjoint(words) for cipher in ciphers)
    return frozenset([_ROT13, *(_SHIFTED[word] for word in _SHIFTED.keys() & words), *found])


def scanned(text: str, ciphers: Iterable[_Cipher]) -> tuple[bool, bool]:
    """Return whether a text has no words in these ciphers, and whether no run is open at its end.

    If none is open, the words that follow are read as if nothing stood before them.
    """
    scans = [_scan(cipher.unit.findall(text), cipher) for cipher in ciphers]
    return all(not runs for runs, _ in scans), not any(is_open for _, is_open in scans)


@lru_cache(maxsize=1)
def _words(text: str) -> tuple[int, frozenset[str]]:
    """Return the number of words between white space, and the different ones with and without the signs around them.

    The last result is cached: all ciphers read the same text.
    """
    words = text.split()
    different = frozenset(words)
    bare = WORD.findall(" ".join(word for word in different if not word.isalpha()))
    return len(words), different.union(bare)


def _undone(text: str, cipher: _Cipher) -> str:
    """Undo a cipher in runs of words that become English, or in all of the text if the runs have most of its words.

    Runs begin and end with words that are certainly in cipher. In a text of them, words outside are as well.
    """
    words = cipher.unit.findall(text)
    runs = _runs(words, cipher)
    if not runs:
        return text
    if 2 * sum(last + 1 - first for first, last in runs) > len(words):
        return cipher.undo(text)
    spans = [match.span() for match in cipher.unit.finditer(text)]
    pieces: list[str] = []
    done = 0
    for first, last in runs:
        start, stop = spans[first][0], spans[last][1]
        pieces += [text[done:start], cipher.undo(text[start:stop])]
        done = stop
    return "".join([*pieces, text[done:]])


def _runs(words: Sequence[str], cipher: _Cipher) -> list[tuple[int, int]]:
    """Return the first and last word index of each run that is English once undone."""
    return _scan(words, cipher)[0]


def _scan(words: Sequence[str], cipher: _Cipher) -> tuple[list[tuple[int, int]], bool]:
    """Return the runs, and whether the last one might go on with further words.

    A run starts where the sum of the words' gains rises above zero and ends at its maximum.
    """
    gains = {word: _gain(cipher, word) for word in set(words)}
    if not any(gain > 0 for gain in gains.values()):
        return [], False
    runs: list[tuple[int, int]] = []
    first = last = net = best = 0
    for place, word in enumerate(words):
        gain = gains[word]
        if gain <= 0 and not net:
            continue
        first, net = (place, gain) if not net else (first, net + gain)
        if net > best:
            best, last = net, place
        if net <= max(0, best - 4):
            if best >= 5 and cipher.is_english(words[first : last + 1]):
                runs.append((first, last))
            net = best = 0
    if best >= 5 and cipher.is_english(words[first : last + 1]):
        runs.append((first, last))
    return runs, net > 0
