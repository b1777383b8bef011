"""The ends of the choices of a streamed reply: in any order of frames, a choice ends once and is recorded once."""

import asyncio
import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guardproxy.policy import BlockPolicy, JudgeScope, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Record, Verdict
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import WORDS, Run, content_of, frame, frames, policy
from tests.pipeline.test_stream import Upstream, review, whole, within_time

EVERY_FRAME = StreamPolicy("window", every=1)
NONSENSE = b"data: {nonsense\n\n"
DONE = b"data: [DONE]\n\n"
OUTER: dict[str, bytes] = {
    "usage": b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n',
    "aside": b'data: {"choices": [], "aside": "some words"}\n\n',
    "harmful aside": b'data: {"choices": [], "other": "a bomb"}\n\n',
    "error": b'data: {"error": {"message": "out of luck"}}\n\n',
    "comment": b": hello\n\n",
    "nonsense": NONSENSE,
    "done": DONE,
}


class Thinking(WordGuard):
    """A guard whose answers take the given numbers of turns of the loop, over and over."""

    def __init__(self, turns: Sequence[int]) -> None:
        super().__init__(WORDS)
        self.turns = turns

    async def judge(self, check: Check) -> Verdict:
        """Wait, then judge the words."""
        for _ in range(self.turns[len(self.asked) % len(self.turns)]):
            await asyncio.sleep(0)
        return await super().judge(check)


def bytes_of(kind: str, choice: int) -> bytes:
    """A frame of the kind; some kinds belong to a choice."""
    beside = [
        {"index": choice, "delta": {"content": "Fine. "}, "finish_reason": None},
        {"index": 1 - choice, "delta": {}, "finish_reason": "stop"},
    ]
    return {
        **OUTER,
        "text": frame(choice, content="Fine words. "),
        "harm": frame(choice, content="a bomb "),
        "finish": frame(choice, finish="stop"),
        "text and finish": frame(choice, content="Fine words. ", finish="stop"),
        "image": frame(choice, images=["AAAA"]),
        "text beside the other's finish": b"data: " + json.dumps({"id": "c", "choices": beside}).encode() + b"\n\n",
    }[kind]


def ends_of(stream: bytes, choice: int) -> list[str]:
    """The finish reasons of a choice in a stream, and "more" for every other delta of it."""
    lines = [line for line in stream.decode().split("\n\n") if line.startswith('data: {"')]
    entries = [entry for line in lines if line.endswith("}") for entry in json.loads(line[6:]).get("choices", ())]
    return [entry["finish_reason"] or "more" for entry in entries if entry["index"] == choice]


def records_of(run: Run, choice: int) -> list[Record]:
    """The records of a choice."""
    return [record for record in run.records if record.choice == choice]


