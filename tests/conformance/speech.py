"""How the upstream of each protocol sends a text: whole, and streamed in pieces.

The forms follow the public references, as in the recorded transcripts of the wires: OpenAI API reference
("Chat", "Completions", "Responses", "Streaming events"), Anthropic API reference ("Messages", "Streaming messages"),
Ollama's API documentation ("Generate a chat completion", "Generate a completion"), Gemini API reference ("Generating
content").
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.ports import Request, Wire
from tests.wires.kit import BY_NAME

Json = dict[str, Any]
Dump = Callable[[Any], bytes]

SSE = "text/event-stream"
USAGE = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}


def plain(value: Any) -> bytes:
    """Return JSON as most servers write it."""
    return json.dumps(value, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Event:
    """A frame of a stream: its JSON, and its event name in protocols that name events."""

    body: Any
    name: str = ""


@dataclass(frozen=True)
class Protocol:
    """A protocol as its upstream speaks it. `path` and `stream_path` have a placeholder for the model."""

    name: str
    path: str
    stream_path: str
    ask: Callable[[str, bool], Json]
    whole: Callable[[str], Json]
    events: Callable[[Sequence[str]], list[Event]]
    frame: Callable[[Event, Dump], bytes]
    content_type: str = SSE
    end: bytes = b""

    @property
    def wire(self) -> Wire:
        """The wire that reads the protocol."""
        return BY_NAME[self.name.removesuffix("-array")].wire

    def request(self, prompt: str, *, stream: bool) -> Request:
        """Return a parsed request with a single turn."""
        return self.wire.parse_request(self.target(stream=stream), plain(self.ask(prompt, stream)))

    def target(self, model: str = "m", *, stream: bool) -> str:
        """Return the path of a request."""
        return (self.stream_path if stream else self.path).format(model=model)

    def streamed(self, pieces: Sequence[str], dump: Dump = plain) -> list[bytes]:
        """Return the frames of a stream of these pieces, with its end."""
        frames = [self.frame(event, dump) for event in self.events(pieces)]
        return [*frames, self.end] if self.end else frames


def sse(event: Event, dump: Dump = plain) -> bytes:
    """Return a server-sent event."""
    name = f"event: {event.name}\n".encode() if event.name else b""
    return name + b"data: " + dump(event.body) + b"\n\n"


def crlf(event: Event, dump: Dump) -> bytes:
    """Return a server-sent event with the line ends of Google's servers."""
    return b"data: " + dump(event.body) + b"\r\n\r\n"


def line(event: Event, dump: Dump) -> bytes:
    """Return a JSON text in a line of its own."""
    return dump(event.body) + b"\n"


def _messages(prompt: str) -> list[Json]:
    return [{"role": "user", "content": prompt}]


# --- OpenAI chat and completions -------------------------------------------------------------------------------------


def _chat_whole(text: str) -> Json:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
    }


def _chat_events(pieces: Sequence[str]) -> list[Event]:
    def event(delta: Json, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
        return Event({**head, "choices": [choice]})

    opening = event({"role": "assistant", "content": ""})
    return [opening, *(event({"content": piece}) for piece in pieces), event({}, "stop")]


def _completion(text: str, finish: str | None) -> Json:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "choices": [choice]}


def _completions_events(pieces: Sequence[str]) -> list[Event]:
    return [Event(_completion(piece, None)) for piece in pieces] + [Event(_completion("", "stop"))]


# --- OpenAI responses ------------------------------------------------------------------------------------------------


