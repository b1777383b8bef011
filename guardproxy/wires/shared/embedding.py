"""The shared base of the protocols that turn texts into vectors: no reply text, no stream, no place for a refusal.

Every input is a user message: what is stored as a vector is found again and given to a model.
"""

import binascii
import json
import re
from array import array
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request
from guardproxy.types import Edit, Message, Refuse
from guardproxy.wires.shared.base import BaseWire, Changed
from guardproxy.wires.shared.body import container_of, dumps, read_object, remove, steps
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    json_text,
    machine_data,
    numbers,
    outer_messages,
    outer_parts,
    read_fields,
    with_outer_parts,
)
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.reply_info import InfoKeys, info_of

_NO_CALLS = re.compile(r"(?!)")
# The sizes that a number of a vector may have, besides zero. Four letters read as a number are above 1e15, or below
# 1e-15 if the last is a space or a digit.
_SMALLEST, _LARGEST = 1e-12, 1e9


def vector(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass a list of numbers, or little-endian 32-bit numbers in base64, as OpenAI's client asks for; judge a text."""
    if not isinstance(value, str):
        numbers(builder, value, path)
    elif not _is_floats(value):
        machine_data(builder, value, path)


def _is_floats(value: str) -> bool:
    found = array("f")
    try:
        found.frombytes(b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return False
    return len(found) > 0 and all(not number or _SMALLEST < abs(number) < _LARGEST for number in found)


def _input(path: str, value: Any, known: Known) -> Message:
    builder = MessageBuilder(Unreadable, known)
    if isinstance(value, str):
        builder.add(path, value)
    elif isinstance(value, list) and all(type(item) is int for item in value):
        builder.opaque(path, "token ids")
    elif isinstance(value, dict):  # text with images, as multi-modal models take it
        json_text("text")(builder, value, path)
    else:
        raise Unreadable("must be a text, a list of token ids, or an object", path)
    return builder.message("user")


class EmbeddingWire(BaseWire):
    """The base of a wire for vectors. A subclass has the paths, the field maps and the protocol's error."""

    calls = _NO_CALLS
    refuses_by_error = True
    settings: ClassVar[FieldMap]
    reply: ClassVar[FieldMap]
    info_keys: ClassVar[InfoKeys]
    inputs: ClassVar[tuple[str, ...]]
    """The fields that may hold the texts; a request has one of them."""

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return False. Raises Unreadable if the request asks for a stream."""
        if super().wants_stream(path, body):
            raise Unreadable("must not be true: vectors are not streamed", "stream")
        return False

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every text with its path; texts in other fields come first."""
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", self.settings)
        for message in outer_messages(builder):
            yield "", message
        given = [name for name in self.inputs if body.get(name) not in (None, [])]
        if not given:
            raise Unreadable("must be a text or a list of texts", self.inputs[0])
        for name in given:
            value = body[name]
            if isinstance(value, list) and not all(type(item) is int for item in value):
                for index, item in enumerate(value):
                    yield f"{name}[{index}]", _input(f"{name}[{index}]", item, known)
            else:
                yield name, _input(name, value, known)

    def edit_request(self, request: Request, edits: Sequence[Edit], drop: Sequence[int]) -> bytes:
        """Return the edited body. An edited input keeps its place, as a text: each input gets a vector, in order."""
        body = json.loads(request.raw)
        of_inputs = [edit for edit in edits if steps(edit.path)[0] in self.inputs]
        rewrite(body, (edit for edit in edits if edit not in of_inputs), _NO_CALLS)
        for edit in of_inputs:
            container, last = container_of(body, edit.path)
            container[last] = edit.text
        remove(body, (place for index in drop for place in request.places[index]))
        return dumps(body)

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a reply, which has a choice only if it has texts. Raises UpstreamUnreadable."""
        parsed = read_object(body, UpstreamUnreadable)
        parts = outer_parts(parsed, self.reply, repeated_in_reply(request))
        return Reply(with_outer_parts((), parts), body, parsed, info=info_of(parsed, self.info_keys))

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with its texts edited, or an error in its place."""
        ((_, outcome),) = changed.items()  # the texts of a reply are one choice
        if isinstance(outcome, Refuse):
            return self.error(400, "content_filter", outcome.message, reason(request, outcome)).body
        body = json.loads(reply.raw)
        if outcome.whole:
            remove(body, [part.path for part in reply.choices[0].parts])
        else:
            rewrite(body, outcome.edits, _NO_CALLS)
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return an error: a vector in place of a refused one would be found in searches."""
        return self.error(400, "content_filter", refusal.message, reason(request, refusal))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Raise UpstreamUnreadable: no such protocol has a stream."""
        raise UpstreamUnreadable(f"the reply is {content_type}, but vectors are not streamed")
