"""The scheduler of one model: prompts in, readings out, slice by slice on the one thread that owns the model.

A caller's event loop has its prompts encoded (on a thread for encoding, while the worker computes), puts a ticket into
the worker's inbox and awaits a future. Only the worker touches the model, its state and the queue, so none of them
needs a lock. The backlog has one: it is what decides, on the event loop, whether a check may queue.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from guardproxy.asking import Asker
from guardproxy.engine.backlog import Backlog, Pace
from guardproxy.engine.cost import CostModel
from guardproxy.engine.fair_queue import Ticket
from guardproxy.engine.runner import Runner, WorkItem, WorkResult
from guardproxy.engine.worker import Job, Tally, Worker, too_long
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.ports import Prompt, Reading
from guardproxy.verdicts import worst_reading

# The time of a full slice, in estimates of seconds from tokens.
_SLICE_S = 0.05
# Weight of the latest check in the moving average of tokens per character.
_SMOOTHING = 0.1
# Texts of more characters are encoded on a thread of their own, so that short ones do not wait for it.
_LONG_TEXT = 10_000
# The longest time, in seconds, that `close` waits for the slice that runs.
_CLOSE_S = 15.0


@dataclass(frozen=True, slots=True)
class ScheduledReadings:
    """One reading per prompt of a job, and what the job cost. Times are in seconds, tokens summed over its windows.

    `queue_s` runs from the encoded prompts to the start of the job's first slice, `forward_s` is the time of all passes
    with windows of the job, `share_s` its share of them by tokens, and `batch` the most jobs in one slice.
    """

    readings: tuple[Reading, ...]
    encode_s: float
    queue_s: float
    forward_s: float
    share_s: float
    tokens_computed: int
    tokens_reused: int
    batch: int
    windows: int


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot for metrics: the jobs that wait or run now, their seconds, and counts since the scheduler was made.

    A job is `dropped` if it ends before all its windows have run.
    """

    queued: int = 0
    expected_s: float = 0.0
    batches: int = 0
    jobs: int = 0
    dropped: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0


