"""The tokens of earlier replies in the usage of the one that the client reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.wires.shared.usage import with_earlier


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}},
            {"usage": {"prompt_tokens": 15, "completion_tokens": 10, "total_tokens": 25}},
        ),
        ({"response": {"usage": {"input_tokens": 5}}}, {"response": {"usage": {"input_tokens": 15}}}),
        ({"message": {"usage": {"output_tokens": 1}}}, {"message": {"usage": {"output_tokens": 4}}}),
        (
            {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3}},
            {"usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 5, "totalTokenCount": 16}},
        ),
        (
            {"done": True, "prompt_eval_count": 1, "eval_count": 2},
            {"done": True, "prompt_eval_count": 11, "eval_count": 5},
        ),
        ({"usage": None}, {"usage": None}),
        ({"usage": {"prompt_tokens": "5"}}, {"usage": {"prompt_tokens": "5"}}),
        ({"content": '"usage": {"prompt_tokens": 5}'}, {"content": '"usage": {"prompt_tokens": 5}'}),
    ],
)
def test_the_counts_of_each_protocol(before: Any, after: Any) -> None:
    """Whole, as an event, and as a line; everything else stays byte for byte."""
    whole = json.dumps(before).encode()
    assert json.loads(with_earlier(whole, (10, 3))) == after
    event = b"event: x\r\ndata: " + whole + b"\r\n\r\ndata: [DONE]\r\n\r\n"
    lines = with_earlier(event, (10, 3)).split(b"\r\n")
    assert (lines[0], json.loads(lines[1][5:]), lines[2:]) == (b"event: x", after, [b"", b"data: [DONE]", b"", b""])
    first, second, end = with_earlier(whole + b"\n" + whole + b"\n", (10, 3)).split(b"\n")
    assert (json.loads(first), json.loads(second), end) == (after, after, b"")
    assert with_earlier(event, (0, 0)) == event


@given(st.binary() | st.text().map(lambda text: b'data: {"usage": ' + text.encode(errors="replace")))
def test_what_is_no_usage_stays(data: bytes) -> None:
    """Bytes that are no JSON object with counts pass as they are."""
    assert with_earlier(data, (1, 1)) == data