KINDS = ("text", "harm", "finish", "text and finish", "image", "text beside the other's finish", *OUTER)
FRAMES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 1)), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(
    FRAMES,
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 40),
    st.tuples(st.sampled_from(["window", "hold_all", "monitor"]), st.sampled_from(["flag", "block"])),
)
@example([("text", 0), ("finish", 0), ("text", 1), ("nonsense", 0)], [1], [0], 0, ("window", "flag"))
@example([("text", 1), ("text and finish", 0), ("text", 1), ("nonsense", 0)], [1], [2], 0, ("window", "flag"))
@example([("text and finish", 0), *[("aside", 0)] * 3], [1], [0], 0, ("window", "flag"))
@example([("text and finish", 0), ("text", 1), ("harmful aside", 0), ("finish", 1)], [1], [0], 0, ("window", "flag"))
@example([("text and finish", 0), ("harm", 1), ("image", 0), ("nonsense", 0)], [1], [3], 0, ("window", "block"))
@example([("text", 0), ("harm", 1), ("done", 0)], [1], [0], 1, ("window", "flag"))
@example([("text beside the other's finish", 0), ("text", 1)], [1], [0], 0, ("monitor", "flag"))
def test_a_choice_ends_once_in_any_order_of_frames(
    kinds: list[tuple[str, int]], sizes: list[int], turns: list[int], cut: int, rules: tuple[Any, str]
) -> None:
    """A choice has one end, the upstream's or the proxy's, nothing behind the proxy's, and each part one record."""
    source = [bytes_of(kind, choice) for kind, choice in kinds]
    places = [0, *accumulate(sizes * len(source))]
    pieces = [b"".join(source[start:end]) for start, end in pairwise(places) if start < len(source)]
    pieces[-1] = pieces[-1][: len(pieces[-1]) - cut]
    run = Run(Thinking(turns))
    mode, on_opaque = rules
    chosen = policy(stream=StreamPolicy(mode, every=1), on_opaque={"user": "flag", "assistant": on_opaque})
    with capture_logs():
        out = within_time(run, lambda: whole(review(run, Upstream(pieces), chosen)))
    assert out.count(DONE) <= 1
    for choice in (0, 1):
        ends, records = ends_of(out, choice), records_of(run, choice)
        if "content_filter" in ends:  # the proxy's end
            assert [end for end in ends if end != "more"] == ["content_filter"]
            assert ends[-1] == "content_filter"
            assert out.count(DONE) == 1
            assert [record.outcome for record in records] == ["refuse"]
        if "stop" in ends:  # the upstream's end
            assert [record.outcome for record in records][:1] == ["pass"]
        sent = sum(kind.startswith("text") and of == choice for kind, of in kinds)
        recorded = " ".join(record.text for record in records)
        assert recorded.count("Fine") <= sent
        assert max(recorded.count(text) for text in ("some words", "out of luck")) <= 1
        assert all(record.coverage for record in records[1:])


def read_in_two(run: Run, first: list[bytes], late: list[bytes], rules: Any) -> bytes:
    """The client's bytes of a reply whose `late` pieces come when the client has all bytes of the `first`."""

    async def read() -> bytes:
        source = Upstream([*first, *late], stop_at=len(first))
        pieces = review(run, source, rules)
        got = b""
        while got != b"".join(first):
            got += await anext(pieces)
        source.may_go_on.set()
        return got + await whole(pieces)

    with capture_logs():
        return bytes(within_time(run, read))


def test_a_finished_choice_is_not_part_of_what_becomes_unreadable() -> None:
    """A choice that the client has whole keeps its end and its record; only the open choice is refused."""
    run = Run()
    first = [frame(0, content="Fine."), frame(0, finish="stop"), frame(1, content="Fine so far.")]
    out = read_in_two(run, first, [NONSENSE], policy(stream=EVERY_FRAME))
    assert (ends_of(out, 0), ends_of(out, 1)) == (["more", "stop"], ["more", "more", "content_filter"])
    assert [(record.choice, record.outcome, bool(record.error)) for record in run.records] == [
        (0, "pass", False),
        (1, "refuse", True),
    ]
    assert out.endswith(DONE)


def test_a_reply_of_finished_choices_is_whole_although_the_rest_is_unreadable() -> None:
    """If every choice has ended, nothing is refused: the stream gets its terminator."""
    run = Run()
    first = frames("Fine.")[:-1]
    assert read_in_two(run, first, [NONSENSE], policy(stream=EVERY_FRAME)) == b"".join([*first, DONE])
    assert [record.outcome for record in run.records] == ["pass"]


def test_a_judged_choice_leaves_whole_when_another_is_unreadable() -> None:
    """A choice with its last verdict is sent to its end, although it waited behind a frame that never got one."""
    run = Run()
    rules = policy(stream=StreamPolicy("hold_all"), block=BlockPolicy(message="NO"))
    source = [
        frame(1, content="Fine so far."),
        frame(0, content="Fine.", finish="stop"),
        *[b": wait\n\n"] * 9,
        NONSENSE,
    ]
    with capture_logs():
        out = run.stream(source, rules)
    assert (content_of(out, 0), ends_of(out, 0)) == ("Fine.", ["more", "stop"])
    assert (content_of(out, 1), ends_of(out, 1)[-1]) == ("NO", "content_filter")
    assert sorted((record.choice, record.outcome) for record in run.records) == [(0, "pass"), (1, "refuse")]


