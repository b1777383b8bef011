"""Decodings: undo an encoding if the result is more like words than the input. Pure, time linear in the text.

*Exact* decodings replace each encoded span in place and leave the rest of the text as it is. *Guesses* (leetspeak,
rot13) may change words that were not encoded, so their results never replace the text that they were made from.
"""

import base64
import binascii
import codecs
import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from html.entities import html5
from typing import NamedTuple
from urllib.parse import unquote

from guardproxy.views.cleaning import ORDINARY
from guardproxy.views.plausible import WORD, decoded, pairs, worded

# Separates a decoded span from its neighbours, so that a decoded word does not become part of the span beside it.
# A lone surrogate is in no text that a wire reads.
SEAL = "\ud800"


class Seals(NamedTuple):
    """What to put around the result of an escaped character, and of an encoded run: SEAL or nothing."""

    character: str = ""
    run: str = ""

    def around_character(self, old: str, new: str) -> str:
        """Return the result of an escaped character, sealed if it differs."""
        return new if new == old else f"{self.character}{new}{self.character}"

    def around_run(self, old: str, new: str) -> str:
        """Return the result of an encoded run, sealed if it differs."""
        return new if new == old else f"{self.run}{new}{self.run}"


def _hiding() -> str:
    """Return a pattern of the named references to styled letters and to invisible characters."""
    forms = {name: unicodedata.normalize("NFKC", char) for name, char in html5.items() if not char.isascii()}
    seen = {name: "".join(c for c in form if unicodedata.category(c) != "Cf") for name, form in forms.items()}
    names = (name for name, form in seen.items() if form.isascii() and (form.isalpha() or not form))
    return "|".join(sorted(name for name in names if name.endswith(";") and html5[name] not in ORDINARY))


_NUMBER = r"#(?:0*+\d{1,7}(?!\d)|[xX]0*+[0-9a-fA-F]{1,6}(?![0-9a-fA-F]));?"
_NUMERIC = re.compile(rf"&{_NUMBER}|&amp;(?:amp;)*+#|&(?:{_hiding()})")
_ZEROS = re.compile(r"(?<=[#xX])0+(?=[0-9a-fA-F])")  # int() refuses numbers of thousands of digits
_REFERENCES = re.compile(rf"(?:&(?:{_NUMBER}|[A-Za-z][A-Za-z0-9]{{1,31}};))++")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})++")
_PLUSSED = re.compile(r"(?<![\w'%.,!?+-])[\w'%.,!?-]++(?:\+[\w'%.,!?-]++){3,}+(?!\+)")
_HEX = re.compile(
    r"(?:\\x[0-9A-Fa-f]{2}){2,}+|(?:\\u[0-9A-Fa-f]{4}){2,}+|\\(?:x|u00)(?:[46][1-9A-Fa-f]|[57][0-9Aa])"
    r"|(?<![0-9A-Za-z])(?:0[xX])?[0-9A-Fa-f]{2}(?:[ :,-]{1,2}(?:0[xX])?[0-9A-Fa-f]{2}(?![0-9A-Za-z])){3,}+"
    r"|(?<![0-9A-Za-z])(?:0[xX])?(?:[0-9A-Fa-f]{2}){4,}+(?![0-9A-Za-z])"
)
# Every match of _HEX contains a match of this pattern, which is far faster to search for.
_MAYBE_HEX = re.compile(r"[0-9A-Fa-f]{8}|[0-9A-Fa-f]{2}[ :,-]|\\[xu]")
_BASE64 = re.compile(
    r"(?<![\w+/-])(?=[A-Za-z0-9+/_-]{6})(?:[A-Za-z0-9+/]{40,}+\r?\n(?=[A-Za-z0-9+/]))*+[A-Za-z0-9+/_-]++={0,2}"
)
_LEET_TOKEN = re.compile(r"[A-Za-z0-9@$!]{2,}+")
# Between lower-case letters, between capitals, or after a first capital, but not before a new word of camelCase.
_LEET_INSIDE = re.compile(
    r"[a-z](?:[013457@$89]{1,2}[a-z]|![a-z]{2})|[A-Z][013457@$89]{1,2}[A-Z](?![a-z])|\b[A-Z][013457@$89][a-z]"
)
_LEET = str.maketrans("01345789@$!", "oieastbgasi")
_ALL_HEX = re.compile(r"[0-9a-f]{6,}")


