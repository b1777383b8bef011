"""The thread that owns a model: it takes jobs from its inbox and runs their windows, slice by slice."""

import asyncio
import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from guardproxy.engine.backlog import Backlog
from guardproxy.engine.cost import CostModel
from guardproxy.engine.fair_queue import FairQueue, Ticket, WaitingWindow
from guardproxy.engine.runner import Runner, WorkItem, WorkResult
from guardproxy.errors import GuardUnavailable, JudgingTooLong

# The cost in seconds of a window of a model that has not been measured: until then, a slice holds one.
_UNKNOWN_S = 0.05


@dataclass(slots=True, eq=False)
class Job:
    """One check from its admission to its end. The worker settles `future`, which no event loop owns.

    `open_tokens` has the tokens that must still be read, by model, `open_windows` the number of windows without a final
    result. `expected_s` are the seconds that it was expected to take when it came; `queued` and `started` are times of
    `time.perf_counter`; the others are as in `ScheduledReadings`.
    """

    future: "Future[tuple[WorkResult, ...]]" = field(default_factory=Future)
    results: list[WorkResult | None] = field(default_factory=list)
    open_tokens: Counter[int] = field(default_factory=Counter)
    open_windows: int = 0
    expected_s: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    forward_s: float = 0.0
    share_s: float = 0.0
    batch: int = 0


@dataclass(slots=True)
class Tally:
    """Counters that only the worker writes. They outlive it."""

    batches: int = 0
    jobs: int = 0
    dropped: int = 0
    computed: int = 0
    reused: int = 0


# An entry of the inbox: a check, the name of a stream that has ended, or None when the scheduler closes.
_Entry = Ticket[Job] | str | None


