"""The texts that readers make of the parts of a turn."""

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.types import Message, Part, PartKind
from guardproxy.views import joined


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
