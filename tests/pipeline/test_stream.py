"""A streamed reply in time: what waits for what, when reading stops, and what a client that leaves costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from guardproxy.errors import GuardUnavailable
from guardproxy.pipeline.stream import RefusedBeforeStart
from guardproxy.pipeline.turns import is_full
from guardproxy.pipeline.unattended import Unattended
from guardproxy.policy import BlockPolicy, Policy, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Decision, Message, Outcome, Pass, Refuse, Verdict
from tests.kit import WordGuard, eventually
from tests.pipeline.test_pipeline import TEXT, WORDS, Run, content_of, finish, frame, frames, policy, question

EVERY_FRAME = StreamPolicy("window", every=1)
WAIT_S = 60  # a test that waits longer has hung


class Slow(WordGuard):
    """A guard that answers when it is allowed to, and notes what was cancelled or forgotten."""

    def __init__(self) -> None:
        super().__init__(WORDS)
        self.asked_first = asyncio.Event()
        self.allowed = asyncio.Event()
        self.cancelled = 0
        self.forgotten: list[str] = []

    async def judge(self, check: Check) -> Verdict:
        """Wait, then judge the words."""
        self.asked_first.set()
        try:
            await self.allowed.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().judge(check)

    def forget(self, stream: str) -> None:
        """Note the stream."""
        self.forgotten.append(stream)


class Upstream:
    """A source that counts what was read of it, and stops before a frame until it may go on."""

    def __init__(self, pieces: list[bytes], stop_at: int = -1) -> None:
        self.pieces = pieces
        self.stop_at = stop_at
        self.read = 0
        self.may_go_on = asyncio.Event()
        self.read_all = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self.pieces):
            if number == self.stop_at:
                await self.may_go_on.wait()
            await asyncio.sleep(0)
            self.read += 1
            yield piece
        self.read_all.set()


def review(run: Run, source: Upstream, rules: Policy, error: bool = False, **ask: Any) -> Any:
    """The pieces of a guarded stream; `error`: the caller has sent nothing and would answer with an error."""
    exchange = run.exchange(question(stream=True, **ask), rules)
    return run.pipeline.review_stream(exchange, aiter(source), "text/event-stream", lambda: error)


def within_time(run: Run, call: Any) -> Any:
    """Run a coroutine function with the run's observers; a hang is a failure."""

    async def bounded() -> Any:
        return await asyncio.wait_for(call(), WAIT_S)

    return run._with(bounded)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All pieces."""
    return b"".join([piece async for piece in pieces])


def test_judged_text_leaves_while_the_upstream_is_slow() -> None:
    """A verdict releases its text although the next frame has not come."""

    async def read() -> None:
        source = Upstream(frames(TEXT), stop_at=4)
        pieces = review(run, source, policy(stream=EVERY_FRAME))
        got = b""
        while content_of(got) != TEXT[:27]:
            got += await anext(pieces)
        assert source.read == 4
        source.may_go_on.set()
        assert got + await whole(pieces) == b"".join(frames(TEXT))

    run = Run()
    within_time(run, read)


def test_the_upstream_is_read_while_the_guard_is_slow() -> None:
    """A check that takes its time does not stop the reading, and is not asked for its result before it has one."""

    async def read() -> None:
        run.guard = run.pipeline.judging.guard = guard = Slow()
        source = Upstream(frames(TEXT))
        reading = asyncio.ensure_future(whole(review(run, source, policy(stream=EVERY_FRAME))))
        await source.read_all.wait()
        assert not reading.done()
        guard.allowed.set()
        assert await reading == b"".join(source.pieces)
        assert len(guard.asked) == 2  # the first text, and all that came while the guard was asked about it

    run = Run()
    within_time(run, read)


@pytest.mark.parametrize("stopped", ["at once", "by the shutdown"])
def test_judging_without_a_client_is_bounded(stopped: str) -> None:
    """When its time is over, its checks are cancelled, the guard forgets the reply, and the record says what lacks."""

    async def leave() -> None:
        run.guard = run.pipeline.judging.guard = guard = Slow()
        run.pipeline._unattended = Unattended(0 if stopped == "at once" else 60, 1000)
        reading = asyncio.ensure_future(whole(review(run, Upstream(frames(TEXT)), policy(stream=EVERY_FRAME))))
        await guard.asked_first.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert not guard.cancelled
        await run.pipeline.close(0.1)
        assert guard.cancelled == 1
        assert len(guard.forgotten) == 1

    run = Run()
    with capture_logs() as logs:
        within_time(run, leave)
    (record,) = run.records
    assert (record.verdict, record.complete, record.outcome) == (None, False, "refuse")
    assert (record.error, record.decision.cause) == ("the stream ended before the last verdict", "guard_error")
    assert not is_full(record.coverage)
    assert [line["event"] for line in logs] == ["unattended_stopped"]


def test_reading_stops_when_every_choice_has_ended() -> None:
    """Nothing more of the upstream is read once the proxy has ended all choices, and the stream has one terminator."""

    async def read() -> None:
        source = Upstream([*frames("a bomb " + TEXT)[:-2], *[frame(content="more ")] * 500, b"data: [DONE]\n\n"])
        out = await whole(review(run, source, policy(stream=EVERY_FRAME)))
        assert source.read < 100
        assert (finish(out), out.count(b"[DONE]")) == (["content_filter"], 1)
        assert out.endswith(b"data: [DONE]\n\n")

    run = Run()
    within_time(run, read)


@pytest.mark.parametrize(
    ("how", "error", "raised"), [("error", True, True), ("error", False, False), ("completion", True, False)]
)
def test_a_block_before_the_first_text_may_be_an_error(how: Any, error: bool, raised: bool) -> None:
    """If blocks are errors and nothing was sent, the refusal is raised; otherwise the stream ends with it."""

    async def read() -> None:
        rules = policy(stream=EVERY_FRAME, block=BlockPolicy(how, "NO"))
        pieces = review(run, Upstream(frames("a bomb")), rules, error)
        if raised:
            with pytest.raises(RefusedBeforeStart, match="NO") as refused:
                await whole(pieces)
            assert refused.value.refusal.message == "NO"
            return
        out = await whole(pieces)
        assert (content_of(out), finish(out)) == ("NO", ["content_filter"])

    run = Run()
    within_time(run, read)
    assert [record.outcome for record in run.records] == ["refuse"]


def test_frames_without_text_wait_only_if_a_block_may_be_an_error() -> None:
    """Until the first text a byte would make an error impossible; from then on every frame leaves when it may."""

    async def read(how: Any, before: bytes) -> None:
        source = Upstream(frames(TEXT), stop_at=1)
        pieces = review(run, source, policy(stream=EVERY_FRAME, block=BlockPolicy(how)), True)
        first = asyncio.ensure_future(anext(pieces))
        if before:
            await eventually(first.done)
        await asyncio.sleep(0.05)
        assert first.done() is bool(before)
        source.stop_at = len(source.pieces) - 1
        source.may_go_on.set()
        source.may_go_on = asyncio.Event()
        got = await first
        while content_of(got) != TEXT:
            got += await anext(pieces)
        assert source.read < len(source.pieces)
        source.may_go_on.set()
        assert got + await whole(pieces) == b"".join(source.pieces)

    for how, before in (("error", b""), ("completion", frames(TEXT)[0])):
        run = Run()
        within_time(run, lambda how=how, before=before: read(how, before))


def test_the_first_text_leaves_with_the_frames_before_it() -> None:
    """Frames without text do not hold back the text that comes in one piece with them, if a block may be an error."""

    async def read() -> None:
        first, rest = b"".join(frames(TEXT)[:3]), frames(TEXT)[3:]
        source = Upstream([first, *rest], stop_at=1)
        pieces = review(run, source, policy(stream=EVERY_FRAME, block=BlockPolicy("error")), True)
        assert await anext(pieces) == first
        source.may_go_on.set()
        assert await whole(pieces) == b"".join(rest)

    run = Run()
    within_time(run, read)


def acting(outcome: Outcome) -> Any:
    """The factory of an action with this outcome."""

    async def act(message: Message, decision: Decision, judge_again: Any) -> Outcome:
        assert (message.text, decision.action) == ("a bomb", "block")
        return outcome

    return lambda _: act


@pytest.mark.parametrize(("outcome", "message"), [(Refuse("by the action"), "by the action"), (Pass(), "NO")])
def test_a_block_is_what_its_action_makes_of_it(outcome: Outcome, message: str) -> None:
    """The `block` action writes the refusal; an action that would let the text pass is overruled."""
    run = Run()
    run.pipeline.use({"block": acting(outcome)})
    out = run.stream(frames("a bomb"), policy(block=BlockPolicy(message="NO")))
    assert (content_of(out), finish(out)) == (message, ["content_filter"])


def test_a_structured_stream_is_never_replaced_by_prose() -> None:
    """If the request asked for a schema, a rewrite ends the stream with a refusal."""
    rules = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "replace"),)}))
    run = Run()

    async def read() -> None:
        asked = review(run, Upstream(frames('{"a": "bomb"}')), rules, response_format={"type": "json_object"})
        out = await whole(asked)
        assert b"[removed by policy]" not in out
        assert finish(out) == ["content_filter"]

    within_time(run, read)
    assert [record.outcome for record in run.records] == ["refuse"]


def test_an_unreadable_first_frame_ends_the_first_choice() -> None:
    """A reply of which nothing could be read is a refused first choice."""
    run = Run()
    out = run.stream([b"data: {nonsense\n\n"], policy(block=BlockPolicy(message="NO")))
    assert (content_of(out), finish(out)) == ("NO", ["content_filter"])
    assert [(record.choice, record.outcome) for record in run.records] == [(0, "refuse")]


def test_the_time_of_a_choice_is_that_of_all_its_checks() -> None:
    """The record adds up the seconds of a choice's checks."""

    class First(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            await asyncio.sleep(0 if self.asked else 0.2)
            return await super().judge(check)

    run = Run(First(WORDS))
    began = time.perf_counter()
    run.stream(frames(TEXT), policy(stream=EVERY_FRAME))
    assert len(run.guard.asked) > 1
    assert 0.2 <= run.records[0].latency_s <= time.perf_counter() - began


def test_a_rewrite_is_judged_behind_what_was_sent() -> None:
    """The guard reads the rewritten reply as the client will: the text that was sent, then the new text."""
    rules = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "redact"),)}))
    run = Run()
    out = run.stream(frames(TEXT * 8 + "Now the bomb. " + TEXT), rules)
    assert content_of(out).startswith(TEXT * 8)
    assert content_of(out).endswith("[removed] " + TEXT)
    assert run.guard.asked[-1].turn.text == content_of(out)


