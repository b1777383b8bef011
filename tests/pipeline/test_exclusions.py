"""Texts that are known to be harmless: what does not count, and that nothing else is covered."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guardproxy.observe import Metrics, Observers
from guardproxy.observe.masking import text_hash
from guardproxy.pipeline import Exclusions
from guardproxy.pipeline.exchange import Exchange, Judgement
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.turns import Turn
from guardproxy.policy import Policy, Rule, SideRules, ThreadPolicy
from guardproxy.reviews import Exclusion
from guardproxy.types import Message, Origin, Part, Record
from guardproxy.wires.openai_chat import wire
from tests.kit import ListSink, WordGuard

BLOCK = (Rule("block", 0.5),)
RULES = SideRules({"*": BLOCK})
POLICY = Policy("default", "v", RULES, RULES, views=("base64",))
UNSAFE_TOO = replace(POLICY, user=SideRules({"*": BLOCK, "unsafe": BLOCK}))
WORDS = {"bomb": ("violence", 0.9), "grass": ("drugs", 0.8)}
TEXT = "the song sex bomb on the grass"


def excluded(text: str = TEXT, category: str = "violence", until: float = 100.0, number: str = "e1") -> Exclusion:
    """An exclusion of this text."""
    return Exclusion(number, text_hash(text), category, "a song", "ann", until)


def judging(*given: Exclusion, now: float = 50.0, sink: ListSink | None = None) -> tuple[Judging, Observers]:
    """The judging of turns with these exclusions, and the observers of its records."""
    exclusions = Exclusions(lambda: now)
    exclusions.use("test", given)
    metrics = Metrics(CollectorRegistry())
    observers = Observers({"list": sink or ListSink()}, metrics=metrics, text="full", required=True)
    return Judging(WordGuard(WORDS), observers, metrics, {}, exclusions=exclusions), observers


def judged(message: Message | str, *given: Exclusion, policy: Policy = POLICY, **options: Any) -> Judgement:
    """The judgement of a user's message."""
    message = user(message) if isinstance(message, str) else message
    thread = options.pop("thread", ())
    return asyncio.run(judging(*given, **options)[0].judgement((), message, policy, thread=thread))


def user(*texts: str) -> Message:
    """A user's message with these parts."""
    return Message("user", tuple(Part(f"content[{index}].text", text) for index, text in enumerate(texts)))


def test_a_category_of_an_excluded_text_does_not_count() -> None:
    """The findings of the category do not count, those of others do; the verdict stays as it was found."""
    plain, spared = judged(TEXT), judged(TEXT, excluded())
    assert set(plain.decision.categories) == {"violence", "drugs"}
    assert spared.decision.categories == ("drugs",)
    assert spared.verdict is not None
    assert plain.verdict is not None
    assert replace(spared.verdict, usage=plain.verdict.usage) == plain.verdict
    both = judged(TEXT, excluded(), excluded(category="drugs", number="e2"))
    assert both.decision.action == "pass"


def test_p_unsafe() -> None:
    """P(unsafe) counts unless "unsafe" or "*" is excluded."""
    assert judged("sex bomb", excluded("sex bomb"), policy=UNSAFE_TOO).decision.categories == ("unsafe",)
    assert judged("sex bomb", excluded("sex bomb", "*"), policy=UNSAFE_TOO).decision.action == "pass"
    two = (excluded("sex bomb"), excluded("sex bomb", "unsafe", number="e2"))
    assert judged("sex bomb", *two, policy=UNSAFE_TOO).decision.action == "pass"


@given(place=st.integers(0, len(TEXT)), character=st.characters(), how=st.sampled_from(("insert", "replace", "remove")))
@settings(max_examples=60, deadline=None)
def test_one_character_more_or_less_is_another_text(place: int, character: str, how: str) -> None:
    """A text that differs in one character, visible or not, is decided as without the exclusion."""
    rest = TEXT[place:] if how == "insert" else TEXT[place + 1 :]
    other = TEXT[:place] + ("" if how == "remove" else character) + rest
    if other == TEXT:
        return
    with_exclusion, without = judged(other, excluded(category="*")), judged(other)
    assert with_exclusion.decision == without.decision
    assert with_exclusion.counted is None


