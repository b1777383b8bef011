"""The stream of a response: chunks that each bring parts of every candidate, as events or as items of a JSON array."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from guardproxy.errors import UpstreamUnreadable
from guardproxy.ports import Chunk, Request
from guardproxy.sse import Frame, JsonArray, Sse
from guardproxy.types import Refuse, Replace
from guardproxy.wires.gemini.fields import CANDIDATE, LOGPROBS, REPLY, TOKEN, part, snake, taken
from guardproxy.wires.shared.body import dumps, object_of, read_object
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import each, fields, handled_in_code, named, walk
from guardproxy.wires.shared.streams import BaseStream, ChoiceState, Event, parts_with_new_texts

_BLANK = b" \t\r\n"


def get(value: Mapping[str, Any], name: str) -> Any:
    """What stands under a name in either spelling."""
    return value.get(name, value.get(snake(name)))


def candidates_of(body: Mapping[str, Any]) -> list[Any]:
    """The candidates of a response; none in an error or for a blocked prompt. Raises UpstreamUnreadable."""
    candidates = body.get("candidates")
    if candidates is None:
        return []
    if not isinstance(candidates, list):
        raise UpstreamUnreadable("must be a list", "candidates")
    return candidates


def index_of(candidate: Any, place: int) -> int:
    """The number of a candidate. Raises UpstreamUnreadable."""
    index = candidate.get("index", 0) if isinstance(candidate, dict) else None
    if type(index) is not int or index < 0:
        raise UpstreamUnreadable("must be an object with a whole number for index", f"candidates[{place}]")
    return index


def parts_of(builder: MessageBuilder, candidate: Mapping[str, Any], path: str) -> list[Any]:
    """The parts of a candidate's content, which itself is read into `builder`. Raises UpstreamUnreadable."""
    content = candidate.get("content")
    fields(named("role parts", handled_in_code))(builder, content, f"{path}.content")
    found = (content or {}).get("parts")
    if found is not None and not isinstance(found, list):
        raise UpstreamUnreadable("must be a list", "content.parts")
    return found or []


def log_probabilities(echo: LogprobEcho, builder: MessageBuilder, candidate: Mapping[str, Any], path: str) -> None:
    """Compare the chosen tokens with the answer's text; other candidates for a token are opaque."""
    result = get(candidate, "logprobsResult")
    fields(LOGPROBS)(builder, result, path)
    chosen = get(result or {}, "chosenCandidates") or []
    for token in chosen:
        fields(TOKEN)(builder, token, f"{path}.chosenCandidates")
    tokens = [token.get("token") if isinstance(token, dict) else None for token in chosen]
    if not all(isinstance(token, str | None) for token in tokens):
        raise builder.error("must have strings for tokens", path)
    parts = parts_of(MessageBuilder(UpstreamUnreadable), candidate, path)
    said = "".join(one.get("text") or "" for one in parts if isinstance(one, dict))
    echo.add(said, "".join(token or "" for token in tokens).encode())
    for place, others in enumerate(get(result or {}, "topCandidates") or ()):
        fields({"candidates": handled_in_code})(builder, others, f"{path}.topCandidates")
        listed = others.get("candidates") or [] if isinstance(others, dict) else [None]
        own = tokens[place : place + 1]
        each(fields(TOKEN))(builder, [other for other in listed if isinstance(other, dict)], f"{path}.topCandidates")
        if any(not isinstance(other, dict) or [other.get("token")] != own for other in listed):
            builder.opaque(f"{path}.topCandidates", "token alternatives")


def said_parts(said: str) -> dict[str, Any]:
    """A content that says a text, or nothing."""
    return {"role": "model", "parts": [{"text": said}] if said else []}


