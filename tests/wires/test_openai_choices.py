"""The stream of choices that chat and completions share: marks, ends, the head, the usage and the terminator."""

import json
from typing import Any

import pytest

from guardproxy.chunks import Mark
from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import Refuse, Replace
from guardproxy.wires import openai_chat
from guardproxy.wires.shared import openai
from tests.wires.kit import chat_chunk, fed, sse
from tests.wires.test_openai_base import SENTENCE, request

NO = Refuse("No.")


def opened(**more: Any) -> Any:
    """Return a reader for a streamed chat completion."""
    return openai_chat.wire.open_stream(request(**more), "text/event-stream")


def bodies(raw: bytes) -> list[Any]:
    """The data of the frames, parsed; `[DONE]` as it is."""
    lines = [frame.removeprefix("data: ") for frame in raw.decode().split("\n\n") if frame]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def entry(index: int, text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    """Return an entry of `choices` with a text or an end."""
    return {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": finish}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"choices": ["a"]}, "choices[0]: must be an object"),
        ({"choices": [entry(0), None]}, "choices[1]: must be an object"),
        ({"choices": {}}, "choices: must be a list"),
        ({"error": 7}, "choices: must be a list"),
        ({"choices": [{"index": -1}]}, "choices[0].index: must be a whole number"),
        ({"choices": [entry(0), {"index": True}]}, "choices[1].index: must be a whole number"),
        ({"choices": [{"index": "0"}]}, "choices[0].index: must be a whole number"),
        ({"choices": [{"index": 2, "finish_reason": 7}]}, "choices[2].finish_reason: must be a string"),
        ({"choices": [{"index": 0, "finish_reason": False}]}, "choices[0].finish_reason: must be a string"),
    ],
)
def test_malformed_frames_are_errors(body: Any, says: str) -> None:
    """Each at its place."""
    with pytest.raises(UpstreamUnreadable) as refused:
        opened().feed(sse(body))
    assert says in str(refused.value)


def test_a_frame_without_choices_concerns_none() -> None:
    """The usage at the end passes."""
    stream = opened()
    for body in ({"usage": {"total_tokens": 3}}, {"choices": []}, {"choices": [], "usage": None}):
        (chunk,) = stream.feed(sse(body))
        assert chunk.marks == ()
    assert stream.choices == ()


def test_an_error_is_a_text_of_the_stream() -> None:
    """It waits for a verdict that covers it."""
    stream = opened()
    (chunk,) = stream.feed(sse({"error": {"message": "no"}}))
    assert chunk.marks == (Mark(0, 2),)
    assert stream.message(0).text == "no"


def test_an_event_may_be_named_an_error() -> None:
    """Some servers do so, and clients look for the name."""
    raw = b"event: error\n" + sse({"error": {"message": "no"}})
    assert [chunk.raw for chunk in opened().feed(raw)] == [raw]


def test_a_choice_without_an_index_is_the_first() -> None:
    """And an empty reason for an end is none."""
    stream = opened()
    (chunk,) = stream.feed(sse({"choices": [{"delta": {"content": "Hi"}, "finish_reason": ""}]}))
    assert chunk.marks == (Mark(0, 2),)
    assert stream.state_of(0).finish == ""
    (chunk,) = stream.feed(sse({"choices": [entry(0, finish="length")]}))
    assert chunk.marks == (Mark(0, 2, final=True, whole=True),)
    assert stream.state_of(0).finish == "length"


def test_a_reason_that_is_text_is_not_written_again() -> None:
    """The proxy's own end has an ordinary reason."""
    stream = opened()
    stream.feed(sse({"choices": [entry(0, finish=SENTENCE)]}))
    assert stream.state_of(0).finish == "stop"


