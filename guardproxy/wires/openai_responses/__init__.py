"""OpenAI's Responses (`/v1/responses`).

Reference: OpenAI API reference, "Responses", "Streaming events". The field maps are in `fields`; requests about a
response that the upstream keeps in `stored`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Message, Part, Refuse, Role
from guardproxy.wires.openai_responses import stored
from guardproxy.wires.openai_responses.fields import RESPONSE, SETTINGS, item, kind_of
from guardproxy.wires.openai_responses.reading import echoed, is_stored
from guardproxy.wires.openai_responses.stream import (
    NO_USAGE,
    ResponseStream,
    ended,
    message_id,
    refusal_part,
    text_part,
)
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.base import Changed, request_digest
from guardproxy.wires.shared.body import dumps, read_object, remove
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.instructions import reads_system
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import outer_messages, outer_parts, read_fields, with_outer_parts
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.reply_info import MESSAGES, info_of
from guardproxy.wires.shared.streams import JSON, SSE

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/responses")
# The id of a refused request, which no upstream knows: it names the reply that the conversation had before.
_OWN_ID = re.compile(r"resp_guardproxy_[0-9a-f]{24}(?:_(.+))?")
# Characters of an id; gateways put the names of their models and upstreams into theirs.
_LONGEST_ID = 2048
_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "assistant": "assistant", "tool": "tool"}


def _outer(body: Mapping[str, Any], known: Known) -> list[Message]:
    builder = MessageBuilder(Unreadable, known)
    read_fields(builder, body, "", SETTINGS)
    return outer_messages(builder, ["instructions"])


def _items(body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
    value = body.get("input")
    if isinstance(value, str):
        builder = MessageBuilder(Unreadable)
        builder.add("input", value)
        yield "input", builder.message("user")
        return
    if value is not None and not isinstance(value, list):
        raise Unreadable("must be a text or a list of items", "input")
    for index, entry in enumerate(value or ()):
        path = f"input[{index}]"
        builder = MessageBuilder(Unreadable, known)
        item(builder, entry, path)
        yield path, builder.message(_role(entry))


def _role(value: Mapping[str, Any]) -> Role:
    """Return the role of an item: a message names it, outputs are the tool's, other items mostly the assistant's."""
    kind = str(kind_of(value))
    if kind == "message":
        return _ROLES.get(str(value.get("role")), "user")
    if kind in ("item_reference", "mcp_approval_response", "compaction"):
        return "user"
    if kind in ("additional_tools", "mcp_list_tools", "tool_search_output"):
        return "system"
    return "tool" if kind.endswith("_output") else "assistant"


def _head(request: Request, now: float) -> dict[str, Any]:
    """Return the head of a response that the proxy writes at `now` (seconds since 1970)."""
    before = request.resumes
    return {
        "id": f"resp_guardproxy_{request_digest(request)}" + (f"_{before.text}" if before else ""),
        "object": "response",
        "created_at": int(now),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": NO_USAGE,
    }


class OpenAIResponses(openai.OpenAIWire):
    """The wire of `/v1/responses`."""

    name = "openai_responses"
    resumable = True
    paths = _PATH
    calls = stored.CALLS

    def claims(self, method: str, path: str) -> bool:
        """Return whether this wire reads requests to `path`."""
        return super().claims(method, path) or stored.claims(method, path)

    def models(self, request: Request) -> Sequence[tuple[str, str]]:
        """Return the models that the request names: none if it is about a stored response, whatever its query says."""
        return () if is_stored(request) else super().models(request)

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every item of the input with its path; texts outside the input come first."""
        outer, items = _outer(body, known), list(_items(body, known))
        if not outer and not items:
            raise Unreadable("must be a text or a list of items", "input")
        yield from (("", message) for message in outer)
        yield from items

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON or another fixed form."""
        wanted = (body.get("text") or {}).get("format") or {}
        return isinstance(wanted, dict) and wanted.get("type", "text") != "text"

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the model reads the system's messages."""
        return reads_system(body)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction as the last item of the input.

        There it stays in a conversation that the upstream keeps, a truncation leaves it, and no reply repeats it. The
        field `instructions` holds for one request only, and replies repeat it.
        """
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
        body["input"] = [*items, {"role": "developer", "content": instruction}]

    def repeatable(self, body: Mapping[str, Any]) -> bool:
        """Return whether the reply is not added to a conversation."""
        return body.get("conversation") is None

    def resumes(self, body: Mapping[str, Any]) -> Part | None:
        """Return the opaque part that names the earlier response, whose conversation the upstream keeps.

        Raises Unreadable for a name that is no id: it is kept if the reply is withheld.
        """
        previous = body.get("previous_response_id")
        if isinstance(previous, str) and len(previous) > _LONGEST_ID:
            raise Unreadable(f"has {len(previous)} characters; it may have {_LONGEST_ID}", "previous_response_id")
        return Part("previous_response_id", previous, "opaque") if isinstance(previous, str) else None

    def parse_request(self, path: str, body: bytes, received: float = 0.0, request_id: str = "") -> Request:
        """Parse a request. One that goes on from a refusal of the proxy's goes on from the reply before."""
        if about := stored.request_for(self.name, path, received, request_id):
            return about
        request = super().parse_request(path, body, received, request_id)
        own = _OWN_ID.fullmatch(request.resumes.text) if request.resumes else None
        return self.continued(request, own[1] or "") if own else request

    def continued(self, request: Request, reply: str) -> Request:
        """Return the request with another `previous_response_id`, or without one: the named reply was refused.

        A request about a stored response is returned as it is.
        """
        if is_stored(request):
            return request
        body = json.loads(request.raw)
        del body["previous_response_id"]
        if reply:
            body["previous_response_id"] = reply
        continued = super().parse_request(request.path, dumps(body), request.received, request.id)
        return replace(continued, after_refusal=True)

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply; an error body has no choice of its own. Raises UpstreamUnreadable."""
        if is_stored(request) and not body:  # some servers answer a deletion with HTTP 204
            return Reply((), body, {})
        parsed, known = read_object(body, UpstreamUnreadable), repeated_in_reply(request)
        if is_stored(request) and isinstance(parsed.get("data"), list):
            return stored.read_items(parsed, body, known, _role)
        deleted = is_stored(request) and parsed.get("object") == "response.deleted"
        if "output" not in parsed and (deleted or isinstance(parsed.get("error"), dict | str)):
            return Reply(with_outer_parts((), outer_parts(parsed, RESPONSE, known)), body, parsed)
        if not isinstance(parsed.get("output"), list):
            raise UpstreamUnreadable("must be a list", "output")
        builder = MessageBuilder(UpstreamUnreadable, known)
        read_fields(builder, parsed, "", RESPONSE)
        echoed(builder, parsed, request)
        builder.add_noted()
        # A response that goes on in the background has no id here: what it will say has not been judged. Nor has one
        # that is retrieved: the conversation before it is not known.
        is_known = parsed.get("status") not in ("queued", "in_progress") and not is_stored(request)
        name = str(parsed.get("id", "")) if is_known else ""
        return Reply((builder.message("assistant"),), body, parsed, name, info_of(parsed, MESSAGES))

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the response with its only choice replaced or refused, or the list with its items."""
        body = json.loads(reply.raw)
        if is_stored(request) and isinstance(body.get("data"), list):
            return stored.edited_items(request, reply, body, changed)
        outcome = changed[0]
        body = body if "output" in body else {**_head(request, request.received), **body}
        outer = [part.path for part in reply.choices[0].parts if not part.path.startswith("output[")]
        if isinstance(outcome, Refuse):
            part = refusal_part(outcome.message, structured=request.has_form)
            body = {**ended(body, [_message(body, part)], outcome), **reason(request, outcome)}
        elif outcome.whole or "output" not in reply.body:
            body["output"] = [_message(body, text_part("\n".join(edit.text for edit in outcome.edits)))]
        else:
            rewrite(body, (edit for edit in outcome.edits if edit.path != "output_text"), stored.CALLS)
            for edit in outcome.edits:
                _remove_annotations(body, edit.path)
        remove(body, outer)
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        head = _head(request, request.received)
        if request.stream:
            stream = ResponseStream(request, head)
            return Answer(200, SSE, stream.end(0, refusal) + stream.close())
        part = refusal_part(refusal.message, structured=request.has_form)
        body = {**ended(head, [_message(head, part)], refusal), **reason(request, refusal)}
        return Answer(200, JSON, dumps(body))

    def error_event(self, error: Answer, content_type: str) -> bytes:
        """Return the event `error`, with the fields of the protocol's own and with `error`, for which clients raise."""
        body = json.loads(error.body)
        own = {key: body["error"][key] for key in ("code", "message", "param")}
        return super().error_event(Answer(error.status, JSON, dumps({"type": "error", **own, **body})), content_type)

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return ResponseStream(request, {**_head(request, request.received), "usage": None})


def _message(head: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of the output with one part."""
    name = message_id(str(head.get("id", "")))
    return {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _remove_annotations(body: dict[str, Any], path: str) -> None:
    """Remove the annotations and log probabilities of an edited text: they belong to the old text."""
    found = re.match(r"output\[(\d+)\]\.content\[(\d+)\]\.text$", path)
    if not found:
        return
    try:
        part = body["output"][int(found[1])]["content"][int(found[2])]
    except (IndexError, KeyError):
        return
    part["annotations"] = []
    part.pop("logprobs", None)


wire: Wire = OpenAIResponses()