class Worker:
    """The thread of the guard `name`, and everything that lives as long as it.

    `load` makes the runner, which `ready` then holds. The scheduler shares `cost`, `backlog` and `tally`. A job whose
    own windows take more than `timeout_s` seconds fails with JudgingTooLong.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Runner],
        *,
        cost: CostModel,
        backlog: Backlog,
        tally: Tally,
        timeout_s: float,
    ) -> None:
        self.inbox: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self.ready: Future[Runner] = Future()
        self.ended: Future[None] = Future()
        self.thread = threading.Thread(target=self._main, name=f"guard-{name}", daemon=True)
        self._name = name
        self._load = load
        self._cost = cost
        self._backlog = backlog
        self._tally = tally
        self._timeout_s = timeout_s
        self._queue: FairQueue[Job] = FairQueue(self._cost_of)
        self._measured = time.perf_counter()

    def closed(self) -> GuardUnavailable:
        """The failure of jobs that the worker has not run when it ends."""
        return GuardUnavailable(f"guard {self._name!r} was closed")

    def _main(self) -> None:
        try:
            self._serve()
        finally:
            self.ended.set_result(None)

    def _serve(self) -> None:
        try:
            runner = self._load()
        except BaseException as error:  # noqa: BLE001 - the thread ends here; `start` raises the error in its caller
            self.ready.set_exception(error)
            return
        self._cost.batch_s = runner.slice_s
        self.ready.set_result(runner)
        try:
            # Block only if nothing waits: what waits must run even if nothing arrives any more.
            while (arrived := _drain(self.inbox, runner, block=self._queue.is_empty)) is not None:
                if self._queue.is_empty:
                    self._seconds()
                for ticket in arrived:
                    self._queue.add(ticket)
                dropped = self._queue.dropped
                windows = self._queue.take(runner.slice_s, runner.max_batch_tokens)
                self._tally.dropped += self._queue.dropped - dropped
                if windows:
                    self._run(runner, windows)
        finally:
            left = [*self._queue.clear(), *(entry for entry in _entries(self.inbox) if isinstance(entry, Ticket))]
            for ticket in left:
                _settle(ticket.item, self.closed())
            runner.close()

    def _seconds(self) -> float:
        """Seconds since the last call. While checks wait, what lies between two passes delays them like the passes."""
        before, self._measured = self._measured, time.perf_counter()
        return self._measured - before

    def _cost_of(self, work: WorkItem) -> float:
        return self._cost.seconds(work.model, work.cost) if self._cost.is_known(work.model) else _UNKNOWN_S

    def _run(self, runner: Runner, windows: Sequence[WaitingWindow[Job]]) -> None:
        """Run a slice, the windows of each model together; then settle the jobs that are complete."""
        jobs = {id(window.ticket): window.ticket for window in windows}
        for ticket in jobs.values():
            ticket.item.started = ticket.item.started or time.perf_counter()
            ticket.item.batch = max(ticket.item.batch, len(jobs))
        self._tally.batches += 1
        for model in dict.fromkeys(window.work.model for window in windows):
            self._run_model(runner, [window for window in windows if window.work.model == model])
        # Count before settling: a caller that has its answer must find itself in the statistics.
        ended = [ticket for ticket in jobs.values() if not ticket.item.open_windows]
        self._tally.jobs += len(ended)
        for ticket in ended:
            job = ticket.item
            waited_s = time.perf_counter() - job.queued - job.share_s
            self._cost.observe_check(job.share_s, job.expected_s, waited_s, reply=ticket.reply)
            _settle(ticket.item, tuple(result for result in ticket.item.results if result is not None))
        for ticket in jobs.values():
            if ticket.item.open_windows and not ticket.cancelled:
                self._go_on(ticket)

    def _run_model(self, runner: Runner, windows: Sequence[WaitingWindow[Job]]) -> None:
        """Run windows of one model. If they fail, run the halves, so that a job that makes them fail fails alone."""
        windows = [window for window in windows if not window.ticket.cancelled]
        if not windows:
            return
        try:
            results = runner.run([window.work for window in windows])
        except Exception as error:  # noqa: BLE001 - any failure means that the text was not judged
            tickets = list({id(window.ticket): window.ticket for window in windows}.values())
            if len(tickets) == 1:
                self._fail(tickets[0], GuardUnavailable(f"the guard failed: {type(error).__name__}: {error}"))
                return
            half = set(map(id, tickets[: len(tickets) // 2]))
            self._run_model(runner, [window for window in windows if id(window.ticket) in half])
            self._run_model(runner, [window for window in windows if id(window.ticket) not in half])
            return
        seconds = self._seconds()
        model, tokens = windows[0].work.model, sum(window.work.cost for window in windows)
        self._cost.observe(model, tokens, seconds)
        if not model:
            self._cost.observe_share(tokens, sum(result.then.cost for result in results if result.then is not None))
        for ticket in {id(window.ticket): window.ticket for window in windows}.values():
            ticket.item.forward_s += seconds
        for window, result in zip(windows, results, strict=True):
            window.ticket.item.share_s += seconds * window.work.cost / tokens if tokens else 0.0
            self._take(window, result)

    def _take(self, window: WaitingWindow[Job], result: WorkResult) -> None:
        """Note the result of a window, and queue it for the next model if there must be one."""
        job, before = window.ticket.item, window.ticket.item.results[window.index]
        self._tally.computed += result.computed
        self._tally.reused += result.reused
        if before is not None:
            result = replace(result, computed=before.computed + result.computed, reused=before.reused + result.reused)
        job.results[window.index] = result
        job.open_tokens[window.work.model] -= window.work.cost
        if result.then is None:
            job.open_windows -= 1
        else:
            job.open_tokens[result.then.model] += result.then.cost
            self._queue.add_again(window.ticket, window.index, result.then)

    def _go_on(self, ticket: Ticket[Job]) -> None:
        """Count what a job has left, and end it if it takes too long even without other jobs."""
        job = ticket.item
        left = sum(self._cost.seconds(model, tokens) for model, tokens in job.open_tokens.items())
        if job.share_s + left > self._timeout_s:
            error = too_long(job.share_s + left, self._timeout_s)
            ticket.asker.refused = str(error)
            self._fail(ticket, error)
            return
        self._backlog.change(ticket, self._cost.expected(job.open_tokens[0], job.open_tokens[1]))

    def _fail(self, ticket: Ticket[Job], error: GuardUnavailable) -> None:
        """End a job with an error; the windows that it has left do not run."""
        ticket.cancelled = True
        _settle(ticket.item, error)


def too_long(expected_s: float, timeout_s: float) -> JudgingTooLong:
    """The error of a request that takes `expected_s` seconds to judge."""
    return JudgingTooLong(f"judging takes longer than guard.timeout_s: about {expected_s:.0f} s, not {timeout_s:g} s")


def _drain(inbox: "queue.SimpleQueue[_Entry]", runner: Runner, *, block: bool) -> list[Ticket[Job]] | None:
    """The checks that have arrived; None once the scheduler is closed. With `block`, wait for the first entry.

    Streams that have ended are forgotten here, on the worker's thread.
    """
    entries = [inbox.get()] if block else []
    entries += _entries(inbox)
    tickets: list[Ticket[Job]] = []
    for entry in entries:
        if isinstance(entry, str):
            runner.forget(entry)
        elif entry is not None:
            tickets.append(entry)
    if None in entries:
        if not tickets:
            return None
        inbox.put(None)  # queue the checks that came before the None, then find it again
    return tickets


def _entries(inbox: "queue.SimpleQueue[_Entry]") -> list[_Entry]:
    """Empty the inbox without waiting."""
    entries: list[_Entry] = []
    with contextlib.suppress(queue.Empty):
        while True:
            entries.append(inbox.get_nowait())
    return entries


def _settle(job: Job, outcome: tuple[WorkResult, ...] | GuardUnavailable) -> None:
    """Set the future unless its caller has cancelled it; the event loop that awaits it may be closed already."""
    with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):
        if job.future.set_running_or_notify_cancel():
            if isinstance(outcome, GuardUnavailable):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