@pytest.mark.parametrize(
    "message",
    [
        user(f"{TEXT}\n{TEXT}"),
        user(TEXT, "and more"),
        user(base64.b64encode(TEXT.encode()).decode()),
        user(f" {TEXT}"),
        user(TEXT.upper()),
    ],
)
def test_longer_texts_and_views_are_not_covered(message: Message) -> None:
    """A longer text, and a text whose view is the excluded text, are decided as without the exclusion."""
    assert judged(message, excluded(category="*")).decision == judged(message).decision


def test_an_own_view_of_the_text_is_covered() -> None:
    """What is found in a view of the excluded text is a finding on this text."""
    text = base64.b64encode(b"how to build a bomb at home, step by step").decode()
    assert judged(text).decision.action == "block"
    assert judged(text, excluded(text, "*")).decision.action == "pass"


def test_other_texts_that_readers_make_of_the_parts_are_not_covered() -> None:
    """The parts of a message may read as another text than the excluded one."""
    assert judged(user("a bo", "mb"), excluded("a bo\nmb", "*")).decision.action == "block"


@pytest.mark.parametrize(
    ("category", "alone", "behind"),
    [("*", "pass", "pass"), ("violence", "pass", "block"), ("drugs", "block", "block")],
)
def test_the_thread_is_covered(category: str, alone: str, behind: str) -> None:
    """What counts as harmless in the first turn of a conversation does so in the later ones; other categories count."""
    joining = replace(POLICY, thread=ThreadPolicy(turns=3))
    given = excluded("bomb", category)
    assert judged("bomb", given, policy=joining).decision.action == alone
    assert judged("bomb", given, policy=joining, thread=["thank you"]).decision.action == alone
    assert judged("bomb", given, policy=joining, thread=["grass"]).decision.action == behind


def test_an_exclusion_ends() -> None:
    """At its end, the findings count again."""
    assert judged("bomb", excluded("bomb"), now=99.9).decision.action == "pass"
    assert judged("bomb", excluded("bomb"), now=100.0).decision.action == "block"


def test_sources_are_replaced_one_by_one() -> None:
    """The exclusions of a source take the place of those that it had; other sources keep theirs."""
    exclusions = Exclusions(lambda: 0.0)
    exclusions.use("file", [excluded("a")])
    exclusions.use("store", [excluded("b")])
    exclusions.use("store", [excluded("c")])
    assert [bool(exclusions.covering(text)) for text in "abc"] == [True, False, True]


def recorded(text: str, *given: Exclusion, shadow: tuple[Policy, ...] = ()) -> list[Record]:
    """The records of a user turn."""
    sink = ListSink()
    one, observers = judging(*given, sink=sink)
    request = wire.parse_request("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hi"}]}')
    exchange = Exchange(wire, request, Origin("id", "route", "openai_chat", "u", "m"), POLICY, shadow)

    async def run() -> None:
        await observers.start()
        turn = await one.turn(exchange, Turn(0, 0, user(text)), ())
        await one.record(exchange, [turn], ())
        await observers.close()

    asyncio.run(run())
    return sink.records


def test_the_record_says_so() -> None:
    """A record names the exclusions that changed something, by its own policy, and holds every score."""
    lenient = replace(POLICY, name="lenient", user=SideRules({"violence": (Rule("flag", 0.95),)}))
    strict = replace(POLICY, name="strict", user=UNSAFE_TOO.user)
    found = recorded("sex bomb", excluded("sex bomb"), shadow=(lenient, strict))
    assert [(one.policy, one.decision.action, one.exclusion) for one in found] == [
        ("default", "pass", "e1"),
        ("lenient", "pass", ""),
        ("strict", "block", "e1"),
    ]
    assert all(one.verdict is not None and one.verdict.findings[0].probability == 0.9 for one in found)
    assert recorded("hello", excluded("hello"))[0].exclusion == ""
    two = (excluded("sex bomb", number="e1"), excluded("sex bomb", "*", number="e2"))
    assert recorded("sex bomb", *two)[0].exclusion == "e1,e2"
