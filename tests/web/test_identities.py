"""Who asks: the end user and the session in records, the random sample, and which passed turns are recorded."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import anthropic
import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.observe.masking import short_hash
from guardproxy.observe.records import masked_record
from guardproxy.policy import Policy, PolicySet, StreamPolicy
from guardproxy.settings import AuditSettings
from guardproxy.types import Record
from guardproxy.web.headers import Headers
from guardproxy.web.identities import LONGEST, Identities
from guardproxy.web.sample import ReviewSample
from tests.kit import ListSink, Scripted
from tests.web.kit import chat, completion, events, policy, standing

PLAIN = AuditSettings(user_plain=True)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["user_id", "id", "x"]), inner),
)


def found(body: Mapping[str, Any], headers: Headers | None = None, settings: AuditSettings = PLAIN) -> tuple[str, str]:
    """The end user and the session."""
    return Identities(settings).of(body, headers or [])


@pytest.mark.parametrize(
    ("body", "headers", "user", "session"),
    [
        ({}, [], "", ""),
        ({"user": "a", "safety_identifier": "b"}, [(b"x-user-id", b"c")], "a", ""),
        ({"safety_identifier": "b", "metadata": {"user_id": "d"}}, [], "b", ""),
        ({"metadata": {"user_id": "d", "session_id": "s"}}, [(b"x-user-id", b"c")], "d", "s"),
        ({"user": {"id": "x"}, "metadata": ["user_id"]}, [(b"X-User-Id", b" c ")], "c", ""),
        ({"user": 17, "session_id": 0.5}, [], "17", "0.5"),
        ({"user": True, "session_id": "  "}, [], "", ""),
        ({"conversation": "conv_1", "session_id": "s"}, [], "", "s"),
        ({"conversation": "conv_1"}, [(b"X-Session-Id", b"h")], "", "h"),
        ({"conversation": {"id": "conv_2"}}, [], "", "conv_2"),
        ({}, [(b"x-user-id", "Zoë".encode()), (b"x-session-id", b"\xe9")], "Zoë", "é"),
    ],
)
def test_the_first_place_that_names_one_counts(body: Any, headers: Any, user: str, session: str) -> None:
    """The places are tried in the order of the list; values that are neither texts nor numbers count as absent."""
    assert found(body, headers) == (user, session)


def test_values_are_hashed_unless_they_shall_be_plain() -> None:
    """The hash is that of the client's key; a long value is hashed in any case."""
    assert found({"user": "a"}, settings=AuditSettings()) == (short_hash(b"a"), "")
    assert found({"user": "a" * LONGEST, "session_id": "s" * (LONGEST + 1)}) == (
        "a" * LONGEST,
        short_hash(b"s" * (LONGEST + 1)),
    )


@given(VALUES, VALUES, VALUES, st.binary(max_size=9))
def test_no_value_fails(user: Any, metadata: Any, conversation: Any, header: bytes) -> None:
    """Whatever a client sends in these places, there is a name of bounded length or none."""
    body = {"user": user, "metadata": metadata, "conversation": conversation}
    assert all(len(name) <= LONGEST for name in found(body, [(b"x-user-id", header), (b"x-session-id", header)]))


def records_of(settings: AuditSettings, ask: Any, *script: Scripted, **changes: Any) -> list[Record]:
    """The records of a guarded proxy that `ask` was called with."""
    sink = ListSink()
    identities = Identities(settings)
    with standing(*(script or (completion("fine"),)), sinks={"list": sink}, identities=identities, **changes) as (u, _):
        ask(u)
    return sink.records


def test_official_clients_name_their_users() -> None:
    """The fields of OpenAI's and Anthropic's clients, in the records of both sides."""

    def ask(url: str) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60) as sdk:
            sdk.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                safety_identifier="u-2",
                extra_headers={"x-session-id": "s-2"},
            )

    assert {(r.side, r.origin.user, r.origin.session) for r in records_of(PLAIN, ask)} == {
        ("user", "u-2", "s-2"),
        ("assistant", "u-2", "s-2"),
    }
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn"}
    content = {"content": [{"type": "text", "text": "fine"}], "usage": {"input_tokens": 2, "output_tokens": 1}}

    def ask_anthropic(url: str) -> None:
        with anthropic.Anthropic(base_url=url, api_key="k", timeout=60) as sdk:
            sdk.messages.create(
                model="c",
                max_tokens=5,
                messages=[{"role": "user", "content": "hi"}],
                metadata={"user_id": "u-3"},
                extra_body={"session_id": "s-3"},
            )

    records = records_of(PLAIN, ask_anthropic, Scripted([json.dumps({**body, **content}).encode()]))
    assert {(record.origin.user, record.origin.session) for record in records} == {("u-3", "s-3")}
    (reply,) = [record.reply for record in records if record.side == "assistant"]
    assert reply is not None
    assert (reply.id, reply.model, reply.input_tokens, reply.output_tokens) == ("msg_1", "c", 2, 1)


