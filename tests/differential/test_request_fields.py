"""What an upstream gets of the fields of a request that are no texts, against what the guard read.

Servers write some of them into the prompt (gpt-oss' template the reasoning effort, others the tool choice or the
format), and nobody knows which. So every text in a forwarded body must have been judged.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.speech import PROTOCOLS, plain
from tests.differential.conversations import PNG, answer
from tests.differential.kit import Shown, Stand, phrase, strings, unjudged
from tests.differential.replies import sent
from tests.differential.test_reply_fields import Path, at, places, unknown_fields, unknown_items, with_value

Json = dict[str, Any]

_TOOL = {"name": "tide", "description": "Tides", "parameters": {"type": "object", "properties": {}}}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
_DATA = f"data:image/png;base64,{PNG}"

# A request of each protocol with most of its fields. The texts are none of the comparison's alphabets.
REQUESTS: dict[str, Json] = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "name": "anna",
                "content": [
                    {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": _DATA, "detail": "low"}, "uuid": "u1"},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [_CALL], "prefix": False},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ],
        "tools": [{"type": "function", "function": _TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "tide"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "reasoning_effort": "low",
        "reasoning": {"effort": "low"},
        "verbosity": "low",
        "modalities": ["text"],
        "audio": {"voice": "alloy", "format": "wav"},
        "prediction": {"type": "content", "content": "Hello"},
        "web_search_options": {"search_context_size": "low"},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "user": "u",
        "temperature": 1,
        "max_tokens": 5,
        "logit_bias": {"5": 1},
        "seed": 1,
        "guided_regex": "a",
        "guided_grammar": "g",
        "chat_template_kwargs": {"enable_thinking": True},
        "chat_template_content_format": "string",
        "reasoning_format": "none",
        "transforms": ["middle-out"],
        "models": ["m"],
        "stream_options": {"include_usage": False},
    },
    "completions": {
        "model": "m",
        "prompt": "Once",
        "suffix": "end",
        "user": "u",
        "seed": 1,
        "logit_bias": {"5": 1},
        "grammar": "g",
        "guided_choice": ["a"],
    },
    "responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "type": "message",
                "role": "user",
                "status": "completed",
                "phase": "commentary",
                "content": [
                    {"type": "input_text", "text": "Hello"},
                    {"type": "input_image", "image_url": _DATA, "detail": "low"},
                ],
            },
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "tide", "arguments": "{}", "status": "x"},
            {"type": "function_call_output", "call_id": "c1", "output": "noon", "status": "completed"},
        ],
        "tools": [{"type": "function", **_TOOL}],
        "tool_choice": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "truncation": "auto",
        "service_tier": "auto",
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "store": False,
    },
    "messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "5m"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "EqQB"},
                    {"type": "server_tool_use", "id": "st_1", "name": "web_search", "input": {"query": "tide"}},
                    {
                        "type": "web_search_tool_result",
                        "tool_use_id": "st_1",
                        "content": {"type": "web_search_tool_result_error", "error_code": "unavailable"},
                    },
                    {"type": "tool_use", "id": "tu_1", "name": "tide", "input": {"port": "Brest"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "tu_1", "content": "noon"}]},
        ],
        "tools": [{"name": "tide", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "container": "c_1",
        "service_tier": "auto",
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    },
    "ollama-chat": {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "tide", "arguments": {}}}]},
            {"role": "tool", "tool_name": "tide", "content": "noon"},
        ],
        "stream": False,
        "think": "low",
        "format": "json",
        "keep_alive": "5m",
        "options": {"seed": 1},
        "tools": [{"type": "function", "function": _TOOL}],
    },
    "ollama-generate": {
        "model": "m",
        "prompt": "Hello",
        "system": "Be brief.",
        "stream": False,
        "think": "low",
        "format": "json",
        "keep_alive": "5m",
        "options": {"seed": 1},
    },
    "gemini": {
        "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hello"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]},
            {"role": "model", "parts": [{"functionCall": {"id": "f1", "name": "tide", "args": {"port": "Brest"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "f1", "name": "tide", "response": {"at": "noon"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "tide", "description": "Tides"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["tide"]}},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {
            "temperature": 1,
            "responseMimeType": "text/plain",
            "responseModalities": ["TEXT"],
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}, "languageCode": "en"},
            "thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"},
            "mediaResolution": "MEDIA_RESOLUTION_LOW",
        },
    },
}


# Fields of labels that no template writes into a prompt: a few words pass there, and any number of codes.
_LABELS = ("metadata", "models", "safety_identifier", "stop", "user")
# Keys of images: text in the place of bytes cannot be read by a guard, nor by the model, and the part is opaque.
_MEDIA = ("data", "image_url", "url")


def missed(stand: Stand, protocol: str, body: Json) -> list[str]:
    """Return the texts of a forwarded body that the guard has not read; none if the proxy refuses the request."""
    stand.play(sent(answer(protocol)))
    address = stand.url + PROTOCOLS[protocol].target(stream=False)
    httpx.post(address, content=plain(body), headers={"content-type": "application/json"}, timeout=60)
    if stand.forwarded is None:
        return []
    return unjudged([Shown("text", text) for text in strings(json.loads(stand.forwarded.body))], stand.guard.judged)


def check(stand: Stand, protocol: str, changes: Iterator[tuple[Path, Any]]) -> None:
    """Fail with the places of a request at which a text is forwarded and not judged."""
    body = REQUESTS[protocol]
    found: dict[str, str] = {}
    for path, value in changes:
        if path[-1] in _MEDIA:
            continue
        if texts := missed(stand, protocol, with_value(body, path, value)):
            found.setdefault(".".join(map(str, path)), texts[0])
    assert not found, "\n".join(f"{place} {text}" for place, text in found.items())


def _phrase_at(rng: random.Random, path: Path) -> str:
    """Return a text that is more than a label where labels stand."""
    return phrase(rng, 60 if path[0] in _LABELS else 0)


@pytest.mark.parametrize("protocol", REQUESTS)
def test_the_request_without_changes(stand: Stand, protocol: str) -> None:
    assert not missed(stand, protocol, REQUESTS[protocol])
    assert stand.forwarded is not None
    assert json.loads(stand.forwarded.body) == REQUESTS[protocol]


@pytest.mark.parametrize("protocol", REQUESTS)
def test_bare_strings_of_a_request(stand: Stand, protocol: str) -> None:
    """A text in the place of any value, and in the place of any object or list."""
    rng = random.Random(protocol)
    check(stand, protocol, ((path, _phrase_at(rng, path)) for path in places(REQUESTS[protocol])))


@pytest.mark.parametrize("protocol", REQUESTS)
def test_strings_in_the_place_of_a_value(stand: Stand, protocol: str) -> None:
    """A text in an object or a list that stands in the place of a string or a number."""
    rng, body = random.Random(protocol), REQUESTS[protocol]
    leaves = [path for path in places(body) if not isinstance(at(body, path), dict | list)]
    check(
        stand,
        protocol,
        ((path, v) for path in leaves for v in ([_phrase_at(rng, path)], {"type": _phrase_at(rng, path)})),
    )


@pytest.mark.parametrize("protocol", REQUESTS)
def test_unknown_fields_of_a_request(stand: Stand, protocol: str) -> None:
    check(stand, protocol, unknown_fields(random.Random(protocol), REQUESTS[protocol]))


@pytest.mark.parametrize("protocol", [name for name in REQUESTS if name not in ("completions", "ollama-generate")])
def test_unknown_items_of_a_request(stand: Stand, protocol: str) -> None:
    check(stand, protocol, unknown_items(random.Random(protocol), REQUESTS[protocol]))
