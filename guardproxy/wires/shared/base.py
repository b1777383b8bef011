"""The base of a wire: what all protocols do alike. A subclass adds what differs.

A wire needs a `name`, two patterns (`paths`, `calls`) and six methods: `turns`, `parse_reply`, `edited_reply`,
`refusal`, `error` and `open_stream`. It overrides `model`, `wants_stream`, `structured`, `must_call` and `resumes` if
its protocol differs from their defaults, and `instructible` with `add_instruction` if it can tell a model what the
operator wants.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

from guardproxy.errors import Unreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request
from guardproxy.sse import KEEP_ALIVE
from guardproxy.types import Conversation, Edit, Message, Part, Pass, Refuse, Replace, ReplyOutcome, Role
from guardproxy.wires.shared.body import child_path, dumps, read_object, remove, steps
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.known import Known, tool_names
from guardproxy.wires.shared.models import named_models
from guardproxy.wires.shared.refusals import reason

Changed = Mapping[int, Replace | Refuse]
"""The outcomes of a reply's choices that do not pass, by the place of the choice."""


class BaseWire(ABC):
    """One chat protocol. See `guardproxy.ports.Wire` for the contract of the public methods."""

    name: str
    keepalive: bytes = KEEP_ALIVE
    lines: bool = False
    resumable: bool = False
    refuses_by_error: bool = False

    paths: ClassVar[re.Pattern[str]]
    """The request paths that this wire reads, without the query."""

    calls: ClassVar[re.Pattern[str]]
    """The part paths that hold the arguments of a tool call; an edited text there is a name and arguments."""

    def claims(self, method: str, path: str) -> bool:
        """Return whether this wire reads requests to `path`."""
        return method == "POST" and self.paths.fullmatch(path.partition("?")[0]) is not None

    # --- requests --------------------------------------------------------------------------------------------------

    @abstractmethod
    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every message of the conversation with its path in the body, in the order of the conversation.

        Messages built from fields beside the message list come first and have the path "". All message builders share
        `known`. Raises Unreadable.
        """

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """Return the model that the request names, or "". Raises Unreadable."""
        model = body.get("model", "")
        if not isinstance(model, str):
            raise Unreadable("must be a string", "model")
        return model

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream. Raises Unreadable."""
        return stream_flag(body) is True

    def models(self, request: Request) -> Sequence[tuple[str, str]]:
        """Return the place and the name of every model that the request names; first the model of the protocol."""
        others = named_models(request.body, request.path.partition("?")[2])
        if not request.model.strip():
            return tuple(others)
        place = "model" if request.body.get("model") == request.model else "the path"
        return ((place, request.model), *others)

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON; called after `turns` has checked the body."""
        return False

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether an instruction reaches the model; called after `turns` has checked the body."""
        return False

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction into the body of a request that is `instructible`."""
        raise NotImplementedError(f"{self.name} has no place for an instruction")

    def repeatable(self, body: Mapping[str, Any]) -> bool:
        """Return whether the upstream keeps no reply in a place where another one would stand behind it."""
        return True

    def must_call(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request leaves the model no other answer than the call of a tool."""
        choice = body.get("tool_choice")
        if not isinstance(choice, dict):
            return choice in ("required", "any") or isinstance(body.get("function_call"), dict)
        if choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools", choice)
            return isinstance(allowed, dict) and allowed.get("mode") == "required"
        return choice.get("type") not in ("auto", "none")

    def resumes(self, body: Mapping[str, Any]) -> Part | None:
        """Return the opaque part that names an earlier reply, if the request goes on from one."""
        return None

    def continued(self, request: Request, reply: str) -> Request:
        """Return the request, going on from the reply with this id, or from none; a `resumable` wire overrides it."""
        return request

    def parse_request(self, path: str, body: bytes, received: float = 0.0, request_id: str = "") -> Request:
        """Parse a request that has the id `request_id` and came at the time `received`.

        Raises Unreadable with the JSON path of the error.
        """
        parsed = read_object(body)
        model, stream = self.model(path, parsed), self.wants_stream(path, parsed)
        messages: list[Message] = []
        places: list[tuple[str, ...]] = []
        known = tool_names(parsed)
        for place, message in self.turns(path, parsed, known):
            messages.append(message)
            places.append((place,) if place else _top_fields(message))
        if texts := known.take_texts():
            messages.insert(0, Message("user", tuple(Part(place, text) for place, text in texts)))
            places.insert(0, tuple(place for place, _ in texts))
        return Request(
            wire=self.name,
            path=path,
            model=model,
            stream=stream,
            conversation=Conversation(tuple(messages)),
            places=tuple(places),
            raw=body,
            body=parsed,
            structured=self.structured(parsed),
            instructible=self.instructible(path, parsed),
            repeatable=self.repeatable(parsed),
            must_call=self.must_call(parsed),
            resumes=self.resumes(parsed),
            received=received,
            id=request_id,
        )

    def edit_request(self, request: Request, edits: Sequence[Edit], drop: Sequence[int]) -> bytes:
        """Return the body with the edits' texts and without the messages `drop` (conversation indices)."""
        body = json.loads(request.raw)
        rewrite(body, edits, self.calls)
        remove(body, (place for index in drop for place in request.places[index]))
        return dumps(body)

    def instructed(self, request: Request, body: bytes, instruction: str) -> bytes:
        """Return the body of the request, edited or not, with an instruction."""
        parsed = json.loads(body)
        self.add_instruction(request.path, parsed, instruction)
        return dumps(parsed)

    # --- replies ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply. Raises UpstreamUnreadable."""

    @abstractmethod
    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with every choice in `changed` (at least one) replaced or refused."""

    @abstractmethod
    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete valid answer that carries the refusal, streamed if the request asked for a stream."""

    @abstractmethod
    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return the protocol's own error body; `reason` has further fields of it."""

    @abstractmethod
    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply to `request`."""

    def error_event(self, error: Answer, content_type: str) -> bytes:
        """Return an error as the last event of a stream: a server-sent event, or a line of JSON."""
        is_sse = content_type.lower().startswith("text/event-stream")
        return b"event: error\ndata: %b\n\n" % error.body if is_sse else error.body + b"\n"

    def edit_reply(self, request: Request, reply: Reply, outcomes: Mapping[int, ReplyOutcome]) -> bytes:
        """Return the reply with its outcomes applied; the original bytes if every choice passes."""
        changed = {index: outcome for index, outcome in outcomes.items() if not isinstance(outcome, Pass)}
        return self.edited_reply(request, reply, changed) if changed else reply.raw

    def refuse(self, request: Request, refusal: Refuse) -> Answer:
        """Return the refusal as an error or as an answer, as its shape says."""
        if refusal.shape == "error":
            return self.error(400, "content_filter", refusal.message, reason(request, refusal))
        return self.refusal(request, refusal)


def _top_fields(message: Message) -> tuple[str, ...]:
    """The top-level fields that hold a message which is not an item of the message list."""
    return tuple(dict.fromkeys(child_path("", str(steps(part.path)[0])) for part in message.parts))


def message_list(body: Mapping[str, Any], key: str, item: str = "message") -> list[Any]:
    """Return the list at `key`. Raises Unreadable if it is not a list or is empty."""
    messages = body.get(key)
    if not isinstance(messages, list) or not messages:
        raise Unreadable(f"must be a list of at least one {item}", key)
    return messages


def stream_flag(body: Mapping[str, Any]) -> bool | None:
    """Return the value of `stream`, None if it is absent. Raises Unreadable if it is not a boolean."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Unreadable("must be true or false", "stream")
    return stream


