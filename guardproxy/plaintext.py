"""Texts of clients and models where something might act on them: on a terminal and in a spreadsheet. Pure."""

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
# Letters, marks and symbols that show nothing. Emoji need the variation selector U+FE0F, so that one stays.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)
# What a spreadsheet takes for the beginning of a formula, with the characters that it may take for these.
_BEGINNINGS: Final = (
    "=+@|%\uff1d\ufe66\u207c\u208c\uff0b\ufe62\u207a\u208a\ufb29\uff0d\ufe63\u2212\u207b\u208b\uff20\ufe6b"
    "\uff5c\uff05\ufe6a-"
)
# At the beginning of a cell, also behind spaces. Some spreadsheets begin a cell at each semicolon, and take the
# quotation marks that follow it for those of CSV.
_FORMULA: Final = re.compile(rf'(^|;)(?=[\s"]*[{_BEGINNINGS}])')


def is_visible(character: str) -> bool:
    """Whether a character shows itself, or is a space: it neither controls what is shown nor shows nothing."""
    return unicodedata.category(character) not in _HIDDEN and not _BLANK.match(character)


def printable(text: str) -> str:
    """`text` on one line; characters that are not visible are written as escapes, so no text controls a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if is_visible(character) else _escape(character) for character in text)


def csv_line(values: Sequence[object]) -> str:
    """Values as one line of CSV (RFC 4180), without its end.

    A text is made `printable`; what a spreadsheet would take for a formula gets an apostrophe before it. None is an
    empty cell; truth values and numbers, which come from guardproxy itself, are written as JSON has them.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([_cell(value) for value in values])
    return line.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return repr(value).lower()
    return _FORMULA.sub(r"\1'", printable(str(value)))


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
