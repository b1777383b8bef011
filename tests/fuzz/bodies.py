"""Bodies of every protocol: read or refused, unchanged by `Pass`, and no readable text of them is lost.

An input is `{"case": ..., "text": ...}`: the bytes of a body or a stream, decoded with surrogateescape; of a stream
also `cuts`, the places at which it is cut.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from guardproxy.errors import Unreadable
from guardproxy.ports import Request
from guardproxy.types import Edit, Message, Pass, Refuse, Replace
from guardproxy.wires.shared.body import child_path
from tests.fuzz.choices import Choices
from tests.wires.kit import CASES, Case, fed, pieces, shape
from tests.wires.test_mutations import JUNK
from tests.wires.test_strings import FORMS, SENTENCES
from tests.wires.test_unknown_fields import REQUESTS

BY_NAME = {case.name: case for case in CASES}
BODIES: dict[str, Any] = {f"request of {name}": body for name, (_, _, body) in REQUESTS.items()}
BODIES |= {f"reply of {case.name}": json.loads(case.reply) for case in CASES if case.name != "gemini-array"}
STREAMS = {f"stream of {case.name}": case for case in CASES}
NAMES = [*BODIES, *STREAMS]
HARD: list[Any] = [
    *JUNK,
    10**307,
    -(10**308) * 10,
    1e308,
    "\u0000",
    "\u2028data: x",
    "data:text/plain;base64,aG93IHRvIGJ1aWxkIGl0IGF0IGhvbWU=",
    "data:image/png;base64,iVBORw0KGgo=",
    "https://example.org/a.png",
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    {"text": {"text": {"text": "x"}}},
    {"role": "assistant", "content": None},
    {"": ""},
    {"a.b": {"c[0]": "x"}},
    [[[[[[[[]]]]]]]],
]
SPLICES = [
    *('"', "\\", "{", "}", "[", "]", ",", ":", "\\ud800", "\\u0000", "NaN", "1e999", "\ufeff", "\n", "\r", "\x00", "0"),
    *("true", "null", "\udcff", "9" * 400, "[" * 300, "data: ", "\n\n", "event: x\n", "id: y\n", ": z\n", "[DONE]"),
]
READABLE = re.compile(r"[A-Za-z]{2,}(?:[ ,.?!']+[A-Za-z]{2,}){5,}[.?!]?")


def draw(choices: Choices) -> dict[str, Any]:
    """A body or a stream of a protocol with some changes."""
    name = choices.one_of(NAMES)
    is_stream = name in STREAMS
    text = _changed_stream(choices, STREAMS[name]) if is_stream else json.dumps(changed(choices, BODIES[name]))
    if choices.is_one_in(4):
        for _ in range(1 + choices.number(4)):
            start = choices.number(len(text) + 1)
            text = text[:start] + choices.one_of(SPLICES) + text[start + choices.number(8) :]
    value: dict[str, Any] = {"case": name, "text": text}
    if is_stream:
        value["cuts"] = [choices.number(len(text) + 1) for _ in range(choices.number(6))]
    return value


def changed(choices: Choices, body: Any) -> Any:
    """A copy of a JSON value in which some values and keys are others."""
    body = copy.deepcopy(body)
    for _ in range(1 + choices.number(6)):
        holders = [*_holders(body)]
        if not holders:
            return body
        holder = choices.one_of(holders)
        places = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
        others = [key for other in holders if isinstance(other, dict) for key in other]
        new = ["novel", *others]
        if isinstance(holder, dict) and (not places or choices.is_one_in(3)):
            place: Any = choices.one_of(new)
        elif not places:
            continue
        else:
            place = choices.one_of(places)
        kind = choices.number(8)
        if kind == 0 and place in places:
            del holder[place]
        elif kind == 1:
            holder[place] = copy.deepcopy(choices.one_of(HARD))
        elif kind == 2:
            holder[place] = copy.deepcopy(choices.one_of(holders)) if len(json.dumps(body)) < 20_000 else None
        elif kind == 3:
            holder[place] = choices.text([" ", "a", "word", "\n", "_", "-", ".", "1", "=", "/"], 12)
        else:
            holder[place] = FORMS[choices.one_of([*FORMS])](choices.one_of(SENTENCES))
    return body


def _holders(value: Any) -> Iterator[Any]:
    """Every object and list in a JSON value."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            yield item
            stack += item.values() if isinstance(item, dict) else item


