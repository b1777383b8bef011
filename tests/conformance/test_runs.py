"""Hundreds of small frames, which are read in runs: the official clients get every word in order, and no harm."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conformance.clients import CLIENTS, STOPS, Client
from tests.conformance.speech import PROTOCOLS, Event, Protocol, plain
from tests.conformance.stand import CLOSING, Stand, standing
from tests.kit import Scripted

# Pieces as models write them, some with escapes in JSON, or of several bytes or surrogates.
_PIECES = (
    ' "Tides"', " rise", "\n", "\n\n- ", " twice", " a day", ",", " C:\\", "\t", " café", " 潮", "汐", " 🌊",
    "👩\u200d🚀", " <b>", "&amp;", " e\u0301", "\u200b", "/", "}", "]", '{"', " data:", " 3", ".14", " [DONE]", "…",
)  # fmt: skip
WORDS = [_PIECES[number % len(_PIECES)] for number in random.Random(5).sample(range(10_000), 260)]
HARM = [*WORDS[:200], " take", " poi", "son", *WORDS[200:]]
READERS = [client for client in CLIENTS if client.streamed]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module."""
    with standing() as found:
        yield found


def counted(body: Any, number: int) -> Any:
    """The body of a frame with what the real APIs change in each one: times, and numbers of tokens."""
    if "created_at" in body and "model" in body and isinstance(body["created_at"], str):
        time = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(milliseconds=20 * number)
        return {**body, "created_at": f"{time:%Y-%m-%dT%H:%M:%S.%f}123Z"}
    if "usageMetadata" in body:
        counts = {"promptTokenCount": 5, "candidatesTokenCount": number, "totalTokenCount": 5 + number}
        return {**body, "usageMetadata": counts, "responseId": "r"}
    return body


def writes(protocol: Protocol, pieces: Sequence[str], escaped: bool, seed: int) -> list[bytes]:
    """The stream in some twenty writes, which end anywhere in a frame or a character."""
    events = [Event(counted(event.body, number), event.name) for number, event in enumerate(protocol.events(pieces))]
    spell = (lambda value: json.dumps(value, separators=(",", ":")).encode()) if escaped else plain
    body = b"".join([*(protocol.frame(event, spell) for event in events), protocol.end])
    ends = sorted(random.Random(seed).sample(range(1, len(body)), 20))
    return [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]


@pytest.mark.parametrize("escaped", [False, True], ids=["UTF-8", "escapes"])
@pytest.mark.parametrize("client", READERS, ids=lambda client: client.name)
def test_every_word_arrives_in_order(stand: Stand, client: Client, escaped: bool) -> None:
    """A harmless stream reaches the client as the upstream sends it, byte for byte."""
    protocol = PROTOCOLS[client.protocol]
    sent = writes(protocol, WORDS, escaped, seed=1)
    stand.play(Scripted(sent, headers={"content-type": protocol.content_type}))
    read = stand.ask(client, "When do tides rise?")
    assert (read.text, read.stop) == ("".join(WORDS), STOPS[client.protocol][1])
    assert stand.received == b"".join(sent)


@pytest.mark.parametrize("escaped", [False, True], ids=["UTF-8", "escapes"])
@pytest.mark.parametrize("client", READERS, ids=lambda client: client.name)
def test_harm_in_the_middle_is_cut(stand: Stand, client: Client, escaped: bool) -> None:
    """A harmful word over two frames ends the stream: the client gets what is before it, and the protocol's own end."""
    protocol = PROTOCOLS[client.protocol]
    for seed in range(3):
        sent = writes(protocol, HARM, escaped, seed)
        stand.play(Scripted(sent, headers={"content-type": protocol.content_type}))
        read = stand.ask(client, "When do tides rise?")
        said = read.text.removesuffix(CLOSING)
        assert read.stop == STOPS[client.protocol][0]
        assert "".join(HARM).startswith(said)
        assert len(said) <= len("".join(HARM[:203])) - len("poison")
        assert [record.decision.action for record in stand.records(2)].count("block") == 1
