"""Generated conversations, and how the client of each protocol writes them into a request."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.speech import PROTOCOLS
from tests.differential.kit import phrase

Json = dict[str, Any]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = "<image>"
"""A text that stands for an image among the texts of a turn."""


@dataclass(frozen=True)
class Turn:
    """A message with its texts, one part for each; a tool's message is the result of the call `call`."""

    role: str
    texts: tuple[str, ...]
    call: str = ""
    """The id of a call: the tool that an assistant's turn calls, or the call that a tool's turn answers."""


def turn(rng: random.Random, role: str, number: int = 1) -> Turn:
    """Return a turn with `number` texts of its own."""
    return Turn(role, tuple(phrase(rng) for _ in range(number)))


def tool_use(rng: random.Random, name: str) -> list[Turn]:
    """Return an assistant's turn that calls a tool, and the tool's result."""
    return [Turn("assistant", (phrase(rng),), name), Turn("tool", (phrase(rng),), name)]


def _chat_content(turn: Turn) -> Any:
    if len(turn.texts) == 1:
        return turn.texts[0]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    return [image if text == IMAGE else {"type": "text", "text": text} for text in turn.texts]


def _call(turn: Turn) -> Json:
    arguments = json.dumps({"port": turn.texts[0]}, ensure_ascii=False)
    return {"id": turn.call, "type": "function", "function": {"name": "tide", "arguments": arguments}}


def _chat(turns: Sequence[Turn]) -> Json:
    messages: list[Json] = []
    for turn in turns:
        if turn.call and turn.role == "assistant":
            messages.append({"role": "assistant", "content": None, "tool_calls": [_call(turn)]})
        else:
            more = {"tool_call_id": turn.call} if turn.call else {}
            messages.append({"role": turn.role, "content": _chat_content(turn), **more})
    return {"model": "m", "messages": messages}


def _ollama(turns: Sequence[Turn]) -> Json:
    messages: list[Json] = []
    for turn in turns:
        if turn.call and turn.role == "assistant":
            function = {"name": "tide", "arguments": {"port": turn.texts[0]}}
            messages.append({"role": "assistant", "content": "", "tool_calls": [{"function": function}]})
        else:
            more = {"tool_name": "tide"} if turn.call else {}
            messages.append({"role": turn.role, "content": "\n".join(turn.texts), **more})
    return {"model": "m", "messages": messages, "stream": False}


def _responses(turns: Sequence[Turn]) -> Json:
    items: list[Json] = []
    for turn in turns:
        if turn.call and turn.role == "assistant":
            function = _call(turn)["function"]
            items.append({"type": "function_call", "call_id": turn.call, **function})
        elif turn.call:
            parts = [{"type": "input_text", "text": text} for text in turn.texts]
            output = parts if len(parts) > 1 else turn.texts[0]
            items.append({"type": "function_call_output", "call_id": turn.call, "output": output})
        else:
            kind = "output_text" if turn.role == "assistant" else "input_text"
            image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
            content: Any = [image if text == IMAGE else {"type": kind, "text": text} for text in turn.texts]
            items.append({"role": turn.role, "content": content if len(turn.texts) > 1 else turn.texts[0]})
    return {"model": "m", "input": items}


def _messages(turns: Sequence[Turn]) -> Json:
    """Return a Messages request: a system turn stands beside the messages, and results of tools are the user's."""
    messages: list[Json] = []
    content: Any
    system = [text for turn in turns if turn.role == "system" for text in turn.texts]
    for turn in turns:
        if turn.call and turn.role == "assistant":
            block = {"type": "tool_use", "id": turn.call, "name": "tide", "input": {"port": turn.texts[0]}}
            messages.append({"role": "assistant", "content": [block]})
        elif turn.call:
            blocks = [{"type": "text", "text": text} for text in turn.texts]
            content = blocks if len(blocks) > 1 else turn.texts[0]
            result = {"type": "tool_result", "tool_use_id": turn.call, "content": content}
            messages.append({"role": "user", "content": [result]})
        elif turn.role != "system":
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            image = {"type": "image", "source": source}
            content = [image if text == IMAGE else {"type": "text", "text": text} for text in turn.texts]
            messages.append({"role": turn.role, "content": content if len(turn.texts) > 1 else turn.texts[0]})
    beside = {"system": [{"type": "text", "text": text} for text in system]} if system else {}
    return {"model": "m", "max_tokens": 64, **beside, "messages": messages}


def _gemini(turns: Sequence[Turn]) -> Json:
    contents: list[Json] = []
    system = [{"text": text} for turn in turns if turn.role == "system" for text in turn.texts]
    for turn in turns:
        if turn.call and turn.role == "assistant":
            call = {"functionCall": {"name": "tide", "args": {"port": turn.texts[0]}}}
            contents.append({"role": "model", "parts": [call]})
        elif turn.call:
            result = {"functionResponse": {"name": "tide", "response": {"result": turn.texts[0]}}}
            contents.append({"role": "user", "parts": [result]})
        elif turn.role != "system":
            image = {"inlineData": {"mimeType": "image/png", "data": PNG}}
            parts = [image if text == IMAGE else {"text": text} for text in turn.texts]
            contents.append({"role": "model" if turn.role == "assistant" else turn.role, "parts": parts})
    return {**({"systemInstruction": {"parts": system}} if system else {}), "contents": contents}


WRITERS: dict[str, Callable[[Sequence[Turn]], Json]] = {
    "chat": _chat,
    "responses": _responses,
    "messages": _messages,
    "ollama-chat": _ollama,
    "gemini": _gemini,
}
# The protocols in which a message has a list of parts.
WITH_PARTS = ("chat", "responses", "messages", "gemini")


def answer(protocol: str) -> Json:
    """Return a harmless reply."""
    return PROTOCOLS[protocol].whole("ok")
