"""A text under an unknown key, in any object of any body, is judged, opaque, or refused."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Wire
from guardproxy.types import Message, Refuse
from guardproxy.wires import anthropic_messages, gemini, ollama, openai_chat, openai_completions, openai_responses
from tests.wires.kit import BY_NAME, CASES, Case, fed
from tests.wires.test_requests import CHAT

TOOL = {"name": "tide", "description": "Tides", "parameters": {"type": "object", "properties": {}}}
REFUSAL = Refuse("I cannot help with that.")

# One request of each protocol with about everything in it that is an object.
REQUESTS: dict[str, tuple[Wire, str, dict[str, Any]]] = {
    "chat": (
        openai_chat.wire,
        "/v1/chat/completions",
        {
            **CHAT,
            "stream_options": {"include_usage": True},
            "tool_choice": {"type": "function", "function": {"name": "tide"}},
            "audio": {"voice": "alloy", "format": "wav"},
            "logit_bias": {"50256": -100},
            "reasoning": {"effort": "low"},
            "web_search_options": {"user_location": {"approximate": {"city": "Rome"}}},
        },
    ),
    "completions": (
        openai_completions.wire,
        "/v1/completions",
        {"model": "m", "prompt": ["Hello there."], "stream_options": {"include_usage": True}, "logit_bias": {"1": 2}},
    ),
    "responses": (
        openai_responses.wire,
        "/v1/responses",
        {
            "model": "m",
            "instructions": "Be kind.",
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "tools": [{"type": "function", **TOOL}],
            "tool_choice": {"type": "function", "name": "tide"},
            "stream_options": {"include_obfuscation": False},
            "prompt": {"id": "p", "variables": {"name": "Ada"}},
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hello there."}]},
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Thinking"}]},
                {"type": "function_call", "call_id": "c", "name": "tide", "arguments": '{"port":"A"}'},
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Noon"}]},
                {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "tides"}},
            ],
        },
    ),
    "messages": (
        anthropic_messages.wire,
        "/v1/messages",
        {
            "model": "m",
            "max_tokens": 64,
            "metadata": {"user_id": "u"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "tool_choice": {"type": "tool", "name": "tide"},
            "context_management": {
                "edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens"}}]
            },
            "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "tide", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hello there."}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm", "signature": "s"},
                        {"type": "tool_use", "id": "t", "name": "tide", "input": {"port": "A"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "Noon"}]},
                        {
                            "type": "document",
                            "title": "T",
                            "citations": {"enabled": True},
                            "source": {"type": "text", "media_type": "text/plain", "data": "Words"},
                        },
                    ],
                },
            ],
        },
    ),
    "ollama": (
        ollama.wire,
        "/api/chat",
        {
            "model": "m",
            "options": {"temperature": 0.5, "stop": ["Human: hello"]},
            "format": {"type": "object"},
            "tools": [{"type": "function", "function": TOOL}],
            "messages": [
                {"role": "user", "content": "Hello there."},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "tide", "arguments": {"port": "A"}}}],
                },
                {"role": "tool", "content": "Noon", "tool_name": "tide"},
            ],
        },
    ),
    "gemini": (
        gemini.wire,
        "/v1beta/models/m:generateContent",
        {
            "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "tools": [{"functionDeclarations": [TOOL]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["tide"]}},
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "generationConfig": {
                "thinkingConfig": {"thinkingBudget": 0},
                "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
                "responseSchema": {"type": "OBJECT"},
            },
            "contents": [
                {"role": "user", "parts": [{"text": "Hello there."}]},
                {"role": "model", "parts": [{"functionCall": {"name": "tide", "args": {"port": "A"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "tide", "response": {"at": "Noon"}}}]},
            ],
        },
    ),
}
_TOKENS = {
    "content": [{"token": "Hi", "bytes": [72, 105], "logprob": -1, "top_logprobs": [{"token": "Hi", "logprob": -1}]}]
}
# Replies with what transcripts have not: errors, filters, tokens, nothing at all.
REPLIES: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"choices": []}),
    ("chat", {"error": {"message": "It broke down.", "code": 500}}),
    (
        "chat",
        {
            "usage": {"total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}},
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hi"},
                    "logprobs": _TOKENS,
                    "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
                }
            ],
        },
    ),
    ("completions", {"choices": []}),
    ("completions", {"error": {"message": "It broke down."}}),
    (
        "completions",
        {"choices": [{"index": 0, "text": "Hi", "logprobs": {"tokens": ["Hi"], "top_logprobs": [{"Hi": -1}]}}]},
    ),
    ("responses", {"error": {"message": "It broke down."}}),
    ("responses", {"id": "r", "output": [], "error": {"message": "It broke down."}, "usage": {"a": {"b": 1}}}),
    ("messages", {"type": "error", "error": {"type": "api_error", "message": "It broke down."}}),
    (
        "messages",
        {"content": [], "usage": {"cache_creation": {"ephemeral_5m_input_tokens": 0}}, "container": {"id": "c"}},
    ),
    ("ollama-chat", {"error": "It broke down."}),
    ("ollama-chat", {"message": {"content": "Hi"}, "logprobs": _TOKENS["content"]}),
    ("gemini", {"error": {"code": 500, "message": "It broke down.", "details": [{"@type": "x"}]}}),
    ("gemini", {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": [{"category": "A"}]}}),
    (
        "gemini",
        {
            "usageMetadata": {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1}]},
            "candidates": [
                {
                    "content": {"parts": [{"text": "Hi"}]},
                    "safetyRatings": [{"category": "A", "probability": "LOW"}],
                    "logprobsResult": {
                        "chosenCandidates": [{"token": "Hi", "tokenId": 1}],
                        "topCandidates": [{"candidates": [{"token": "Hi"}]}],
                    },
                }
            ],
        },
    ),
]
# Frames that belong to no choice, behind what a recorded stream begins with.
FRAMES: list[tuple[str, bytes]] = [
    ("chat", b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'),
    ("chat", b'data: {"error": {"message": "It broke down.", "metadata": {}}}\n\n'),
    ("completions", b'data: {"error": {"message": "It broke down."}}\n\n'),
    ("responses", b'event: error\ndata: {"type": "error", "message": "It broke down.", "sequence_number": 1}\n\n'),
    ("messages", b'event: ping\ndata: {"type": "ping"}\n\n'),
    ("messages", b'event: error\ndata: {"type": "error", "error": {"type": "a", "message": "It broke down."}}\n\n'),
    ("ollama-chat", b'{"error": "It broke down."}\n'),
    ("gemini", b'data: {"error": {"message": "It broke down."}}\r\n\r\n'),
    ("gemini", b'data: {"promptFeedback": {"blockReason": "SAFETY"}}\r\n\r\n'),
]

_WORDS = st.lists(st.text("abcdefghij", min_size=1, max_size=12), min_size=8, max_size=20).map(" ".join)
_KEYS = st.one_of(st.text("abcxyz_0", max_size=8), st.sampled_from(["a.b", "a[0]", 'a"b', "a b", "é", ""])).map(
    "zz{}".format
)
_FORMS = st.sampled_from(
    [lambda text: text, lambda text: [text], lambda text: {"note": text}, lambda text: [[{"n": text}]]]
)
_MANY = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _objects(value: Any, path: str = "") -> Iterator[tuple[Any, str]]:
    """Yield every object in a JSON value, with its path."""
    if isinstance(value, dict):
        yield value, path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
        yield from _objects(item, path + step)


def _planted(value: Any, key: str, planted: Any) -> Iterator[tuple[Any, str]]:
    """Yield a copy of the value for each of its objects, with a new key in it; and the object's path."""
    for place in range(len(list(_objects(value)))):
        new = copy.deepcopy(value)
        holder, path = list(_objects(new))[place]
        holder[key] = planted
        yield new, path


