"""Decode characters that are written as numbers or as Morse code. Pure, time linear in the text.

Numbers are everywhere, so a list of decimal or octal numbers counts as text only if it has words, or another encoding.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from guardproxy.views.alphabets import unbase32, unbase58, unbase64, unbase85
from guardproxy.views.plausible import CODED, decoded, holds_encoding, pairs_of, worded
from guardproxy.views.seals import Seals

# Every match of _BINARY and _CODES contains a match of this pattern, which is far faster to search for.
_MAYBE = re.compile(r"[0-9][0-9]{1,7}(?:(?:[^0-9A-Za-z]{1,3}(?:0[bo])?[0-9]{2,8}){3}|[0-9]{8})")
_BINARY = re.compile(r"(?<![0-9A-Za-z])(?:0b)?[01]++(?:(?:[ ,;:|/_-]{1,3}+|\r?\n)(?:0b)?[01]++)*+(?![0-9A-Za-z])")
_BITS = 32  # fewer are less than four characters
_CODES = re.compile(
    r"(?<![0-9A-Za-z.])(?:0o)?[0-9]{2,3}(?:(?:[ ,;:|/_.\t-]{1,3}+|\r?\n)(?:0o)?[0-9]{2,3}(?![0-9A-Za-z])){5,}+"
    r"|(?<![0-9A-Za-z])[0-9]{16,}+(?![0-9A-Za-z])"
)
# Short prose: words in small letters, in capitals or with a capital, and the usual signs.
_PROSE = re.compile(r"(?:(?<![A-Za-z])(?:[A-Z]?[a-z]++|[A-Z]++)|[\s.,:;!?'\"-])++")
_NUMBER = re.compile("[0-9]+")
_JOINED_CODE = re.compile("0?[3-9][0-9]|1[0-9]{2}")
_OCTAL_CODE = re.compile("1[0-7]{2}|0?[2-7][0-7]")

_DOTS, _DASHES = ".\u00b7\u2022\u2219", "-_\u2212\u2010\u2011\u2012\u2013\u2014"
_SIGN = f"[{_DOTS}{re.escape(_DASHES)}]"
_MORSE = re.compile(
    rf"(?<![^\s\"'`(:]){_SIGN}{{1,6}}+(?:(?:\s*+[/|]{{1,2}}\s*+|\s{{1,7}}+){_SIGN}{{1,6}}+){{5,}}+(?![^\s\"'`),!?;/|])"
)
_MAYBE_MORSE = re.compile(rf"{_SIGN}{_SIGN}{{0,5}}[\s/|]{{1,7}}{_SIGN}{{1,6}}[\s/|]{{1,7}}{_SIGN}")
_SURE, _VARIED = 16, 8  # letters, and different ones, that lines and dots do not make by chance
_MORSE_GAP = re.compile(r"[\s/|]+")
_PLAIN_SIGNS = str.maketrans(_DOTS + _DASHES, "." * len(_DOTS) + "-" * len(_DASHES))
_LETTERS_OF_SIGNS = """
.- A -... B -.-. C -.. D . E ..-. F --. G .... H .. I .--- J -.- K .-.. L -- M -. N --- O .--. P --.- Q .-. R ... S - T
..- U ...- V .-- W -..- X -.-- Y --.. Z ----- 0 .---- 1 ..--- 2 ...-- 3 ....- 4 ..... 5 -.... 6 --... 7 ---.. 8 ----. 9
.-.-.- . --..-- , ..--.. ? -.-.-- ! -..-. / -.--. ( -.--.- ) .----. ' ---... : -.-.-. ; .-.-. + -....- - ..--.- _
.-..-. " .--.-. @ .-... & -...- =
"""
_LETTERS = dict(zip(_LETTERS_OF_SIGNS.split()[::2], _LETTERS_OF_SIGNS.split()[1::2], strict=True))


def unnumbered(text: str, seals: Seals) -> str:
    """Decode characters in binary, decimal or octal numbers, apart or in one row of digits.

    Numbers inside numbers are decoded at once, before they could be read as hex digits. Each time, they are fewer.
    """
    inner, text = text, ""
    while inner != text and _MAYBE.search(inner):
        text = inner
        inner = _BINARY.sub(lambda match: _in_lines(match.group(), _binary_text, seals), text)
        inner = _CODES.sub(lambda match: _in_lines(match.group(), _coded_text, seals), inner)
    return inner


def _in_lines(run: str, decode: Callable[[str], str], seals: Seals) -> str:
    """Decode a run as a whole, or its lines if they are sealed and each encodes a text."""
    lines = run.split("\n")
    if seals.run and len(lines) > 1 and all(decode(line) != line for line in lines):
        return "\n".join(seals.around_run(line, decode(line)) for line in lines)
    return seals.around_run(run, decode(run))


def _binary_text(run: str) -> str:
    """Return the text of a run forwards or else backwards, or the run."""
    if sum(map(run.count, "01")) < _BITS:
        return run
    return _bits_text(run) or _bits_text(run[::-1]) or run


def _bits_text(run: str) -> str | None:
    """Return the text of groups of five to eight bits, or of all bits in groups of eight or seven."""
    groups = [group for group in re.split("0b|[^01]+", run) if group]
    bits = "".join(groups)
    if all(5 <= len(group) <= 8 for group in groups) and (text := decoded(bytes(int(group, 2) for group in groups))):
        return text
    for size in (8, 7):
        if len(bits) % size == 0:
            text = decoded(bytes(int(bits[at : at + size], 2) for at in range(0, len(bits), size)))
            if text is not None:
                return text
    return None


def _coded_text(run: str) -> str:
    """Return the text of decimal or else octal numbers, or the run if neither is readable. Words are preferred."""
    readings = [codes for codes in chain(_readings(run), _readings(run[::-1])) if codes and max(codes) < 256]
    texts = [text for codes in readings if (text := _text(bytes(codes))) is not None]
    found = (text for is_readable in (_is_words, _is_encoding) for text in texts if is_readable(text))
    return next(found, run)


def _readings(run: str) -> Iterator[list[int]]:
    numbers = _NUMBER.findall(run.replace("0o", ""))
    if len(numbers) > 1:
        yield [int(number) for number in numbers]
        if not any("8" in number or "9" in number for number in numbers):
            yield [int(number, 8) for number in numbers]
        return
    for pattern, base in ((_JOINED_CODE, 10), (_OCTAL_CODE, 8)):
        codes = pattern.findall(run)
        if sum(map(len, codes)) == len(run):
            yield [int(code, base) for code in codes]


def _text(codes: bytes) -> str | None:
    try:
        text = codes.decode()
    except UnicodeDecodeError:
        return None
    return text if "".join(text.split()).isprintable() else None


def _is_words(text: str) -> bool:
    """Whether a text has a letter pair in four characters, half of them common, or has numbers or Morse code."""
    common, count = pairs_of(text)
    words = 2 * common >= count >= max(4, len(text) // 4) and (len(text) >= 24 or bool(_PROSE.fullmatch(text)))
    return words or bool(CODED.search(text))


def _is_encoding(text: str) -> bool:
    """Whether something is encoded in a text, or it is not ASCII, which numbers at random are not in UTF-8."""
    if not text.isascii() or holds_encoding(text):
        return True
    return any(read(text, Seals()) != text for read in (unbase64, unbase32, unbase58, unbase85))


def unmorse(text: str, seals: Seals) -> str:
    """Decode Morse code of at least six letters, in capitals."""
    if not _MAYBE_MORSE.search(text):
        return text
    return _MORSE.sub(lambda match: seals.around_run(match.group(), _morse_text(match.group())), text)


def _morse_text(run: str) -> str:
    """Return the text of a run, forwards or backwards, whichever has more words; or the run if it is no text."""
    texts = [text for text in (_letters_text(run), _letters_text(run[::-1])) if text is not None]
    best = max(texts, key=_wordiness, default=run)
    return best if worded(best) or (len(best) >= _SURE and len(set(best)) >= _VARIED) else run


def _wordiness(text: str) -> float:
    common, count = pairs_of(text)
    return common / max(1, count)


def _letters_text(run: str) -> str | None:
    """Return the letters of a run of Morse code. The usual gap is between letters; all others are between words."""
    gaps = _MORSE_GAP.findall(run)
    usual = Counter(gaps).most_common(1)[0][0]
    letters = [_LETTERS.get(signs, "") for signs in _MORSE_GAP.split(run.translate(_PLAIN_SIGNS))]
    if "" in letters or len(set(letters)) < 6:
        return None
    spaces = ["" if gap == usual else " " for gap in gaps]
    return "".join(part for pair in zip(letters, [*spaces, ""], strict=True) for part in pair)
