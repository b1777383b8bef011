"""Writes the stream of a response: the events for the client, and the end of a response that was cut or rewritten."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.ports import Request
from guardproxy.types import Refuse, Replace
from guardproxy.wires.openai_responses.reading import OutputItem, ResponseReader, part_key
from guardproxy.wires.shared.identifiers import is_identifier, is_name
from guardproxy.wires.shared.refusals import estimated_usage, last_text, reason, with_estimate
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import without

_TEXT = re.compile(r"output\[(\d+)\]\.content\[(\d+)\]\.(text|refusal)$")
_KINDS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "summary_text": "text"}
_EVENTS = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "summary_text": "response.reasoning_summary_text",
}


_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
NO_USAGE = {
    **dict.fromkeys(_COUNTS, 0),
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def text_part(text: str) -> dict[str, Any]:
    """Return a part of a message with plain text."""
    return {"type": "output_text", "text": text, "annotations": []}


def message_id(response_id: str) -> str:
    """Return the id of a message that the proxy writes. It may come back as history, where ids are at most 64 long.

    It repeats no id that is a text: the text may be the harm that the message takes the place of.
    """
    own = response_id.removeprefix("resp_") if is_identifier(response_id) else "guardproxy"
    return f"msg_{own.removeprefix('guardproxy_')[:24] if own.startswith('guardproxy_') else own}"


def refusal_part(text: str, *, structured: bool) -> dict[str, Any]:
    """Return a part with a refusal; parsers of structured output recognise it by its type only."""
    return {"type": "refusal", "refusal": text} if structured else text_part(text)


def ended(head: Mapping[str, Any], output: list[dict[str, Any]], refusal: Refuse | None) -> dict[str, Any]:
    """Return the response with this output; of a refusal, with the reason of content that was filtered.

    Its status and its last event say `completed` all the same: clients fail on any other. (decision 0023)
    """
    filtered = refusal is not None and refusal.finish == "content_filter"
    details = {"reason": "content_filter"} if filtered else None
    return {**head, "status": "completed", "error": None, "incomplete_details": details, "output": output}


class ResponseStream(ResponseReader):
    """Reads and writes a streamed response."""

    def __init__(self, request: Request, head: Mapping[str, Any]) -> None:
        super().__init__(request, head)
        self._created = False
        self._sequence = -1  # the last sequence number that the client has seen
        self._numbers = 0  # items that the client has seen
        self._own: dict[str, str] = {}  # texts that the proxy has added, by path

    def release(self, chunk: Chunk) -> bytes:
        """Return the event's bytes for the client; nothing after an end by the proxy."""
        event: Event = chunk.data
        state = self.state_of(0)
        if self.is_behind_end(event) or (state.ended and event.kind):
            return b""
        self._note(event)
        self.note_released(event)
        self.closed = self.closed or event.kind == "[DONE]"
        return chunk.raw

    def _note(self, event: Event) -> None:
        """Update the items to what the client has seen."""
        body, kind = event.body, event.kind
        if type(body.get("sequence_number")) is int:
            self._sequence = body["sequence_number"]
        self._created = self._created or kind == "response.created"
        if body.get("output_index") not in self.items:
            return
        item = self.items[body["output_index"]]
        for _ in range(event.frames):
            item.waiting.popleft()
        if kind == "response.output_item.added":
            item.number = body["output_index"]
            self._numbers = max(self._numbers, item.number + 1)
        elif kind == "response.output_item.done":
            item.done = body["item"]
        elif kind.endswith("part.added"):
            item.parts[part_key(body)] = body["part"]
        elif kind.endswith("part.done"):
            item.closed_parts.add(part_key(body))

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Return the rest of the edited texts or the refusal, the ends of open items, and the end of the response."""
        state = self.state_of(0)
        if choice != 0 or state.ended or self.closed:
            return b""
        state.ended = True
        bodies = [*self._begin()]
        if isinstance(outcome, Refuse):
            bodies += self._refused(state, outcome)
            kind = "response.completed"
            response = {**ended(self.head, self._output(), outcome), **reason(self.request, outcome)}
            if response.get("usage") is None:
                response["usage"] = with_estimate(NO_USAGE, estimated_usage(self, self.request), _COUNTS)
        else:
            bodies += self._rest(state, outcome)
            kind, response = self._normal_end()
        bodies.append({"type": kind, "response": response})
        return self.pack_all([self._numbered(body) for body in bodies])

    def close(self) -> bytes:
        """Return nothing: the last event of the response ends the stream."""
        self.closed = True
        return b""

    def _numbered(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._sequence += 1
        return {**body, "sequence_number": self._sequence}

    def _begin(self) -> Iterator[dict[str, Any]]:
        if not self._created:
            self._created = True
            response = {**self.head, "status": "in_progress", "output": [], "usage": None}
            yield {"type": "response.created", "response": response}
            yield {"type": "response.in_progress", "response": response}

    def _normal_end(self) -> tuple[str, dict[str, Any]]:
        """Return the upstream's own last event with the output that the client has seen."""
        if self.last is None or self.last["type"] == "response.failed":
            return "response.completed", ended(self.head, self._output(), None)
        parts = self.state_of(0).builder.message("assistant").parts
        outer = [part for part in parts if not part.path.startswith("output[")]
        return self.last["type"], {**without(self.last["response"], outer), "output": self._output()}

    def _output(self) -> list[dict[str, Any]]:
        seen = [item for item in self.items.values() if item.number >= 0 and item.done is not None]
        return [item.done for item in sorted(seen, key=lambda item: item.number) if item.done is not None]

    # --- refusing --------------------------------------------------------------------------------------------------

    def _refused(self, state: ChoiceState, outcome: Refuse) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        structured = self.request.has_form if state.nothing_released else self.request.structured
        text = last_text(state, outcome, structured=structured)
        if text and not structured and (place := self._open_text()) is not None:
            index, key = place
            out.append(self._delta(self.items[index], key, text))
            self._own[f"output[{index}].content[{key[1]}].text"] = text
            text = ""
        out += self._closings(state)
        return [*out, *(self._message([refusal_part(text, structured=structured)]) if text else ())]

    def _open_text(self) -> tuple[int, tuple[str, int]] | None:
        """Return the item and the part with the last text that is open at the client, if there is one."""
        for index, item in reversed(self.items.items()):
            if item.number < 0 or item.done is not None:
                continue
            for key, part in reversed(item.parts.items()):
                if part.get("type") == "output_text" and key not in item.closed_parts:
                    return index, key
        return None

    def _closings(self, state: ChoiceState) -> list[dict[str, Any]]:
        """Close every item that is open at the client, with the texts that the client has seen."""
        out: list[dict[str, Any]] = []
        for index, item in self.items.items():
            if item.number >= 0 and item.done is None:
                out += self._close_item(state, index, item)
        return out

    def _close_item(self, state: ChoiceState, index: int, item: OutputItem) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        lists: dict[str, list[dict[str, Any]]] = {}
        for key, part in item.parts.items():
            field = _KINDS.get(str(part.get("type")), "text")
            path = f"output[{index}].{key[0]}[{key[1]}].{field}"
            text = state.released_text(path) + self._own.get(path, "")
            whole = {**part, field: text}
            lists.setdefault(key[0], []).append(whole)
            if key not in item.closed_parts:
                out += self._close_part(item, key, whole, text)
        is_message = item.body.get("type") == "message"
        item.done = {**item.body, **lists, "status": "completed" if is_message else "incomplete"}
        for field in ("arguments", "input", "code"):
            if (path := f"output[{index}].{field}") in state.released:
                item.done[field] = state.released_text(path).partition("\n")[2]
        out.append({"type": "response.output_item.done", "output_index": item.number, "item": item.done})
        return out

    def _close_part(
        self, item: OutputItem, key: tuple[str, int], part: dict[str, Any], text: str
    ) -> list[dict[str, Any]]:
        kind = str(part.get("type"))
        where = self._where(item, key)
        done = "response.reasoning_summary_part.done" if key[0] == "summary" else "response.content_part.done"
        out: list[dict[str, Any]] = []
        if kind in _EVENTS:
            logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            out.append({"type": f"{_EVENTS[kind]}.done", **where, _KINDS[kind]: text, **logprobs})
        return [*out, {"type": done, **where, "part": part}]

    def _where(self, item: OutputItem, key: tuple[str, int]) -> dict[str, Any]:
        return {"item_id": item.body.get("id", ""), "output_index": item.number, f"{key[0]}_index": key[1]}

    def _opened(self, item: OutputItem, key: tuple[str, int], refusal: bool) -> list[dict[str, Any]]:
        """Return the event that opens a part, unless the client has seen the part."""
        if key in item.parts:
            return []
        item.parts[key] = refusal_part("", structured=refusal)
        return [{"type": "response.content_part.added", **self._where(item, key), "part": item.parts[key]}]

    def _delta(self, item: OutputItem, key: tuple[str, int], text: str) -> dict[str, Any]:
        kind = str(item.parts[key].get("type"))
        kind = kind if kind in _EVENTS else "output_text"
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return {"type": f"{_EVENTS[kind]}.delta", **self._where(item, key), "delta": text, **logprobs}

    def _message(self, parts: list[dict[str, Any]], identity: str = "") -> list[dict[str, Any]]:
        """Return the events of a whole new message of the output."""
        place = max(self.items, default=-1) + 1
        name = identity or f"{message_id(str(self.head['id']))}_{place}"
        head = {"id": name, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        item = self.items[place] = OutputItem(head, number=self._numbers)
        self._numbers += 1
        out: list[dict[str, Any]] = [{"type": "response.output_item.added", "output_index": item.number, "item": head}]
        for index, part in enumerate(parts):
            key, field = ("content", index), _KINDS[part["type"]]
            item.parts[key] = {**part, field: ""}
            where = self._where(item, key)
            out.append({"type": "response.content_part.added", **where, "part": item.parts[key]})
            out.append(self._delta(item, key, part[field]))
            out += self._close_part(item, key, part, part[field])
        item.done = {**head, "status": "completed", "content": parts}
        return [*out, {"type": "response.output_item.done", "output_index": item.number, "item": item.done}]

    # --- rewriting -------------------------------------------------------------------------------------------------

    def _rest(self, state: ChoiceState, outcome: Replace) -> list[dict[str, Any]]:
        texts = {edit.path: edit.text for edit in outcome.edits if edit.text != state.builder.text(edit.path)}
        out: list[dict[str, Any]] = []
        late: list[dict[str, Any]] = []  # texts whose item or part has been closed at the client
        for index, item in list(self.items.items()):
            changed = {path: text for path, text in texts.items() if path.startswith(f"output[{index}].")}
            if not changed and not outcome.whole:
                out += self._replayed(item)
            elif item.done is None:
                edited, closed = self._edited(state, index, item, changed, whole=outcome.whole)
                out, late = [*out, *edited], [*late, *closed]
            else:
                late += self._late(state, changed)
        if outcome.whole:
            late += [text_part(text) for path, text in texts.items() if not path.startswith("output[")]
        return [*out, *(self._message(late) if late else ())]

    def _late(self, state: ChoiceState, texts: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the rests of edited texts whose places have been closed at the client, as parts of a new message."""
        parts = state.builder.message("assistant").parts
        rests = [state.remainder(part, texts[part.path]) for part in parts if part.path in texts]
        return [text_part(rest) for rest in rests if rest]

    def _edited(
        self, state: ChoiceState, index: int, item: OutputItem, changed: Mapping[str, str], *, whole: bool
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rests of an item's edited texts and its end, and the rests whose part is closed at the client.

        Its other parts are removed.
        """
        parts = [part for part in state.builder.message("assistant").parts if _TEXT.match(part.path)]
        mine = [part for part in parts if part.path.startswith(f"output[{index}].")]
        texts = [(part, changed.get(part.path, part.text)) for part in mine if part.path in changed or not whole]
        if item.number < 0:
            new = [refusal_part(text, structured=part.kind == "refusal") for part, text in texts if text]
            name = str(item.body.get("id", ""))
            return (self._message(new, name if is_name(name) else "") if new else []), []
        out: list[dict[str, Any]] = []
        late: dict[str, str] = {}
        for part, text in texts:
            place = _TEXT.match(part.path)
            key = ("content", int(place[2]) if place else 0)
            rest = state.remainder(part, text)
            if key in item.closed_parts:
                late[part.path] = text
            elif rest:
                out += self._opened(item, key, part.kind == "refusal")
                out.append(self._delta(item, key, rest))
                self._own[part.path] = rest
        return [*out, *self._close_item(state, index, item)], self._late(state, late)

    def _replayed(self, item: OutputItem) -> list[dict[str, Any]]:
        """Return the item's unreleased events, under its number at the client."""
        if item.number < 0 and item.waiting:
            item.number, self._numbers = self._numbers, self._numbers + 1
        for body in item.waiting:
            if body["type"] == "response.output_item.done":
                item.done = body["item"]
        return [{**body, "output_index": item.number} for body in item.waiting]
