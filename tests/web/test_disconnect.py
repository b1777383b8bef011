"""Clients that leave: official SDKs over real sockets, and what a real audit store has of the reply afterwards."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from guardproxy.policy import BlockPolicy, PolicySet, StreamPolicy
from guardproxy.sinks.database import AuditStore
from guardproxy.types import Check, Record, Verdict
from tests.kit import WORDS, Scripted, ScriptedUpstream, WordGuard, until
from tests.web.kit import chat, completion, events, leave, policy, standing

WORDS_OF_REPLY = ("one two ", "three four ", "five six ")
TEXT = "".join(WORDS_OF_REPLY)
MODES: tuple[Any, ...] = ("monitor", "window", "hold_all")
WAIT_S = 30.0  # how long an upstream stays silent in a test in which the client leaves


class Stand:
    """A guarded proxy with a real store; its records can be read when it has stopped."""

    def __init__(self, folder: Path) -> None:
        self.address = f"sqlite:///{folder}/audit.sqlite3"

    @contextmanager
    def running(self, script: Scripted, mode: Any = "window", **changes: Any) -> Iterator[tuple[str, ScriptedUpstream]]:
        """Serve the proxy in front of an upstream that plays `script`; judging a text takes a moment."""
        rules = policy(stream=StreamPolicy(mode, every=1), **changes.pop("rules", {}))
        changes = {"guard": WordGuard(WORDS, delay_s=0.1), "policies": PolicySet({"default": rules}), **changes}
        with standing(script, sinks={"store": AuditStore(self.address)}, **changes) as (url, upstream):
            yield url, upstream

    def replies(self) -> list[Record]:
        """The records of replies in the store."""
        return [record for record in self.records() if record.side == "assistant"]

    def records(self) -> list[Record]:
        """All records in the store."""

        async def read() -> list[Record]:
            store = AuditStore(self.address, create=False)
            found = [stored.record async for stored in store.scan()]
            await store.close()
            return found

        return asyncio.run(read())


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    """A stand with an empty store."""
    return Stand(tmp_path)


@contextmanager
def client_of(url: str, **options: Any) -> Iterator[openai.OpenAI]:
    """The official client, without retries."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-c", **{"timeout": 60, "max_retries": 0, **options}) as sdk:
        yield sdk


def started(sdk: openai.OpenAI) -> Any:
    """A streamed reply."""
    return sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], stream=True)


def pausing(script: Scripted, after: int) -> Scripted:
    """The script with a long silence behind its first `after` items."""
    return replace(script, body=[*script.body[:after], WAIT_S])


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_leaves_at_the_terminator(stand: Stand, mode: Any, required: bool) -> None:
    """OpenAI's client closes the connection at `[DONE]`, before the upstream does; the reply has one record."""
    script = events(*WORDS_OF_REPLY)
    with stand.running(pausing(script, len(script.body)), mode, required=required) as (url, _), client_of(url) as sdk:
        read = "".join(chunk.choices[0].delta.content or "" for chunk in started(sdk))
    assert read == TEXT
    (record,) = stand.replies()
    assert (record.text, record.complete, record.outcome, record.error) == (TEXT, True, "pass", "")
    assert record.verdict is not None
    assert record.reply is not None
    assert (record.reply.id, record.reply.model) == ("c1", "m")


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_leaves_in_the_middle(stand: Stand, mode: Any) -> None:
    """Everything that was read is judged, whether the client has seen it or not; nothing more is read."""
    script = events(*WORDS_OF_REPLY)
    guard = WordGuard(WORDS, delay_s=0.1)
    with stand.running(pausing(script, 5), mode, guard=guard) as (url, upstream), client_of(url) as sdk:
        stream = started(sdk)
        assert upstream.pauses.wait(60)
        if mode == "monitor":
            until(lambda: "four" in (next(stream).choices[0].delta.content or ""))
        elif mode == "window":
            next(chunk for chunk in stream if chunk.choices[0].delta.content)
            until(lambda: any("three four" in check.turn.text for check in guard.asked))
        else:
            time.sleep(0.3)  # nobody sees what it has read
        stream.close()
        assert upstream.left.wait(60)
    (record,) = stand.replies()
    assert (record.text, record.complete, record.outcome, record.error) == ("one two three four ", False, "pass", "")
    assert record.verdict is not None


@pytest.mark.parametrize("mode", MODES)
def test_harm_that_a_client_does_not_wait_for(stand: Stand, mode: Any) -> None:
    """The verdict on what was being judged decides; what the client cannot have got any more is refused."""
    script = events("one two ", "poison ", "five six ")
    guard = WordGuard(WORDS, delay_s=0.5)
    with stand.running(pausing(script, 5), mode, guard=guard) as (url, upstream), client_of(url) as sdk:
        stream = started(sdk)
        assert upstream.pauses.wait(60)
        time.sleep(0.7)
        stream.close()
    (record,) = stand.replies()
    assert (record.decision.action, record.decision.categories) == ("block", ("weapons",))
    assert record.text == "one two poison "
    assert mode == "window" or not record.complete  # in a window the proxy may have ended the reply before
    assert record.outcome == ("pass" if mode == "monitor" else "refuse")


