"""What a reader does not see or notice, taken off: hidden, invisible, styled and look-alike characters. Pure."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from confusable_homoglyphs import confusables

from guardproxy.views.plausible import decoded

_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)} | {0xE0001: None, 0xE007F: None}
# Variation selectors 1 to 256 can carry a byte each, invisibly, behind any character.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BIDI = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C])
# Joiners and selectors are part of emoji (keycaps too) and of Persian and Indic spelling: odd only behind these.
_PLAIN = "\n -~\u00c0-\u052f"
_JOINERS = re.compile(rf"(?<=[{_PLAIN}])(?!\ufe0f\u20e3)[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_MARKS = "\u0300-\u036f\u0488\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20f0"
_PILED = re.compile(rf"(?<=[{_PLAIN}])[{_MARKS}]")
_MARK = re.compile(f"[{_MARKS}]+")
_FILLERS = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u2800\u3164\uffa0")
# Written as they are in ordinary text, and no disguise of the letters they stand for.
_ORDINARY = frozenset("™℠№ªº℃℉℡\u017f")


def _untag(text: str) -> str:
    return _SELECTORS.sub(_selected, text).translate(_TAGS)


def _selected(match: re.Match[str]) -> str:
    """The text that a run of variation selectors carries, or the run."""
    codes = (ord(char) for char in match.group())
    hidden = bytes(code - 0xFE00 if code < 0xE0000 else code - 0xE0100 + 16 for code in codes)
    return decoded(hidden) or match.group()


def _unbidi(text: str) -> str:
    return text.translate(_BIDI)


def _visible(text: str) -> str:
    unseen = [char for char in set(text) if char in _FILLERS or (_is(char, "Cf") and char not in "\u200c\u200d")]
    shown = _JOINERS.sub("", text.translate(dict.fromkeys(map(ord, unseen))))
    # Accents compose with their letter; where a mark does not, marks are piled up to hide letters.
    if not _PILED.search(unicodedata.normalize("NFC", shown)):
        return shown
    return unicodedata.normalize("NFC", _MARK.sub("", unicodedata.normalize("NFD", shown)))


def _is(char: str, category: str) -> bool:
    return unicodedata.category(char) == category and ord(char) not in _BIDI and not 0xE0000 <= ord(char) < 0xE0080


def _nfkc(text: str) -> str:
    """NFKC where some styled letter hides a plain one; full-width punctuation and superscripts alone do not count."""
    distinct = set(text)
    styled = [char for char in distinct if not char.isascii() and char not in _ORDINARY and _hides_letter(char)]
    if not styled:
        return text
    return text.translate({ord(char): form for char in distinct if len(form := _compatible(char)) <= 4})


@lru_cache(maxsize=1 << 16)
def _hides_letter(char: str) -> bool:
    form = _compatible(char)
    return form != char and form.isascii() and form.strip("()").isalpha()


@lru_cache(maxsize=1 << 16)
def _compatible(char: str) -> str:
    return _BOXED.get(char) or unicodedata.normalize("NFKC", char)


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
_FOREIGN_WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]*[^\W\d_\x00-\u024f][^\W\d_]*")


def _unconfused(text: str) -> str:
    """Words of look-alikes in plain letters.

    A word that mixes them with ASCII letters is folded. One of look-alikes alone is folded where most words of other
    alphabets are such words: in a text that really is Russian or Greek, few are.
    """
    words = set(_FOREIGN_WORD.findall(text))
    folded = {word: plain for word in words if (plain := word.translate(_LOOKALIKES)).isascii()}
    mixed = {word for word in folded if any(char.isascii() for char in word)}
    if 2 * (len(folded) - len(mixed)) < len(words) - len(mixed) or len(words) == len(mixed):
        folded = {word: folded[word] for word in mixed}
    return _FOREIGN_WORD.sub(lambda match: folded.get(match.group(), match.group()), text) if folded else text


CLEANINGS: dict[str, Callable[[str], str]] = {
    "tags": _untag,
    "bidi": _unbidi,
    "invisible": _visible,
    "nfkc": _nfkc,
    "confusables": _unconfused,
}
