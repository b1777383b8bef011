"""Streamed replies: what a client could read too early, twice or never, through the whole proxy."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from guardproxy.policy import Policy, PolicySet, Rule, SideRules, StreamPolicy
from tests.kit import ListSink, Scripted, WordGuard
from tests.web.kit import WORDS, chat, completion, events, policy, standing

CHAT = "/v1/chat/completions"
ASKED: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def sdk(url: str) -> openai.OpenAI:
    """The official client, as a user sets it up."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60)


def only(default: Policy) -> PolicySet:
    """This policy for every request."""
    return PolicySet({"default": default})


def sent(script: Scripted) -> bytes:
    """All bytes that the upstream sends."""
    return b"".join(piece for piece in script.body if isinstance(piece, bytes))


@pytest.mark.parametrize("every", [1, 4, 9, 200, "auto"])
def test_a_phrase_that_begins_before_the_released_text_ends(every: Any) -> None:
    """A phrase that straddles the release boundary is found together with the text that was released."""
    policies = only(policy(stream=StreamPolicy(every=every)))
    script = events("a nice cake of po", "i", "so", "n and sugar", pause_s=0.03)
    with standing(script, policies=policies) as (url, _):
        chunks = list(sdk(url).chat.completions.create(model="m", messages=ASKED, stream=True))
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "poison" not in content
    assert "sugar" not in content
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_a_policy_that_only_flags_still_blocks_where_the_guard_fails(http: httpx.Client) -> None:
    """Even if the policy only flags, unjudged text of a stream is not released."""
    flags = SideRules({"weapons": (Rule("flag", 0.5),)})
    policies = only(policy(assistant=flags, on_guard_error="block", stream=StreamPolicy(every=4)))
    with standing(events("words of ", "poison ", "FAIL and ", "more", pause_s=0.03), policies=policies) as (url, _):
        answer = http.post(url + CHAT, content=chat(stream=True))
    assert b"FAIL" not in answer.content
    assert b"more" not in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


def test_monitoring_neither_holds_nor_refuses_a_long_stream(http: httpx.Client) -> None:
    """`monitor` passes a reply of any length unchanged, and records the decision."""
    policies = only(policy(stream=StreamPolicy(mode="monitor")))
    script = events("poison ", *(["and a great many other words "] * 4000))
    sink = ListSink()
    with standing(script, policies=policies, sinks={"list": sink}) as (url, _):
        answer = http.post(url + CHAT, content=chat(stream=True))
    assert answer.content == sent(script)
    assert [record.decision.action for record in sink.records if record.side == "assistant"] == ["block"]


def test_a_blocked_request_for_a_stream_is_answered_as_a_stream(http: httpx.Client) -> None:
    """The refusal is a stream with a text, a finish reason and the terminator that clients wait for."""
    with standing(events("fine")) as (url, upstream):
        answer = http.post(url + CHAT, content=chat("mix poison", stream=True))
    assert upstream.seen == []
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [frame for frame in answer.text.split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    choices = [choice for frame in frames[:-1] for choice in json.loads(frame.removeprefix("data: "))["choices"]]
    assert "withheld" in "".join(choice["delta"].get("content") or "" for choice in choices)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["content_filter"]


def test_a_reply_is_not_judged_again_when_it_has_ended(http: httpx.Client) -> None:
    """A reply of a few words costs one check; a longer one a few, at growing distances, and one at its end."""
    for words, most in ((["short ", "answer"], 1), (["ten chars "] * 60, 5)):
        guard = WordGuard(WORDS)
        with standing(events(*words), guard=guard) as (url, _):
            http.post(url + CHAT, content=chat(stream=True))
        asked = [check for check in guard.asked if check.side == "assistant"]
        assert 1 <= len(asked) <= most
        assert len({check.turn.text for check in asked}) == len(asked)


def test_what_was_said_of_a_stream_is_on_record(http: httpx.Client) -> None:
    """The record of a streamed reply has the probabilities, the thresholds and the text, like that of a whole one."""
    sink = ListSink()
    with standing(events("the ", "poison"), sinks={"list": sink}) as (url, _):
        http.post(url + CHAT, content=chat(stream=True))
    (record,) = [record for record in sink.records if record.side == "assistant"]
    assert record.verdict is not None
    assert [(found.category, found.probability) for found in record.verdict.findings] == [("weapons", 0.9)]
    assert [(r.category, r.threshold, r.action) for r in record.decision.reasons] == [("weapons", 0.5, "block")]
    assert (record.outcome, record.text, record.origin.stream) == ("refuse", "the poison", True)


def test_the_last_frame_of_a_stream_arrives() -> None:
    """With rules for replies the client still gets the reason to stop, the usage, and the end of the stream."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
    script = events("all ", "is well")
    *body, done = script.body
    counted = Scripted([*body, b"data: " + json.dumps(frame).encode() + b"\n\n", done], headers=script.headers)
    with standing(counted) as (url, _):
        options: Any = {"include_usage": True}
        chunks = list(sdk(url).chat.completions.create(model="m", messages=ASKED, stream=True, stream_options=options))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("reply", "expected"),
    [("the poison", "withheld"), ("the secret", "[removed by policy]"), ("a rude word", "a rude word")],
    ids=["block", "rewrite", "flag"],
)
def test_every_rule_for_replies_holds_in_a_stream_too(reply: str, expected: str, stream: bool) -> None:
    """What a rule does to a whole reply it does to a streamed one."""
    script = events(reply[:5], reply[5:]) if stream else completion(reply)
    with standing(script) as (url, _), sdk(url) as client:
        if stream:
            chunks = client.chat.completions.create(model="m", messages=ASKED, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content or ""
    assert expected in text
    assert ("poison" in text, "secret" in text) == (False, False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_beside_an_approved_answer(http: httpx.Client, field: str, stream: bool) -> None:
    """A harmless answer does not carry harmful reasoning to the client."""
    head = {"id": "c1", "object": "chat.completion.chunk" if stream else "chat.completion", "created": 1, "model": "m"}
    message = {"role": "assistant", "content": "Fine.", field: "first the poison, then"}
    choice = {"index": 0, "finish_reason": "stop", "delta" if stream else "message": message}
    body = json.dumps({**head, "choices": [choice]}).encode()
    script = Scripted([body])
    if stream:
        script = Scripted([b"data: " + body + b"\n\ndata: [DONE]\n\n"], headers={"content-type": "text/event-stream"})
    with standing(script) as (url, _):
        answer = http.post(url + CHAT, content=chat(stream=stream))
    assert answer.status_code == 200
    assert b"poison" not in answer.content


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_second_of_two_answers(http: httpx.Client, stream: bool) -> None:
    """With n = 2 the harmful second answer is withheld, and the first stays as it is."""
    head = {"id": "c1", "object": "chat.completion.chunk" if stream else "chat.completion", "created": 1, "model": "m"}
    key = "delta" if stream else "message"
    choices = [
        {"index": place, key: {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for place, text in enumerate(("a cake", "the poison"))
    ]
    if stream:
        frames = [b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n" for choice in choices]
        script = Scripted([*frames, b"data: [DONE]\n\n"], headers={"content-type": "text/event-stream"})
    else:
        script = Scripted([json.dumps({**head, "choices": choices}).encode()])
    with standing(script) as (url, _):
        answer = http.post(url + CHAT, content=chat(stream=stream, n=2))
    assert b"a cake" in answer.content
    assert b"poison" not in answer.content
    assert b"content_filter" in answer.content
