"""Anthropic's Messages (`/v1/messages`).

Reference: Anthropic API reference, "Messages", "Streaming messages", "Errors". The field maps are in `fields`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Edit, Message, Refuse, Replace
from guardproxy.wires.anthropic_messages.fields import EVENTS, MESSAGE, REPLY, SETTINGS
from guardproxy.wires.anthropic_messages.stream import NO_USAGE, MessageStream
from guardproxy.wires.shared.base import BaseWire, Changed, message_list, request_digest
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import beside_turns, outer_parts, walk, with_outer_parts
from guardproxy.wires.shared.streams import JSON, SSE, without_opaque

_PATH = re.compile(r"(?:/anthropic)?/v1/messages")
_CALLS = re.compile(r"\.input$")
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _message(message: Any, path: str) -> Message:
    """A user's message that holds nothing but tool results is the tool's."""
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = message.get("role")
    if not isinstance(role, str):
        raise Unreadable("must be a string", f"{path}.role")
    builder = MessageBuilder(Unreadable)
    walk(builder, message, path, MESSAGE)
    if role in ("assistant", "system"):
        return builder.message("assistant" if role == "assistant" else "system")
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    results = [str(block.get("type")).endswith("tool_result") for block in blocks]
    return builder.message("tool" if results and all(results) else "user")


def _head(request: Request) -> dict[str, Any]:
    """The head of a message that no upstream has given: its id is a digest of the request."""
    kind = {"id": f"msg_{request_digest(request)}", "type": "message", "role": "assistant"}
    return {**kind, "model": request.model, "content": [], "usage": NO_USAGE}


class AnthropicMessages(BaseWire):
    """The wire of `/v1/messages`."""

    name = "anthropic_messages"
    paths = _PATH
    calls = _CALLS

    def turns(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Message]]:
        """Every message with its path in the body; texts beside the messages come first."""
        messages = message_list(body, "messages")
        builder = MessageBuilder(Unreadable)
        walk(builder, body, "", SETTINGS)
        for message in beside_turns(builder, "system"):
            yield "", message
        for index, message in enumerate(messages):
            yield f"messages[{index}]", _message(message, f"messages[{index}]")

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Whether the request asks for JSON."""
        return bool((body.get("output_config") or {}).get("format") or body.get("output_format"))

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Raises UpstreamUnreadable. An error body has no choice."""
        parsed = read_object(body, UpstreamUnreadable)
        if parsed.get("type") == "error" and "content" not in parsed:
            return Reply(with_outer_parts((), outer_parts(parsed, EVENTS["error"])), body, parsed)
        if not isinstance(parsed.get("content"), list):
            raise UpstreamUnreadable("must be a list", "content")
        builder = MessageBuilder(UpstreamUnreadable)
        walk(builder, parsed, "", REPLY)
        return Reply((builder.message("assistant"),), body, parsed)

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """The reply replaced or refused as the outcome of its one choice says."""
        outcome = changed[0]
        body = json.loads(reply.raw)
        whole = isinstance(outcome, Replace) and (outcome.whole or "content" not in body)
        if isinstance(outcome, Refuse) or whole:
            body = without_opaque(body, reply.choices[0]) if "content" in body else _head(request)
        if isinstance(outcome, Refuse):
            return dumps(_said(body, outcome.message, _reason(outcome), silent=request.structured))
        if whole:
            said = "\n".join(edit.text for edit in outcome.edits)
            reason = body.get("stop_reason")
            return dumps(_said(body, said, "end_turn" if reason in (None, "tool_use") else reason))
        for edit in outcome.edits:
            _uncited(body, edit.path)
        rewrite(body, (_unsigned(edit) for edit in outcome.edits), _CALLS)
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """A complete valid answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            stream = MessageStream(request, _head(request))
            return Answer(200, SSE, stream.end(0, refusal) + stream.close())
        body = _said(_head(request), refusal.message, _reason(refusal), silent=request.structured)
        return Answer(200, JSON, dumps(body))

    def error(self, status: int, code: str, message: str) -> Answer:
        """The protocol's own error body."""
        kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
        error = {"type": kind, "message": message, "code": code}
        return Answer(status, JSON, dumps({"type": "error", "error": error}))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the reply to `request`."""
        return MessageStream(request, _head(request))


def _reason(refusal: Refuse) -> str:
    return "refusal" if refusal.finish == "content_filter" else "end_turn"


def _said(body: Mapping[str, Any], said: str, reason: str, *, silent: bool = False) -> dict[str, Any]:
    """The message with this text and nothing else of its own but its head and its usage."""
    kept = {key: body[key] for key in ("id", "type", "role", "model", "usage") if key in body}
    content = [] if silent or not said else [{"type": "text", "text": said}]
    return {**kept, "content": content, "stop_reason": reason, "stop_sequence": None}


def _unsigned(edit: Edit) -> Edit:
    """Thinking that gets a new text goes: its signature would not fit."""
    return Edit(edit.path, "") if edit.path.endswith(".thinking") else edit


def _uncited(body: dict[str, Any], path: str) -> None:
    """A text block that gets a new text loses the citations of the old one."""
    found = re.match(r"content\[(\d+)\]\.text$", path)
    if found:
        body["content"][int(found[1])].pop("citations", None)


wire: Wire = AnthropicMessages()
