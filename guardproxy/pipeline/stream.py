"""A streamed reply: frames are held back until they are judged, so a reply that turns harmful ends before its harm.

Theory of operation. One loop reads the upstream, starts the checks that the hold-back buffer asks for, and yields what
the buffer releases. A read and the checks (at most one per choice) run as concurrent tasks: a slow guard does not stop
the loop from reading, a slow upstream does not stop it from releasing judged text. Only the loop changes the buffer and
the wire's stream, so there are no locks. When the client leaves or the upstream fails, nothing more is read; what was
read is judged to its end and recorded (`Unattended`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from guardproxy.errors import JudgingTooLong, UpstreamUnreadable
from guardproxy.holdback import Ask, HoldBack
from guardproxy.observe import Metrics
from guardproxy.pipeline.before_start import AskAgain, InPlace, RefusedBeforeStart
from guardproxy.pipeline.choice_checks import ChoiceChecks, LatestCheck
from guardproxy.pipeline.exchange import Exchange
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.held import FRAME_BYTES, HeldBytes
from guardproxy.pipeline.judging import Judging, refusal
from guardproxy.pipeline.reply_records import ReplyRecords
from guardproxy.pipeline.resumed import JudgedReplies, WithheldReplies
from guardproxy.pipeline.rewriting import rewritten
from guardproxy.pipeline.slices import slices
from guardproxy.pipeline.unattended import Unattended
from guardproxy.policy import REGENERATE, on_failure, worst
from guardproxy.ports import ReplyStream
from guardproxy.sse import KEEP_ALIVE
from guardproxy.types import SEVERITY, Decision, Outcome, Pass, Refuse, Replace, Steer
from guardproxy.wires.shared.refusals import estimated_usage

log = structlog.get_logger()

T = TypeVar("T")

# The frames in the buffer that the event loop works on before other tasks run.
_AT_ONCE = 64
_UNREADABLE = Decision("block", "", (), "opaque")


class StreamReview:
    """Reads, judges and releases one streamed reply. `in_place` says what the caller can still do before it begins."""

    def __init__(
        self,
        judging: Judging,
        metrics: Metrics,
        exchange: Exchange,
        stream: ReplyStream,
        *,
        held: HeldBytes,
        replies: JudgedReplies,
        withheld: WithheldReplies,
        unattended: Unattended,
        in_place: InPlace,
    ) -> None:
        self._judging = judging
        self._metrics = metrics
        self._exchange = exchange
        self._choices = ChoiceChecks(judging, exchange, stream)
        self._stream = stream
        self._hold = HoldBack(exchange.policy.stream)
        self._held = held.stream(monitored=exchange.policy.stream.mode == "monitor")
        self._records = ReplyRecords(judging, exchange, stream, replies)
        self._withheld = withheld
        self._unattended = unattended
        self._in_place = in_place
        # Released frames without text. They wait for the first text if an error or another reply may take their place:
        # any byte sent to the client makes an HTTP error impossible. None: they were sent, or need not wait.
        self._frames_before_text: list[bytes] | None = [] if exchange.waits_for_text else None
        self._waiting_bytes = 0
        self._checks: dict[asyncio.Task[LatestCheck], Ask] = {}
        self._pending_read: asyncio.Task[bytes | None] | None = None
        self._task_done = asyncio.Event()  # a read or a check has finished
        self._latest: dict[int, LatestCheck] = {}  # by choice
        self._finished: set[int] = set()  # choices whose end, as the upstream sent it, was released
        self._ended = self._choices.ended  # choices that the proxy has ended
        self._upstream_done = False
        self._unreadable = ""  # why the reply cannot be read to its end

    @property
    def failed(self) -> bool:
        """Whether the reply could not be read, a choice not be judged, or the guard does not read its language."""
        return bool(self._unreadable) or any(check.error or check.unread for check in self._latest.values())

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
                        await self._feed(await anext(source, None))  # no check runs: a read without a task is cheaper
                    else:
                        for task in await self._finished_checks(source):
                            if piece := await self._act_on(self._checks.pop(task), task.result()):
                                yield piece
                    if piece := await self._release():
                        yield piece
                    while self._hold.may_release:
                        await asyncio.sleep(0)
                        if piece := await self._release():
                            yield piece
                    self._start_checks()
                # The stream's own terminator if the proxy ended a choice and the upstream's terminator was not sent.
                if self._ended and (piece := self._stream.close()):
                    yield piece
            except UpstreamUnreadable as error:
                log.warning("stream_unreadable", error=str(error))
                self._metrics.failed(error.code)
                self._unreadable = str(error)
                yield await self._abandon()
            finally:
                try:
                    await self._stop()
                finally:
                    self._held.close()

    async def _finished_checks(self, source: AsyncIterator[bytes]) -> list[asyncio.Task[LatestCheck]]:
        """Wait until a read or a check has finished; feed what was read, return the finished checks."""
        if self._pending_read is None and not self._upstream_done:
            self._pending_read = self._task(_next(source))
        await self._task_done.wait()
        self._task_done.clear()
        if self._pending_read is not None and self._pending_read.done():
            data, self._pending_read = self._pending_read.result(), None
            await self._feed(data)
        return [task for task in self._checks if task.done()]

    def _task(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(call)
        task.add_done_callback(self._wake)
        return task

    def _wake(self, _: object) -> None:
        self._task_done.set()

    def _done(self) -> bool:
        return not self._checks and ((self._upstream_done and self._hold.empty) or self._all_ended())

    def _all_ended(self) -> bool:
        return bool(self._ended) and not self._hold.open and self._ended >= set(self._stream.choices)

    async def _feed(self, data: bytes | None) -> None:
        """Put the frames that `data` completes into the buffer, and start the checks that are due then."""
        for place, piece in enumerate([None] if data is None else slices(data)):
            if place:
                await asyncio.sleep(0)
            self._hold_frames(piece)
        self._start_checks()

    def _hold_frames(self, data: bytes | None) -> None:
        """Put the frames that `data` completes into the buffer; None is the end of the upstream's body."""
        came = time.perf_counter()
        for chunk in self._stream.finish() if data is None else self._stream.feed(data):
            if self._frames_before_text is not None and chunk.raw == KEEP_ALIVE:
                continue  # a client that has nothing of the stream yet needs no comment of the upstream
            self._held.check(chunk)
            self._hold.add(chunk, came)
        self._held.note(self._hold.held_bytes + FRAME_BYTES * self._hold.held_frames + self._waiting_bytes)
        if data is None:
            self._upstream_done = True
            self._hold.complete()  # a reply that breaks off is judged up to its last frame

    def _start_checks(self) -> None:
        for ask in self._hold.ask():
            upto = ask.upto if ask.exact else None
            self._checks[self._task(self._check(ask.choice, upto, unfinished=not ask.final))] = ask

    async def _check(self, choice: int, upto: int | None = None, *, unfinished: bool = False) -> LatestCheck:
        return await self._choices.check(choice, self._latest.get(choice), upto, unfinished=unfinished)

    async def _act_on(self, ask: Ask, check: LatestCheck) -> bytes:
        """Apply a finished check: release its text, hold the choice until it is complete, or end it.

        Returns the bytes that end the choice, empty if it goes on.
        """
        policy = self._exchange.policy
        stops = check.stops(policy, early=ask.early)
        if stops and (ask.early or (ask.exact and check.decision.cause == "overload")):
            self._hold.skip(ask)
            return b""
        self._latest[ask.choice] = check
        if not stops or policy.stream.mode == "monitor":
            judged = check.message.size if ask.exact else None
            self._hold.passed(ask, judged, self._choices.undecided(check.message))
            await self._record_finished({ask.choice})
            return b""
        if check.decision.action == "rewrite" and not ask.final and check.decision.how not in ("replace", REGENERATE):
            # These need no more text. Other rewrites keep some of the reply, so they need all of it.
            self._hold.defer(ask)
            return b""
        return await self._end(ask, check)

    async def _end(self, ask: Ask, check: LatestCheck) -> bytes:
        """End a choice: the text that was sent stays, the outcome takes the place of everything else.

        Raises the guard's failure if the policy says `error`: a refusal would say that the text is against a policy.
        """
        policy = self._exchange.policy
        outcome: Outcome = refusal(policy, check.decision)
        rewritable = not self._exchange.request.structured and ask.choice not in self._finished
        if check.decision.action == "rewrite" and rewritable:
            released = self._stream.released(ask.choice)
            outcome = await rewritten(self._judging, self._exchange, self._choices.context, released, check)
        elif check.decision.action == "block":
            outcome = await self._judging.act((), check.message, check.decision, policy)
        if isinstance(outcome, Pass | Steer):
            outcome = refusal(policy, check.decision)  # an action must not let a text pass that the policy stops
        await self._records.add(ask.choice, check, outcome, complete=True)
        if check.failure is not None and not isinstance(check.failure, JudgingTooLong):
            self._ended.add(ask.choice)
            await self._withheld.note(self._exchange, self._stream.info.id)
            raise check.failure
        return await self._ending(ask.choice, outcome)

    async def _ending(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """The bytes that end a choice; none but the waiting frames if the client has its end already.

        Raises AskAgain or RefusedBeforeStart if another reply or an error can still take the place of the whole stream.
        """
        if isinstance(outcome, Refuse):
            await self._withheld.note(self._exchange, self._stream.info.id)
        if isinstance(outcome, Refuse) and self._frames_before_text is not None:
            if outcome.again and self._in_place.may_ask_again():
                self._ended.add(choice)
                raise AskAgain(outcome, self._usage())
            if outcome.shape == "error" and self._in_place.try_refuse_with_error():
                raise RefusedBeforeStart(outcome)
        if isinstance(outcome, Refuse):
            self._in_place.refused()
        end = self._stream.end(choice, outcome)  # in any case: the stream releases no more frames of the choice
        self._hold.settle(choice)
        self._ended.add(choice)
        return self._after_waiting_frames(b"" if choice in self._finished else end)

    def _usage(self) -> tuple[int, int]:
        """The tokens of the reply so far, as far as the upstream has named them; most name them last."""
        read, written = estimated_usage(self._stream, self._exchange.request)
        info = self._stream.info
        return info.input_tokens or read, max(info.output_tokens or 0, written)

    async def _release(self) -> bytes:
        """The bytes of the frames that may be sent now; frames before the first text wait if blocks are errors."""
        out, has_text = await self._released()
        if self._frames_before_text is None or has_text or self._done():
            return self._after_waiting_frames(out)
        self._frames_before_text.append(out)
        self._waiting_bytes += len(out)
        return b""

    async def _released(self) -> tuple[bytes, bool]:
        """Take frames that may be sent now: their bytes, and whether they have text. Record what they finish."""
        self._note_wait()
        chunks = self._hold.release(_AT_ONCE)
        self._records.held_characters = max(self._records.held_characters, self._hold.held_characters)
        finished = {mark.choice for chunk in chunks for mark in chunk.marks if mark.final} - self._ended
        self._finished |= finished
        await self._record_finished(finished)
        out = b"".join([self._stream.release(chunk) for chunk in chunks])
        return out, any(mark.upto for chunk in chunks for mark in chunk.marks)

    def _note_wait(self) -> None:
        """Note how long the oldest frame in the buffer has waited by now."""
        if (since := self._hold.since) is not None:
            self._records.held_s = max(self._records.held_s, time.perf_counter() - since)

    def _after_waiting_frames(self, out: bytes) -> bytes:
        """The frames that waited for the first text, then `out`. From here on the answer cannot be an error."""
        waiting, self._frames_before_text, self._waiting_bytes = self._frames_before_text, None, 0
        return b"".join([*waiting, out]) if waiting else out

    async def _abandon(self) -> bytes:
        """End every open choice with a refusal, send what is judged of the others, and the stream's terminator."""
        out, outcome = [], refusal(self._exchange.policy)
        choices = self._unsettled() or ([] if self._stream.choices else [0])
        # Read before any of them is ended: each end changes what has arrived of all, which takes long to read again.
        read = [(self._stream.message(choice), self._stream.released(choice).size) for choice in choices]
        for choice, (message, released) in zip(choices, read, strict=True):
            latest = self._latest.get(choice)
            # What the client has of it and no verdict covers is judged when the stream has ended.
            if released <= (latest.message.size if latest else 0):
                check = LatestCheck(message, latest.verdict if latest else None, _UNREADABLE, self._unreadable)
                self._latest[choice] = check
                has_end = choice in self._finished and self._exchange.policy.stream.mode == "monitor"
                await self._records.add(choice, check, Pass() if has_end else outcome, complete=False)
            out.append(await self._ending(choice, outcome))
            await asyncio.sleep(0)
        rest = [(await self._released())[0]]
        while self._hold.may_release:
            await asyncio.sleep(0)
            rest.append((await self._released())[0])
        return b"".join([*out, self._after_waiting_frames(b"".join(rest)), self._stream.close()])

    def _unsettled(self) -> list[int]:
        """The choices without a verdict on everything that was read of them; a choice may have no queued frame yet."""
        judged = self._latest.keys() - set(self._hold.open)
        return sorted(set(self._stream.choices) - judged - self._ended)

    async def _record_finished(self, choices: set[int]) -> None:
        """Record those of the choices that have both their end and the verdict on the whole of it.

        Not sooner: until its end may be released, a choice can still become part of a reply that is unreadable.
        """
        for choice in sorted(choices & self._finished - set(self._hold.open)):
            complete = self._stream.is_complete(choice)
            await self._records.add(choice, self._latest[choice], Pass(), complete=complete)

    async def _stop(self) -> None:
        """Stop reading. Record what is judged; go on with the rest without the client."""
        needless = [task for task, ask in self._checks.items() if self._is_over(ask.choice)]
        for task in needless:
            task.cancel()
            del self._checks[task]
        await asyncio.gather(*needless, return_exceptions=True)
        if self._pending_read is not None:
            self._pending_read.cancel()
            (read,) = await asyncio.gather(self._pending_read, return_exceptions=True)
            if not isinstance(read, BaseException):
                self._feed_last(read)
        self._note_wait()
        if self._checks or any(self._lacks_verdict(choice) for choice in self._stream.choices):
            size = sum(self._stream.message(choice).size for choice in self._stream.choices)
            self._unattended.go_on(self._finish(), size)
        else:
            await self._finish()

    def _feed_last(self, data: bytes | None) -> None:
        """Take what was read while the client left; it starts no check."""
        try:
            self._hold_frames(data)
        except UpstreamUnreadable as error:
            self._unreadable = str(error)

    async def _finish(self) -> None:
        """Judge what was read and has no verdict yet, and record every choice that has no record of it.

        If this is cancelled, the records say that the verdict is missing.
        """
        try:
            checks = dict(zip(self._checks.values(), await asyncio.gather(*self._checks), strict=True))
            self._latest |= {ask.choice: check for ask, check in checks.items()}
            rest = [choice for choice in self._stream.choices if self._lacks_verdict(choice)]
            self._latest |= dict(zip(rest, await gathered([self._check(choice) for choice in rest]), strict=True))
        finally:
            for task in self._checks:
                task.cancel()
            self._choices.forget()
            for choice in self._stream.choices:
                await self._record_without_client(choice)
            await self._records.write()

    def _lacks_verdict(self, choice: int) -> bool:
        """Whether a choice without its last record has text or opaque parts that no check has covered."""
        parts, latest = self._stream.message(choice).parts, self._latest.get(choice)
        return bool(parts) and not self._is_over(choice) and (latest is None or latest.message.parts != parts)

    def _is_over(self, choice: int) -> bool:
        """Whether the proxy has ended a choice and knows what to record of it."""
        return choice in self._ended and self._records.has(choice)

    async def _record_without_client(self, choice: int) -> None:
        """Record what came of a choice and was not recorded: the client has left, or the reply cannot be read on."""
        message, policy, check = self._stream.message(choice), self._exchange.policy, self._latest.get(choice)
        if not message.parts or self._is_over(choice):
            return
        if check is None or self._lacks_verdict(choice):
            check = check or LatestCheck(message, None, on_failure(policy.on_guard_error, "guard_error"))
            check = replace(check, message=message, error="the stream ended before the last verdict")
        monitored = policy.stream.mode == "monitor" and (choice in self._finished or choice not in self._ended)
        if self._unreadable:
            check = replace(check, decision=worst([check.decision, _UNREADABLE]), error=self._unreadable)
        stops = SEVERITY[check.decision.action] >= SEVERITY["rewrite"]
        outcome = refusal(policy, check.decision) if stops and not monitored else Pass()
        if isinstance(outcome, Refuse):
            await self._withheld.note(self._exchange, self._stream.info.id)
        await self._records.add(choice, check, outcome, complete=self._stream.is_complete(choice))


async def _next(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