def _unhtml(text: str, seals: Seals) -> str:
    """Undo character references if one is numeric or hides a letter; other named references are ordinary HTML."""
    if "&" not in text or not _NUMERIC.search(text):
        return text
    return _REFERENCES.sub(lambda match: seals.around_character(match.group(), _referenced(match.group())), text)


def _referenced(references: str) -> str:
    return html.unescape(_ZEROS.sub("", references))


def _unurl(text: str, seals: Seals) -> str:
    """Undo percent escapes, if there are several or one hides a letter, and plus signs between words."""
    spread = _unplus(text, seals)
    if "%" not in text:
        return spread
    several = spread != text or text.count("%") > 1
    return _ESCAPES.sub(lambda match: seals.around_character(match.group(), _unescaped(match.group(), several)), spread)


def _unplus(text: str, seals: Seals) -> str:
    """Replace plus signs between words by spaces, but not those of base64."""
    if "+" not in text or not _PLUSSED.search(text):
        return text
    base64s = [match.span() for match in _BASE64.finditer(text) if _base64_text(match.group(), seals) != match.group()]
    ends = [end for _, end in base64s]

    def spread(match: re.Match[str]) -> str:
        place = bisect_right(ends, match.start())
        inside = place < len(base64s) and base64s[place][0] < match.end()
        return match.group() if inside else match.group().replace("+", " ")

    return _PLUSSED.sub(spread, text)


def _unescaped(escapes: str, several: bool) -> str:
    """Decode a run of escapes if the result is printable, and alphanumeric unless there are `several` escapes."""
    try:
        text = unquote(escapes, errors="strict")
    except UnicodeDecodeError:
        return escapes
    printable = text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    return text if printable and (several or text.isalnum()) else escapes


def _unhex(text: str, seals: Seals) -> str:
    if not _MAYBE_HEX.search(text):
        return text

    def sealed(match: re.Match[str]) -> str:
        digits = match.group()
        return (seals.around_character if digits[0] == "\\" else seals.around_run)(digits, _hex_text(digits))

    return _HEX.sub(sealed, text)


def _hex_text(digits: str) -> str:
    if digits.startswith("\\u"):
        units = bytes.fromhex(digits.replace("\\u", ""))
        return units.decode("utf-16-be", "replace")  # replaces unpaired surrogates, which a guard cannot be given
    data = bytes.fromhex(re.sub(r"0[xX]|\\x|[^0-9A-Fa-f]", "", digits))
    if digits[0] == "\\" and data.isalpha():
        return data.decode()
    return decoded(data) or digits


def _unbase64(text: str, seals: Seals) -> str:
    return _BASE64.sub(lambda match: _base64_text(match.group(), seals), text)


def _base64_text(encoded: str, seals: Seals) -> str:
    """Decode the lines of a run together, or each line by itself if they encode no text together or are sealed."""
    whole = _from_base64("".join(encoded.split()))
    if "\n" in encoded and (whole is None or seals.run):
        lines = [(line, _from_base64(line.strip())) for line in encoded.splitlines(keepends=True)]
        if whole is None or all(text is not None for _, text in lines):
            return "".join(line if text is None else seals.around_run(line, text) for line, text in lines)
    return encoded if whole is None else seals.around_run(encoded, whole)


def _from_base64(encoded: str) -> str | None:
    bare = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1 or (len(bare) < 12 and bare == encoded):
        return None
    try:
        text = decoded(base64.b64decode(bare + "=" * (-len(bare) % 4)))
    except (binascii.Error, ValueError):
        return None
    # A short word can be valid base64 by chance, so its decoding must contain words.
    return text if text is None or len(bare) >= 24 or worded(text) else None