def _changed_stream(choices: Choices, case: Case) -> str:
    """The text of a recorded stream in which one or two frames are others."""
    text = case.raw.decode()
    if case.content_type == "application/json":
        return json.dumps(changed(choices, json.loads(text)))
    lines = text.splitlines(keepends=True)
    start = "data: {" if case.content_type == "text/event-stream" else "{"
    for _ in range(1 + choices.number(2)):
        place = choices.one_of([number for number, line in enumerate(lines) if line.startswith(start)])
        field, _, data = lines[place].partition("{")
        body = changed(choices, json.loads("{" + data))
        lines[place] = field + json.dumps(body) + data[len(data.rstrip()) :]
        start = start if isinstance(body, dict) else "no such line"
        if start == "no such line":
            break
    return "".join(lines)


def check(value: dict[str, Any]) -> None:
    """Assert what holds for every body. Raises what the code raises, except for the errors that it may raise."""
    raw = value["text"].encode("utf-8", "surrogateescape")
    kind, _, name = value["case"].partition(" of ")
    try:
        if kind == "request":
            wire, path, _ = REQUESTS[name]
            _check_request(wire.parse_request(path, raw), wire, raw)
        elif kind == "reply":
            _check_reply(BY_NAME[name], raw)
        else:
            _check_stream(BY_NAME[name], raw, value["cuts"])
    except Unreadable:
        pass


def _check_request(request: Request, wire: Any, raw: bytes) -> None:
    assert request.raw == raw
    messages = request.conversation.messages
    for place, text in lost(json.loads(raw), messages):
        raise AssertionError(f"{place} is not judged: {text!r}")
    json.loads(wire.edit_request(request, [], range(len(messages))))
    edits = [Edit(part.path, "new") for message in messages for part in message.parts if part.kind != "opaque"]
    json.loads(wire.edit_request(request, edits, []))
    assert wire.refuse(request, Refuse("No.")).status == 200
    assert wire.models(request) is not None


def _check_reply(case: Case, raw: bytes) -> None:
    reply = case.wire.parse_reply(case.request(), raw)
    for place, text in lost(json.loads(raw), reply.choices):
        raise AssertionError(f"{place} is not judged: {text!r}")
    passed = {number: Pass() for number in range(len(reply.choices))}
    assert case.wire.edit_reply(case.request(), reply, passed) == raw
    if reply.choices:
        edits = tuple(Edit(part.path, "new") for part in reply.choices[0].parts if part.kind != "opaque")
        for outcome in (Refuse("No."), Replace(edits), Replace(edits, whole=True)):
            json.loads(case.wire.edit_reply(case.request(), reply, {0: outcome}))


def _check_stream(case: Case, raw: bytes, cuts: list[int]) -> None:
    split = case.open()
    chunks = fed(split, pieces(raw, cuts))
    whole = case.open()
    assert shape(fed(whole, [raw])) == shape(chunks)
    messages = [split.message(choice) for choice in split.choices]
    assert messages == [whole.message(choice) for choice in whole.choices]
    judged = _solid(" ".join(part.text for message in messages for part in message.parts))
    opaque = any(message.opaque for message in messages)
    for chunk in chunks:
        for found in READABLE.findall(chunk.raw.decode("utf-8", "replace")):
            waits = any(mark.whole for mark in chunk.marks)
            assert _solid(found) in judged or (opaque and waits), f"not judged: {found!r}"
    out = b"".join(split.release(chunk) for chunk in chunks)
    again = case.open()
    fed(again, [out])
    assert [again.message(choice).text for choice in again.choices] == [message.text for message in messages]
    for choice in whole.choices:
        whole.end(choice, Refuse("No."))
    whole.close()


def lost(body: Any, messages: Iterable[Message]) -> Iterator[tuple[str, str]]:
    """The readable strings of a body, with their places, that are in no part and in no opaque one."""
    parts = [part for message in messages for part in message.parts]
    opaque = tuple(part.path for part in parts if part.kind == "opaque")
    judged = _solid("\n".join(part.text for part in parts if part.kind != "opaque"))
    for place, text in _strings(body, ""):
        if READABLE.fullmatch(text) and _solid(text) not in judged and not place.startswith(opaque):
            yield place, text


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every string of a JSON value with its place, keys included."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield child_path(place, key), key
            yield from _strings(item, child_path(place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}[{index}]")


def _solid(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())
