"""A message is built from pieces in any order, and its size and its pieces are those of its text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.types import Message, Part
from guardproxy.wires.shared.known import Known
from guardproxy.wires.shared.message_builder import ODD_KEYS, MessageBuilder

# Words that no protocol uses.
ODD = ("flamingo", "walrus", "ostrich", "kettle")
SHORT = st.text("ab", max_size=2)


def new(known: tuple[str, ...] = ()) -> MessageBuilder:
    """Return an empty builder of a request's message."""
    return MessageBuilder(Unreadable, Known(known))


def texts(builder: MessageBuilder) -> dict[str, str]:
    """The readable texts by path."""
    return {part.path: part.text for part in builder.message("user").parts if part.kind != "opaque"}


def test_a_new_builder_is_empty() -> None:
    """Nothing is in a message before something is added."""
    builder = new(("a name",))
    assert builder.message("tool") == Message("tool", ())
    assert (builder.size, builder.opaques, builder.calls, builder.take(), builder.pieces) == (0, 0, 0, [], {})
    assert (builder.text("a"), builder.head("a")) == ("", "")
    assert (builder.error, "a name" in builder.known, "b" in builder.known) == (Unreadable, True, False)


@given(
    st.lists(st.tuples(st.sampled_from(["add", "call"]), st.sampled_from("pq"), SHORT, SHORT), max_size=6),
    st.booleans(),
)
def test_the_size_is_that_of_the_message(pieces: list[tuple[str, str, str, str]], often: bool) -> None:
    """A text grows by its pieces; a call is its name and its arguments, with a line break if it has both.

    It does not matter how often the text is asked for.
    """
    builder = new()
    heads: dict[str, str] = {}
    bodies: dict[str, str] = {}
    for number, (operation, path, name, text) in enumerate(pieces, 1):
        if operation == "add":
            builder.add(path, text)
        else:
            builder.call(path, name, text)
            heads[path] = heads.get(path, "") + name
        bodies[path] = bodies.get(path, "") + text
        if often or number == len(pieces):
            assert [builder.head(p) for p in bodies] == [heads.get(p, "") for p in bodies]
            assert builder.size == builder.message("assistant").size
            expected = {p: "\n".join(t for t in (heads.get(p, ""), bodies[p]) if t) for p in bodies}
            assert texts(builder) == expected
            assert [builder.text(p) for p in bodies] == [*expected.values()]


@given(st.lists(SHORT, max_size=3), st.lists(SHORT, max_size=3), st.integers(0, 9))
def test_what_was_added_is_taken_once(names: list[str], arguments: list[str], cut: int) -> None:
    """The pieces that frames bring, joined, are the text: that is what the client has read of it."""
    builder = new()
    taken: list[tuple[str, str]] = []
    steps = [(name, "") for name in names] + [("", argument) for argument in arguments]
    for number, (name, argument) in enumerate(steps):
        builder.call("p", name, argument)
        if number == cut:
            taken += builder.take()
            assert builder.take() == []
    taken += builder.take()
    assert "".join(text for _, text in taken) == builder.text("p")
    assert {path for path, _ in taken} == ({"p"} if steps else set())


def test_parts_keep_their_kind_and_their_order() -> None:
    """The first piece at a path decides about the kind and the place of its part."""
    builder = new()
    builder.add("b", "one ", "reasoning")
    builder.opaque("a", "image")
    builder.call("c", "tide", "{}")
    builder.add("b", "two")
    builder.add("d", "")
    assert builder.message("assistant").parts == (
        Part("b", "one two", "reasoning"),
        Part("a", "", "opaque", "image"),
        Part("c", "tide\n{}", "tool_call"),
        Part("d", ""),
    )
    assert [builder.kind(path) for path in "bcd"] == ["reasoning", "tool_call", "text"]
    assert builder.take() == [("b", "one "), ("a", ""), ("c", "tide\n{}"), ("b", "two"), ("d", "")]


