"""Encodings of a text with a few bytes that are no text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.views import VIEWS, views_of
from guardproxy.views.damaged import undamaged
from guardproxy.views.seals import Seals

WORDS = b"The long walk along the river leads to the old mill of the village."
ENCODINGS = {
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64 of URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "base64 without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "base32": lambda data: base64.b32encode(data).decode(),
    "base32 in small letters": lambda data: base64.b32encode(data).decode().lower(),
    "hex": bytes.hex,
    "percent escapes": lambda data: "".join(f"%{byte:02X}" for byte in data),
    "hex escapes": lambda data: "".join(f"\\x{byte:02x}" for byte in data),
    "hex numbers": lambda data: ", ".join(f"0x{byte:02x}" for byte in data),
    "quoted-printable": lambda data: "".join(f"={byte:02X}" for byte in data),
}
encodings = st.sampled_from(sorted(ENCODINGS))


@given(encodings, st.sampled_from([b"\xff", b"\xfe\xff", b"\x01", b"\xc3", b"\xf0\x9f"]), st.integers(0, len(WORDS)))
def test_a_few_bytes_do_not_hide_the_words(encoding: str, junk: bytes, place: int) -> None:
    """In every encoding and at every place, and inside of prose."""
    run = ENCODINGS[encoding](WORDS[:place] + junk + WORDS[place:])
    found = views_of(f"Please read {run} now", (), VIEWS)
    wanted = f"{WORDS[:place].decode()} {WORDS[place:].decode()}".split()
    assert found.complete
    assert any(view.text.split() == ["Please", "read", *wanted, "now"] for view in found.views)


@pytest.mark.parametrize(("outer", "inner"), [("base64", "base64"), ("hex", "base64"), ("base64", "base32")])
def test_damage_around_and_inside_of_an_encoding(outer: str, inner: str) -> None:
    """The inner encoding is undone whichever of both has the byte that is no text."""
    for run in (
        ENCODINGS[outer](ENCODINGS[inner](WORDS).encode() + b"\xff"),
        ENCODINGS[outer](ENCODINGS[inner](WORDS + b"\xff").encode()),
    ):
        assert WORDS.decode() in [view.text.strip() for view in views_of(run, (), VIEWS).views]


@pytest.mark.parametrize(
    "text",
    [
        "sha 5d41402abc4b2a76b9719d911017c592",
        "token ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "0xZZtheQuickBrownFoxJumpsOverTheLazyDog",
        "id 123e4567-e89b-12d3-a456-426614174000 of the order",
        "/usr/share/doc/python3-minimal/changelog",
        ENCODINGS["base64"](bytes(range(256))),
        ENCODINGS["base64"](WORDS),
        ENCODINGS["hex"](b"\xff\xfe" * 30 + WORDS[:20]),
    ],
)
def test_identifiers_data_and_whole_texts_stay(text: str) -> None:
    """Only words among a few other bytes are decoded here; a text without such bytes is another view's."""
    assert undamaged(text, Seals()) == text


@pytest.mark.parametrize("length", range(40, 57))
def test_base32_of_any_length_without_padding(length: int) -> None:
    """The padding is put back for every number of bytes."""
    run = base64.b32encode(b"\xff" + WORDS[:length]).decode().rstrip("=")
    assert undamaged(run, Seals()).strip() == WORDS[:length].decode().strip()


@pytest.mark.parametrize("length", range(24, 41))
def test_letters_that_are_no_encoding_stay(length: int) -> None:
    """No number of digits of an alphabet is an error, whether or not an encoding can have it."""
    text = ("qzxkjwvbpfghydmr" * 3)[:length]
    assert undamaged(text, Seals()) == text


def test_it_is_a_view_by_name_and_comes_last() -> None:
    """Without its name nothing is undone; with another encoding beside it, the words are read in the round after."""
    run = ENCODINGS["base64"](WORDS + b"\xff")
    assert views_of(run, (), [name for name in VIEWS if name != "damaged"]).views == ()
    assert [view.name for view in views_of(run, (), ["damaged"]).views] == ["damaged"]
    beside = f"{ENCODINGS['hex'](b'a quiet evening')} {run}"
    assert [view.name for view in views_of(beside, (), ["hex", "damaged"]).views] == ["hex+damaged"]
    assert [view.name for view in views_of("0x41 and a walk", (), ["damaged"]).views] == []
