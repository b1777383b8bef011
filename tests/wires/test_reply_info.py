"""What a record says of a reply: the upstream's id, the model that answered, and the tokens, in every protocol."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import ReplyInfo
from guardproxy.wires.shared.reply_info import LONGEST, MESSAGES, NOTHING, OPENAI, info_of
from tests.wires.kit import CASES, Case

OF_CHAT = {"id": "c1", "model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def expected(case: Case) -> ReplyInfo:
    """What the whole reply of a case says, read by hand."""
    body = json.loads(case.reply)
    if case.wire.name == "gemini":
        usage = body["usageMetadata"]
        thoughts = usage.get("thoughtsTokenCount", 0)
        return ReplyInfo(
            body.get("responseId", ""),
            body["modelVersion"],
            usage["promptTokenCount"],
            usage["candidatesTokenCount"] + thoughts,
        )
    if case.wire.name == "ollama":
        return ReplyInfo("", body["model"], body.get("prompt_eval_count"), body.get("eval_count"))
    usage = body.get("usage") or {}
    tokens = [usage.get(f"prompt_{end}", usage.get(f"input_{end}")) for end in ("tokens",)]
    output = usage.get("completion_tokens", usage.get("output_tokens"))
    return ReplyInfo(body["id"], body["model"], tokens[0], output)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_whole_reply(case: Case) -> None:
    """Every recorded reply has a model, an id where the protocol has one, and its usage."""
    info = case.wire.parse_reply(case.request(), case.reply).info
    assert info == expected(case)
    assert info.model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_streamed_reply(case: Case) -> None:
    """A stream names the same model; it names an id and the usage wherever the recording has them."""
    stream = case.open()
    _ = [*stream.feed(case.raw), *stream.finish()]
    assert stream.info.model
    assert bool(stream.info.id) == bool(expected(case).id)
    has_usage = any(name in case.raw for name in (b"_tokens", b"TokenCount", b"eval_count"))
    assert (stream.info.input_tokens is not None) == has_usage
    assert (stream.info.output_tokens is not None) == has_usage


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whether_a_stream_has_its_end(case: Case) -> None:
    """A choice is complete when the upstream has ended it; a stream that is cut in the middle is not."""
    whole, cut = case.open(), case.open()
    _ = [*whole.feed(case.raw), *whole.finish()]
    assert all(whole.is_complete(choice) for choice in whole.choices)
    with suppress(UpstreamUnreadable):  # a frame that was cut
        _ = [*cut.feed(case.raw[: len(case.raw) // 2]), *cut.finish()]
    assert not any(cut.is_complete(choice) for choice in cut.choices)


@given(VALUES, VALUES, VALUES, VALUES)
def test_values_of_other_types_are_left_out(one: Any, two: Any, three: Any, four: Any) -> None:
    """Whatever an upstream sends in these fields, the reply is read; only texts and whole numbers count."""
    for body in ({"id": one, "model": two, "usage": three}, {"usage": {"prompt_tokens": four}}, one):
        info = info_of(body, OPENAI)
        assert len(info.id) <= LONGEST + 1
        assert type(info.input_tokens) in (int, type(None))
        assert info.output_tokens is None or info.output_tokens >= 0


def test_what_was_known_stays() -> None:
    """A later frame without a value, or with one of another type, changes nothing; a later count replaces one."""
    info = info_of(OF_CHAT, OPENAI)
    assert info == ReplyInfo("c1", "m-1", 3, 4)
    assert info_of({"id": None, "model": 5, "usage": None}, OPENAI, info) == info
    assert info_of({"usage": {"completion_tokens": 9}}, OPENAI, info) == replace(info, output_tokens=9)
    assert info_of({"usage": {"completion_tokens": True, "prompt_tokens": -1}}, OPENAI, info) == info
    assert info_of({"usage": {"input_tokens": 2**60}}, MESSAGES) == NOTHING


def test_a_long_name_is_cut() -> None:
    """An id has at most 200 characters; an ellipsis stands for the rest."""
    assert info_of({"id": "x" * 200}, OPENAI).id == "x" * 200
    assert info_of({"id": "x" * 201}, OPENAI).id == "x" * 200 + "…"
