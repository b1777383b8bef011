"""The async façade: checks in, verdicts out, one worker thread that owns the model.

The event loop renders and tokenises (on a thread of its own, while the worker computes), puts a ticket into the
worker's inbox and awaits a future. Only the worker touches the model and its state, so there is nothing to lock.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from guardproxy.engine.batching import Ticket, admit, passes, take
from guardproxy.engine.runner import Runner, WorkItem, WorkResult
from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable
from guardproxy.ports import Family, Prompt, Reading
from guardproxy.types import Check, Conversation, Message, Part, Taxonomy, Usage, Verdict
from guardproxy.verdicts import worst_reading

# How much one batch counts in the estimate of what a token costs.
_SMOOTHING = 0.3
# How far rounding may carry a probability out of [0, 1].
_ROUNDING = 1e-4
# The longest that closing waits for the batch under way.
_CLOSE_S = 15.0


@dataclass(slots=True)
class _Job:
    """One check under way: its work, and the future (of no particular event loop) that its answer goes to."""

    work: tuple[WorkItem, ...]
    future: "Future[_Answer]"


# What the worker's inbox holds: a check, the name of a stream that has ended, or None when the engine closes.
_Message = Ticket[_Job] | str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the worker hands back for a job."""

    done: tuple[WorkResult, ...]
    started: float
    forward_s: float
    batch: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot for metrics. Counts are since the start."""

    queued: int = 0
    queued_tokens: int = 0
    expected_wait_s: float = 0.0
    batches: int = 0
    checks: int = 0
    dropped: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0


@dataclass(slots=True)
class _Tally:
    """Written by the worker alone."""

    seconds_per_token: float = 0.0
    batches: int = 0
    checks: int = 0
    dropped: int = 0
    computed: int = 0
    reused: int = 0


@dataclass(slots=True)
class _Worker:
    """The thread and what belongs to it; a closed engine that is started again gets a new one."""

    thread: threading.Thread | None = None
    inbox: "queue.SimpleQueue[_Message]" = field(default_factory=queue.SimpleQueue)
    ready: "Future[Runner]" = field(default_factory=Future)
    ended: "Future[None]" = field(default_factory=Future)
    encoder: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="guard-encode")
    )


class Engine:
    """A Guard whose model runs in this process. `load` makes the runner, given a prompt of the kind it will see."""

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        load: Callable[[Prompt], Runner],
        timeout_s: float = 30.0,
        max_wait_s: float = 10.0,
    ) -> None:
        self.name = name
        self.taxonomy: Taxonomy = family.taxonomy
        self._family = family
        self._load = load
        self._timeout_s = timeout_s
        self._max_wait_s = max_wait_s
        self._worker: _Worker | None = None
        self._tally = _Tally()
        # Insertion and removal of one key are atomic, so the loops and the worker share this without a lock.
        self._waiting: dict[int, Ticket[_Job]] = {}

    # --- the Guard port -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the weights on the worker's thread and run one check. Raises ConfigError where that cannot be."""
        worker = self._worker
        if worker is None:
            worker = self._worker = _Worker()
            worker.thread = threading.Thread(target=self._main, args=(worker,), name=f"guard-{self.name}", daemon=True)
            worker.thread.start()
        await asyncio.shield(asyncio.wrap_future(worker.ready))
        try:
            for _ in range(2):  # the second shows what a check costs once the policy text is computed
                await self.judge(PROBE)
        except GuardUnavailable as error:
            raise ConfigError(f"guard {self.name!r}: the first check failed: {error}") from error

    async def close(self) -> None:
        """Release the model; checks that wait fail as unavailable."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.inbox.put(None)
            worker.encoder.shutdown(wait=False, cancel_futures=True)
            # A thread inside torch when the interpreter ends aborts the process, so the one batch under way is waited
            # for: without blocking the loop, and without an executor, which takes no more work at interpreter exit.
            ended, _ = await asyncio.wait([asyncio.wrap_future(worker.ended)], timeout=_CLOSE_S)
            if ended and worker.thread is not None:
                worker.thread.join()  # has nothing left to do but return

    async def judge(self, check: Check) -> Verdict:
        """The verdict on the check's last message. Raises GuardUnavailable (also on timeout) or Overloaded.

        Cancelling it drops the check before it runs.
        """
        worker = self._worker
        if worker is None or not worker.ready.done():
            raise GuardUnavailable(f"guard {self.name!r} is not running")
        waiting = self.stats.queued_tokens
        admit(waiting, self._tally.seconds_per_token, self._max_wait_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._judge(worker, check)
        except TimeoutError:
            raise GuardUnavailable(f"guard {self.name!r} gave no answer within {self._timeout_s:g} s") from None
        except GuardproxyError:
            raise
        except Exception as error:
            # Whatever breaks in a family or a runner, the text was not judged: never to be taken for safe.
            raise GuardUnavailable(f"guard {self.name!r} failed: {type(error).__name__}: {error}") from error

    def forget(self, stream: str) -> None:
        """A streamed reply has ended: what was kept for it is the first to be evicted.

        Until then the conversation's next turn may use it.
        """
        if self._worker is not None:
            self._worker.inbox.put(stream)

    @property
    def stats(self) -> Stats:
        """What is queued and what was done."""
        waiting = list(self._waiting.values())
        tokens = sum(ticket.cost for ticket in waiting)
        tally = self._tally
        return Stats(
            queued=len(waiting),
            queued_tokens=tokens,
            expected_wait_s=tokens * tally.seconds_per_token,
            batches=tally.batches,
            checks=tally.checks,
            dropped=tally.dropped,
            tokens_computed=tally.computed,
            tokens_reused=tally.reused,
        )

    # --- on the event loop ----------------------------------------------------------------------------------------

    async def _judge(self, worker: _Worker, check: Check) -> Verdict:
        began = time.perf_counter()
        prompts = self._family.render(check)
        windows = await asyncio.get_running_loop().run_in_executor(
            worker.encoder, _encode, worker.ready.result(), prompts, check.stream
        )
        encoded = time.perf_counter()
        job = _Job(tuple(work for each in windows for work in each), Future())
        ticket = Ticket(job, sum(work.cost for work in job.work), encoded, check.stream is not None)
        self._waiting[id(ticket)] = ticket
        worker.inbox.put(ticket)
        if self._worker is not worker:  # closed meanwhile: the worker may be past its last look at the inbox
            ticket.cancelled = True
            raise GuardUnavailable(f"guard {self.name!r} was closed")
        try:
            answer = await asyncio.wrap_future(job.future)
        finally:
            ticket.cancelled = True  # no effect on a check that has run
            self._waiting.pop(id(ticket), None)
        usage = Usage(
            queue_s=answer.started - encoded,
            tokenize_s=encoded - began,
            forward_s=answer.forward_s,
            tokens_computed=sum(done.computed for done in answer.done),
            tokens_reused=sum(done.reused for done in answer.done),
            batch=answer.batch,
            windows=len(job.work),
            share_s=answer.forward_s / answer.batch,
        )
        verdict = self._family.parse(check, _worst(windows, answer.done), self.name)
        if not all(-_ROUNDING <= each <= 1 + _ROUNDING for each in _probabilities(verdict)):
            raise GuardUnavailable(f"guard {self.name!r} gave what is no probability")
        return replace(verdict, usage=usage)

    # --- on the worker's thread -----------------------------------------------------------------------------------

    def _main(self, worker: _Worker) -> None:
        try:
            self._serve(worker)
        finally:
            worker.ended.set_result(None)

    def _serve(self, worker: _Worker) -> None:
        try:
            runner = self._load(self._family.render(PROBE)[0])
        except BaseException as error:  # noqa: BLE001 - the thread ends here; who awaits start() raises it
            worker.ready.set_exception(error)
            self._worker = None
            return
        worker.ready.set_result(runner)
        held: tuple[Ticket[_Job], ...] = ()
        try:
            while (arrived := _drain(worker.inbox, runner, block=not held)) is not None:
                before = len(held) + len(arrived)
                taken = take((*held, *arrived), runner.max_batch_tokens, time.perf_counter())
                held = taken.waiting
                self._tally.dropped += before - len(held) - len(taken.batch)
                if taken.batch:
                    self._run(runner, taken.batch)
        finally:
            left = [*held, *(each for each in iter_inbox(worker.inbox) if isinstance(each, Ticket))]
            for ticket in left:
                _settle(ticket.item.future, GuardUnavailable(f"guard {self.name!r} was closed"))
            runner.close()

    def _run(self, runner: Runner, batch: Sequence[Ticket[_Job]]) -> None:
        """Run a batch; where it fails, run its halves, so that one bad check fails alone.

        It stops between two passes when nobody waits for it any longer.
        """
        started = time.perf_counter()
        work = [each for ticket in batch for each in ticket.item.work]
        done: list[WorkResult] = []
        try:
            for part in passes([each.cost for each in work], runner.max_batch_tokens):
                if all(ticket.cancelled for ticket in batch):
                    self._tally.dropped += len(batch)
                    return
                done += runner.run(work[part])
        except Exception as error:  # noqa: BLE001 - every failure becomes GuardUnavailable for its own check
            if len(batch) > 1:
                half = len(batch) // 2
                self._run(runner, batch[:half])
                self._run(runner, batch[half:])
                return
            _settle(batch[0].item.future, GuardUnavailable(f"the guard failed: {type(error).__name__}: {error}"))
            return
        forward_s = time.perf_counter() - started
        self._account(batch, done, forward_s)
        at = 0
        for ticket in batch:
            count = len(ticket.item.work)
            answer = _Answer(tuple(done[at : at + count]), started, forward_s, len(batch))
            at += count
            _settle(ticket.item.future, answer)

    def _account(self, batch: Sequence[Ticket[_Job]], done: Sequence[WorkResult], forward_s: float) -> None:
        tally = self._tally
        rate = forward_s / max(1, sum(ticket.cost for ticket in batch))
        # start() makes the first two batches, and the second sets the estimate.
        known = tally.batches > 1
        tally.seconds_per_token = (1 - _SMOOTHING) * tally.seconds_per_token + _SMOOTHING * rate if known else rate
        tally.batches += 1
        tally.checks += len(batch)
        tally.computed += sum(each.computed for each in done)
        tally.reused += sum(each.reused for each in done)


PROBE = Check(Conversation((Message("user", (Part("probe", "Hello, how are you today?"),)),)), "user")


def _encode(runner: Runner, prompts: Sequence[Prompt], stream: str | None) -> list[tuple[WorkItem, ...]]:
    return [runner.encode(prompt, stream) for prompt in prompts]


def _worst(windows: Sequence[Sequence[WorkItem]], done: Sequence[WorkResult]) -> list[Reading]:
    """One reading per prompt: of its windows, the highest of each probability."""
    results = iter(done)
    return [worst_reading([next(results).reading for _ in each]) for each in windows]


def _probabilities(verdict: Verdict) -> list[float]:
    """What is held against thresholds. A family of the user's own may pass on what its model says unseen."""
    return [verdict.unsafe, *(finding.probability for finding in verdict.findings)]


def _drain(inbox: "queue.SimpleQueue[_Message]", runner: Runner, *, block: bool) -> list[Ticket[_Job]] | None:
    """The tickets that have come in, after waiting for a message where `block`; None once the engine is closed.

    Streams that have ended are forgotten on the way.
    """
    messages = [inbox.get()] if block else []
    messages += iter_inbox(inbox)
    out: list[Ticket[_Job]] = []
    for message in messages:
        if isinstance(message, str):
            runner.forget(message)
        elif message is not None:
            out.append(message)
    if None in messages:
        if not out:
            return None
        inbox.put(None)  # seen again when what came before it has run
    return out


def iter_inbox(inbox: "queue.SimpleQueue[_Message]") -> list[_Message]:
    """What lies in the inbox now."""
    out: list[_Message] = []
    with contextlib.suppress(queue.Empty):
        while True:
            out.append(inbox.get_nowait())
    return out


def _settle(future: "Future[_Answer]", result: _Answer | GuardUnavailable) -> None:
    """Answer a job unless it was cancelled meanwhile; the loop that waits for it may be gone."""
    with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):
        if future.set_running_or_notify_cancel():
            if isinstance(result, GuardUnavailable):
                future.set_exception(result)
            else:
                future.set_result(result)
