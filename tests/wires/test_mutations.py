"""Broken bodies and streams are read, or refused with the typed error; they never cause another exception."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guardproxy.errors import Unreadable
from guardproxy.types import Edit, Refuse, Replace
from tests.wires.kit import CASES, Case, fed
from tests.wires.test_requests import CHAT

ROUNDS = 60
JUNK: list[Any] = [
    None, True, -1, 1.5, "", "word", "two words", [], {}, [None], [1], ["a"], {"a": "b"}, [{}], {"type": "text"},
    {"type": 7}, [[]], "data:text/plain,hi",
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from _places(value[key], (*path, key))


def _mutated(value: Any, luck: random.Random) -> Any:
    """Return a copy of `value` with an element removed, or replaced by a value of another kind."""
    value = copy.deepcopy(value)
    *way, last = luck.choice(list(_places(value)))
    holder = value
    for step in way:
        holder = holder[step]
    if luck.random() < 0.2:
        del holder[last]
    else:
        holder[last] = copy.deepcopy(luck.choice(JUNK))
    return value


def _unless_unreadable(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except Unreadable:
        return None


@each_case
def test_requests(case: Case) -> None:
    """A broken request is refused or read; a request that was read can be edited and refused."""
    luck = random.Random(case.name)
    body = {**case.body, **CHAT} if case.name == "chat" else case.body
    for _ in range(ROUNDS):
        sent = json.dumps(_mutated(body, luck)).encode()
        request = _unless_unreadable(lambda sent=sent: case.wire.parse_request(case.path, sent))
        if request is None:
            continue
        messages = request.conversation.messages
        edits = [Edit(p.path, luck.choice(["", "new"])) for m in messages for p in m.parts if p.kind != "opaque"]
        drop = [index for index in range(len(messages)) if luck.random() < 0.3]
        json.loads(case.wire.edit_request(request, edits, drop))
        assert case.wire.refuse(request, Refuse("No.")).status == 200


@each_case
def test_replies(case: Case) -> None:
    """A broken reply is refused or read; a reply that was read can be replaced and refused."""
    luck = random.Random(case.name)
    request = case.request()
    for _ in range(ROUNDS):
        sent = json.dumps(_mutated(json.loads(case.reply), luck)).encode()
        reply = _unless_unreadable(lambda sent=sent: case.wire.parse_reply(request, sent))
        if reply is None or not reply.choices:
            continue
        edits = tuple(Edit(part.path, "new") for part in reply.choices[0].parts if part.kind != "opaque")
        for outcome in (Refuse("No."), Replace(edits), Replace(edits, whole=True)):
            json.loads(case.wire.edit_reply(request, reply, {0: outcome}))


@each_case
def test_streams(case: Case) -> None:
    """A stream with a broken frame is refused or read, and can be ended after any chunk."""
    luck = random.Random(case.name)
    for _ in range(ROUNDS):
        stream = case.open()
        chunks = _unless_unreadable(lambda stream=stream: fed(stream, [_broken(case, luck)])) or []
        for chunk in chunks[: luck.randrange(len(chunks) + 1)]:
            stream.release(chunk)
        for choice in stream.choices or (0,):
            texts = [part for part in stream.message(choice).parts if part.kind == "text"]
            rewrite = Replace(tuple(Edit(part.path, part.text + "!") for part in texts), whole=luck.random() < 0.5)
            stream.end(choice, luck.choice([Refuse("No."), rewrite]))
        stream.close()


def _broken(case: Case, luck: random.Random) -> bytes:
    if case.content_type == "application/json":
        return json.dumps(_mutated(json.loads(case.raw), luck)).encode()
    start = "data: {" if case.content_type == "text/event-stream" else "{"
    lines = case.raw.decode().splitlines(keepends=True)
    place = luck.choice([index for index, line in enumerate(lines) if line.startswith(start)])
    field, _, data = lines[place].partition("{")
    end = data[len(data.rstrip()) :]
    lines[place] = field + json.dumps(_mutated(json.loads("{" + data), luck)) + end
    return "".join(lines).encode()
