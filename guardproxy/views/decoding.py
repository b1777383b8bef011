"""Decodings: undo an encoding if the result is more like words than the input. Pure, time linear in the text.

*Exact* decodings replace each encoded span in place and leave the rest of the text as it is. *Guesses* (leetspeak,
ciphers) may change words that were not encoded, so their results never replace the text that they were made from.
"""

import html
import quopri
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from html.entities import html5
from urllib.parse import unquote

from guardproxy.views.alphabets import BASE64, base64_text, unbase32, unbase58, unbase64, unbase85, unturned, unuu
from guardproxy.views.ciphers import unatbash, uncaesar, unreversed, unrot13, unrot47
from guardproxy.views.cleaning import ORDINARY
from guardproxy.views.hexadecimal import unhex
from guardproxy.views.numbers import unmorse, unnumbered
from guardproxy.views.plausible import pairs, pairs_of, worded
from guardproxy.views.seals import Seals


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
_QUOTED = re.compile(r"(?<![=\w])[A-Za-z]*+(?:(?:=[0-9A-Fa-f]{2})++[^\s=&\ud800]*+)++(?![\w&=])")
_ODD_PIECE = re.compile("(?=[A-Za-z]*[0-9])(?=[0-9a-z]*[A-Z])(?=[0-9A-Z]*[a-z])")
_CASED = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_SEVERAL_QUOTED = re.compile("(?:=[0-9A-Fa-f]{2}){2}")
_SOFT_BREAK = re.compile(r"^([^\r\n]{69,75})=\r?\n", re.MULTILINE)
_SHORT_BREAK = re.compile(r"(?<=\w)=\r?\n(?=\w)")
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
    base64s = [match.span() for match in BASE64.finditer(text) if base64_text(match.group(), seals) != match.group()]
    ends = [end for _, end in base64s]

    def spread(match: re.Match[str]) -> str:
        run, place = match.group(), bisect_right(ends, match.start())
        inside = place < len(base64s) and base64s[place][0] < match.end()
        return run if inside or _is_data(run) else run.replace("+", " ")

    return _PLUSSED.sub(spread, text)


def _is_data(run: str) -> bool:
    """Whether a run with plus signs is data in base64: no words, no escapes and no encoded text between the signs."""
    odd = [piece for piece in run.split("+") if _ODD_PIECE.match(piece)]
    if not odd or "%" in run or not run.isascii() or worded(run):
        return False
    return all(unbase64(piece, Seals()) == piece for piece in odd)


def _unescaped(escapes: str, several: bool) -> str:
    """Decode a run of escapes if the result is printable, and alphanumeric unless there are `several` escapes."""
    try:
        text = unquote(escapes, errors="strict")
    except UnicodeDecodeError:
        return escapes
    printable = text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    return text if printable and (several or text.isalnum()) else escapes


def _unquoted(text: str, seals: Seals) -> str:
    """Undo quoted-printable: escapes in a row, escapes of letters in words, line breaks behind an equals sign."""
    if "=" not in text:
        return text

    if not seals.run:  # else the sign may be the padding of base64
        text = _SOFT_BREAK.sub(r"\1", text)
    words = _QUOTED.findall(text)
    all_english = _more_english(" ".join(words), " ".join(map(_quoted_text, words)), 8)

    def sealed(match: re.Match[str]) -> str:
        word, plain = match.group(), _quoted_text(match.group())
        several = word.count("=") >= 3 or _SEVERAL_QUOTED.search(word)
        english = all_english or (_CASED.fullmatch(plain) and _more_english(word, plain, 3))
        return seals.around_character(word, plain) if several or english else word

    plain = _QUOTED.sub(sealed, text)
    return text if plain == text else _SHORT_BREAK.sub("", plain)


def _quoted_text(word: str) -> str:
    """Return a word without its escapes, or the word if they are no text."""
    try:
        text = quopri.decodestring(word.encode()).decode()
    except UnicodeDecodeError:
        return word
    return text if text.isprintable() else word


def _more_english(word: str, plain: str, least: int) -> bool:
    """Whether half of at least `least` letter pairs of a plain text are common, and a smaller share of `word`."""
    common, count = pairs_of(plain)
    common_before, count_before = pairs_of(word)
    return 2 * common >= count >= least and common * max(1, count_before) > common_before * count


def _unleet(text: str) -> Iterator[str]:
    """Replace digits and signs in words by the letters that they resemble, if some word becomes more like a word."""
    if _LEET_INSIDE.search(text) and any(_is_leet(match) for match in _LEET_TOKEN.finditer(text)):
        yield _LEET_TOKEN.sub(lambda match: match.group() if _is_address(match) else _in_letters(match.group()), text)


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


# In this order: what may contain signs that escapes begin with, escapes of characters, then runs, because a run may
# contain escapes. Numbers come before hex, in which nearly all of them would be read as well.
EXACT: tuple[tuple[str, Callable[[str, Seals], str]], ...] = (
    ("uuencode", unuu),
    ("base85", unbase85),
    ("html", _unhtml),
    ("url", _unurl),
    ("quoted", _unquoted),
    ("morse", unmorse),
    ("numbers", unnumbered),
    ("hex", unhex),
    ("base64", unbase64),
    ("base32", unbase32),
    ("base58", unbase58),
    ("reversed", unturned),
)
# These decode nothing in a text without a long word.
OF_LONG_WORDS = frozenset({"base85", "base32", "base58", "reversed"})
# Each yields the readings of a text, which may be the text itself.
GUESSES: dict[str, Callable[[str], Iterator[str]]] = {
    "leet": _unleet,
    "rot13": unrot13,
    "caesar": uncaesar,
    "atbash": unatbash,
    "rot47": unrot47,
    "reversed": unreversed,
}
DECODINGS = tuple(dict.fromkeys([*dict(EXACT), "spaced", *GUESSES]))
