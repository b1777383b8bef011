"""What readers show of the texts of a reply against what the guard read, each text joined as the reader joins it."""

import gzip
import json
import random
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

import pytest

from tests.conformance.speech import PROTOCOLS, Event, plain
from tests.differential.comparing import check, missed
from tests.differential.kit import UNSEEN, Shown, Stand, phrase, unjudged
from tests.differential.readers import FIRST_CHOICES, readers
from tests.differential.reading import Reader
from tests.differential.replies import VOICES, Choices, Kind, Said, frames, reply, said, streamed
from tests.kit import Scripted

ERRORS = (
    '{"error": {"message": "TEXT", "type": "t", "code": null}}',
    '{"error": {"message": "m", "type": "TEXT", "param": "TEXT", "code": "TEXT"}}',
    '{"type": "error", "error": {"type": "api_error", "message": "TEXT"}}',
    '{"error": "TEXT"}',
    '{"detail": "TEXT"}',
    '{"detail": [{"loc": ["body"], "msg": "TEXT", "type": "t"}]}',
    '{"message": "TEXT"}',
    '[{"error": {"code": 400, "message": "TEXT", "status": "S"}}]',
    '{"error": {"code": 400, "message": "m", "status": "S", "details": [{"reason": "TEXT"}]}}',
    "TEXT",
    "<html><title>TEXT</title></html>",
)
CODINGS = ("gzip", "x-gzip", ",gzip", "gzip ,", "identity, gzip", "GZIP", "gzip, gzip", "gzip;q=1", "deflate", "none")
# The protocols whose replies have several parts, and a client that joins them.
SEVERAL_PARTS = [name for name, voice in VOICES.items() if voice.parts and name != "gemini-array"]


def test_the_alphabets_of_the_comparison() -> None:
    """Two texts that are joined are found as one text, and the words of a protocol are found as none."""
    rng = random.Random(1)
    for first, second in pairwise(phrase(rng) for _ in range(20)):
        assert unjudged([Shown("", first + second)], [first, second])
        assert not unjudged([Shown("", f'{first}","{second}')], [first, second])
        assert not unjudged([Shown("", f"{first}\n{second}")], [f"{first} {second}"])
    assert not unjudged([Shown("", json.dumps(PROTOCOLS["responses"].whole("JSON SAFETY STOP QUEUED")))], [])


@pytest.mark.parametrize("protocol", VOICES)
def test_ordinary_replies(stand: Stand, protocol: str) -> None:
    """Each reader shows the whole text of an ordinary reply: so the comparison compares something."""
    rng = random.Random(protocol)
    for stream in (False, True):
        text = phrase(rng, 5)
        answer = _in_one_piece(protocol, text) if stream else reply(rng, protocol, [[Said("text", text)]], stream=False)
        for reader in readers(protocol, stream=stream):
            stand.play(answer)
            shown = reader.read(stand.url).shown
            assert any(text in line for _, line in shown), reader.name
            assert not unjudged(shown, stand.guard.judged)


def _in_one_piece(protocol: str, text: str) -> Scripted:
    form = PROTOCOLS[protocol]
    return Scripted(form.streamed([text]), headers={"content-type": form.content_type})


@pytest.mark.parametrize("protocol", VOICES)
def test_a_text_of_each_kind(stand: Stand, protocol: str) -> None:
    """A text, the reasoning, a refusal and a tool call, in one choice and in several, cut at any places."""
    rng, voice = random.Random(protocol), VOICES[protocol]
    examples: list[Choices] = []
    for seed in range(6):
        number = rng.randint(1, 3) if voice.several else 1
        kinds = [kind for kind in voice.kinds if kind == "text" or rng.random() < 0.2 + 0.1 * seed]
        examples.append([said(rng, *kinds) for _ in range(number)])
    check(stand, protocol, examples, rng)


@pytest.mark.parametrize("reader", FIRST_CHOICES, ids=lambda reader: reader.name)
def test_choices_of_a_stream_that_a_reader_joins(stand: Stand, reader: Reader) -> None:
    """A reader that takes the first choice of each chunk joins the end of a choice with the beginning of the next."""
    rng = random.Random(reader.name)
    choices = [said(rng, "text"), said(rng, "text")]
    found = missed(stand, reply(rng, reader.protocol, choices, stream=True), [reader])
    assert not found, found


@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
def test_text_parts_joined(stand: Stand, protocol: str) -> None:
    """Readers join the text parts of a choice with nothing: a word may begin in one part and end in the next."""
    rng = random.Random(protocol)
    check(stand, protocol, [[_texts(rng, number)] for number in (2, 2, 3, 5)], rng)


def _texts(rng: random.Random, number: int) -> list[Said]:
    return [Said("text", phrase(rng)) for _ in range(number)]


@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
def test_text_parts_of_single_letters_joined(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [[[Said("text", letter) for letter in phrase(rng, 3) if letter != " "]]], rng)


@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
@pytest.mark.parametrize("between", ["reasoning", "call"])
def test_text_parts_joined_over_another_part(stand: Stand, protocol: str, between: Kind) -> None:
    """`output_text`, `.text` and `text_stream` leave out what stands between two texts, and join these."""
    rng = random.Random(protocol)
    examples = [[said(rng, "text", between, "text")], [said(rng, "text", between, "text", "text")]]
    check(stand, protocol, examples, rng)


@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
def test_text_parts_joined_over_an_invisible_part(stand: Stand, protocol: str) -> None:
    """A part of characters that nobody sees does not separate the texts around it, as a person reads them."""
    rng, found = random.Random(protocol), []
    for unseen in UNSEEN:
        hidden = unseen.replace(" ", "")
        first, second = said(rng, "text", "text")
        stand.play(reply(rng, protocol, [[first, Said("text", hidden), second]], stream=False))
        shown = readers(protocol, stream=False)[0].read(stand.url).shown
        found += _in_sight(shown, hidden, stand.guard.judged)
    assert not found, "\n".join(found)


