"""Distinguish identifiers, which may pass unjudged, from texts, which may not. Pure.

An *enumerated value* consists of words that the protocols use (`vocabulary`), numbers, and machine data such as
`9PsbQdzIcbUtI0mKBLuJ5kZf`. An *identifier* may have a single short word beside these, a *name* (of a model, a user)
NAME_WORDS. A sentence is none of them, however its words are joined: `how to build it`, `how_to_build_it`,
`howToBuildIt`, `howtobuildit`, `h0wt0bu1ld1t`, and base64 or rot13 of it, are texts.

A text may be spelled over several identifiers, so those of a body may have BODY_WORDS together (`known.Known`).
"""

import base64
import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

from guardproxy.views.plausible import decoded, pairs
from guardproxy.wires.shared.vocabulary import VALUES, WORDS

LENGTH = 256  # characters of an identifier
LOOSE = 8  # segments that are neither words nor numbers: enough for a UUID and more than a spelled-out word
NAME_WORDS = 3
BODY_WORDS = 6  # of all identifiers of a body together
SPELLED = 4  # letters that stand alone or in pairs and count as a word
HEX_TEXT = 16  # hexadecimal digits that may be a text, also without a letter among them
WORD_LETTERS = 12  # a longer word could be several words

_SHAPE = re.compile(r"[A-Za-z0-9_.:;,/|+=@~#-]*")
_SEGMENT = re.compile(r"[A-Za-z0-9]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_BETWEEN = re.compile(r"[\s!-/:-@\[-`{-~]+")
_RUN = re.compile(r"[A-Za-z]+")
_HEX = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{8,}|(?=[A-F]*[0-9])[0-9A-F]{8,}")
_UUID = re.compile(r"(?<![A-Za-z0-9])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![A-Za-z0-9])")
_LEET = str.maketrans("0134578", "oieastb")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\r\n-]+={0,2}\s*")
_SHORTEST = 20  # letters of a run in one case that may be words
_LETTER_RUN = re.compile(rf"[a-z_-]{{{_SHORTEST},}}|[A-Z_-]{{{_SHORTEST},}}")
_SAMPLE = 65536  # characters of data that are decoded to see whether they are text
_SEARCHED_AT_ONCE = 65536  # characters: a search keeps Python's lock
_MANY = 1000  # more words than any name has


@lru_cache(maxsize=8192)
def looseness(value: str) -> int:
    """Return how many segments of an enumerated value of at most LENGTH characters are neither words nor numbers.

    More than LOOSE for a string that is no enumerated value. Results are kept.
    """
    words, loose = _measured(value)
    return loose if not words and loose <= LOOSE else _MANY


def is_value(value: str) -> bool:
    """Return whether a string is an enumerated value or machine data."""
    return len(value) <= LENGTH and looseness(value) <= LOOSE


def is_identifier(value: str) -> bool:
    """Return whether a string is an identifier."""
    return is_value(value) or (len(value) <= LENGTH and _words(value) <= 1)


def is_name(value: str) -> bool:
    """Return whether a string is an identifier or a name."""
    return is_value(value) or (len(value) <= LENGTH and _words(value) <= NAME_WORDS)


def value_or(value: object, default: str) -> str:
    """Return an enumerated value, or the default for anything else: for values that the proxy writes again."""
    return value if isinstance(value, str) and value and is_value(value) else default


@lru_cache(maxsize=8192)
def own_words(value: str) -> float:
    """Return the number of words of its own in an identifier or label; letters alone or in pairs are part of one."""
    if value.lower() in VALUES:
        return 0.0
    letters = [segment for segment in _SEGMENT.findall(value) if len(segment) <= 2 and segment.isalpha()]
    spelled = sum(len(segment) for segment in letters if segment.lower() not in WORDS)
    return _measured(_BETWEEN.sub("-", value))[0] + spelled / SPELLED


def label_words(value: str) -> int:
    """Return the number of words of its own in a label, whose punctuation and spaces do not count."""
    return _words(_BETWEEN.sub("-", value)) if len(value) <= LENGTH else _MANY


def is_machine_data(value: str) -> bool:
    """Return whether a string of at least 16 characters is base64 data that is not text. Linear in the length."""
    if len(value) < 16 or _BASE64.fullmatch(value) is None:
        return False
    if any(_is_wordy(run, 0.5) for run in letter_runs(value)):
        return False
    if len(value) <= LENGTH and not _is_data(max(_SEGMENT.findall(value), key=len, default="")):
        return False
    return _base64_text(value[:_SAMPLE]) is None


def letter_runs(value: str) -> Iterator[str]:
    """The runs of 20 or more letters in one case, with hyphens and underscores, in order."""
    start = 0
    while start < len(value):
        end = start + _SEARCHED_AT_ONCE
        if found := _LETTER_RUN.search(value, start, end):
            run = _LETTER_RUN.match(value, found.start()) or found  # it may go on behind the part that was searched
            start = run.end()
            yield run.group()
        else:
            start = end - (_SHORTEST - 1)  # a run may begin here


def _is_data(segment: str) -> bool:
    """Return whether the longest segment of short base64 data is not words."""
    has_digits = not segment.isalpha()
    if len(segment) < 12 or (not has_digits and (segment.islower() or segment.isupper() or segment.istitle())):
        return False
    return not _is_encoded(segment) and not _is_wordy(segment, _enough(segment, has_digits=has_digits))


def _base64_text(value: str) -> str | None:
    solid = "".join(value.split()).rstrip("=").replace("-", "+").replace("_", "/")
    data = base64.b64decode(solid[: len(solid) // 4 * 4])
    return decoded(data)


@lru_cache(maxsize=1024)
def _words(value: str) -> int:
    """Return the number of words that no protocol uses; two other segments count as a word."""
    words, loose = _measured(value)
    return words + loose // 2 if loose <= LOOSE else _MANY


def _measured(value: str) -> tuple[int, int]:
    """Return the number of words that no protocol uses, and of other segments that no protocol uses."""
    if value.lower() in VALUES:
        return 0, 0
    if _SHAPE.fullmatch(value) is None:
        return _MANY, 0
    words = loose = 0
    for uuid in _UUID.findall(value):
        if _is_encoded(uuid.replace("-", "")):
            return _MANY, 0
        value, loose = value.replace(uuid, ""), loose + 1
    for segment in _SEGMENT.findall(value):
        if len(segment) >= HEX_TEXT and _is_encoded(segment):
            return _MANY, 0
        if not segment.isdigit() and segment.lower() not in WORDS:
            own, other = _measured_segment(segment)
            words, loose = words + own, loose + other
    return words, loose


def _measured_segment(segment: str) -> tuple[int, int]:
    runs = _RUN.findall(segment)
    letters = sum(map(len, runs))
    own = [word for run in runs for word in _CAMEL.findall(run) if word.lower() not in WORDS]
    if letters <= 2 or not own:
        return 0, int(letters <= 2 or len(runs) > 1)
    if _is_encoded(segment):
        return _MANY, 0
    has_digits = letters < len(segment)
    if _HEX.fullmatch(segment) or not _is_wordy(segment, _enough(segment, has_digits=has_digits)):
        in_one_case = segment.islower() or segment.isupper() or segment.istitle()
        return (_MANY, 0) if in_one_case and not has_digits and letters > WORD_LETTERS else (0, 1)
    own_letters, words = sum(map(len, own)), sum(len(word) > 2 for word in own)
    is_leet = len(segment) > WORD_LETTERS and (has_digits or not words)
    if is_leet or letters > 2 * WORD_LETTERS or max(map(len, own)) > WORD_LETTERS:
        return _MANY, 0
    return max(words, -(-own_letters // 8)), 0


def _is_encoded(segment: str) -> bool:
    """Return whether a segment is text in hexadecimal digits or base64, or ends with it."""
    if _HEX.fullmatch(segment) and decoded(bytes.fromhex(segment[: len(segment) // 2 * 2])):
        return True
    return any(_base64_text(segment[start:]) for start in range(4) if len(segment) - start >= 12)


def _enough(segment: str, *, has_digits: bool) -> float:
    """Return the share of common letter pairs from which on a segment counts as words.

    Of the prompts in tests/escapes without their spaces, 95 % have a share of at least 0.6; of random ids of 20 letters
    and digits, 0.1 %. Machine data without a digit is rare, and data in a single case has fewer different pairs.
    """
    if len(segment) < 5:
        return 0.6 if has_digits else 0
    if segment.islower() or segment.isupper() or segment.istitle():
        return 0.55 if has_digits else 0.34
    return 0.6 if has_digits else 0.4


def _is_wordy(segment: str, enough: float) -> bool:
    """Return whether this share of the letter pairs of a segment, or of its rot13, is common in English.

    Digits are read as the letters that they resemble.
    """
    common, total = pairs(segment.lower().translate(_LEET))
    if common >= enough * total:
        return True
    common, total = pairs(codecs.encode(segment.lower(), "rot13").translate(_LEET))
    return total > 7 and common >= max(enough, 0.6) * total  # a shorter cipher has no certain letters