class GeminiStream(BaseStream):
    """A streamed response. Old models give a finish reason in every chunk, so a candidate is whole when all is."""

    frame_end = b"\r\n\r\n"

    def __init__(self, request: Request, *, array: bool) -> None:
        super().__init__(request, JsonArray() if array else Sse())
        self._array = array
        self._begun = False  # something of the array has left
        self._head: dict[str, Any] = {"modelVersion": request.model}

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """An event, or an item of the array with what separates it from the one before."""
        if not self._array:
            return b"data: " + dumps(body) + b"\r\n\r\n"
        start, self._begun = (b",\r\n" if self._begun else b"["), True
        return start + dumps(body)

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, frame: Frame) -> Chunk:
        """The chunk of a response. Raises UpstreamUnreadable."""
        body = read_object(frame.data or b"", UpstreamUnreadable)
        event = Event(body=body, kind="response", complete=frame.complete)
        if "error" in body and "candidates" not in body:
            self.read_outer(body, REPLY, event)
            return Chunk(frame.raw, tuple(event.marks.values()), event)
        for place, candidate in enumerate(candidates_of(body)):
            self.advance(index_of(candidate, place), event, partial(self._read_candidate, candidate))
        self.read_outer(body, REPLY, event)
        self._head.update({key: value for key, value in event.body.items() if key != "candidates"})
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def _read_candidate(self, candidate: dict[str, Any], state: ChoiceState) -> bool:
        builder, path = state.builder, f"candidates[{candidate.get('index', 0)}]"
        walk(builder, candidate, path, CANDIDATE)
        parts = parts_of(builder, candidate, path)
        plain = not builder.added
        for value in parts:
            place = self._place(state, value)
            part(builder, value, f"{path}.content.parts[{place}]")
        plain = plain and all(place.endswith(".text") for place, _ in builder.added)
        echo = state.echo("text", f"{path}.logprobsResult")
        log_probabilities(echo, builder, candidate, f"{path}.logprobsResult")
        reason = taken(builder, candidate, "finishReason", path)
        if isinstance(reason, str):
            state.finish, plain = reason, False
        return echo.ahead or not plain

    def _place(self, state: ChoiceState, value: Any) -> int:
        """Where a part lies in the whole content: a text goes on from the text before it."""
        is_text = isinstance(value, dict) and "text" in value
        kind = (value.get("thought") is True) if is_text else None
        last, count = state.extra.get("last", "none"), state.extra.get("count", 0)
        if kind is None or kind != last:
            count += 1
        state.extra["last"], state.extra["count"] = kind if is_text else "none", count
        return int(count) - 1

    # --- writing ---------------------------------------------------------------------------------------------------

    def release(self, chunk: Chunk) -> bytes:
        """The chunk's bytes for the client, less the candidates that the proxy has ended."""
        event: Event = chunk.data
        if self.is_behind_end(event):
            return b""
        if not event.kind:
            return self._between(chunk.raw, event)
        live = self.open_choices(event)
        self.note_released(event)
        if len(live) == len(event.marks):
            return self._own(chunk.raw)
        kept = [one for one in candidates_of(event.body) if index_of(one, 0) in live]
        return self.pack_all([{**event.body, "candidates": kept}]) if kept else b""

    def _between(self, raw: bytes, event: Event) -> bytes:
        """A frame without data: white space, or the end of the array."""
        self._cut = not event.complete
        if self._array and not self.closed and raw.rstrip(_BLANK).endswith(b"]"):
            self.closed = True
            return raw if self._begun or raw.lstrip(_BLANK).startswith(b"[") else b"[]"
        return raw

    def _own(self, raw: bytes) -> bytes:
        """An item of the array as it came, unless frames that did not leave have taken its separator with them."""
        if not self._array:
            return raw
        begun, self._begun = self._begun, True
        if raw.lstrip(_BLANK).startswith(b"," if begun else b"["):
            return raw
        return (b",\r\n" if begun else b"[") + raw.lstrip(_BLANK + b",[")

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Say what is left of the candidate, and its finish reason."""
        state = self.state_of(choice)
        if state.ended or self.closed:
            return b""
        state.ended = True
        if isinstance(outcome, Refuse):
            contents = [said_parts(outcome.message if state.nothing_released else "")]
            reason = "SAFETY" if outcome.finish == "content_filter" else "STOP"
        else:
            contents, reason = self._rest(state, outcome), state.finish or "STOP"
        contents = contents or [said_parts("")]
        bodies = [{"candidates": [{"content": content, "index": choice}], **self._head} for content in contents]
        bodies[-1]["candidates"][0]["finishReason"] = reason
        return self.pack_all(bodies)

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for old, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            if old.kind == "tool_call" and old.path.endswith(".args"):
                out += [_called(old.text)] if new == old.text else []
            elif (old.path.endswith(".text") or outcome.whole) and (left := state.remainder(old, new)):
                thought = {"thought": True} if old.kind == "reasoning" else {}
                out.append({"role": "model", "parts": [{"text": left, **thought}]})
        return out

    def close(self) -> bytes:
        """The end of the array; a stream of events just ends."""
        if self.closed:
            return b""
        self.closed = True
        if not self._array:
            return b""
        return b"]" if self._begun else b"[]"


def _called(said: str) -> dict[str, Any]:
    """A content with a function call, from its text."""
    name, _, arguments = said.partition("\n")
    return {"role": "model", "parts": [{"functionCall": {"name": name, "args": object_of(arguments)}}]}
