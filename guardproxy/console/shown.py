"""Texts, times and numbers as the page shows them. What a client wrote stays text: nothing of it acts. Pure."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from guardproxy.types import Span

_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
# A spreadsheet takes a cell that begins so for a formula, also behind white space.
_FORMULA: Final = re.compile(r"[\s\x00]*[=+\-@\t\r|%]")
_NUMBER: Final = re.compile(r"-?[0-9.]+(e-?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A stretch of a text: `hidden` for the name of a character that shows nothing or changes what is shown.

    `marked`: within the span that is pointed out.
    """

    text: str
    hidden: bool = False
    marked: bool = False


def pieces(text: str, span: Span | None = None) -> list[TextPiece]:
    """Divide a text at the bounds of a span and at characters that are not visible."""
    start, end = span or (0, 0)
    found: list[TextPiece] = []
    for begin, stop, marked in ((0, start, False), (start, end, True), (end, len(text), False)):
        run = begin
        for at in range(begin, stop):
            if not is_visible(text[at]):
                found += [TextPiece(text[run:at], False, marked), TextPiece(code(text[at]), True, marked)]
                run = at + 1
        found.append(TextPiece(text[run:stop], False, marked))
    return [piece for piece in found if piece.text]


def is_visible(character: str) -> bool:
    """Whether a character shows itself, or is a space, a tab or a line's end."""
    return character in " \n\t" or unicodedata.category(character) not in _HIDDEN


def code(character: str) -> str:
    """The code point of a character, such as U+202E."""
    return f"U+{ord(character):04X}"


def plain(text: str) -> str:
    """A text on one line; characters that are not visible are written as their code points in brackets."""
    single = " ".join(text.split()) if text.isprintable() else text
    return "".join(_one_line(character) for character in single)


def _one_line(character: str) -> str:
    if character in "\n\t":
        return " "
    return character if is_visible(character) else f"[{code(character)}]"


def excerpt(text: str, most: int = 140) -> str:
    """The beginning of a text on one line, and an ellipsis if there is more."""
    line = plain(text[: 2 * most]).strip()
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[:most].rstrip()}…"


def sheet(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV (RFC 4180). A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    csv.writer(out).writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return repr(value) if isinstance(value, float) else str(value).lower()
    text = "".join(c if is_visible(c) else f"[{code(c)}]" for c in str(value))
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def moment(seconds: float) -> str:
    """A time in the zone of this machine."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def machine_time(seconds: float) -> str:
    """A time for programs (ISO 8601)."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def zone() -> str:
    """The name of this machine's time zone."""
    return datetime.now().astimezone().tzname() or "local time"


def chance(probability: float) -> str:
    """A probability with as many digits as it needs."""
    if 0 < probability < 0.001:
        return "<0.001"
    if 0.999 < probability < 1:
        return ">0.999"
    return f"{probability:.3f}" if probability < 0.1 else f"{probability:.2f}"


def share(part: float, whole: float) -> str:
    """A share in percent; empty without a whole."""
    if not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %"


def seconds(value: float) -> str:
    """A length of time."""
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"


def clock(start: float, step: float) -> str:
    """The name of a period of `step` seconds: its day if it is one, else its time."""
    form = "%d %b" if step >= 86_400 else "%d %b %H:%M" if step > 3600 else "%H:%M"
    return datetime.fromtimestamp(start).astimezone().strftime(form)