def _seen(messages: Any, before: set[str], text: str, place: str) -> bool:
    """Whether the text is judged, or its field is opaque, or an enclosing part was opaque already."""
    parts = [part for message in messages for part in message.parts]
    opaque = {part.path for part in parts if part.kind == "opaque"}
    judged = any(text in part.text for part in parts)
    return judged or bool(opaque - before) or any(place.startswith(path) for path in opaque)


def _opaque(messages: tuple[Message, ...]) -> set[str]:
    return {part.path for message in messages for part in message.opaque}


@pytest.mark.parametrize("name", REQUESTS)
@given(key=_KEYS, text=_WORDS, form=_FORMS)
@_MANY
def test_requests(name: str, key: str, text: str, form: Any) -> None:
    """An unknown field of a request is judged or opaque, and an edit that drops all messages drops it, too."""
    wire, path, body = REQUESTS[name]
    before = _opaque(wire.parse_request(path, json.dumps(body).encode()).conversation.messages)
    for sent, place in _planted(body, key, form(text)):
        try:
            request = wire.parse_request(path, json.dumps(sent).encode())
        except Unreadable:
            continue
        messages = request.conversation.messages
        assert _seen(messages, before, text, place), place
        assert text.encode() not in wire.edit_request(request, [], range(len(messages))), place


