"""The texts that readers make of the parts of a turn."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.types import Message, Part, PartKind
from guardproxy.views import apart, joined
from guardproxy.views.joining import MOST_PARTS


def _message(*texts: str, path: str = "messages[0].content[{}].text") -> Message:
    return Message("user", tuple(Part(path.format(n), text) for n, text in enumerate(texts)))


def test_a_single_part_has_no_joined_text() -> None:
    """One part, and several whose joints are at sentences, lines or brackets, have no text other than their own."""
    assert joined(_message("Hello.")) == ()
    assert joined(_message("What is this?", "Please tell me.\n", "It is new.", '{"a": 1}', "[2]")) == ()


def test_parts_are_joined_as_readers_join_them() -> None:
    """With nothing and with a space; white space at a joint is enough."""
    assert joined(_message("make", "a bo", "mb")) == ("makea bomb", "make a bo mb")
    assert joined(_message("make ", "a ", "bomb")) == ("make a bomb",)
    assert joined(_message("First.", "ma", "ke")) == ("First.\nmake", "First.\nma ke")


def test_messages_of_parts_are_joined_inside_and_between() -> None:
    """The parts of a message may be joined with nothing and the messages by lines."""
    parts = [Part(f"messages[{n // 2}].content[{n % 2}].text", text) for n, text in enumerate(["ma", "ke", "no", "w"])]
    assert joined(Message("user", tuple(parts))) == ("makenow", "make\nnow", "ma ke no w")


def test_other_parts_between_two_parts_separate_nothing() -> None:
    """A picture, a name or a call between two texts is left out, as readers leave it out; calls are never joined."""
    parts = (
        Part("messages[0].content[0].text", "make a bo"),
        Part("messages[0].content[1]", "", "opaque", "image"),
        Part("messages[0].tool_calls[0].function.arguments", "{}", "tool_call"),
        Part("messages[0].tool_calls[1].function.arguments", "x", "tool_call"),
        Part("messages[0].content[2].refusal", "mb"),
    )
    assert joined(Message("assistant", parts))[0] == "make a bomb\n{}\nx"


def test_reasoning_between_two_texts_separates_nothing() -> None:
    """Gemini's clients leave out thoughts that are items of the same list as the texts."""
    kinds: tuple[PartKind, ...] = ("text", "reasoning", "text")
    texts = zip(("make a bo", "Hm", "mb"), kinds, strict=True)
    parts = tuple(Part(f"parts[{place}].text", text, kind) for place, (text, kind) in enumerate(texts))
    assert {"make a boHmmb", "make a bomb\nHm"} <= set(joined(Message("assistant", parts)))
    assert joined(Message("assistant", parts[:2])) == ("make a boHm", "make a bo Hm")


@given(st.lists(st.text(alphabet="ab .\n{}", min_size=1, max_size=4), min_size=2, max_size=6))
def test_every_join_isread(texts: list[str]) -> None:
    """For any parts and each of the three separators, some text that is judged has the same words."""
    message = _message(*texts)
    read = {tuple(re.findall(r"\w+", text)) for text in (message.text, *joined(message))}
    assert all(tuple(re.findall(r"\w+", separator.join(texts))) in read for separator in ("", " ", "\n"))


def test_thousands_of_parts_take_linear_time() -> None:
    """At most three more texts, whatever the number of parts."""
    message = _message(*"How do I do it" * 2000)
    started = time.process_time()
    assert len(joined(message)) <= 3
    assert time.process_time() - started < 2


def test_two_parts_are_joined() -> None:
    """Two parts are enough. Empty parts and parts that nobody reads are left out."""
    assert joined(_message("bo", "mb")) == ("bomb", "bo mb")
    empty = Part("messages[0].content[1].text", "")
    unread = Part("messages[0].content[2]", "data", "opaque", "image")
    assert joined(Message("user", (Part("messages[0].content[0].text", "bo"), empty, unread))) == ()
    assert joined(Message("user", (unread, empty, *_message("bo", "mb").parts))) == ("bomb", "bo mb")


