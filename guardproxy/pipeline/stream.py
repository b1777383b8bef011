"""A streamed reply: frames are held back until they are judged, so a reply that turns harmful ends before its harm.

Theory of operation. One loop reads the upstream, starts the checks that the hold-back buffer asks for, and yields what
the buffer releases. A read and the checks (at most one per choice) run as concurrent tasks: a slow guard does not stop
the loop from reading, a slow upstream does not stop it from releasing judged text. Only the loop changes the buffer and
the wire's stream, so there are no locks.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from guardproxy.errors import UpstreamUnreadable
from guardproxy.holdback import Ask, HoldBack
from guardproxy.observe import Metrics
from guardproxy.pipeline.judged_request import undecoded_paths, unread_parts
from guardproxy.pipeline.judging import Exchange, JudgedTurn, Judgement, Judging, gathered, refusal
from guardproxy.pipeline.resumed import JudgedReplies
from guardproxy.pipeline.turns import coverage_of, in_scope, recent_context, reply_turn
from guardproxy.policy import worst
from guardproxy.ports import ReplyStream
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Pass, Refuse, Replace, Verdict

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class _LatestCheck:
    """The latest finished check of a choice. `seconds` and `unread` add up over all checks of the choice."""

    message: Message
    verdict: Verdict | None
    decision: Decision
    error: str = ""
    seconds: float = 0.0
    undecoded: bool = False
    unread: tuple[str, ...] = ()


class RefusedBeforeStart(Exception):
    """The reply is refused and nothing of it was sent, so the answer can be an error instead of a stream."""

    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class StreamReview:
    """Reads, judges and releases one streamed reply.

    `try_refuse_with_error` returns True if the caller has sent nothing to the client and will answer with an error.
    """

    def __init__(
        self,
        judging: Judging,
        metrics: Metrics,
        exchange: Exchange,
        stream: ReplyStream,
        *,
        max_held_bytes: int,
        replies: JudgedReplies,
        try_refuse_with_error: Callable[[], bool],
    ) -> None:
        self._judging = judging
        self._metrics = metrics
        self._exchange = exchange
        self._context = recent_context(exchange.request.conversation.messages)
        self._stream = stream
        self._hold = HoldBack(exchange.policy.stream)
        self._max_held_bytes = max_held_bytes
        self._replies = replies
        self._try_refuse_with_error = try_refuse_with_error
        # If blocks are errors: released frames without text. They wait for the first text, because any byte sent to the
        # client makes an HTTP error impossible. None: they were sent, or blocks are completions.
        self._frames_before_text: list[bytes] | None = [] if exchange.policy.block.how == "error" else None
        self._key = uuid.uuid4().hex  # the guard keeps its work on this reply under this name
        self._checks: dict[asyncio.Task[_LatestCheck], Ask] = {}
        self._pending_read: asyncio.Task[bytes | None] | None = None
        self._task_done = asyncio.Event()  # a read or a check has finished
        self._latest: dict[int, _LatestCheck] = {}  # by choice
        self._finished: set[int] = set()  # choices whose end, as the upstream sent it, was released
        self._ended: set[int] = set()  # choices that the proxy has ended
        self._recorded: dict[int, Message] = {}  # by choice
        self._upstream_done = False
        self._unreadable = False

    @property
    def failed(self) -> bool:
        """Whether the reply could not be read, a choice not be judged, or the guard does not read its language."""
        return self._unreadable or any(check.error or check.unread for check in self._latest.values())

    @property
    def passed(self) -> bool:
        """Whether nothing was put in the place of the upstream's frames; some may have been cleaned."""
        return not self._unreadable and not self._ended

    @property
    def decision(self) -> Decision:
        """The most severe of the latest decisions on the choices."""
        return worst([check.decision for check in self._latest.values()])

    async def run(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the bytes for the client. Raises the errors of `source`, after yielding the text judged until then.

        An unreadable reply ends every open choice with a refusal. Any other failure propagates; the text that is still
        held back is not sent.
        """
        with self._metrics.stream_held():
            try:
                while not self._done():
                    if not self._checks and self._pending_read is None:
                        self._feed(await anext(source, None))  # no check runs: a read without a task is cheaper
                    else:
                        for task in await self._finished_checks(source):
                            if piece := await self._act_on(self._checks.pop(task), task.result()):
                                yield piece
                    if piece := await self._release():
                        yield piece
                    self._start_checks()
                if piece := self._terminator():
                    yield piece
            except UpstreamUnreadable as error:
                log.warning("stream_unreadable", error=str(error))
                self._unreadable = True
                yield await self._abandon(str(error))
            finally:
                await self._stop()

    async def _finished_checks(self, source: AsyncIterator[bytes]) -> list[asyncio.Task[_LatestCheck]]:
        """Wait until a read or a check has finished; feed what was read, return the finished checks."""
        if self._pending_read is None and not self._upstream_done:
            self._pending_read = self._task(_next(source))
        await self._task_done.wait()
        self._task_done.clear()
        if self._pending_read is not None and self._pending_read.done():
            data, self._pending_read = self._pending_read.result(), None
            self._feed(data)
        return [task for task in self._checks if task.done()]

    def _task(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(call)
        task.add_done_callback(self._wake)
        return task

    def _wake(self, _: object) -> None:
        self._task_done.set()

    def _done(self) -> bool:
        if self._checks:
            return False
        return (self._upstream_done and self._hold.empty) or self._all_ended()

    def _all_ended(self) -> bool:
        return bool(self._ended) and not self._hold.open and self._ended >= set(self._stream.choices)

    def _feed(self, data: bytes | None) -> None:
        """Put the frames that `data` completes into the buffer; None is the end of the upstream's body."""
        for chunk in self._stream.finish() if data is None else self._stream.feed(data):
            self._hold.add(chunk)
        if data is None:
            self._upstream_done = True
            self._hold.complete()  # a reply that breaks off is judged up to its last frame
        if self._hold.held_bytes > self._max_held_bytes:
            raise UpstreamUnreadable(f"more than {self._max_held_bytes} bytes of a reply are waiting to be judged")
        self._start_checks()

    def _start_checks(self) -> None:
        for ask in self._hold.ask():
            self._checks[self._task(self._check(ask))] = ask

    async def _check(self, ask: Ask) -> _LatestCheck:
        """Judge the choice as far as it was fed, which may be further than `ask.upto`: more text, never less."""
        started = time.perf_counter()
        message = self._stream.message(ask.choice)
        before = self._latest.get(ask.choice)
        if before is not None and before.message == message:
            return before  # a finish frame without text: the last check judged exactly this message
        judged = await self._judged(message)
        if message.arrived and not _is_clean(judged):
            message = await self._without_harm_beside(ask.choice)
            judged = await self._judged(message)
        seconds, unread = time.perf_counter() - started, judged.unread
        if before is not None:
            seconds, unread = seconds + before.seconds, tuple(dict.fromkeys((*before.unread, *unread)))
        return _LatestCheck(message, judged.verdict, judged.decision, judged.error, seconds, judged.undecoded, unread)

    async def _judged(self, message: Message) -> Judgement:
        policy = self._exchange.policy
        return await self._judging.judgement(self._context, in_scope(message, policy.judge), policy, self._key)

    async def _without_harm_beside(self, choice: int) -> Message:
        """The choice beside the released texts of others only, if their own text must not pass or cannot be judged.

        Harm in one choice is not that of another. A text that the guard has failed to judge is left out.
        """
        others = [other for other in self._stream.choices if other != choice and other not in self._ended]
        alone = {other: replace(self._stream.message(other), arrived=()) for other in others}
        judged = await gathered([self._judged(message) for message in alone.values()])
        unclean = [other for other, own in zip(others, judged, strict=True) if not _is_clean(own)]
        unjudged = {
            part.path for other, own in zip(others, judged, strict=True) if own.error for part in alone[other].parts
        }
        message = self._stream.message(choice, without=unclean)
        return replace(message, arrived=tuple(part for part in message.arrived if part.path not in unjudged))

    async def _act_on(self, ask: Ask, check: _LatestCheck) -> bytes:
        """Apply a finished check: release its text, hold the choice until it is complete, or end it.

        Returns the bytes that end the choice, empty if it goes on.
        """
        self._latest[ask.choice] = check
        policy = self._exchange.policy
        if SEVERITY[check.decision.action] < SEVERITY["rewrite"] or policy.stream.mode == "monitor":
            self._hold.passed(ask)
            await self._record_finished({ask.choice})
            return b""
        if check.decision.action == "rewrite" and not ask.final and check.decision.how != "replace":
            # Only `replace` needs no more text. Other rewrites keep some of the reply, so they need all of it.
            self._hold.defer(ask)
            return b""
        return await self._end(ask, check)

    async def _end(self, ask: Ask, check: _LatestCheck) -> bytes:
        """End a choice: the text that was sent stays, the outcome takes the place of everything else."""
        policy = self._exchange.policy
        outcome: Outcome = refusal(policy, check.decision)
        rewritable = not self._exchange.request.structured and ask.choice not in self._finished
        if check.decision.action == "rewrite" and rewritable:
            outcome = await self._rewritten(ask, check)
        elif check.decision.action == "block":
            outcome = await self._judging.act((), check.message, check.decision, policy)
        if isinstance(outcome, Pass):
            outcome = refusal(policy, check.decision)  # an action must not let a text pass that the policy stops
        await self._record(ask.choice, outcome)
        return self._ending(ask.choice, outcome)

    async def _rewritten(self, ask: Ask, check: _LatestCheck) -> Outcome:
        """Rewrite the text that was not sent yet; judge candidates after the text that was: the client reads both."""
        released = self._stream.released(ask.choice)
        sent = {part.path: part.text for part in released.parts}
        policy = self._exchange.policy
        unsent = Message(
            check.message.role,
            tuple(replace(p, text=p.text[len(sent.get(p.path, "")) :]) for p in check.message.parts),
        )

        async def judge_again(candidate: Message) -> Decision:
            new = {part.path: part.text for part in candidate.parts}
            whole = tuple(replace(p, text=sent.get(p.path, "") + new.get(p.path, "")) for p in check.message.parts)
            arrived = (*released.arrived, *candidate.parts) if check.message.arrived else ()
            return (await self._judging.judge(self._context, Message(candidate.role, whole, arrived), policy))[1]

        outcome = await self._judging.outcome_of(unsent, check.decision, policy, judge_again)
        if not isinstance(outcome, Replace):
            return outcome
        return replace(outcome, edits=tuple(Edit(e.path, sent.get(e.path, "") + e.text) for e in outcome.edits))

    def _ending(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """The bytes that end a choice; none but the waiting frames if the client has its end already.

        Raises RefusedBeforeStart if an error can still take their place.
        """
        nothing_sent = self._frames_before_text is not None
        if isinstance(outcome, Refuse) and nothing_sent and self._try_refuse_with_error():
            raise RefusedBeforeStart(outcome)
        end = self._stream.end(choice, outcome)  # in any case: the stream releases no more frames of the choice
        self._hold.settle(choice)
        self._ended.add(choice)
        return self._after_waiting_frames(b"" if choice in self._finished else end)

    async def _release(self) -> bytes:
        """The bytes of the frames that may be sent now; frames before the first text wait if blocks are errors."""
        out, has_text = await self._released()
        if self._frames_before_text is None or has_text or self._done():
            return self._after_waiting_frames(out)
        self._frames_before_text.append(out)
        return b""

    async def _released(self) -> tuple[bytes, bool]:
        """Take the frames that may be sent now: their bytes, and whether they have text. Record what they finish."""
        chunks = self._hold.release()
        finished = {mark.choice for chunk in chunks for mark in chunk.marks if mark.final} - self._ended
        self._finished |= finished
        await self._record_finished(finished)
        out = b"".join([self._stream.release(chunk) for chunk in chunks])
        return out, any(mark.upto for chunk in chunks for mark in chunk.marks)

    def _after_waiting_frames(self, out: bytes) -> bytes:
        """The frames that waited for the first text, then `out`. From here on the answer cannot be an error."""
        waiting, self._frames_before_text = self._frames_before_text, None
        return b"".join([*waiting, out]) if waiting else out

    def _terminator(self) -> bytes:
        """The stream's own terminator if the proxy ended a choice and the upstream's terminator was not sent."""
        return self._stream.close() if self._ended else b""

    async def _abandon(self, why: str) -> bytes:
        """End every open choice with a refusal, send what is judged of the others, and the stream's terminator."""
        out = []
        for choice in self._unsettled() or ([] if self._stream.choices else [0]):
            message = self._stream.message(choice)
            self._latest[choice] = _LatestCheck(message, None, Decision("block", "", (), "opaque"), why)
            outcome = refusal(self._exchange.policy)
            monitored = choice in self._finished and self._exchange.policy.stream.mode == "monitor"
            await self._record(choice, Pass() if monitored else outcome)  # if monitored, the client has all of it
            out.append(self._ending(choice, outcome))
        rest, _ = await self._released()
        return b"".join([*out, self._after_waiting_frames(rest), self._stream.close()])

    def _unsettled(self) -> list[int]:
        """The choices without a verdict on everything that was read of them; a choice may have no queued frame yet."""
        judged = self._latest.keys() - set(self._hold.open)
        return sorted(set(self._stream.choices) - judged - self._ended)

    async def _record_finished(self, choices: set[int]) -> None:
        """Record those of the choices that have both their end and the verdict on the whole of it.

        Not sooner: until its end may be released, a choice can still become part of a reply that is unreadable.
        """
        for choice in sorted(choices & self._finished - set(self._hold.open)):
            await self._record(choice, Pass())

    async def _record(self, choice: int, outcome: Outcome) -> None:
        """Record a choice. If it was recorded already, record what has come behind its end, if anything has."""
        check, recorded = self._latest[choice], self._recorded.get(choice)
        message = check.message if recorded is None else _behind(check.message, recorded)
        if recorded is not None and not message.parts:
            return
        self._recorded[choice] = check.message
        turn = reply_turn(self._exchange.request.conversation.messages, message)
        judged = JudgedTurn(
            turn,
            check.verdict,
            check.decision,
            outcome,
            check.error,
            check.seconds,
            choice,
            check.undecoded,
            check.unread,
        )
        if judged.passed:
            self._replies.remember(self._exchange, self._stream.id)
        policy, undecoded, unread = self._exchange.policy, undecoded_paths([judged]), unread_parts([judged])
        coverage = coverage_of([message], policy, failed=bool(check.error), undecoded=undecoded, unread=unread)
        await self._judging.record(self._exchange, [judged], coverage)

    async def _stop(self) -> None:
        """Cancel pending tasks; record the choices that end without a final verdict."""
        pending = [*self._checks, *([self._pending_read] if self._pending_read is not None else [])]
        if pending:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        self._judging.guard.forget(self._key)
        for choice in sorted(self._latest.keys() - self._recorded.keys()):
            if choice in self._hold.open:
                self._latest[choice].error = "the stream ended before the last verdict"
            await self._record(choice, Pass())


def _behind(message: Message, earlier: Message) -> Message:
    """What a message has more than `earlier`, its state before: new parts, and the rests of parts that have grown."""
    known = {part.path: part.text for part in earlier.parts}
    new = [part for part in message.parts if part not in earlier.parts]
    return replace(message, parts=tuple(replace(part, text=part.text[len(known.get(part.path, "")) :]) for part in new))


def _is_clean(judged: Judgement) -> bool:
    return judged.decision.action == "pass" and not judged.error


async def _next(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
