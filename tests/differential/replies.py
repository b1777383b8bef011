"""Generated replies: what a model says, and how the upstream of each protocol sends it, whole and streamed.

The forms follow the references that `tests.conformance.speech` names.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from tests.conformance.odd import split
from tests.conformance.speech import PROTOCOLS, Event, plain
from tests.differential.kit import cut, phrase, word
from tests.kit import Scripted

Json = dict[str, Any]
Kind = Literal["text", "reasoning", "refusal", "call"]


@dataclass(frozen=True)
class Said:
    """A part of a choice: a text of some kind. `name` is the tool that a call names; `text` is then the argument."""

    kind: Kind
    text: str
    name: str = ""

    @property
    def arguments(self) -> Json:
        """The arguments of a call."""
        return {"port": self.text}


Choices = Sequence[Sequence[Said]]


def said(rng: random.Random, *kinds: Kind) -> list[Said]:
    """Return parts of these kinds with texts of their own."""
    return [Said(kind, phrase(rng), word(rng) if kind == "call" else "") for kind in kinds]


# --- OpenAI chat and completions -------------------------------------------------------------------------------------


def _texts(choice: Sequence[Said], kind: Kind) -> list[str]:
    return [part.text for part in choice if part.kind == kind]


def _calls(choice: Sequence[Said]) -> list[Json]:
    calls = [part for part in choice if part.kind == "call"]
    return [
        {
            "index": place,
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for place, call in enumerate(calls)
    ]


def _content(texts: Sequence[str]) -> Any:
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _chat(choices: Choices) -> Json:
    body = PROTOCOLS["chat"].whole("")
    body["choices"] = []
    for index, choice in enumerate(choices):
        message: Json = {"role": "assistant", "content": _content(_texts(choice, "text") or [""])}
        if texts := _texts(choice, "reasoning"):
            message["reasoning_content"] = "".join(texts)
        if texts := _texts(choice, "refusal"):
            message["refusal"] = "".join(texts)
        if calls := _calls(choice):
            message["tool_calls"] = calls
        body["choices"].append({"index": index, "message": message, "logprobs": None, "finish_reason": "stop"})
    return body


def _chat_deltas(rng: random.Random, choice: Sequence[Said]) -> list[Json]:
    """Return the deltas of a choice. Some have their text as a list of parts, as Mistral's servers send it."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    calls = iter(_calls(choice))
    several = len(_texts(choice, "text")) > 1
    for part in choice:
        if part.kind == "call":
            call = next(calls)
            head, *rest = cut(rng, call["function"]["arguments"], 3)
            deltas.append({"tool_calls": [{**call, "function": {**call["function"], "arguments": head}}]})
            deltas += [{"tool_calls": [{"index": call["index"], "function": {"arguments": text}}]} for text in rest]
            continue
        field = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}[part.kind]
        pieces = cut(rng, part.text, 4)
        if several and part.kind == "text":
            deltas.append({"content": [{"type": "text", "text": piece} for piece in pieces]})
        else:
            deltas += [{field: piece} for piece in pieces]
    return deltas


def _chat_events(rng: random.Random, choices: Choices) -> list[Event]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    waiting = [[*_chat_deltas(rng, choice), {}] for choice in choices]
    events = []
    while open_choices := [index for index, deltas in enumerate(waiting) if deltas]:
        index = rng.choice(open_choices)
        delta = waiting[index].pop(0)
        choice = {"index": index, "delta": delta, "finish_reason": None if delta else "stop"}
        events.append(Event({**head, "choices": [choice]}))
    return events


def _completions(choices: Choices) -> Json:
    body = PROTOCOLS["completions"].whole("")
    entry = body["choices"][0]
    body["choices"] = [
        {**entry, "index": index, "text": "".join(_texts(choice, "text"))} for index, choice in enumerate(choices)
    ]
    return body


def _completions_events(rng: random.Random, choices: Choices) -> list[Event]:
    events = []
    for index, choice in enumerate(choices):
        for event in PROTOCOLS["completions"].events(cut(rng, "".join(_texts(choice, "text")) or " ", 4)):
            event.body["choices"][0]["index"] = index
            events.append(event)
    return events


# --- OpenAI responses ------------------------------------------------------------------------------------------------


def _part(part: Said) -> Json:
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": []}


def _items(choice: Sequence[Said]) -> list[Json]:
    """Return the output items. Texts and refusals in a row are parts of a message, and a fourth part opens another."""
    items: list[Json] = []
    for kind, group in groupby(choice, key=lambda part: "text" if part.kind == "refusal" else part.kind):
        parts = list(group)
        place = len(items)
        if kind == "text":
            for start in range(0, len(parts), 3):
                content = [_part(part) for part in parts[start : start + 3]]
                item = {"type": "message", "role": "assistant", "status": "completed", "content": content}
                items.append({"id": f"msg_{place}_{start}", **item})
        for number, part in enumerate(parts if kind != "text" else ()):
            name = f"{kind}_{place}_{number}"
            if kind == "reasoning":
                items.append({"id": name, "type": kind, "summary": [{"type": "summary_text", "text": part.text}]})
            else:
                arguments = json.dumps(part.arguments, ensure_ascii=False)
                call = {"call_id": name, "name": part.name, "arguments": arguments, "status": "completed"}
                items.append({"id": name, "type": "function_call", **call})
    return items


