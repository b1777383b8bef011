"""What a reader does not see or notice, taken off: hidden, invisible, styled and look-alike characters. Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from confusable_homoglyphs import confusables

from guardproxy.views.plausible import decoded

_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)} | {0xE0001: None, 0xE007F: None}
_TAGGED = re.compile("[\U000e0001\U000e0020-\U000e007f]+")
# Variation selectors 1 to 256 can carry a byte each, invisibly, behind any character.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]+")
# Joiners and selectors are part of emoji (keycaps too) and of Persian and Indic spelling: odd only behind these.
_PLAIN = "\n -~\u00c0-\u052f"
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_BEHIND_PLAIN = re.compile(f"[{_PLAIN}]")
_MARKS = "\u0300-\u036f\u0488\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20f0"
_PILED = re.compile(rf"(?<=[{_PLAIN}])[{_MARKS}]")
_MARK = re.compile(f"[{_MARKS}]+")
# Controls that are no white space: what shows a text leaves them out.
HIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")
_FILLERS = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u2800\u3164\uffa0"
# Planes in which characters are assigned that are invisible, or have another form.
_PLANES = (range(0x80, 0xD800), range(0xE000, 0x20000), range(0x2F800, 0x2FA20), range(0xE0000, 0xE1000))
# Written as they are in ordinary text, and no disguise of the letters they stand for.
ORDINARY = frozenset("™℠№ªº℃℉℡\u017f")


def _class(chars: Iterable[str], gap: int = 1) -> str:
    """A character class for a pattern, in ranges; beyond the first plane gaps smaller than `gap` are closed.

    Ranges there are tried one after the other, so that few wide ones are far faster.
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
    """The text that a run of variation selectors carries, or the run."""
    codes = (ord(char) for char in match.group())
    hidden = bytes(code - 0xFE00 if code < 0xE0000 else code - 0xE0100 + 16 for code in codes)
    return decoded(hidden) or match.group()


def _unbidi(text: str) -> str:
    return _BIDI.sub("", text)


def _visible(text: str) -> str:
    shown = _JOINERS.sub(_joined, _unseen().sub("", HIDDEN.sub("", text)))
    # Accents compose with their letter; where a mark does not, marks are piled up to hide letters.
    accented = {shown[max(0, match.start() - 1) : match.end()] for match in _combining().finditer(shown)}
    if not any(_PILED.search(unicodedata.normalize("NFC", letter)) for letter in accented):
        return shown
    return unicodedata.normalize("NFC", _MARK.sub("", unicodedata.normalize("NFD", shown)))


def _joined(match: re.Match[str]) -> str:
    """A run of joiners, if it is not an odd one."""
    text, start, end = match.string, match.start(), match.end()
    keycap = match.group() == "\ufe0f" and text[end : end + 1] == "\u20e3"
    odd = start > 0 and _BEHIND_PLAIN.match(text[start - 1]) and not keycap
    return "" if odd else match.group()


@cache
def _combining() -> re.Pattern[str]:
    """What combines with the character before."""
    combining = (char for char in _assigned() if unicodedata.combining(char) or _MARK.match(char))
    return re.compile(_class(combining, gap=4096) + "+")


@cache
def _unseen() -> re.Pattern[str]:
    """Fillers and format characters, without joiners, tags and the controls of writing direction."""
    kept = re.compile(f"{_BIDI.pattern}|[\u200c\u200d\U000e0000-\U000e007f]")
    formats = (char for char in _assigned() if unicodedata.category(char) == "Cf" and not kept.match(char))
    return re.compile(_class({*_FILLERS, *formats}) + "+")


def _assigned() -> Iterator[str]:
    return (chr(code) for plane in _PLANES for code in plane)


def _nfkc(text: str) -> str:
    """NFKC where some styled letter hides a plain one; full-width punctuation and superscripts alone do not count."""
    styled, other, forms = _compatible()
    if not styled.search(text):
        return text
    return other.sub(lambda match: match.group().translate(forms), text)


@cache
def _compatible() -> tuple[re.Pattern[str], re.Pattern[str], dict[int, str]]:
    """What finds a styled letter, what finds characters with another form, and the forms (of four at most)."""
    forms = {char: form for char in _assigned() if (form := unicodedata.normalize("NFKC", char)) != char} | _BOXED
    hiding = (char for char, form in forms.items() if form.isascii() and form.strip("()").isalpha())
    short = {ord(char): form for char, form in forms.items() if len(form) <= 4}
    styled = re.compile(_class(char for char in hiding if char not in ORDINARY))
    return styled, re.compile(_class(map(chr, short), gap=4096) + "+"), short


def _boxes() -> dict[str, str]:
    """Letters in boxes and discs, to which NFKC gives no plain form."""
    starts = (0x1F150, 0x1F170)
    return {chr(start + place): chr(65 + place) for start in starts for place in range(26)}


_BOXED = _boxes()


def _lookalikes() -> dict[str, str]:
    """Letters that look like an ASCII letter: Unicode's confusables, and what is used for it beyond them."""
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
    del table["\u0131"]  # a letter of Turkish, in words that are Latin otherwise
    return table


_LOOKALIKES = {ord(char): plain for char, plain in _lookalikes().items()}
_FOLDING = re.compile(f"(?:[\\x00-\\x7f]|{_class(map(chr, _LOOKALIKES))})*")
_WORD = re.compile(r"[^\W\d_]+")
_FOREIGN = re.compile(r"[^\x00-\u024f]")


def _unconfused(text: str) -> str:
    """Words of look-alikes in plain letters.

    A word that mixes them with ASCII letters is folded. One of look-alikes alone is folded where most words of other
    alphabets are such words: in a text that really is Russian or Greek, few are.
    """
    words = {word for word in set(_WORD.findall(text)) if not word.isascii() and _FOREIGN.search(word)}
    folded = {word: word.translate(_LOOKALIKES) for word in words if _FOLDING.fullmatch(word)}
    mixed = {word for word in folded if any(char.isascii() for char in word)}
    if 2 * (len(folded) - len(mixed)) < len(words) - len(mixed) or len(words) == len(mixed):
        folded = {word: folded[word] for word in mixed}
    return _WORD.sub(lambda match: folded.get(word := match[0], word), text) if folded else text


CLEANINGS: dict[str, Callable[[str], str]] = {
    "tags": _untag,
    "bidi": _unbidi,
    "invisible": _visible,
    "nfkc": _nfkc,
    "confusables": _unconfused,
}