def test_calls_are_counted_once() -> None:
    """A call that comes in pieces is one call; a text is none."""
    builder = new()
    for name, arguments in (("ti", ""), ("de", '{"a'), ("", '":1}')):
        builder.call("a", name, arguments)
    builder.add("b", "text")
    assert (builder.calls, builder.text("a")) == (1, 'tide\n{"a":1}')
    builder.call("c", "x", "")
    assert builder.calls == 2


def test_an_opaque_part_and_a_text_may_have_one_place() -> None:
    """Each time that content cannot be read is counted, so that a frame that brings more of it waits."""
    builder = new()
    builder.opaque("a", "image")
    builder.add("a", "text")
    builder.opaque("a", "audio")
    assert builder.message("user").parts == (Part("a", "", "opaque", "audio"), Part("a", "text"))
    assert (builder.opaques, builder.size, builder.text("a")) == (2, 4, "text")


def test_a_name_is_added_once() -> None:
    """Frames repeat a name; another string at the same place goes on with it."""
    builder = new()
    for text in ("gpt", "gpt", "-4"):
        builder.name("model", text)
    assert texts(builder) == {"model": "gpt-4"}
    builder.name("model", "gpt-4")
    assert texts(builder) == {"model": "gpt-4"}
    assert [text for _, text in builder.take()] == ["gpt", "-4"]


def test_a_few_keys_may_be_words_of_their_own() -> None:
    """The keys of a message together have too few words for a sentence; the same key again is no other word."""
    builder = new()
    assert ODD_KEYS == 3
    for word in (*ODD[:3], *ODD[:3], "content", "x_id"):
        assert builder.may_name(word, "x")
    assert not builder.may_name(ODD[3], "x")
    assert builder.may_name("content", "x")
    assert new().may_name(ODD[3], "x")


def test_a_key_of_several_words_is_a_text() -> None:
    """It does not use up the words of other keys."""
    builder = new()
    for _ in range(ODD_KEYS):
        assert not builder.may_name("how to do it", "x")
    assert [builder.may_name(word, "x") for word in ODD] == [True, True, True, False]


def test_the_words_of_keys_are_noted() -> None:
    """Keys and identifiers with too many words together are judged, at the paths of the keys' values."""
    builder = new()
    for word in (*ODD[:3], "content", "x_id"):
        builder.may_name(word, f"m.{word}")
    builder.add_noted()
    assert not builder.added
    for place, word in enumerate(("pillow", "blanket")):
        builder.known.note(f"x[{place}]", f"{word}-curtain")
    builder.add_noted()
    found = texts(builder)
    assert [found[f"m.{word}"] for word in ODD[:3]] == [*ODD[:3]]
    assert (found["x[0]"], found["x[1]"]) == ("pillow-curtain", "blanket-curtain")
    builder.take()
    builder.add_noted()
    assert not builder.added


def test_parts_of_another_message_are_included() -> None:
    """Their kinds and notes stay; a text at the same path goes on."""
    builder = new()
    builder.add("b", "one ")
    parts = (Part("a", "", "opaque", "image"), Part("b", "two"), Part("c", "why", "reasoning"))
    builder.include(iter(parts))
    assert builder.message("user").parts == (Part("b", "one two"), parts[0], parts[2])
    assert (builder.opaques, builder.size) == (1, 10)


def _reading(*pieces: tuple[Any, ...]) -> MessageBuilder:
    """Return a builder with texts (path, text), calls (path, name, arguments) or opaque parts (path,)."""
    builder = MessageBuilder(UpstreamUnreadable)
    for piece in pieces:
        if len(piece) == 1:
            builder.opaque(*piece, "image")
        elif len(piece) == 2:
            builder.add(*piece, "reasoning")
        else:
            builder.call(*piece)
    return builder


