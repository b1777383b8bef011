"""The format of checks, verdicts and failures: what is written and read again equals what was written."""

import json
import struct
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.checkapi import (
    Account,
    Caller,
    CheckCall,
    account_of,
    call_of,
    failure_of,
    read_account,
    read_verdict,
    verdict_fields,
    write_call,
    write_failure,
)
from guardproxy.checkapi.fields import dumps
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded, TooLarge, Unreadable
from guardproxy.types import (
    Category,
    Check,
    Conversation,
    Finding,
    Message,
    Part,
    PartKind,
    Role,
    Side,
    Taxonomy,
    Usage,
    Verdict,
)

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # halves of surrogate pairs, too
NAME = st.text(max_size=8)
PROBABILITY = st.floats(0, 1) | st.sampled_from([0, 1])
SPAN = st.none() | st.tuples(st.integers(0, 9), st.integers(9, 99))
SECONDS = st.floats(0, 1e6)
COUNT = st.integers(0, 10**9)
PARTS = st.lists(
    st.builds(
        Part,
        st.text(min_size=1, max_size=8),
        TEXT,
        st.sampled_from([kind for kind in get_args(PartKind) if kind != "image"]),
        NAME,
    ),
    max_size=3,
)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(get_args(Role)), PARTS.map(tuple)), min_size=1, max_size=3)
CHECKS = st.builds(
    Check,
    st.builds(Conversation, MESSAGES.map(tuple)),
    st.sampled_from(get_args(Side)),
    st.none() | st.text(min_size=1, max_size=8),
    st.booleans(),
)
CALLS = st.builds(CheckCall, CHECKS, st.builds(Caller, NAME, NAME, st.booleans()), NAME)
USAGES = st.builds(Usage, SECONDS, SECONDS, SECONDS, COUNT, COUNT, COUNT, COUNT, st.booleans(), SECONDS)
VERDICTS = st.builds(
    Verdict,
    PROBABILITY,
    st.lists(st.builds(Finding, NAME, PROBABILITY, NAME, NAME, SPAN), max_size=3).map(tuple),
    NAME,
    NAME,
    USAGES,
    PROBABILITY,
    PROBABILITY,
    NAME,
    SPAN,
    st.lists(st.tuples(NAME, PROBABILITY), max_size=2).map(tuple),
)


@given(CALLS)
def test_a_call_is_read_as_it_was_written(call: CheckCall) -> None:
    """Every field arrives, and every character of a text."""
    assert call_of(json.loads(write_call(call))) == call


@given(VERDICTS)
def test_a_verdict_is_read_as_it_was_written(verdict: Verdict) -> None:
    """Every field arrives, and every float bit by bit."""
    read = read_verdict(dumps(verdict_fields(verdict)))
    assert read == verdict
    assert struct.pack("d", read.unsafe) == struct.pack("d", verdict.unsafe)
    assert repr(read) == repr(verdict)


FIELDS = verdict_fields(Verdict(0.5, (Finding("harm", 0.5),), "guard"))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        *(dumps({name: value for name, value in FIELDS.items() if name != missing}) for missing in FIELDS),
        *(json.dumps({**FIELDS, "unsafe": wrong}).encode() for wrong in (float("nan"), 1.5, -1, None, "0.5", True)),
        *(dumps({**FIELDS, "span": wrong}) for wrong in ([1], [2, 1], [0, 1.5], "ab", [-1, 2])),
        *(dumps({**FIELDS, "usage": {**FIELDS["usage"], "batch": wrong}}) for wrong in (None, 1.5, -1, True)),
        dumps({**FIELDS, "findings": [{"category": "harm"}]}),
        dumps({**FIELDS, "findings": [{**FIELDS["findings"][0], "probability": 7}]}),
        dumps({**FIELDS, "raw": [["harm"]]}),
        dumps({**FIELDS, "guard": 5}),
    ],
)
def test_an_answer_that_is_no_verdict_is_no_safe_one(answer: bytes) -> None:
    """Whatever is missing or wrong in an answer, the check counts as not judged."""
    with pytest.raises(GuardUnavailable, match="cannot be read"):
        read_verdict(answer)


