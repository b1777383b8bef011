"""Streams with `every: auto`: where a reply is judged, what a check may do there, and what is released behind it."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.chunks import Chunk, Mark
from guardproxy.errors import Overloaded
from guardproxy.holdback import FIRST_CHECK, Ask, HoldBack, position_after
from guardproxy.pipeline.choice_checks import LatestCheck, cut
from guardproxy.policy import BlockPolicy, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Decision, Message, Part, Verdict
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import TEXT, WORDS, Run, content_of, finish, frame, frames, policy

AUTO = StreamPolicy("window", every="auto")
LAG = AUTO.lag


class Scripted(WordGuard):
    """A guard that says what `unsafe` says of the text of a reply."""

    def __init__(self, unsafe: Any = 0.1) -> None:
        super().__init__(WORDS)
        self.unsafe = unsafe

    async def judge(self, check: Check) -> Verdict:
        """Wait a moment, then judge."""
        self.asked.append(check)
        await asyncio.sleep(0)
        if check.side == "user":
            return Verdict(0.0, (), self.name)
        probability = self.unsafe if isinstance(self.unsafe, float) else self.unsafe(check.turn.text)
        return Verdict(probability, (), self.name)


def judged_texts(run: Run) -> list[str]:
    """What the guard was asked about, in order."""
    return [check.turn.text for check in run.guard.asked if check.side == "assistant"]


def unsafe(**changes: Any) -> Any:
    """A policy that blocks from P(unsafe) 0.5 on."""
    rules = SideRules({"unsafe": (Rule("block", 0.5),)})
    return policy(user=rules, assistant=rules, **changes)


def test_a_reply_is_judged_at_the_positions_of_the_grid() -> None:
    """The guard reads whole words up to each position, and at last the whole reply."""
    text = TEXT * 8
    run = Run()
    assert content_of(run.stream(frames(text, 5), policy(stream=AUTO))) == text
    expected, position = [], FIRST_CHECK
    while position <= len(text):
        expected.append(text[: text.rindex(" ", 0, position)])
        position = position_after(position)
    assert judged_texts(run) == [*expected, text]


def test_the_first_words_come_after_the_first_check() -> None:
    """What is released ends `lag` characters before the judged text."""
    source = frames(TEXT * 4, 5)
    sent: list[bytes] = []

    class Watching(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            seen.append(len(content_of(b"".join(sent))))
            return await super().judge(check)

    seen: list[int] = []
    run = Run(Watching(WORDS))

    async def collect() -> None:
        async def upstream() -> Any:
            for piece in source:
                await asyncio.sleep(0.001)
                yield piece

        exchange = run.exchange({"messages": [{"role": "user", "content": "hi"}], "stream": True}, policy(stream=AUTO))
        async for piece in run.pipeline.review_stream(exchange, upstream(), "text/event-stream"):
            sent.append(piece)  # noqa: PERF401 - the guard looks at it meanwhile

    run._with(collect)
    first = len(judged_texts(run)[0])
    assert seen[0] == 0
    assert first - LAG - 5 < seen[1] <= first - LAG


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["ok. ", TEXT, "x" * 90, "a bomb ", "\n", "é😀 "]), max_size=14),
    st.integers(1, 60),
    st.lists(st.integers(1, 4000), max_size=12),
    st.sampled_from([0, 10, LAG, 500]),
)
def test_the_same_stream_has_the_same_cut_however_it_arrives(
    pieces: list[str], size: int, splits: list[int], lag: int
) -> None:
    """One read of everything, a read per frame, and reads that end anywhere give the client the same bytes."""
    rules = policy(stream=StreamPolicy("window", every="auto", lag=lag))
    source = frames("".join(pieces), size)
    whole, parts = b"".join(source), []
    rest = whole
    for split in splits:
        parts.append(rest[:split])
        rest = rest[split:]
    arrivals = (source, [whole], [*filter(None, parts), rest])
    runs = [Run() for _ in arrivals]
    outs = [run.stream(list(arrival), rules) for run, arrival in zip(runs, arrivals, strict=True)]
    assert len(set(outs)) == 1
    assert judged_texts(runs[0]) == judged_texts(runs[1]) == judged_texts(runs[2])
    out = outs[0]
    if "bomb" in "".join(pieces):
        assert "bomb" not in content_of(out)
        assert finish(out) == ["content_filter"]
    else:
        assert out == whole


def test_a_check_of_a_few_words_cannot_stop_a_reply() -> None:
    """A beginning that looks unsafe waits; the next check that finds the reply harmless releases it."""
    text = TEXT * 8
    run = Run(Scripted(lambda judged: 0.9 if len(judged) < 100 else 0.1))
    assert content_of(run.stream(frames(text), unsafe(stream=AUTO))) == text
    assert [record.outcome for record in run.records] == ["pass"]


@pytest.mark.parametrize(("probability", "held"), [(0.24, False), (0.26, True)])
def test_first_words_need_a_verdict_well_below_the_thresholds(probability: float, held: bool) -> None:
    """A beginning with half of a threshold waits for the next check; a longer text needs the threshold itself."""
    check = LatestCheck(message("words"), Verdict(probability, (), "g"), Decision("pass", "", ()))
    assert check.stops(unsafe(), early=True) is held
    assert check.stops(unsafe()) is False


def test_a_short_reply_is_stopped_at_its_end() -> None:
    """The last check of a reply can stop it, however short it is."""
    run = Run(Scripted(0.9))
    out = run.stream(frames("Do it tonight. " * 7), unsafe(stream=AUTO, block=BlockPolicy(message="NO")))
    assert (content_of(out), finish(out)) == ("NO", ["content_filter"])


def test_a_longer_beginning_stops_a_reply() -> None:
    """A check of more words stops the reply before its end, even if a later one would have passed it."""
    run = Run(Scripted(lambda judged: 0.9 if 200 <= len(judged) < 500 else 0.1))
    out = run.stream(frames(TEXT * 40, 5), unsafe(stream=AUTO))
    assert finish(out) == ["content_filter"]
    assert max(map(len, judged_texts(run))) < 500


def test_a_check_that_an_overloaded_guard_refuses_is_made_up_for() -> None:
    """In the middle of a reply the text waits for the next check; only the last one's refusal ends the reply."""

    class Busy(Scripted):
        async def judge(self, check: Check) -> Verdict:
            verdict = await super().judge(check)
            if check.side == "assistant" and self.refuses(len(check.turn.text)):
                raise Overloaded("busy", 1.0)
            return verdict

        def refuses(self, size: int) -> bool:
            return self.least <= size < self.most

    text = TEXT * 20
    for least, most, passes in ((0, len(text), True), (250, 600, True), (0, len(text) + 1, False)):
        guard = Busy()
        guard.least, guard.most = least, most
        out = Run(guard).stream(frames(text, 5), unsafe(stream=AUTO, on_overload="block"))
        assert (content_of(out) == text) is passes
        assert finish(out) == (["stop"] if passes else ["content_filter"])


