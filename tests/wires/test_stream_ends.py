"""Content behind the end of a streamed answer is never released on the verdict that was given before it came."""

import json
from typing import Any

import pytest

from guardproxy.chunks import Mark
from guardproxy.errors import UpstreamUnreadable
from guardproxy.holdback import HoldBack
from guardproxy.policy import StreamPolicy
from guardproxy.types import Edit, Message, Part, Refuse, Replace
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.stream_state import ChoiceState
from guardproxy.wires.shared.streams import parts_with_new_texts
from tests.wires.kit import BY_NAME, chat_chunk, fed, sse


def _named(body: dict[str, Any]) -> bytes:
    return f"event: {body['type']}\n".encode() + sse(body)


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def _completion(finish: str | None = None, **choice: Any) -> bytes:
    return sse({"choices": [{"index": 0, "finish_reason": finish, **choice}]})


def _candidate(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **more}]}


def _tokens(text: str) -> dict[str, Any]:
    return {"content": [{"token": text, "logprob": -1}]}


def _block(index: int, block: dict[str, Any]) -> bytes:
    return _named({"type": "content_block_start", "index": index, "content_block": block})


_DELTA = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0}
_ITEM = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []}
_OPEN = _named({"type": "response.output_item.added", "output_index": 0, "item": _ITEM}) + _named(
    {**_DELTA, "delta": "Hi"}
)
_DONE = b"data: [DONE]\n\n"
_GEMINI_END = _candidate([{"text": "Hi"}], finishReason="STOP")
_GEMINI_TOKENS = {"chosenCandidates": [{"token": "late", "tokenId": 7, "logProbability": -1}]}

# An answer up to the end of its choice. Responses have two ends: the terminal event and, at some servers, [DONE].
ENDED: dict[str, bytes] = {
    "chat": sse(chat_chunk(0, {"content": "Hi"}), chat_chunk(0, {}, "stop")),
    "completions": _completion(text="Hi") + _completion("stop", text=""),
    "messages": _named({"type": "message_start", "message": {"id": "m", "type": "message", "content": []}})
    + _block(0, {"type": "text", "text": "Hi"})
    + _named({"type": "content_block_stop", "index": 0})
    + _named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
    "responses": _OPEN
    + _named({"type": "response.completed", "response": {"id": "r", "output": [], "status": "completed"}}),
    "responses [DONE]": _OPEN + _DONE,
    "ollama-chat": _line({"message": {"content": "Hi"}, "done": False}) + _line({"message": {}, "done": True}),
    "ollama-generate": _line({"response": "Hi", "done": False}) + _line({"response": "", "done": True}),
    "gemini": sse(_GEMINI_END),
    "gemini-array": b"[" + json.dumps(_GEMINI_END).encode(),
}

