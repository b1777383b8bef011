"""Values that no field map describes: which strings, keys and lists in them are judged, and which are opaque."""

import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.identifiers import is_identifier
from guardproxy.wires.shared.known import Known
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.unmapped import carries_text, is_plain, is_unreadable, judge, search, unknown_object

TOKEN_IDS = "numbers that may be token ids"
DATA = "3q2+7wABAgP//v38+/r5+Pf29fTz8vHw7+7t7Ovq6ejn5uXk4+Lh4N/e3dzb2tnY"


def parts(builder: MessageBuilder) -> dict[str, str]:
    """The texts by path; an opaque part's note in brackets."""
    return {
        part.path: f"({part.note})" if part.kind == "opaque" else part.text for part in builder.message("user").parts
    }


def found(value: Any, *, with_numbers: bool = False, known: tuple[str, ...] = ()) -> dict[str, str]:
    """The parts that a search of the value at `x` finds."""
    builder = MessageBuilder(Unreadable, Known(known))
    search(builder, value, "x", with_numbers=with_numbers)
    return parts(builder)


@pytest.mark.parametrize(
    ("value", "judged"),
    [
        ({"a": "how to build it"}, {"x.a": "how to build it"}),
        ({"a": {"b": ["auto", 1.5, None, True]}}, {}),
        ({"a": ["auto", "text"]}, {}),
        ({"a": ["how", "to"]}, {"x.a[0]": "how", "x.a[1]": "to"}),
        ({"a": ["auto", "", "how to do it"]}, {"x.a[0]": "auto", "x.a[2]": "how to do it"}),
        ({"a": ["auto", ["how to do it"]]}, {"x.a[0]": "auto", "x.a[1][0]": "how to do it"}),
        ([["auto"], ["how to"]], {"x[0][0]": "auto", "x[1][0]": "how to"}),
        ([{"type": "auto"}, {"b": "how to"}], {"x[1].b": "how to"}),
        ({"how to build it": {"a": 1}}, {"x.how to build it": 'how to build it\n{"a": 1}'}),
        ({"a.how to": "y"}, {'x["a.how to"]': "a.how to\ny"}),
        ({"a": "data:text/plain,make%20it"}, {"x.a": "make it"}),
        ({"a": "https://example.org/how_to_build_it"}, {"x.a": "https://example.org/how_to_build_it"}),
        ({"a": f"data:image/png;base64,{DATA}"}, {"x.a": "(unreadable data)"}),
    ],
)
def test_texts_in_nested_values(value: Any, judged: dict[str, str]) -> None:
    """Sentences, all strings of a list that has one, and keys that are text, each at its path, in their order."""
    assert list(found(value).items()) == list(judged.items())
    assert carries_text(value) is bool(judged)
    assert not judged or not is_plain(value)


@pytest.mark.parametrize(
    ("numbers", "opaque"),
    [
        ([1, 2], True),
        ([1.0, 2e3], True),
        ([-7], True),
        (["12", "13"], True),
        ([1, "auto"], True),
        ([1.5, 2], False),
        (["1.5"], False),
        ([True, False], False),
        ([None], False),
        ([], False),
        (["1" * 40], False),
    ],
)
def test_lists_of_whole_numbers(numbers: list[Any], opaque: bool) -> None:
    """Whole numbers may be token ids, in any format; fractions, booleans and long digits are none."""
    assert (found({"a": numbers}).get("x.a") == f"({TOKEN_IDS})") is opaque
    assert (f"({TOKEN_IDS})" in found({"a": numbers}, with_numbers=True).values()) is False
    assert is_plain({"a": numbers}) is not opaque
    assert carries_text(numbers) is opaque


def test_known_strings_pass() -> None:
    """A string that the message names elsewhere is no text, but any other is."""
    assert found({"a": "look it up for me"}, known=("look it up for me",)) == {}
    assert found({"a": "look it up for us"}, known=("look it up for me",)) == {"x.a": "look it up for us"}


