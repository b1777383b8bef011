"""Languages that their script decides, alone or with the letters that only one of its languages has. Pure.

A text's characters are counted by block of Unicode: time linear in the text, and small beside reading it.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guardproxy.languages.codes import OTHER

# First and last character of each block, and the language that it decides. Kana and Han, Cyrillic and Arabic have
# several languages: their names here are those of the scripts.
_BLOCKS: tuple[tuple[int, int, str], ...] = (
    (0x0370, 0x03FF, "el"),
    (0x1F00, 0x1FFF, "el"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x1C80, 0x1C8F, "Cyrillic"),
    (0x2DE0, 0x2DFF, "Cyrillic"),
    (0xA640, 0xA69F, "Cyrillic"),
    (0x0531, 0x058A, "hy"),
    (0x0590, 0x05FF, "he"),
    (0xFB1D, 0xFB4F, "he"),
    (0x0620, 0x06EF, "Arabic"),
    (0x06FA, 0x06FF, "Arabic"),
    (0x0750, 0x077F, "Arabic"),
    (0x08A0, 0x08FF, "Arabic"),
    (0xFB50, 0xFDFF, "Arabic"),
    (0xFE70, 0xFEFE, "Arabic"),
    (0x0700, 0x074F, OTHER),  # Syriac
    (0x0780, 0x07BF, "dv"),
    (0x07C0, 0x089F, OTHER),  # N'Ko, Samaritan, Mandaic
    (0x0900, 0x097F, "hi"),
    (0xA8E0, 0xA8FF, "hi"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B00, 0x0B7F, "or"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0C80, 0x0CFF, "kn"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x0F00, 0x0FFF, "bo"),
    (0x1000, 0x109F, "my"),
    (0xA9E0, 0xA9FF, "my"),
    (0xAA60, 0xAA7F, "my"),
    (0x10A0, 0x10FF, "ka"),
    (0x1C90, 0x1CBF, "ka"),
    (0x2D00, 0x2D2F, "ka"),
    (0x1100, 0x11FF, "ko"),
    (0x3130, 0x318F, "ko"),
    (0xA960, 0xA97F, "ko"),
    (0xAC00, 0xD7FF, "ko"),
    (0xFFA0, 0xFFDC, "ko"),
    (0x1200, 0x139F, "am"),
    (0x2D80, 0x2DDF, "am"),
    (0x13A0, 0x13FF, OTHER),  # Cherokee
    (0xAB70, 0xABBF, OTHER),
    (0x1400, 0x167F, "iu"),
    (0x1680, 0x177F, OTHER),  # Ogham, runes, scripts of the Philippines
    (0x1780, 0x17FF, "km"),
    (0x1800, 0x18AF, "mn"),
    (0x18B0, 0x1AAF, OTHER),  # scripts of South-East Asia
    (0x1B00, 0x1C7F, OTHER),  # Balinese, Sundanese, Batak, Lepcha, Ol Chiki
    (0x2C80, 0x2CFF, OTHER),  # Coptic
    (0x2D30, 0x2D7F, OTHER),  # Tifinagh
    (0x3041, 0x3096, "Kana"),
    (0x30A1, 0x30FA, "Kana"),
    (0x31F0, 0x31FF, "Kana"),
    (0xFF66, 0xFF9D, "Kana"),
    (0x3105, 0x312F, "Han"),
    (0x31A0, 0x31BF, "Han"),
    (0x3400, 0x4DBF, "Han"),
    (0x4E00, 0x9FFF, "Han"),
    (0xF900, 0xFAFF, "Han"),
    (0x20000, 0x3FFFF, "Han"),
    (0xA000, 0xA4CF, "ii"),
    (0xA4D0, 0xA63F, OTHER),
    (0xA800, 0xA8DF, OTHER),
    (0xA900, 0xA95F, OTHER),
    (0xA980, 0xA9DF, "jv"),
    (0xAA00, 0xAA5F, OTHER),
    (0xAA80, 0xAADF, OTHER),
    (0xABC0, 0xABFF, OTHER),
    (0x10000, 0x1CFFF, OTHER),
    (0x1E000, 0x1E95F, OTHER),
)
_LAST = 0x40000

# The letters that only one language of a script has. The language with the most of them is taken.
_CYRILLIC = {
    "be": "ўЎ",
    "kk": "әғқңұһӘҒҚҢҰҺ",
    "mk": "ѓѕќЃЅЌ",
    "sr": "ђјљњћџЂЈЉЊЋЏ",
    "uk": "іїєґІЇЄҐ",
    OTHER: "өүҳҷӯӣҶӨҮ",
}
_RUSSIAN = "ыэёЫЭЁ"
_ARABIC = {"ur": "ٹڈڑںےھ", OTHER: "ڵێۆەۇې", "fa": "پچژگکی"}
# One of so many letters of a script must be one that only the language has.
_MARK_EVERY = 40
# Japanese has at least one Kana for so many characters.
_KANA_EVERY = 12
# Languages without spaces write a word with two of their characters.
_DENSE = frozenset({"zh", "ja", "ko"})
_DENSE_SCRIPTS = frozenset({"Han", "Kana", "ko"})


@dataclass(frozen=True, slots=True)
class Counted:
    """The letters of a text: of the Latin alphabet, and of each other language."""

    latin: int
    others: Mapping[str, int]


def _table() -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    names = ("", "Latin", *dict.fromkeys(name for _, _, name in _BLOCKS))
    table = np.zeros(_LAST + 1, dtype=np.uint8)  # the last place is for every character behind the blocks
    for first, last in (("A", "Z"), ("a", "z"), ("\u00c0", "\u024f"), ("\u1e00", "\u1eff")):
        table[ord(first) : ord(last) + 1] = 1
    for start, stop, name in _BLOCKS:
        letters = [code for code in range(start, stop + 1) if unicodedata.category(chr(code))[0] in "LM"]
        table[letters] = names.index(name)
    return table, names


_TABLE, _NAMES = _table()


def counted(text: str) -> Counted:
    """Count the letters of a text that is not ASCII."""
    codes, classes = _classified(text)
    counts = np.bincount(classes, minlength=len(_NAMES))
    latin = int(counts[1])
    scripts = {name: int(counts[place]) for place, name in enumerate(_NAMES) if place > 1 and counts[place]}
    if scripts:
        # A letter alone is a unit or a variable, not a word.
        same = classes[1:] == classes[:-1]
        paired = np.concatenate(([False], same)) | np.concatenate((same, [False]))
        counts = np.bincount(classes[paired], minlength=len(_NAMES))
        scripts = {
            name: number if name in _DENSE_SCRIPTS else letters
            for name, number in scripts.items()
            if (letters := int(counts[_NAMES.index(name)])) or name in _DENSE_SCRIPTS
        }
    others: dict[str, int] = {}
    for language, letters in _languages(scripts, codes):
        others[language] = others.get(language, 0) + letters * (2 if language in _DENSE else 1)
    return Counted(latin, others)


def has_other_letters(text: str) -> bool:
    """Whether a text has a letter of another alphabet than the Latin one, be it a single one."""
    return not text.isascii() and bool((_classified(text)[1] > 1).any())


def _classified(text: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """The code of each character of a text, and its class: 0 for no letter, 1 for Latin, else its place in `_NAMES`."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return codes, _TABLE[np.minimum(codes, _LAST)]


