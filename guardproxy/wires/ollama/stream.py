"""The stream of a reply: lines of JSON, each with a piece of it."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Request
from guardproxy.sse import Ndjson
from guardproxy.types import Refuse, Replace
from guardproxy.wires.ollama.fields import REPLY
from guardproxy.wires.shared.body import dumps, parsed_object, read_object
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import read_fields
from guardproxy.wires.shared.refusals import estimated_usage, last_text, reason
from guardproxy.wires.shared.repeated import Gaps, Steps
from guardproxy.wires.shared.reply_info import InfoKeys, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import BaseStream, parts_with_new_texts, without

INFO = InfoKeys("", "model", "", "prompt_eval_count", ("eval_count",))  # Ollama gives a reply no id
COUNTS = ("prompt_eval_count", "eval_count")
_TEXTS: dict[str, Steps] = {
    "message.content": ("message", "content"),
    "message.thinking": ("message", "thinking"),
    "response": ("response",),
    "thinking": ("thinking",),
}
# The time of a line (RFC 3339): digits and the letters T and Z, so that no time is a text.
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})")


def head_of(request: Request, now: float) -> dict[str, Any]:
    """Return the head of an answer that the proxy writes at `now` (seconds since 1970)."""
    stamp = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
    return {"model": request.model, "created_at": stamp}


def is_chat(path: str) -> bool:
    return path.partition("?")[0].endswith("/chat")


def text_fields(path: str, new_text: str, field: str = "content") -> dict[str, Any]:
    """Return the fields of a reply or a line that hold a text."""
    if is_chat(path):
        return {"message": {"role": "assistant", "content": "", field: new_text}}
    return {"response": new_text} if field == "content" else {field: new_text, "response": ""}


def log_probabilities(echo: LogprobEcho, builder: MessageBuilder, body: Mapping[str, Any]) -> None:
    message = body.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    echo.add(content or body.get("response") or "", token_list(builder, body.get("logprobs"), "logprobs"))


class OllamaStream(BaseStream):
    """Reads and writes a streamed reply. It has one choice, number 0."""

    frame_end = b"\n"

    def __init__(self, request: Request, now: float) -> None:
        super().__init__(request, Ndjson())
        self._head = head_of(request, now)
        self._end: dict[str, Any] = {}
        self._noted: Event | None = None  # the latest line that was read in full, or is repeated

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return a line."""
        return dumps(body) + b"\n"

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of a line. Raises UpstreamUnreadable."""
        body = read_object(frame.data or b"", UpstreamUnreadable)
        self.info = info_of(body, INFO, self.info)
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
        # Log probabilities spell what is no thinking.
        return Gaps((place, ("created_at",)), "" if path.endswith("thinking") else "text")

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a line, with the text of the other line; None if its time may have to be judged."""
        return next(iter(self.again_in_run(event, [values])), None)

    def again_in_run(self, event: Event, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Do what `again` does for lines in a row: one body is that of all."""
        builder, times = self.state_of(0).builder, [*takewhile(_TIME.fullmatch, [time for _, time in rows])]
        if not times or builder.text("created_at") or self.state_of(0).echoes["text"].ahead:
            return []
        if self._noted is not event:
            self._noted, self.info = event, info_of(event.body, INFO, self.info)
            self._note_head(event.body, builder)
        self._head["created_at"] = times[-1]
        return [event.body] * len(times)

    def _note_head(self, body: Mapping[str, Any], builder: MessageBuilder) -> None:
        for key in ("model", "created_at"):
            if isinstance(body.get(key), str) and not builder.text(key):  # a judged string is not written again
                self._head[key] = body[key]

    def _read_line(self, body: dict[str, Any], state: ChoiceState) -> bool:
        read_fields(state.builder, body, "", REPLY)
        echo = state.echo("text", "logprobs")
        log_probabilities(echo, state.builder, body)
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
            rest = [text_fields(self.request.path, text)] if text else []
            finish, told = "stop", reason(self.request, outcome)
        else:
            rest, told = self._rest(state, outcome), {}
            finish = value_or(self._end.get("done_reason"), "stop")
        kept = {key: value for key, value in self._end.items() if key.endswith(("_count", "_duration"))}
        kept = kept or dict(zip(COUNTS, estimated_usage(self, self.request), strict=True))
        end = {**text_fields(self.request.path, ""), "done": True, "done_reason": finish, **kept, **told}
        return self.pack_all([*({**self._head, **item, "done": False} for item in rest), {**self._head, **end}])

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            if part.kind == "tool_call":
                lines += [_call_line(part.text)] if new == part.text else []
            elif (part.path != "error" or outcome.whole) and (rest := state.remainder(part, new)):
                field = "thinking" if part.kind == "reasoning" else "content"
                lines.append(text_fields(self.request.path, rest, field))
        return lines

    def close(self) -> bytes:
        """Return nothing: the line with `done` ends the stream."""
        return b""


def _call_line(call_text: str) -> dict[str, Any]:
    """Return a tool call from its text, which is its name, a line break and its arguments."""
    name, _, arguments = call_text.partition("\n")
    call = {"function": {"name": name, "arguments": parsed_object(arguments)}}
    return {"message": {"role": "assistant", "content": "", "tool_calls": [call]}}
