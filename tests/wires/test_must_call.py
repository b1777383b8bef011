"""Requests that must be answered with the call of a tool, and how such a call is refused."""

import json
from typing import Any

import pytest

from guardproxy.types import Refuse
from tests.wires.kit import BY_NAME

FUNCTION = {"type": "function", "function": {"name": "f"}}
ALLOWED = {"mode": "required", "tools": [FUNCTION]}


@pytest.mark.parametrize(
    ("name", "settings", "must"),
    [
        ("chat", {"tool_choice": "required"}, True),
        ("chat", {"tool_choice": "any"}, True),  # as Mistral spells it
        ("chat", {"tool_choice": FUNCTION}, True),
        ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}, True),
        ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {**ALLOWED, "mode": "auto"}}}, False),
        ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": "f"}}, False),
        ("chat", {"function_call": {"name": "f"}}, True),
        ("chat", {"function_call": "auto"}, False),
        ("chat", {"tool_choice": "auto"}, False),
        ("chat", {"tool_choice": "none"}, False),
        ("chat", {"tool_choice": None}, False),
        ("chat", {"tool_choice": 3}, False),
        ("chat", {}, False),
        ("responses", {"tool_choice": {"type": "function", "name": "f"}}, True),
        ("responses", {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}, True),
        ("responses", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, False),
        ("messages", {"tool_choice": {"type": "any"}}, True),
        ("messages", {"tool_choice": {"type": "tool", "name": "f"}}, True),
        ("messages", {"tool_choice": {"type": "auto"}}, False),
        ("messages", {"tool_choice": {"type": "none"}}, False),
        ("gemini", {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, True),
        ("gemini", {"tool_config": {"function_calling_config": {"mode": "ANY"}}}, True),
        ("gemini", {"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}}, False),
        ("gemini", {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}, False),
        ("gemini", {"toolConfig": {"functionCallingConfig": "ANY"}}, False),
        ("gemini", {"toolConfig": "ANY"}, False),
    ],
)
def test_which_requests_must_be_answered_with_a_call(name: str, settings: dict[str, Any], must: bool) -> None:
    """Those whose protocol says so; what a protocol does not know is no such request."""
    request = BY_NAME[name].request(**settings)
    assert (request.must_call, request.has_form, request.structured) == (must, must, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_refused_call_is_marked(choice: str, stream: bool) -> None:
    """The program that waits for the call reads no text of the model. Where the model may answer, it is a text."""
    chat = BY_NAME["chat"].request(tool_choice=choice, stream=stream)
    body = BY_NAME["chat"].wire.refuse(chat, Refuse("No.")).body
    if stream:
        deltas = [
            json.loads(line[6:])["choices"][0]["delta"] for line in body.splitlines() if line.startswith(b"data: {")
        ]
        message = {key: text for delta in deltas for key, text in delta.items() if text}
    else:
        message = json.loads(body)["choices"][0]["message"]
    assert message["refusal" if choice == "required" else "content"] == "No."
    assert not message.get("content" if choice == "required" else "refusal")
    responses = BY_NAME["responses"].request(tool_choice=choice, stream=stream)
    body = BY_NAME["responses"].wire.refuse(responses, Refuse("No.")).body
    answer = json.loads(body.strip().rpartition(b"data: ")[2])["response"] if stream else json.loads(body)
    (part,) = answer["output"][0]["content"]
    assert part["type"] == ("refusal" if choice == "required" else "output_text")
