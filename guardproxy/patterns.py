"""What a guard without a model looks for and finds, and how much of a growing text stays undecided. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, Protocol

import regex
from annotated_types import Interval, Len

from guardproxy.types import Finding, Span, Taxonomy, Verdict

UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that write words without a space between them, as a set of an expression has them."""
# Those and Hangul, whose particles follow a foreign word at once: it ends where their letters begin.
_CLOSE = rf"{UNSPACED}\p{{Hangul}}"
WORD: Final[Any] = regex.compile(rf"[\w--[{_CLOSE}]]+|[{_CLOSE}]+", regex.VERSION1)
"""A word, with its combining marks: letters, digits and underscores of any script."""
LONGEST_WORD: Final = 100
"""Characters; a longer word is none of a list."""

Pattern = Annotated[str, Len(1)]

# Escapes of JSON for white space and quotation marks, also of JSON within JSON. Their letters belong to no word.
_ESCAPES = re.compile(r'(?<!\\)\\++[nrtbf"/]')


@dataclass(frozen=True, slots=True)
class CategoryPatterns:
    """What makes a text belong to a category: one hit of any kind is enough."""

    words: Pattern | tuple[Pattern, ...] = ()
    """Words and phrases, found in any case and with any signs between their words; or `file:NAME`, one per line."""
    regexes: tuple[Pattern, ...] = ()
    """Regular expressions in the syntax of RE2, which needs linear time; `(?i)` at the start for any case."""
    secrets: Literal["all"] | tuple[Pattern, ...] = ()
    """Formats of credentials by name, or `all`."""
    sha256: Pattern | tuple[Pattern, ...] = ()
    """SHA-256 hashes of words and phrases, so that the list cannot be read; or `file:NAME`, one per line."""
    max_words: Annotated[int, Interval(ge=1, le=10)] = 3
    """The most words of a phrase in `sha256`."""
    max_length: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    """For expressions without a bound: the most characters of a match that are held back whole from a stream."""
    probability: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """The probability of a hit, with which thresholds are compared."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back from the end of a growing text a match may begin that is not decided yet.

    A match may have the last `characters` of the text, whatever they are, the last `unspaced` ones if no white space is
    among them, and the last `words` words.
    """

    characters: int = 0
    unspaced: int = 0
    words: int = 0

    def undecided(self, text: str) -> int:
        """The number of characters at the end of `text` that a match may have in part."""
        tail = text[-self.unspaced :] if self.unspaced else ""
        run = 0 if not tail or tail[-1].isspace() else len(tail.rsplit(maxsplit=1)[-1])
        return max(min(self.characters, len(text)), run, _of_words(text, self.words) if self.words else 0)


def widest(reaches: Iterable[Reach]) -> Reach:
    """The reach of several patterns together."""
    found = list(reaches)
    return Reach(
        max([reach.characters for reach in found], default=0),
        max([reach.unspaced for reach in found], default=0),
        max([reach.words for reach in found], default=0),
    )


@dataclass(frozen=True, slots=True)
class Hit:
    """A match: where in the text, of which category, what has found it, and with which probability."""

    span: Span
    category: str
    label: str
    probability: float = 1.0


class Finder(Protocol):
    """A family without a model, whose findings are places in a text."""

    taxonomy: Taxonomy
    weight: int
    """How many times as long as patterns it takes: longer texts are searched on a thread (`offload.computed`)."""

    @property
    def reaches(self) -> Mapping[str, Reach]:
        """By category, how far back from the end of a growing text a match of it may begin."""

    def load(self) -> None:
        """Import what the first text would wait for. Raises ConfigError if it cannot be imported."""

    def hits(self, text: str, *, unfinished: bool = False) -> list[Hit]:
        """Every match, in the order of the text. In an `unfinished` text, only what nothing that follows can change."""

    def verdict(self, text: str, guard: str, *, unfinished: bool = False) -> Verdict:
        """The verdict on a text: every category, those without a hit with probability 0."""


def findings_of(hits: Iterable[Hit], nothing: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The most probable hit of each category, the first of several; `nothing` has every category with 0."""
    best: dict[str, Hit] = {}
    for hit in hits:
        if hit.category not in best or hit.probability > best[hit.category].probability:
            best[hit.category] = hit
    if not best:
        return nothing
    return tuple([_found(finding, best.get(finding.category)) for finding in nothing])


def _found(nothing: Finding, hit: Hit | None) -> Finding:
    return nothing if hit is None else replace(nothing, probability=hit.probability, label=hit.label, span=hit.span)


def without_escapes(text: str) -> str:
    """The text with spaces in place of the escapes of JSON, as long as before."""
    return _ESCAPES.sub(lambda escape: " " * len(escape.group()), text) if "\\" in text else text


def _of_words(text: str, most: int) -> int:
    """The characters from the first of the last words that a phrase of `most` words may begin with."""
    # Words are read from a tail of the text, longer ones until it has enough of them.
    size = most * 4 * LONGEST_WORD
    while True:
        tail = text[-size:]
        spans = [match.span() for match in WORD.finditer(tail)]
        if len(tail) == len(text) or len(spans) > most + 1:
            break
        size *= 8
    ends_in_word = bool(spans) and spans[-1][1] == len(tail)
    start = len(tail)
    for begin, end in spans[: -most - 1 : -1] if ends_in_word else spans[:-most:-1]:
        if end - begin > LONGEST_WORD:
            break
        start = begin
    return len(tail) - start
