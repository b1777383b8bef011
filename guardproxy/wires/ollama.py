"""Ollama's chat and generate (`/api/chat`, `/api/generate`), answered as one object or as one JSON text per line.

Reference: Ollama's API documentation, "Generate a chat completion", "Generate a completion". Ollama streams unless the
request has `"stream": false`. It has no stop reason for filtered content, so a refusal ends with `stop`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.sse import Frame, Ndjson
from guardproxy.types import Message, Refuse, Replace, Role
from guardproxy.wires.shared.base import BaseWire, Changed, plain_message, stream_flag, with_tool_results
from guardproxy.wires.shared.body import dumps, guard_text, parsed_object, read_object
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.instructions import add_to_messages, behind, reads_system
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    FieldRule,
    error_text,
    handled_in_code,
    identifier,
    json_text,
    keys,
    labels,
    list_of,
    name,
    numbers,
    object_with,
    one_of,
    opaque,
    outer_messages,
    outer_parts,
    passed,
    read_fields,
    string_or,
    text,
    with_outer_parts,
)
from guardproxy.wires.shared.pictures import bare_image, images
from guardproxy.wires.shared.refusals import estimated_usage, last_text, reason
from guardproxy.wires.shared.repeated import Gaps, Steps
from guardproxy.wires.shared.reply_info import InfoKeys, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import JSON, BaseStream, parts_with_new_texts, without

_PATH = re.compile(r"/api/(?:chat|generate)")
_CALLS = re.compile(r"\.function\.arguments$")
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_INFO = InfoKeys("", "model", "", "prompt_eval_count", ("eval_count",))  # Ollama gives a reply no id
_COUNTS = ("prompt_eval_count", "eval_count")
_TEXTS: dict[str, Steps] = {"message.content": ("message", "content"), "response": ("response",)}


# --- field maps ----------------------------------------------------------------------------------------------------


def _calls(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge tool calls. A frame of a stream brings whole calls; their numbers follow those of earlier frames."""
    table = keys("name arguments", handled_in_code) | {"index": passed, "description": text()}
    list_of(object_with({"function": object_with(table), "id": identifier, "type": passed}))(builder, value, path)
    for call in value or ():
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        if name is not None and not isinstance(name, str):
            raise builder.error("must be a string", f"{path}[].function.name")
        place = f"{path}[{builder.calls}].function.arguments"
        builder.call(place, name or "", "" if arguments is None else guard_text(arguments))