TEXT: dict[str, bytes] = {
    "chat": sse(chat_chunk(0, {"content": "late"})),
    "completions": _completion(text="late"),
    "messages": _block(1, {"type": "text", "text": "late"}),
    "responses": _named({**_DELTA, "delta": "late"}),
    "responses [DONE]": _named({**_DELTA, "delta": "late"}),
    "ollama-chat": _line({"message": {"content": "late"}, "done": False}),
    "ollama-generate": _line({"response": "late", "done": False}),
    "gemini": sse(_candidate([{"text": "late"}])),
    "gemini-array": b"," + json.dumps(_candidate([{"text": "late"}])).encode(),
}
OPAQUE: dict[str, bytes] = {
    "chat": sse(chat_chunk(0, {"aside": [15496, 995]})),
    "completions": _completion(token_ids=[1, 2, 3]),
    "messages": _block(1, {"type": "redacted_thinking", "data": "AAAA"}),
    "responses": _named({"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA"}),
    "responses [DONE]": _named({"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA"}),
    "ollama-chat": _line({"message": {"images": ["AAAA"]}, "done": False}),
    "ollama-generate": _line({"response": "", "image": "AAAA", "done": False}),
    "gemini": sse(_candidate([{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}])),
    "gemini-array": b"," + json.dumps(_candidate([{"fileData": {"fileUri": "x"}}])).encode(),
}
# Messages have no log probabilities.
LOGPROBS: dict[str, bytes] = {
    "chat": sse(chat_chunk(0, {}, logprobs=_tokens("late"))),
    "completions": _completion(text="", logprobs={"tokens": ["late"], "token_logprobs": [-1]}),
    "responses": _named({**_DELTA, "delta": "", "logprobs": _tokens("late")["content"]}),
    "responses [DONE]": _named({**_DELTA, "delta": "", "logprobs": _tokens("late")["content"]}),
    "ollama-chat": _line({"message": {"content": ""}, "logprobs": _tokens("late")["content"], "done": False}),
    "ollama-generate": _line({"response": "", "logprobs": _tokens("late")["content"], "done": False}),
    "gemini": sse(_candidate([], logprobsResult=_GEMINI_TOKENS)),
    "gemini-array": b"," + json.dumps(_candidate([], logprobsResult=_GEMINI_TOKENS)).encode(),
}
BEHIND = {"text": TEXT, "opaque content": OPAQUE, "log probabilities": LOGPROBS}
CASES = [(kind, name) for kind, frames in BEHIND.items() for name in frames]

# What ends a stream. Ollama's protocol has no terminator, nor have Gemini's events.
TERMINATED: dict[str, bytes] = {
    "chat": ENDED["chat"] + _DONE,
    "completions": ENDED["completions"] + _DONE,
    "messages": ENDED["messages"] + _named({"type": "message_stop"}),
    "responses": ENDED["responses"],
    "responses [DONE]": ENDED["responses [DONE]"],
    "gemini-array": ENDED["gemini-array"] + b"]",
}


def _case(name: str) -> Any:
    return BY_NAME[name.partition(" ")[0]]


def _is_refused(name: str, kind: str) -> bool:
    """Whether the reader refuses the frame: text, and everything behind the end of a response. Gemini has no end."""
    return not name.startswith("gemini") and (kind == "text" or name.startswith("responses"))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_frame_behind_the_end_needs_its_own_verdict(kind: str, name: str) -> None:
    """A frame behind the end is refused, or waits for a check that was asked after it came."""
    stream, hold = _case(name).open(), HoldBack(StreamPolicy("window", every=1_000_000))
    for chunk in stream.feed(ENDED[name]):
        hold.add(chunk)
    for ask in hold.ask():
        hold.passed(ask)
    hold.release()
    if _is_refused(name, kind):
        with pytest.raises(UpstreamUnreadable):
            stream.feed(BEHIND[kind][name])
        return
    for chunk in stream.feed(BEHIND[kind][name]):
        hold.add(chunk)
    held = hold.release()
    for chunk in stream.finish():
        hold.add(chunk)
    assert held == []
    (ask,) = hold.ask()
    assert ask.final
    assert "late" in stream.message(0).text if kind == "text" else stream.message(0).opaque
    hold.passed(ask)
    assert BEHIND[kind][name] in b"".join(chunk.raw for chunk in hold.release())


@pytest.mark.parametrize("name", ["chat", "completions", "ollama-chat", "ollama-generate"])
def test_log_probabilities_behind_the_end_are_reported_once(name: str) -> None:
    """Frames that bring nothing new behind the end need no verdict of their own."""
    stream = _case(name).open()
    stream.feed(ENDED[name])
    again = [mark.final for chunk in stream.feed(LOGPROBS[name]) for mark in chunk.marks]
    empty = LOGPROBS[name].replace(b"late", b"")
    assert (again, [mark.final for chunk in stream.feed(empty) for mark in chunk.marks]) == ([True], [False])


