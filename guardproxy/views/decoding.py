"""Encodings undone where what comes out looks more like words than what went in. Pure, time linear in the text."""

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from html.entities import html5
from urllib.parse import unquote

from guardproxy.views.cleaning import ORDINARY
from guardproxy.views.plausible import WORD, decoded, pairs, worded


def _hiding() -> str:
    """The named references to styled letters and to characters that nobody sees, as a pattern."""
    forms = {name: unicodedata.normalize("NFKC", char) for name, char in html5.items() if not char.isascii()}
    seen = {name: "".join(c for c in form if unicodedata.category(c) != "Cf") for name, form in forms.items()}
    names = (name for name, form in seen.items() if form.isascii() and (form.isalpha() or not form))
    return "|".join(sorted(name for name in names if name.endswith(";") and html5[name] not in ORDINARY))


_NUMBER = r"#(?:0*+\d{1,7}(?!\d)|[xX]0*+[0-9a-fA-F]{1,6}(?![0-9a-fA-F]));?"
_NUMERIC = re.compile(rf"&{_NUMBER}|&amp;(?:amp;)*+#|&(?:{_hiding()})")
_ZEROS = re.compile(r"(?<=[#xX])0+(?=[0-9a-fA-F])")  # Python reads no numbers of thousands of digits
_REFERENCE = re.compile(rf"&(?:{_NUMBER}|[A-Za-z][A-Za-z0-9]{{1,31}};)")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})++")
_PLUSSED = re.compile(r"(?<![\w'%.,!?+-])[\w'%.,!?-]++(?:\+[\w'%.,!?-]++){3,}+(?!\+)")
_HEX = re.compile(
    r"(?:\\x[0-9A-Fa-f]{2}){2,}+|(?:\\u[0-9A-Fa-f]{4}){2,}+|\\(?:x|u00)(?:[46][1-9A-Fa-f]|[57][0-9Aa])"
    r"|(?<![0-9A-Za-z])(?:0[xX])?[0-9A-Fa-f]{2}(?:[ :,-]{1,2}(?:0[xX])?[0-9A-Fa-f]{2}(?![0-9A-Za-z])){3,}+"
    r"|(?<![0-9A-Za-z])(?:0[xX])?(?:[0-9A-Fa-f]{2}){4,}+(?![0-9A-Za-z])"
)
# What every match of it has in it, and is found far faster.
_MAYBE_HEX = re.compile(r"[0-9A-Fa-f]{8}|[0-9A-Fa-f]{2}[ :,-]|\\[xu]")
_BASE64 = re.compile(
    r"(?<![\w+/-])(?=[A-Za-z0-9+/_-]{6})(?:[A-Za-z0-9+/]{40,}+\r?\n(?=[A-Za-z0-9+/]))*+[A-Za-z0-9+/_-]++={0,2}"
)
_SPACED = re.compile(r"(?<!\S)[^\W_](?: [^\W_](?!\S))++")
_DOTTED = re.compile(r"(?<![^\W_])[^\W_](?P<by>[.\-_*·~'`,/\\|+])[^\W_](?![^\W_])(?:(?P=by)[^\W_](?![^\W_]))*+")
_LEET_TOKEN = re.compile(r"[A-Za-z0-9@$!]{2,}+")
# Between small letters, between capitals, behind a first capital: not where a new word of camelCase begins.
_LEET_INSIDE = re.compile(
    r"[a-z](?:[013457@$89]{1,2}[a-z]|![a-z]{2})|[A-Z][013457@$89]{1,2}[A-Z](?![a-z])|\b[A-Z][013457@$89][a-z]"
)
_LEET = str.maketrans("01345789@$!", "oieastbgasi")
_ALL_HEX = re.compile(r"[0-9a-f]{6,}")


def _unhtml(text: str) -> str:
    """Character references undone, where some are numeric or hide something: other named ones are ordinary HTML."""
    if "&" not in text or not _NUMERIC.search(text):
        return text
    return _REFERENCE.sub(lambda match: html.unescape(_ZEROS.sub("", match.group())), text)


