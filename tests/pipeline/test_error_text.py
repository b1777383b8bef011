"""The text of errors in no form of a protocol: what is judged of a body, part by part."""

import json

import pytest

from guardproxy.pipeline.error_text import error_message
from guardproxy.types import Part


def texts(body: str) -> list[str]:
    """The texts that are judged of a body."""
    message = error_message(body.encode())
    assert message is not None
    assert message.role == "assistant"
    return [part.text for part in message.parts]


def test_the_strings_of_json_are_parts_in_their_order() -> None:
    """Keys and values of nested objects and lists are numbered parts of text, as a reader meets them."""
    message = error_message(b'{"a": ["b", {"c": "d"}], "e": 1, "f": null, "g": ""}')
    assert message is not None
    assert message.parts == tuple(Part(f"[{place}]", text) for place, text in enumerate("abcdefg"))


@pytest.mark.parametrize("body", ["plain text", "<p>text</p>", '{"broken": "te', "12", "[]", '""', "[[[", "null"])
def test_a_body_without_strings_is_one_text(body: str) -> None:
    """What is not JSON, or JSON without a string, is judged as it came."""
    assert texts(body) == [body]


def test_a_key_that_is_there_twice_loses_no_value() -> None:
    """Readers choose the first or the last of two equal keys, so both are judged."""
    assert texts('{"a": "b", "a": "c"}') == ["a", "b", "a", "c"]


def test_a_byte_order_mark_and_long_numbers_do_not_hide_strings() -> None:
    """A body is JSON for some clients if it begins with a byte order mark, or has numbers of any length."""
    assert texts('\ufeff{"a": ' + "9" * 5000 + "}") == ["a"]
    assert texts("\ufefftext") == ["\ufefftext"]


def test_half_of_a_surrogate_pair_is_replaced() -> None:
    """An escape that is no character cannot be stored or judged; the rest of its string is."""
    assert texts(r'["a\ud800b"]') == ["a?b"]


def test_deep_nesting_is_one_text_or_its_strings() -> None:
    """A body that no parser can follow is judged as it came."""
    deep = "[" * 100_000 + '"a"' + "]" * 100_000
    assert texts(deep) in ([deep], ["a"])


@pytest.mark.parametrize("body", [b"\xff", b"a\0b", json.dumps({"a": "b"}).encode("utf-16")])
def test_bytes_that_are_not_utf_8_text_have_no_text(body: bytes) -> None:
    """Such a body cannot be judged as text: clients may decode it to something else."""
    assert error_message(body) is None