@pytest.mark.parametrize("name", TERMINATED)
def test_no_frame_follows_the_terminator(name: str) -> None:
    """An answer that goes on behind the terminator is refused, and so is a second answer."""
    for behind in (TEXT[name], ENDED[name]):
        stream = _case(name).open()
        stream.feed(TERMINATED[name])
        with pytest.raises(UpstreamUnreadable):
            stream.feed(behind)


# Log probabilities of a text that has not come: of the last frame before the stream breaks off.
AHEAD: dict[str, bytes] = {
    "chat": sse(chat_chunk(0, {"content": "Hi"}, logprobs=_tokens("Hidden"))),
    "completions": _completion(text="Hi", logprobs={"tokens": ["Hidden"], "token_logprobs": [-1]}),
    "responses": _OPEN.replace(b'"delta": "Hi"', b'"delta": "Hi", "logprobs": [{"token": "Hidden", "logprob": -1}]'),
    "ollama-chat": _line({"message": {"content": "Hi"}, "logprobs": _tokens("Hidden")["content"], "done": False}),
    "ollama-generate": _line({"response": "Hi", "logprobs": _tokens("Hidden")["content"], "done": False}),
}


@pytest.mark.parametrize("name", AHEAD)
def test_log_probabilities_of_a_text_that_never_comes_are_opaque(name: str) -> None:
    """A stream that breaks off closes its choices, so tokens that no text has repeated are reported."""
    stream = _case(name).open()
    hold = HoldBack(StreamPolicy("window", every=1))
    for chunk in stream.feed(AHEAD[name]):
        hold.add(chunk)
    for ask in hold.ask():
        hold.passed(ask)
    assert b"Hidden" not in b"".join(chunk.raw for chunk in hold.release())
    for chunk in stream.finish():
        hold.add(chunk)
    assert [part.note for part in stream.message(0).opaque] == ["log probabilities of another text"]
    assert [ask.final for ask in hold.ask()] == [True]


ASIDE = {"aside": "words that nobody judged"}
# Frames that other choices, or none, may still need when the proxy has ended the only choice.
OUTER: dict[str, bytes] = {
    "chat": sse({"choices": [], **ASIDE}),
    "completions": sse({"choices": [], **ASIDE}),
    "messages": _named({"type": "ping", **ASIDE}) + _named({"type": "message_stop", **ASIDE}),
    "responses": _named({"type": "error", "code": "x", "message": "late", **ASIDE}),
    "ollama-chat": _line({"error": "late"}),
    "ollama-generate": _line({"error": "late"}),
    "gemini": sse({"candidates": [], **ASIDE}),
    "gemini-array": b"," + json.dumps({"candidates": [], **ASIDE}).encode(),
}


@pytest.mark.parametrize("name", OUTER)
def test_nothing_of_the_upstream_follows_a_refusal(name: str) -> None:
    """After an end by the proxy no content is released, whichever frame carries it, and the stream has a single end."""
    for behind in (TEXT[name], OPAQUE[name], OUTER[name]):
        stream = _case(name).open()
        start = ENDED[name][: ENDED[name].index(b"Hi")]
        start = start[: start.rfind(b"\n\n") + 2] if b"\n\n" in start else b""
        before = b"".join(stream.release(chunk) for chunk in stream.feed(start))
        ended = stream.end(0, Refuse("No."))
        array = b"[" if name == "gemini-array" else b""
        after = b"".join(
            stream.release(chunk) for chunk in [*stream.feed(array + behind.lstrip(b",")), *stream.finish()]
        )
        for content in (b"late", b"AAAA", b"nobody judged", b"[1, 2, 3]", b"15496"):
            assert content not in after
        again = _case(name).open()
        fed(again, [before + ended + after + stream.close()])
        assert again.message(0).text == "No."
        assert not again.message(0).opaque