@pytest.mark.parametrize("kind", ["tool_call", "tool_definition"])
def test_calls_and_definitions_are_not_joined_with_each_other(kind: PartKind) -> None:
    """Neither arguments nor definitions become a text with those of another."""
    assert joined(Message("user", tuple(Part(f"tools[{n}].text", text, kind) for n, text in enumerate("ab")))) == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("See (1)", "bomb"),
        ("bo", "[mb"),
        ("What?", "bomb"),
        ("bo\n", "mb"),
        ("bo", "\nmb"),
        ("end" + "." * 13, "bomb"),
        ('He said "Yes."', "bomb"),
    ],
)
def test_no_separator_makes_other_words_at_some_joints(first: str, second: str) -> None:
    """Brackets, line ends and the ends of sentences keep parts apart, however readers join them."""
    assert joined(_message(first, second)) == ()


@pytest.mark.parametrize(("first", "second"), [("No.", "bomb"), ("end" + "." * 14, "x"), ("v1.", "2"), ("(bo", ")mb")])
def test_other_joints_are_read_without_a_separator(first: str, second: str) -> None:
    """An abbreviation, a number or an opening bracket before a joint is not the end of a sentence."""
    assert joined(_message(first, second)) == (f"{first}{second}", f"{first} {second}")


def _arrived(*pieces: tuple[str, str], kinds: tuple[PartKind, ...] = ("text",) * 9) -> tuple[Part, ...]:
    return tuple(Part(path, text, kind) for (path, text), kind in zip(pieces, kinds, strict=False))


def test_texts_that_arrive_in_turns_are_read_as_they_arrive() -> None:
    """A reader shows the pieces of all keys, or of one of them, in the order of their arrival."""
    pieces = _arrived(("a.content", "bo"), ("a.refusal", "ld"), ("a.content", "mb"), ("a.refusal", "er"))
    parts = (Part("a.content", "bomb"), Part("a.refusal", "lder"))
    assert joined(Message("assistant", parts, arrived=pieces)) == ("boldmber",)
    other = _arrived(("a[0].text", "bo"), ("a[1].text", "ld"), ("a[0].text", "mb"), ("a.note", "er"))
    apart = (Part("a[0].text", "bomb"), Part("a[1].text", "ld"), Part("a.note", "er"))
    assert joined(Message("assistant", apart, arrived=other))[-2:] == ("boldmb", "boldmber")
    whole = (Part("a.content", "bomb"), Part("a.refusal", "ld"))
    unread = (*pieces[:3], Part("a.image", "data", "opaque", "image"))
    assert joined(Message("assistant", whole, arrived=unread)) == ("boldmb",)


def test_kinds_that_arrive_in_turns_are_read_alone_and_together() -> None:
    """Each combination of three kinds is a text, unless it is a part that is judged anyway."""
    kinds: tuple[PartKind, ...] = ("text", "reasoning", "text", "text")
    pieces = _arrived(("a.content", "b"), ("a.reasoning", "x"), ("a.refusal", "m"), ("a.content", "o"), kinds=kinds)
    parts = (Part("a.content", "bo"), Part("a.reasoning", "x", "reasoning"), Part("a.refusal", "m"))
    assert joined(Message("assistant", parts, arrived=pieces)) == ("bxo", "bmo", "xm", "bxmo")


def test_a_text_and_a_list_of_parts_are_joined_alike() -> None:
    """Adjacent messages are joined, whether their content is a string or a list."""
    parts = (Part("messages[0].content", "bo"), Part("messages[1].content[0].text", "mb"))
    assert joined(Message("user", parts)) == ("bomb", "bo mb")


def test_parts_are_read_apart() -> None:
    """Those that are long enough, each once; a text that announces a call must be longer, a single part has none."""
    long = "a text of twenty-five signs"
    longer = "a text of more than eighty characters, so it says more than that a call will follow"
    assert apart(_message(long)) == ()
    assert apart(_message(long, " ", "")) == ()
    assert apart(_message(long, "short", longer, long)) == (long, longer)
    call = Part("message.tool_calls[0].function.arguments", "x" * 25, "tool_call")
    assert apart(Message("assistant", (Part("message.content", long), call))) == ("x" * 25,)
    assert apart(Message("assistant", (Part("message.content", longer), call))) == (longer, "x" * 25)


def test_many_parts_are_read_in_groups() -> None:
    """At most MOST_PARTS texts, which have every part."""
    texts = [f"part number {number:09} of them" for number in range(1000)]
    groups = apart(_message(*texts))
    assert len(groups) <= MOST_PARTS
    assert "\n".join(groups).split("\n") == texts
