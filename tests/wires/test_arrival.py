"""The order in which the texts of a stream arrive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import Part, PartKind
from guardproxy.wires.shared.arrival import MAX_KINDS, Arrivals, Said


def said(path: str, text: str, kind: PartKind = "text") -> Said:
    return path, kind, text


def shown(parts: tuple[Part, ...]) -> list[tuple[str, str]]:
    return [(part.path, part.text) for part in parts]


def alternating() -> Arrivals:
    """Return two choices that have spoken in turn: `a`, `b`, `c`."""
    arrivals = Arrivals()
    for choice, text in ((0, "a"), (1, "b"), (0, "c")):
        assert arrivals.add(choice, [said("x.content", text)], ["x.content"]) == 1
    return arrivals


def test_texts_one_after_the_other_have_no_order_of_their_own() -> None:
    """A single text, and texts of a choice in the order of its parts, are read as they are."""
    arrivals = Arrivals()
    assert arrivals.fed() == ()
    paths = ["x.reasoning", "x.content"]
    for text in ("a", "b"):
        assert arrivals.add(0, [said("x.reasoning", text, "reasoning")], paths) == 1
    for text in ("c", "d"):
        assert arrivals.add(0, [said("x.content", text)], paths) == 1
    assert arrivals.fed() == ()
    arrivals.release(4)
    assert arrivals.released() == ()


def test_choices_in_alternation() -> None:
    """Pieces of a text in a row are one."""
    assert shown(alternating().fed()) == [("x.content", "a"), ("x.content", "b"), ("x.content", "c")]
    arrivals = Arrivals()
    arrivals.add(0, [said("x.content", "a")], ["x.content"])
    assert arrivals.add(1, [said("x.content", "b"), said("x.content", "c")], ["x.content"]) == 2
    assert shown(arrivals.fed()) == [("x.content", "a"), ("x.content", "bc")]


def test_a_text_that_goes_on_behind_another() -> None:
    """One choice whose reasoning and text take turns."""
    arrivals = Arrivals()
    paths = ["x.reasoning", "x.content"]
    for text in ("a", "c"):
        arrivals.add(0, [said("x.reasoning", text, "reasoning"), said("x.content", text.upper())], paths)
    assert shown(arrivals.fed()) == [("x.reasoning", "a"), ("x.content", "A"), ("x.reasoning", "c"), ("x.content", "C")]


@pytest.mark.parametrize(("first", "second", "alternate"), [(0, 1, False), (1, 0, True)])
def test_parts_of_a_kind_that_arrive_out_of_their_order(first: int, second: int, alternate: bool) -> None:
    """A reader that joins items by number shows another text than a reader of deltas."""
    paths = ["x[0].text", "x[1].text"]
    arrivals = Arrivals()
    for number in (first, second):
        arrivals.add(0, [said(paths[number], str(number))], paths)
    assert bool(arrivals.fed()) is alternate


def test_parts_of_different_kinds_may_come_in_any_order() -> None:
    """Readers keep kinds of text apart."""
    paths = ["x.reasoning", "x.content"]
    arrivals = Arrivals()
    arrivals.add(0, [said("x.content", "a")], paths)
    arrivals.add(0, [said("x.reasoning", "b", "reasoning")], paths)
    arrivals.add(0, [said("x.text", "b")], paths)
    assert arrivals.fed() == ()


def test_what_no_reader_appends_is_left_out() -> None:
    """Empty texts, texts that repeat another of the frame, and keys that clients do not show; calls have any key."""
    arrivals = alternating()
    frame = [
        said("x.content", ""),
        said("x.reasoning", "a", "reasoning"),
        said("x.reasoning_content", "a", "reasoning"),
        said("x.content", "a"),
        said("x.signature", "s"),
        said("content", "t"),
        said("x.notcontent", "n"),
        said("x.arguments", "{", "tool_call"),
    ]
    assert arrivals.add(0, frame, []) == 4
    assert shown(arrivals.fed())[3:] == [
        ("x.reasoning", "a"),
        ("x.content", "a"),
        ("content", "t"),
        ("x.arguments", "{"),
    ]


def test_what_is_released_counts_pieces() -> None:
    """Pieces are released in their order; the pieces that wait can be left out by their choice."""
    arrivals = alternating()
    assert arrivals.released() == ()
    arrivals.release(1)
    assert shown(arrivals.released()) == [("x.content", "a")]
    assert shown(arrivals.fed({0})) == [("x.content", "a"), ("x.content", "b")]
    assert shown(arrivals.fed({1})) == [("x.content", "ac")]
    assert shown(arrivals.fed({0, 1})) == [("x.content", "a")]
    arrivals.release(1)
    assert shown(arrivals.released()) == [("x.content", "a"), ("x.content", "b")]


def test_the_rest_of_a_choice_takes_the_place_of_what_waits() -> None:
    """The rest is released at once; the pieces of other choices wait behind it."""
    arrivals = alternating()
    arrivals.release(1)
    arrivals.end(0, [Part("x.content", "new"), Part("x.refusal", "rest")])
    assert shown(arrivals.released()) == [("x.content", "anew"), ("x.refusal", "rest")]
    assert shown(arrivals.fed()) == [("x.content", "anew"), ("x.refusal", "rest"), ("x.content", "b")]
    arrivals.release(1)
    assert shown(arrivals.released())[-1] == ("x.content", "b")


def test_many_kinds_that_alternate_are_unreadable() -> None:
    """Every combination of kinds is a text that is judged, so their number has a bound."""
    arrivals = alternating()
    kinds = ["content", "refusal", "text", "summary", "thinking", "response"]
    for key in kinds[1:MAX_KINDS]:
        arrivals.add(0, [said(f"x.{key}", "a")], [])
    with pytest.raises(UpstreamUnreadable, match=f"more than {MAX_KINDS} kinds"):
        arrivals.add(0, [said(f"x.{kinds[MAX_KINDS]}", "a")], [])


def test_many_kinds_in_order_are_read() -> None:
    """Without alternation, the number of kinds does not matter."""
    arrivals = Arrivals()
    for key in ("content", "refusal", "text", "summary", "thinking", "response"):
        arrivals.add(0, [said(f"x.{key}", "a")], [])
    assert arrivals.fed() == ()


PATHS = [f"content[{number}].text" for number in range(40)]


@given(
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=40, unique=True),
    st.lists(st.integers(0, 39), min_size=1, max_size=60),
    st.integers(1, 60),
)
def test_a_frame_with_many_texts_is_as_many_frames(parts: list[str], order: list[int], split: int) -> None:
    """The places of texts are the same, whether a frame brings one text or many of them."""
    said = [(parts[number % len(parts)], "text", f"{count} ") for count, number in enumerate(order)]
    known = dict.fromkeys(parts)
    one, many = Arrivals(), Arrivals()
    for piece in said:
        one.add(0, [piece], known)
    for start in range(0, len(said), split):
        many.add(0, said[start : start + split], known)
    assert many.fed() == one.fed()
    places = [parts.index(path) for path, _, _ in said]
    assert bool(one.fed()) == any(
        later < earlier or (later != earlier and later in places[: at + 1])
        for at, (earlier, later) in enumerate(pairwise(places))
    )
