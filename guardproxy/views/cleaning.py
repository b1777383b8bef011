"""Cleanings: undo disguises by hidden, invisible, styled and look-alike characters. Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from confusable_homoglyphs import confusables

from guardproxy.views.plausible import decoded

_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)} | {0xE0001: None, 0xE007F: None}
_TAGGED = re.compile("[\U000e0001\U000e0020-\U000e007f]+")
# Variation selectors 1 to 256 can encode a byte each, invisibly, after any character.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]+")
# Joiners and selectors belong to emoji (including keycaps) and to Persian and Indic spelling. They have no function
# after these characters: ASCII, Latin, Greek and Cyrillic.
_NO_JOINERS = "\n -~\u00c0-\u052f"
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_NO_JOINERS_CHARACTER = re.compile(f"[{_NO_JOINERS}]")
_COMBINING = "\u0300-\u036f\u0488\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20f0"
_PILED = re.compile(rf"(?<=[{_NO_JOINERS}])[{_COMBINING}]")
_COMBINING_RUN = re.compile(f"[{_COMBINING}]+")
# Control characters except white space, which programs do not display.
HIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")
_FILLERS = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u2800\u3164\uffa0\U0001d159"
# Code points that may be invisible or have a compatibility form; tags and selectors have patterns of their own.
_PLANES = (range(0x80, 0xD800), range(0xE000, 0x20000), range(0x2F800, 0x2FA20))
# Common in ordinary text, so not treated as disguised letters.
ORDINARY = frozenset("™℠№ªº℃℉℡\u017f")


def _class(chars: Iterable[str], gap: int = 1) -> str:
    """Return a character class of ranges. Beyond the first plane, ranges with gaps smaller than `gap` are merged.

    The regex engine tests those ranges in sequence, so few wide ranges are far faster.
    """
    ranges: list[list[int]] = []
    for code in sorted(map(ord, chars)):
        if ranges and code - ranges[-1][1] <= (gap if code > 0xFFFF else 1):
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges) + "]"


def _untag(text: str) -> str:
    return _TAGGED.sub(lambda match: match.group().translate(_TAGS), _SELECTORS.sub(_selected, text))


def _selected(match: re.Match[str]) -> str:
    """Return the text that a run of variation selectors encodes, or the run itself."""
    codes = (ord(char) for char in match.group())
    hidden = bytes(code - 0xFE00 if code < 0xE0000 else code - 0xE0100 + 16 for code in codes)
    return decoded(hidden) or match.group()


def _unbidi(text: str) -> str:
    return _BIDI.sub("", text)


def _visible(text: str) -> str:
    shown = _JOINERS.sub(_ordinary_joiners, _unseen_pattern().sub("", HIDDEN.sub("", text)))
    # Ordinary accents compose with their letter. Combining marks that do not compose are stacked to hide letters.
    accented = {shown[max(0, match.start() - 1) : match.end()] for match in _combining_pattern().finditer(shown)}
    if not any(_PILED.search(unicodedata.normalize("NFC", letter)) for letter in accented):
        return shown
    return unicodedata.normalize("NFC", _COMBINING_RUN.sub("", unicodedata.normalize("NFD", shown)))


def compile_patterns() -> None:
    """Compile the patterns that hold a class of all Unicode: some 0.1 s, which the first text would take otherwise."""
    _combining_pattern()
    _unseen_pattern()
    _compatible()


def _ordinary_joiners(match: re.Match[str]) -> str:
    """Return a run of joiners if it has a function there, else the empty string."""
    text, start, end = match.string, match.start(), match.end()
    keycap = match.group() == "\ufe0f" and text[end : end + 1] == "\u20e3"
    odd = start > 0 and _NO_JOINERS_CHARACTER.match(text[start - 1]) and not keycap
    return "" if odd else match.group()


@cache
def _combining_pattern() -> re.Pattern[str]:
    """Return the pattern of characters that combine with the character before them."""
    combining = (char for char in _assigned() if unicodedata.combining(char) or _COMBINING_RUN.match(char))
    return re.compile(_class(combining, gap=4096) + "+")


@cache
def _unseen_pattern() -> re.Pattern[str]:
    """Return the pattern of fillers and format characters, without joiners, tags and bidirectional controls."""
    kept = re.compile(f"{_BIDI.pattern}|[\u200c\u200d\U000e0000-\U000e007f]")
    formats = (char for char in _assigned() if unicodedata.category(char) == "Cf" and not kept.match(char))
    return re.compile(_class({*_FILLERS, *formats}) + "+")


def _assigned() -> Iterator[str]:
    return (chr(code) for plane in _PLANES for code in plane)


def _nfkc(text: str) -> str:
    """Apply NFKC if the text has a styled letter; full-width punctuation and superscripts alone do not count."""
    styled, other, forms = _compatible()
    if not styled.search(text):
        return text
    return other.sub(lambda match: match.group().translate(forms), text)


@cache
def _compatible() -> tuple[re.Pattern[str], re.Pattern[str], dict[int, str]]:
    """Return a pattern of styled letters, a pattern of characters with a short NFKC form, and these forms."""
    forms = {char: form for char in _assigned() if (form := unicodedata.normalize("NFKC", char)) != char} | _BOXED
    hiding = (char for char, form in forms.items() if form.isascii() and form.strip("()").isalpha())
    short = {ord(char): form for char, form in forms.items() if len(form) <= 4}
    styled = re.compile(_class(char for char in hiding if char not in ORDINARY))
    return styled, re.compile(_class(map(chr, short), gap=4096) + "+"), short


def _boxes() -> dict[str, str]:
    """Return boxed and circled letters, for which NFKC has no plain form."""
    starts = (0x1F150, 0x1F170)
    return {chr(start + place): chr(65 + place) for start in starts for place in range(26)}


_BOXED = _boxes()


def _lookalikes() -> dict[str, str]:
    """Return letters that look like an ASCII letter: Unicode's confusables, and further letters in use."""
    table: dict[str, str] = {}
    for char, similar in confusables.confusables_data.items():
        plain = [
            entry["c"] for entry in similar if len(entry["c"]) == 1 and entry["c"].isascii() and entry["c"].isalpha()
        ]
        if plain and len(char) == 1 and not char.isascii() and char.isalpha():
            table[char] = plain[0]
    pairs = (
        "вb нh кk мm тt пn яr ԍg \u0399I \u0406I \u04c0I "
        "κk τt ηn εe ωw μu λl βb χx θo φo ςs "
        "ᴀa ʙb ᴅd ᴇe ꜰf ɢg ʜh ᴊj ᴋk ʟl ᴍm ɴn ᴘp ʀr ᴛt ƃb ɐa ǝe ɥh ɹr ʇt ʌv ɓb ɗd ɛe ƒf"
    )
    table |= {pair[0]: pair[1] for pair in pairs.split()}
    del table["\u0131"]  # the Turkish dotless i, in words of otherwise Latin letters
    return table


