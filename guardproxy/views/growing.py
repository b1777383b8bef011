"""The views of a text that grows: what was read and has none is not read again. Pure, but for what it remembers.

Theory of operation. Nearly every text has no views, and most methods find what they undo in one place. So a text has no
views if its beginning has none and its rest, from a *barrier* on, has none. A barrier is the last of three words in
small letters, of three letters or more and each of another length than the one before, with single spaces around them:
no pattern of any method reaches over it, and the space before it means the same to them as the start of a text. Five
things count over the whole text; each has its own condition:

- Escapes that are undone only if there are several, or words that are English together (html, url, quoted), and what
  may reach over words (Ascii85 in brackets, the header of uuencoded lines, soft line breaks): a text with one of them
  has to be read as a whole from then on.
- Characters that a cleaning may undo: likewise.
- Groups of an encoding count if the text has some odd places: the number of places is kept.
- A cipher is tried if one of its words is anywhere in the text: the ciphers are kept. A new one is tried on the whole.
- A run of words in cipher may be open at a barrier: then the barrier is not used.

As soon as a text has a view, it is always read as a whole.
"""

import re
from collections.abc import Iterable, Sequence

from guardproxy.views.ciphers import SHORT, scanned, tried
from guardproxy.views.search import Views, views_of
from guardproxy.views.spacing import ODD_PLACES, odd_places, ungrouped

_AS_A_WHOLE = re.compile(r"&(?:#|\w{1,31};)|[%=][0-9A-Fa-f]{2}|=\r?\n|\+\S*\+\S*\+|<~|begin [0-7]")
_FAR_SIGNS = ("&", "%", "=", "+", "<~", "begin ")  # one of them is in every match
# No cleaning changes these, by themselves or together.
_ORDINARY = re.compile(r"[\t\n\r -~\u00c0-\u00ff\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u20ac]*")
_BARRIER = re.compile(r"(?<=\s)(?=([a-z]{3,}) ([a-z]{3,}) ([a-z]{3,}) )")
_NONE = Views(())
_TRIED = 4  # barriers, the last one first
_NEAR = 128  # characters from the end in which they are looked for first


class GrowingViews:
    """The views of one message of a streamed reply, again and again while it grows. One call at a time."""

    def __init__(self) -> None:
        self._texts: list[_Growing] = []

    def of(self, text: str, joined: Sequence[str], names: tuple[str, ...], parts: Sequence[str] = ()) -> Views:
        """Return what `views_of` returns."""
        texts = (text, *joined, *parts)
        self._texts += [_Growing() for _ in texts[len(self._texts) :]]
        plain = [growing.is_plain(each, names) for growing, each in zip(self._texts, texts, strict=False)]
        if all(plain):
            return views_of(text, joined, (), parts) if len(texts) > 1 else _NONE
        return views_of(text, joined, names, parts)

    def left(self, texts: Iterable[str]) -> int:
        """Return how many characters `of` would read of these texts."""
        known = [*self._texts]
        return sum(known.pop(0).left(text) if known else len(text) for text in texts)


class _Growing:
    """One text that grows. It has been read up to its length, and need not be read again before `_from`."""

    def __init__(self) -> None:
        self._read = ""
        self._from = 0
        self._odd = 0  # places before `_from`
        self._grouped = False
        self._ciphers = tried("")
        self._as_a_whole = False

    def left(self, text: str) -> int:
        """Return how many characters `is_plain` would read."""
        return len(text) if self._as_a_whole or not text.startswith(self._read) else len(text) - self._from

    def is_plain(self, text: str, names: tuple[str, ...]) -> bool:
        """Whether the text has no views; False also if it must be read as a whole."""
        if not text.startswith(self._read):
            self._read, self._from, self._odd, self._grouped, self._ciphers = "", 0, 0, False, tried("")
        if self._as_a_whole:
            return False
        rest = text[self._from :]
        if _reaches_far(rest) or not _ORDINARY.fullmatch(rest):
            self._as_a_whole = True
            return False
        of_rest = tried(rest)
        ciphers, grouped = self._ciphers | of_rest, self._odd + odd_places(rest) >= ODD_PLACES
        if self._from and ciphers == self._ciphers and grouped == self._grouped:
            plain = scanned(rest, ciphers - of_rest)[0] and not (grouped and ungrouped(rest) != rest)
            plain = plain and _is_plain(rest, names)  # this tries the ciphers of the rest
        else:
            plain = _is_plain(text, names)
        self._as_a_whole = not plain
        self._read, self._ciphers, self._grouped = text, ciphers, grouped
        if plain and (self._from or len(text.split()) > SHORT):
            self._move(rest)
        return plain

    def _move(self, rest: str) -> None:
        """Let the next reading begin at one of the last barriers."""
        near = max(0, len(rest) - _NEAR)
        barriers = [*_BARRIER.finditer(rest, near)] or [*_BARRIER.finditer(rest)]
        for barrier in barriers[: -_TRIED - 1 : -1]:
            before = rest[: barrier.start(3)]
            first, second, third = map(len, barrier.groups())
            if first != second != third and scanned(before, self._ciphers)[1]:
                self._from, self._odd = self._from + len(before), self._odd + odd_places(before)
                return


def _reaches_far(text: str) -> bool:
    """Whether a text has anything for which it must be read as a whole."""
    return any(sign in text for sign in _FAR_SIGNS) and _AS_A_WHOLE.search(text) is not None


def _is_plain(text: str, names: tuple[str, ...]) -> bool:
    found = views_of(text, (), names)
    return found.complete and not found.views
