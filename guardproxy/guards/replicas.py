"""A guard whose model runs in other processes: it asks the replica that has least to do, and another one if that fails.

Judging changes nothing, so a check is asked again after every failure, until its time or its attempts are used up.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from guardproxy.asking import Asker, current_asker
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded, Unintelligible
from guardproxy.guards.links import GuardIdentity, ReplicaFailed, ReplicaLink
from guardproxy.guards.replica_set import Replica, ReplicaSet
from guardproxy.observe.replica_metrics import ReplicaReport
from guardproxy.replicas import Hedging, ReplicaState, in_order, next_of
from guardproxy.types import Check, Taxonomy, Verdict
from guardproxy.upstreams import Ejection, Ending

# The waits before a replica is asked again, when each has been asked.
_BACKOFF: Final = wait_random_exponential(multiplier=0.1, max=2)
# Seconds that a replica has to take the news that a stream has ended.
_FORGET_S: Final = 5.0
_EJECTION: Final = Ejection(failures=3, first_s=1.0, longest_s=10.0)
# The most streams whose replicas are remembered.
_STREAMS: Final = 65_536


@dataclass(frozen=True, slots=True)
class AskOptions:
    """How replicas are asked.

    A check ends after `timeout_s` seconds, and is asked at most `attempts` times. With `hedge`, one that takes longer
    than 95 % of the others is asked of a second replica as well. The rest is as in `ReplicaSet`.
    """

    timeout_s: float = 30.0
    attempts: int = 3
    hedge: bool = False
    check_every_s: float = 2.0
    start_s: float | None = 10.0
    ejection: Ejection = _EJECTION


class ReplicaGuard:
    """Implements ports.Guard over replicas, which judge by `taxonomy` as it does. Use it from one event loop.

    `floor` is the lowest threshold of the policies. `random` draws between replicas that have equally much to do.
    """

    def __init__(
        self,
        name: str,
        taxonomy: Taxonomy,
        links: Sequence[ReplicaLink],
        options: AskOptions = AskOptions(),
        *,
        floor: float = 0.0,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.taxonomy = taxonomy
        self._options = options
        self._draw = (random or Random()).random
        self._replicas = ReplicaSet(
            name,
            taxonomy,
            links,
            floor=floor,
            ejection=options.ejection,
            check_every_s=options.check_every_s,
            start_s=options.start_s,
            clock=clock,
        )
        self._hedging = Hedging() if options.hedge and len(links) > 1 else None
        self._streams: dict[str, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Ask every replica what it is, as `ReplicaSet.start`. Raises ConfigError as it does."""
        await self._replicas.start()

    async def close(self) -> None:
        """End all calls and close the connections."""
        for task in self._tasks:
            task.cancel()
        await self._replicas.close()

    async def judge(self, check: Check) -> Verdict:
        """The verdict of one of the replicas. Raises GuardUnavailable (also on timeout) and its subclasses.

        Overloaded says that the replicas which answered are busy. Cancelling the call drops the check there.
        """
        asker = current_asker()
        if asker.refused:
            raise JudgingTooLong(asker.refused)
        call = _AskedCheck(check, asker, asyncio.get_running_loop().time() + self._options.timeout_s)
        try:
            try:
                verdict = await (self._attempt(call) if self._hedging is None else self._hedged(call, self._hedging))
            except _Again:
                verdict = await self._again(call)
        except JudgingTooLong as refusal:
            asker.refused = str(refusal)
            raise
        return verdict if verdict.guard == self.name else replace(verdict, guard=self.name)

    def forget(self, stream: str) -> None:
        """Tell the replicas that have judged a streamed reply that it has ended."""
        for name in self._streams.pop(stream, ()):
            self._begin(self._forget(self._replicas.by_name[name].link, stream))

    @property
    def identity(self) -> GuardIdentity | None:
        """What all replicas are; None as long as none has said it."""
        return self._replicas.identity

    def states(self) -> dict[str, ReplicaState]:
        """The state of every replica by its name."""
        return self._replicas.states()

    def about(self) -> dict[str, ReplicaState | dict[str, str | int]]:
        """The state of every replica by its name, with what it was found to be able to do, if that was asked."""
        facts = self._replicas.facts()
        return {
            name: {"state": state, **facts[name]} if name in facts else state for name, state in self.states().items()
        }

    def report(self) -> ReplicaReport:
        """Whether every replica is in use, and its counts, by its name."""
        return self._replicas.report()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forget(self, link: ReplicaLink, stream: str) -> None:
        with suppress(ReplicaFailed, TimeoutError):  # it forgets the stream by itself when it needs the memory
            async with asyncio.timeout(_FORGET_S):
                await link.forget(stream)

    # --- whom, and again -------------------------------------------------------------------------------------------

    async def _again(self, call: "_AskedCheck") -> Verdict:
        """Ask others after the first call has failed, until one answers or the time or the attempts are used up."""
        if self._options.attempts == 1:
            raise call.failure(self.name)

        def pause(state: RetryCallState) -> float:
            return 0.0 if self._replicas.any_usable(call.asked) else _BACKOFF(state)

        failed = [_Again()]  # the first call, which tenacity counts and waits behind

        async def attempt() -> Verdict:
            if failed:
                raise failed.pop()
            return await self._attempt(call)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._options.attempts),
            retry=retry_if_exception_type(_Again),
            wait=pause,
            reraise=True,
        )
        try:
            async with asyncio.timeout_at(call.deadline):
                verdict: Verdict = await retrying(attempt)
                return verdict
        except (_Again, TimeoutError):
            raise call.failure(self.name) from None

    async def _hedged(self, call: "_AskedCheck", hedging: Hedging) -> Verdict:
        """The first of two verdicts, if the first replica takes long."""
        began, delay_s = self._replicas.clock(), hedging.begin()
        tasks = {asyncio.ensure_future(self._attempt(call))}
        try:
            done, waiting = await asyncio.wait(tasks, timeout=delay_s)
            if not done and self._replicas.any_usable(call.asked):
                hedging.hedged()
                tasks.add(asyncio.ensure_future(self._attempt(call, hedge=True)))
            while True:
                done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                final = next((task for task in done if not isinstance(task.exception(), _Again)), None)
                if final is not None or not waiting:
                    verdict = (final or done.pop()).result()
                    hedging.ended(self._replicas.clock() - began)
                    return verdict
                tasks = waiting
        finally:
            for task in tasks:
                task.cancel()

    async def _attempt(self, call: "_AskedCheck", *, hedge: bool = False) -> Verdict:
        """Ask one replica. Raises _Again if another one should be asked, JudgingTooLong, Unintelligible."""
        stream = call.check.stream
        order = in_order(self._replicas.standings, self._replicas.clock(), self._draw, stream)
        name = next_of(order, call.asked)
        if name is None:
            call.failures.append("every replica is another guard; the log says what differs")
            raise _Again
        call.asked.append(name)
        one = self._replicas.by_name[name]
        one.counts.hedges += hedge
        if stream is not None:
            self._remember(stream, name)
        return await self._ask(one, call)

    async def _ask(self, one: Replica, call: "_AskedCheck") -> Verdict:
        """Ask this replica; note how the call ends, and why if it gives no verdict."""
        standing = one.standing
        ending: Ending | None = None
        permit = standing.health.begin(self._replicas.clock())
        standing.open += 1
        limit = asyncio.timeout_at(call.deadline)
        try:
            async with limit:
                one.limits.add(limit)
                await self._replicas.ensure_known(one)
                verdict, version = await one.link.judge(call.check, call.asker)
                self._replicas.check_version(version)
            ending = "answered"
        except (JudgingTooLong, Unintelligible):
            ending = "answered"
            raise
        except GuardUnavailable as failure:
            busy = isinstance(failure, Overloaded)
            ending = "answered" if busy else "failed"
            raise call.noted(one.link.name, failure) from None
        except (ReplicaFailed, TimeoutError) as lost:
            ending = lost.ending if isinstance(lost, ReplicaFailed) else "unknown"
            one.doubt()
            raise call.noted(one.link.name, lost) from None
        else:
            return verdict
        finally:
            one.limits.discard(limit)
            standing.open -= 1
            result = ending or "given_up"
            one.counts.calls[result] += 1
            self._replicas.ended(one, permit, ending)

    def _remember(self, stream: str, name: str) -> None:
        known = self._streams.get(stream)
        if known is None:
            if len(self._streams) >= _STREAMS:
                self.forget(next(iter(self._streams)))
            known = self._streams[stream] = set()
        known.add(name)


class _Again(Exception):
    """A replica gave no verdict, and another one should be asked."""


@dataclass(slots=True)
class _AskedCheck:
    """A check that is asked, until `deadline` on the event loop's clock; whom it was `asked`, and why in vain."""

    check: Check
    asker: Asker
    deadline: float
    asked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    busy: list[Overloaded] = field(default_factory=list)

    def noted(self, name: str, failure: Exception) -> _Again:
        """Note why a replica gave no verdict."""
        self.failures.append(f"{name}: {str(failure) or 'no answer in time'}")
        if isinstance(failure, Overloaded):
            self.busy.append(failure)
        return _Again()

    def failure(self, guard: str) -> GuardUnavailable:
        """The error for the caller: if replicas are busy, that of the one that is free first.

        Clients read it, so it does not name the replicas.
        """
        if self.busy:
            return min(self.busy, key=lambda error: error.retry_s)
        reasons = "; ".join(dict.fromkeys(self.failures)) or "no answer in time"
        return GuardUnavailable(f"guard {guard!r}: {reasons}")