def test_reasoning_and_answer() -> None:
    """Where a second text begins, and where texts alternate, everything that has come is judged."""
    think = [frame(reasoning_content=TEXT[at : at + 9]) for at in range(0, len(TEXT), 9)]
    answer = [frame(content="fine "), frame(content="a bo"), frame(content="mb ")]
    for source in (
        [*think * 4, *frames("harmless words " * 20)],
        [*think * 2, frame(content="well "), *think, *frames("harmless words " * 20)],
    ):
        assert Run().stream(source, policy(stream=AUTO)) == b"".join(source)
    out = Run().stream([*think * 4, *answer, *frames(TEXT * 9)], policy(stream=AUTO))
    assert "bo" not in content_of(out).removesuffix(BlockPolicy().message)


def message(*texts: str, arrived: tuple[Part, ...] = ()) -> Message:
    """A reply with parts of these texts."""
    return Message("assistant", tuple(Part(f"p[{n}]", text) for n, text in enumerate(texts)), arrived)


@pytest.mark.parametrize(
    ("upto", "text"),
    [(3, "one"), (4, "one"), (6, "one"), (7, "one"), (8, "one two"), (9, "one two"), (100, "one two three")],
)
def test_a_text_is_cut_behind_a_word(upto: int, text: str) -> None:
    """The cut depends on the text before the position alone: what stands there may not have come yet."""
    assert cut(message("one two three"), upto).text == text
    assert upto == 100 or cut(message("one two three"[:upto]), upto).text == text