@pytest.mark.parametrize("mode", ["window", "hold_all"])
def test_a_client_that_leaves_before_the_first_byte(stand: Stand, mode: Any) -> None:
    """A reply that was being judged while nothing of it had left is recorded as far as it was read."""
    script = events(*WORDS_OF_REPLY)
    rules = {"block": BlockPolicy("error")}
    guard = WordGuard(WORDS, delay_s=0.6)
    with stand.running(pausing(script, 5), mode, rules=rules, guard=guard) as (url, upstream):
        leave(url, chat(stream=True), upstream.pauses.is_set)
    (record,) = stand.replies()
    assert (record.text, record.complete, record.error) == ("one two three four ", False, "")
    assert record.verdict is not None


def test_a_client_that_leaves_before_the_upstream_answers(stand: Stand) -> None:
    """There is no reply to record; the user's turn has its record."""
    with stand.running(pausing(events(*WORDS_OF_REPLY), 0)) as (url, upstream):
        leave(url, chat(stream=True), lambda: upstream.seen)
    assert [(record.side, record.text) for record in stand.records()] == [("user", "hello")]


def test_a_client_that_leaves_while_its_turn_is_judged(stand: Stand) -> None:
    """The turn is judged to its end and recorded; nothing is forwarded."""
    guard = WordGuard(WORDS, delay_s=1)
    with stand.running(completion("hello"), guard=guard) as (url, upstream):
        leave(url, chat("poison"), lambda: guard.asked)
    assert upstream.seen == []
    (record,) = stand.records()
    assert (record.side, record.outcome, record.decision.categories) == ("user", "refuse", ("weapons",))


@pytest.mark.parametrize("error", [False, True])
def test_a_client_that_leaves_while_a_whole_reply_is_judged(stand: Stand, error: bool) -> None:
    """A whole reply, or an error with a text, is judged to its end and recorded."""
    script = completion("poison")
    if error:
        script = Scripted([json.dumps({"error": {"message": "poison"}}).encode()], status=400)
    guard = WordGuard(WORDS, delay_s=0.6)
    with stand.running(script, guard=guard) as (url, _):
        leave(url, chat(), lambda: len(guard.asked) == 2)
    (record,) = stand.replies()
    assert (record.text, record.outcome, record.complete) == ("poison", "refuse", True)


def test_an_upstream_that_breaks_off(stand: Stand) -> None:
    """What a client has seen of a reply that breaks off is judged, and recorded as incomplete."""
    script = replace(events(*WORDS_OF_REPLY), body=[*events(*WORDS_OF_REPLY).body[:5], None])
    with (
        stand.running(script, "monitor") as (url, _),
        client_of(url) as sdk,
        pytest.raises((openai.APIError, httpx.RemoteProtocolError)),
    ):
        list(started(sdk))
    (record,) = stand.replies()
    assert (record.text, record.complete, record.error) == ("one two three four ", False, "")


def test_an_upstream_that_ends_without_a_finish_reason(stand: Stand) -> None:
    """A reply without its end is incomplete, although the connection ended properly."""
    script = replace(events(*WORDS_OF_REPLY), body=events(*WORDS_OF_REPLY).body[:5])
    with stand.running(script) as (url, _), client_of(url) as sdk:
        list(started(sdk))
    (record,) = stand.replies()
    assert (record.text, record.complete) == ("one two three four ", False)


@pytest.mark.parametrize("mode", MODES)
def test_an_anthropic_client_that_leaves_at_the_end(stand: Stand, mode: Any) -> None:
    """A client that stops reading at `message_stop`: the record has the text, the model and the usage."""
    bodies: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {
                "id": "msg_7",
                "type": "message",
                "role": "assistant",
                "model": "claude-answered",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 11, "output_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
            for text in WORDS_OF_REPLY
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ]
    frames = [f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode() for body in bodies]
    script = Scripted([*frames, WAIT_S], headers={"content-type": "text/event-stream"})
    with (
        stand.running(script, mode) as (url, _),
        anthropic.Anthropic(base_url=url, api_key="k", timeout=60, max_retries=0) as sdk,
        sdk.messages.stream(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}], metadata={"user_id": "u-1"}
        ) as stream,
    ):
        for event in stream:
            if event.type == "message_stop":
                break
    (record,) = stand.replies()
    assert (record.text, record.complete, record.error) == (TEXT, True, "")
    assert record.reply is not None
    assert (record.reply.id, record.reply.model) == ("msg_7", "claude-answered")
    assert (record.reply.input_tokens, record.reply.output_tokens) == (11, 7)
    assert len(record.origin.user) == 16


def test_texts_without_a_client_are_bounded(stand: Stand) -> None:
    """Without time for them, the record of a reply says that its verdict is missing."""

    class Endless(WordGuard):
        """It judges the user's turn, and never comes to an end with a reply."""

        async def judge(self, check: Check) -> Verdict:
            self.delay_s = 0.0 if check.side == "user" else 3600.0
            return await super().judge(check)

    script, guard = pausing(events(*WORDS_OF_REPLY), 5), Endless(WORDS)
    with stand.running(script, "monitor", guard=guard, after_disconnect_s=0) as (url, _), client_of(url) as sdk:
        stream = started(sdk)
        until(lambda: "four" in (next(stream).choices[0].delta.content or ""))
        stream.close()
    (record,) = stand.replies()
    assert (record.verdict, record.complete) == (None, False)
    assert record.text == "one two three four "
    assert record.error == "the stream ended before the last verdict"
