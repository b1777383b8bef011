"""The stream of a response: chunks with parts of the candidates, as events or as items of a JSON array."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Request
from guardproxy.sse import Sse
from guardproxy.types import Refuse, Replace, ReplyInfo
from guardproxy.wires.gemini.array import JsonArray
from guardproxy.wires.gemini.fields import CANDIDATE, LOGPROBS, REPLY, ROLE, TOKEN, part, snake, spelled, unique_value
from guardproxy.wires.shared.body import dumps, parsed_object, read_object
from guardproxy.wires.shared.bounds import check_choices
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.logprob_echo import LogprobEcho, judge_token
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import handled_in_code, list_of, object_with, read_fields
from guardproxy.wires.shared.refusals import estimated_usage, last_text, reason, with_estimate
from guardproxy.wires.shared.repeated import Gaps, Steps, with_value
from guardproxy.wires.shared.reply_info import NOTHING, InfoKeys, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import BaseStream, parts_with_new_texts

_BLANK = b" \t\r\n"
_TEXT = ("candidates", 0, "content", "parts", 0, "text")  # the only text of a chunk
_GROWING = ("candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
_COUNTS = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
_INFO = InfoKeys(
    "responseId", "modelVersion", "usageMetadata", "promptTokenCount", ("candidatesTokenCount", "thoughtsTokenCount")
)
_SNAKE_INFO = InfoKeys(
    snake(_INFO.id), snake(_INFO.model), snake(_INFO.usage), snake(_INFO.input), tuple(map(snake, _INFO.output))
)
_SNAKE_KEYS = frozenset({_SNAKE_INFO.id, _SNAKE_INFO.model, _SNAKE_INFO.usage})


def value_of(value: Mapping[str, Any], name: str) -> Any:
    """Return the value of `name` in either spelling, None if it is absent."""
    return value.get(name, value.get(snake(name)))


def candidates_of(body: Mapping[str, Any]) -> list[Any]:
    """Return the candidates; none in an error or for a blocked prompt. Raises UpstreamUnreadable."""
    candidates = body.get("candidates")
    if candidates is None:
        return []
    if not isinstance(candidates, list):
        raise UpstreamUnreadable("must be a list", "candidates")
    check_choices(len(candidates))
    return candidates


def _counts(body: Mapping[str, Any]) -> list[Steps]:
    """Return the places of the numbers of tokens that grow with the reply."""
    usage = value_of(body, "usageMetadata")
    names = [spelled(usage, name) for name in _GROWING] if isinstance(usage, dict) else []
    return [(spelled(body, "usageMetadata"), name) for name in names if type(usage.get(name)) is int]


def gemini_info(body: Mapping[str, Any], before: ReplyInfo = NOTHING) -> ReplyInfo:
    """Return what a response, or a chunk of one, says of the reply, in either spelling of the names."""
    info = info_of(body, _INFO, before)
    return info if _SNAKE_KEYS.isdisjoint(body) else info_of(body, _SNAKE_INFO, info)


def index_of(candidate: Any, place: int) -> int:
    """Return the index of a candidate; `place` names it in the error. Raises UpstreamUnreadable."""
    index = candidate.get("index", 0) if isinstance(candidate, dict) else None
    if type(index) is not int or index < 0:
        raise UpstreamUnreadable("must be an object with a whole number for index", f"candidates[{place}]")
    return index


def parts_of(builder: MessageBuilder, candidate: Mapping[str, Any], path: str) -> list[Any]:
    """Return the parts of a candidate's content, and read the rest of the content. Raises UpstreamUnreadable."""
    content = candidate.get("content")
    object_with({"role": ROLE, "parts": handled_in_code})(builder, content, f"{path}.content")
    parts = (content or {}).get("parts")
    if parts is not None and not isinstance(parts, list):
        raise UpstreamUnreadable("must be a list", "content.parts")
    return parts or []


