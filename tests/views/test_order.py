"""Texts with right-to-left overrides are read as they are displayed."""

import base64
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.views.order import displayed
from tests.views.kit import SENTENCES, read


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_displayed_isread(sentence: str) -> None:
    """Letters stored backwards and displayed forwards are read as displayed, with nested overrides or word by word."""
    turned = sentence[::-1]
    assert read(f"Please: \u202e{turned}\u202c. Thanks!", sentence)
    assert read(f"\u202e{turned}", sentence)
    assert read("\n".join(f"\u202e{word[::-1]}" for word in sentence.split()), sentence)
    assert read(" ".join(f"\u202e{word[::-1]}\u202c" for word in sentence.split()), sentence)
    assert read(f"\u202e{turned[:20]}\u202d{turned[20:29][::-1]}\u202c{turned[29:]}\u202c", sentence)
    encoded = base64.b64encode(sentence.encode()).decode()
    assert read(f"\u202e{encoded[::-1]}\u202c", sentence)


_CONTROLS = "ab\u202e\u202e\u202d\u202a\u202c\u202c\u2066\u2068\u2069\n"


@given(st.text(alphabet=_CONTROLS + "cdefghij", max_size=60))
@settings(max_examples=500, deadline=None)
def test_the_displayed_order_is_that_of_the_algorithm(text: str) -> None:
    """Reverse the runs of each level, deepest first: rule L2 of UAX #9, step by step."""
    wanted = "\n".join(_turned(line) if "\u202e" in line else line for line in text.split("\n"))
    assert displayed(text) == wanted


def _turned(line: str) -> str:
    levels, chars = [0], []
    for char in line:
        if char in "\u202a\u202d\u202e\u2066\u2068":
            up = 1 if levels[-1] % 2 == (char != "\u202e") else 2
            levels.append(levels[-1] + up)
        elif char in "\u202c\u2069":
            levels[1:] = levels[1:-1]
        else:
            chars.append((levels[-1], char))
    for level in range(max((one for one, _ in chars), default=0), 0, -1):
        pieces = [(deep, list(run)) for deep, run in groupby(chars, lambda one, level=level: one[0] >= level)]
        chars = [char for deep, run in pieces for char in (reversed(run) if deep else run)]
    return "".join(char for _, char in chars)


DEEP = "\u202e\u202a" * 62  # 124 levels


def test_the_deepest_level_has_the_number_125() -> None:
    """A control that would go deeper has no effect, and neither have those behind it up to its end."""
    assert displayed(f"{DEEP}x\u202eab") == "xba"
    assert displayed(f"{DEEP}x\u202eab\u202acd\u202cef\u202cyz") == "xfedcbayz"
    assert displayed(f"{DEEP}\u202aa\u202ebc\u202c\u202c\u202ede") == "abced"
    assert displayed(f"{DEEP}x\u202eab\u202a\u202acd\u202c\u202cef\u202cyz") == "xfedcbayz"


def test_a_direction_begins_at_the_next_level_of_its_kind() -> None:
    """An override inside an override is two levels deeper: its text runs backwards as well."""
    assert displayed("a\u202ebc\u202ede\u202cfg\u202ch") == "agfedcbh"
    assert displayed("a\u202ebc\u202dde\u202cfg\u202ch") == "agfdecbh"
    assert displayed("a\u202bbc\u202c-\u2067de\u2069-\u202efg") == "abc-de-gf"
    assert displayed("ab\u202c\u202c\u202ecd\u202c\u202cef") == "abdcef"


@pytest.mark.parametrize("end", ["\n", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2029"])
def test_a_paragraph_ends_every_control(end: str) -> None:
    """Behind the end of a paragraph, text runs forwards again, and a paragraph without an override stays."""
    assert displayed(f"a\u202ebc{end}de\u2066f") == f"acb{end}de\u2066f"
