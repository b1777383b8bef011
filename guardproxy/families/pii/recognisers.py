"""Presidio's recognisers, each as a function from a text to its matches. Presidio is imported when the first is made.

Presidio skips an expression that takes too long, and goes on without it; here the guard fails then. Its e-mail
recogniser fetches the list of public suffixes from the Internet; here the list that comes with tldextract is used.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final

import regex

from guardproxy.errors import GuardUnavailable
from guardproxy.families.pii.entities import EMAIL, EMAIL_DOMAIN, EMAIL_LOCAL, ENTITIES, PHONE
from guardproxy.types import Span

Recogniser = Callable[[str], Iterator[tuple[Span, float]]]
"""The place and Presidio's score of every match, in any order."""

PACKAGE: Final = "presidio_analyzer"
_RECOGNISERS: Final = f"{PACKAGE}.predefined_recognizers"
_TIMEOUT_S = 30.0  # of an expression on one text; 10 MB take less than a second
# What may have a phone number in it: seven digits or more, with a few signs between two of them. Presidio looks for the
# numbers of one country after the other, so it is asked only about such places, with what may stand around a number. A
# longer run is searched in stretches: phonenumbers gives up after 65,535 numbers that are none.
_DIGITS = regex.compile(r"\d(?:[^\d\p{L}\n]{0,6}+\d){6,199}+")
_GOES_ON = regex.compile(r"[^\d\p{L}\n]{0,6}+\d")
_AROUND = 40
# Characters of such places in one text: 10 to 30 seconds of work with seven countries.
_MOST_PLACES = 200_000

# What Presidio's LemmaContextAwareEnhancer does by default, but with words in place of lemmas, which need a model.
_BONUS, _LEAST = 0.35, 0.4
_WORDS_BEFORE = 8  # as many as five with the small words that Presidio does not count
_CHARACTERS_BEFORE = 100
_WORD = regex.compile(r"\w+")
_SHORT = 3  # a context word of so many letters must be the whole word: "us" is not in "use"


def opened(entity: str, regions: Sequence[str]) -> Recogniser:
    """The recogniser of an entity; `regions` are the countries whose phone numbers are known without a prefix."""
    if entity == PHONE:
        return _with_context(*_phone(tuple(regions)))
    return _with_context(*_by_patterns(entity))


def _with_context(found: Recogniser, context: Sequence[str]) -> Recogniser:
    """A recogniser whose scores are higher where one of the `context` words stands before the match."""
    wanted = _context(context)

    def scored(text: str) -> Iterator[tuple[Span, float]]:
        for span, score in found(text):
            if score < 1.0 and wanted is not None and wanted.search(_before(text, span[0])):
                yield span, min(max(score + _BONUS, _LEAST), 1.0)
            else:
                yield span, score

    return scored


def _context(words: Sequence[str]) -> Any:
    """An expression for any of the words, at the start of a word of the text; None without words."""
    short = [word for word in words if len(word) <= _SHORT]
    long = [word for word in words if len(word) > _SHORT]
    spellings = [rf"{regex.escape(word)}(?!\w)" for word in short] + [regex.escape(word) for word in long]
    return regex.compile(rf"(?i)(?<!\w)(?:{'|'.join(spellings)})") if spellings else None


def _before(text: str, start: int) -> str:
    """The last words before a place, with the signs between them as one space."""
    words = _WORD.findall(text[max(0, start - _CHARACTERS_BEFORE) : start])
    return " ".join(words[-_WORDS_BEFORE:])


@cache
def _phone(regions: tuple[str, ...]) -> tuple[Recogniser, Sequence[str]]:
    one = import_module(_RECOGNISERS).PhoneRecognizer(supported_regions=regions)

    def found(text: str) -> Iterator[tuple[Span, float]]:
        searched = behind = 0
        for match in _DIGITS.finditer(text):
            searched += len(match.group())
            if searched > _MOST_PLACES:
                raise GuardUnavailable(
                    f"more than {_MOST_PLACES:,} characters may be phone numbers: too many to search"
                )
            # A number that begins in a stretch may end in the next one.
            after = ENTITIES[PHONE].most if _GOES_ON.match(text, match.end()) else _AROUND
            start, end = max(behind, match.start() - _AROUND), match.end() + after
            for (first, last), score in _results(one, text[start:end]):
                yield (start + first, start + last), score
            behind = match.end()

    return found, one.context


@cache
def _by_patterns(entity: str) -> tuple[Recogniser, Sequence[str]]:
    one = _email() if entity == EMAIL else getattr(import_module(_RECOGNISERS), ENTITIES[entity].recogniser)()
    if type(one).analyze is not import_module(PACKAGE).PatternRecognizer.analyze:  # the recogniser of IBANs
        return (lambda text: _results(one, text)), one.context
    # What looks ahead to the end of the text has no bound: one weak expression for Indian tax numbers.
    patterns = [pattern for pattern in one.patterns if ".*" not in pattern.regex]
    compiled = [(regex.compile(pattern.regex, one.global_regex_flags), pattern.score) for pattern in patterns]
    search = around_signs if entity == EMAIL else _everywhere

    def found(text: str) -> Iterator[tuple[Span, float]]:
        for expression, score in compiled:
            for start, end in search(expression, text):
                if start < end and (own := _validated(one, text[start:end], score)) > 0:
                    yield (start, end), own

    return found, one.context or ()


def _email() -> Any:
    suffixes = import_module("tldextract").TLDExtract(cache_dir=None, suffix_list_urls=())

    class Offline(import_module(_RECOGNISERS).EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    return Offline()


def _results(one: Any, text: str) -> Iterator[tuple[Span, float]]:
    for result in one.analyze(text, one.supported_entities):
        yield (result.start, result.end), result.score


def _validated(one: Any, match: str, score: float) -> float:
    """The score of a match after Presidio's own checks of it, such as checksums; 0 if it is none."""
    valid = one.validate_result(match)
    if valid is False or one.invalidate_result(match):
        return 0.0
    return 1.0 if valid else score


def _everywhere(expression: Any, text: str) -> Iterator[Span]:
    try:
        for match in expression.finditer(text, timeout=_TIMEOUT_S, concurrent=True):
            yield match.span()
    except TimeoutError:
        raise GuardUnavailable(f"an expression of Presidio took longer than {_TIMEOUT_S:g} s") from None


def around_signs(expression: Any, text: str) -> Iterator[Span]:
    """The matches around each `@`, so that a long run of other signs does not take time that grows with its square.

    A match has one `@`, so what is searched ends at the ones beside it: no character is searched more than twice.
    """
    before, at = -1, text.find("@")
    while at >= 0:
        following = text.find("@", at + 1)
        end = len(text) if following < 0 else following
        match = expression.search(text, max(before + 1, at - EMAIL_LOCAL), min(end, at + 1 + EMAIL_DOMAIN))
        if match is not None:
            yield match.span()
            before = match.end() - 1
        before, at = max(before, at), following
