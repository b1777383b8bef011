"""Whole replies: every text that the client reads is a part, and an edit changes nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest

from guardproxy.errors import UpstreamUnreadable
from guardproxy.ports import Wire
from guardproxy.types import Edit, Pass, Refuse, Replace
from guardproxy.wires.ollama import Ollama
from guardproxy.wires.openai_chat import OpenAIChat
from guardproxy.wires.openai_completions import OpenAICompletions
from guardproxy.wires.openai_responses import OpenAIResponses
from tests.wires.kit import BY_NAME, CASES, MESSAGES, Case, by_frame

REFUSAL = Refuse("I cannot help with that.")
each_case = pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.name)


@each_case
def test_a_reply_that_passes_stays_as_it_is(case: Case) -> None:
    """Without an edit the reply is the upstream's own bytes."""
    request = case.request()
    reply = case.wire.parse_reply(request, case.reply)
    assert case.wire.edit_reply(request, reply, {0: Pass()}) == case.reply
    assert not any(choice.opaque for choice in reply.choices)


@each_case
def test_a_refused_reply_keeps_nothing_but_head_and_usage(case: Case) -> None:
    """Text, reasoning, tool calls and log probabilities are removed; ids, model and usage stay."""
    request = case.request()
    reply = case.wire.parse_reply(request, case.reply)
    edited = case.wire.edit_reply(request, reply, dict.fromkeys(range(len(reply.choices)), REFUSAL))
    again = case.wire.parse_reply(request, edited)
    assert [choice.text for choice in again.choices] == [REFUSAL.message] * len(reply.choices)
    before, after = json.loads(case.reply), json.loads(edited)
    for key in ("id", "model", "usage", "usageMetadata", "created", "responseId", "eval_count"):
        assert before.get(key) == after.get(key)


@each_case
def test_unknown_fields_of_a_refused_reply_go(case: Case) -> None:
    """Text under an unknown key is judged, and removed with the choice to which it was counted."""
    request = case.request()
    body = json.dumps({**json.loads(case.reply), "aside": "words that nobody judged"}).encode()
    reply = case.wire.parse_reply(request, body)
    assert [part.text for part in reply.choices[0].parts if part.path == "aside"] == ["words that nobody judged"]
    assert b"nobody judged" not in case.wire.edit_reply(request, reply, {0: REFUSAL})


def test_a_reply_of_errors_says_what_it_says() -> None:
    """The text of an upstream's error is judged as an answer; a rewritten error becomes an answer of the protocol."""
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"error": {"message": "busy"}},
        "completions": {"error": {"message": "busy"}},
        "responses": {"error": {"message": "busy"}},
        "messages": {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
        "ollama-chat": {"error": "busy"},
        "gemini": {"error": {"code": 429, "message": "busy"}},
    }
    for name, body in bodies.items():
        case = BY_NAME[name]
        reply = case.wire.parse_reply(case.request(), json.dumps(body).encode())
        (message,) = reply.choices
        assert message.text == "busy"
        edit = Edit(message.parts[0].path, "marked")
        for outcome in (Replace((edit,), whole=True), Replace((edit,)), REFUSAL):
            new = case.wire.edit_reply(case.request(), reply, {0: outcome})
            assert b"busy" not in new
            said = case.wire.parse_reply(case.request(), new).choices[0].text
            assert said == (REFUSAL.message if outcome is REFUSAL else "marked")


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "ollama-chat", "gemini"])
@pytest.mark.parametrize("body", [b"", b"[]x", b'"text"', b'{"a": 1, "a": 2}', b"<html></html>", b"[1]"])
def test_what_cannot_be_read_is_refused(name: str, body: bytes) -> None:
    """A reply that cannot be read is not taken for harmless."""
    case = BY_NAME[name]
    with pytest.raises(UpstreamUnreadable):
        case.wire.parse_reply(case.request(), body)


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "ollama-chat"])
def test_an_object_without_its_text_is_refused(name: str) -> None:
    """A reply of another shape is not taken for an empty reply."""
    case = BY_NAME[name]
    with pytest.raises(UpstreamUnreadable):
        case.wire.parse_reply(case.request(), b'{"answer": "some words"}')


def _chat(message: dict[str, Any], **choice: Any) -> bytes:
    head = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return json.dumps({"id": "c", "choices": [{**head, **choice}], "usage": {"total_tokens": 3}}).encode()


def test_everything_a_client_reads_of_a_chat_is_a_part() -> None:
    """Citations, transcripts, reasoning in any form, calls in either form; audio is opaque."""
    case = BY_NAME["chat"]
    body = _chat(
        {
            "content": [{"type": "text", "text": "Hi"}],
            "reasoning": "why",
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "xx"}],
            "annotations": [{"type": "url_citation", "url_citation": {"title": "T", "url": "u"}}],
            "audio": {"id": "a", "data": "AAAA", "transcript": "said aloud", "expires_at": 1},
            "function_call": {"name": "f", "arguments": "{}"},
        }
    )
    parts = case.wire.parse_reply(case.request(), body).choices[0].parts
    assert [(part.kind, part.path.removeprefix("choices[0].message.")) for part in parts] == [
        ("text", "content[0].text"),
        ("reasoning", "reasoning"),
        ("opaque", "reasoning_details[0].data"),
        ("text", "annotations[0]"),
        ("opaque", "audio.data"),
        ("transcript", "audio.transcript"),
        ("tool_call", "function_call.arguments"),
    ]