def _response(choices: Choices) -> Json:
    return {**PROTOCOLS["responses"].whole(""), "output": _items(choices[0])}


# The events of a text: the list of parts that holds it, and the names of its events.
_RESPONSE_TEXTS = {
    "output_text": ("content", "content_part", "output_text", "text"),
    "refusal": ("content", "content_part", "refusal", "refusal"),
    "summary_text": ("summary", "reasoning_summary_part", "reasoning_summary_text", "text"),
}


def _item_events(rng: random.Random, place: int, item: Json) -> list[Json]:
    where = {"output_index": place}
    empty = {**item, **{key: [] for key in ("content", "summary") if key in item}}
    if "arguments" in item:
        empty["arguments"] = ""
    bodies: list[Json] = [{"type": "response.output_item.added", **where, "item": empty}]
    where = {"item_id": item["id"], **where}
    if "arguments" in item:
        name = "response.function_call_arguments"
        bodies += [{"type": f"{name}.delta", **where, "delta": text} for text in cut(rng, item["arguments"], 3)]
        bodies.append({"type": f"{name}.done", **where, "name": item["name"], "arguments": item["arguments"]})
    for number, part in enumerate(item.get("content") or item.get("summary") or ()):
        field, frame, event, key = _RESPONSE_TEXTS[part["type"]]
        spot = {**where, f"{field}_index": number}
        bodies.append({"type": f"response.{frame}.added", **spot, "part": {**part, key: ""}})
        more = {"logprobs": []} if event == "output_text" else {}
        bodies += [
            {"type": f"response.{event}.delta", **spot, "delta": text, **more} for text in cut(rng, part[key], 4)
        ]
        bodies.append({"type": f"response.{event}.done", **spot, key: part[key], **more})
        bodies.append({"type": f"response.{frame}.done", **spot, "part": part})
    return [*bodies, {"type": "response.output_item.done", "output_index": place, "item": item}]


