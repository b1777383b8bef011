"""A streamed reply: frames are held until judged, and a reply that turns harmful ends before the harm leaves."""

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
from guardproxy.pipeline.judging import Exchange, Judged, Judging, passed, recent, refusal
from guardproxy.pipeline.resumed import JudgedReplies
from guardproxy.pipeline.turns import coverage_of
from guardproxy.ports import ReplyStream
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Pass, Refuse, Replace, Verdict

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class _Spoken:
    """The last word on a choice so far."""

    message: Message
    verdict: Verdict | None
    decision: Decision
    error: str = ""
    seconds: float = 0.0


class Refused(Exception):
    """A reply is refused of which nothing has left: it can be an error instead of an answer."""

    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class StreamReview:
    """Reads, judges and releases one streamed reply. One reader, one check per choice, no locks."""

    def __init__(
        self,
        judging: Judging,
        metrics: Metrics,
        exchange: Exchange,
        stream: ReplyStream,
        *,
        max_held_bytes: int,
        replies: JudgedReplies,
        claim: Callable[[], bool],
    ) -> None:
        self._judging = judging
        self._metrics = metrics
        self._exchange = exchange
        self._context = recent(exchange.request.conversation.messages)
        self._stream = stream
        self._hold = HoldBack(exchange.policy.stream)
        self._max_held_bytes = max_held_bytes
        self._replies = replies
        self._claim = claim
        # Frames without text, which wait for the first text: until then a block can be an error. None: they are gone.
        self._quiet: list[bytes] | None = [] if exchange.policy.block.how == "error" else None
        self._key = uuid.uuid4().hex
        self._checks: dict[asyncio.Task[_Spoken], Ask] = {}
        self._reading: asyncio.Task[bytes | None] | None = None  # a read beside checks
        self._woken = asyncio.Event()  # a read or a check is done
        self._spoken: dict[int, _Spoken] = {}
        self._ended: set[int] = set()
        self._recorded: set[int] = set()
        self._upstream_done = False

    async def run(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The bytes for the client. Raises what `source` raises, once what was judged by then has been yielded.

        An unreadable reply, or any failure here, ends every open choice with a refusal: nothing unjudged leaves.
        """
        with self._metrics.stream_held():
            try:
                while not self._done():
                    if not self._checks and self._reading is None:
                        self._take(await anext(source, None))  # nothing else to wait for: no task is needed
                    else:
                        for task in await self._news(source):
                            if piece := await self._answered(self._checks.pop(task), task.result()):
                                yield piece
                    if piece := self._released():
                        yield piece
                    self._ask()
                if piece := self._closing():
                    yield piece
            except UpstreamUnreadable as error:
                log.warning("stream_unreadable", error=str(error))
                yield await self._abandon(str(error))
            finally:
                await self._stop()

    async def _news(self, source: AsyncIterator[bytes]) -> list[asyncio.Task[_Spoken]]:
        """Wait for a read or a check, whichever is first; what was read is taken, the checks that are done returned."""
        if self._reading is None and not self._upstream_done:
            self._reading = self._task(_next(source))
        await self._woken.wait()
        self._woken.clear()
        if self._reading is not None and self._reading.done():
            data, self._reading = self._reading.result(), None
            self._take(data)
        return [task for task in self._checks if task.done()]

    def _task(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(call)
        task.add_done_callback(self._wake)
        return task

    def _wake(self, _: object) -> None:
        self._woken.set()

    def _done(self) -> bool:
        if self._checks:
            return False
        return (self._upstream_done and self._hold.empty) or self._all_ended()

    def _all_ended(self) -> bool:
        return bool(self._ended) and not self._hold.open and self._ended >= set(self._stream.choices)

    def _take(self, data: bytes | None) -> None:
        for chunk in self._stream.finish() if data is None else self._stream.feed(data):
            self._hold.add(chunk)
        if data is None:
            self._upstream_done = True
            self._hold.complete()  # a reply that breaks off is judged as far as it came
        if self._hold.held_bytes > self._max_held_bytes:
            raise UpstreamUnreadable(f"more than {self._max_held_bytes} bytes of a reply are waiting to be judged")
        self._ask()

    def _ask(self) -> None:
        for ask in self._hold.ask():
            self._checks[self._task(self._judge(ask))] = ask

    async def _judge(self, ask: Ask) -> _Spoken:
        started = time.perf_counter()
        message = self._stream.message(ask.choice)
        before = self._spoken.get(ask.choice)
        if before is not None and before.message == message:
            return before  # the last check has read exactly this text: a finish frame adds nothing to judge
        verdict, decision, error = await self._judging.judge(self._context, message, self._exchange.policy, self._key)
        seconds = time.perf_counter() - started + (before.seconds if before is not None else 0.0)
        return _Spoken(message, verdict, decision, error, seconds)

    async def _answered(self, ask: Ask, spoken: _Spoken) -> bytes:
        """What a finished check puts into the stream: nothing, or the ending of its choice."""
        self._spoken[ask.choice] = spoken
        policy = self._exchange.policy
        if SEVERITY[spoken.decision.action] < SEVERITY["rewrite"] or policy.stream.mode == "monitor":
            if ask.final:
                await self._record(ask.choice, Pass())
            self._hold.passed(ask)
            return b""
        if spoken.decision.action == "rewrite" and not ask.final and spoken.decision.how != "replace":
            self._hold.defer(ask)
            return b""
        return await self._end(ask, spoken)

    async def _end(self, ask: Ask, spoken: _Spoken) -> bytes:
        """End a choice: what left of it stays, everything else is replaced by what the outcome says."""
        policy = self._exchange.policy
        outcome: Outcome = refusal(policy, spoken.decision)
        if spoken.decision.action == "rewrite" and not self._exchange.request.structured:
            outcome = await self._rewritten(ask, spoken)
        elif spoken.decision.action == "block":
            outcome = await self._judging.act((), spoken.message, spoken.decision, policy)
        if isinstance(outcome, Pass):
            outcome = refusal(policy, spoken.decision)
        await self._record(ask.choice, outcome)
        return self._settled(ask.choice, outcome)

    async def _rewritten(self, ask: Ask, spoken: _Spoken) -> Outcome:
        """Rewrite what has not left yet. Candidates are judged behind what has: the client reads both."""
        left = {part.path: part.text for part in self._stream.released(ask.choice).parts}
        policy = self._exchange.policy
        rest = Message(
            spoken.message.role,
            tuple(replace(p, text=p.text[len(left.get(p.path, "")) :]) for p in spoken.message.parts),
        )

        async def again(candidate: Message) -> Decision:
            new = {part.path: part.text for part in candidate.parts}
            whole = tuple(replace(p, text=left.get(p.path, "") + new.get(p.path, "")) for p in spoken.message.parts)
            return (await self._judging.judge(self._context, Message(candidate.role, whole), policy))[1]

        outcome = await self._judging.apply(rest, spoken.decision, policy, again)
        if not isinstance(outcome, Replace):
            return outcome
        return replace(outcome, edits=tuple(Edit(e.path, left.get(e.path, "") + e.text) for e in outcome.edits))

    def _settled(self, choice: int, outcome: Replace | Refuse) -> bytes:
        if isinstance(outcome, Refuse) and self._quiet is not None and self._claim():
            raise Refused(outcome)
        out = self._first(self._stream.end(choice, outcome))
        self._hold.settle(choice)
        self._ended.add(choice)
        return out

    def _released(self) -> bytes:
        chunks = self._hold.release()
        out = b"".join([self._stream.release(chunk) for chunk in chunks])
        if self._quiet is None or self._done() or any(mark.upto for chunk in chunks for mark in chunk.marks):
            return self._first(out)
        self._quiet.append(out)
        return b""

    def _first(self, out: bytes) -> bytes:
        """`out` behind the frames that have waited for it."""
        waited, self._quiet = self._quiet, None
        return b"".join([*waited, out]) if waited else out

    def _closing(self) -> bytes:
        """The stream's own terminator, where the proxy ended something and no terminator of the upstream's has left."""
        return self._stream.close() if self._ended else b""

    async def _abandon(self, why: str) -> bytes:
        """End every choice that is still open with a refusal, and the stream with its terminator."""
        out = []
        for choice in sorted({*self._stream.choices} - self._ended) or [0]:
            outcome = refusal(self._exchange.policy)
            message = self._stream.message(choice)
            self._spoken[choice] = _Spoken(message, None, Decision("block", "", (), "opaque"), why)
            await self._record(choice, outcome)
            out.append(self._settled(choice, outcome))
        out.append(self._stream.close())
        return b"".join(out)

    async def _record(self, choice: int, outcome: Outcome) -> None:
        spoken = self._spoken[choice]
        coverage = coverage_of([spoken.message], self._exchange.policy, failed=bool(spoken.error))
        turn = len(self._exchange.request.conversation.messages)
        judged = Judged(
            turn,
            spoken.message,
            "assistant",
            spoken.verdict,
            spoken.decision,
            outcome,
            spoken.error,
            spoken.seconds,
            choice,
        )
        if passed(judged):
            self._replies.remember(self._exchange, self._stream.id)
        self._recorded.add(choice)
        await self._judging.record(self._exchange, [judged], coverage)

    async def _stop(self) -> None:
        """Nobody waits any more: cancel what is pending, and record what left without a last word."""
        pending = [*self._checks, *([self._reading] if self._reading is not None else [])]
        if pending:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        self._judging.guard.forget(self._key)
        for choice in set(self._spoken) - self._recorded:
            self._spoken[choice].error = "the stream ended before the last verdict"
            await self._record(choice, Pass())


async def _next(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
