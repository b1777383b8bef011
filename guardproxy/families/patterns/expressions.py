"""Regular expressions in RE2, whose time is linear in the text whatever the expression and the text are. Pure."""

import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

import re2

from guardproxy.errors import ConfigError
from guardproxy.patterns import Reach
from guardproxy.types import Span

# The parser of Python's own expressions: it tells how long a match can be. It matches nothing.
_PARSER: Final[Any] = import_module("re._parser")
# Here both syntaxes accept a text and mean another length by it.
_READ_DIFFERENTLY = ("{,", "[:")
_MOST = 10_000
_MEMORY = 64 << 20  # bytes of an expression, and of all together, with its automaton


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. A match is decided within the last `most` characters of a growing text."""

    source: str
    compiled: Any
    category: str
    label: str
    most: int
    unspaced: bool

    @classmethod
    def of(
        cls, source: str, category: str, label: str, *, most: int | None = None, unspaced: bool = False
    ) -> "Expression":
        """Compile an expression; `unspaced` if no match has white space in it.

        Raises ConfigError for one that RE2 does not know, that is found everywhere, or whose length is not known.
        """
        compiled = _compiled(source)
        if compiled.search(b"") is not None or _longest(source) == 0:
            raise ConfigError("is found in every text; write at least one character that must be there")
        bound = _longest(source) if most is None else most
        if bound is None or bound > _MOST:
            raise ConfigError(
                "may match a text of any length; write {1,40} for + and {0,40} for *, or set max_length beside it to "
                "the most characters of a match that a stream holds back"
            )
        return cls(source, compiled, category, label, bound, unspaced)

    @classmethod
    def literal(cls, text: str, category: str, label: str) -> "Expression":
        """An expression for a text in any case and width (NFKC)."""
        spellings = [_spellings(character) for character in unicodedata.normalize("NFKC", text)]
        source = "".join(f"(?:{'|'.join(map(re2.escape, some))})" for some in spellings)
        most = max(len(text), sum(max(map(len, some)) for some in spellings))
        return cls.of(f"(?i){re2.escape(text)}|{source}", category, label, most=most)

    @property
    def reach(self) -> Reach:
        """How far back from the end of a growing text a match may begin that is not decided."""
        return Reach(unspaced=self.most) if self.unspaced else Reach(self.most)


@cache
def _widths() -> Mapping[str, Sequence[str]]:
    """The other forms of a character, such as kana of half width, which have their voice marks behind them."""
    compatible = [chr(code) for code in (*range(0xF900, 0xFB00), *range(0xFF01, 0xFFEF))]
    voiced = [kana + mark for kana in map(chr, range(0xFF66, 0xFF9E)) for mark in "\uff9e\uff9f"]
    found: defaultdict[str, list[str]] = defaultdict(list)
    for form in (*compatible, *voiced):
        if len(plain := unicodedata.normalize("NFKC", form)) == 1:
            found[plain].append(form)
    return found


def _spellings(character: str) -> Sequence[str]:
    forms = (character, unicodedata.normalize("NFD", character), *_widths().get(character, ()))
    return tuple(dict.fromkeys(forms))


class Expressions:
    """Several expressions, looked for in one pass over a text that has none of them."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self._expressions = tuple(expressions)
        self._any = _together(expressions)

    def find(self, text: str, unfinished: bool) -> Iterator[tuple[Span, str, str]]:
        """The place, the category and the label of every match. In an `unfinished` text as `PatternFamily.hits`."""
        # A lone surrogate has no UTF-8. The sign in its place keeps the positions.
        encoded = text.encode("utf-8", "replace")
        if not self._expressions or (self._any is not None and self._any.search(encoded) is None):
            return
        for one in self._expressions:
            for start, end in _spans(one.compiled, encoded, in_bytes=len(encoded) == len(text)):
                if start < end and not (unfinished and end == len(text) and end - start <= one.most):
                    yield (start, end), one.category, one.label


def _spans(compiled: Any, encoded: bytes, *, in_bytes: bool) -> Iterator[Span]:
    """The places of all matches, in characters. Time linear in the text: each byte is decoded once."""
    byte = character = 0
    for match in compiled.finditer(encoded):
        start, end = match.span()
        if in_bytes:
            yield start, end
            continue
        first = character + len(encoded[byte:start].decode("utf-8", "ignore"))
        byte, character = end, first + len(encoded[start:end].decode("utf-8", "ignore"))
        yield first, character


def _together(expressions: Sequence[Expression]) -> Any:
    """One expression that finds whether a text has any of several; None if they are too large together.

    So it is if one has `\\Q`, which without `\\E` would quote the others.
    """
    if any("\\Q" in one.source for one in expressions):
        return None
    try:
        return _compiled("|".join(f"(?:{one.source})" for one in expressions)) if expressions else None
    except ConfigError:
        return None


def _compiled(source: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MEMORY
    try:
        return re2.compile(source.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ConfigError(f"is no expression of RE2: {told}; see github.com/google/re2/wiki/Syntax") from None
    except UnicodeEncodeError:
        raise ConfigError("has an unpaired surrogate") from None


def _longest(source: str) -> int | None:
    """The most characters of a match; None if there is no bound, or if it is not known."""
    if any(sign in source for sign in _READ_DIFFERENTLY):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what later versions of Python will read differently
            longest = int(_PARSER.parse(source).getwidth()[1])
    except (re.error, FutureWarning, DeprecationWarning, RecursionError, OverflowError):
        return None
    return longest if longest <= _MOST else None
