"""A text that the guard finds in plain form does not get past the proxy by its place or by a disguise."""

import asyncio

import pytest

from guardproxy.policy import JudgeScope, Policy, Rule, SideRules
from guardproxy.views import VIEWS
from tests.escapes import tricks
from tests.escapes.attempts import Attempts, KnowsThem, KnowsThemAlone, prompts
from tests.escapes.disguises import DISGUISES

BLOCK = SideRules({"*": (Rule("block", 0.5),)})
EVERYTHING = JudgeScope(("system", "developer", "user", "tool"), ())
POLICY = Policy("default", "v", BLOCK, BLOCK, views=VIEWS, judge=EVERYTHING)

# These disguises are undone except for some words: a lone or ambiguous digit of leetspeak has no certain letter, and a
# short rot13 word at the edge of a run cannot be distinguished from the prose around it. Some short texts have too few
# frequent words for the other ciphers. Morse code has no letter for some signs.
UNCERTAIN = {"leetspeak", "leetspeak in words", "leetspeak in words in spaced letters", "rot13 in prose"}
UNCERTAIN |= {"Caesar", "Atbash", "rot47"}


@pytest.fixture(scope="module")
def attempts() -> Attempts:
    """Return the pipeline with a guard that finds the plain prompts."""
    return Attempts(KnowsThem(prompts()), POLICY)


@pytest.fixture(scope="module")
def streams() -> Attempts:
    """Return the same with so much padding that a stream is checked dozens of times."""
    return Attempts(KnowsThem(prompts()), POLICY, tricks.HARMLESS * 150)


def test_there_are_enough_prompts() -> None:
    """There are at least forty harmful prompts."""
    assert len(prompts()) >= 40


@pytest.mark.parametrize("trick", [name for name in DISGUISES if name not in UNCERTAIN])
def test_no_disguise_helps(attempts: Attempts, trick: str) -> None:
    """The guard finds a disguised text."""
    past = [prompt for prompt in prompts() if asyncio.run(attempts.disguised(trick, prompt)).past]
    assert past == []


@pytest.mark.parametrize("trick", [name for name in tricks.places() if name not in tricks.BY_CONTEXT])
def test_no_place_is_overlooked(attempts: Attempts, trick: str) -> None:
    """The text does not reach the model from any place in the request."""
    past = [prompt for prompt in prompts()[::6] if asyncio.run(attempts.placed(trick, prompt)).past]
    assert past == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("trick", tricks.replies())
def test_no_part_of_a_reply_is_overlooked(streams: Attempts, trick: str, streamed: bool) -> None:
    """The text does not reach the client from any place in the reply, whole or streamed."""
    past = [p for p in prompts()[::12] if asyncio.run(streams.replied(trick, p, streamed=streamed)).past]
    assert past == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("trick", ["tool arguments", "tool name", "id of a call", "annotation", "unknown object"])
def test_a_text_beside_the_content_is_judged_by_itself(trick: str, streamed: bool) -> None:
    """A guard that the JSON around a text would deceive finds it."""
    attempts = Attempts(KnowsThemAlone(prompts()), POLICY)
    past = [p for p in prompts()[::12] if asyncio.run(attempts.replied(trick, p, streamed=streamed)).past]
    assert past == []


def test_a_text_in_a_call_of_the_history_is_judged_by_itself() -> None:
    """The same in a request."""
    attempts = Attempts(KnowsThemAlone(prompts()), POLICY)
    trick = "in tool arguments of the history"
    assert [p for p in prompts()[::12] if asyncio.run(attempts.placed(trick, p)).past] == []