def test_a_choice_named_twice_in_a_frame_gets_the_stricter_mark() -> None:
    """An end or a tool call still counts if the same frame names its choice again."""
    text = {"index": 0, "delta": {"content": "a"}}
    call = {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "tide", "arguments": "{}"}}]}}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    (chunk, *_) = fed(BY_NAME["chat"].open(), [sse({"choices": [call, text]})])
    assert [mark.whole for mark in chunk.marks] == [True]
    (chunk, *_) = fed(BY_NAME["chat"].open(), [sse({"choices": [text, end, {**end, "finish_reason": None}]})])
    assert [(mark.upto, mark.final, mark.whole) for mark in chunk.marks] == [(1, True, True)]


def test_a_broken_off_stream_closes_each_choice_once() -> None:
    """The end of the input closes what is open, and only that."""
    stream = BY_NAME["chat"].open(n=2)
    stream.feed(sse(chat_chunk(0, {"content": "a"}), chat_chunk(1, {"content": "bc"}), chat_chunk(0, {}, "stop")))
    (last,) = stream.finish()
    assert last.marks == (Mark(1, 2, final=True, whole=True),)
    assert stream.finish() == []


def test_a_rewrite_names_no_opaque_part() -> None:
    """The new texts of a streamed choice are those of its readable parts; `whole` leaves the unnamed ones out."""
    parts = (Part("a", "one"), Part("b", "two"), Part("c", "AAAA", "opaque"))
    message = Message("assistant", parts)
    edits = (Edit("a", "new"), Edit("c", "never"))
    assert parts_with_new_texts(message, Replace(edits)) == [(parts[0], "new"), (parts[1], "two")]
    assert parts_with_new_texts(message, Replace(edits, whole=True)) == [(parts[0], "new")]


def test_the_number_of_choices_is_bounded() -> None:
    """A choice costs memory and a check: a stream has at most 1024."""
    fed(BY_NAME["chat"].open(), [sse(chat_chunk(1023, {"content": "a"}))])
    with pytest.raises(UpstreamUnreadable, match="1025 choices or more, and no more than 1024"):
        fed(BY_NAME["chat"].open(), [sse(chat_chunk(1024, {"content": "a"}))])


def test_the_rest_of_an_edited_text_begins_behind_what_was_released() -> None:
    """A new text that does not begin with the released text cannot be sent."""
    state = ChoiceState(MessageBuilder(UpstreamUnreadable), released={"a": ["Hel", "lo "]})
    assert state.remainder(Part("a", "Hello world"), "Hello [removed]") == "[removed]"
    assert state.remainder(Part("b", "x"), "new") == "new"
    with pytest.raises(ValueError, match="a: the new text does not begin"):
        state.remainder(Part("a", "Hello world"), "Goodbye")


def test_reasoning_is_not_part_of_the_answer() -> None:
    """An answer of which only reasoning was released has not begun; what was not released is not listed."""
    stream = BY_NAME["chat"].open()
    (thought, text) = stream.feed(sse(chat_chunk(0, {"reasoning_content": "hm"}), chat_chunk(0, {"content": "Hi"})))
    stream.release(thought)
    assert stream.state_of(0).nothing_released
    assert [(part.kind, part.text) for part in stream.released(0).parts] == [("reasoning", "hm")]
    stream.release(text)
    assert not stream.state_of(0).nothing_released
    assert [part.text for part in stream.released(0).parts] == ["hm", "Hi"]


def test_the_end_of_a_whole_frame_is_not_sent_twice() -> None:
    """Only behind a frame that was cut off does the proxy's own ending begin with the end of a frame."""
    for cut, begin in ((0, b"data: "), (1, b"\n\ndata: ")):
        stream = BY_NAME["chat"].open()
        raw = sse(chat_chunk(0, {"content": "Hi"}))
        chunks = [*stream.feed(raw[: len(raw) - cut]), *stream.finish()]
        out = b"".join(stream.release(chunk) for chunk in chunks[: 2 - cut])
        assert out == raw[: len(raw) - cut]
        assert stream.end(0, Refuse("No.")).startswith(begin)


def test_a_protocol_without_ids_has_none() -> None:
    """Only a reply that a later request can name has an id."""
    assert BY_NAME["chat"].open().id == ""
