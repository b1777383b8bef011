"""`mask`: exactly the matches are replaced, in requests, replies and streams; other harm is blocked."""

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.actions.mask import masked, open_action
from guardproxy.app import catalogue
from guardproxy.errors import ConfigError
from guardproxy.patterns import Hit
from guardproxy.policy import Policy, Rule, SideRules, StreamPolicy
from guardproxy.settings import load_text
from guardproxy.types import Decision, Message, Part, Reason, Refuse, Replace
from tests.pipeline.test_pipeline import TEXT, Run, content_of, finish, frames, policy
from tests.pipeline.test_stream_patterns import FAMILY, TOKEN, TRAITS, Delayed, arrivals

MASKS = SideRules({"*": (Rule("rewrite", 0.5, "mask"),)})


def expected(text: str) -> str:
    """The text with a placeholder for every match."""
    return masked(text, FAMILY.hits(text))


class Masking(Run):
    """A pipeline whose guard looks for patterns, and which masks them."""

    def __init__(self, turns: list[int] | None = None) -> None:
        super().__init__(Delayed(turns or []), traits=TRAITS)
        actions: Any = self.pipeline.judging.actions
        self.pipeline.use({**actions, "mask": partial(open_action, matches=FAMILY.hits)})


def rules(**changes: Any) -> Policy:
    """A policy that masks every match."""
    return policy(user=MASKS, assistant=MASKS, **changes)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("say bluebird, Bluebird!", "say [names], [names]!"),
        (f"key {TOKEN}.", "key [secrets]."),
        ("code red bluebird", "[tickets] [names]"),
        ("nothing", "nothing"),
    ],
)
def test_every_match_is_replaced(text: str, shown: str) -> None:
    """By the id of its category, and nothing else."""
    assert expected(text) == shown


def test_matches_that_overlap_are_one() -> None:
    """With the placeholder of the first."""
    found = [Hit(span, name, "") for span, name in [((0, 4), "a"), ((2, 6), "b"), ((3, 5), "a"), ((8, 9), "c")]]
    assert masked("0123456789", found) == "[a]67[c]9"


def test_a_request_and_a_reply_are_masked() -> None:
    """The model reads the placeholders of a request, the client those of a reply."""
    review = (of_request := Masking()).request(("user", "tell bluebird of AC-12"), rules=rules())
    assert review.refusal is None
    assert b"tell [names] of [tickets]" in review.body
    reply = (of_reply := Masking()).reply("AC-12 is done", rules=rules())
    assert b"[tickets] is done" in reply.body
    assert [record.outcome for run in (of_request, of_reply) for record in run.records] == ["replace", "replace"]


def acted(part: Part, decision: Decision, *, safe: bool = True) -> Any:
    """What the action makes of a turn of one part."""

    async def judge(message: Message) -> Decision:
        return Decision("pass" if safe else "block", "", ())

    action = open_action(rules(), FAMILY.hits)
    return asyncio.run(action(Message("user", (part,)), decision, judge))


def test_what_cannot_be_masked_is_refused() -> None:
    """No match in the text, a rest that is harmful, a match in a tool call, a finding of another category."""
    names = Decision("rewrite", "mask", (Reason("names", 1.0, 0.5, "rewrite"),))
    overall = Decision("rewrite", "mask", (Reason("unsafe", 1.0, 0.5, "rewrite"),))
    flagged = Decision("rewrite", "mask", (Reason("names", 1.0, 0.5, "flag"), Reason("x", 1.0, 0.5, "rewrite")))
    assert isinstance(acted(Part("p", "a bluebird"), names), Replace)
    assert isinstance(acted(Part("p", "a bluebird"), overall), Replace)
    assert isinstance(acted(Part("p", "a bluebird"), names, safe=False), Refuse)
    assert isinstance(acted(Part("p", "a blue-bird"), names), Refuse)
    assert isinstance(acted(Part("p", "AC-12"), names), Refuse)
    assert isinstance(acted(Part("p", "a bluebird"), flagged), Refuse)
    assert isinstance(acted(Part("p", "f\n{'a': 'bluebird'}", "tool_call"), names), Refuse)
    assert isinstance(asyncio.run(open_action(rules())(Message("user", (Part("p", "bluebird"),)), names, None)), Refuse)  # type: ignore[arg-type]


WORDS = ("bluebird", "falcon nine", "AC-12", "code red", TOKEN, "the", "brass", "x" * 45, TEXT.strip())


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        lambda words, between: between.join(words),
        st.lists(st.sampled_from(WORDS), max_size=20),
        st.sampled_from([" ", ", ", "\n"]),
    ),
    st.integers(1, 40),
    st.lists(st.integers(1, 3000), max_size=6),
    st.builds(rules, stream=st.builds(StreamPolicy, every=st.sampled_from(["auto", 1, 7, 60]))),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_a_stream_has_placeholders_in_place_of_its_matches(
    text: str, size: int, splits: list[int], masking: Policy, turns: list[int]
) -> None:
    """However its frames are cut; the rest arrives as it was said."""
    source = frames(text, size)
    out = Masking(turns).stream(arrivals(source, splits), masking)
    assert content_of(out) == expected(text)
    assert finish(out) == ["stop"]
    if expected(text) == text:
        assert out == b"".join(source)


@pytest.mark.parametrize("size", range(1, 24))
def test_what_has_left_tells_where_a_word_begins(size: int) -> None:
    """A frame may end in a word whose second half is listed."""
    out = Masking().stream(frames("the brass, the bluebird", size), rules(stream=StreamPolicy("window", every=1)))
    assert content_of(out) == "the brass, the [names]"


def test_a_match_of_which_the_beginning_has_left_is_refused() -> None:
    """It is longer than its expression states, so the rest of the reply is withheld."""
    text = f"I say <<{'a ' * 20}>> now"
    out = Masking().stream(frames(text, 1), rules(stream=StreamPolicy("window", every=1)))
    assert finish(out) == ["content_filter"]
    assert ">>" not in content_of(out)


@pytest.mark.parametrize(
    ("rule", "known"),
    [
        ("assistant: {names: {rewrite: {at: 0.5, how: mask}}}", True),
        ("assistant: {violence_hate: {rewrite: {at: 0.5, how: mask}}}", False),
        ("unsafe: {rewrite: {at: 0.5, how: mask}}", True),
        ("tool: {'*': {rewrite: {at: 0.5, how: mask}}}", True),
    ],
)
def test_only_patterns_can_be_masked(rule: str, known: bool) -> None:
    """A rule for another category could only block."""
    house = "{all: [embedded, house]}\nguards: {house: {family: patterns, patterns: {names: {words: [bluebird]}}}}\n"
    text = f"guard: {house}policies: {{default: {{preset: balanced, {rule}}}}}"
    if known:
        load_text(text, "f.yaml", {}, catalogue())
        text = f"policies: {{default: {{preset: balanced, {rule.replace('names', 'violence_hate')}}}}}"
    with pytest.raises(
        ConfigError, match=r"rewrite\.how: masks matches of patterns or personal data, and no guard looks for"
    ):
        load_text(text, "f.yaml", {}, catalogue())
