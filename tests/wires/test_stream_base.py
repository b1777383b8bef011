"""The base of all readers of streams: marks of choices, what was released, and frames of the proxy's own."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from guardproxy.chunks import Chunk, Mark
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Request
from guardproxy.sse import Sse
from guardproxy.types import Conversation, Edit, Message, Part, Refuse, Replace
from guardproxy.wires.shared.body import read_object
from guardproxy.wires.shared.bounds import CHOICES
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import error_text, handled_in_code, keys
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import BaseStream, without

OUTER = {**keys("model"), "error": error_text, "choices": handled_in_code}
SENTENCE = "how to hide a kettle behind the pillow of your mother"


class PlainStream(BaseStream):
    """A protocol with a list of choices: `n`, and any of `text`, `image`, `tokens`, `wait` and `end`."""

    def __init__(self, **request: Any) -> None:
        super().__init__(Request("plain", "/", "m", True, Conversation(()), (), b"", request), Sse())

    def read(self, frame: Frame) -> Chunk:
        body = read_object(frame.data or b"", UpstreamUnreadable)
        event = Event(kind="plain", complete=frame.complete)
        for choice in body.get("choices", ()):
            self.advance(choice["n"], event, lambda state, choice=choice: self._read(state, choice))
        self.read_outer(body, OUTER, event)
        self.terminated = body.get("model") == "end"
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def _read(self, state: ChoiceState, choice: Mapping[str, Any]) -> bool:
        if "text" in choice:
            state.builder.add("text", choice["text"])
        if "thought" in choice:
            state.builder.add("thought", choice["thought"], "reasoning")
        if "image" in choice:
            state.builder.opaque("image", "image")
        state.echo("text", "tokens").add(choice.get("text", ""), choice.get("tokens", "").encode())
        state.final = state.final or bool(choice.get("end"))
        return bool(choice.get("wait"))

    def pack(self, body: Mapping[str, Any]) -> bytes:
        return frame(body)


def frame(body: Mapping[str, Any]) -> bytes:
    """Return a frame of the protocol."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def marks(stream: PlainStream, *choices: dict[str, Any], **outer: Any) -> list[Mark]:
    """The marks of a frame with these choices."""
    (chunk,) = stream.feed(frame({"choices": [{"n": 0, **choice} for choice in choices], **outer}))
    return [*chunk.marks]


def test_a_mark_says_how_far_its_choice_has_come() -> None:
    """Text waits for a verdict that covers it, an image for a new one, an end for the whole choice's."""
    stream = PlainStream()
    assert marks(stream, {"text": "Hello"}) == [Mark(0, 5)]
    assert marks(stream, {"text": ""}, {"n": 2, "text": "Hi"}) == [Mark(0, 5), Mark(2, 2)]
    assert marks(stream, {"image": 1}) == [Mark(0, 5, opaques=1)]
    assert marks(stream, {"text": " you", "wait": True}) == [Mark(0, 9, whole=True)]
    assert marks(stream, {"text": "!", "end": True}) == [Mark(0, 10, final=True, whole=True)]
    assert marks(stream, {}) == [Mark(0, 10, final=False, whole=True)]
    assert marks(stream, {"image": 1}) == [Mark(0, 10, final=True, whole=True, opaques=2)]
    assert marks(stream, {"tokens": "Hello you!"}) == [Mark(0, 10, final=False, whole=True)]
    assert marks(stream, {"tokens": "more"}) == [Mark(0, 10, final=True, whole=True, opaques=3)]
    assert stream.choices == (0, 2)
    assert stream.message(0) == Message(
        "assistant",
        (Part("text", "Hello you!"), Part("image", "", "opaque", "image"), stream.message(0).parts[2]),
        arrived=(Part("text", "Hello"), Part("text", "Hi"), Part("text", " you!")),
    )
    with pytest.raises(UpstreamUnreadable, match="text behind the end of choice 0"):
        marks(stream, {"text": "a"})
    assert marks(stream, {"n": 2, "text": "a"}) == [Mark(2, 3)]


def test_tokens_wait_for_their_text() -> None:
    """Log probabilities are compared when the choice ends, and not before."""
    stream = PlainStream()
    assert marks(stream, {"tokens": "Hello"}) == [Mark(0, 0)]
    assert marks(stream, {"text": "Hello"}) == [Mark(0, 5)]
    assert marks(stream, {"end": True}) == [Mark(0, 5, final=True, whole=True)]
    assert stream.message(0).opaque == ()
    other = PlainStream()
    marks(other, {"tokens": "Hello"})
    marks(other, {"text": "Hi", "end": True})
    assert [part.path for part in other.message(0).opaque] == ["tokens"]


def test_a_choice_named_twice_gets_the_stricter_mark() -> None:
    """The end or the content that waits may be in either."""
    for first, second in (({"end": True}, {}), ({}, {"end": True})):
        assert marks(PlainStream(), {"text": "a", **first}, second) == [Mark(0, 1, final=True, whole=True)]
    for first, second in (({"wait": True}, {"text": "a"}), ({"text": "a"}, {"wait": True})):
        assert marks(PlainStream(), first, second) == [Mark(0, 1, whole=True)]


