"""Readers that show every delta in the order of its arrival, against what the guard read of deltas in alternation.

The text of a reader is spelled by deltas that belong to several choices, items, blocks, calls or kinds of text.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import httpx
import pytest

from tests.conformance.speech import PROTOCOLS, Event, plain
from tests.differential.comparing import missed
from tests.differential.kit import Sight, Stand, phrase, strings
from tests.differential.readers import readers
from tests.differential.reading import PROMPT, Reader
from tests.differential.replies import VOICES, Json, frames, said, sent, streamed

Delta = tuple[str, str]
"""What a delta belongs to, as the generator names it, and its text."""


# --- a reader of deltas ----------------------------------------------------------------------------------------------

# The keys at which clients find the text of a delta. `content` and `parts` are lists as well.
_KEYS = (
    *("content", "reasoning_content", "refusal", "text", "thinking", "response", "delta", "partial_json"),
    *("arguments", "transcript"),
)


def _deltas(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each text of an event with its key, in the order of the event."""
    if isinstance(value, list):
        for item in value:
            yield from _deltas(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                if key in _KEYS:
                    yield ("thought" if value.get("thought") is True else key), item
            else:
                yield from _deltas(item)


def _in_order(protocol: str) -> Reader:
    """Return a reader of all deltas, whatever they belong to: of every kind by itself, and of kinds together."""

    def run(url: str, sight: Sight) -> None:
        body = plain(PROTOCOLS[protocol].ask(PROMPT, True))
        headers = {"content-type": "application/json"}
        answer = httpx.post(url + PROTOCOLS[protocol].target(stream=True), content=body, headers=headers, timeout=60)
        lines = (line.removeprefix(b"data:").strip() for line in answer.content.split(b"\n"))
        events = [json.loads(line) for line in lines if line.startswith(b"{")]
        events = [event for event in events if "delta" in str(event.get("type", "delta"))]
        pieces = [(_kind(event, key), text) for event in events for key, text in _deltas(event)]
        kinds = sorted({kind for kind, _ in pieces})
        for number in range(1, len(kinds) + 1):
            for chosen in combinations(kinds, number):
                sight.add(" and ".join(chosen), "".join(text for kind, text in pieces if kind in chosen))

    return Reader(f"deltas of {protocol} in order", protocol, True, run)


def _kind(event: Json, key: str) -> str:
    """Return the kind of a text: its key, or the type of its event where all events have the same key."""
    return str(event["type"]) if key == "delta" else key


# --- streams in alternation ------------------------------------------------------------------------------------------

Weave = Callable[[Sequence[Delta]], list[Event]]
"""Makes the events of a stream with these deltas, in this order."""


def _chat(deltas: Sequence[Delta]) -> list[Event]:
    first, template, last = PROTOCOLS["chat"].events(["."])
    return [first, *(Event(_chunk(template.body, *delta)) for delta in deltas), last]


def _chunk(template: Json, place: str, text: str) -> Json:
    name, _, number = place.partition(" ")
    delta: Json = {name: text}
    index = 0
    if name == "list":
        delta = {"content": [{"type": "text", "text": text}]}
    elif name == "call":
        delta = {"tool_calls": [{"index": int(number), "id": f"call_{number}", "function": {"arguments": text}}]}
    elif name == "audio":
        delta = {"audio": {"transcript": text}}
    elif number:
        index = int(number)
    return {**template, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}


def _completions(deltas: Sequence[Delta]) -> list[Event]:
    events = PROTOCOLS["completions"].events([text for _, text in deltas])
    for (place, _), event in zip(deltas, events, strict=False):
        event.body["choices"][0]["index"] = int(place)
    return events


def _responses(deltas: Sequence[Delta]) -> list[Event]:
    """Return deltas of items and parts that are all open; a place is the name of the event and two indices."""
    bodies: list[Json] = [{"type": "response.created", "response": PROTOCOLS["responses"].whole("")}]
    items = dict.fromkeys((place.split()[0], int(place.split()[1])) for place, _ in deltas)
    for name, index in items:
        kind = {"function_call_arguments": "function_call", "reasoning_summary_text": "reasoning"}.get(name, "message")
        item = {"id": f"i_{index}", "type": kind, "status": "in_progress"}
        bodies.append({"type": "response.output_item.added", "output_index": index, "item": item})
    for place, text in deltas:
        name, index, *part = place.split()
        spot: Json = {"item_id": f"i_{index}", "output_index": int(index)}
        if name != "function_call_arguments":
            spot["summary_index" if "summary" in name else "content_index"] = int(part[0])
        bodies.append({"type": f"response.{name}.delta", **spot, "delta": text})
    return [Event({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies)]


_BLOCKS: dict[str, Json] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "partial_json": {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
}
_BLOCK_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


def _messages(deltas: Sequence[Delta]) -> list[Event]:
    """Return deltas of blocks that are all open; between them come citations."""
    first, *_, last, stop = PROTOCOLS["messages"].events(["."])
    places = list(dict.fromkeys(place for place, _ in deltas))
    bodies: list[Json] = [
        {"type": "content_block_start", "index": number, "content_block": _BLOCKS[place.split()[0]]}
        for number, place in enumerate(places)
    ]
    for place, text in deltas:
        name = place.split()[0]
        delta = {"type": _BLOCK_DELTAS[name], name: text}
        bodies.append({"type": "content_block_delta", "index": places.index(place), "delta": delta})
        if name == "text":
            citation = {"type": "char_location", "cited_text": "ok", "document_index": 0}
            delta = {"type": "citations_delta", "citation": citation}
            bodies.append({"type": "content_block_delta", "index": places.index(place), "delta": delta})
    bodies += [{"type": "content_block_stop", "index": number} for number in range(len(places))]
    return [first, *(Event(body, body["type"]) for body in bodies), last, stop]


def _ollama(deltas: Sequence[Delta]) -> list[Event]:
    *_, end = PROTOCOLS["ollama-chat"].events(["."])
    messages = [{"role": "assistant", "content": "", place: text} for place, text in deltas]
    return [*(Event({**end.body, "done": False, "message": message}) for message in messages), end]


def _generate(deltas: Sequence[Delta]) -> list[Event]:
    *_, end = PROTOCOLS["ollama-generate"].events(["."])
    return [*(Event({**end.body, "done": False, "response": "", place: text}) for place, text in deltas), end]


def _gemini(deltas: Sequence[Delta]) -> list[Event]:
    bodies = []
    for place, text in deltas:
        name, number = place.split()
        part = {"text": text, **({"thought": True} if name == "thought" else {})}
        bodies.append({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": int(number)}]})
    return [Event(body) for body in bodies]


STREAMS: dict[str, tuple[str, Weave, tuple[str, ...]]] = {
    "two choices": ("chat", _chat, ("content 0", "content 1")),
    "three choices": ("chat", _chat, ("content 0", "content 2", "content 1")),
    "reasoning of two choices": ("chat", _chat, ("reasoning_content 0", "reasoning_content 1")),
    "texts and reasoning of two choices": ("chat", _chat, ("content 0", "content 1", "reasoning_content 0")),
    "text and reasoning": ("chat", _chat, ("content", "reasoning_content")),
    "text and refusal": ("chat", _chat, ("content", "refusal")),
    "text, reasoning and refusal": ("chat", _chat, ("content", "reasoning_content", "refusal")),
    "text and transcript": ("chat", _chat, ("content", "audio")),
    "text as a string and as a list": ("chat", _chat, ("content", "list")),
    "calls": ("chat", _chat, ("call 0", "call 1")),
    "calls and text": ("chat", _chat, ("call 0", "content", "call 1")),
    "five kinds": ("chat", _chat, ("content", "reasoning_content", "refusal", "audio", "call 0")),
    "six kinds": ("chat", _chat, ("content", "list", "reasoning_content", "refusal", "audio", "call 0")),
    "completions": ("completions", _completions, ("0", "1")),
    "items": ("responses", _responses, ("output_text 0 0", "output_text 1 0")),
    "parts": ("responses", _responses, ("output_text 0 0", "output_text 0 1", "output_text 0 2")),
    "text and refusal of items": ("responses", _responses, ("output_text 0 0", "refusal 1 0")),
    "text and reasoning of items": ("responses", _responses, ("reasoning_summary_text 0 0", "output_text 1 0")),
    "summaries": ("responses", _responses, ("reasoning_summary_text 0 0", "reasoning_summary_text 0 1")),
    "arguments of items": ("responses", _responses, ("function_call_arguments 0", "function_call_arguments 1")),
    "blocks": ("messages", _messages, ("text 0", "text 1")),
    "thinking": ("messages", _messages, ("thinking 0", "text 0")),
    "tools": ("messages", _messages, ("partial_json 0", "partial_json 1")),
    "tools and text": ("messages", _messages, ("partial_json 0", "text 0", "thinking 0")),
    "thinking of Ollama": ("ollama-chat", _ollama, ("content", "thinking")),
    "thinking of a generated text": ("ollama-generate", _generate, ("response", "thinking")),
    "candidates": ("gemini", _gemini, ("text 0", "text 1")),
    "thoughts": ("gemini", _gemini, ("text 0", "thought 0")),
    "thoughts of candidates": ("gemini", _gemini, ("text 0", "thought 1", "text 1")),
}


def _dealt(rng: random.Random, places: Sequence[str]) -> list[Delta]:
    """Return a text in pieces of one to four letters, which are dealt to the places in turn or at random."""
    text, deltas = phrase(rng, 4), []
    in_turn = rng.random() < 0.5
    while text:
        size = rng.randint(1, 4)
        place = places[len(deltas) % len(places)] if in_turn else rng.choice(places)
        deltas.append((place, text[:size]))
        text = text[size:]
    return deltas


@pytest.mark.parametrize("name", STREAMS)
def test_deltas_in_alternation(stand: Stand, name: str) -> None:
    """Every kind of text by itself, and kinds together, in the order in which the deltas come."""
    protocol, weave, places = STREAMS[name]
    rng, found = random.Random(name), []
    for _ in range(3):
        events = weave(_dealt(rng, places))
        answer = streamed(rng, protocol, frames(protocol, events))
        found += missed(stand, answer, [_in_order(protocol), *readers(protocol, stream=True)])
    assert not found, "\n".join(found)


def test_the_reader_of_deltas(stand: Stand) -> None:
    """It shows the text that the deltas spell, so the comparison compares something."""
    rng = random.Random(2)
    for name, (protocol, weave, places) in STREAMS.items():
        deltas = _dealt(rng, places)
        stand.play(streamed(rng, protocol, frames(protocol, weave(deltas))))
        shown = [text for _, text in _in_order(protocol).read(stand.url).shown]
        assert name == "six kinds" or "".join(text for _, text in deltas) in "\n".join(shown), name


LISTS: dict[str, Callable[[int, str], Json]] = {
    "content": lambda index, text: {"type": "text", "index": index, "text": text},
    "reasoning_details": lambda index, text: {"type": "reasoning.text", "index": index, "text": text},
    "annotations": lambda index, text: {"type": "url_citation", "index": index, "url_citation": {"title": text}},
    "tool_calls": lambda index, text: {"index": index, "id": f"c_{index}", "function": {"arguments": text}},
}


@pytest.mark.parametrize("field", LISTS)
def test_items_that_go_on_by_their_index(stand: Stand, field: str) -> None:
    """The helper of OpenAI's client joins the items with the same index, wherever they stand in the list of a delta."""
    rng, item = random.Random(field), LISTS[field]
    first, template, last = PROTOCOLS["chat"].events(["."])
    del first.body["choices"][0]["delta"]["content"]
    deltas = [{field: [item(0, phrase(rng))]}, {field: [item(1, phrase(rng)), item(0, phrase(rng))]}]
    chunks = [Event({**template.body, "choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    answer = streamed(rng, "chat", frames("chat", [first, *chunks, last]))
    found = missed(stand, answer, readers("chat", stream=True))
    assert not found, "\n".join(found)


# --- whole replies ---------------------------------------------------------------------------------------------------


def _all_choices(protocol: str, between: str) -> Reader:
    """Return a reader that joins the texts of all choices of a whole reply."""

    def run(url: str, sight: Sight) -> None:
        body = plain(PROTOCOLS[protocol].ask(PROMPT, False))
        headers = {"content-type": "application/json"}
        answer = httpx.post(url + PROTOCOLS[protocol].target(stream=False), content=body, headers=headers, timeout=60)
        choices = answer.json().get("choices") or answer.json().get("candidates") or []
        sight.add("all choices", between.join(text for text in strings(_texts(choices))))

    return Reader(f"choices joined with {between!r}", protocol, False, run)


def _texts(choices: Sequence[Json]) -> list[str]:
    texts = []
    for choice in choices:
        content = choice.get("message", choice).get("content", choice.get("text"))
        parts = content["parts"] if isinstance(content, dict) else [{"text": content}]
        texts += [part["text"] for part in parts]
    return texts


@pytest.mark.parametrize("between", ["", " ", "\n"])
@pytest.mark.parametrize("protocol", ["chat", "completions", "gemini"])
def test_the_choices_of_a_whole_reply_joined(stand: Stand, protocol: str, between: str) -> None:
    rng = random.Random(protocol + between)
    for number in (2, 3):
        answer = sent(VOICES[protocol].whole([said(rng, "text") for _ in range(number)]))
        found = missed(stand, answer, [_all_choices(protocol, between)])
        assert not found, "\n".join(found)


def test_the_choices_of_a_whole_reply_letter_by_letter(stand: Stand) -> None:
    rng = random.Random(3)
    body = PROTOCOLS["chat"].whole("")
    choice = body["choices"][0]
    body["choices"] = [
        {**choice, "index": index, "message": {**choice["message"], "content": letter}}
        for index, letter in enumerate(phrase(rng))
    ]
    found = missed(stand, sent(body), [_all_choices("chat", "")])
    assert not found, "\n".join(found)
