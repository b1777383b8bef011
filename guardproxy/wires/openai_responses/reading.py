"""Reads the stream of a response: texts grow by deltas, and every event that repeats a text is compared with it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Request
from guardproxy.sse import Sse
from guardproxy.wires.openai_responses.fields import (
    DELTAS,
    DONES,
    ECHOES,
    ERROR_EVENT,
    PROGRESS,
    SNAPSHOTS,
    event_of,
    kind_of,
)
from guardproxy.wires.shared.body import dumps, guard_text, read_object, steps, strings
from guardproxy.wires.shared.identifiers import is_value
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import read_fields
from guardproxy.wires.shared.repeated import Gaps
from guardproxy.wires.shared.reply_info import MESSAGES, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import BaseStream, without

TERMINAL = ("response.completed", "response.failed", "response.incomplete")

# Deltas of text.
_PLAIN = (
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
)
# Items that are no calls, and calls that the upstream runs itself. Any other call waits: its client would run it.
_NO_CALLS = {"message", "reasoning", "compaction", "image_generation_call", "mcp_list_tools"}
_RUN_UPSTREAM = {"web_search_call", "file_search_call", "code_interpreter_call", "mcp_call"}
# Events whose text has a shape of its own: the whole event is judged as JSON text.
_OTHER_TEXT = ("response.shell_call_command.", "response.shell_call_output_content.", "response.audio.transcript.")
# Events about the progress of tools, by the name that stands between "response." and the state.
_STATES = {
    "code_interpreter_call": "in_progress interpreting completed",
    "file_search_call": "in_progress searching completed",
    "web_search_call": "in_progress searching completed",
    "image_generation_call": "in_progress generating completed partial_image",
    "mcp_call": "in_progress completed failed",
    "mcp_list_tools": "in_progress completed failed",
    "shell_call_command": "added delta done",
    "shell_call_output_content": "delta done",
    "audio": "delta done",
    "audio.transcript": "delta done",
    "compaction": "compacting",
    "steer": "pending accepted failed",
}
# The names that may leave in an `event:` line.
_PROGRESS_EVENTS = [f"response.{name}.{state}" for name, states in _STATES.items() for state in states.split()]
_EVENTS = ("error", *DELTAS, *DONES, *SNAPSHOTS, *_PROGRESS_EVENTS)


@dataclass(slots=True)
class OutputItem:
    """An item of the output, with its unreleased events and its state at the client."""

    body: dict[str, Any]
    waiting: deque[dict[str, Any]] = field(default_factory=deque)
    number: int = -1  # its index at the client; -1: the client has not seen the item
    parts: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # opened at the client
    closed_parts: set[tuple[str, int]] = field(default_factory=set)
    done: dict[str, Any] | None = None  # the whole item, once the client has seen its end


def is_stored(request: Request) -> bool:
    """Return whether a request is about a stored response: it alone has no body."""
    return not request.raw


def part_key(body: Mapping[str, Any]) -> tuple[str, int]:
    """Return the list and the index of the part that an event belongs to."""
    if "summary_index" in body:
        return "summary", int(body["summary_index"])
    return "content", int(body.get("content_index", 0))


class ResponseReader(BaseStream):
    """The reading half of a streamed response. It has one choice, number 0."""

    named = True

    def __init__(self, request: Request, head: Mapping[str, Any]) -> None:
        super().__init__(request, Sse(events=_EVENTS, padded=True))
        self.head = dict(head)
        self.items: dict[int, OutputItem] = {}
        self.last: dict[str, Any] | None = None  # the upstream's terminal event
        self._grown: set[str] = set()

    @property
    def id(self) -> str:
        """The id by which `previous_response_id` of a later request may name the response.

        Empty before its end, and for a stored response: the conversation before it is not known.
        """
        return str(self.head.get("id", "")) if self.last is not None and not is_stored(self.request) else ""

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return an event."""
        return f"event: {body['type']}\n".encode() + b"data: " + dumps(body) + b"\n\n"

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of an event. Raises UpstreamUnreadable."""
        data = (frame.data or b"").strip()
        if data == b"[DONE]":  # some servers terminate this protocol as they do chat completions
            self.terminated = True
            return Chunk(frame.raw, self.final_marks(), Event(kind="[DONE]", complete=frame.complete))
        body = read_object(data, UpstreamUnreadable)
        kind = body.get("type")
        if not isinstance(kind, str) or frame.event not in ("", kind):
            raise UpstreamUnreadable("the event and its data are of different types", "type")
        self.info = info_of(body.get("response"), MESSAGES, self.info)
        event = Event(body=body, kind=kind, complete=frame.complete)
        if kind == "error":
            self.read_outer(body, ERROR_EVENT, event)
        else:
            self.advance(0, event, partial(self._read, kind, body))
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the places of the text of a delta without log probabilities, and of the event's number."""
        if event.kind not in _PLAIN or event.body.get("logprobs"):
            return None
        # A string as the number of an event is to be judged.
        has_number = type(event.body.get("sequence_number")) is int
        return Gaps((("delta",), *([("sequence_number",)] if has_number else [])), path)

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a delta with another text."""
        return self.again_in_run(event, [values])[0]

    def again_in_run(self, event: Event, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the bodies of deltas in a row with other texts, all of which are the same item's."""
        names = ("delta", "sequence_number")[: len(rows[0])]
        bodies = [{**event.body, **dict(zip(names, values, strict=True))} for values in rows]
        self._file(event.kind, bodies)
        return bodies

    def _read(self, kind: str, body: dict[str, Any], state: ChoiceState) -> bool:
        self._file(kind, [body])
        ahead = self._read_event(kind, body, state)
        if kind in TERMINAL:
            state.final = self.terminated = True
            self.last = body
        return ahead or (kind not in _PLAIN and self._may_run(kind, body, state.builder.has_new_call))

    def _may_run(self, kind: str, body: dict[str, Any], has_call: bool) -> bool:
        """Whether an event that is no delta of text belongs to a call that the client may run."""
        if kind.startswith(_OTHER_TEXT):
            return True
        filed = self.items.get(body.get("output_index", -1))
        items = [item for item in (filed and filed.body, body.get("item")) if isinstance(item, dict)]
        kinds = {str(kind_of(item)) for item in items}
        run_upstream = bool(kinds) and kinds <= _RUN_UPSTREAM
        return not run_upstream and (has_call or not kinds <= _NO_CALLS)

    def _file(self, kind: str, bodies: list[dict[str, Any]]) -> None:
        """Add events to the unreleased events of their item; they have the same type and places."""
        body = bodies[0]
        index = body.get("output_index")
        if index is None:
            return
        for key in ("output_index", "content_index", "summary_index", "annotation_index"):
            if type(body.get(key, 0)) is not int:
                raise UpstreamUnreadable("must be a whole number", key)
        if kind == "response.output_item.added":
            if index in self.items or not isinstance(body.get("item"), dict):
                raise UpstreamUnreadable("must be a new item", "item")
            self.items[index] = OutputItem(body["item"])
        if index not in self.items:
            raise UpstreamUnreadable("is not the number of an item", "output_index")
        self.items[index].waiting.extend(bodies)

    def _read_event(self, kind: str, body: dict[str, Any], state: ChoiceState) -> bool:
        """Read the event's text; return whether its log probabilities are ahead of the text so far."""
        if kind in DELTAS:
            return self._read_delta(kind, body, state)
        if kind in DONES:
            self._compare(kind, body, state.builder)
        elif kind in SNAPSHOTS:
            self._snapshot(kind, body, state.builder)
        elif kind.startswith(_OTHER_TEXT):
            state.builder.add(f"output[{body.get('output_index', 0)}].events", f"{guard_text(body)}\n", "tool_call")
        else:
            self._progress(kind, body, state.builder)
        return False

    def _read_delta(self, kind: str, body: dict[str, Any], state: ChoiceState) -> bool:
        builder = state.builder
        read_fields(builder, body, "", event_of("delta logprobs"))
        path, part_kind = _place(kind, body), DELTAS[kind][1]
        delta = body.get("delta")
        if not isinstance(delta, str):
            raise UpstreamUnreadable("must be a string", "delta")
        self._grown.add(path)
        if part_kind == "tool_call":
            builder.call(path, "", delta)
        else:
            builder.add(path, delta, part_kind)
        echo = state.echo(path, f"{path}.logprobs")
        echo.add(delta, token_list(builder, body.get("logprobs"), f"{path}.logprobs"))
        return echo.ahead

    def _compare(self, kind: str, body: dict[str, Any], builder: MessageBuilder) -> None:
        read_fields(builder, body, "", event_of(f"{DONES[kind]} logprobs name"))
        delta_kind = kind.removesuffix(".done") + ".delta"
        path, part_kind, text = _place(delta_kind, body), DELTAS[delta_kind][1], body.get(DONES[kind])
        if not isinstance(text, str):
            raise UpstreamUnreadable("must be a string", DONES[kind])
        repeated = MessageBuilder(UpstreamUnreadable)
        if part_kind == "tool_call":
            name = builder.head(path)
            repeated.call(path, name if body.get("name") in (None, name) else str(body["name"]), text)
        else:
            repeated.add(path, text, part_kind)
        builder.absorb(repeated, self._grown)
        echo = LogprobEcho(f"{path}.logprobs")
        echo.add(text, token_list(builder, body.get("logprobs"), f"{path}.logprobs"))
        echo.close(builder)

    def _snapshot(self, kind: str, body: dict[str, Any], builder: MessageBuilder) -> None:
        key, place, rule = SNAPSHOTS[kind]
        read_fields(builder, body, "", event_of(key))
        if not isinstance(body.get(key), dict):
            raise UpstreamUnreadable("must be an object", key)
        snapshot = MessageBuilder(UpstreamUnreadable, self.known)
        rule(snapshot, body[key], _filled(place, body))
        builder.absorb(snapshot, self._grown)
        if key == "response":
            echoed(builder, body[key], self.request)
            head = without({**body[key], "output": []}, builder.message("assistant").parts)
            self.head = {**self.head, **head}

    def _progress(self, kind: str, body: dict[str, Any], builder: MessageBuilder) -> None:
        """Read an event about progress. Raises UpstreamUnreadable for text in an event of an unknown type."""
        unknown = MessageBuilder(UpstreamUnreadable, self.known)
        read_fields(unknown, body, "", PROGRESS)
        parts = unknown.message("assistant").parts
        if any(steps(part.path)[0] not in PROGRESS for part in parts) or body.get("delta"):
            raise UpstreamUnreadable(f"text in an event of the unknown type {kind[:60]!r}")
        builder.include(replace(part, path=f"output[{body.get('output_index', 0)}].{part.path}") for part in parts)


def echoed(builder: MessageBuilder, response: Mapping[str, Any], request: Request) -> None:
    """Judge every field that should repeat the request, but has a text that the request lacks, as JSON text."""
    known = set(strings({key: request.body.get(key) for key in ECHOES}))
    for key in ECHOES:
        if any(text not in known and not is_value(text) for text in strings(response.get(key))):
            builder.name(key, guard_text(response[key]))


def _place(delta_kind: str, body: Mapping[str, Any]) -> str:
    return _filled("output[{output_index}]." + DELTAS[delta_kind][0], body)


def _filled(place: str, body: Mapping[str, Any]) -> str:
    try:
        return place.format_map(body)
    except KeyError as error:
        raise UpstreamUnreadable("is missing", str(error.args[0])) from error