def _in_sight(shown: Sequence[Shown], hidden: str, judged: Sequence[str]) -> list[str]:
    """Return the unjudged texts, seen without the hidden characters."""
    visible = [Shown(where, text.replace(hidden, "")) for where, text in shown]
    return [f"{hidden!a}: {text}" for text in unjudged(visible, judged)]


@pytest.mark.parametrize("protocol", VOICES)
def test_separators_in_a_text(stand: Stand, protocol: str) -> None:
    """A text with separators is one text to some readers, and several lines to others."""
    rng = random.Random(protocol)
    examples = [[_joined(rng, separator)] for separator in ("\u2028", "\u2029", "\x85", "\x0b", "\x1e", "\n", "\r\n")]
    check(stand, protocol, examples, rng)


def _joined(rng: random.Random, separator: str) -> list[Said]:
    return [Said("text", separator.join(phrase(rng) for _ in range(3)))]


def alternating(rng: random.Random, protocol: str, events: Sequence[Event]) -> list[Event]:
    """Return the events with the deltas of all parts, which follow each other, in alternation; nothing else moves."""
    spots = [number for number, event in enumerate(events) if "delta" in event.body.get("type", "")[-5:]]
    groups: dict[tuple[Any, ...], list[Event]] = {}
    for number in spots:
        body = events[number].body
        groups.setdefault(tuple(body.get(key) for key in ("output_index", "content_index", "index")), []).append(
            events[number]
        )
    mixed = [event for row in zip_longest(*groups.values()) for event in row if event is not None]
    ends = [
        event
        for number, event in enumerate(events)
        if number > spots[-1] or "done" in event.name or "stop" in event.name
    ]
    heads = [event for number, event in enumerate(events) if number not in spots and event not in ends]
    return [*heads, *mixed, *ends]


@pytest.mark.parametrize("protocol", ["responses", "messages"])
def test_deltas_of_several_parts_in_alternation(stand: Stand, protocol: str) -> None:
    """`text_stream`, and a loop that prints every delta, show the deltas in the order in which they come."""
    rng = random.Random(protocol)
    events = alternating(rng, protocol, VOICES[protocol].events(rng, [_texts(rng, 2)]))
    found = missed(stand, streamed(rng, protocol, frames(protocol, events)), readers(protocol, stream=True))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("reader", readers("chat", stream=True), ids=lambda reader: reader.name)
def test_contents_in_two_forms(stand: Stand, reader: Reader) -> None:
    """The helper of OpenAI's client drops a content of one form when the other follows, and joins what is around it."""
    rng = random.Random(8)
    deltas: list[Any] = [phrase(rng) if place % 2 else [{"type": "text", "text": phrase(rng)}] for place in range(5)]
    events = PROTOCOLS["chat"].events(["."] * len(deltas))
    for event, delta in zip(events[1:], deltas, strict=False):
        event.body["choices"][0]["delta"]["content"] = delta
    found = missed(stand, streamed(rng, "chat", frames("chat", events)), [reader])
    assert not found, "\n".join(found)


def test_the_name_of_a_tool_in_pieces(stand: Stand) -> None:
    """The clients join the pieces of a name, and of an id."""
    rng, found = random.Random(6), []
    for key in ("name", "id"):
        events = PROTOCOLS["chat"].events(["."] * 3)
        for place, event in enumerate(events[1:4]):
            call: dict[str, Any] = {"index": 0, "function": {"arguments": "{}" if place == 2 else ""}}
            (call if key == "id" else call["function"])[key] = phrase(rng, 1) + " "
            event.body["choices"][0]["delta"] = {"tool_calls": [call]}
        found += missed(stand, streamed(rng, "chat", frames("chat", events)), readers("chat", stream=True))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("protocol", VOICES)
def test_answers_in_another_form_than_asked(stand: Stand, protocol: str) -> None:
    """A stream for a whole answer, and a whole answer for a stream, with the content type of either."""
    rng, found = random.Random(protocol), []
    for stream in (False, True):
        for kind in ("application/json", "text/event-stream", "text/plain", "application/x-ndjson"):
            answer = reply(rng, protocol, [[Said("text", phrase(rng))]], stream=not stream)
            answer = Scripted(answer.body, headers={"content-type": kind})
            found += missed(stand, answer, readers(protocol, stream=stream))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("protocol", VOICES)
def test_errors(stand: Stand, protocol: str) -> None:
    """An error's text, which clients show in their exceptions, in the forms of several servers."""
    rng, found = random.Random(protocol), []
    for status in (400, 429, 500):
        for form in ERRORS:
            body = form.replace("TEXT", phrase(rng)).encode()
            kind = "application/json" if body.startswith((b"{", b"[")) else "text/plain"
            for stream in (False, True):
                answer = Scripted([body], status, {"content-type": kind})
                found += [
                    f"{status} {form}: {text}" for text in missed(stand, answer, readers(protocol, stream=stream)[:2])
                ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", ",gzip", "gzip ,", "identity, gzip", "GZIP", "gzip, gzip", "gzip;q=1"]
)
def test_compressed_replies(stand: Stand, coding: str) -> None:
    rng = random.Random(coding)
    for times in (0, 1, 2):
        body = plain(PROTOCOLS["chat"].whole(phrase(rng)))
        for _ in range(times):
            body = gzip.compress(body)
        answer = Scripted([body], headers={"content-type": "application/json", "content-encoding": coding})
        found = missed(stand, answer, readers("chat", stream=False))
        assert not found, (times, found)
