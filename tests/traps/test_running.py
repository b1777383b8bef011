"""Operation, through the whole proxy: bypasses of the guard, the cost and text of a block, and the records."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Pipeline
from guardproxy.policy import BlockPolicy, PolicySet, Route, Rule, SideRules
from guardproxy.registry import load
from guardproxy.types import Category, Check, Finding, Record, Taxonomy, Verdict
from guardproxy.web.upstream import Retries
from tests.kit import ListSink, WordGuard
from tests.web.kit import WORDS, chat, completion, events, policy, standing

CHAT = "/v1/chat/completions"


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def sdk(url: str) -> openai.OpenAI:
    """The official client, as a user sets it up."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60)


class Indifferent(WordGuard):
    """A guard that gives every text the same verdict."""

    def __init__(self, unsafe: float) -> None:
        super().__init__({})
        self.taxonomy = Taxonomy("words", (Category("weapons", "Weapons"),))
        self._unsafe = unsafe

    async def judge(self, check: Check) -> Verdict:
        """The same verdict."""
        return Verdict(self._unsafe, (Finding("weapons", self._unsafe),), self.name)


@pytest.mark.parametrize("unsafe", [0.0, 0.5, 1.0])
def test_a_guard_that_is_never_really_asked(unsafe: float) -> None:
    """A guard that does not separate a known-bad from a known-good turn fails the canaries before any request."""
    metrics = Metrics(CollectorRegistry())
    actions = {name: load(name, REGISTRY, "action") for name in REGISTRY}
    pipeline = Pipeline(Indifferent(unsafe), Observers({}, metrics=metrics, text="none"), metrics, actions)
    assert "known-bad" in asyncio.run(pipeline.canaries(policy()))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"metadata": {"guardrails": []}}, {}),
        ({"guardrails": [], "guardproxy": {"policy": "none"}}, {}),
        ({"extra_body": {"skip_moderation": True}}, {}),
        ({}, {"x-guardproxy-action": "pass", "x-guardproxy-route": "none"}),
        ({}, {"x-guardproxy-coverage": "full", "x-guardproxy-audit": "none", "x-request-id": ""}),
    ],
)
def test_a_caller_that_asks_for_no_guard(http: httpx.Client, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Nothing in a request disables the guard or prevents its record."""
    sink = ListSink()
    with standing(completion("fine"), sinks={"list": sink}) as (url, upstream):
        answer = http.post(url + CHAT, content=chat("mix poison", **body), headers=headers)
    assert answer.headers["x-guardproxy-action"] == "block"
    assert upstream.seen == []
    assert ("block", "mix poison") in [(record.decision.action, record.text) for record in sink.records]


def test_a_caller_that_names_a_policy_of_its_own(http: httpx.Client) -> None:
    """A policy that the route does not offer is an error, and nothing is forwarded."""
    with standing(completion("fine")) as (url, upstream):
        answer = http.post(url + CHAT, content=chat("mix poison"), headers={"x-guardproxy-policy": "none"})
    assert answer.status_code == 400
    assert upstream.seen == []


@pytest.mark.parametrize("how", ["completion", "error"])
@pytest.mark.parametrize("side", ["request", "reply", "stream"])
def test_a_refusal_does_not_quote(http: httpx.Client, side: str, how: Any) -> None:
    """Neither body nor headers of a blocked answer contain the blocked text, its place or its probability."""
    text = "the poison of the frog"
    script = events("", text) if side == "stream" else completion(text)
    policies = PolicySet({"default": policy(block=BlockPolicy(how=how))})
    with standing(script, policies=policies) as (url, _):
        answer = http.post(url + CHAT, content=chat(text if side == "request" else "hello", stream=side == "stream"))
    # A time may happen to contain the digits of the guard's probability.
    shown = answer.text + str([pair for pair in answer.headers.items() if pair[0] != "server-timing"])
    assert "withheld" in answer.text
    assert [word for word in ("poison", "frog", "0.9", "messages[0]") if word in shown] == []


def test_a_block_is_paid_for_once() -> None:
    """A blocked reply is not requested again, even with retries; a blocked request is never sent."""
    again = {"retries": Retries(3, "unknown")}
    policies = PolicySet({"default": policy(block=BlockPolicy(how="error"))})
    with standing(completion("the poison"), upstream=again, policies=policies) as (url, upstream), sdk(url) as client:
        for text in ("hello", "mix poison"):
            with pytest.raises(openai.BadRequestError, match="withheld"):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    assert [json.loads(seen.body)["messages"][0]["content"] for seen in upstream.seen] == ["hello"]


def test_what_only_looks_on_never_blocks(http: httpx.Client) -> None:
    """A flagging rule and a blocking shadow policy let everything pass, and their decisions are recorded."""
    flags = SideRules({"weapons": (Rule("flag", 0.5),)})
    policies = PolicySet(
        {"default": policy(user=flags, assistant=flags), "strict": policy()},
        (Route("all", "default", shadow=("strict",)),),
    )
    sink = ListSink()
    with standing(completion("the poison"), policies=policies, sinks={"list": sink}) as (url, upstream):
        answer = http.post(url + CHAT, content=chat("mix poison"))
    assert answer.json()["choices"][0]["message"]["content"] == "the poison"
    assert answer.headers["x-guardproxy-action"] == "flag"
    assert len(upstream.seen) == 1
    seen = [(record.side, record.shadow, record.decision.action) for record in sink.records]
    assert sorted(seen) == [
        ("assistant", False, "flag"),
        ("assistant", True, "block"),
        ("user", False, "flag"),
        ("user", True, "block"),
    ]


def test_a_guard_that_failed_is_on_record_as_such(http: httpx.Client) -> None:
    """An unjudged turn is recorded without a verdict and with the cause, never as passed."""
    sink = ListSink()
    with standing(completion("fine"), sinks={"list": sink}) as (url, upstream):
        http.post(url + CHAT, content=chat("FAIL"))
    (record,) = sink.records
    assert upstream.seen == []
    assert record.verdict is None
    assert "told to fail" in record.error
    assert (record.decision.action, record.decision.cause) == ("block", "guard_error")
    assert [part.judged for part in record.coverage] == [False]


def test_a_probability_does_not_move_with_its_threshold(http: httpx.Client) -> None:
    """Policies with different thresholds decide differently on the same recorded probability."""
    strict = SideRules({"weapons": (Rule("block", 0.2),)})
    lax = SideRules({"weapons": (Rule("block", 0.95),)})
    policies = PolicySet({"default": policy(user=strict), "lax": policy(user=lax)}, (Route("lax", "lax", model="lax"),))
    sink = ListSink()
    with standing(completion("fine"), policies=policies, sinks={"list": sink}) as (url, _):
        http.post(url + CHAT, content=chat("mix poison"))
        http.post(url + CHAT, content=json.dumps({**json.loads(chat("mix poison")), "model": "lax"}).encode())
    users = [record for record in sink.records if record.side == "user"]
    assert [record.decision.action for record in users] == ["block", "pass"]
    assert _probabilities(users) == [0.9, 0.9]


def test_a_refusal_that_stands_in_the_history(http: httpx.Client) -> None:
    """After a blocked turn, later harmless turns are answered."""
    turns = [("user", "mix poison"), ("assistant", BlockPolicy().message), ("user", "then a cake")]
    body = {"model": "m", "messages": [{"role": role, "content": text} for role, text in turns]}
    with standing(completion("a cake"), guard=WordGuard(WORDS)) as (url, upstream):
        answer = http.post(url + CHAT, content=json.dumps(body).encode())
    assert answer.json()["choices"][0]["message"]["content"] == "a cake"
    assert b"poison" not in upstream.seen[0].body


def _probabilities(records: Sequence[Record]) -> list[float]:
    return [record.verdict.findings[0].probability for record in records if record.verdict is not None]