@pytest.mark.parametrize(
    ("streamed", "repeated", "after"),
    [
        ([("a", "one")], [("a", "one")], {"a": "one"}),
        ([("a", "one")], [("a", "")], {"a": "one"}),
        ([("a", "")], [("a", "one")], {"a": "one"}),
        ([], [("a", "one")], {"a": "one"}),
        ([], [("a", "tide", "{}")], {"a": "tide\n{}"}),
        ([("a", "", "")], [("a", "tide", "{}")], {"a": "tide\n{}"}),
        ([("a", "tide", "{}")], [("a", "tide", "{}")], {"a": "tide\n{}"}),
        ([("a", "tide", "")], [("a", "tide", "{}")], {"a": "tide\n{}"}),
        ([("a", "one")], [("a", "two"), ("b", "three")], {"a": "one\ntwo", "b": "three"}),
        ([("a", "tide", "{}")], [("a", "wind", "[]")], {"a": "tide\n{}\nwind\n[]"}),
        ([("a", "tide", "")], [("a", "wind", "")], {"a": "tide\n\nwind"}),
        ([("a", "tide", "")], [("a", "wind", "[]")], {"a": "tide\n\nwind\n[]"}),
        ([("a", "tide", "{}")], [("a", "tide", "[]")], {"a": "tide\n{}\ntide\n[]"}),
    ],
)
def test_a_repetition_is_absorbed(
    streamed: list[tuple[Any, ...]], repeated: list[tuple[Any, ...]], after: dict[str, str]
) -> None:
    """A repeated text is not added again; another text comes behind a line break."""
    builder = _reading(*streamed)
    before = builder.message("assistant").parts
    builder.absorb(_reading(*repeated), ())
    taken = builder.take()
    assert {path: "".join(text for place, text in taken if place == path) for path in after} == after
    assert texts(builder) == after
    assert builder.size == builder.message("assistant").size
    for part in builder.message("assistant").parts:
        one = next(iter([p for p in before if p.path == part.path] or _reading(*repeated).message("user").parts))
        assert part.kind == one.kind


@pytest.mark.parametrize(
    ("streamed", "repeated", "refused"),
    [
        ([("a", "one")], [("a", "one")], False),
        ([("a", "one")], [("a", "")], False),
        ([("a", "")], [("a", "one")], False),
        ([("a", "one")], [("a", "one two")], True),
        ([("a", "one")], [("a", "two")], True),
        ([("a", "tide", "{}")], [("a", "tide", "{}")], False),
        ([("a", "tide", "")], [("a", "tide", "{}")], False),
        ([("a", "tide", "")], [("a", "wind", "{}")], True),
        ([("a", "tide", "{}")], [("a", "tide", "[]")], True),
        ([("a", "one"), ("b", "x")], [("b", "y")], False),
    ],
)
def test_a_streamed_text_has_one_wording(
    streamed: list[tuple[Any, ...]], repeated: list[tuple[Any, ...]], refused: bool
) -> None:
    """Where a text was streamed, clients show the streamed or the repeated text: another text is an error there."""
    builder = _reading(*streamed)
    if not refused:
        builder.absorb(_reading(*repeated), ("a",))
        return
    with pytest.raises(UpstreamUnreadable, match="a: is not the text that was streamed before"):
        builder.absorb(_reading(*repeated), ("a",))


def test_a_call_in_pieces_is_absorbed() -> None:
    """A repetition may have come in pieces itself, with which a call begins or goes on."""
    pieces = [("a", "ti", ""), ("a", "de", '{"b"'), ("a", "", ":1}")]
    for streamed in ([], [("a", "", "")], [("a", "t", ""), ("a", "ide", "")]):
        builder = _reading(*streamed)
        builder.absorb(_reading(*pieces), ("a",))
        assert texts(builder) == {"a": 'tide\n{"b":1}'}
        assert (builder.head("a"), builder.calls) == ("tide", 1)


def test_an_opaque_part_is_absorbed_with_its_note() -> None:
    """Content that cannot be read cannot be compared: it counts again."""
    builder = _reading(("a",), ("b", "one"))
    builder.absorb(_reading(("a",), ("b",)), ("a", "b"))
    assert builder.opaques == 3
    assert builder.message("user").opaque == (Part("a", "", "opaque", "image"), Part("b", "", "opaque", "image"))
    assert texts(builder) == {"b": "one"}