class Scheduler:
    """Runs the model of the guard `name`; `load` makes its runner, on the worker's thread.

    A job is refused if other jobs would delay it by more than `max_wait_s` seconds, or if its request takes more than
    `timeout_s` seconds by itself. Several event loops may share a scheduler, and it outlives the loop that started it.
    """

    def __init__(self, name: str, load: Callable[[], Runner], *, max_wait_s: float, timeout_s: float) -> None:
        self._name = name
        self._load = load
        self._max_wait_s = max_wait_s
        self._timeout_s = timeout_s
        self._worker: Worker | None = None
        # Short texts and long ones.
        self._encoding: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._tally = Tally()
        self._cost = CostModel(_SLICE_S)
        self._backlog = Backlog()
        self._tokens_per_character = 0.0

    async def start(self) -> None:
        """Load the model on the worker's thread. Raises what `load` raises."""
        worker = self._worker
        if worker is None:
            worker = self._worker = Worker(
                self._name,
                self._load,
                cost=self._cost,
                backlog=self._backlog,
                tally=self._tally,
                timeout_s=self._timeout_s,
            )
            short, long = (ThreadPoolExecutor(1, thread_name_prefix="guard-encode") for _ in range(2))
            self._encoding = short, long
            worker.thread.start()
        try:
            # Without the shield, a caller that is cancelled would cancel `ready`, which the worker still has to set.
            await asyncio.shield(asyncio.wrap_future(worker.ready))
        except Exception:
            if self._worker is worker:
                self._worker = None
            raise

    async def close(self) -> None:
        """Release the model, after the slice that runs; jobs in the queue fail with GuardUnavailable.

        A model that is still loaded is not waited for: that may take minutes, and its thread ends behind it.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.inbox.put(None)
            for encoding in self._encoding or ():
                encoding.shutdown(wait=False)  # what waits in it fails with GuardUnavailable, see `_encode`
            # A thread inside torch when the interpreter ends aborts the process, so wait for the slice that runs. The
            # wait must not block the loop, nor use an executor: executors take no more work at interpreter exit.
            if not worker.ready.done():
                return
            ended, _ = await asyncio.wait([asyncio.wrap_future(worker.ended)], timeout=_CLOSE_S)
            if ended:
                worker.thread.join()  # returns at once: `ended` is the last thing that the thread sets

    @contextmanager
    def admitted(self, asker: Asker, *, reply: bool, characters: int) -> Iterator[Ticket[Job]]:
        """The ticket of a job that may queue now; it counts as waiting or running inside this context.

        `characters` is the size of its text. Raises GuardUnavailable if no model is loaded, Overloaded if others would
        delay it too long, JudgingTooLong if another job of the request was refused for that.
        """
        self._running()
        if asker.refused:
            raise JudgingTooLong(asker.refused)
        seconds = self._cost.expected(math.ceil(characters * self._tokens_per_character))
        if self._backlog.own(asker) is None:  # a request whose checks wait or run was admitted
            wait = expected_wait(self._backlog, self._cost, asker, reply=reply, seconds=seconds)
            if wait > self._max_wait_s:
                raise Overloaded(
                    f"the guard is busy: judging would wait {wait:.1f} s, more than the {self._max_wait_s:g} s of "
                    "guard.max_wait_s",
                    retry_s=wait - self._max_wait_s,
                )
        ticket = Ticket(Job(expected_s=seconds), asker, reply)
        self._backlog.book(ticket, seconds)
        try:
            yield ticket
        finally:
            ticket.cancelled = True  # the caller may have been cancelled; has no effect on a job that has run
            self._backlog.remove(ticket)

    async def read(self, ticket: Ticket[Job], prompts: Sequence[Prompt], stream: str | None) -> ScheduledReadings:
        """Run `prompts` as the job of an admitted ticket. Raises GuardUnavailable, JudgingTooLong.

        A prompt that is read in windows gets the highest probabilities of any window. Cancelling the call drops the job
        from the queue, between two slices if it has begun.
        """
        worker, encoding = self._running(), self._encoding
        assert encoding is not None  # noqa: S101 - set with the worker
        began = time.perf_counter()
        characters = sum(len(piece.text) for prompt in prompts for piece in prompt.pieces if piece.kind == "judged")
        windows = await asyncio.get_running_loop().run_in_executor(
            encoding[characters > _LONG_TEXT], self._encode, worker, prompts, stream
        )
        encoded = time.perf_counter()
        self._queue(worker, ticket, [work for items in windows for work in items], characters)
        results = await asyncio.wrap_future(ticket.item.future)
        job = ticket.item
        return ScheduledReadings(
            readings=_worst_windows(windows, results),
            encode_s=encoded - began,
            queue_s=job.started - encoded,
            forward_s=job.forward_s,
            share_s=job.share_s,
            tokens_computed=sum(result.computed for result in results),
            tokens_reused=sum(result.reused for result in results),
            batch=job.batch,
            windows=len(results),
        )

    def _encode(self, worker: Worker, prompts: Sequence[Prompt], stream: str | None) -> list[tuple[WorkItem, ...]]:
        if self._worker is not worker:  # it has closed; a cancelled future would look like a cancelled caller
            raise worker.closed()
        return [worker.ready.result().encode(prompt, stream) for prompt in prompts]

    def _queue(self, worker: Worker, ticket: Ticket[Job], works: Sequence[WorkItem], characters: int) -> None:
        """Give the worker the windows of a job. Raises JudgingTooLong if the request takes too long by itself."""
        job, tokens = ticket.item, sum(work.cost for work in works)
        if characters:
            weight = _SMOOTHING if self._tokens_per_character else 1.0
            self._tokens_per_character += weight * (tokens / characters - self._tokens_per_character)
        self._backlog.change(ticket, self._cost.expected(tokens), one_window=len(works) == 1)
        own = self._backlog.own(ticket.asker) or 0.0
        if own > self._timeout_s:
            error = too_long(own, self._timeout_s)
            ticket.asker.refused = str(error)
            raise error
        ticket.windows = deque(enumerate(works))
        job.results, job.open_windows = [None] * len(works), len(works)
        job.open_tokens = Counter({0: tokens})
        job.queued = time.perf_counter()
        worker.inbox.put(ticket)
        # The scheduler may have closed while the prompts were encoded, and the worker may have emptied its inbox
        # already: then nothing would ever settle the future.
        if self._worker is not worker:
            ticket.cancelled = True
            raise worker.closed()

    def forget(self, stream: str) -> None:
        """Make the state of a streamed reply that has ended the first to be evicted.

        Until its eviction the conversation's next turn may use it.
        """
        if self._worker is not None:
            self._worker.inbox.put(stream)

    @property
    def stats(self) -> SchedulerStats:
        """The length of the queue and the counts so far."""
        tally = self._tally
        return SchedulerStats(
            queued=len(self._backlog),
            expected_s=self._backlog.total,
            batches=tally.batches,
            jobs=tally.jobs,
            dropped=tally.dropped,
            tokens_computed=tally.computed,
            tokens_reused=tally.reused,
        )

    @property
    def dtype(self) -> str | None:
        """The runner's `dtype`; None while no model is loaded."""
        worker = self._worker
        loaded = worker is not None and worker.ready.done() and worker.ready.exception() is None
        return worker.ready.result().dtype if worker is not None and loaded else None

    def _running(self) -> Worker:
        worker = self._worker
        if worker is None or not worker.ready.done() or worker.ready.exception() is not None:
            raise GuardUnavailable(f"guard {self._name!r} is not running")
        if worker.ended.done():  # something has killed the thread: nothing would take a check out of the inbox
            raise GuardUnavailable(f"guard {self._name!r} has stopped; restart guardproxy")
        return worker


def expected_wait(backlog: Backlog, cost: CostModel, asker: Asker, *, reply: bool, seconds: float) -> float:
    """Seconds that a check of `seconds` would wait now; for one of a request, with the wait of its reply behind it."""
    pace = Pace(cost.correction(reply=False), cost.correction(reply=True), cost.replies_share)
    wait = backlog.wait(asker, reply=reply, seconds=seconds, pace=pace)
    return wait if reply else wait + cost.reply_wait_s


def _worst_windows(windows: Sequence[Sequence[WorkItem]], results: Sequence[WorkResult]) -> tuple[Reading, ...]:
    """One reading per prompt: the highest of each probability over its windows, and where that was."""
    remaining = iter(results)
    return tuple(worst_reading([_placed(next(remaining).reading, item) for item in items]) for items in windows)


def _placed(reading: Reading, item: WorkItem) -> Reading:
    return reading if item.span is None else replace(reading, spans=(item.span,) * len(reading.probabilities))
