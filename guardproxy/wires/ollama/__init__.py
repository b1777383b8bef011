"""Ollama's chat and generate (`/api/chat`, `/api/generate`), answered as one object or as one JSON text per line.

Reference: Ollama's API documentation, "Generate a chat completion", "Generate a completion". Ollama streams unless the
request has `"stream": false`. It has no stop reason for filtered content, so a refusal ends with `stop`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Message, Refuse, Replace, Role
from guardproxy.wires.ollama.fields import MESSAGE, REPLY, SETTINGS
from guardproxy.wires.ollama.stream import COUNTS, INFO, OllamaStream, head_of, is_chat, log_probabilities, text_fields
from guardproxy.wires.shared.base import BaseWire, Changed, plain_message, stream_flag, with_tool_results
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.instructions import add_to_messages, behind, reads_system
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    name,
    opaque,
    outer_messages,
    outer_parts,
    passed,
    read_fields,
    text,
    with_outer_parts,
)
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.reply_info import info_of
from guardproxy.wires.shared.streams import JSON, without

_PATH = re.compile(r"/api/(?:chat|generate)")
_CALLS = re.compile(r"\.function\.arguments$")
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def _split(message: Message) -> Iterator[tuple[str, Message]]:
    """Separate the system prompt of a generate request from the user's own texts."""
    system = tuple(part for part in message.parts if part.path == "system")
    others = tuple(part for part in message.parts if part.path != "system")
    if system:
        yield "", Message("system", system)
    if others:
        yield "", Message(message.role, others)


def _prompt(body: Mapping[str, Any]) -> Iterator[tuple[str, Message]]:
    builder = MessageBuilder(Unreadable)
    text()(builder, body.get("prompt"), "prompt")
    if builder.size:
        yield "prompt", builder.message("user")


def _messages(body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
    messages = body.get("messages") or []
    if not isinstance(messages, list):
        raise Unreadable("must be a list", "messages")
    for index, message in enumerate(messages):
        yield f"messages[{index}]", _message(message, f"messages[{index}]", known)


def _message(message: Any, path: str, known: Known) -> Message:
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = _ROLES.get(str(message.get("role")))
    if (plain := plain_message(message, path, role)) is not None:
        return plain
    builder = MessageBuilder(Unreadable, known)
    read_fields(builder, message, path, MESSAGE)
    return with_tool_results(builder.message(role or "user"))


class Ollama(BaseWire):
    """The wire of `/api/chat` and `/api/generate`."""

    name = "ollama"
    keepalive = b""
    lines = True
    paths = _PATH
    calls = _CALLS

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every message with its path; texts outside the message list come first.

        A request that only loads a model has no message.
        """
        chat = is_chat(path)
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", SETTINGS | ({"prompt": text()} if chat else {"messages": opaque("messages")}))
        for message in outer_messages(builder):
            yield from _split(message)
        yield from _messages(body, known) if chat else _prompt(body)

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream: it does unless `stream` is false. Raises Unreadable."""
        return stream_flag(body) is not False

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON."""
        return bool(body.get("format"))

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the model reads the system message; `generate` can write into a prompt instead."""
        if is_chat(path):
            return bool(body.get("messages")) and reads_system(body)
        return isinstance(body.get("prompt"), str)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction into the system message.

        If the client formats the prompt itself, before the prompt: the template may leave out the system message.
        """
        if is_chat(path):
            add_to_messages(body["messages"], instruction)
        elif body.get("raw") or not reads_system(body):
            body["prompt"] = behind(instruction, body["prompt"])
        else:
            body["system"] = behind(body.get("system") or "", instruction)

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply; an error body has no choice of its own. Raises UpstreamUnreadable."""
        parsed, known = read_object(body, UpstreamUnreadable), repeated_in_reply(request)
        if "message" not in parsed and "response" not in parsed:
            if "error" not in parsed:
                raise UpstreamUnreadable("has neither a message nor a response")
            return Reply(with_outer_parts((), outer_parts(parsed, REPLY, known)), body, parsed)
        builder, echo = MessageBuilder(UpstreamUnreadable, known), LogprobEcho("logprobs")
        read_fields(builder, parsed, "", REPLY)
        log_probabilities(echo, builder, parsed)
        echo.close(builder)
        builder.add_noted()
        return Reply((builder.message("assistant"),), body, parsed, info=info_of(parsed, INFO))

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with its only choice replaced or refused."""
        outcome = changed[0]
        body = json.loads(reply.raw)
        if isinstance(outcome, Replace) and not outcome.whole and ("message" in body or "response" in body):
            rewrite(body, outcome.edits, _CALLS)
            for key in ("logprobs", "context"):
                body.pop(key, None)
            return dumps(body)
        body = without(body, reply.choices[0].parts)
        kept = {key: body[key] for key in body if REPLY.get(key) in (passed, name) and key != "error"}
        kept = {**head_of(request, request.received), **kept}
        new_text = outcome.message if isinstance(outcome, Refuse) else "\n".join(edit.text for edit in outcome.edits)
        told = reason(request, outcome) if isinstance(outcome, Refuse) else {}
        return dumps({**kept, **text_fields(request.path, new_text), "done": True, "done_reason": "stop", **told})

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            return Answer(200, "application/x-ndjson", OllamaStream(request, request.received).end(0, refusal))
        head = {**head_of(request, request.received), **text_fields(request.path, refusal.message)}
        end = {"done": True, "done_reason": "stop", **dict.fromkeys(COUNTS, 0), **reason(request, refusal)}
        return Answer(200, JSON, dumps({**head, **end}))

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return the protocol's own error body."""
        return Answer(status, JSON, dumps({"error": message, "code": code, **(reason or {})}))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return OllamaStream(request, request.received)


wire: Wire = Ollama()