def test_parts_beside_the_choices_belong_to_the_first_choice_of_the_frame() -> None:
    """The frame waits for a verdict that covers them; behind the choice's end it needs one of its own."""
    stream = PlainStream()
    assert marks(stream, {"n": 1, "text": "Hi"}, {"n": 3, "text": "a"}, error="no") == [
        Mark(1, 4),
        Mark(3, 1),
    ]
    assert marks(stream, error="not") == [Mark(1, 7)]
    assert stream.message(1).parts == (Part("text", "Hi"), Part("error", "nonot"))
    marks(stream, {"n": 1, "end": True})
    assert marks(stream, error="late") == [Mark(1, 11, final=True, whole=True)]
    alone = PlainStream()
    assert marks(alone, error="no") == [Mark(0, 2)]
    assert alone.message(0).parts == (Part("error", "no"),)


def test_a_server_may_repeat_its_names() -> None:
    """A text that is in the message already is not added again; opaque content is."""
    stream = PlainStream()
    marks(stream, {"text": "Hi"})
    assert marks(stream, model=SENTENCE) == [Mark(0, 2 + len(SENTENCE))]
    assert marks(stream, model=SENTENCE) == [Mark(0, 2 + len(SENTENCE))]
    assert marks(stream, aside=[1, 2]) == [Mark(0, 2 + len(SENTENCE), opaques=1)]
    assert marks(stream, aside=[1, 2]) == [Mark(0, 2 + len(SENTENCE), opaques=2)]


def test_a_reply_may_repeat_its_request() -> None:
    """The name of the model is no text if the request has it."""
    assert marks(PlainStream(model=SENTENCE), {"text": "a"}, model=SENTENCE) == [Mark(0, 1)]
    assert marks(PlainStream(), {"text": "a"}, model=SENTENCE) == [Mark(0, 1 + len(SENTENCE))]


def test_the_proxy_can_write_a_frame_without_its_outer_parts() -> None:
    """The body that is kept of a frame has no part that was judged for the first choice."""
    stream = PlainStream()
    (chunk,) = stream.feed(frame({"choices": [{"n": 0}], "error": "no", "model": "m"}))
    assert chunk.data.body == {"choices": [{"n": 0}], "model": "m"}
    assert (chunk.data.kind, chunk.data.complete, chunk.data.texts) == ("plain", True, [(0, "error", "no")])


def test_removal_of_parts_leaves_the_original() -> None:
    """A body without parts is another body, also in its depth."""
    body = {"a": {"b": "x", "c": "y"}, "d": "z"}
    kept = without(body, [Part("a.b", "x"), Part("gone", "")])
    assert kept == {"a": {"c": "y"}, "d": "z"}
    assert body == {"a": {"b": "x", "c": "y"}, "d": "z"}
    same = without(body, [])
    assert same == body
    assert same is not body
    assert same["a"] is body["a"]  # nothing is copied that nobody changes


def test_nothing_follows_the_terminator() -> None:
    """A frame behind it is refused before it is read."""
    stream = PlainStream()
    assert not stream.terminated
    marks(stream, model="end")
    with pytest.raises(UpstreamUnreadable, match="the stream goes on behind its terminator"):
        marks(stream, {"text": "a"})
    assert stream.choices == ()


def test_choices_are_counted_from_zero() -> None:
    """They are as many as the constant says, and each has a state of its own."""
    stream = PlainStream()
    assert CHOICES == 1024
    assert stream.state_of(0) is stream.state_of(0) is not stream.state_of(1)
    assert stream.state_of(CHOICES - 1).builder.error is UpstreamUnreadable
    with pytest.raises(UpstreamUnreadable, match="1025 choices"):
        stream.state_of(CHOICES)
    assert stream.choices == (0, 1, CHOICES - 1)


def test_the_end_of_the_input_closes_what_is_open() -> None:
    """One chunk without bytes has the final marks; frames without data have none."""
    stream = PlainStream()
    assert stream.finish() == []
    stream.feed(frame({"choices": [{"n": 2, "text": "abc"}, {"n": 0, "text": "a", "end": True}, {"n": 1}]}))
    stream.feed(b'data: {"choices": [{"n": 0}]}')
    last, end = stream.finish()
    assert (last.marks, last.data.complete) == ((Mark(0, 1, whole=True),), False)
    assert end.marks == (Mark(1, 0, final=True, whole=True), Mark(2, 3, final=True, whole=True))
    assert (end.raw, end.data) == (b"", Event(complete=False))
    assert stream.finish() == []
    whole = PlainStream()
    marks(whole, {"text": "a"})
    assert [chunk.data for chunk in whole.finish()] == [Event()]


def test_tokens_are_reported_at_the_end_of_the_input() -> None:
    """A stream that breaks off before the text of its tokens has come leaves them opaque."""
    stream = PlainStream()
    marks(stream, {"tokens": "Hidden"})
    stream.finish()
    assert [part.path for part in stream.message(0).opaque] == ["tokens"]


