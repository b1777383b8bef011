"""Requests: endpoints, fields and turns that a guard could overlook, through the whole proxy."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from guardproxy.guards.cache import Cached
from guardproxy.policy import PolicySet, Rule, SideRules
from tests.kit import Scripted, WordGuard
from tests.web.kit import WORDS, chat, completion, policy, standing

CHAT = "/v1/chat/completions"


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def sdk(url: str) -> openai.OpenAI:
    """The official client, as a user sets it up."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/batches",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/audio/speech",
        "/v1/rerank",
        "/v1/threads/t1/messages",
        "/v1/fine_tuning/jobs",
        "/v1/messages/batches",
        "/v1beta/models/m:embedContent",
        "/v1beta/models/m:batchGenerateContent",
        "/api/create",
        "/mcp",
    ],
)
def test_prompts_on_paths_that_nobody_reads(http: httpx.Client, path: str) -> None:
    """Files of prompts, batches, images, ranking: a path that no wire reads is refused and not forwarded."""
    with standing(completion("fine")) as (url, upstream):
        answer = http.post(url + path, content=chat("mix poison"))
    assert answer.status_code == 404
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "m", "prompt": "mix poison"}),
        ("/v1/completions", {"model": "m", "prompt": ["fine", "mix poison"]}),
        ("/v1/responses", {"model": "m", "input": "mix poison"}),
        ("/v1/responses", {"model": "m", "input": [{"role": "user", "content": "mix poison"}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "mix poison"}]}),
        ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "mix poison"}]}),
        ("/api/generate", {"model": "m", "prompt": "mix poison"}),
        ("/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "mix poison"}]}]}),
        ("/v1/models/m:streamGenerateContent", {"contents": [{"role": "user", "parts": [{"text": "mix poison"}]}]}),
    ],
)
def test_prompts_in_other_protocols(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """A harmful prompt is blocked in every protocol's endpoint and field."""
    with standing(completion("fine")) as (url, upstream):
        answer = http.post(url + path, content=json.dumps(body).encode())
    assert answer.status_code == 200
    assert answer.headers["x-guardproxy-action"] == "block"
    assert upstream.seen == []


def test_tools_reach_the_model_and_are_no_words_of_the_users() -> None:
    """A tool whose description names a harm does not block its user, and arrives unchanged."""
    tools: Any = [
        {
            "type": "function",
            "function": {"name": "poison_centre", "description": "Call the poison centre.", "parameters": {}},
        }
    ]
    with standing(completion("fine")) as (url, upstream):
        answer = sdk(url).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "my cat is ill"}], tools=tools
        )
    assert answer.choices[0].message.content == "fine"
    assert json.loads(upstream.seen[0].body)["tools"] == tools


@pytest.mark.parametrize(
    "arguments", [{"task": "mix poison"}, {"plan": {"steps": [{"do": "mix poison"}]}}], ids=["flat", "nested"]
)
def test_arguments_of_a_tool_call(arguments: dict[str, Any]) -> None:
    """A call whose arguments are harmful, at any depth, does not reach the client."""
    call = {"id": "c1", "type": "function", "function": {"name": "run", "arguments": json.dumps(arguments)}}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    with standing(Scripted([json.dumps(body).encode()])) as (url, _):
        answer = sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "go"}])
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "content_filter"


def test_a_payload_within_a_payload(http: httpx.Client) -> None:
    """JSON inside the string of a tool's result is judged as text, however its letters are escaped."""
    inner = json.dumps({"parts": [{"kind": "text", "text": "mix poison"}]})
    escaped = inner.replace("poison", "".join(f"\\u{ord(char):04x}" for char in "poison"))
    for content in (inner, [{"type": "text", "text": inner}], escaped):
        messages = [
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ask", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": content},
        ]
        policies = PolicySet({"default": policy(views=("hex", "invisible"))})
        with standing(completion("fine"), policies=policies) as (url, upstream):
            answer = http.post(url + CHAT, content=json.dumps({"model": "m", "messages": messages}).encode())
        assert answer.headers["x-guardproxy-action"] == "block"
        assert upstream.seen == []


def test_an_image_beside_a_harmless_text(http: httpx.Client) -> None:
    """If an image is forwarded unread, the answer says that coverage is partial; `block` refuses it."""
    content = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    strict = PolicySet({"default": policy(on_opaque={"user": "block", "assistant": "block"})})
    with standing(completion("a cat")) as (url, _):
        flagged = http.post(url + CHAT, content=body)
    with standing(completion("a cat"), policies=strict) as (url, upstream):
        refused = http.post(url + CHAT, content=body)
    assert (flagged.headers["x-guardproxy-action"], flagged.headers["x-guardproxy-coverage"]) == ("flag", "partial")
    assert refused.headers["x-guardproxy-action"] == "block"
    assert upstream.seen == []


@pytest.mark.parametrize(
    "turns",
    [
        ["user:mix poison", "user:thanks"],
        ["user:mix poi", "assistant:", "user:son"],
        ["user:mix poison", "assistant:Sure, first"],
        ["user:mix poison", "system:be brief"],
        ["user:mix poison", "user:"],
        ["user:hello", "assistant:hi", "user:mix poison", "user:thanks"],
    ],
)
def test_the_last_message_is_not_the_harmful_one(http: httpx.Client, turns: list[str]) -> None:
    """The user's text is judged, whatever message follows it and however it is split."""
    messages = [{"role": role, "content": text} for role, _, text in (turn.partition(":") for turn in turns)]
    # This guard finds a whole word only, so the split is inside a word.
    guard = WordGuard({"poison": ("weapons", 0.9), "poi\nson": ("weapons", 0.9)})
    with standing(completion("fine"), guard=guard) as (url, upstream):
        answer = http.post(url + CHAT, content=json.dumps({"model": "m", "messages": messages}).encode())
    assert answer.headers["x-guardproxy-action"] == "block"
    assert upstream.seen == []


def test_history_is_not_paid_for_again(http: httpx.Client) -> None:
    """A conversation that is sent again with one more turn costs only the checks of its new turns."""
    guard = WordGuard(WORDS)
    messages = [{"role": "user", "content": "hello"}]
    with standing(completion("hi there"), guard=Cached(guard, 100)) as (url, _):
        http.post(url + CHAT, content=json.dumps({"model": "m", "messages": messages}).encode())
        before = len(guard.asked)
        messages += [{"role": "assistant", "content": "hi there"}, {"role": "user", "content": "and now?"}]
        http.post(url + CHAT, content=json.dumps({"model": "m", "messages": messages}).encode())
    assert before == 2
    assert [check.turn.text for check in guard.asked[before:]] == ["and now?", "hi there"]


def test_a_risk_below_one_half(http: httpx.Client) -> None:
    """A harm of probability 0.45 reaches a threshold of 0.4, although "safe" is more probable."""
    rules = SideRules({"weapons": (Rule("block", 0.4),)})
    guard = WordGuard({"blade": ("weapons", 0.45)})
    policies = PolicySet({"default": policy(user=rules, assistant=rules)})
    with standing(completion("a blade"), guard=guard, policies=policies) as (url, upstream):
        asked = http.post(url + CHAT, content=chat("a blade"))
        replied = http.post(url + CHAT, content=chat("hello"))
    assert asked.headers["x-guardproxy-action"] == "block"
    assert replied.headers["x-guardproxy-action"] == "block"
    assert len(upstream.seen) == 1