_LOOKALIKES = {ord(char): plain for char, plain in _lookalikes().items()}
_FOLDING = re.compile(f"(?:[\\x00-\\x7f]|{_class(map(chr, _LOOKALIKES))})*")
_WORD = re.compile(r"[^\W\d_]+")
_FOREIGN = re.compile(r"[^\x00-\u024f]")


def _unconfused(text: str) -> str:
    """Replace words of look-alikes by ASCII words.

    A word that mixes look-alikes with ASCII letters is always replaced. A word of look-alikes alone is replaced only if
    at least half of the words in other alphabets are such words: in real Russian or Greek text, few are.
    """
    words = {word for word in set(_WORD.findall(text)) if not word.isascii() and _FOREIGN.search(word)}
    folded = {word: word.translate(_LOOKALIKES) for word in words if _FOLDING.fullmatch(word)}
    mixed = {word for word in folded if any(char.isascii() for char in word)}
    if 2 * (len(folded) - len(mixed)) < len(words) - len(mixed) or len(words) == len(mixed):
        folded = {word: folded[word] for word in mixed}
    return _WORD.sub(lambda match: folded.get(word := match[0], word), text) if folded else text


_PLAIN = re.compile(r"[A-Za-z0-9]")


def says_something(text: str) -> bool:
    """Whether a reader sees a letter, a digit or a symbol: no white space, fillers, selectors, marks, punctuation."""
    if _PLAIN.search(text):
        return True
    return any(unicodedata.category(char)[0] in "LNS" and not _unseen_pattern().match(char) for char in text)


CLEANINGS: dict[str, Callable[[str], str]] = {
    "tags": _untag,
    "bidi": _unbidi,
    "invisible": _visible,
    "nfkc": _nfkc,
    "confusables": _unconfused,
}