def test_texts_without_spaces_are_cut_anywhere() -> None:
    assert cut(message("x" * 200), 80).text == "x" * 80
    assert cut(message("word " + "x" * 200), 80).text == "word " + "x" * 75


def test_a_cut_never_takes_judged_text_away() -> None:
    """With little new text, the end of the last word is no further back than the text that was judged."""
    assert cut(message("one two three"), 9, message("one two ").parts).text == "one two t"


def test_what_is_not_in_order_is_not_cut() -> None:
    """Two texts that have grown, opaque content and texts in alternation leave open what came first."""
    both = message("one two three", "four five six")
    opaque = Message("assistant", (*message("one two three").parts, Part("i", "", "opaque", "image")))
    for whole in (both, opaque, message("one two three", arrived=(Part("p", "one"),))):
        assert cut(whole, 8) == whole
    assert cut(both, 18, message("one two three").parts).text == "one two three\nfour"
    assert cut(both, 18, message("one two").parts) == both
    assert cut(opaque, 8, (Part("p[0]", "o"), opaque.parts[1])).text == "one two"


def text(upto: int, **kind: bool) -> Chunk:
    """A frame that takes the choice to `upto`."""
    return Chunk(f"{upto};".encode(), (Mark(0, upto, **kind),))


def test_a_frame_without_text_needs_no_verdict() -> None:
    """A lag holds no frame that comes before any text."""
    hold = HoldBack(AUTO)
    hold.add(text(0))
    assert len(hold.release()) == 1


def test_each_position_is_asked_about_once_and_in_turn() -> None:
    """Also for a reply that is complete at once."""
    hold = HoldBack(AUTO)
    hold.add(text(2000, final=True))
    asked = []
    while due := hold.ask():
        (ask,) = due
        assert hold.ask() == []
        asked.append(ask)
        hold.passed(ask)
    positions, position = [], FIRST_CHECK
    while position <= 2000:
        positions.append(position)
        position = position_after(position)
    assert [ask.upto for ask in asked] == [*positions, 2000]
    assert [ask.final for ask in asked] == [False] * len(positions) + [True]


def test_a_check_that_judged_more_skips_positions() -> None:
    """Positions that a check has passed already are not asked about."""
    hold = HoldBack(AUTO)
    hold.add(text(1000))
    (first,) = hold.ask()
    hold.passed(first, 500)
    (second,) = hold.ask()
    assert second.upto > 500
    assert [chunk.raw for chunk in hold.release()] == []
    hold.passed(second, 1000 + LAG)
    assert len(hold.release()) == 1


def test_a_skipped_check_releases_nothing() -> None:
    hold = HoldBack(AUTO)
    for upto in range(10, 310, 10):
        hold.add(text(upto))
    (first,) = hold.ask()
    assert first == Ask(0, FIRST_CHECK, final=False, exact=True, early=True)
    hold.skip(first)
    assert hold.release() == []
    (second,) = hold.ask()
    hold.passed(second)
    assert len(hold.release()) == (second.upto - LAG) // 10


def test_exposure_and_lag_add_up() -> None:
    """A client sees at most `exposure` characters that no verdict covers, and those the lag does not hold."""
    hold = HoldBack(StreamPolicy("window", every="auto", exposure=LAG + 20))
    for upto in range(10, 310, 10):
        hold.add(text(upto))
    assert len(hold.release()) == (LAG + 20) // 10
    (first,) = hold.ask()
    hold.passed(first)
    assert len(hold.release()) == FIRST_CHECK // 10 + 2 - (LAG + 20) // 10
