"""The scheduler of one model: prompts in, readings out, batch by batch on the one thread that owns the model.

A caller's event loop has its prompts encoded (on a thread for encoding, while the worker computes), puts a ticket into
the worker's inbox and awaits a future. Only the worker touches the model and its state, so nothing needs a lock.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from guardproxy.engine.batching import Ticket, admit, next_batch, passes
from guardproxy.engine.runner import Runner, WorkItem, WorkResult
from guardproxy.errors import GuardUnavailable
from guardproxy.ports import Prompt, Reading
from guardproxy.verdicts import worst_reading

# Weight of the latest batch in the moving average of seconds per token.
_SMOOTHING = 0.3
# The longest time, in seconds, that `close` waits for the batch that runs.
_CLOSE_S = 15.0


@dataclass(frozen=True, slots=True)
class ScheduledReadings:
    """One reading per prompt of a job, and what the job cost. Times are in seconds, tokens summed over its windows.

    `queue_s` runs from the encoded prompts to the start of the batch, `forward_s` is the time of the whole batch, and
    `batch` the number of jobs in it.
    """

    readings: tuple[Reading, ...]
    encode_s: float
    queue_s: float
    forward_s: float
    tokens_computed: int
    tokens_reused: int
    batch: int
    windows: int


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot for metrics: the jobs that wait or run now, and counts since the scheduler was made."""

    queued: int = 0
    queued_tokens: int = 0
    expected_wait_s: float = 0.0
    batches: int = 0
    jobs: int = 0
    dropped: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0


@dataclass(frozen=True, slots=True)
class _BatchResult:
    """A job's part of a batch that has run; `started` is a time of `time.perf_counter`."""

    results: tuple[WorkResult, ...]
    started: float
    forward_s: float
    batch: int


@dataclass(slots=True)
class _Job:
    """The windows of one caller's prompts, and the future that gets their results. No event loop owns the future."""

    work: tuple[WorkItem, ...]
    future: "Future[_BatchResult]"


# An entry of the worker's inbox: a job, the name of a stream that has ended, or None when the scheduler closes.
_InboxEntry = Ticket[_Job] | str | None


@dataclass(slots=True)
class _Tally:
    """Counters that only the worker writes."""

    seconds_per_token: float = 0.0
    batches: int = 0
    jobs: int = 0
    dropped: int = 0
    computed: int = 0
    reused: int = 0


@dataclass(slots=True)
class _Worker:
    """The thread and everything that lives as long as it. A scheduler that is started again gets a new worker."""

    thread: threading.Thread | None = None
    inbox: "queue.SimpleQueue[_InboxEntry]" = field(default_factory=queue.SimpleQueue)
    ready: "Future[Runner]" = field(default_factory=Future)
    ended: "Future[None]" = field(default_factory=Future)
    encoding: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="guard-encode")
    )


