"""What passes under a chosen policy, the route's own policy would pass as it is: any two policies, any texts."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.localtext import LocalText
from guardproxy.policy import Policy, RewritePolicy, Rule, SideRules, StreamPolicy, decide
from guardproxy.stricter import combined
from guardproxy.types import SEVERITY, Check, Conversation, Message, Part
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import Run, content_of, frames

FOUND = {"knife": ("a", 0.3), "bomb": ("a", 0.9), "lie": ("b", 0.4), "fraud": ("b", 0.7)}
rule: Any = st.builds(
    lambda action, threshold, how: Rule(action, threshold, how if action == "rewrite" else ""),
    st.sampled_from(["flag", "rewrite", "block"]),
    st.sampled_from([0.2, 0.35, 0.5, 0.8]),
    st.sampled_from(["replace", "redact", "steer", "regenerate"]),
)
sides = st.builds(
    SideRules, st.dictionaries(st.sampled_from(["a", "b", "*", "unsafe"]), st.lists(rule, max_size=2).map(tuple))
)
failure: Any = st.sampled_from(["block", "flag", "allow"])
policies = st.builds(
    Policy,
    name=st.just("own"),
    version=st.just("v"),
    user=sides,
    assistant=sides,
    on_guard_error=failure,
    history=st.sampled_from(["drop", "block", "allow"]),
    stream=st.builds(StreamPolicy, st.sampled_from(["window", "hold_all"]), st.sampled_from(["auto", 10, 30])),
)
words = st.sampled_from([*FOUND, "calm", "quiet", "FAIL"])
texts = st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=3).map(
    lambda sentences: ". ".join(sentences) + "."
)
conversations = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(policies, policies, conversations, texts)
def test_a_request_that_passes_is_one_that_the_own_policy_passes(
    own: Policy, chosen: Policy, conversation: list[tuple[str, str]], last: str
) -> None:
    """What reaches the upstream under both goes through the own policy as it is, with its instruction if it has one."""
    own, chosen = _told(own, "OWN"), _told(replace(chosen, name="chosen"), "CHOSEN")
    review = Run(WordGuard(FOUND)).request(*conversation, ("user", last), rules=combined(own, chosen))
    if review.refusal is None:
        told, messages = _sent(review.body)
        again = Run(WordGuard(FOUND)).request(*messages, rules=own)
        assert again.refusal is None
        needed, same = _sent(again.body)
        assert same == messages
        assert needed in told  # what the own policy tells the model, it is told under both


@settings(max_examples=30, deadline=None)
@given(policies, policies, texts)
def test_a_reply_that_passes_is_one_that_the_own_policy_passes(own: Policy, chosen: Policy, text: str) -> None:
    """Whole and streamed: the text that the client reads is one that the own policy leaves as it is."""
    both = combined(own, replace(chosen, name="chosen"))
    whole = Run(WordGuard(FOUND)).reply(text, rules=both)
    received = json.loads(whole.body)["choices"][0]["message"]["content"] if whole.refusal is None else ""
    for shown in (received, content_of(Run(WordGuard(FOUND)).stream(frames(text), both))):
        assert shown == "" or _passes(own, shown), shown


def _told(policy: Policy, instruction: str) -> Policy:
    return replace(policy, rewrite=RewritePolicy(instructions={"*": LocalText({"*": instruction})}))


def _sent(body: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The instruction in a request, and its messages without it."""
    messages = [(one["role"], one["content"]) for one in json.loads(body)["messages"]]
    told = messages[0][1] if messages[0][0] == "system" else ""
    return told, messages[1:] if told else messages


def _passes(policy: Policy, text: str) -> bool:
    """Whether the own policy would leave this reply as it is."""
    if "FAIL" in text:
        return policy.on_guard_error != "block"
    message = Message("assistant", (Part("p", text),))
    verdict = asyncio.run(WordGuard(FOUND).judge(Check(Conversation((message,)), "assistant")))
    return SEVERITY[decide(policy, "assistant", verdict).action] < SEVERITY["rewrite"]