@pytest.mark.parametrize("raw", [b"data: [DONE]\n\n", b"data:  [DONE] \n\n"])
def test_the_terminator_closes_what_is_open(raw: bytes) -> None:
    """It is passed on once, with the final marks of open choices, and nothing may follow."""
    stream = opened()
    stream.feed(sse(chat_chunk(0, {"content": "Hi"})))
    (done,) = stream.feed(raw)
    assert done.marks == (Mark(0, 2, final=True, whole=True),)
    assert (done.data.kind, done.data.complete, stream.terminated, stream.closed) == ("done", True, True, False)
    assert (stream.release(done), stream.closed) == (done.raw, True)
    assert (stream.release(done), stream.close(), stream.end(0, NO)) == (b"", b"", b"")
    with pytest.raises(UpstreamUnreadable, match="behind its terminator"):
        stream.feed(raw)


def test_a_terminator_that_is_cut_off() -> None:
    """Its frame is not complete."""
    stream = opened()
    chunks = [*stream.feed(b"data: [DONE]"), *stream.finish()]
    assert [(chunk.data.kind, chunk.data.complete) for chunk in chunks] == [("done", False)]


def test_choices_that_the_proxy_has_ended_are_removed() -> None:
    """The others of a frame stay, with what is beside them; a frame with no other is not sent."""
    stream = opened(n=2)
    both, first, second = stream.feed(
        sse(
            {"id": "i", "choices": [entry(0, "a"), entry(1, "b")]},
            {"choices": [entry(0, "c")]},
            {"id": "i", "choices": [entry(0, "d"), {**entry(1, "e"), "index": 1}]},
        )
    )
    assert stream.release(both) == both.raw
    ended = bodies(stream.end(0, NO))
    assert ended[-1]["choices"][0] == {**ended[-1]["choices"][0], "index": 0, "finish_reason": "content_filter"}
    assert stream.end(0, NO) == b""
    assert stream.release(first) == b""
    assert bodies(stream.release(second)) == [{"id": "i", "choices": [entry(1, "e")]}]
    assert stream.released(1).text == "be"
    assert stream.released(0).text == "a"


def test_a_choice_without_an_index_is_removed_as_the_first() -> None:
    """It belongs to choice 0 also when the frame is written again."""
    stream = opened(n=2)
    stream.end(1, NO)
    plain = {"delta": {"content": "a"}, "finish_reason": None}
    (chunk,) = stream.feed(sse({"choices": [plain, entry(1, "b")]}))
    assert bodies(stream.release(chunk)) == [{"choices": [plain]}]


def test_new_choices_come_in_order() -> None:
    """A refusal of a later choice opens the earlier ones, once, and not those that the client has seen."""
    stream = opened(n=4)
    (chunk,) = stream.feed(sse({"choices": [entry(1, "a")]}))
    assert stream.unopened(3) == [0, 1, 2]
    stream.release(chunk)
    assert (stream.unopened(3), stream.unopened(1), stream.unopened(0)) == ([0, 2], [0], [])
    opened_by = [body["choices"][0]["index"] for body in bodies(stream.end(3, NO))]
    assert (opened_by[:2], set(opened_by[2:])) == ([0, 2], {3})
    assert (stream.unopened(4), stream.unopened(5)) == ([], [4])


def test_the_head_of_the_upstream_is_repeated() -> None:
    """The proxy's frames look like those before; what a frame lacks stays."""
    stream = opened()
    stream.feed(sse({"id": "a", "object": "o", "created": 5, "model": "n", "system_fingerprint": "f", "choices": []}))
    stream.feed(sse({"id": "", "created": None, "choices": [entry(0, "x")]}))
    (body, *_) = bodies(stream.end(0, NO))
    del body["choices"]
    assert body == {"id": "a", "object": "o", "created": 5, "model": "n", "system_fingerprint": "f"}


def test_a_text_in_the_head_is_not_repeated() -> None:
    """A sentence in a name was judged with the reply that is refused."""
    stream = opened()
    stream.feed(sse({"id": SENTENCE, "model": SENTENCE, "choices": [entry(0, "x")]}))
    assert SENTENCE not in stream.end(0, NO).decode()


USAGE = {"total_tokens": 3}


