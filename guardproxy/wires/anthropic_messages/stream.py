"""The stream of a message: content blocks that start, grow and stop one after the other."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Request
from guardproxy.sse import Sse
from guardproxy.types import Refuse, Replace
from guardproxy.wires.anthropic_messages.fields import BLOCK, DELTA, EVENTS, MESSAGE_DELTA, REPLY
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.parts import json_text, read_fields, require_object
from guardproxy.wires.shared.refusals import estimated_usage, last_text, reason
from guardproxy.wires.shared.repeated import Gaps, with_value
from guardproxy.wires.shared.reply_info import MESSAGES, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import BaseStream, without
from guardproxy.wires.shared.unmapped import carries_text

# Blocks that are no calls, and those of tools that Anthropic runs. Any other may be a call that the client would run.
_RUN_UPSTREAM = {"server_tool_use", "mcp_tool_use"}
_NO_CALLS = {
    *("text", "thinking", "redacted_thinking", "mcp_tool_result", "web_search_tool_result", "web_fetch_tool_result"),
    *("code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result"),
    *("tool_search_tool_result", "container_upload"),
}
_DELTA_TEXTS = {"text_delta": "text", "thinking_delta": "thinking"}

NO_USAGE = {"input_tokens": 0, "output_tokens": 0}


def stopped(request: Request, refusal: Refuse) -> dict[str, Any]:
    """Return the end of a refused message. Clients keep `stop_details` of a stream, and no other field of its end."""
    if refusal.finish != "content_filter":
        return {"stop_reason": "end_turn", "stop_sequence": None}
    details = {"type": "refusal", "category": None, "explanation": None, **reason(request, refusal)}
    return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}


@dataclass(slots=True)
class ContentBlock:
    """A content block of the upstream's message, with its unreleased events and its number at the client."""

    kind: str
    waiting: deque[dict[str, Any]] = field(default_factory=deque)
    number: int = -1  # -1: the client has not seen the block
    stopped: bool = False  # the client has seen its content_block_stop
    citations: int = 0

    @property
    def may_run(self) -> bool:
        """Whether it may be a call that the client runs."""
        return self.kind not in _NO_CALLS | _RUN_UPSTREAM


