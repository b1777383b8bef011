"""Nothing that the guard would catch in the plain gets past the proxy by where or how it stands."""

import asyncio

import pytest

from guardproxy.policy import JudgeScope, Policy, Rule, SideRules
from guardproxy.views import VIEWS
from tests.escapes import tricks
from tests.escapes.attempts import Attempts, KnowsThem, prompts
from tests.escapes.disguises import DISGUISES

BLOCK = SideRules({"*": (Rule("block", 0.5),)})
EVERYTHING = JudgeScope(("system", "developer", "user", "tool"), ())
POLICY = Policy("default", "v", BLOCK, BLOCK, views=VIEWS, judge=EVERYTHING)

# Most of these is undone, but not every word: a digit of leetspeak that stands alone or for several letters cannot be
# told back to a letter for certain, nor a short word at the edge of a run of rot13 from the prose around it.
UNCERTAIN = {"leetspeak", "leetspeak in words", "leetspeak in words in spaced letters", "rot13 in prose"}


@pytest.fixture(scope="module")
def attempts() -> Attempts:
    """The pipeline with a guard that knows the prompts in the plain."""
    return Attempts(KnowsThem(prompts()), POLICY)


@pytest.fixture(scope="module")
def streams() -> Attempts:
    """The same with texts to hide behind that a stream is checked on some dozens of times."""
    return Attempts(KnowsThem(prompts()), POLICY, tricks.HARMLESS * 150)


def test_there_are_enough_prompts() -> None:
    """At least forty plain requests for harm are tried."""
    assert len(prompts()) >= 40


@pytest.mark.parametrize("trick", [name for name in DISGUISES if name not in UNCERTAIN])
def test_no_disguise_helps(attempts: Attempts, trick: str) -> None:
    """A text in disguise is judged by what it says."""
    past = [prompt for prompt in prompts() if asyncio.run(attempts.disguised(trick, prompt)).past]
    assert past == []


@pytest.mark.parametrize("trick", [name for name in tricks.places() if name not in tricks.BY_CONTEXT])
def test_no_place_is_overlooked(attempts: Attempts, trick: str) -> None:
    """Wherever in the request the text stands, it does not reach the model."""
    past = [prompt for prompt in prompts()[::6] if asyncio.run(attempts.placed(trick, prompt)).past]
    assert past == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("trick", tricks.replies())
def test_no_part_of_a_reply_is_overlooked(streams: Attempts, trick: str, streamed: bool) -> None:
    """Wherever in the reply the text stands, whole or streamed, it does not reach the client."""
    past = [p for p in prompts()[::12] if asyncio.run(streams.replied(trick, p, streamed=streamed)).past]
    assert past == []
