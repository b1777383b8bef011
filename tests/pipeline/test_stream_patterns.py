"""Patterns in streams: nothing of a match leaves, wherever frames end, whenever they come, however slow the guard."""

import asyncio
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.families.patterns import open_family
from guardproxy.guards.rules import FinderGuard
from guardproxy.patterns import CategoryPatterns, Reach
from guardproxy.pipeline.reach import reach_of
from guardproxy.pipeline.traits import GuardTraits
from guardproxy.policy import BlockPolicy, Policy, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Verdict
from guardproxy.views import VIEWS
from tests.pipeline.test_pipeline import TEXT, Run, content_of, finish, frame, frames, policy

MESSAGE, CLOSING = "\u2400withheld", "\u2400cut"
TOKEN = "gh" + "p_" + "a1B2" * 9
HASHED = hashlib.sha256(b"grey heron").hexdigest()
FAMILY = open_family(
    patterns={
        "names": CategoryPatterns(words=("bluebird", "falcon nine", "ass", "機密"), sha256=(HASHED,), max_words=2),
        "tickets": CategoryPatterns(regexes=(r"\bAC-[0-9]{2,4}\b", r"(?i)code (red|blue)", r"é{2,3}!")),
        "endless": CategoryPatterns(regexes=(r"<<.*>>|<<q", r"zz[a-f]*$"), max_length=7),
        "secrets": CategoryPatterns(secrets=("github_token", "aws_access_key")),
    }
)
TRAITS = GuardTraits(FAMILY.reaches)
# Matches, their halves, what continues a match to something else, and what stands between.
PIECES = (
    *(
        "bluebird",
        "blue",
        "bird",
        "falcon",
        "nine",
        "falcon  nine",
        "ass",
        "essment",
        "cl",
        "grey",
        "heron",
        "機",
        "密",
    ),
    *("AC-12", "AC-", "7", "-", "code ", "Code Red", "red", "é", "éé!", "<<", ">>", "<<q", "zza", "zz", "g"),
    *(TOKEN, TOKEN[:20], "AKIA" + "Q" * 16, "x" * 45, " ", ", ", "\n", ". ", "\\n", "\\", TEXT),
)


class Delayed(FinderGuard):
    """The guard, with some turns of the event loop before each answer."""

    def __init__(self, turns: list[int]) -> None:
        super().__init__("patterns", FAMILY)
        self._turns = turns
        self._asked = 0

    async def judge(self, check: Check) -> Verdict:
        """Judge what the check has, after other tasks have run."""
        self._asked += 1
        for _ in range(self._turns[self._asked % len(self._turns)] if self._turns else 0):
            await asyncio.sleep(0)
        return await super().judge(check)


def blocking(**changes: Any) -> Policy:
    """A policy that blocks every hit, with messages that are in no text."""
    return policy(block=BlockPolicy(message=MESSAGE, closing=CLOSING), **changes)


RULES = st.builds(
    blocking,
    stream=st.builds(StreamPolicy, every=st.sampled_from(["auto", 1, 7, 60]), lag=st.sampled_from([0, 40])),
    views=st.sampled_from([(), VIEWS]),
)


def released(out: bytes) -> str:
    """What the client has of the reply itself."""
    return content_of(out).removesuffix(CLOSING).removesuffix(MESSAGE).rstrip("\n")


def arrivals(source: list[bytes], splits: list[int]) -> list[bytes]:
    """The bytes of a stream, in reads of these sizes."""
    whole, parts = b"".join(source), []
    for split in splits:
        parts.append(whole[:split])
        whole = whole[split:]
    return [part for part in (*parts, whole) if part]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=30),
    st.integers(1, 50),
    st.lists(st.integers(1, 3000), max_size=10),
    RULES,
    st.lists(st.integers(0, 9), max_size=5),
)
def test_nothing_of_a_match_is_released(
    pieces: list[str], size: int, splits: list[int], rules: Policy, turns: list[int]
) -> None:
    """A reply with a match ends before it; without views, one without a match arrives byte for byte."""
    text = "".join(pieces)
    source = frames(text, size)
    out = Run(Delayed(turns), traits=TRAITS).stream(arrivals(source, splits), rules)
    if hits := FAMILY.hits(text):
        assert finish(out) == ["content_filter"]
        assert text.startswith(released(out))
        assert len(released(out)) <= hits[0].span[0]
    elif not rules.views:
        assert out == b"".join(source)


