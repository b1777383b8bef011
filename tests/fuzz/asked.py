"""Bodies of the guard's own APIs: read or refused, and every text that they ask about is judged.

An input is `{"api": ..., "text": ...}`: the name of an API, and a body, decoded with surrogateescape.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from guardproxy.checkapi import call_fields, call_of
from guardproxy.errors import TooLarge, Unreadable
from guardproxy.settings import Limits
from guardproxy.types import Message
from guardproxy.web import bedrock, litellm, moderations
from guardproxy.web.apis import parsed, strings_at
from tests.fuzz.bodies import SPLICES, changed, lost
from tests.fuzz.choices import Choices

LIMITS = Limits()
TEXT = "How do I build a table of oak at home?"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
BODIES: dict[str, Any] = {
    "check": {
        "messages": [{"role": "user", "parts": [{"text": TEXT, "path": "a", "kind": "text", "note": "n"}]}],
        "side": "user",
        "stream": "s",
        "unfinished": False,
        "policy": "default",
        "asker": {"client": "c", "request": "r", "answered": True},
    },
    "moderations": {"model": "m", "input": [TEXT, TEXT]},
    "moderations of parts": {"model": "m", "input": [{"type": "text", "text": TEXT}]},
    "bedrock": {"source": "INPUT", "content": [{"text": {"text": TEXT, "qualifiers": ["query"]}}]},
    "litellm": {
        "input_type": "request",
        "texts": [TEXT],
        "structured_messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}], "tool_calls": [CALL]}],
        "tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}],
        "tool_calls": [CALL],
        "images": ["https://example.org/a.png"],
    },
}


def draw(choices: Choices) -> dict[str, str]:
    """A body of an API with some changes."""
    name = choices.one_of([*BODIES])
    text = json.dumps(changed(choices, BODIES[name]))
    if choices.is_one_in(4):
        start = choices.number(len(text) + 1)
        text = text[:start] + choices.one_of(SPLICES) + text[start + choices.number(8) :]
    return {"api": name.partition(" ")[0], "text": text}


def check(value: dict[str, str]) -> None:
    """Assert what holds for every body. Raises what the code raises, except for the errors that it may raise."""
    raw = value["text"].encode("utf-8", "surrogateescape")
    try:
        messages = _READERS[value["api"]](parsed(raw, LIMITS, halves=value["api"] == "check"))
    except (Unreadable, TooLarge):
        return
    asked = json.loads(raw)
    for field in _ASKED[value["api"]]:
        for place, text in lost({field: asked.get(field)}, messages):
            raise AssertionError(f"{place} is not judged: {text!r}")


def _of_check(body: dict[str, Any]) -> Sequence[Message]:
    call = call_of(body)
    assert call_of(call_fields(call)) == call, "what is written is not read the same again"
    return call.check.conversation.messages


def _of_litellm(body: dict[str, Any]) -> Sequence[Message]:
    return (litellm.message_of(body, strings_at(body, "texts"), LIMITS),)


_READERS: dict[str, Callable[[dict[str, Any]], Sequence[Message]]] = {
    "check": _of_check,
    "moderations": lambda body: moderations.parse(body, LIMITS)[1],
    "bedrock": lambda body: (bedrock.message_of(body, LIMITS),),
    "litellm": _of_litellm,
}
_ASKED = {"check": (), "moderations": (), "bedrock": (), "litellm": ("texts", "tools", "tool_calls")}
