"""Anthropic's Messages (`/v1/messages`).

Reference: Anthropic API reference, "Messages", "Streaming messages", "Errors". The field maps are in `fields`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.errors import Overloaded, Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Edit, Message, Refuse, Replace, Role
from guardproxy.wires.anthropic_messages.fields import EVENTS, MESSAGE, REPLY, SETTINGS
from guardproxy.wires.anthropic_messages.stream import NO_USAGE, MessageStream, stopped
from guardproxy.wires.shared.base import BaseWire, Changed, message_list, plain_message, request_digest
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.instructions import reads_system, with_text
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import outer_messages, outer_parts, read_fields, with_outer_parts
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.reply_info import MESSAGES, info_of
from guardproxy.wires.shared.streams import JSON, SSE, without

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


_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


def _message(message: Any, path: str, known: Known) -> Message:
    """Read a message; a user message of nothing but tool results gets the role `tool`."""
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = message.get("role")
    if not isinstance(role, str):
        raise Unreadable("must be a string", f"{path}.role")
    if (plain := plain_message(message, path, _ROLES.get(role))) is not None:
        return plain
    builder = MessageBuilder(Unreadable, known)
    read_fields(builder, message, path, MESSAGE)
    if role in ("assistant", "system"):
        return builder.message("assistant" if role == "assistant" else "system")
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    results = [str(block.get("type")).endswith("tool_result") for block in blocks]
    return builder.message("tool" if results and all(results) else "user")


def _head(request: Request) -> dict[str, Any]:
    """Return the head of a message that the proxy writes; its id is a digest of the request."""
    kind = {"id": f"msg_{request_digest(request)}", "type": "message", "role": "assistant"}
    return {**kind, "model": request.model, "content": [], "usage": NO_USAGE}


class AnthropicMessages(BaseWire):
    """The wire of `/v1/messages`."""

    name = "anthropic_messages"
    paths = _PATH
    calls = _CALLS

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every message with its path; texts outside the message list come first."""
        messages = message_list(body, "messages")
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", SETTINGS)
        for message in outer_messages(builder, ["system"]):
            yield "", message
        for index, message in enumerate(messages):
            yield f"messages[{index}]", _message(message, f"messages[{index}]", known)

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON."""
        return bool((body.get("output_config") or {}).get("format") or body.get("output_format"))

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the model reads the system prompt."""
        return reads_system(body)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction behind the system prompt."""
        body["system"] = with_text(body.get("system"), instruction)

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply; an error body has no choice of its own. Raises UpstreamUnreadable."""
        parsed, known = read_object(body, UpstreamUnreadable), repeated_in_reply(request)
        if parsed.get("type") == "error" and "content" not in parsed:
            return Reply(with_outer_parts((), outer_parts(parsed, EVENTS["error"], known)), body, parsed)
        if not isinstance(parsed.get("content"), list):
            raise UpstreamUnreadable("must be a list", "content")
        builder = MessageBuilder(UpstreamUnreadable, known)
        read_fields(builder, parsed, "", REPLY)
        builder.add_noted()
        return Reply((builder.message("assistant"),), body, parsed, info=info_of(parsed, MESSAGES))

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with its only choice replaced or refused."""
        outcome = changed[0]
        body = json.loads(reply.raw)
        whole = isinstance(outcome, Replace) and (outcome.whole or "content" not in body)
        if isinstance(outcome, Refuse) or whole:
            body = without(body, reply.choices[0].parts) if "content" in body else _head(request)
        if isinstance(outcome, Refuse):
            return dumps(_refused(request, body, outcome))
        if whole:
            new_text = "\n".join(edit.text for edit in outcome.edits)
            reason = value_or(body.get("stop_reason"), "end_turn")
            return dumps(_with_text(body, new_text, "end_turn" if reason == "tool_use" else reason))
        for edit in outcome.edits:
            _remove_citations(body, edit.path)
        rewrite(body, (_without_signature(edit) for edit in outcome.edits), _CALLS)
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            stream = MessageStream(request, _head(request))
            return Answer(200, SSE, stream.end(0, refusal) + stream.close())
        return Answer(200, JSON, dumps(_refused(request, _head(request), refusal)))

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return the protocol's own error body."""
        if code == Overloaded.code:
            status = 529  # Anthropic's own status for it
        kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
        error = {"type": kind, "message": message, "code": code, **(reason or {})}
        return Answer(status, JSON, dumps({"type": "error", "error": error}))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return MessageStream(request, _head(request))


def _refused(request: Request, body: Mapping[str, Any], refusal: Refuse) -> dict[str, Any]:
    """Return the message with nothing but the refusal; without a text if it must parse."""
    new_text, stop = "" if request.structured else refusal.message, stopped(request, refusal)
    return {**_with_text(body, new_text, stop["stop_reason"]), **stop, **reason(request, refusal)}


def _with_text(body: Mapping[str, Any], new_text: str, reason: str) -> dict[str, Any]:
    """Return the message with its head, its usage, this text (no block for an empty text) and nothing else."""
    kept = {key: body[key] for key in ("id", "type", "role", "model", "usage") if key in body}
    content = [{"type": "text", "text": new_text}] if new_text else []
    return {**kept, "content": content, "stop_reason": reason, "stop_sequence": None}


def _without_signature(edit: Edit) -> Edit:
    """Return an edit that removes an edited thinking block: its signature would not match the new text."""
    return Edit(edit.path, "") if edit.path.endswith(".thinking") else edit


def _remove_citations(body: dict[str, Any], path: str) -> None:
    """Remove the citations of an edited text block: they quote the old text."""
    found = re.match(r"content\[(\d+)\]\.text$", path)
    if found:
        body["content"][int(found[1])].pop("citations", None)


wire: Wire = AnthropicMessages()