MESSAGE: dict[str, Any] = {"role": "user", "parts": [{"text": "hello"}]}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], ""),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{**MESSAGE, "role": "robot"}]}, "messages[0].role"),
        ({"messages": [{**MESSAGE, "role": ["user"]}]}, "messages[0].role"),
        ({"messages": [{**MESSAGE, "content": "hello"}]}, "messages[0].content"),
        ({"messages": [MESSAGE, {"role": "user"}]}, "messages[1].parts"),
        ({"messages": [{"role": "user", "parts": ["hello"]}]}, "messages[0].parts[0]"),
        ({"messages": [{"role": "user", "parts": [{}]}]}, "messages[0].parts[0].text"),
        ({"messages": [{"role": "user", "parts": [{"text": "a", "kind": "song"}]}]}, "messages[0].parts[0].kind"),
        ({"messages": [MESSAGE], "side": "robot"}, "side"),
        ({"messages": [MESSAGE], "stream": 5}, "stream"),
        ({"messages": [MESSAGE], "stream": "x" * 1000}, "stream"),
        ({"messages": [MESSAGE], "polcy": "default"}, "polcy"),
        ({"messages": [MESSAGE], "policy": None}, "policy"),
        ({"messages": [MESSAGE], "policy": ""}, "policy"),
        ({"messages": [MESSAGE], "stream": ""}, "stream"),
        ({"messages": [MESSAGE], "asker": "me"}, "asker"),
        ({"messages": [MESSAGE], "asker": None}, "asker"),
        ({"messages": [MESSAGE], "asker": {"answered": 1}}, "asker.answered"),
    ],
)
def test_a_mistake_has_its_path(body: Any, path: str) -> None:
    """A body of another form is refused with the place of the mistake."""
    with pytest.raises(Unreadable) as caught:
        call_of(body)
    assert caught.value.path == path


def test_what_may_be_left_out() -> None:
    """A text without paths and side gets its place in the body, and the side of its role."""
    call = call_of({"messages": [{"role": "assistant", "parts": [{"text": "hello"}]}]})
    part = Part("messages[0].parts[0].text", "hello")
    assert call == CheckCall(Check(Conversation((Message("assistant", (part,)),)), "assistant"))


@pytest.mark.parametrize(
    "failure",
    [GuardUnavailable("it broke"), Overloaded("too busy", 1.25), Overloaded("busy", 0.1 + 0.2), JudgingTooLong("long")],
)
def test_a_failure_is_read_as_it_was_written(failure: GuardUnavailable) -> None:
    """The kind, the message and the seconds arrive."""
    read = failure_of(failure.status, write_failure(failure))
    assert (type(read), str(read), read.retry_s) == (type(failure), str(failure), failure.retry_s)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (413, write_failure(TooLarge("the body is large")), JudgingTooLong),
        (413, b"", JudgingTooLong),
        (429, b'{"error": {"code": "rate_limit_exceeded", "message": "slowly", "retry_s": 7}}', Overloaded),
        (503, b'{"error": {"code": "overloaded", "message": "busy", "retry_s": NaN}}', Overloaded),
        (503, b'{"error": {"code": "overloaded", "message": "busy", "retry_s": true}}', Overloaded),
        (503, b'{"error": "overloaded"}', GuardUnavailable),
        (500, b"\xff<html>", GuardUnavailable),
        (200, b"[" * 100_000, GuardUnavailable),
        (400, write_failure(Unreadable("must be a text", "messages")), GuardUnavailable),
    ],
)
def test_any_other_answer_is_a_failure(status: int, body: bytes, kind: type[GuardUnavailable]) -> None:
    """No answer but a verdict is one; a check that is too large never passes."""
    failure = failure_of(status, body)
    assert type(failure) is kind
    assert str(failure)
    assert failure.retry_s in {0.0, 1.0, 5.0, 7.0}


def test_an_account_is_read_as_it_was_written() -> None:
    """The categories arrive, which policies are checked against."""
    categories = (Category("harm", "Harm", "All of it", "S1"), Category("other", "Other"))
    account = Account("a & b", Taxonomy("own", categories, "v1"), ("x", "y"), "w1", ("de", "en"), 0.25)
    assert read_account(dumps(account_of(account))) == account
    with pytest.raises(GuardUnavailable, match="account cannot be read"):
        read_account(b'{"guard": 5}')