def test_a_redaction_loses_nothing_between_what_was_sent_and_the_harm() -> None:
    """Harmless text that was still held back stands before the redacted sentence, whole."""
    rules = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "redact"),)}))
    out = Run().stream(frames(TEXT * 6 + "Now the bomb. " + TEXT), rules)
    assert content_of(out) == TEXT * 6 + "[removed] " + TEXT


def test_nobody_reads_the_source_of_a_stream_that_has_ended() -> None:
    """When a client has left, the last read of the upstream is over, however long it takes to cancel."""

    class Lingering(Upstream):
        def __init__(self, pieces: list[bytes]) -> None:
            super().__init__(pieces)
            self.asked, self.left = asyncio.Event(), False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                for piece in self.pieces[:4]:
                    yield piece
                self.asked.set()
                await self.may_go_on.wait()
            finally:
                await asyncio.sleep(0.05)
                self.left = True

    async def leave() -> None:
        source = Lingering(frames(TEXT))
        reading = asyncio.ensure_future(whole(review(run, source, policy(stream=EVERY_FRAME))))
        await source.asked.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert source.left

    run = Run()
    within_time(run, leave)


def test_a_rewrite_of_a_reply_of_which_nothing_was_sent() -> None:
    """A harm in the first sentence is redacted in its place."""
    rules = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "redact"),)}))
    run = Run()
    out = run.stream(frames("A bomb. Fine."), rules)
    assert content_of(out) == run.guard.asked[-1].turn.text == "[removed] Fine."


