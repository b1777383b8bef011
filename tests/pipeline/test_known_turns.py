"""Turns of a resent conversation: what was found in them is known, what is decided about them is decided anew."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guardproxy.guards.cache import Cached
from guardproxy.observe import Metrics
from guardproxy.observe.masking import text_hash
from guardproxy.pipeline import Exclusions, Pipeline, RequestReview
from guardproxy.pipeline.exchange import JudgedTurn
from guardproxy.pipeline.judged_request import JudgedRequest
from guardproxy.pipeline.known_turns import prefixes_of
from guardproxy.pipeline.request_judging import judge_request
from guardproxy.policy import JudgeScope, Policy, Rule, SideRules, ThreadPolicy
from guardproxy.reviews import Exclusion
from guardproxy.types import Check, Message, Part, Usage, Verdict
from tests.kit import WORDS, WordGuard
from tests.pipeline.test_pipeline import Run, policy


class Asked(Cached):
    """A cache that notes which texts it was asked about."""

    def __init__(self, guard: WordGuard) -> None:
        super().__init__(guard, 1000)
        self.texts: list[str] = []

    async def judge(self, check: Check) -> Verdict:
        """Note the text and answer."""
        self.texts.append(check.turn.text)
        return await super().judge(check)


CONTENTS = st.sampled_from(
    ["hello", "a poison", "rude", "po", "ison", "", "c29tZXRoaW5nIHJ1ZGUgYW5kIGxvbmc="]
) | st.lists(
    st.sampled_from(
        [
            {"type": "text", "text": "po"},
            {"type": "text", "text": "ison"},
            {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}},
        ]
    ),
    min_size=1,
    max_size=3,
)
CHATS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "user", "assistant", "system"]), CONTENTS).map(
        lambda pair: {"role": pair[0], "content": pair[1]}
    ),
    min_size=1,
    max_size=6,
)
REDACTS = SideRules({"*": (Rule("rewrite", 0.5, "redact"),)})
POLICIES = [
    policy(),
    policy(history="block", views=("base64",)),
    policy(history="allow", thread=ThreadPolicy(turns=4), judge=JudgeScope(("system", "tool", "user"))),
    policy(user=REDACTS, thread=ThreadPolicy(turns=3)),
]


def reviews(run: Run, *asked: tuple[list[dict[str, Any]], Policy]) -> list[RequestReview]:
    """The reviews of requests one after the other."""

    async def all_of_them() -> list[RequestReview]:
        exchanges = [run.exchange({"messages": messages}, rules) for messages, rules in asked]
        return [await run.pipeline.review_request(exchange) for exchange in exchanges]

    found: list[RequestReview] = run._with(all_of_them)
    return found


def judged(run: Run, *asked: tuple[list[dict[str, Any]], Policy]) -> list[list[Any]]:
    """What is found in the turns of requests and decided about them, one request after the other."""

    async def all_of_them() -> list[JudgedRequest]:
        exchanges = [run.exchange({"messages": messages}, rules) for messages, rules in asked]
        return [await judge_request(run.pipeline.judging, exchange) for exchange in exchanges]

    found: list[JudgedRequest] = run._with(all_of_them)
    return [[_without_costs(one) for one in request.turns] for request in found]


def _without_costs(one: JudgedTurn) -> JudgedTurn:
    verdict = replace(one.verdict, usage=Usage()) if one.verdict else None
    return replace(one, verdict=verdict, latency_s=0.0)


def said(reviewed: RequestReview) -> tuple[Any, ...]:
    """What a review says, without the exchange."""
    answer = reviewed.body, reviewed.refusal, reviewed.action, reviewed.categories
    return (*answer, reviewed.dropped, reviewed.coverage)


@settings(max_examples=50, deadline=None)
@given(CHATS, st.sampled_from(POLICIES))
def test_a_conversation_that_is_sent_again_is_judged_as_at_first(chat: list[dict[str, Any]], rules: Policy) -> None:
    """However often it was sent, and whatever it began with: a guard that has seen nothing says the same of it."""
    asked = [(chat[:length], rules) for length in (*range(1, len(chat) + 1), len(chat), len(chat))]
    fresh = [Run(WordGuard(WORDS)) for _ in range(2 * len(asked))]
    expected = [said(reviews(run, one)[0]) for run, one in zip(fresh, asked, strict=False)]
    assert [said(reviewed) for reviewed in reviews(Run(Asked(WordGuard(WORDS))), *asked)] == expected
    turns = [judged(run, one)[0] for run, one in zip(fresh[len(asked) :], asked, strict=True)]
    assert judged(Run(Asked(WordGuard(WORDS))), *asked) == turns


FLAGS = policy(user=SideRules({"*": (Rule("flag", 0.5),)}), assistant=SideRules({"*": (Rule("flag", 0.5),)}))
EXCLUDED = {
    "nothing": (),
    "a word": (Exclusion("1", text_hash("rude"), "*", "a name", "ann", math.inf),),
    "another category": (Exclusion("2", text_hash("rude"), "weapons", "a name", "ann", math.inf),),
    "until 5": (Exclusion("3", text_hash("a poison"), "weapons", "a name", "ann", 5.0),),
}
STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([*POLICIES, FLAGS]), st.sampled_from([*EXCLUDED]), st.floats(0, 10)),
    min_size=2,
    max_size=8,
)


def _run(guard: WordGuard | Asked, exclusions: Exclusions) -> Run:
    run = Run(guard)
    run.pipeline = Pipeline(
        guard, run.observers, Metrics(CollectorRegistry()), run.pipeline.judging.actions, exclusions=exclusions
    )
    return run


@settings(max_examples=100, deadline=None)
@given(CHATS, STEPS)
def test_known_decisions_follow_policies_and_exclusions(
    chat: list[dict[str, Any]], steps: list[tuple[int, Policy, str, float]]
) -> None:
    """Whatever was in force when a turn became known, it is decided about as by a pipeline that knows nothing."""
    now = [0.0]
    exclusions = Exclusions(lambda: now[0])
    known = _run(Asked(WordGuard(WORDS)), exclusions)

    async def ask(run: Run, messages: list[dict[str, Any]], rules: Policy) -> tuple[Any, ...]:
        return said(await run.pipeline.review_request(run.exchange({"messages": messages}, rules)))

    async def compare() -> None:
        for length, rules, excluded, now[0] in steps * 3:
            exclusions.use("test", EXCLUDED[excluded])
            fresh = _run(WordGuard(WORDS), exclusions)
            await fresh.observers.start()
            expected = await ask(fresh, chat[:length], rules)
            await fresh.observers.close()
            assert await ask(known, chat[:length], rules) == expected

    known._with(compare)


RULES = policy()
CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def test_the_guard_is_not_asked_again() -> None:
    """The second time its cache answers, the third time it is not asked."""
    guard = Asked(WordGuard(WORDS))
    reviews(Run(guard), *[(CHAT, RULES)] * 4)
    assert guard.texts == ["one", "two", "three"] * 2


@pytest.mark.parametrize(
    "changed",
    [
        [{"role": "user", "content": "other"}, *CHAT[1:]],
        [{"role": "system", "content": "Be kind."}, *CHAT],
        [CHAT[0], CHAT[1], {"role": "user", "content": [{"type": "text", "text": "three"}]}],
        [CHAT[0], {**CHAT[1], "role": "user"}, CHAT[2]],
    ],
)
def test_another_conversation_is_judged(changed: list[dict[str, Any]]) -> None:
    """A text is known in its place of its conversation only: a guard may read the context."""
    guard = Asked(WordGuard(WORDS))
    reviews(Run(guard), *[(CHAT, RULES)] * 3, (changed, RULES))
    assert "three" in guard.texts[6:]


def test_another_policy_decides_anew() -> None:
    """Scores are kept for the policy that had them found, and meet its thresholds each time."""
    chat = [{"role": "user", "content": "rude"}]
    stricter = replace(RULES, user=SideRules({"*": (Rule("block", 0.3),)}))
    asked = [(chat, rules) for rules in (RULES, RULES, RULES, stricter, RULES)]
    found = reviews(Run(Asked(WordGuard({"rude": ("hate", 0.4)}))), *asked)
    assert [reviewed.refusal is not None for reviewed in found] == [False, False, False, True, False]


def test_an_exclusion_counts_at_once() -> None:
    """What exclusions take away is not kept with the scores."""
    flags = policy(user=SideRules({"*": (Rule("flag", 0.5),)}))
    exclusions, metrics = Exclusions(), Metrics(CollectorRegistry())
    run = Run()
    run.pipeline = Pipeline(Asked(WordGuard(WORDS)), run.observers, metrics, {}, exclusions=exclusions)
    exchange = run.exchange({"messages": [{"role": "user", "content": "rude"}]}, flags)

    async def actions() -> list[str]:
        found = [(await run.pipeline.review_request(exchange)).action for _ in range(3)]
        exclusions.use("test", [Exclusion("1", text_hash("rude"), "hate", "a name", "ann", math.inf)])
        return [*found, (await run.pipeline.review_request(exchange)).action]

    assert run._with(actions) == ["flag", "flag", "flag", "pass"]


def test_a_guard_without_a_cache_is_asked_every_time() -> None:
    """Nobody says that its answer would be the same."""
    run = Run(WordGuard(WORDS))
    reviews(run, *[(CHAT, RULES)] * 3)
    assert len(run.guard.asked) == 9


def test_prefixes() -> None:
    """A prefix tells apart everything that a verdict may depend on, and does not depend on what follows."""
    part = Part("messages[0].content", "a")
    message = Message("user", (part,))
    others = [
        Message("assistant", (part,)),
        Message("user", (part, part)),
        Message("user", (replace(part, text="b"),)),
        Message("user", (replace(part, path="messages[0].conten", text="ta"),)),
        Message("user", (replace(part, kind="tool_result"),)),
        Message("user", (replace(part, kind="opaque", note="a", text=""),)),
        Message("user", (replace(part, text="\ud800"),)),
    ]
    prefixes = [prefixes_of([one])[0] for one in (message, *others)]
    assert len(set(prefixes)) == len(prefixes)
    assert prefixes_of([message, others[0]])[:1] == prefixes_of([message])
    assert prefixes_of([message, others[0]])[1] != prefixes_of([others[1], others[0]])[1]