@pytest.mark.parametrize("wanted", [False, True])
def test_the_usage_is_sent_once_if_it_was_asked_for(wanted: bool) -> None:
    """Before the terminator, with the head of the reply."""
    options = {"stream_options": {"include_usage": wanted}}
    stream = opened(**options)
    text, usage = stream.feed(sse({"id": "a", "choices": [entry(0, "x")]}, {"choices": [], "usage": USAGE}))
    end = bodies(stream.close())
    assert end[-1] == "[DONE]"
    assert [(body["id"], body["choices"], body["usage"]) for body in end[:-1]] == ([("a", [], USAGE)] if wanted else [])
    released = opened(**options)
    for chunk in released.feed(text.raw + usage.raw):
        released.release(chunk)
    assert bodies(released.close()) == ["[DONE]"]
    nothing = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    assert [body["usage"] for body in bodies(opened(**options).close())[:-1]] == ([nothing] if wanted else [])


def test_the_usage_of_a_cut_stream_is_estimated() -> None:
    """The upstream has not named it: a token for four bytes of the request, and of what was read of the reply."""
    stream = opened(stream_options={"include_usage": True})
    stream.feed(sse({"choices": [entry(0, "x" * 40)]}))
    stream.end(0, NO)
    (usage,) = [body["usage"] for body in bodies(stream.close())[:-1]]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (10, 10 + usage["prompt_tokens"])
    assert usage["prompt_tokens"] > 0


def test_a_usage_with_a_choice_that_was_ended_is_sent_at_the_end() -> None:
    """The client has not got the frame that had it."""
    stream = opened(stream_options={"include_usage": True})
    stream.end(0, NO)
    (chunk,) = stream.feed(sse({"choices": [entry(0, "x")], "usage": USAGE}))
    assert stream.release(chunk) == b""
    assert [body["usage"] for body in bodies(stream.close())[:-1]] == [USAGE]
    other = opened(stream_options={"include_usage": True})
    first, second = other.feed(sse({"choices": [], "usage": USAGE}, {"choices": [entry(0, "x")]}))
    other.release(first)
    other.release(second)
    assert other.close() == openai.DONE  # a later frame without it changes nothing


def test_the_terminator_follows_a_frame_that_was_cut_off() -> None:
    """The missing end of the frame comes first."""
    stream = opened()
    chunks = [*stream.feed(sse(chat_chunk(0, {"content": "Hi"}))[:-1]), *stream.finish()]
    for chunk in chunks:
        stream.release(chunk)
    assert stream.close() == b"\n\ndata: [DONE]\n\n"
    assert stream.close() == b""
    whole = opened()
    for chunk in fed(whole, [sse(chat_chunk(0, {"content": "Hi"}))]):
        whole.release(chunk)
    assert whole.close() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("wanted", [False, True])
def test_a_streamed_refusal(wanted: bool) -> None:
    """Every choice is the refusal; the usage is zero if it was asked for."""
    asked = request(n=2, stream_options={"include_usage": wanted})
    answer = openai_chat.wire.refusal(asked, NO)
    assert (answer.status, answer.content_type) == (200, "text/event-stream; charset=utf-8")
    stream = openai_chat.wire.open_stream(asked, "text/event-stream")
    fed(stream, [answer.body])
    assert [stream.message(choice).text for choice in stream.choices] == ["No.", "No."]
    frames = bodies(answer.body)
    assert frames[-1] == "[DONE]"
    usages = [(body["choices"], body["usage"]) for body in frames[:-1] if "usage" in body]
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert usages == ([([], zero)] if wanted else [])


def test_a_rewrite_ends_a_choice() -> None:
    """The rest of the new text and an end come in place of the frames that are held."""
    stream = opened()
    stream.feed(sse(chat_chunk(0, {"content": "Hi"})))
    ended = bodies(stream.end(0, Replace((), whole=False)))
    assert [body["choices"][0]["delta"].get("content") for body in ended] == ["", "Hi", None]
    assert ended[-1]["choices"][0]["finish_reason"] == "stop"
