"""How much a text resembles words, and which bytes are text."""

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.views.plausible import (
    decoded,
    encoded,
    holds_encoding,
    pairs,
    pairs_of,
    remembered,
    worded,
    words_among,
)

ENGLISH = "The committee met in the morning, and most of the members wanted to hear what the report said."


def test_letter_pairs_are_counted() -> None:
    """Common pairs and all pairs, in a word and in the words of a text; a letter alone has none."""
    assert pairs("there") == (4, 4)
    assert pairs("xqzj") == (0, 3)
    assert pairs("a") == (0, 0)
    assert pairs("") == (0, 0)
    assert pairs_of("The, XQ there!") == (6, 7)
    assert pairs_of("12 34") == (0, 0)


def test_english_has_more_common_pairs_than_random_letters() -> None:
    """Four in five pairs of English are common or more, and one in five of random letters."""
    common, count = pairs_of(ENGLISH)
    assert 0.7 < common / count < 0.95
    luck = random.Random(1)
    common, count = pairs("".join(luck.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(10_000)))
    assert 0.15 < common / count < 0.25


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("the", True),
        ("th", True),
        ("thxqzj", False),
        ("hethxq", True),
        ("thex", True),
        ("thqhez", True),
        ("thqheqinz", False),
        ("12", False),
        ("", False),
    ],
)
def test_words_have_two_in_five_common_pairs(text: str, wanted: bool) -> None:
    """At least 40 % of the pairs, of one pair at least."""
    assert worded(text) is wanted


def test_two_pairs_in_five_are_enough() -> None:
    """Two common pairs of five make words; three of eight do not."""
    assert worded("thqhez")
    assert not worded("thqheqinz")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("&#98;&#111;&#109;", True),
        ("%62%6F", False),
        ("%62%6F%6D", True),
        ("%62%6F%6D%62%73 and so is it here", True),
        ("%62%6F%6D%62%73%73 " + "x" * 18, True),
        ("%62%6F%6D%62%73%73 " + "x" * 19, False),
        ("%62%6F%6D%62%73%73 " + " " * 30 + "x" * 18, True),
        ("626f6d62", True),
        ("626f6d", False),
        ("an ordinary text", False),
    ],
)
def test_half_of_an_encoded_text_is_escapes(text: str, wanted: bool) -> None:
    """Eight characters and half of what is not white space are escapes or hex digits."""
    assert encoded(text) is wanted


@pytest.mark.parametrize(
    "text",
    ["bomb", "abc--", "b0mb", "b m b o", "ab1-", "a123", "\u00e4b\u00e4b\u00e4b\u00e4b", "!" * 24, "&#98;&#111;&#109;"],
)
def test_bytes_that_are_text(text: str) -> None:
    """Four bytes in words, twelve of other alphabets, 24 of any printable ASCII, and escapes."""
    assert decoded(text.encode()) == text


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_in_wide_characters(coding: str) -> None:
    """English in UTF-16 and UTF-32 is text with NUL bytes."""
    assert decoded("the bombs".encode(coding)) == "the bombs"
    assert decoded("bom".encode(coding)) is None


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"bom",
            b"abc---",
            b"1 ! 2 ! 3 ! 4",
            b"bomb\x01",
            b"\xff\xfe\xfd\xfc",
            b"!" * 23,
            b"ab!!!",
            b"1234",
            b"b123-",
        ),
        *("\u00e4b\u00e4b\u00e4b\u00e4".encode(), ("\u00e4" + "!" * 30).encode()),
    ],
)
def test_bytes_that_are_no_text(data: bytes) -> None:
    """Few, unprintable or undecodable bytes, few letters, and short text of other alphabets."""
    assert decoded(data) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("&#98; and %62 and \\x62", True),
        ("&#98; and %62", False),
        ("hello Qm9tYiB0aGUgaG91 world", True),
        ("hello Qm9tYiB0aGUgaG9 world", False),
        ("QMXTYIBXAGUGAGXX", False),
        ("the digits 626f6d6273206865", True),
        ("the digits ff00ff00ff00ff00", False),
        ("an ordinary text", False),
    ],
)
def test_texts_that_hold_an_encoding(text: str, wanted: bool) -> None:
    """Three escapes, sixteen characters of base64, or text in hex digits."""
    assert holds_encoding(text) is wanted


def test_base64_is_an_encoding_in_a_text() -> None:
    """The check is for the look of it: mixed cases and digits."""
    assert holds_encoding(f"Read {base64.b64encode(ENGLISH.encode()).decode()}")


@pytest.mark.parametrize("junk", [b"\xff", b"\xfe\xff", b"\x01", b"\xc3", b"\xf0\x9f"])
@pytest.mark.parametrize("place", ["before", "behind", "inside"])
def test_bytes_that_are_no_text_are_spaces_among_words(junk: bytes, place: str) -> None:
    """A reader skips a few such bytes, so they do not hide the words around them."""
    words = b"a long walk along the river to the old mill"
    data = {"before": junk + words, "behind": words + junk, "inside": words[:6] + junk + words[6:]}[place]
    text = words_among(data)
    assert text is not None
    assert "along the river to the old mill" in text


@given(st.binary(min_size=4, max_size=15), st.binary(min_size=64, max_size=200))
@settings(max_examples=200)
def test_bytes_that_are_no_words_are_data(few: bytes, many: bytes) -> None:
    """Few bytes need to be text as a whole; text between many bytes that are none is data."""
    assert words_among(few[:15]) is None
    junk = b"".join(bytes([byte | 0x80, 0xFF]) for byte in many)
    assert words_among(junk + b"the old mill") is None


@pytest.mark.parametrize(
    ("words", "junk", "is_text"),
    [
        ("the house on a", 1, False),  # 15 characters
        ("the house on a h", 0, True),
        ("the other one", 3, True),
        ("the other on", 4, True),  # a quarter
        ("the other o", 5, False),
        ("the other one in the house on the hi", 12, True),
        ("the other onein thehouse onit", 19, True),  # 40 % of 48
        ("the other onein thehouse oni", 20, False),
        ("the other onein thehouse oni", 19, False),  # 47 characters
        ("the othe 12345678", 0, False),  # less than half letters
        ("the others 1234567", 0, True),  # half
        ("12345678901234567890", 1, True),  # a long run may be an encoding
        ("1234567890123456789", 1, False),
    ],
)
def test_how_many_bytes_may_be_no_text(words: str, junk: int, is_text: bool) -> None:
    """The bounds of `words_among`, for bytes and for control characters that are no text."""
    for byte in (b"\xff", b"\x01"):
        data = words.encode() + byte * junk
        assert words_among(data) == (words + " " * junk if is_text else None)


@pytest.mark.parametrize(("size", "calls"), [(256, 1), (257, 2)])
def test_what_is_remembered(size: int, calls: int) -> None:
    """The result for a short text is kept; that for a long one is computed again, so it takes no memory."""
    asked: list[str] = []

    @remembered
    def turned(text: str, end: str) -> str:
        asked.append(text)
        return text[::-1] + end

    assert turned("a" * size, "b") == turned("a" * size, "b") == "a" * size + "b"
    assert len(asked) == calls
    assert turned("a" * size, "c")[-1] == "c"
