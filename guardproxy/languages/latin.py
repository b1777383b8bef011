"""Languages in the Latin alphabet: a linear model over hashed n-grams of characters. Pure, but for the weights' file.

The text is cut into *windows* of 10 to 60 letters at the ends of sentences, lines and brackets, so that two languages
in one text are two windows. A window's scores are the sum of its n-grams' rows, divided by the square root of their
number: a short window has low scores, and so proves little. `training/languages.py` makes the weights.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

WEIGHTS = Path(__file__).parent.parent / "weights" / "languages" / "latin.npz"
ENGLISH = "en"
NO_LANGUAGE = "none"
"""The model's class for code, random letters and other text without words."""
BUCKETS = 1 << 14
NGRAMS = (2, 3, 4, 5)

# At the end of a sentence, a window with this many letters is complete; a longer sentence has several windows.
_WINDOW_LETTERS = 10
_LONGEST_WINDOW = 60
_LONGEST_WORD = 40
_SEGMENT_END = re.compile(r"[\n\r\t]+|[.!?:;,…]+[\"'”’)\]]*(?:\s+|$)|[\"“”„«»()\[\]{}|`*]+|\s[-–—]+\s")  # noqa: RUF001
_AROUND = "'’‘.,;:!?¿¡…-–—"  # noqa: RUF001
_MULTIPLIER = np.uint32(0x9E3779B1)
_STEP = np.uint32(0x01000193)
_SHIFT = np.uint32(32 - BUCKETS.bit_length() + 1)


@dataclass(frozen=True, slots=True)
class Window:
    """Words in lower case, separated by spaces, with a space before and behind, and the number of their letters."""

    text: str
    letters: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of the windows: one row per window, one column per language of `labels`."""

    labels: tuple[str, ...]
    rows: npt.NDArray[np.float32]


def windows(text: str) -> list[Window]:
    """The words of a text in windows. Code, numbers, addresses and names are no words."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    out: list[Window] = []
    held: list[str] = []
    letters = 0
    for segment in _SEGMENT_END.split(text):
        for word in _words(segment):
            held.append(word)
            letters += len(word) if len(word) > 1 else 0
            if letters >= _LONGEST_WINDOW:
                out.append(_window(held, letters))
                held, letters = [], 0
        if letters >= _WINDOW_LETTERS:
            out.append(_window(held, letters))
            held, letters = [], 0
    if held:
        out.append(_window(held, letters))
    return out


def _window(words: list[str], letters: int) -> Window:
    return Window(f" {' '.join(words)} ", letters)


def _words(segment: str) -> list[str]:
    """The words of a segment in lower case, without its names; none if it is not a sentence."""
    tokens = segment.split()
    first = True
    lower: list[str] = []
    names, upper = 0, 0
    for token in tokens:
        word = token.strip(_AROUND)
        if not _is_word(word):
            continue
        if word[0].islower() or first:
            lower.append(word.lower())
        elif word.isupper() and len(word) > 1:
            lower.append(word.lower())
            upper += 1
        else:
            names += 1
        first = False
    return lower if _is_sentence(lower, len(tokens), names, upper) else []


def _is_sentence(words: list[str], tokens: int, names: int, upper: int) -> bool:
    """Whether enough of the tokens are words: not code, not names, not abbreviations, not letters apart."""
    small = len(words) - upper
    if 2 * (len(words) + names) < tokens or (small < 2 and upper < 3):
        return False
    return 2 * sum(len(word) == 1 for word in words) <= len(words)


def _is_word(word: str) -> bool:
    bare = word if word.isalpha() else word.replace("'", "").replace("’", "").replace("-", "")  # noqa: RUF001
    return bare.isalpha() and len(bare) <= _LONGEST_WORD and (bare.isascii() or all(map(_is_latin, bare)))


def _is_latin(character: str) -> bool:
    return character < "\u0250" or "\u1e00" <= character <= "\u1eff"


def hashes(text: str) -> Iterator[npt.NDArray[np.uint32]]:
    """The buckets of all n-grams of a text, an array for each length, by the position of the first character."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32) * _MULTIPLIER
    gram = codes
    for length in range(2, NGRAMS[-1] + 1):
        gram = (gram[:-1] * _STEP) ^ codes[length - 1 :]
        if length in NGRAMS:
            yield (gram * _MULTIPLIER) >> _SHIFT


def scores(of: Sequence[Window]) -> Scores:
    """The scores of each window."""
    labels, table = weights()
    text = "".join(window.text for window in of)
    rows = np.zeros((len(text), len(labels)), dtype=np.float32)
    for grams in hashes(text):
        rows[: len(grams)] += table[grams]
    sizes = np.array([len(window.text) for window in of])
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    sums = np.add.reduceat(rows, starts, axis=0)
    return Scores(labels, sums / np.sqrt(len(NGRAMS) * sizes, dtype=np.float32)[:, None])


@cache
def weights() -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """The labels and the table of weights, bucket by label; read once."""
    with np.load(WEIGHTS, allow_pickle=False) as file:
        table = file["table"].astype(np.float32) * file["scale"]
        return tuple(str(label) for label in file["labels"]), np.ascontiguousarray(table, dtype=np.float32)