def test_one_of_several_choices_is_refused() -> None:
    """The other choices of a reply stay as they are."""
    case = BY_NAME["chat-tools"]
    reply = case.wire.parse_reply(case.request(), case.reply)
    edited = json.loads(case.wire.edit_reply(case.request(), reply, {0: REFUSAL, 1: Pass()}))
    assert edited["choices"][1] == json.loads(case.reply)["choices"][1]
    assert edited["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": REFUSAL.message, "refusal": None},
        "logprobs": None,
        "finish_reason": "content_filter",
    }


def test_an_edited_choice_loses_what_repeats_the_old_text() -> None:
    """A redaction keeps reasoning and finish reason, and drops log probabilities and annotations."""
    case = BY_NAME["chat"]
    reply = case.wire.parse_reply(case.request(), case.reply)
    outcome = Replace((Edit("choices[0].message.content", "Grüße."),))
    choice = json.loads(case.wire.edit_reply(case.request(), reply, {0: outcome}))["choices"][0]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Grüße.", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_edits_in_blocks() -> None:
    """An edited thinking block is removed, because its signature would not match; other blocks stay."""
    case = BY_NAME["messages"]
    reply = case.wire.parse_reply(case.request(), case.reply)
    outcome = Replace((Edit("content[0].thinking", "Which?"), Edit("content[1].text", "Let me see.")))
    edited = json.loads(case.wire.edit_reply(case.request(), reply, {0: outcome}))
    assert [block["type"] for block in edited["content"]] == ["text", "tool_use"]
    assert edited["content"][0]["text"] == "Let me see."


def test_log_probabilities_of_another_text_are_opaque() -> None:
    """Log probabilities of another text are opaque."""
    case = BY_NAME["chat"]
    tokens = {"content": [{"token": "Bye", "logprob": -1}], "refusal": None}
    reply = case.wire.parse_reply(case.request(), _chat({"content": "Hi"}, logprobs=tokens))
    assert [part.note for part in reply.choices[0].opaque] == ["log probabilities of another text"]
    bad = {"content": [{"token": "Hi", "bytes": [66, 121, 101], "logprob": -1}]}
    with pytest.raises(UpstreamUnreadable, match="different texts"):
        case.wire.parse_reply(case.request(), _chat({"content": "Hi"}, logprobs=bad))


def test_instructions_that_are_not_the_clients_are_judged() -> None:
    """A response repeats the request's instructions; other instructions are text of the reply."""
    case = BY_NAME["responses"]
    other = case.wire.parse_reply(case.request(instructions="Be kind."), case.reply)
    assert [(part.path, part.text) for part in other.choices[0].parts if part.path == "instructions"] == [
        ("instructions", "Answer briefly.")
    ]


def test_an_array_is_a_stream_read_at_once() -> None:
    """Gemini's answer without `alt=sse` is a JSON array: judged as a whole, and edited into an array."""
    case = BY_NAME["gemini-array"]
    reply = case.wire.parse_reply(case.request(), case.raw)
    assert reply.choices[0].text == case.wire.parse_reply(case.request(), case.reply).choices[0].text
    edited = case.wire.edit_reply(case.request(), reply, {0: REFUSAL})
    (only,) = json.loads(edited)
    assert only["candidates"][0]["finishReason"] == "SAFETY"
    assert case.wire.parse_reply(case.request(), edited).choices[0].text == REFUSAL.message


def test_refusals_of_a_stream_as_an_array() -> None:
    """The refusal is an array if the request does not ask for events."""
    case = BY_NAME["gemini-array"]
    request = case.wire.parse_request(f"{case.path}?key=k", case.request().raw)
    answer = case.wire.refuse(request, REFUSAL)
    assert answer.content_type == "application/json"
    assert json.loads(answer.body)[0]["candidates"][0]["content"]["parts"] == [{"text": REFUSAL.message}]


def test_as_many_refusals_as_choices() -> None:
    """A refusal answers every requested choice, streamed or not."""
    case = BY_NAME["chat"]
    whole = json.loads(case.wire.refuse(case.request(stream=False, n=3), REFUSAL).body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    stream = case.open()
    for chunk in by_frame(stream.feed(case.wire.refuse(case.request(n=2), REFUSAL).body)):
        stream.release(chunk)
    assert [stream.message(choice).text for choice in stream.choices] == [REFUSAL.message] * 2
    completions = BY_NAME["completions"]
    body = completions.wire.refuse(completions.request(stream=False, n=2, prompt=["a", "b"]), REFUSAL).body
    assert len(json.loads(body)["choices"]) == 4


CLOCKED: list[tuple[Wire, str, dict[str, Any], Any]] = [
    (OpenAIChat(), "/v1/chat/completions", {"messages": MESSAGES}, ("created", 1700000000)),
    (OpenAICompletions(), "/v1/completions", {"prompt": "Hello."}, ("created", 1700000000)),
    (OpenAIResponses(), "/v1/responses", {"input": "Hello."}, ("created_at", 1700000000)),
    (
        Ollama(),
        "/api/chat",
        {"messages": MESSAGES, "stream": False},
        ("created_at", "2023-11-14T22:13:20Z"),
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CLOCKED, ids=lambda case: case[0].name)
def test_refusals_are_of_the_present(case: tuple[Wire, str, dict[str, Any], Any], stream: bool) -> None:
    """A refusal has the time of the request, if the protocol has a field for the time."""
    wire, path, body, (key, value) = case
    read = wire.parse_request(path, json.dumps({"model": "m", **body, "stream": stream}).encode())
    request = replace(read, received=1700000000.0)
    said = wire.refuse(request, REFUSAL).body
    assert f'"{key}":{json.dumps(value)}'.encode() in said