def _unleet(text: str) -> str:
    """Replace digits and signs in words by the letters that they resemble, if some word becomes more like a word."""
    if not _LEET_INSIDE.search(text) or not any(_is_leet(match) for match in _LEET_TOKEN.finditer(text)):
        return text
    return _LEET_TOKEN.sub(lambda match: match.group() if _is_address(match) else _in_letters(match.group()), text)


def _is_leet(match: re.Match[str]) -> bool:
    return _is_leet_word(match.group()) and not _is_address(match)


@lru_cache(maxsize=8192)
def _is_leet_word(token: str) -> bool:
    if not _LEET_INSIDE.search(token) or _ALL_HEX.fullmatch(token.lower()):
        return False
    common, count = pairs(_in_letters(token).lower())
    return 2 * common >= count


def _is_address(match: re.Match[str]) -> bool:
    return "@" in match.group() and match.string[match.end() : match.end() + 1] == "."


@lru_cache(maxsize=8192)
def _in_letters(token: str) -> str:
    """Return the token in letters; 1 becomes i or l, whichever gives more common letter pairs."""
    body = token.rstrip("!")
    if body.isalpha() or not any(char.isalpha() for char in body):
        return token
    with_i = body.translate(_LEET)
    with_l = body.replace("1", "l").translate(_LEET)
    best = with_l if pairs(with_l.lower())[0] > pairs(with_i.lower())[0] else with_i
    return best + token[len(body) :]


def _unrot13(text: str) -> str:
    """Decode runs of words that are English in rot13, or the whole text if more than half of its words are in runs.

    Runs begin and end with words that are certainly rotated. In a mostly rotated text, words outside them are as well.
    """
    words = WORD.findall(text)
    runs = _rotated(words)
    if not runs:
        return text
    if 2 * sum(last + 1 - first for first, last in runs) > len(words):
        return codecs.encode(text, "rot13")
    spans = [match.span() for match in WORD.finditer(text)]
    pieces: list[str] = []
    done = 0
    for first, last in runs:
        start, stop = spans[first][0], spans[last][1]
        pieces += [text[done:start], codecs.encode(text[start:stop], "rot13")]
        done = stop
    return "".join([*pieces, text[done:]])


def _rotated(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return the first and last word index of each run that is English in rot13.

    A word's gain is the number of its common letter pairs after decoding, minus the number before. A run starts where
    the sum of gains rises above zero and ends at its maximum.
    """
    gains = {word: _gain(word) for word in set(words)}
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
            if best >= 5 and _is_english(words[first : last + 1]):
                runs.append((first, last))
            net = best = 0
    if best >= 5 and _is_english(words[first : last + 1]):
        runs.append((first, last))
    return runs


@lru_cache(maxsize=8192)
def _gain(word: str) -> int:
    return pairs(codecs.encode(word, "rot13").lower())[0] - pairs(word.lower())[0]


def _is_english(words: Sequence[str]) -> bool:
    """Whether words in rot13 are English: three words gain, and 55 % or more of the decoded pairs are common."""
    counts = [pairs(codecs.encode(word, "rot13").lower()) for word in words]
    common, total = sum(common for common, _ in counts), sum(total for _, total in counts)
    return len({word.lower() for word in words if _gain(word) > 0}) >= 3 and 20 * common >= 11 * total


# In this order: escapes of characters, then runs, because a run may contain escapes.
EXACT: tuple[tuple[str, Callable[[str, Seals], str]], ...] = (
    ("html", _unhtml),
    ("url", _unurl),
    ("hex", _unhex),
    ("base64", _unbase64),
)
GUESSES: dict[str, Callable[[str], str]] = {"leet": _unleet, "rot13": _unrot13}
DECODINGS = ("html", "url", "hex", "base64", "spaced", "leet", "rot13")