def test_without_a_reach_a_match_would_be_cut_in_two() -> None:
    """The property above fails without the hold-back that it is about."""
    source = frames("the code red", 1)
    out = Run(Delayed([]), traits=GuardTraits()).stream(source, blocking(stream=StreamPolicy("window", every=1)))
    assert released(out) == "the code re"


@pytest.mark.parametrize("every", ["auto", 1, 10])
def test_a_word_that_goes_on_is_no_match(every: Any) -> None:
    """Whether a word ends where a check does is known when more has come: the reply is not cut for its first half."""
    text = "x" * 77 + " ass" + "essment of the AC-12" + "345 " + TEXT
    source = frames(text, 1)
    run = Run(Delayed([]), traits=TRAITS)
    assert run.stream(source, blocking(stream=StreamPolicy("window", every=every))) == b"".join(source)


@pytest.mark.parametrize("text", ["a fine ass", "AC-12", "grey heron", "the zzab", "x" * 300 + " bluebird"])
def test_a_match_at_the_end_of_a_reply_counts(text: str) -> None:
    """The last check knows that nothing follows, also if the check before it has judged the same text."""
    run = Run(Delayed([]), traits=TRAITS)
    out = run.stream(frames(text, 1), blocking(stream=StreamPolicy("window", every=1)))
    assert finish(out) == ["content_filter"]
    assert run.records[0].outcome == "refuse"


def test_a_match_longer_than_its_bound_stops_the_reply() -> None:
    """What its expression says it may be at most is held back; the rest is found and withheld."""
    text = "I say <<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa>> now"
    out = Run(Delayed([]), traits=TRAITS).stream(frames(text, 1), blocking(stream=StreamPolicy("window", every=1)))
    assert finish(out) == ["content_filter"]
    assert text.startswith(released(out))
    assert ">>" not in released(out)


def test_a_match_across_alternating_texts_is_found() -> None:
    """Reasoning that goes on behind text stops the reply where it completes a match; its beginning has left by then."""
    source = [
        frame(role="assistant", content=""),
        *(frame(reasoning_content=sign) for sign in "plan: falcon"),
        *(frame(content=sign) for sign in "fine so far"),
        *(frame(reasoning_content=sign) for sign in " nine"),
        frame(finish="stop"),
        b"data: [DONE]\n\n",
    ]
    out = Run(Delayed([]), traits=TRAITS).stream(source, blocking(stream=StreamPolicy("window", every=1)))
    assert finish(out) == ["content_filter"]
    assert released(out) in "fine so far"
    assert out.count(b"reasoning_content") <= len("plan: falcon")


def test_a_text_flows_on_behind_what_is_undecided() -> None:
    """Held is what may begin a match, so a reply without one leaves while it comes."""
    text = TEXT * 6
    seen: list[int] = []
    run = Run(Delayed([]), traits=TRAITS)

    async def collect() -> bytes:
        out = b""

        async def upstream() -> Any:
            for piece in frames(text, 5):
                await asyncio.sleep(0.001)
                seen.append(len(content_of(out)))
                yield piece

        exchange = run.exchange(
            {"messages": [{"role": "user", "content": "hi"}], "stream": True},
            blocking(stream=StreamPolicy("window", every=20)),
        )
        async for piece in run.pipeline.review_stream(exchange, upstream(), "text/event-stream"):
            out += piece
        return out

    assert content_of(run._with(collect)) == text
    assert max(seen) > len(text) - 100


def test_only_categories_that_stop_a_reply_hold_it_back() -> None:
    """Patterns of requests, or that only flag, cost a stream nothing."""
    flags = SideRules({"*": (Rule("flag", 0.5),)})
    one = SideRules({"secrets": (Rule("block", 0.5),), "*": (Rule("flag", 0.5),)})
    assert reach_of(policy(assistant=flags), FAMILY.reaches) == Reach()
    assert reach_of(policy(assistant=one), FAMILY.reaches) == Reach(unspaced=94)
    overall = SideRules({"unsafe": (Rule("rewrite", 0.5, "redact"),)})
    assert reach_of(policy(assistant=overall), FAMILY.reaches) == Reach(9, 94, 2)