@pytest.mark.parametrize("rule", ["full", "redacted", "hash", "none"])
def test_masking_makes_no_two_users_the_same(rule: Any) -> None:
    """A plain name that must be masked is hashed instead; a hash, and the id of a reply, stay as they are."""

    def ask(url: str) -> None:
        for user in ("ann@example.com", "bob@example.com", "0123456789012345"):
            httpx.post(f"{url}/v1/chat/completions", content=chat(user=user, session_id="5f" * 16))

    records = [masked_record(record, rule) for record in records_of(PLAIN, ask)]
    users = {record.origin.user for record in records}
    assert len(users) == 3
    assert ("ann@example.com" in users) is (rule == "full")
    assert "0123456789012345" in users
    assert "[secret]" not in {record.origin.session for record in records}
    assert {record.reply.id for record in records if record.reply} == {"c1"}


def sampled(share: float, seed: int, number: int, **changes: Any) -> list[Record]:
    """The records of `number` harmless requests and a harmful one."""

    def ask(url: str) -> None:
        with httpx.Client() as http:
            for _ in range(number):
                http.post(f"{url}/v1/chat/completions", content=chat())
            http.post(f"{url}/v1/chat/completions", content=chat("poison"))

    return records_of(PLAIN, ask, sample=ReviewSample(share, Random(seed)), **changes)


def test_the_sample_is_of_requests() -> None:
    """Every request is drawn once, with the same probability; all of its records have the mark."""
    records = sampled(0.5, 7, 30)
    source = Random(7)
    drawn = [source.random() < 0.5 for _ in range(31)]
    marks: dict[str, set[bool]] = {}
    for record in records:
        marks.setdefault(record.origin.request_id, set()).add(record.sampled)
    assert [mark for (mark,) in marks.values()] == drawn
    assert len(records) == 61
    assert not any(record.sampled for record in sampled(0.0, 7, 3))
    assert all(record.sampled for record in sampled(1.0, 7, 3))


def test_passed_turns_outside_the_sample_need_not_be_recorded() -> None:
    """With `passed: sampled` the store has the sampled requests whole, and of all others what did not pass."""
    every, kept = sampled(0.3, 5, 20), sampled(0.3, 5, 20, passed="sampled")
    number = sum(record.sampled for record in every if record.decision.action == "pass")
    assert 0 < number < 40
    assert sum(record.decision.action == "pass" for record in kept) == number
    assert [record.decision.action for record in kept if not record.sampled] == ["block"]


def test_a_turn_that_was_not_judged_does_not_count_as_passed() -> None:
    """A turn that the guard has failed to judge is recorded whatever the sample is."""
    lenient = PolicySet({"default": policy(on_guard_error="allow")})

    def ask(url: str) -> None:
        httpx.post(f"{url}/v1/chat/completions", content=chat("FAIL"))

    sample = ReviewSample(0.0, Random(1))
    records = records_of(PLAIN, ask, policies=lenient, passed="sampled", sample=sample)
    assert [(record.side, record.error) for record in records] == [("user", "told to fail")]


@pytest.mark.parametrize("mode", ["monitor", "window", "hold_all"])
def test_what_a_stream_holds_back(mode: Any) -> None:
    """The record of a stream has the most text that waited at one time and the longest wait; `monitor` holds none."""
    live = PolicySet({"default": Policy("default", "v", policy().user, policy().assistant, stream=StreamPolicy(mode))})

    def ask(url: str) -> None:
        httpx.post(f"{url}/v1/chat/completions", content=chat(stream=True))

    records = records_of(PLAIN, ask, events("a" * 50, "b" * 50, pause_s=0.4), policies=live)
    (reply,) = [record.reply for record in records if record.side == "assistant"]
    assert reply is not None
    assert reply.held_characters == (0 if mode == "monitor" else 100)
    assert (reply.held_s < 0.2) if mode == "monitor" else (0.2 <= reply.held_s < 60)
