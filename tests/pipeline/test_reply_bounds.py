"""A reply of more choices or pieces of content than any provider sends is refused, whole or streamed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.pipeline.held import HeldBytes
from guardproxy.pipeline.slices import slices
from guardproxy.ports import Wire
from guardproxy.wires.anthropic_messages import wire as anthropic
from guardproxy.wires.gemini import wire as gemini
from guardproxy.wires.ollama import wire as ollama
from guardproxy.wires.openai_chat import wire as chat
from guardproxy.wires.openai_completions import wire as completions
from guardproxy.wires.openai_responses import wire as responses
from guardproxy.wires.shared.bounds import CHOICES, PIECES

SAID = [{"role": "user", "content": "hi"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def choice(index: int, key: str = "message", **message: Any) -> dict[str, Any]:
    """A choice of a chat completion or of its frame."""
    return {"index": index, key: {"role": "assistant", **message}, "finish_reason": "stop"}


def chat_choices(count: int) -> Any:
    """A completion with `count` choices."""
    return {"choices": [choice(n, content="a") for n in range(count)]}


def text_choices(count: int) -> Any:
    """A completion of a text with `count` choices."""
    return {"choices": [{"index": n, "text": "a", "finish_reason": "stop"} for n in range(count)]}


def candidates(count: int) -> Any:
    """A response of Gemini with `count` candidates."""
    part = {"role": "model", "parts": [{"text": "a"}]}
    return {"candidates": [{"index": n, "content": part, "finishReason": "STOP"} for n in range(count)]}


def chat_calls(count: int) -> Any:
    """A completion with `count` tool calls."""
    return {"choices": [choice(0, tool_calls=[CALL] * count)]}


def blocks(count: int) -> Any:
    """A message of Anthropic with `count` blocks."""
    return {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "a"}] * count}


def items(count: int) -> Any:
    """A response with `count` output items."""
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    return {"object": "response", "status": "completed", "output": [item] * count}


def ollama_calls(count: int) -> Any:
    """Ollama's reply with `count` calls."""
    calls = [{"function": {"name": "f", "arguments": {"a": "b"}}}] * count
    return {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": calls}, "done": True}


REQUESTS: dict[Wire, tuple[str, dict[str, Any]]] = {
    chat: ("/v1/chat/completions", {"messages": SAID}),
    completions: ("/v1/completions", {"prompt": "hi"}),
    gemini: ("/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
    anthropic: ("/v1/messages", {"max_tokens": 9, "messages": SAID}),
    responses: ("/v1/responses", {"input": "hi"}),
    ollama: ("/api/chat", {"messages": SAID}),
}
WHOLE = [
    (chat, chat_choices, CHOICES, "choices"),
    (completions, text_choices, CHOICES, "choices"),
    (gemini, candidates, CHOICES, "choices"),
    (chat, chat_calls, PIECES, "pieces"),
    (anthropic, blocks, PIECES, "pieces"),
    (responses, items, PIECES, "pieces"),
    (ollama, ollama_calls, PIECES, "pieces"),
]


def read(wire: Wire, body: Any) -> None:
    """Read a whole reply as the pipeline does."""
    path, asked = REQUESTS[wire]
    request = wire.parse_request(path, json.dumps({"model": "m", **asked}).encode())
    HeldBytes(10**9).check_reply(wire.parse_reply(request, json.dumps(body).encode()).choices)


@pytest.mark.parametrize(("wire", "body", "most", "what"), WHOLE)
def test_a_whole_reply(wire: Wire, body: Any, most: int, what: str) -> None:
    read(wire, body(most - 1))
    with pytest.raises(UpstreamUnreadable, match=rf"{what}.* no more than {most} are read"):
        read(wire, body(most + 1))


STREAMED = [
    (chat, lambda count: {"choices": [choice(n, "delta", content="a") for n in range(count)]}, CHOICES),
    (chat, lambda count: {"choices": [choice(0, "delta", content="")] * count}, CHOICES),
    (completions, text_choices, CHOICES),
    (gemini, candidates, CHOICES),
]


def calls(count: int) -> list[dict[str, Any]]:
    """The deltas of `count` tool calls."""
    return [{**CALL, "index": n} for n in range(count)]


@pytest.mark.parametrize(("wire", "body", "most"), STREAMED)
def test_a_frame(wire: Wire, body: Any, most: int) -> None:
    path, asked = REQUESTS[wire]
    path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    request = wire.parse_request(path, json.dumps({"model": "m", "stream": True, **asked}).encode())
    wire.open_stream(request, "text/event-stream").feed(b"data: " + json.dumps(body(most - 1)).encode() + b"\n\n")
    with pytest.raises(UpstreamUnreadable, match=rf"no more than {most} are read"):
        wire.open_stream(request, "text/event-stream").feed(b"data: " + json.dumps(body(most + 1)).encode() + b"\n\n")


def test_the_frames_of_a_stream_together() -> None:
    """Tool calls are counted over all frames and choices."""
    request = chat.parse_request("/v1/chat/completions", json.dumps({"stream": True, "messages": SAID}).encode())
    stream = chat.open_stream(request, "text/event-stream")
    for index in range(PIECES // 1000):
        delta = {"index": index, "delta": {"tool_calls": calls(1000)}, "finish_reason": None}
        stream.feed(b"data: " + json.dumps({"choices": [delta]}).encode() + b"\n\n")
    with pytest.raises(UpstreamUnreadable, match="pieces of content"):
        stream.feed(b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]}).encode() + b"\n\n")


@given(st.lists(st.sampled_from([b"\n", b"\n\n", b"a" * 300, b": c\n\n"]), max_size=4000).map(b"".join))
def test_slices_are_the_data(data: bytes) -> None:
    """Nothing is lost, and no slice has many lines."""
    found = [*slices(data)]
    assert b"".join(found) == data
    assert all(0 < len(piece) <= 4096 and piece.count(b"\n") <= 512 for piece in found)
