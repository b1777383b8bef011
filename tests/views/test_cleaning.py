"""Hidden, invisible, styled and look-alike characters; what a reader sees of a text."""

import pytest

from guardproxy.views import says_something

UNSEEN = (
    *("", " \n\t", "\u200b\u200d\u2060", "\u3164\u115f\uffa0", "\u2800", "\ufe0f\U000e0100", "\u0301\u0336", "..."),
    *("?!", "\U000e0041\U000e0042", "\u202e\u202c", "\x00\x1b", "\u00ad", "\U0001d159", "\u00a0\u2003"),
)


@pytest.mark.parametrize("text", UNSEEN)
def test_a_reader_sees_nothing_said(text: str) -> None:
    """White space, invisible characters, lone marks and punctuation say nothing."""
    assert not says_something(text)


@pytest.mark.parametrize("text", ["ok", "7", "是", "да", "👍", "€", "+", "\u200bA", "... и"])
def test_a_reader_sees_something_said(text: str) -> None:
    """A letter of any alphabet, a digit or a symbol says something."""
    assert says_something(text)