def log_probabilities(echo: LogprobEcho, builder: MessageBuilder, candidate: Mapping[str, Any], path: str) -> None:
    """Compare the chosen tokens with the candidate's text; alternatives to a token are opaque."""
    result = value_of(candidate, "logprobsResult")
    object_with(LOGPROBS)(builder, result, path)
    chosen = value_of(result or {}, "chosenCandidates") or []
    for token in chosen:
        object_with(TOKEN)(builder, token, f"{path}.chosenCandidates")
    tokens = [token.get("token") if isinstance(token, dict) else None for token in chosen]
    if not all(isinstance(token, str | None) for token in tokens):
        raise builder.error("must have strings for tokens", path)
    parts = parts_of(MessageBuilder(UpstreamUnreadable), candidate, path)
    text = "".join(item.get("text") or "" for item in parts if isinstance(item, dict))
    echo.add(text, "".join(token or "" for token in tokens).encode())
    for place, others in enumerate(value_of(result or {}, "topCandidates") or ()):
        object_with({"candidates": handled_in_code})(builder, others, f"{path}.topCandidates")
        listed = others.get("candidates") or [] if isinstance(others, dict) else [None]
        own = tokens[place : place + 1]
        objects = [other for other in listed if isinstance(other, dict)]
        list_of(object_with(TOKEN))(builder, objects, f"{path}.topCandidates")
        if any(not isinstance(other, dict) or [other.get("token")] != own for other in listed):
            builder.opaque(f"{path}.topCandidates", "token alternatives")
            for other in listed:
                judge_token(builder, other, f"{path}.topCandidates[{place}]")


def text_content(text: str) -> dict[str, Any]:
    """Return a content with this text, without parts for an empty text."""
    return {"role": "model", "parts": [{"text": text}] if text else []}


def finish_reason(refusal: Refuse) -> str:
    """Return the finish reason of a refused candidate."""
    return "SAFETY" if refusal.finish == "content_filter" else "STOP"


