"""What readers show of the fields of a reply that are no texts, against what the guard read."""

import contextlib
import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests.conformance.speech import PROTOCOLS, Event, plain
from tests.differential.comparing import missed
from tests.differential.kit import Stand, phrase
from tests.differential.readers import readers
from tests.differential.reading import header_reader, plain_readers
from tests.differential.replies import VOICES, frames, said, sent, streamed
from tests.wires.kit import BY_NAME

Path = tuple[Any, ...]

# Recorded replies, and the protocols that they belong to.
WHOLE = {
    "chat": "chat",
    "chat-tools": "chat",
    "completions": "completions",
    "responses": "responses",
    "messages": "messages",
    "ollama-chat": "ollama-chat",
    "ollama-generate": "ollama-generate",
    "gemini": "gemini",
}
HEADERS = (
    "alt-svc",
    "content-disposition",
    "content-language",
    "link",
    "location",
    "openai-organization",
    "refresh",
    "retry-after",
    "server",
    "server-timing",
    "set-cookie",
    "warning",
    "www-authenticate",
    "x-note",
    "x-request-id",
)
CHARSETS = ("utf-7", "utf-16", "utf-16le", "utf-32be", "cp037", "cp424", "hz", "iso2022_jp", "iso-2022-kr")


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a JSON value, except the value itself; of long lists, of the first items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value: Any, path: Path) -> Any:
    """Return the value at a path."""
    for key in path:
        value = value[key]
    return value


def with_value(body: Any, path: Path, value: Any) -> Any:
    """Return a copy of a body with this value at a path."""
    new = copy.deepcopy(body)
    at(new, path[:-1])[path[-1]] = value
    return new


def objects(value: Any) -> list[Path]:
    """Return the path of every object in a JSON value."""
    return [path for path in ((), *places(value)) if isinstance(at(value, path), dict)]


def unknown_fields(rng: random.Random, value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield a path and a value for fields that no protocol has, at every object: a text in several forms, and a key."""
    for path in objects(value):
        yield (*path, "x_note"), phrase(rng)
        yield (*path, "x_notes"), [phrase(rng)]
        yield (*path, "x_object"), {"b": {"c": phrase(rng)}}
        yield (*path, phrase(rng)), True


def unknown_items(rng: random.Random, value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield a path and a value for items that no protocol has, in the place of every item of every list of objects."""
    for path in places(value):
        item = at(value, path)
        if isinstance(path[-1], int) and isinstance(item, dict):
            yield path, phrase(rng)
            yield path, [phrase(rng)]
            for form in ({}, {"type": "x_part"}, {"type": "TEXT"}, {"type": 5}, {"type": None}):
                yield path, {**form, "text": phrase(rng)}
                yield path, {**form, "content": [{"type": "text", "text": phrase(rng)}]}


def _named(path: Path) -> str:
    return ".".join(str(key) for key in path if not isinstance(key, int))


def missed_in_bodies(stand: Stand, name: str, changes: Sequence[tuple[Path, Any]]) -> list[str]:
    """Return the places of a recorded reply at which a text is shown and not judged."""
    protocol, body = WHOLE[name], json.loads(BY_NAME[name].reply)
    clients = [readers(protocol, stream=False)[0], plain_readers(protocol)[0]]
    found: dict[str, str] = {}
    for path, value in changes:
        if texts := missed(stand, sent(with_value(body, path, value)), clients):
            found.setdefault(_named(path), texts[0])
    return [f"{place}: {text}" for place, text in found.items()]


@pytest.mark.parametrize("name", WHOLE)
def test_bare_strings_of_a_reply(stand: Stand, name: str) -> None:
    """A text in the place of any value of a reply: role, finish reason, id, model, counts, and all others."""
    rng, body = random.Random(name), json.loads(BY_NAME[name].reply)
    found = missed_in_bodies(stand, name, [(path, phrase(rng)) for path in places(body)])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", WHOLE)
def test_unknown_fields_of_a_reply(stand: Stand, name: str) -> None:
    rng, body = random.Random(name), json.loads(BY_NAME[name].reply)
    found = missed_in_bodies(stand, name, list(unknown_fields(rng, body)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("ollama")])
def test_unknown_items_of_a_reply(stand: Stand, name: str) -> None:
    rng, body = random.Random(name), json.loads(BY_NAME[name].reply)
    found = missed_in_bodies(stand, name, list(unknown_items(rng, body)))
    assert not found, "\n".join(found)


def missed_in_events(stand: Stand, protocol: str, rng: random.Random, *, unknown: bool) -> list[str]:
    """Return the places of a stream's events at which a text is shown and not judged."""
    events = VOICES[protocol].events(rng, [said(rng, *VOICES[protocol].kinds)])
    known: dict[str, tuple[int, Path]] = {}
    for number, event in enumerate(events):
        kind = event.body.get("type", "event")
        paths = [(*path, "x_note") for path in objects(event.body)] if unknown else places(event.body)
        for path in paths:
            known.setdefault(f"{kind} {_named(path)}", (number, path))
    found = []
    for name, (number, path) in known.items():
        body = with_value(events[number].body, path, phrase(rng))
        changed = [*events[:number], Event(body, events[number].name), *events[number + 1 :]]
        answer = streamed(rng, protocol, frames(protocol, changed))
        if texts := missed(stand, answer, readers(protocol, stream=True)[:2]):
            found.append(f"{name}: {texts[0]}")
    return found


@pytest.mark.parametrize("protocol", VOICES)
def test_bare_strings_of_a_stream(stand: Stand, protocol: str) -> None:
    found = missed_in_events(stand, protocol, random.Random(protocol), unknown=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("protocol", VOICES)
def test_unknown_fields_of_a_stream(stand: Stand, protocol: str) -> None:
    found = missed_in_events(stand, protocol, random.Random(protocol), unknown=True)
    assert not found, "\n".join(found)


# --- the answer around the body --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
def test_headers_of_a_reply(stand: Stand, status: int) -> None:
    found = []
    for name in HEADERS:
        answer = sent(PROTOCOLS["chat"].whole("ok"), **{name: "QZJQ ZZQJ QQZJ"})
        found += missed(stand, type(answer)(answer.body, status, answer.headers), [header_reader("chat")])
    assert not found, "\n".join(found)


def test_replies_in_another_charset(stand: Stand) -> None:
    """The bytes of a body are a text in UTF-8, which is judged, and another text in the charset of the content type.

    So a reader that heeds the charset must get the judged text, or no answer.
    """
    rng, found = random.Random(9), []
    for charset in CHARSETS:
        text = phrase(rng).encode("utf-7").decode() + " ~{VPND~} \x1b$B"
        for kind in (f"application/json; charset={charset}", f'application/json; a="b"; Charset="{charset.upper()}"'):
            stand.play(sent(PROTOCOLS["chat"].whole(text), kind))
            body = plain(PROTOCOLS["chat"].ask("hello", False))
            address = f"{stand.url}/v1/chat/completions"
            answer = httpx.post(address, content=body, headers={"content-type": "application/json"}, timeout=60)
            with contextlib.suppress(UnicodeError):
                if answer.status_code == 200 and json.dumps(text, ensure_ascii=False) not in answer.text:
                    found.append(kind)
    assert not found, "\n".join(found)
