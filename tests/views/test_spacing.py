"""Letters and encodings that are written apart are put together; tables, lists and code are not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.views import VIEWS, views
from tests.views.kit import SENTENCES, read


@given(
    st.sampled_from(SENTENCES), st.sampled_from(["\t", "\n", "  ", "\t\t", " \n", "\u2003", "\u00a0", "\r\n", "\x0b"])
)
def test_letters_apart_by_any_white_space_are_words(sentence: str, separator: str) -> None:
    """Any white space between all letters is removed, and the words stay apart."""
    assert any(sentence in " ".join(view.text.split()) for view in views(separator.join(sentence), VIEWS))


@given(st.sampled_from(SENTENCES), st.data())
@settings(deadline=None)
def test_letters_apart_by_mixed_white_space_areread(sentence: str, data: st.DataObject) -> None:
    """Different white space between the letters hides nothing, nor does its length."""
    gaps = st.sampled_from([" ", "\t", "\n", "  ", "\r\n"])
    assert read("".join(char + data.draw(gaps) for char in sentence), sentence)


NOT_APART = (
    "a\tb\tc\td\n1\t2\t3\t4\n5\t6\t7\t8",
    "Name\tA\tB\tC\tD\tE\nAnna\t1\t2\t1\t3\t1\nTom\t2\t2\t1\t1\t1",
    "A\nB\nC\nD\nE\nF\nG\nH\nI\nJ\nK\nL\nM",
    "- x\n- y\n- z\n- w",
    "for i in x:\n    a = b + c * d - e / f\n    y = [a, b, c, d]",
    "1 2 3 4 5 6 7 8 9 1 2 3\n4 5 6 7 8 9 1 2 3 4 5 6",
    "| x | y | z |\n|---|---|---|\n| 1 | 0 | 1 |\n| 0 | 1 | 1 |",
    "x . o . x . o . . x . o\n. x . o . x . . o . x .",
    "Y\nN\nY\nY\nN\nN\nY\nN",
)


@pytest.mark.parametrize("text", NOT_APART)
def test_tables_lists_and_code_are_no_letters_apart(text: str) -> None:
    """Cells, items and names of one letter make no view."""
    assert views(text, VIEWS) == ()
