"""Requests about a response that the upstream keeps: retrieve, delete and cancel it, list its input items.

Reference: OpenAI API reference, "Responses". These requests have no body and name nothing but the response; what comes
back is judged. A response made in the background is read in no other way.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Reply, Request
from guardproxy.types import Conversation, Message, Part, Refuse, Replace, Role
from guardproxy.wires.openai_responses.fields import item
from guardproxy.wires.openai_responses.stream import message_id, refusal_part, text_part
from guardproxy.wires.shared.base import Changed
from guardproxy.wires.shared.body import dumps, remove
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.known import Known
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import FieldMap, handled_in_code, keys, name, read_fields
from guardproxy.wires.shared.refusals import reason

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/responses/([^/:%]+)(/cancel|/input_items)?")
# What follows the id, for each method.
_METHODS = {"GET": ("", "/input_items"), "DELETE": ("",), "POST": ("/cancel",)}
# Where the arguments of a call are.
CALLS = re.compile(r"\.(?:arguments|input)$")
_ROLES = ("user", "assistant", "system", "developer")
_LIST: FieldMap = {
    **keys("object has_more"),
    **keys("first_id last_id", name),
    "data": handled_in_code,
}


def claims(method: str, path: str) -> bool:
    """Return whether a request is about a stored response."""
    found = _PATH.fullmatch(path.partition("?")[0])
    return found is not None and (found[2] or "") in _METHODS.get(method, ())


def request_for(wire: str, path: str, received: float, request_id: str) -> Request | None:
    """Return the request that a path with its query stands for; None if it is not about a stored response.

    It has no messages and no body: a body that the client sends has no meaning and is not forwarded. Raises Unreadable
    for a stream that is to begin in the middle, because what it leaves out could not be judged.
    """
    plain, _, query = path.partition("?")
    found = _PATH.fullmatch(plain)
    if found is None:
        return None
    options = dict(parse_qsl(query.replace(";", "&"), keep_blank_values=True))
    if "starting_after" in options:
        raise Unreadable("a stream is judged from its beginning; leave it out", "starting_after")
    return Request(
        wire=wire,
        path=path,
        model="",
        stream=options.get("stream", "").lower() == "true",
        conversation=Conversation(()),
        places=(),
        raw=b"",
        body={},
        resumes=Part("response_id", found[1], "opaque"),
        received=received,
        id=request_id,
    )


def read_items(body: Mapping[str, Any], raw: bytes, known: Known, role: Callable[[Mapping[str, Any]], Role]) -> Reply:
    """Return a list of input items, each a message of its own role. Raises UpstreamUnreadable."""
    messages: list[Message] = []
    for index, entry in enumerate(body["data"]):
        builder = MessageBuilder(UpstreamUnreadable, known)
        item(builder, entry, f"data[{index}]")
        messages.append(builder.message(role(entry)))
    builder = MessageBuilder(UpstreamUnreadable, known)
    read_fields(builder, body, "", _LIST)
    builder.add_noted()
    return Reply((*messages, builder.message("assistant")), raw, body)


def edited_items(request: Request, reply: Reply, body: dict[str, Any], changed: Changed) -> bytes:
    """Return a list of input items with the outcomes applied.

    If something beside the items does not pass, nothing is kept of it but whether there are more items.
    """
    items, refused = body["data"], next((one for one in changed.values() if isinstance(one, Refuse)), None)
    for index, outcome in sorted(changed.items()):
        if index == len(items):
            # Identifiers of the items that are a text together are among the parts.
            remove(body, [part.path for part in reply.choices[index].parts if part.path.startswith("data[")])
            body = {"object": "list", "data": body["data"], "has_more": body.get("has_more") is True}
        elif isinstance(outcome, Refuse) or outcome.whole:
            items[index] = _in_place_of(items[index], outcome)
        else:
            rewrite(body, outcome.edits, CALLS)
    return dumps({**body, **(reason(request, refused) if refused else {})})


def _in_place_of(entry: Mapping[str, Any], outcome: Refuse | Replace) -> dict[str, Any]:
    if isinstance(outcome, Refuse):
        part = refusal_part(outcome.message, structured=False)
    else:
        part = text_part("\n".join(edit.text for edit in outcome.edits))
    role = entry.get("role")
    role = role if role in _ROLES else "assistant"
    if role != "assistant":
        part = {"type": "input_text", "text": part["text"]}
    return {
        "id": message_id(str(entry.get("id", ""))),
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [part],
    }
