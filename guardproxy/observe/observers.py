"""Records go to each sink through its own bounded queue, so that a slow sink delays neither traffic nor other sinks."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import structlog
from tenacity import AsyncRetrying, stop_after_attempt, wait_exponential

from guardproxy.apart import Apart
from guardproxy.errors import AuditUnavailable, GuardUnavailable
from guardproxy.observe.masking import TextRule
from guardproxy.observe.metrics import Metrics
from guardproxy.observe.records import masked_record
from guardproxy.offload import MEDIUM, computed_aside
from guardproxy.ports import Sink
from guardproxy.types import Record

_BATCH_RECORDS = 128  # the most records in one write
_BATCH_CHARACTERS = 1024 * 1024  # and the most characters, unless a single record has more
_GATHER_S = 0.1  # how long a record waits for others: a transaction costs as much as a dozen records in it
_RECORD = 256  # what masking a record without text takes, in characters
_QUEUE_CHARACTERS = 64 * 1024 * 1024  # the most characters of text in the queue of one sink
_ATTEMPTS = 3
_COUNTED_AT_ONCE = 64  # records that are counted and queued before other tasks run

_log = structlog.get_logger("guardproxy.audit")

PassedRule = Literal["all", "sampled"]
"""Which passed turns are recorded: all, or those of the sampled requests only."""


class Receipt:
    """Says of some records whether every sink has stored all of them: then `written` is True, else False."""

    def __init__(self) -> None:
        self.written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._expected = 0

    def expect(self, writes: int) -> None:
        """Note how many further writes the records need."""
        self._expected += writes

    def note(self, *, writes: int = 1, stored: bool) -> None:
        """Note writes that are done, or one that has failed."""
        self._expected -= writes
        if not self.written.done() and not (stored and self._expected):
            self.written.set_result(stored)


# Not the process that the texts of requests wait for: records must not wait behind them.
_APART = Apart()
_MASKING_S = 30.0  # it takes 0.4 s for a million characters


class _PendingRecord:
    """A record on its way to the sinks. It is masked once, for all sinks."""

    def __init__(
        self, record: Record, rule: TextRule, receipt: Receipt | None, personal: Callable[[str], str] | None
    ) -> None:
        self._record = record
        self._rule = rule
        self._personal = personal
        self._receipt = receipt
        self._masked: Record | None = None
        self.characters = _RECORD + len(record.text) + len(record.error) + len(record.origin.model)
        self.characters += sum(len(part.path) + len(part.why) + len(part.note) for part in record.coverage)

    async def mask_apart(self) -> None:
        """Mask a record with a long text in another process, if one can do it."""
        if self._masked is None and self._personal is None and self.characters > MEDIUM // 2:
            with suppress(GuardUnavailable):  # then the thread does it
                self._masked = await _APART.computed(
                    _MASKING_S, 2 * self.characters, masked_record, self._record, self._rule
                )

    def masked(self) -> Record:
        # Two threads may mask a record at the same time: they find the same.
        if self._masked is None:
            self._masked = masked_record(self._record, self._rule, self._personal)
        return self._masked

    def settle(self, *, stored: bool) -> None:
        """Note whether a sink has stored the record."""
        if self._receipt is not None:
            self._receipt.note(stored=stored)


async def _masked(batch: "Sequence[_QueuedRecord]") -> list[Record]:
    """Mask the records of a batch, long ones elsewhere."""
    for item, _ in batch:
        await item.mask_apart()
    return await computed_aside(sum(item.characters for item, _ in batch), lambda: [item.masked() for item, _ in batch])


# A record, and the future that waits until it is stored.
_QueuedRecord = tuple[_PendingRecord, asyncio.Future[None] | None]


class _SinkQueue:
    """The queue of one sink, and the task that writes its records in batches."""

    def __init__(
        self, name: str, sink: Sink, metrics: Metrics, limit: int, timeout_s: float, *, gather_s: float
    ) -> None:
        self.name = name
        self._sink = sink
        self._metrics = metrics
        self._limit = limit
        self._timeout_s = timeout_s
        self._gather_s = gather_s
        self._waiting: deque[_QueuedRecord] = deque()
        self._characters = 0
        self._work_available = asyncio.Event()
        self._due = asyncio.Event()
        self._closing = False
        self._dropped = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sink with an empty write. Raises the sink's error, or TimeoutError."""
        self._task = asyncio.create_task(self._run(), name=f"audit {self.name}")
        async with asyncio.timeout(self._timeout_s):
            await self._sink.write(())

    def put(self, item: _PendingRecord, done: asyncio.Future[None] | None) -> None:
        """Queue `item`; `done` gets the result of its write. A full queue drops the item, counts it and logs it."""
        full = len(self._waiting) >= self._limit or self._characters + item.characters > _QUEUE_CHARACTERS
        # A text longer than the whole limit is still accepted if the queue is empty.
        if self._closing or (full and self._waiting):
            self._drop(1)
            item.settle(stored=False)
            if done:
                done.set_exception(AuditUnavailable(f"audit sink {self.name!r} does not keep up"))
            return
        if self._dropped:
            _log.warning("audit_catching_up", sink=self.name, dropped=self._dropped)
            self._dropped = 0
        self._waiting.append((item, done))
        self._characters += item.characters
        self._work_available.set()
        if self._is_due():
            self._due.set()

    def _drop(self, count: int) -> None:
        self._metrics.audit_dropped(self.name, count)
        if not self._dropped:  # one log line when dropping begins and one when it ends
            _log.error("audit_dropping", sink=self.name, waiting=len(self._waiting))
        self._dropped += count

    async def _run(self) -> None:
        while True:
            await self._work_available.wait()
            while self._waiting:
                await self._gather()
                await self._write_batch()
            self._work_available.clear()
            if self._closing:
                return

    def _is_due(self) -> bool:
        """Whether the waiting records are written at once: somebody waits for that, or there are enough of them."""
        enough = min(_BATCH_RECORDS, self._limit // 2)
        return self._closing or len(self._waiting) >= enough or self._waiting[0][1] is not None

    async def _gather(self) -> None:
        if not self._is_due():
            self._due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._gather_s):
                    await self._due.wait()

    async def _write_batch(self) -> None:
        batch = [self._waiting.popleft()]
        characters = batch[0][0].characters
        while self._waiting and len(batch) < _BATCH_RECORDS:
            characters += self._waiting[0][0].characters
            if characters > _BATCH_CHARACTERS:
                break
            batch.append(self._waiting.popleft())
        self._characters -= sum(item.characters for item, _ in batch)
        try:
            await self._write(await _masked(batch))
        except asyncio.CancelledError:
            self._failed(batch, TimeoutError("closed before the write was done"))
            raise
        except Exception as error:  # noqa: BLE001 - an error of a sink must not affect the traffic
            self._failed(batch, error)
        else:
            self._metrics.audit_written(self.name, len(batch))
            for item, done in batch:
                item.settle(stored=True)
                if done and not done.done():
                    done.set_result(None)

    async def _write(self, records: Sequence[Record]) -> None:
        attempts = AsyncRetrying(stop=stop_after_attempt(_ATTEMPTS), wait=wait_exponential(0.1), reraise=True)
        async with asyncio.timeout(self._timeout_s):
            async for attempt in attempts:
                with attempt:
                    await self._sink.write(records)

    def _failed(self, batch: Sequence[_QueuedRecord], error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        self._metrics.audit_failed(self.name, len(batch))
        _log.error("audit_failed", sink=self.name, records=len(batch), error=problem)
        failure = AuditUnavailable(f"audit sink {self.name!r} failed: {problem}")
        failure.__cause__ = error
        for item, done in batch:
            item.settle(stored=False)
            if done and not done.done():
                done.set_exception(failure)

    async def close(self, timeout_s: float) -> None:
        """Write the queued records for at most `timeout_s`; drop, count and log the rest. Close the sink."""
        self._closing = True
        self._work_available.set()
        self._due.set()
        if self._task:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        if self._waiting:
            self._drop(len(self._waiting))
            for item, future in self._waiting:
                item.settle(stored=False)
                if future and not future.done():
                    future.set_exception(AuditUnavailable(f"audit sink {self.name!r} was closed"))
            self._waiting.clear()
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the other sinks must be closed too
            _log.error("audit_close_failed", sink=self.name, error=f"{type(error).__name__}: {error}")


class Observers:
    """Hands the record of every judged turn to the sinks and to the metrics.

    `sinks` maps names, as used in metrics and logs, to sinks. `text` is applied to the text of a record before any sink
    gets it; under `redacted`, `personal` masks further personal data in it. With `required`, `record` waits until every
    sink has stored the records, and raises if a sink fails. If `passed` is "sampled", sinks get the records of passed
    turns only from the sample of requests (`Record.sampled`). `queue_size` is the most records queued for each sink;
    `write_timeout_s` bounds a write including its retries. A record waits `gather_s` seconds for others, unless
    `required`.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        *,
        text: TextRule = "redacted",
        personal: Callable[[str], str] | None = None,
        required: bool = False,
        passed: PassedRule = "all",
        metrics: Metrics,
        queue_size: int = 10_000,
        write_timeout_s: float = 10.0,
        gather_s: float = _GATHER_S,
    ) -> None:
        for name in sinks:
            metrics.begin_sink(name)
        self._text: TextRule = text
        self._personal = personal
        self.required = required
        self._passed: PassedRule = passed
        self._metrics = metrics
        self._queues = [
            _SinkQueue(name, sink, metrics, queue_size, write_timeout_s, gather_s=gather_s)
            for name, sink in sinks.items()
        ]
        self._timeout_s = write_timeout_s
        self._started = not sinks

    async def start(self) -> None:
        """Open the sinks and start their tasks. Raises AuditUnavailable if one of them cannot be opened."""
        self._started = True
        results = await asyncio.gather(*(queue.start() for queue in self._queues), return_exceptions=True)
        for queue, result in zip(self._queues, results, strict=True):
            if isinstance(result, Exception):
                problem = f"{type(result).__name__}: {result}"
                await self.close()
                raise AuditUnavailable(f"audit sink {queue.name!r} cannot be opened: {problem}") from result
            if isinstance(result, BaseException):
                raise result

    async def record(self, records: Sequence[Record], receipts: Mapping[str, Receipt] | None = None) -> None:
        """Count the records of one exchange (`Metrics.decision`) and queue them for every sink.

        Return at once unless `required`. With `required`, raise AuditUnavailable if a sink did not store every record:
        the answer that they describe must then not be sent. `receipts` has, by the id of a record, what is to know
        whether it was stored; a record that `passed` leaves out needs no sink.
        """
        if not self._started:
            raise RuntimeError("call Observers.start() before Observers.record()")
        receipts = receipts or {}
        self._expect(records, receipts)
        waiting: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        for place, record in enumerate(records, 1):
            if place % _COUNTED_AT_ONCE == 0:
                await asyncio.sleep(0)
            self._metrics.decision(record)
            if not self._is_kept(record):
                continue
            item = _PendingRecord(record, self._text, receipts.get(record.id), self._personal)
            for queue in self._queues:
                done = loop.create_future() if self.required else None
                queue.put(item, done)
                if done:
                    waiting.append(done)
        if not waiting:
            return
        failures = [r for r in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(r, BaseException)]
        if failures:
            raise failures[0]

    def _expect(self, records: Sequence[Record], receipts: Mapping[str, Receipt]) -> None:
        for record in records:
            if (receipt := receipts.get(record.id)) and self._is_kept(record):
                receipt.expect(len(self._queues))
        for receipt in receipts.values():
            receipt.note(writes=0, stored=True)  # those that need no write are settled

    def _is_kept(self, record: Record) -> bool:
        """Whether the sinks get the record."""
        return self._passed == "all" or record.sampled or not _is_passed(record)

    async def close(self) -> None:
        """Write the queued records, then close the sinks."""
        await asyncio.gather(*(queue.close(self._timeout_s) for queue in self._queues))


def _is_passed(record: Record) -> bool:
    """Whether nothing speaks for keeping the record: the guard has judged the turn, and no rule had an effect."""
    return record.decision.action == "pass" and record.outcome == "pass" and not record.error and not record.exclusion