def request_digest(request: Request) -> str:
    """Return 24 hexadecimal digits of the SHA-256 of the request's body: the id of an answer without an upstream."""
    return hashlib.sha256(request.raw).hexdigest()[:24]


def plain_message(message: Mapping[str, Any], path: str, role: Role | None) -> Message | None:
    """Return a message that has nothing but a role and a string as its content, as nearly all have; None for others.

    Every protocol with these keys reads it so; `role` is the one that the message's stands for, None if it is unknown.
    Clients send the whole conversation with every request: a short message that comes again is the same object.
    """
    content = message.get("content")
    if role is None or len(message) != 2 or type(content) is not str:
        return None
    return (_short_message if len(content) <= _SHORT else _plain_message)(role, path, content)


def _plain_message(role: Role, path: str, content: str) -> Message:
    return Message(role, (Part(f"{path}.content", content, "tool_result" if role == "tool" else "text"),))


_SHORT = 4096  # characters
_short_message = lru_cache(maxsize=8192)(_plain_message)


def with_tool_results(message: Message) -> Message:
    """Return a tool's message with its texts as tool results; any other message unchanged."""
    if message.role != "tool":
        return message
    parts = (replace(part, kind="tool_result") if part.kind == "text" else part for part in message.parts)
    return Message("tool", tuple(parts))