class Scheduler:
    """Runs the model of the guard `name`; `load` makes its runner, on the worker's thread.

    A job is refused when the queue would take longer than `max_wait_s`. Several event loops may share a scheduler, and
    it outlives the loop that started it.
    """

    def __init__(self, name: str, load: Callable[[], Runner], max_wait_s: float) -> None:
        self._name = name
        self._load = load
        self._max_wait_s = max_wait_s
        self._worker: _Worker | None = None
        self._tally = _Tally()
        # Inserting or removing one key is atomic in CPython, so the loops and the worker share this without a lock.
        self._waiting: dict[int, Ticket[_Job]] = {}

    # --- on an event loop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model on the worker's thread. Raises what `load` raises."""
        worker = self._worker
        if worker is None:
            worker = self._worker = _Worker()
            worker.thread = threading.Thread(target=self._main, args=(worker,), name=f"guard-{self._name}", daemon=True)
            worker.thread.start()
        # Without the shield, a caller that is cancelled would cancel `ready`, which the worker still has to set.
        await asyncio.shield(asyncio.wrap_future(worker.ready))

    async def close(self) -> None:
        """Release the model, after the batch that runs; jobs in the queue fail with GuardUnavailable."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.inbox.put(None)
            worker.encoding.shutdown(wait=False, cancel_futures=True)
            # A thread inside torch when the interpreter ends aborts the process, so wait for the batch that runs. The
            # wait must not block the loop, nor use an executor: executors take no more work at interpreter exit.
            ended, _ = await asyncio.wait([asyncio.wrap_future(worker.ended)], timeout=_CLOSE_S)
            if ended and worker.thread is not None:
                worker.thread.join()  # returns at once: `ended` is the last thing that the thread sets

    def admit(self) -> None:
        """Check that a job may queue now. Raises GuardUnavailable if no model is loaded, Overloaded on a long queue."""
        self._running()
        admit(self.stats.queued_tokens, self._tally.seconds_per_token, self._max_wait_s)

    async def read(self, prompts: Sequence[Prompt], stream: str | None) -> ScheduledReadings:
        """Run `prompts` as one job, which goes before others if it holds a stream. Raises GuardUnavailable.

        A prompt that is read in windows gets the highest probabilities of any window. Cancelling the call drops the job
        from the queue, or ends it between two passes.
        """
        worker = self._running()
        began = time.perf_counter()
        windows = await asyncio.get_running_loop().run_in_executor(
            worker.encoding, _encode, worker.ready.result(), prompts, stream
        )
        encoded = time.perf_counter()
        job = _Job(tuple(work for items in windows for work in items), Future())
        ticket = Ticket(job, sum(work.cost for work in job.work), encoded, stream is not None)
        self._waiting[id(ticket)] = ticket
        worker.inbox.put(ticket)
        # The scheduler may have closed during the await above, and the worker may have emptied its inbox already: then
        # nothing would ever settle the future.
        if self._worker is not worker:
            ticket.cancelled = True
            raise self._closed()
        try:
            batch = await asyncio.wrap_future(job.future)
        finally:
            ticket.cancelled = True  # the caller may have been cancelled; has no effect on a job that has run
            self._waiting.pop(id(ticket), None)
        return ScheduledReadings(
            readings=_worst_windows(windows, batch.results),
            encode_s=encoded - began,
            queue_s=batch.started - encoded,
            forward_s=batch.forward_s,
            tokens_computed=sum(result.computed for result in batch.results),
            tokens_reused=sum(result.reused for result in batch.results),
            batch=batch.batch,
            windows=len(job.work),
        )

    def forget(self, stream: str) -> None:
        """Make the state of a streamed reply that has ended the first to be evicted.

        Until its eviction the conversation's next turn may use it.
        """
        if self._worker is not None:
            self._worker.inbox.put(stream)

    @property
    def stats(self) -> SchedulerStats:
        """The length of the queue and the counts so far."""
        waiting = list(self._waiting.values())
        tokens = sum(ticket.cost for ticket in waiting)
        tally = self._tally
        return SchedulerStats(
            queued=len(waiting),
            queued_tokens=tokens,
            expected_wait_s=tokens * tally.seconds_per_token,
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

    def _running(self) -> _Worker:
        worker = self._worker
        if worker is None or not worker.ready.done():
            raise GuardUnavailable(f"guard {self._name!r} is not running")
        return worker

    def _closed(self) -> GuardUnavailable:
        return GuardUnavailable(f"guard {self._name!r} was closed")

    # --- on the worker's thread -----------------------------------------------------------------------------------

    def _main(self, worker: _Worker) -> None:
        try:
            self._serve(worker)
        finally:
            worker.ended.set_result(None)

    def _serve(self, worker: _Worker) -> None:
        try:
            runner = self._load()
        except BaseException as error:  # noqa: BLE001 - the thread ends here; `start` raises the error in its caller
            worker.ready.set_exception(error)
            self._worker = None
            return
        worker.ready.set_result(runner)
        held: tuple[Ticket[_Job], ...] = ()
        try:
            # Block only if no ticket is held: held tickets must run even if nothing arrives any more.
            while (arrived := _drain(worker.inbox, runner, block=not held)) is not None:
                before = len(held) + len(arrived)
                chosen = next_batch((*held, *arrived), runner.max_batch_tokens, time.perf_counter())
                held = chosen.waiting
                # The tickets that are in neither part were cancelled.
                self._tally.dropped += before - len(held) - len(chosen.batch)
                if chosen.batch:
                    self._run(runner, chosen.batch)
        finally:
            left = [*held, *(entry for entry in _entries(worker.inbox) if isinstance(entry, Ticket))]
            for ticket in left:
                _settle(ticket.item.future, self._closed())
            runner.close()

    def _run(self, runner: Runner, batch: Sequence[Ticket[_Job]]) -> None:
        """Run a batch. If it fails, run its halves, so that a job that makes it fail fails alone.

        The batch ends between two passes when the callers of all its jobs have left.
        """
        started = time.perf_counter()
        work = [item for ticket in batch for item in ticket.item.work]
        results: list[WorkResult] = []
        try:
            for part in passes([item.cost for item in work], runner.max_batch_tokens):
                if all(ticket.cancelled for ticket in batch):
                    self._tally.dropped += len(batch)
                    return
                results += runner.run(work[part])
        except Exception as error:  # noqa: BLE001 - any failure means that the text was not judged
            if len(batch) > 1:
                half = len(batch) // 2
                self._run(runner, batch[:half])
                self._run(runner, batch[half:])
                return
            _settle(batch[0].item.future, GuardUnavailable(f"the guard failed: {type(error).__name__}: {error}"))
            return
        forward_s = time.perf_counter() - started
        # Count before settling: a caller that has its answer must find itself in the statistics.
        self._count(batch, results, forward_s)
        start = 0
        for ticket in batch:
            stop = start + len(ticket.item.work)
            _settle(ticket.item.future, _BatchResult(tuple(results[start:stop]), started, forward_s, len(batch)))
            start = stop

    def _count(self, batch: Sequence[Ticket[_Job]], results: Sequence[WorkResult], forward_s: float) -> None:
        tally = self._tally
        rate = forward_s / max(1, sum(ticket.cost for ticket in batch))
        # The first batch also computes the policy text, which later ones reuse, so the second sets the estimate anew.
        known = tally.batches > 1
        tally.seconds_per_token = (1 - _SMOOTHING) * tally.seconds_per_token + _SMOOTHING * rate if known else rate
        tally.batches += 1
        tally.jobs += len(batch)
        tally.computed += sum(result.computed for result in results)
        tally.reused += sum(result.reused for result in results)


def _encode(runner: Runner, prompts: Sequence[Prompt], stream: str | None) -> list[tuple[WorkItem, ...]]:
    return [runner.encode(prompt, stream) for prompt in prompts]


def _worst_windows(windows: Sequence[Sequence[WorkItem]], results: Sequence[WorkResult]) -> tuple[Reading, ...]:
    """One reading per prompt: the highest of each probability over its windows, and where that was."""
    remaining = iter(results)
    return tuple(worst_reading([_placed(next(remaining).reading, item) for item in items]) for items in windows)


def _placed(reading: Reading, item: WorkItem) -> Reading:
    return reading if item.span is None else replace(reading, spans=(item.span,) * len(reading.probabilities))


def _drain(inbox: "queue.SimpleQueue[_InboxEntry]", runner: Runner, *, block: bool) -> list[Ticket[_Job]] | None:
    """The tickets that have arrived; None once the scheduler is closed. With `block`, wait for the first entry.

    Streams that have ended are forgotten here, on the worker's thread.
    """
    entries = [inbox.get()] if block else []
    entries += _entries(inbox)
    tickets: list[Ticket[_Job]] = []
    for entry in entries:
        if isinstance(entry, str):
            runner.forget(entry)
        elif entry is not None:
            tickets.append(entry)
    if None in entries:
        if not tickets:
            return None
        inbox.put(None)  # run the tickets that came before the None, then find it again
    return tickets


def _entries(inbox: "queue.SimpleQueue[_InboxEntry]") -> list[_InboxEntry]:
    """Empty the inbox without waiting."""
    entries: list[_InboxEntry] = []
    with contextlib.suppress(queue.Empty):
        while True:
            entries.append(inbox.get_nowait())
    return entries


def _settle(future: "Future[_BatchResult]", outcome: _BatchResult | GuardUnavailable) -> None:
    """Set the future unless its caller has cancelled it; the event loop that awaits it may be closed already."""
    with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):
        if future.set_running_or_notify_cancel():
            if isinstance(outcome, GuardUnavailable):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