def _whole_replies() -> list[tuple[Case, dict[str, Any]]]:
    recorded = [(case, json.loads(case.reply)) for case in CASES if case.name != "gemini-array"]
    return [*recorded, *((BY_NAME[name], body) for name, body in REPLIES)]


@pytest.mark.parametrize(("case", "body"), _whole_replies(), ids=lambda one: one.name if isinstance(one, Case) else "")
@given(key=_KEYS, text=_WORDS, form=_FORMS)
@_MANY
def test_replies(case: Case, body: dict[str, Any], key: str, text: str, form: Any) -> None:
    """An unknown field of a reply is judged or opaque, and a refused reply does not contain it."""
    request = case.request()
    before = _opaque(case.wire.parse_reply(request, json.dumps(body).encode()).choices)
    for sent, place in _planted(body, key, form(text)):
        try:
            reply = case.wire.parse_reply(request, json.dumps(sent).encode())
        except UpstreamUnreadable:
            continue
        assert _seen(reply.choices, before, text, place), place
        refused = case.wire.edit_reply(request, reply, dict.fromkeys(range(len(reply.choices)), REFUSAL))
        assert text.encode() not in refused, place
        assert REFUSAL.message in refused.decode() or request.structured, place


def _frames(case: Case) -> list[bytes]:
    joint = b"\n" if case.content_type.endswith("ndjson") else b"\r\n\r\n" if case.name == "gemini" else b"\n\n"
    return [frame + joint for frame in case.raw.split(joint) if frame]


def streams() -> list[tuple[Case, list[bytes], int]]:
    """Yield streams with the index of the frame that gets an unknown field."""
    cases = [case for case in CASES if case.name != "gemini-array"]
    recorded = [(case, _frames(case), n) for case in cases for n in range(len(_frames(case)))]
    others = [(BY_NAME[name], [*_frames(BY_NAME[name])[:2], frame], 2) for name, frame in FRAMES]
    alone = [(BY_NAME[name], [frame], 0) for name, frame in FRAMES]
    return [one for one in [*recorded, *others, *alone] if b"{" in one[1][one[2]]]


def with_frame(frames: list[bytes], number: int) -> tuple[Any, Callable[[Any], list[bytes]]]:
    """Return the body of a frame, and a function that returns the stream with another body in its place."""
    start, brace, rest = frames[number].partition(b"{")
    data = re.split(rb"\r?\n", brace + rest)[0]

    def changed(body: Any) -> list[bytes]:
        new = start + json.dumps(body).encode() + (brace + rest)[len(data) :]
        return [*frames[:number], new, *frames[number + 1 :]]

    return json.loads(data), changed


@pytest.mark.parametrize("one", streams(), ids=lambda one: f"{one[0].name}-{one[2]}")
@given(key=_KEYS, text=_WORDS, form=_FORMS)
@settings(_MANY, max_examples=4)
def test_frames(one: tuple[Case, list[bytes], int], key: str, text: str, form: Any) -> None:
    """An unknown field of a frame makes it wait as opaque content, and the proxy's ending does not contain it."""
    case, frames, number = one
    recorded, changed = with_frame(frames, number)
    for body, place in _planted(recorded, key, form(text)):
        stream = case.open()
        try:
            chunks = fed(stream, changed(body))
        except UpstreamUnreadable:
            continue
        messages = [stream.message(choice) for choice in stream.choices]
        assert _seen(messages, set(), text, "-"), place
        held = [chunk for chunk in chunks if text.encode() in chunk.raw]
        assert any(mark.whole for chunk in held for mark in chunk.marks) or _judged(messages, text), place
        out = b"".join(stream.end(choice, REFUSAL) for choice in stream.choices)
        out += b"".join(stream.release(chunk) for chunk in chunks if text.encode() not in chunk.raw) + stream.close()
        assert text.encode() not in out, place


@pytest.mark.parametrize("key", ["filedata", "FileData", "inlinedata", "functioncall", "EXECUTABLECODE"])
def test_a_part_in_another_spelling_is_refused(key: str) -> None:
    """A server in Go reads `filedata` as `fileData`: the image would reach the model as an unknown field."""
    body = {"contents": [{"parts": [{key: {"fileUri": "https://example.org/a.png", "mimeType": "image/png"}}]}]}
    with pytest.raises(Unreadable, match="is a key in another spelling"):
        gemini.wire.parse_request("/v1beta/models/m:generateContent", json.dumps(body).encode())


def _judged(messages: list[Message], text: str) -> bool:
    return any(text in message.text for message in messages)