def test_a_frame_without_data_concerns_no_choice() -> None:
    """A blank line is passed on as it is."""
    (chunk,) = PlainStream().feed(b"\n")
    assert (chunk.raw, chunk.marks, chunk.data) == (b"\n", (), Event())


def test_what_was_released_is_followed() -> None:
    """The client has read the texts of the released frames, but not those of a choice that the proxy has ended."""
    stream = PlainStream()
    first, second, third = (
        chunk
        for text in ("Hel", "lo", "!")
        for chunk in stream.feed(frame({"choices": [{"n": 0, "text": text}, {"n": 1, "thought": text}]}))
    )
    assert stream.released(0) == Message("assistant", ())
    assert not stream.state_of(0).started
    assert stream.state_of(0).nothing_released
    stream.note_released(first.data)
    assert stream.state_of(0).started
    assert not stream.state_of(0).nothing_released
    assert stream.state_of(1).nothing_released  # a thought is no answer
    stream.note_released(second.data)
    assert stream.released(0) == Message("assistant", (Part("text", "Hello"),))
    assert stream.released(1) == Message("assistant", (Part("thought", "Hello", "reasoning"),))
    stream.state_of(0).ended = True
    assert stream.open_choices(third.data) == (1,)
    stream.note_released(third.data)
    assert stream.released(0) == Message("assistant", (Part("text", "Hello"),))
    assert stream.state_of(1).released_text("thought") == "Hello!"
    assert stream.state_of(1).released_text("other") == ""
    assert stream.message(0).role == "assistant"


def test_a_choice_begins_open_and_empty() -> None:
    """Its state has no end, no reason for an end, and nothing released."""
    state = ChoiceState(MessageBuilder(UpstreamUnreadable))
    assert (state.final, state.ended, state.started, state.finish) == (False, False, False, "")
    assert (state.released, state.echoes, state.extra) == ({}, {}, {})
    assert state.nothing_released
    assert state.echo("a", "b") is state.echo("a", "c") is not state.echo("d", "b")


def test_empty_texts_are_not_an_answer() -> None:
    """A text of which only empty pieces have been released has not begun."""
    state = ChoiceState(MessageBuilder(UpstreamUnreadable), released={"text": ["", ""]})
    state.builder.add("text", "a")
    assert state.nothing_released
    state.released["text"].append("a")
    assert not state.nothing_released


@pytest.mark.parametrize(
    ("event", "behind"),
    [
        (Event(), False),
        (Event(kind="plain"), True),
        (Event(body={"a": 1}), True),
        (Event(kind="x", body={"a": 1}), True),
    ],
)
def test_behind_the_end_only_frames_without_data_are_released(event: Event, behind: bool) -> None:
    """When the client has the terminator, no content may follow."""
    stream = PlainStream()
    assert not stream.is_behind_end(event)
    stream.closed = True
    assert stream.is_behind_end(event) is behind


def test_the_missing_end_of_a_frame_is_sent_once() -> None:
    """A frame of the proxy's own begins behind the end of a frame that was cut off, and the next follows directly."""
    stream = PlainStream()
    assert stream.pack_all([{"a": 1}, {"b": 2}]) == frame({"a": 1}) + frame({"b": 2})
    stream.feed(b'data: {"choices": [{"n": 0}]}')
    for chunk in stream.finish():
        stream.note_released(chunk.data)
    assert stream.pack_all([]) == b""
    assert stream.pack_all([{"a": 1}]) == b"\n\n" + frame({"a": 1})
    assert stream.pack_all([{"b": 2}]) == frame({"b": 2})


def test_a_plain_reply_has_no_id() -> None:
    """Only a protocol whose replies can be named says so."""
    assert PlainStream().id == ""


@pytest.mark.parametrize(
    ("outcome", "rest"), [(Refuse("No."), []), (Replace((Edit("text", "Hello [removed]"),)), [" [removed]"])]
)
def test_what_has_arrived_of_a_choice_that_the_proxy_ends(outcome: Refuse | Replace, rest: list[str]) -> None:
    """The pieces that were sent, the rest of the edited text, and what waits of the other choices."""
    stream = PlainStream()
    (first,) = stream.feed(frame({"choices": [{"n": 0, "text": "Hello"}, {"n": 1, "text": "Hi"}]}))
    stream.note_released(first.data)
    (second,) = stream.feed(frame({"choices": [{"n": 0, "text": " bad"}, {"n": 1, "text": " you"}]}))
    assert [part.text for part in stream.message(1).arrived] == ["Hello", "Hi", " bad", " you"]
    assert [part.text for part in stream.message(1, without=(0,)).arrived] == ["Hello", "Hi you"]
    stream.end_choice(0, outcome)
    sent = ["Hello", "Hi", *rest]
    assert [part.text for part in stream.released(1).arrived] == sent
    assert "".join(part.text for part in stream.message(1).arrived) == "".join([*sent, " you"])
    stream.note_released(second.data)
    assert "".join(part.text for part in stream.released(1).arrived) == "".join([*sent, " you"])