def test_an_unreadable_reply_is_recorded_as_opaque() -> None:
    """The record of a choice that was read in part: blocked as opaque, without a rule, with the reason."""
    run = Run()
    rules = policy(block=BlockPolicy(message="NO"))
    with capture_logs() as logs:
        out = run.stream([frame(content="Fine so far"), b"data: {nonsense\n\n"], rules)
    assert (content_of(out), finish(out), out.count(b"[DONE]")) == ("NO", ["content_filter"], 1)
    (record,) = run.records
    assert (record.verdict, record.text, record.latency_s) == (None, "Fine so far", 0.0)
    assert record.decision == Decision("block", "", (), "opaque")
    assert record.error
    assert [(item.judged, item.why) for item in record.coverage] == [(False, "guard unavailable")]
    assert [(line["event"], line["error"]) for line in logs] == [("stream_unreadable", record.error)]


def test_the_choices_of_an_unreadable_reply_end_in_their_order() -> None:
    """Choices that are open when the reply becomes unreadable end by their numbers, whatever came first."""
    run = Run()
    pieces = [frame(choice, content="Fine so far") for choice in (9, 8, 1, 0)]
    run.stream([*pieces, b"data: {nonsense\n\n"], policy())
    assert [(record.choice, record.outcome) for record in run.records] == [(n, "refuse") for n in (0, 1, 8, 9)]


