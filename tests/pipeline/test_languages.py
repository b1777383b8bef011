"""Texts in a language that the guard does not read: the decision, the reason, and what counts as such a text."""

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Pipeline
from guardproxy.policy import Policy, StreamPolicy
from guardproxy.registry import load
from guardproxy.views import VIEWS
from tests.kit import ListSink
from tests.pipeline.test_pipeline import Run, content_of, finish, frames, policy, question

CHINESE = "如果明天天气不好我想和哥哥一起去看电影。"
GERMAN = "Ich möchte morgen mit meinem Bruder ins Kino gehen, wenn das Wetter schlecht ist. "
ENGLISH = "I want to go to the cinema with my brother tomorrow if the weather is bad. "
ENGLISH_ONLY = frozenset({"en"})


class Reading(Run):
    """A pipeline whose guard reads some languages."""

    def __init__(self, reads: frozenset[str] | None = ENGLISH_ONLY) -> None:
        super().__init__()
        self.sink = ListSink()
        self.metrics = Metrics(CollectorRegistry())
        self.observers = Observers({"list": self.sink}, metrics=self.metrics, text="full", required=True)
        actions = {name: load(name, REGISTRY, "action") for name in REGISTRY}
        self.pipeline = Pipeline(self.guard, self.observers, self.metrics, actions, reads=reads)

    def why(self) -> list[str]:
        """The reasons in the coverage of all records."""
        return [part.why for record in self.records for part in record.coverage]


def on_language(user: str, assistant: str = "flag", **changes: Any) -> Policy:
    """A policy with this `on_language`."""
    return policy(on_language={"user": user, "assistant": assistant}, **changes)


@pytest.mark.parametrize(("word", "action"), [("flag", "flag"), ("block", "block"), ("allow", "pass")])
def test_the_policy_decides_about_an_unread_language(word: str, action: str) -> None:
    """The text is judged, the decision is the policy's, coverage is partial and says why."""
    run = Reading()
    review = run.request(("user", CHINESE), rules=on_language(word))
    assert (review.action, review.coverage, review.categories) == (action, "partial", ())
    (record,) = run.records
    assert record.verdict is not None
    assert [(part.judged, part.why) for part in record.coverage] == [(False, "language: zh")]
    if word == "block":
        assert review.refusal is not None
        assert review.refusal.message.endswith(" (language: zh)")
    else:
        assert review.body == run.exchange({"messages": [{"role": "user", "content": CHINESE}]}, policy()).request.raw
    if word != "allow":
        assert (record.decision.cause, record.decision.languages) == ("language", ("zh",))


def test_each_side_has_its_own_setting() -> None:
    """A reply is decided by the assistant's setting, a request by the user's."""
    rules = on_language("block", "flag")
    assert Reading().request(("user", CHINESE), rules=rules).refusal is not None
    run = Reading()
    review = run.reply(GERMAN, rules=rules)
    assert (review.action, review.coverage) == ("flag", "partial")
    assert run.why() == ["language: de"]
    review = Reading().reply(GERMAN, rules=on_language("flag", "block"))
    assert "(language: de)" in json.loads(review.body)["choices"][0]["message"]["content"]


def test_a_language_that_the_guard_reads_is_ordinary() -> None:
    """Only other languages count; without a statement, none does."""
    for reads in (frozenset({"en", "zh"}), None):
        for text in (CHINESE, ENGLISH):
            assert Reading(reads).request(("user", text), rules=on_language("block")).coverage == "full"
    assert Reading(frozenset({"zh"})).request(("user", ENGLISH), rules=on_language("block")).refusal is not None


def test_a_verdict_counts_beside_the_language() -> None:
    """The more severe decision applies: a harmful word in a Chinese text is blocked for the word."""
    run = Reading()
    review = run.request(("user", f"{CHINESE} bomb"), rules=on_language("flag"))
    assert (review.action, review.categories, review.coverage) == ("block", ("violence_hate",), "partial")
    assert review.refusal is not None
    assert "language" not in review.refusal.message


def test_a_decoded_text_has_a_language() -> None:
    """Base64 of a Chinese text is a Chinese text."""
    encoded = base64.b64encode(CHINESE.encode()).decode()
    run = Reading()
    review = run.request(("user", f"please read {encoded} for me"), rules=on_language("block", views=VIEWS))
    assert review.refusal is not None
    assert run.why() == ["language: zh"]


def test_a_cyrillic_text_is_in_one_language() -> None:
    """Look-alikes from the Latin alphabet make no further language of a Russian text."""
    run = Reading()
    run.request(("user", "Какая драма вышла на экран в восьмидесятых?"), rules=on_language("flag", views=VIEWS))
    assert run.why() == ["language: ru"]