class MessageStream(BaseStream):
    """Reads and writes a streamed message. It has one choice, number 0."""

    named = True

    def __init__(self, request: Request, head: Mapping[str, Any]) -> None:
        super().__init__(request, Sse(events=EVENTS))
        self._head = dict(head)
        self._started = False  # message_start has been released
        self._blocks: dict[int, ContentBlock] = {}
        self._seen = 0  # blocks that the client has seen
        self._usage: dict[str, Any] | None = None  # at the end of the upstream's message

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return an event; clients drop an event without its `event:` line."""
        return f"event: {body['type']}\n".encode() + b"data: " + dumps(body) + b"\n\n"

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of an event. Raises UpstreamUnreadable."""
        body = read_object(frame.data or b"", UpstreamUnreadable)
        kind = body.get("type")
        if not isinstance(kind, str) or frame.event not in ("", kind):
            raise UpstreamUnreadable("the event and its data are of different types", "type")
        if kind in ("message_start", "message_delta"):
            self.info = info_of(body.get("message", body), MESSAGES, self.info)
        event = Event(body=body, kind=kind, complete=frame.complete)
        if kind in ("ping", "error"):
            self.read_outer(body, EVENTS[kind], event)
        elif kind in EVENTS:
            self.advance(0, event, partial(self._read_event, kind, body))
        elif carries_text(body):
            raise UpstreamUnreadable(f"an event of the unknown type {kind[:40]!r}")
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the place of the text of a delta."""
        key = _DELTA_TEXTS.get(event.body["delta"].get("type")) if event.kind == "content_block_delta" else None
        return Gaps((("delta", key),)) if key else None

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a delta with another text."""
        body: dict[str, Any] = with_value(event.body, ("delta", _DELTA_TEXTS[event.body["delta"]["type"]]), values[0])
        self._block(body)
        return body

    def _read_event(self, kind: str, body: dict[str, Any], state: ChoiceState) -> bool:
        read_fields(state.builder, body, "", EVENTS[kind])
        return {
            "message_start": self._message_start,
            "content_block_start": self._block_start,
            "content_block_delta": self._block_delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
        }[kind](state, body)

    def _message_start(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        message = body.get("message")
        if not isinstance(message, dict):
            raise UpstreamUnreadable("must be an object", "message")
        read_fields(state.builder, message, "", REPLY)
        self._head = without({**message, "content": []}, state.builder.message("assistant").parts)
        return state.builder.has_new_call

    def _block_start(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        index, block = body.get("index"), body.get("content_block")
        if type(index) is not int or index in self._blocks or not isinstance(block, dict):
            raise UpstreamUnreadable("must be a new block with a number", "content_block")
        self._blocks[index] = ContentBlock(str(block.get("type")), deque([body]))
        BLOCK(state.builder, block, f"content[{index}]")
        return self._blocks[index].may_run

    def _block(self, body: dict[str, Any]) -> ContentBlock:
        index = body.get("index")
        block = self._blocks.get(index) if isinstance(index, int) else None
        if block is None:
            raise UpstreamUnreadable("is not the number of an open block", "index")
        block.waiting.append(body)
        return block

    def _block_delta(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        block, delta = self._block(body), body.get("delta")
        path = f"content[{body['index']}]"
        DELTA(state.builder, delta, path)
        if not isinstance(delta, dict) or delta.get("type") not in ("input_json_delta", "citations_delta"):
            return block.may_run
        if delta["type"] == "input_json_delta":
            arguments = delta.get("partial_json")
            if not isinstance(arguments, str):
                raise UpstreamUnreadable("must be a string", "delta.partial_json")
            state.builder.call(f"{path}.input", "", arguments)
            return block.kind not in _RUN_UPSTREAM
        json_text("text")(state.builder, delta.get("citation"), f"{path}.citations[{block.citations}]")
        block.citations += 1
        return block.may_run

    def _block_stop(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        return self._block(body).may_run

    def _message_delta(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        delta = require_object(UpstreamUnreadable, body.get("delta"), "delta")
        read_fields(state.builder, delta, "", MESSAGE_DELTA)
        if isinstance(body.get("usage"), dict):
            self._usage = without(body, state.builder.message("assistant").parts).get("usage")
        if isinstance(delta.get("stop_reason"), str):
            state.finish, state.final = value_or(delta["stop_reason"], "end_turn"), True
        return True

    def _message_stop(self, state: ChoiceState, body: dict[str, Any]) -> bool:
        state.final = self.terminated = True
        return True

    # --- writing ---------------------------------------------------------------------------------------------------

    def release(self, chunk: Chunk) -> bytes:
        """Return the event's bytes for the client; after an end by the proxy only pings and the terminator.

        Content in these two is dropped with them: the choice has been settled, so no verdict covers it.
        """
        event: Event = chunk.data
        state = self.state_of(0)
        if self.is_behind_end(event):
            return b""
        if state.ended and not _is_empty(event):
            return b""
        if not state.ended:
            self._note(event)
        self.closed = self.closed or event.kind == "message_stop"
        self.note_released(event)
        return chunk.raw

    def _note(self, event: Event) -> None:
        """Update the blocks and their numbers to what the client has seen."""
        self._started = self._started or event.kind == "message_start"
        if not event.kind.startswith("content_block"):
            return
        block = self._blocks[event.body["index"]]
        for _ in range(event.frames):
            block.waiting.popleft()
        if event.kind == "content_block_start":
            block.number, self._seen = event.body["index"], max(self._seen, event.body["index"] + 1)
        block.stopped = block.stopped or event.kind == "content_block_stop"

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Return the rest of the edited texts or the refusal, the stops of open blocks, and the stop reason."""
        state = self.state_of(0)
        if choice != 0 or state.ended or self.closed:
            return b""
        if isinstance(outcome, Refuse):
            blocks, delta = self._refused(state, outcome), stopped(self.request, outcome)
            told = reason(self.request, outcome)
        else:
            blocks, told = self._rest(state, outcome), {}
            delta = {"stop_reason": state.finish or "end_turn", "stop_sequence": None}
        bodies = [*self._start(), *blocks]
        if delta["stop_reason"] == "tool_use" and not any(_opens_call(body) for body in bodies):
            delta["stop_reason"] = "end_turn"
        state.ended = True
        return self.pack_all([*bodies, {"type": "message_delta", "delta": delta, "usage": self._used(), **told}])

    def _used(self) -> dict[str, Any]:
        """Return the upstream's own usage, or the tokens of what was read of its message: it has named none yet."""
        return self._usage or {"output_tokens": estimated_usage(self, self.request)[1]}

    def close(self) -> bytes:
        """Return `message_stop`, or the rest of one that was cut off."""
        if self.closed:
            return self.rest_of_cut()
        self.closed = True
        return self.pack_all([{"type": "message_stop"}])

    def _start(self) -> list[dict[str, Any]]:
        if self._started:
            return []
        self._started = True
        message = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        return [{"type": "message_start", "message": message}]

    def _refused(self, state: ChoiceState, outcome: Refuse) -> list[dict[str, Any]]:
        """Return the refusal's last text and the stops; no text if the request asks for JSON: it must parse."""
        open_blocks = [block for block in self._blocks.values() if block.number >= 0 and not block.stopped]
        text = "" if self.request.structured else last_text(state, outcome)
        if text and open_blocks and open_blocks[-1].kind == "text":
            return [_text_delta(open_blocks[-1].number, text), *self._stops()]
        return [*self._stops(), *(self._new_block(text) if text else ())]

    def _stops(self) -> Iterator[dict[str, Any]]:
        for block in self._blocks.values():
            if block.number >= 0 and not block.stopped:
                block.stopped = True
                yield {"type": "content_block_stop", "index": block.number}

    def _new_block(self, text: str) -> list[dict[str, Any]]:
        number, self._seen = self._seen, self._seen + 1
        start = {"type": "content_block_start", "index": number, "content_block": {"type": "text", "text": ""}}
        return [start, _text_delta(number, text), {"type": "content_block_stop", "index": number}]

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        edits = {edit.path: edit.text for edit in outcome.edits}
        out: list[dict[str, Any]] = []
        for index, block in self._blocks.items():
            path = f"content[{index}].text"
            changed = [place for place in edits if place.startswith(f"content[{index}].")]
            if path in edits and edits[path] != state.builder.text(path):
                out += self._edited(state, path, edits[path], block)
            elif outcome.whole or any(edits[place] != state.builder.text(place) for place in changed):
                continue
            else:
                out += self._replayed(block)
        if outcome.whole:
            outer = [text for path, text in edits.items() if not path.startswith("content[")]
            out += [event for text in outer for event in self._new_block(text)]
        return [*out, *self._stops()]

    def _edited(self, state: ChoiceState, path: str, new: str, block: ContentBlock) -> list[dict[str, Any]]:
        part = next(part for part in state.builder.message("assistant").parts if part.path == path)
        rest = state.remainder(part, new)
        if not rest:
            return []
        if block.number < 0 or block.stopped:
            return self._new_block(rest)
        return [_text_delta(block.number, rest)]

    def _replayed(self, block: ContentBlock) -> list[dict[str, Any]]:
        """Return the block's unreleased events, under its number at the client."""
        if block.number < 0 and block.waiting:
            block.number, self._seen = self._seen, self._seen + 1
        block.stopped = block.stopped or any(body["type"] == "content_block_stop" for body in block.waiting)
        return [{**body, "index": block.number} for body in block.waiting]


def _is_empty(event: Event) -> bool:
    """Whether an event has no content: it may follow an end by the proxy. A ping with content has a mark."""
    if event.kind == "ping":
        return not event.marks
    return not event.kind or (event.kind == "message_stop" and not carries_text(event.body))


def _text_delta(number: int, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": number, "delta": {"type": "text_delta", "text": text}}


def _opens_call(body: Mapping[str, Any]) -> bool:
    return bool(body["type"] == "content_block_start" and body["content_block"].get("type") == "tool_use")
