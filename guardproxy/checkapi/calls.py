"""What is asked: a check, for whom, and under which policy."""

from collections.abc import Mapping
from typing import Any, Final, get_args

from guardproxy.checkapi.fields import dumps, name_at, object_at, one_of, shown, text_at, typed
from guardproxy.errors import Unreadable
from guardproxy.frozen import frozen
from guardproxy.images import InlineImage
from guardproxy.types import Check, Conversation, Message, Part, PartKind, Role, Side

_ROLES: Final = get_args(Role)
_SIDES: Final = get_args(Side)
_KINDS: Final = get_args(PartKind)
LONGEST_NAME = 128  # characters of a name that the caller chooses
_PATH = 4096  # characters of the path of a part
KEYS: Final = ("messages", "side", "stream", "unfinished", "least", "policy", "asker")
_MESSAGE_KEYS: Final = ("role", "parts")
_PART_KEYS: Final = ("text", "path", "kind", "note")
_IMAGE_PART_KEYS: Final = ("kind", "image", "path")
_IMAGE_KEYS: Final = ("type", "data")
_ASKER_KEYS: Final = ("client", "request", "answered")


@frozen
class Caller:
    """For whom a check is asked (`asking.Asker`): the guard's queue is fair between clients, and between requests.

    `client` and `request` are names that the caller makes up, such as hashes; those of one request are equal in all its
    checks. `answered`: the check is of a reply.
    """

    client: str = ""
    request: str = ""
    answered: bool = False


_NOBODY: Final = Caller()


@frozen
class CheckCall:
    """A check as it is asked. With a `policy`, the answer has its decision; empty: the verdict alone."""

    check: Check
    caller: Caller = _NOBODY
    policy: str = ""


def write_call(call: CheckCall) -> bytes:
    """The body of a request."""
    return dumps(call_fields(call))


def call_fields(call: CheckCall, *, places: bool = True) -> dict[str, Any]:
    """A call as JSON values. Fields that have their default are left out, and images that no guard is shown.

    Without `places`, the paths of the parts are left out as well.
    """
    check, caller = call.check, call.caller
    body: dict[str, Any] = {
        "messages": [
            {"role": message.role, "parts": [_part_fields(part, places) for part in message.parts]}
            for message in check.conversation.messages
        ],
        "side": check.side,
    }
    if check.stream is not None:
        body["stream"] = check.stream
    if check.unfinished:
        body["unfinished"] = True
    if check.least:
        body["least"] = check.least
    if call.policy:
        body["policy"] = call.policy
    if caller != _NOBODY:
        body["asker"] = {"client": caller.client, "request": caller.request, "answered": caller.answered}
    return body


def _part_fields(part: Part, places: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": part.path} if places and part.path else {}
    if part.kind == "image" and part.image is not None:
        image = {"type": part.image.media_type, "data": part.image.data}
        return {**fields, "kind": "image", "image": image}
    fields["text"] = part.text
    if part.kind != "text":
        fields["kind"] = part.kind
    if part.note:
        fields["note"] = part.note
    return fields


def call_of(body: object) -> CheckCall:
    """The call in a parsed body. Raises Unreadable with the JSON path of the mistake.

    A part without a path gets its place in the body; without a `side`, the role of the last message says it. An image
    is an opaque part with its data, until it is decoded.
    """
    fields = object_at(body, "", KEYS)
    listed = typed(fields.get("messages"), list, "messages")
    if not listed:
        raise Unreadable("must have a message: the last one is judged, those before it are its context", "messages")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(listed))
    side: Side = one_of(fields["side"], _SIDES, "side") if "side" in fields else messages[-1].side
    stream = name_at(fields, "stream", most=LONGEST_NAME) or None
    unfinished = typed(fields.get("unfinished", False), bool, "unfinished")
    policy, least = name_at(fields, "policy", most=LONGEST_NAME), _least(fields.get("least", 0.0))
    if policy and least:
        raise Unreadable("has no effect beside a policy, which decides with exact numbers; leave it out", "least")
    check = Check(Conversation(messages), side, stream, unfinished, least)
    return CheckCall(check, _caller(fields.get("asker", {})), policy)


def _least(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Unreadable(f"must be a number from 0 to 1, not {shown(value)}", "least")
    return float(value)


def _message(value: object, path: str) -> Message:
    fields = object_at(value, path, _MESSAGE_KEYS)
    role: Role = one_of(fields.get("role"), _ROLES, f"{path}.role")
    parts = typed(fields.get("parts"), list, f"{path}.parts")
    return Message(role, tuple(_part(part, f"{path}.parts[{index}]") for index, part in enumerate(parts)))


def _part(value: object, path: str) -> Part:
    if typed(value, dict, path).get("kind") == "image":
        return _image(object_at(value, path, _IMAGE_PART_KEYS), path)
    fields = object_at(value, path, _PART_KEYS)
    text = typed(fields.get("text"), str, f"{path}.text")
    place = text_at(fields, "path", path, most=_PATH) or f"{path}.text"
    kind: PartKind = one_of(fields["kind"], _KINDS, f"{path}.kind") if "kind" in fields else "text"
    return Part(place, text, kind, text_at(fields, "note", path, most=_PATH))


def _image(fields: Mapping[str, Any], path: str) -> Part:
    image = object_at(fields.get("image"), f"{path}.image", _IMAGE_KEYS)
    data = typed(image.get("data"), str, f"{path}.image.data")
    place = text_at(fields, "path", path, most=_PATH) or f"{path}.image"
    media_type = text_at(image, "type", f"{path}.image", most=LONGEST_NAME).lower()
    return Part(place, "", "opaque", "image", InlineImage(media_type, data))


def _caller(value: object) -> Caller:
    fields: Mapping[str, Any] = object_at(value, "asker", _ASKER_KEYS)
    return Caller(
        text_at(fields, "client", "asker", most=LONGEST_NAME),
        text_at(fields, "request", "asker", most=LONGEST_NAME),
        typed(fields.get("answered", False), bool, "asker.answered"),
    )