@pytest.mark.parametrize("action", ["block", "rewrite"])
def test_harm_behind_the_end_is_withheld_without_a_second_end(action: Any) -> None:
    """The client keeps the end that it has; the late frame does not leave, and has a record of its own."""
    run = Run()
    rules = policy(stream=EVERY_FRAME, assistant=SideRules({"*": (Rule(action, 0.5, "replace"),)}))
    first = frames("Fine.")[:-1]
    late = b'data: {"error": {"message": "cannot parse: a bomb"}}\n\n'
    assert read_in_two(run, first, [late, DONE], rules) == b"".join([*first, DONE])
    assert [(record.outcome, record.text) for record in run.records] == [
        ("pass", "Fine."),
        ("refuse", "cannot parse: a bomb"),
    ]
    assert [[item.path for item in record.coverage] for record in run.records][1] == ["error.message"]
    assert [record.late for record in run.records] == [False, True]


@pytest.mark.parametrize(("late", "outcome"), [("nothing bad", "pass"), ("a bomb", "refuse")])
def test_what_comes_behind_the_end_is_in_the_record_of_the_choice(late: str, outcome: str) -> None:
    """If the audit need not come first, a choice has one record, written at the end, with the usage of the stream."""
    run = Run(required=False)
    first = frames("Fine.")[:-1]
    error = b'data: {"error": {"message": "%s"}}\n\n' % late.encode()
    usage = (
        b'data: {"id": "c", "model": "m-1", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    )
    read_in_two(run, first, [error, usage, DONE], policy(stream=EVERY_FRAME))
    (record,) = run.records
    assert (record.outcome, record.late, record.complete) == (outcome, False, True)
    assert set(record.text.splitlines()) == {"Fine.", late}
    assert record.reply is not None
    assert record.reply.model == ("m-1" if outcome == "pass" else record.reply.model)
    assert record.reply.output_tokens in ((2,) if outcome == "pass" else (2, None))


def test_what_is_known_is_not_recorded_again_behind_the_end() -> None:
    """A server's words on every frame are a part of the first choice once, also behind its end."""
    run = Run()
    words = b'data: {"choices": [], "aside": "some words"}\n\n'
    first = [words, *frames("Fine.")[:-1]]
    late = [words, frame(1, content="Fine."), words, frame(1, finish="stop"), words, DONE]
    assert read_in_two(run, first, late, policy(stream=EVERY_FRAME)) == b"".join([*first, *late])
    assert sorted((record.choice, record.text) for record in run.records) == [(0, "some words\nFine."), (1, "Fine.")]


def test_what_is_known_needs_no_check_behind_the_end() -> None:
    """A server's words on every frame are judged once, with the text."""
    run = Run()
    words = b'data: {"choices": [], "aside": "some words"}\n\n'
    first = [words, *frames("Fine.")[:-1]]
    assert read_in_two(run, first, [words, words, DONE], policy(stream=EVERY_FRAME)).endswith(DONE)
    assert len(run.guard.asked) == 2  # the words and the text as they came


def test_only_what_came_behind_the_end_is_in_the_second_record() -> None:
    """Text behind an end is unreadable; with what waits for its verdict there, it is recorded without the answer."""
    run = Run(Thinking([0, 1000]))
    late = [b'data: {"choices": [], "aside": "some words"}\n\n', frame(content=" More.")]
    first = frames("Fine.")[:-1]
    assert read_in_two(run, first, late, policy()) == b"".join([*first, DONE])
    assert [(record.outcome, record.text) for record in run.records] == [
        ("pass", "Fine."),
        ("refuse", " More.\nsome words"),
    ]


def test_a_monitored_choice_that_the_client_has_passes_although_the_rest_is_unreadable() -> None:
    """In `monitor` mode an end leaves before its verdict, which is in the record with the reason of the break."""
    run = Run(Thinking([1000]))
    with capture_logs():
        out = run.stream([frame(content="Fine.", finish="stop"), NONSENSE], policy(stream=StreamPolicy("monitor")))
    assert ends_of(out, 0) == ["stop"]
    (record,) = run.records
    assert (record.outcome, bool(record.verdict), bool(record.error)) == ("pass", True, True)


def test_an_end_that_waits_for_text_leaves_when_the_rest_is_unreadable() -> None:
    """If blocks are errors, frames wait for the first text; those of a finished choice leave with the terminator."""
    run = Run()
    source = [frame(role="assistant", content=""), frame(finish="stop"), *[b": wait\n\n"] * 9, NONSENSE]
    with capture_logs():
        out = run.stream(source, policy(stream=EVERY_FRAME, block=BlockPolicy("error")))
    assert ends_of(out, 0) == ["more", "stop"]
    assert out.endswith(DONE)
    assert [record.outcome for record in run.records] == ["pass"]


@pytest.mark.parametrize("skip", [(), ("reasoning",)])
def test_a_skipped_kind_of_text_is_not_judged_in_a_stream(skip: Any) -> None:
    """The policy's `judge.skip` holds for a streamed reply as for a whole one."""
    run = Run()
    source = [frame(0, reasoning_content="a bomb"), *frames("Fine.")]
    out = run.stream(source, policy(stream=EVERY_FRAME, judge=JudgeScope(skip=skip)))
    assert ends_of(out, 0)[-1] == ("stop" if skip else "content_filter")


@pytest.mark.parametrize("harmful", [0, 1, 50, 100])
def test_what_many_choices_cost(harmful: int) -> None:
    """The guard is asked a few times for each choice, however many are harmful; all of these are refused, no others."""
    texts = [f"A bomb, number {n}. " if n < harmful else f"A fine word, number {n}. " for n in range(100)]
    pieces = [frame(n, content=text) for n, text in enumerate(texts)]
    ends = [frame(n, finish="stop") for n in range(100)]
    run = Run()
    with capture_logs():
        out = within_time(run, lambda: whole(review(run, Upstream([b"".join([*pieces, *ends, DONE])]), policy())))
    refused = [n for n in range(100) if ends_of(out, n)[-1] == "content_filter"]
    assert refused == [*range(harmful)]
    assert len(run.guard.asked) < 8 * len(texts)


SAID = st.tuples(st.integers(0, 3), st.sampled_from(["a bo", "mb ", "Fine. ", "a bomb ", "a knife "]))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(SAID, min_size=2, max_size=14),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
@example([(0, "a bomb "), (1, "a bo"), (2, "mb ")], [1], [0])
@example([(0, "a bomb "), (1, "a bo"), (2, "mb ")], [3], [3, 0])
@example([(1, "a bo"), (0, "a bomb "), (1, "Fine. "), (2, "a bo"), (1, "mb ")], [1, 2], [0, 4])
def test_no_harm_leaves_over_several_choices(said: list[tuple[int, str]], sizes: list[int], turns: list[int]) -> None:
    """Also where a choice beside them is known to be harmful: what the client reads in order has no harm."""
    source = [frame(of, content=text) for of, text in said]
    places = [0, *accumulate(sizes * len(source))]
    pieces = [b"".join(source[start:end]) for start, end in pairwise(places) if start < len(source)]
    run = Run(Thinking(turns))
    with capture_logs():
        out = within_time(run, lambda: whole(review(run, Upstream([*pieces, DONE]), policy(stream=EVERY_FRAME))))
    lines = [json.loads(line[6:]) for line in out.decode().split("\n\n") if line.startswith('data: {"')]
    read = "".join(entry["delta"].get("content") or "" for line in lines for entry in line["choices"])
    assert "bomb" not in read
    own = ["".join(text for of, text in said if of == choice) for choice in range(4)]
    ended = [choice for choice in range(4) if "content_filter" in ends_of(out, choice)]
    assert any("bomb" in text for text in (*own, "".join(text for _, text in said))) or not ended
