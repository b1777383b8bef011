"""Texts on terminals and in spreadsheets: nothing of them acts."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.plaintext import csv_line, is_visible, printable

# The characters of attacks, among others.
_CHARACTERS = "=+-@|%;,\"'\t\r\n \0\x1b\u00a0\u200b\u202e\ufe0f\uff1d\ufe63\u3164\ud800Ax1"
HOSTILE = st.text(st.sampled_from(_CHARACTERS), max_size=16)


def cells(text: str, delimiter: str) -> list[list[str]]:
    """The rows that a spreadsheet reads."""
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


@given(st.lists(HOSTILE, min_size=1, max_size=5))
def test_no_cell_is_a_formula(values: list[str]) -> None:
    """One line, as many cells as values, and none begins as a formula does, at commas as at semicolons."""
    line = csv_line(values)
    assert all(is_visible(character) for character in line)
    assert [len(row) for row in cells(line, ",")] == [len(values)] or values == [""]
    for delimiter in ",;":
        for cell in (cell for row in cells(line, delimiter) for cell in row):
            assert unicodedata.normalize("NFKC", cell.lstrip(' \u00a0\u3000"')[:1]) not in tuple("=+-@|%\u2212")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        (" \u3000@SUM(A1)", "' \u3000@SUM(A1)"),
        ("\uff1dcmd|'/c calc'!A0", "'\uff1dcmd|'/c calc'!A0"),
        ("\u200b=1", "\\u200b=1"),
        ("\t=1", "\\t=1"),
        ('a;"=1', "a;'\"=1"),
        ("a; +1;b", "a;' +1;b"),
        ("plain, text; and - more", "plain, text; and - more"),
        (-0.5, "-0.5"),
        (True, "true"),
        (None, ""),
    ],
)
def test_cells(value: object, cell: str) -> None:
    """Formulas get an apostrophe, hidden characters are escaped, numbers stay numbers."""
    assert cells(csv_line([value, "x"]), ",") == [[cell, "x"]]


@given(HOSTILE)
def test_a_printable_text_is_one_line_and_controls_nothing(text: str) -> None:
    """Every character is visible and has a code in UTF-8; what was visible stays as it is."""
    shown = printable(text)
    shown.encode()
    assert all(is_visible(character) for character in shown)
    assert "".join(character for character in text if is_visible(character)) == shown or shown != text


@pytest.mark.parametrize(
    "hidden", ["\u115f", "\u3164", "\u2800", "\ufe01", "\U000e0141", "\U000e0041", "\u034f", "\u2066"]
)
def test_blank_letters_are_hidden(hidden: str) -> None:
    """Fillers, variation selectors and tags, in which a text can hide another, are written as escapes."""
    assert printable(f"a{hidden}b").startswith("a\\")
    assert printable("\u2764\ufe0f") == "\u2764\ufe0f"