def _languages(scripts: Mapping[str, int], codes: npt.NDArray[np.uint32]) -> Iterator[tuple[str, int]]:
    """The language of each script, with its letters."""
    han, kana = scripts.get("Han", 0), scripts.get("Kana", 0)
    if han or kana:
        yield "ja" if kana * _KANA_EVERY >= han else "zh", han + kana
    for name, letters in scripts.items():
        if name == "Cyrillic":
            yield _cyrillic(codes, letters), letters
        elif name == "Arabic":
            yield _marked(_counts(codes, 0x0600), letters, _ARABIC, "ar"), letters
        elif name not in ("Han", "Kana"):
            yield name, letters


def _cyrillic(codes: npt.NDArray[np.uint32], letters: int) -> str:
    counts = _counts(codes, 0x0400)
    language = _marked(counts, letters, _CYRILLIC, "")
    if language:
        return language
    # Bulgarian has no letter of its own, but a hard sign in every third word, and none of these.
    hard = _number_of(counts, "ъЪ")
    return "bg" if hard * _MARK_EVERY >= letters and not _number_of(counts, _RUSSIAN) else "ru"


def _counts(codes: npt.NDArray[np.uint32], first: int) -> list[int]:
    """How often each of the 256 characters from `first` on occurs."""
    inside = codes[(codes >= first) & (codes < first + 256)] - np.uint32(first)
    return [int(count) for count in np.bincount(inside, minlength=256)]


def _marked(counts: list[int], letters: int, marks: Mapping[str, str], rest: str) -> str:
    """The language with the most marks, if it has enough of them."""
    found = {language: _number_of(counts, of) for language, of in marks.items()}
    best = max(found, key=lambda language: found[language])
    return best if found[best] * _MARK_EVERY >= letters else rest


def _number_of(counts: list[int], characters: str) -> int:
    return sum(counts[ord(character) & 255] for character in characters)