def test_a_reply_has_failed_if_a_choice_has() -> None:
    """A choice that was judged does not make up for another for which the guard failed."""

    class Failing(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            if "odd" in check.turn.text:
                raise GuardUnavailable("out of order")
            return await super().judge(check)

    async def read() -> None:
        source = [frame(n, content=text, finish="stop") for n, text in enumerate(("Fine.", "odd", "Fine."))]
        exchange = run.exchange(question(stream=True), policy(on_guard_error="block"))
        reviewing = run.pipeline._stream_review(exchange, "text/event-stream")
        assert not reviewing.failed
        await whole(reviewing.run(aiter(Upstream([*source, b"data: [DONE]\n\n"]))))
        assert reviewing.failed

    run = Run(Failing(WORDS))
    within_time(run, read)
    assert {record.choice: bool(record.error) for record in run.records} == {0: False, 1: True, 2: False}


def test_a_reply_that_becomes_unreadable_behind_its_choices_has_failed() -> None:
    """Its choices were judged and passed; the reply as a whole was not read to its end."""

    async def read() -> None:
        reviewing = run.pipeline._stream_review(run.exchange(question(stream=True), policy()), "text/event-stream")
        source = [*frames("Fine.")[:-1], *[b": wait\n\n"] * 9, b"data: {nonsense\n\n"]
        with capture_logs():
            await whole(reviewing.run(aiter(Upstream(source))))
        assert (reviewing.failed, reviewing.passed) == (True, False)

    run = Run()
    within_time(run, read)
    assert [(record.outcome, record.error) for record in run.records] == [("pass", "")]


def test_a_rewrite_of_a_reply_without_an_opening_frame() -> None:
    """A part of which the client has no frame yet is rewritten, and judged again, as a whole."""
    rules = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "redact"),)}))
    run = Run()
    out = run.stream([frame(content="A bomb. Fine."), frame(finish="stop"), b"data: [DONE]\n\n"], rules)
    assert content_of(out) == run.guard.asked[-1].turn.text == "[removed] Fine."


def test_a_stream_that_fails_is_judged_as_far_as_it_came() -> None:
    """Text that came before the upstream failed is judged to its end and recorded once, as incomplete."""

    class Broken(Upstream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in super().__aiter__():
                yield piece
            raise ConnectionResetError("gone")

    run = Run()

    async def read() -> None:
        source = Broken(frames(TEXT)[:-2])
        with pytest.raises(ConnectionResetError, match="gone"):
            await whole(review(run, source, policy(stream=EVERY_FRAME)))

    within_time(run, read)
    (record,) = run.records
    assert (record.outcome, record.error, record.complete) == ("pass", "", False)
    assert record.text == run.guard.asked[-1].turn.text == TEXT
    assert is_full(record.coverage)