def test_a_string_behind_a_text_is_judged() -> None:
    """A stream may bring a text in pieces, so a piece that is an identifier belongs to the text before it."""
    builder = MessageBuilder(Unreadable)
    judge(builder, "auto", "x")
    assert parts(builder) == {}
    for piece in ("how to build", "auto"):
        judge(builder, piece, "x")
    assert parts(builder) == {"x": "how to buildauto"}
    judge(builder, "auto", "x", is_unreadable)
    assert parts(builder) == {"x": "how to buildauto"}


def test_many_segments_without_words_are_judged() -> None:
    """Sixteen different segments that are no words pass, such as two UUIDs; seventeen could spell a text."""
    few, many = ({str(n): letter for n, letter in enumerate("bcdfghjklmnpqrstv"[:count])} for count in (16, 17))
    assert (found(few), is_plain(few)) == ({}, True)
    assert "".join(found(many).values()) == "bcdfghjklmnpqrstv"
    assert not is_plain(many)
    ids = {"a": str(uuid.UUID(int=0x0A1B2C3D4E5F60718293A4B5C6D7E8F9))}
    assert (found(ids), is_plain(ids)) == ({}, True)


@pytest.mark.parametrize(
    ("items", "judged"),
    [
        (["novel", "auto"], False),
        (["auto", ["novel"]], False),
        (["novel", "tiger"], True),
        (["novel", ["tiger"]], True),
        (["auto", "how to build it"], True),
    ],
)
def test_a_list_has_a_word_of_its_own_at_most(items: list[Any], judged: bool) -> None:
    """A field of identifiers takes a list with a single word that no protocol uses; several could be a sentence."""
    builder = MessageBuilder(Unreadable)
    search(builder, items, "x", is_identifier, with_numbers=False)
    assert bool(parts(builder)) is judged


@pytest.mark.parametrize(
    ("value", "unreadable"),
    [
        ("auto", True),
        ("https://example.org/how%20to?a=b", True),
        ("data:image/png;base64,iVBO", True),
        (DATA, True),
        ("https://example.org/ how to", False),
        ("how to build it", False),
    ],
)
def test_what_a_field_of_a_file_may_have(value: str, unreadable: bool) -> None:
    """Identifiers, URLs and data; a text is none of them."""
    assert is_unreadable(value) is unreadable


@pytest.mark.parametrize(
    ("value", "kind", "judged"),
    [
        ({"type": "novel", "a": 1}, "novel", {"x": "(item of type novel)"}),
        ({"a": 1}, "", {"x": "(item of type unknown)"}),
        ({"text": "how to build it"}, "", {"x.text": "how to build it"}),
        ({"type": "novel", "a": "how to"}, "novel", {"x.a": "how to", "x": "(item of type novel)"}),
        (
            {"type": "how to build it"},
            "how to build it",
            {"x.type": "how to build it", "x": "(item of type unknown)"},
        ),
        (
            {"a": "see it at https://example.org/x"},
            "",
            {"x.a": "see it at https://example.org/x", "x": "(item of type unknown)"},
        ),
        ({"a": "data:text/plain,make it"}, "", {"x.a": "make it", "x": "(item of type unknown)"}),
    ],
)
def test_objects_of_unknown_types(value: dict[str, Any], kind: str, judged: dict[str, str]) -> None:
    """The text in the object is judged, and the object is opaque unless it is only a text without a type or a URL."""
    assert is_identifier("novel")
    builder = MessageBuilder(Unreadable)
    unknown_object(builder, value, "x", "item", kind)
    assert parts(builder) == judged


@given(
    st.sampled_from(
        ["https://", "data:a b,", "data:,", "x:", "", "1:", ":", "a" * 70_000 + "://", "data:" + "b" * 210]
    ),
    st.integers(0, 200_000),
    st.sampled_from(["", " ", "\n", "\u2003", "é"]),
    st.integers(66_000, 200_000),
)
def test_long_urls_are_read_as_short_ones(head: str, before: int, sign: str, behind: int) -> None:
    """A URL is found in pieces if and only if it is found as a whole."""
    text = head + "+" * before + sign + "é" * behind  # nothing of it is an identifier or data
    whole = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|[^,]{0,200},)\S*", text) is not None
    assert is_unreadable(text) == whole
