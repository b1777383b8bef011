"""What readers show of the texts of a reply against what the guard read, each text joined as the reader joins it."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.conformance.speech import PROTOCOLS
from tests.differential.comparing import check, missed
from tests.differential.kit import UNSEEN, Shown, Stand, known, phrase, unjudged
from tests.differential.readers import FIRST_CHOICES, readers
from tests.differential.reading import Reader
from tests.differential.replies import VOICES, Choices, Kind, Said, reply, said
from tests.kit import Scripted

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


@known("choices joined by a reader")
@pytest.mark.parametrize("reader", FIRST_CHOICES, ids=lambda reader: reader.name)
def test_choices_of_a_stream_that_a_reader_joins(stand: Stand, reader: Reader) -> None:
    """A reader that takes the first choice of each chunk joins the end of a choice with the beginning of the next."""
    rng = random.Random(reader.name)
    choices = [said(rng, "text"), said(rng, "text")]
    found = missed(stand, reply(rng, reader.protocol, choices, stream=True), [reader])
    assert not found, found


@known("parts joined")
@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
def test_text_parts_joined(stand: Stand, protocol: str) -> None:
    """Readers join the text parts of a choice with nothing: a word may begin in one part and end in the next."""
    rng = random.Random(protocol)
    check(stand, protocol, [[_texts(rng, number)] for number in (2, 2, 3, 5)], rng)


def _texts(rng: random.Random, number: int) -> list[Said]:
    return [Said("text", phrase(rng)) for _ in range(number)]


@known("parts joined")
@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
def test_text_parts_of_single_letters_joined(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [[[Said("text", letter) for letter in phrase(rng, 3) if letter != " "]]], rng)


@known("parts joined over a part of another kind")
@pytest.mark.parametrize("protocol", SEVERAL_PARTS)
@pytest.mark.parametrize("between", ["reasoning", "call"])
def test_text_parts_joined_over_another_part(stand: Stand, protocol: str, between: Kind) -> None:
    """`output_text`, `.text` and `text_stream` leave out what stands between two texts, and join these."""
    rng = random.Random(protocol)
    check(stand, protocol, [[said(rng, "text", between, "text")], [said(rng, "text", between, "text", "text")]], rng)


@known("parts joined over a part that nobody sees")
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