def _unurl(text: str) -> str:
    """Percent escapes undone, and plus signs between words, where there are several or one hides a letter."""
    spread = _PLUSSED.sub(lambda match: match.group().replace("+", " "), text) if "+" in text else text
    if "%" not in text:
        return spread
    several = spread != text or text.count("%") > 1
    return _ESCAPES.sub(lambda match: _unescaped(match.group(), several), spread)


def _unescaped(given: str, several: bool) -> str:
    """A run of escapes as text: printable, and a letter or one of several."""
    try:
        text = unquote(given, errors="strict")
    except UnicodeDecodeError:
        return given
    printable = text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    return text if printable and (several or text.isalnum()) else given


def _unhex(text: str) -> str:
    return _HEX.sub(_hex_text, text) if _MAYBE_HEX.search(text) else text


def _hex_text(match: re.Match[str]) -> str:
    given = match.group()
    if given.startswith("\\u"):
        units = bytes.fromhex(given.replace("\\u", ""))
        return units.decode("utf-16-be", "replace")  # two halves are a character, one alone is none
    data = bytes.fromhex(re.sub(r"0[xX]|\\x|[^0-9A-Fa-f]", "", given))
    if given[0] == "\\" and data.isalpha():
        return data.decode()
    return decoded(data) or given


def _unbase64(text: str) -> str:
    return _BASE64.sub(_base64_text, text)


def _base64_text(match: re.Match[str]) -> str:
    """The text that the match encodes; where its lines together encode none, each by itself."""
    given = match.group()
    whole = _from_base64("".join(given.split()))
    if whole is None and "\n" in given:
        return "".join(_from_base64(line.strip()) or line for line in given.splitlines(keepends=True))
    return given if whole is None else whole


def _from_base64(given: str) -> str | None:
    bare = given.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1 or (len(bare) < 12 and bare == given):
        return None
    try:
        text = decoded(base64.b64decode(bare + "=" * (-len(bare) % 4)))
    except (binascii.Error, ValueError):
        return None
    # So short a word can be base64 by chance: then it must say something.
    return text if text is None or len(bare) >= 24 or worded(text) else None


def _unspaced(text: str) -> str:
    """Words written letter by letter, put together; wider gaps are the gaps between words."""
    if not any(_is_word(match) for pattern in (_SPACED, _DOTTED) for match in pattern.finditer(text)):
        return text
    text = _DOTTED.sub(_together, text)
    return re.sub(r" {2,}", " ", _SPACED.sub(_together, text))


def _is_word(match: re.Match[str]) -> bool:
    """Whether the letters are enough to be a word: four characters, three different letters."""
    given = match.group()
    return len(given) >= 7 and len({char for char in given[:80] if char.isalpha()}) >= 3


def _together(match: re.Match[str]) -> str:
    word = match.group()[::2]
    return match.group() if word.isdigit() else word


def _unleet(text: str) -> str:
    """Digits and signs in words as the letters they look like, where some word becomes more word-like by it."""
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
    """The token in letters; a one is read as i or l, whichever gives more common letter pairs."""
    body = token.rstrip("!")
    if body.isalpha() or not any(char.isalpha() for char in body):
        return token
    with_i = body.translate(_LEET)
    with_l = body.replace("1", "l").translate(_LEET)
    best = with_l if pairs(with_l.lower())[0] > pairs(with_i.lower())[0] else with_i
    return best + token[len(body) :]


def _unrot13(text: str) -> str:
    """Runs of words that are English in rot13 turned back, the rest as it is; all of a text that is mostly such runs.

    A run begins and ends with words that are surely rotated, so where most words are, those at the edges are as well.
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
    """The first and last words of the runs that are English in rot13.

    Each word counts its common letter pairs, turned back less as given. A run is a stretch whose sum rises above
    zero, up to where it is highest.
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
    """Whether words in rot13 are English: three that gain, over half of whose letter pairs are common."""
    counts = [pairs(codecs.encode(word, "rot13").lower()) for word in words]
    common, count = sum(one for one, _ in counts), sum(one for _, one in counts)
    return len({word.lower() for word in words if _gain(word) > 0}) >= 3 and 20 * common >= 11 * count


DECODINGS: dict[str, Callable[[str], str]] = {
    "html": _unhtml,
    "url": _unurl,
    "hex": _unhex,
    "base64": _unbase64,
    "spaced": _unspaced,
    "leet": _unleet,
    "rot13": _unrot13,
}