class GeminiStream(BaseStream):
    """Reads and writes a streamed response.

    A finish reason does not end a candidate, because old models send it with every chunk: a candidate ends with the
    stream, and text behind a finish reason is judged as any other.
    """

    frame_end = b"\r\n\r\n"

    def __init__(self, request: Request, *, array: bool) -> None:
        super().__init__(request, JsonArray() if array else Sse())
        self._array = array
        self._begun = False  # an item of the array has been released
        self._head: dict[str, Any] = {"modelVersion": request.model, "responseId": request.id}

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return an event, or an item of the array behind the bracket or comma that must precede it."""
        if not self._array:
            return b"data: " + dumps(body) + b"\r\n\r\n"
        start, self._begun = (b",\r\n" if self._begun else b"["), True
        return start + dumps(body)

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of a response. Raises UpstreamUnreadable."""
        body = read_object(frame.data or b"", UpstreamUnreadable)
        self.info = gemini_info(body, self.info)
        event = Event(body=body, kind="response", complete=frame.complete)
        if "error" in body and "candidates" not in body:
            self.read_outer(body, REPLY, event)
            return Chunk(frame.raw, tuple(event.marks.values()), event)
        for place, candidate in enumerate(candidates_of(body)):
            self.advance(index_of(candidate, place), event, partial(self._read_candidate, candidate))
        self.read_outer(body, REPLY, event)
        self._note_head(event.body)
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the places of a candidate's only text, without log probabilities, and of the counts that grow."""
        candidates = candidates_of(event.body)
        candidate = candidates[0] if len(candidates) == 1 else {}
        parts = (candidate.get("content") or {}).get("parts") or []
        if len(parts) != 1 or value_of(candidate, "logprobsResult") is not None:
            return None
        if self.state_of(index_of(candidate, 0)).extra["path"] != path:
            return None  # the only text is none of the part
        return Gaps((_TEXT, *_counts(event.body)), "text")

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a chunk that repeats another one, with the text of the other."""
        return next(iter(self.again_in_run(event, [values])), None)

    def again_in_run(self, event: Event, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Do what `again` does for chunks in a row: one body is that of all, with the last counts.

        There are none if another part is the candidate's latest: the texts would begin a part of their own.
        """
        (choice, path, _), body = next(said for said in event.texts if said[2]), event.body
        if self.state_of(choice).extra["path"] != path:
            return []
        for place, count in zip(_counts(body), rows[-1][1:], strict=True):
            body = with_value(body, place, count)
        self.info = gemini_info(body, self.info)
        self._note_head(body)
        return [body] * len(rows)

    def _note_head(self, body: Mapping[str, Any]) -> None:
        self._head.update({key: value for key, value in body.items() if key != "candidates"})

    def is_complete(self, choice: int) -> bool:
        """Return whether the candidate has a finish reason."""
        return bool(self.state_of(choice).finish)

    def _read_candidate(self, candidate: dict[str, Any], state: ChoiceState) -> bool:
        builder, path, is_call = state.builder, f"candidates[{candidate.get('index', 0)}]", False
        read_fields(builder, candidate, path, CANDIDATE)
        for value in parts_of(builder, candidate, path):
            place = f"{path}.content.parts[{self._place(state, value)}]"
            part(builder, value, place)
            state.extra["path"] = f"{place}.text"
            # The client runs a function call; Google's own tools and the code in an answer have run already.
            is_call = is_call or unique_value(builder, value, "functionCall", path) is not None
        echo = state.echo("text", f"{path}.logprobsResult")
        log_probabilities(echo, builder, candidate, f"{path}.logprobsResult")
        reason = unique_value(builder, candidate, "finishReason", path)
        if isinstance(reason, str):
            state.finish = value_or(reason, "STOP")
        return echo.ahead or is_call or isinstance(reason, str)

    def _place(self, state: ChoiceState, value: Any) -> int:
        """Return the index of a part in the whole content: neighbouring texts of a kind are one part."""
        is_text = isinstance(value, dict) and "text" in value
        kind = (value.get("thought") is True) if is_text else None
        last, count = state.extra.get("last", "none"), state.extra.get("count", 0)
        if kind is None or kind != last:
            count += 1
        state.extra["last"], state.extra["count"] = kind if is_text else "none", count
        return int(count) - 1

    # --- writing ---------------------------------------------------------------------------------------------------

    def release(self, chunk: Chunk) -> bytes:
        """Return the chunk's bytes for the client, without the candidates that the proxy has ended."""
        event: Event = chunk.data
        if self.is_behind_end(event):
            return b""
        if not event.kind:
            return self._between(chunk.raw, event)
        open_choices = self.open_choices(event)
        self.note_released(event)
        if len(open_choices) == len(event.marks):
            return self._item(chunk.raw)
        kept = [candidate for candidate in candidates_of(event.body) if index_of(candidate, 0) in open_choices]
        return self.pack_all([{**event.body, "candidates": kept}]) if kept else b""

    def _between(self, raw: bytes, event: Event) -> bytes:
        """Return a frame without data: white space, or the end of the array."""
        self._cut = not event.complete
        if self._array and not self.closed and raw.rstrip(_BLANK).endswith(b"]"):
            self.closed = True
            return raw if self._begun or raw.lstrip(_BLANK).startswith(b"[") else b"[]"
        return raw

    def _item(self, raw: bytes) -> bytes:
        """Return an item as it came, with its bracket or comma corrected if earlier items were not released."""
        if not self._array:
            return raw
        begun, self._begun = self._begun, True
        if raw.lstrip(_BLANK).startswith(b"," if begun else b"["):
            return raw
        return (b",\r\n" if begun else b"[") + raw.lstrip(_BLANK + b",[")

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Return the rest of the edited texts or the refusal, and the finish reason."""
        state = self.state_of(choice)
        if state.ended or self.closed:
            return b""
        self.end_choice(choice, outcome)
        told: dict[str, Any] = {}
        if isinstance(outcome, Refuse):
            contents = [text_content(last_text(state, outcome, structured=self.request.structured))]
            finish, told = finish_reason(outcome), reason(self.request, outcome)
        else:
            contents, finish = self._rest(state, outcome), state.finish or "STOP"
        contents = contents or [text_content("")]
        self._count()
        bodies = [{"candidates": [{"content": content, "index": choice}], **self._head} for content in contents]
        bodies[-1]["candidates"][0]["finishReason"] = finish
        bodies[-1].update(told)
        return self.pack_all(bodies)

    def _count(self) -> None:
        """Complete the usage in the head if the upstream has not counted the reply's tokens yet."""
        key = snake("usageMetadata") if snake("usageMetadata") in self._head else "usageMetadata"
        named = self._head.get(key)
        usage = named if isinstance(named, dict) else {}
        if value_of(usage, "candidatesTokenCount") is None:
            prompt, output = estimated_usage(self, self.request)
            known = value_of(usage, "promptTokenCount")
            prompt = known if type(known) is int else prompt
            self._head[key] = with_estimate(usage, (prompt, output), _COUNTS)

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        contents: list[dict[str, Any]] = []
        for old, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            if old.kind == "tool_call" and old.path.endswith(".args"):
                contents += [_call_content(old.text)] if new == old.text else []
            elif (old.path.endswith(".text") or outcome.whole) and (rest := state.remainder(old, new)):
                thought = {"thought": True} if old.kind == "reasoning" else {}
                contents.append({"role": "model", "parts": [{"text": rest, **thought}]})
        return contents

    def close(self) -> bytes:
        """Return the end of the array; a stream of events has no terminator."""
        if self.closed:
            return b""
        self.closed = True
        if not self._array:
            return b""
        return b"]" if self._begun else b"[]"


def _call_content(call_text: str) -> dict[str, Any]:
    """Return a content with a function call, from its text: name, line break, arguments."""
    name, _, arguments = call_text.partition("\n")
    return {"role": "model", "parts": [{"functionCall": {"name": name, "args": parsed_object(arguments)}}]}