def _response_events(rng: random.Random, choices: Choices) -> list[Event]:
    whole = _response(choices)
    bodies: list[Json] = [{"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}}]
    for place, item in enumerate(whole["output"]):
        bodies += _item_events(rng, place, item)
    bodies.append({"type": "response.completed", "response": whole})
    return [Event({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies)]


# --- Anthropic messages ----------------------------------------------------------------------------------------------


def _blocks(choice: Sequence[Said]) -> list[Json]:
    blocks: list[Json] = []
    for place, part in enumerate(choice):
        if part.kind == "reasoning":
            blocks.append({"type": "thinking", "thinking": part.text, "signature": "EqQB"})
        elif part.kind == "call":
            blocks.append({"type": "tool_use", "id": f"toolu_{place}", "name": part.name, "input": part.arguments})
        else:
            blocks.append({"type": "text", "text": part.text})
    return blocks


def _message(choices: Choices) -> Json:
    return {**PROTOCOLS["messages"].whole(""), "content": _blocks(choices[0])}


def _block_events(rng: random.Random, place: int, block: Json) -> list[Json]:
    empty = {**block, **({"input": {}} if block["type"] == "tool_use" else {block["type"]: ""})}
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": text} for text in cut(rng, block["thinking"], 4)]
    elif block["type"] == "text":
        deltas = [{"type": "text_delta", "text": text} for text in cut(rng, block["text"], 4)]
    else:
        arguments = json.dumps(block["input"], ensure_ascii=False)
        deltas = [{"type": "input_json_delta", "partial_json": text} for text in cut(rng, arguments, 3)]
    return [
        {"type": "content_block_start", "index": place, "content_block": empty},
        *({"type": "content_block_delta", "index": place, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": place},
    ]


def _message_events(rng: random.Random, choices: Choices) -> list[Event]:
    first, *_, last, stop = PROTOCOLS["messages"].events(["."])
    blocks = [_block_events(rng, place, block) for place, block in enumerate(_blocks(choices[0]))]
    middle = [Event(body, body["type"]) for events in blocks for body in events]
    return [first, *middle, last, stop]


# --- Ollama ----------------------------------------------------------------------------------------------------------


def _ollama_message(choice: Sequence[Said]) -> Json:
    calls = [{"function": {"name": p.name, "arguments": p.arguments}} for p in choice if p.kind == "call"]
    message: Json = {"role": "assistant", "content": "".join(_texts(choice, "text"))}
    if texts := _texts(choice, "reasoning"):
        message["thinking"] = "".join(texts)
    return {**message, "tool_calls": calls} if calls else message


def _ollama_chat(choices: Choices) -> Json:
    return {**PROTOCOLS["ollama-chat"].whole(""), "message": _ollama_message(choices[0])}


def _ollama_chat_events(rng: random.Random, choices: Choices) -> list[Event]:
    *_, end = PROTOCOLS["ollama-chat"].events(["."])
    messages = []
    for part in choices[0]:
        pieces = cut(rng, part.text, 4) if part.kind != "call" else [part.text]
        messages += [_ollama_message([Said(part.kind, piece, part.name)]) for piece in pieces]
    head = {key: end.body[key] for key in ("model", "created_at")}
    return [*(Event({**head, "message": message, "done": False}) for message in messages), end]


def _ollama_generate(choices: Choices) -> Json:
    thinking = {"thinking": "".join(_texts(choices[0], "reasoning"))}
    return {**PROTOCOLS["ollama-generate"].whole("".join(_texts(choices[0], "text"))), **thinking}


def _ollama_generate_events(rng: random.Random, choices: Choices) -> list[Event]:
    *_, end = PROTOCOLS["ollama-generate"].events(["."])
    head = {"model": "m", "created_at": end.body["created_at"], "done": False}
    events = []
    for part in choices[0]:
        field = {"text": "response", "reasoning": "thinking"}.get(part.kind)
        events += [Event({**head, "response": "", field: piece}) for piece in cut(rng, part.text, 4) if field]
    return [*events, end]


# --- Gemini ----------------------------------------------------------------------------------------------------------


def _gemini_part(part: Said) -> Json:
    if part.kind == "call":
        return {"functionCall": {"name": part.name, "args": part.arguments}}
    return {"text": part.text, **({"thought": True} if part.kind == "reasoning" else {})}


def _gemini(choices: Choices) -> Json:
    body = PROTOCOLS["gemini"].whole("")
    body["candidates"] = [
        {
            "content": {"parts": [_gemini_part(p) for p in choice], "role": "model"},
            "index": index,
            "finishReason": "STOP",
        }
        for index, choice in enumerate(choices)
    ]
    return body


def _gemini_events(rng: random.Random, choices: Choices) -> list[Event]:
    """Return chunks with one or two parts each; a text that is cut goes on in the next part or chunk."""
    bodies = []
    for index, choice in enumerate(choices):
        parts = [
            _gemini_part(Said(part.kind, piece, part.name))
            for part in choice
            for piece in (cut(rng, part.text, 4) if part.kind != "call" else [part.text])
        ]
        while parts:
            size = rng.randint(1, 2)
            content, parts = {"parts": parts[:size], "role": "model"}, parts[size:]
            bodies.append({"candidates": [{"content": content, "index": index}], "modelVersion": "m"})
        bodies[-1]["candidates"][0]["finishReason"] = "STOP"
    return [Event(body) for body in bodies]


def _array_events(rng: random.Random, choices: Choices) -> list[Event]:
    events = _gemini_events(rng, choices)
    return [Event(event.body, ",\r\n" if number else "[") for number, event in enumerate(events)]


# --- every protocol --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """How a protocol sends choices: whole, and as the events of a stream. `kinds` are the parts that it has."""

    kinds: tuple[Kind, ...]
    whole: Callable[[Choices], Json]
    events: Callable[[random.Random, Choices], list[Event]]
    several: bool = False
    """Whether a reply may have several choices."""
    parts: bool = False
    """Whether a choice may have several parts of a kind."""


_SPOKEN: tuple[Kind, ...] = ("text", "reasoning", "call")
VOICES = {
    "chat": Voice(("text", "reasoning", "refusal", "call"), _chat, _chat_events, several=True, parts=True),
    "completions": Voice(("text",), _completions, _completions_events, several=True),
    "responses": Voice(("text", "reasoning", "refusal", "call"), _response, _response_events, parts=True),
    "messages": Voice(_SPOKEN, _message, _message_events, parts=True),
    "ollama-chat": Voice(_SPOKEN, _ollama_chat, _ollama_chat_events),
    "ollama-generate": Voice(("text", "reasoning"), _ollama_generate, _ollama_generate_events),
    "gemini": Voice(_SPOKEN, _gemini, _gemini_events, several=True, parts=True),
    "gemini-array": Voice(_SPOKEN, _gemini, _array_events, several=True, parts=True),
}


def sent(body: Any, content_type: str = "application/json", **headers: str) -> Scripted:
    """Return a whole reply with this body."""
    return Scripted(
        [body if isinstance(body, bytes) else plain(body)], headers={"content-type": content_type, **headers}
    )


def frames(protocol: str, events: Sequence[Event]) -> list[bytes]:
    """Return the frames of these events, with the end of the stream."""
    form = PROTOCOLS[protocol]
    return [*(form.frame(event, plain) for event in events), *([form.end] if form.end else [])]


def streamed(rng: random.Random, protocol: str, pieces: Sequence[bytes]) -> Scripted:
    """Return a stream of these frames, cut at any places."""
    return Scripted(split(rng, b"".join(pieces)), headers={"content-type": PROTOCOLS[protocol].content_type})


def reply(rng: random.Random, protocol: str, choices: Choices, *, stream: bool) -> Scripted:
    """Return a reply with these choices."""
    voice = VOICES[protocol]
    if not stream:
        return sent(voice.whole(choices))
    return streamed(rng, protocol, frames(protocol, voice.events(rng, choices)))