def _options(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass the sampling options; the stop sequences are the sender's own labels."""
    if isinstance(value, dict):
        labels(builder, value.get("stop"), f"{path}.stop")
        value = {key: item for key, item in value.items() if key != "stop"}
    passed(builder, value, path)


MESSAGE: FieldMap = {
    # Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
    "role": one_of("system user assistant tool"),
    "content": text(),
    "thinking": text("reasoning"),
    "images": images(bare_image),
    "tool_calls": _calls,
    **keys("tool_name tool_call_id", identifier),
    "name": text(),
}

# A request outside its messages (chat), or with its prompt (generate).
SETTINGS: dict[str, FieldRule] = {
    **keys("messages prompt", handled_in_code),
    "model": name,
    **keys("stream keep_alive think raw truncate shift logprobs top_logprobs"),
    **keys("width height steps _debug_render_only"),
    "options": _options,
    "tools": list_of(json_text("tool_definition")),
    "format": string_or(passed, json_text("tool_definition")),
    "suffix": text(),
    "system": text(),
    "template": opaque("prompt template"),
    "context": opaque("token ids of an earlier conversation"),
    "images": images(bare_image),
}

# A reply, or a line of a stream. `context` passes: it is the judged conversation as token ids, for the next request.
REPLY: FieldMap = {
    **keys(
        """
        created_at done done_reason total_duration load_duration prompt_eval_count prompt_eval_duration
        eval_count eval_duration completed total
        """
    ),
    "error": error_text,
    **keys("model remote_model remote_host", name),
    "context": numbers,
    "logprobs": handled_in_code,
    "message": object_with(MESSAGE),
    "response": text(),
    "thinking": text("reasoning"),
    "image": bare_image,
}


def _head(request: Request, now: float) -> dict[str, Any]:
    """Return the head of an answer that the proxy writes at `now` (seconds since 1970)."""
    stamp = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
    return {"model": request.model, "created_at": stamp}


def _is_chat(path: str) -> bool:
    return path.partition("?")[0].endswith("/chat")


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


def _text_fields(path: str, new_text: str, field: str = "content") -> dict[str, Any]:
    """Return the fields of a reply or a line that hold a text."""
    if _is_chat(path):
        return {"message": {"role": "assistant", "content": "", field: new_text}}
    return {"response": new_text} if field == "content" else {field: new_text, "response": ""}


def _log_probabilities(echo: LogprobEcho, builder: MessageBuilder, body: Mapping[str, Any]) -> None:
    message = body.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    echo.add(content or body.get("response") or "", token_list(builder, body.get("logprobs"), "logprobs"))


class OllamaStream(BaseStream):
    """Reads and writes a streamed reply. It has one choice, number 0."""

    frame_end = b"\n"

    def __init__(self, request: Request, now: float) -> None:
        super().__init__(request, Ndjson())
        self._head = _head(request, now)
        self._end: dict[str, Any] = {}
        self._noted: Event | None = None  # the latest line that was read in full, or is repeated

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return a line."""
        return dumps(body) + b"\n"

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of a line. Raises UpstreamUnreadable."""
        body = read_object(frame.data or b"", UpstreamUnreadable)
        self.info = info_of(body, _INFO, self.info)
        self._noted = event = Event(body=body, kind="line", complete=frame.complete)
        if "error" in body and "message" not in body and "response" not in body:
            self.read_outer(body, REPLY, event)
        else:
            self.advance(0, event, partial(self._read_line, body))
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the places of a text without log probabilities, and of the time of a line."""
        body, place = event.body, _TEXTS.get(path)
        if place is None or body.get("logprobs") is not None or not isinstance(body.get("created_at"), str):
            return None
        return Gaps((place, ("created_at",)), "text")

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a line, with the text of the other line; None if its time is to be judged."""
        time = {"created_at": values[1]}
        builder = MessageBuilder(UpstreamUnreadable, self.known)
        read_fields(builder, time, "", REPLY)
        if builder.pieces or self.known.has_texts or self.state_of(0).builder.text("created_at"):
            return None
        if self._noted is not event:
            self._noted, self.info = event, info_of(event.body, _INFO, self.info)
            self._note_head(event.body, self.state_of(0).builder)
        self._note_head(time, builder)
        return event.body

    def _note_head(self, body: Mapping[str, Any], builder: MessageBuilder) -> None:
        for key in ("model", "created_at"):
            if isinstance(body.get(key), str) and not builder.text(key):  # a judged string is not written again
                self._head[key] = body[key]

    def _read_line(self, body: dict[str, Any], state: ChoiceState) -> bool:
        read_fields(state.builder, body, "", REPLY)
        echo = state.echo("text", "logprobs")
        _log_probabilities(echo, state.builder, body)
        self._note_head(body, state.builder)
        if body.get("done") is True:
            self._end = without(body, state.builder.message("assistant").parts)
            state.final = True
        return echo.ahead or state.builder.has_new_call

    def release(self, chunk: Chunk) -> bytes:
        """Return the line for the client; nothing for a blank line (it breaks clients) or after an end by the proxy."""
        event: Event = chunk.data
        if self.state_of(0).ended or not event.kind:
            return b""
        self.note_released(event)
        return chunk.raw

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Return the refusal or the rest of the edited texts, and the line with `done`."""
        state = self.state_of(0)
        if choice != 0 or state.ended:
            return b""
        state.ended = True
        if isinstance(outcome, Refuse):
            text = last_text(state, outcome, structured=self.request.structured)
            rest = [_text_fields(self.request.path, text)] if text else []
            finish, told = "stop", reason(self.request, outcome)
        else:
            rest, told = self._rest(state, outcome), {}
            finish = value_or(self._end.get("done_reason"), "stop")
        kept = {key: value for key, value in self._end.items() if key.endswith(("_count", "_duration"))}
        kept = kept or dict(zip(_COUNTS, estimated_usage(self, self.request), strict=True))
        end = {**_text_fields(self.request.path, ""), "done": True, "done_reason": finish, **kept, **told}
        return self.pack_all([*({**self._head, **item, "done": False} for item in rest), {**self._head, **end}])

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            if part.kind == "tool_call":
                lines += [_call_line(part.text)] if new == part.text else []
            elif (part.path != "error" or outcome.whole) and (rest := state.remainder(part, new)):
                field = "thinking" if part.kind == "reasoning" else "content"
                lines.append(_text_fields(self.request.path, rest, field))
        return lines

    def close(self) -> bytes:
        """Return nothing: the line with `done` ends the stream."""
        return b""


def _call_line(call_text: str) -> dict[str, Any]:
    """Return a tool call from its text, which is its name, a line break and its arguments."""
    name, _, arguments = call_text.partition("\n")
    call = {"function": {"name": name, "arguments": parsed_object(arguments)}}
    return {"message": {"role": "assistant", "content": "", "tool_calls": [call]}}


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
        is_chat = _is_chat(path)
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", SETTINGS | ({"prompt": text()} if is_chat else {"messages": opaque("messages")}))
        for message in outer_messages(builder):
            yield from _split(message)
        yield from _messages(body, known) if is_chat else _prompt(body)

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream: it does unless `stream` is false. Raises Unreadable."""
        return stream_flag(body) is not False

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON."""
        return bool(body.get("format"))

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the model reads the system message; `generate` can write into a prompt instead."""
        if _is_chat(path):
            return bool(body.get("messages")) and reads_system(body)
        return isinstance(body.get("prompt"), str)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction into the system message.

        If the client formats the prompt itself, before the prompt: the template may leave out the system message.
        """
        if _is_chat(path):
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
        _log_probabilities(echo, builder, parsed)
        echo.close(builder)
        builder.add_noted()
        return Reply((builder.message("assistant"),), body, parsed, info=info_of(parsed, _INFO))

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
        kept = {**_head(request, request.received), **kept}
        new_text = outcome.message if isinstance(outcome, Refuse) else "\n".join(edit.text for edit in outcome.edits)
        told = reason(request, outcome) if isinstance(outcome, Refuse) else {}
        return dumps({**kept, **_text_fields(request.path, new_text), "done": True, "done_reason": "stop", **told})

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            return Answer(200, "application/x-ndjson", OllamaStream(request, request.received).end(0, refusal))
        head = {**_head(request, request.received), **_text_fields(request.path, refusal.message)}
        end = {"done": True, "done_reason": "stop", **dict.fromkeys(_COUNTS, 0), **reason(request, refusal)}
        return Answer(200, JSON, dumps({**head, **end}))

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return the protocol's own error body."""
        return Answer(status, JSON, dumps({"error": message, "code": code, **(reason or {})}))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return OllamaStream(request, request.received)


wire: Wire = Ollama()