def _response(status: str, output: list[Json]) -> Json:
    head = {"id": "resp_1", "object": "response", "created_at": 7, "status": status, "model": "m", "output": output}
    return {**head, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


def _item(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _response_events(pieces: Sequence[str]) -> list[Event]:
    text = "".join(pieces)
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    bodies: list[Json] = [
        {"type": "response.created", "response": _response("in_progress", [])},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**_item(""), "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": empty},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**empty, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(text)},
        {"type": "response.completed", "response": _response("completed", [_item(text)])},
    ]
    return [Event({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies)]


# --- Anthropic messages ----------------------------------------------------------------------------------------------


def _message(content: list[Json], stop: str | None) -> Json:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return {**head, "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 9}}


def _message_events(pieces: Sequence[str]) -> list[Event]:
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    bodies: list[Json] = [
        {"type": "message_start", "message": _message([], None)},
        start,
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return [Event(body, body["type"]) for body in bodies]


# --- Ollama ----------------------------------------------------------------------------------------------------------

_OLLAMA = {"model": "m", "created_at": "2026-01-02T03:04:05.678Z"}
_COUNTS = {"done_reason": "stop", "done": True, "total_duration": 9, "prompt_eval_count": 5, "eval_count": 9}


def _says(text: str) -> Json:
    return {**_OLLAMA, "message": {"role": "assistant", "content": text}}


def _responds(text: str) -> Json:
    return {**_OLLAMA, "response": text}


def _lines(says: Callable[[str], Json], pieces: Sequence[str]) -> list[Event]:
    return [Event({**says(piece), "done": False}) for piece in pieces] + [Event({**says(""), **_COUNTS})]


# --- Gemini ----------------------------------------------------------------------------------------------------------


def _candidates(text: str, finish: str | None) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 5}, "modelVersion": "m"}


def _gemini_events(pieces: Sequence[str]) -> list[Event]:
    return [Event(_candidates(piece, None)) for piece in pieces[:-1]] + [Event(_candidates(pieces[-1], "STOP"))]


def _array_events(pieces: Sequence[str]) -> list[Event]:
    """Return the items of the array; the name of an event is the separator before the item."""
    events = _gemini_events(pieces)
    return [Event(event.body, ",\r\n" if number else "[") for number, event in enumerate(events)]


def _array_frame(event: Event, dump: Dump) -> bytes:
    return event.name.encode() + dump(event.body)


_GENERATE = "/v1beta/models/{model}:"


def _contents(prompt: str, stream: bool) -> Json:
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "chat",
            "/v1/chat/completions",
            "/v1/chat/completions",
            lambda prompt, stream: {"model": "m", "messages": _messages(prompt), "stream": stream},
            _chat_whole,
            _chat_events,
            sse,
            end=b"data: [DONE]\n\n",
        ),
        Protocol(
            "completions",
            "/v1/completions",
            "/v1/completions",
            lambda prompt, stream: {"model": "m", "prompt": prompt, "stream": stream},
            lambda text: {**_completion(text, "stop"), "usage": USAGE},
            _completions_events,
            sse,
            end=b"data: [DONE]\n\n",
        ),
        Protocol(
            "responses",
            "/v1/responses",
            "/v1/responses",
            lambda prompt, stream: {"model": "m", "input": prompt, "stream": stream},
            lambda text: _response("completed", [_item(text)]),
            _response_events,
            sse,
        ),
        Protocol(
            "messages",
            "/v1/messages",
            "/v1/messages",
            lambda prompt, stream: {"model": "m", "max_tokens": 64, "messages": _messages(prompt), "stream": stream},
            lambda text: _message([{"type": "text", "text": text}], "end_turn"),
            _message_events,
            sse,
        ),
        Protocol(
            "ollama-chat",
            "/api/chat",
            "/api/chat",
            lambda prompt, stream: {"model": "m", "messages": _messages(prompt), "stream": stream},
            lambda text: {**_says(text), **_COUNTS},
            lambda pieces: _lines(_says, pieces),
            line,
            "application/x-ndjson",
        ),
        Protocol(
            "ollama-generate",
            "/api/generate",
            "/api/generate",
            lambda prompt, stream: {"model": "m", "prompt": prompt, "stream": stream},
            lambda text: {**_responds(text), **_COUNTS},
            lambda pieces: _lines(_responds, pieces),
            line,
            "application/x-ndjson",
        ),
        Protocol(
            "gemini",
            f"{_GENERATE}generateContent",
            f"{_GENERATE}streamGenerateContent?alt=sse",
            _contents,
            lambda text: _candidates(text, "STOP"),
            _gemini_events,
            crlf,
        ),
        Protocol(
            "gemini-array",
            f"{_GENERATE}generateContent",
            f"{_GENERATE}streamGenerateContent",
            _contents,
            lambda text: _candidates(text, "STOP"),
            _array_events,
            _array_frame,
            "application/json",
            b"\r\n]\r\n",
        ),
    )
}

# The protocols whose requests contain a conversation.
CHATS = ("chat", "responses", "messages", "ollama-chat", "gemini")


def conversation(name: str, texts: list[str]) -> Json:
    """Return a request with these texts as turns of the user and the assistant, alternately."""
    body = PROTOCOLS[name].ask("", False)
    if name == "gemini":
        roles = ("user", "model")
        return {"contents": [{"role": roles[n % 2], "parts": [{"text": text}]} for n, text in enumerate(texts)]}
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {**body, "input" if name == "responses" else "messages": turns}