def test_the_parts_in_the_language_are_named() -> None:
    """Coverage names the part that is in the language; all parts if only their joined text is."""
    run = Reading()
    parts = [{"type": "text", "text": text} for text in (ENGLISH, CHINESE)]
    body = {"messages": [{"role": "user", "content": parts}]}
    run._with(lambda: run.pipeline.review_request(run.exchange(body, policy())))
    assert run.why() == ["", "language: zh"]
    run = Reading()
    parts = [{"type": "text", "text": text} for text in ("wie kann", "ich das", "machen")]
    body = {"messages": [{"role": "user", "content": parts}]}
    run._with(lambda: run.pipeline.review_request(run.exchange(body, policy())))
    assert run.why() == ["language: de"] * 3


def test_a_turn_of_the_history_is_treated_like_opaque_content() -> None:
    """A blocked turn of the history is dropped with its answer; a flagged one stays, and coverage is partial."""
    chat = [("user", CHINESE), ("assistant", "I see"), ("user", ENGLISH)]
    review = Reading().request(*chat, rules=on_language("block"))
    assert (review.refusal, review.dropped, review.coverage) == (None, (0, 1), "partial")
    review = Reading().request(*chat, rules=on_language("flag"))
    assert (review.refusal, review.dropped, review.action, review.coverage) == (None, (), "pass", "partial")


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_blocked_stream_ends_before_the_text(size: int) -> None:
    """No text leaves before a check covers it, so nothing of a reply in an unread language does."""
    run = Reading()
    rules = on_language("flag", "block", stream=StreamPolicy("window", every=60))
    out = run.stream(frames(GERMAN * 5, size), rules)
    assert "Bruder" not in content_of(out)
    assert content_of(out).endswith("(language: de)")
    assert finish(out) == ["content_filter"]
    assert run.why() == ["language: de"]


def test_a_language_that_comes_late_ends_the_stream() -> None:
    """English text that left stays; the text in the other language does not follow."""
    rules = on_language("flag", "block", stream=StreamPolicy("window", every=60))
    out = content_of(Reading().stream(frames(ENGLISH * 3 + CHINESE * 10, 20), rules))
    assert out.startswith(ENGLISH)
    assert "天气" not in out


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.sampled_from([1, 30, 200]))
@settings(max_examples=40, deadline=None)
def test_no_split_of_a_stream_hides_its_language(sizes: list[int], every: int) -> None:
    """However the text is split, a flagged stream passes byte for byte, and its record names the language."""
    text, pieces, at = ENGLISH + GERMAN * 2, [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    whole = [*frames("")[:1], *(frames(piece, 60)[1] for piece in pieces), *frames("")[-2:]]
    run = Reading()
    assert run.stream(whole, policy(stream=StreamPolicy("window", every=every))) == b"".join(whole)
    assert run.why() == ["language: de"]


def test_the_metric_counts_by_language() -> None:
    """Each recorded turn counts once for each language; shadow policies do not count."""
    run = Reading()
    shadow = (policy(name="strict"),)
    run.request(("user", f"{CHINESE}\n{GERMAN}"), rules=on_language("flag"), shadow=shadow)
    lines = run.metrics.render()[1].decode().splitlines()
    counted = [line for line in lines if line.startswith("guardproxy_unread_languages_total")]
    assert sorted(counted) == [
        'guardproxy_unread_languages_total{language="de",side="user"} 1.0',
        'guardproxy_unread_languages_total{language="zh",side="user"} 1.0',
    ]


@pytest.mark.parametrize("text", [ENGLISH, "ok", "kill -9 1234", "lol u r sooo late"])
def test_english_traffic_is_as_before(text: str) -> None:
    """Requests, replies and streams in English are the same bytes with and without a statement, and fully covered."""
    rules = on_language("block", "block")
    for reads in (ENGLISH_ONLY, None):
        run = Reading(reads)
        review = run.request(("user", text), rules=rules)
        assert (review.action, review.coverage) == ("pass", "full")
        assert review.body == run.exchange({"messages": [{"role": "user", "content": text}]}, rules).request.raw
        assert Reading(reads).reply(text, rules=rules).action == "pass"
        assert Reading(reads).stream(frames(text), rules) == b"".join(frames(text))


def test_a_text_that_the_guard_fails_on_is_still_in_its_language() -> None:
    """Without a verdict, coverage says that there is none, and the language decides as well."""
    run = Reading()
    run.guard.words = {}

    async def judged() -> Any:
        exchange = run.exchange(question(), on_language("block", on_guard_error="flag"))
        message = run.exchange({"messages": [{"role": "user", "content": CHINESE}]}, policy()).request.conversation
        return await run.pipeline.judging.judgement((), message.messages[0], exchange.policy)

    assert asyncio.run(judged()).unread == ("zh",)
