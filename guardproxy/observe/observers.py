"""Records go to every sink through a bounded queue of its own, so that no sink slows the traffic or another sink."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import structlog
from tenacity import AsyncRetrying, stop_after_attempt, wait_exponential

from guardproxy.errors import AuditUnavailable
from guardproxy.observe.metrics import Metrics
from guardproxy.observe.redaction import TextRule, credentials, kept
from guardproxy.ports import Sink
from guardproxy.types import Record

_BATCH = 256  # records in one write at most
_CHARACTERS = 64 * 1024 * 1024  # of text waiting for one sink at most
_IN_THREAD = 16 * 1024  # longer texts are redacted in a thread, so that other connections go on
_ATTEMPTS = 3

_log = structlog.get_logger("guardproxy.audit")


_PATH = 120  # characters of a part's path that a record has
# The same few names are in record after record.
_known_name = lru_cache(maxsize=4096)(credentials)


def _name(text: str) -> str:
    """A name without credentials. A client chooses some of them: long ones are not kept in memory."""
    return _known_name(text) if len(text) <= 200 else credentials(text)


def _short(path: str) -> str:
    """The start of a path: keys that a client makes up can be long, and a text."""
    return path if len(path) <= _PATH else f"{path[:_PATH]}…"


def masked(record: Record, rule: TextRule) -> Record:
    """The record as sinks may see it: its text as `rule` says, and no credentials in what a client or server named."""
    origin = record.origin
    named = replace(origin, model=_name(origin.model), upstream=_name(origin.upstream), route=_name(origin.route))
    return replace(
        record,
        text=kept(record.text, rule),
        error=kept(record.error, "full" if rule == "full" else "redacted"),
        origin=named,
        coverage=tuple(replace(part, path=_name(_short(part.path)), why=_name(part.why)) for part in record.coverage),
    )


class _Item:
    """A record on its way to the sinks, masked once for all of them."""

    def __init__(self, record: Record, rule: TextRule) -> None:
        self._record = record
        self._rule = rule
        self._task: asyncio.Task[Record] | None = None
        self._masked: Record | None = None
        self.characters = len(record.text) + len(record.origin.model)

    async def masked(self) -> Record:
        if self._masked is None:
            if self.characters <= _IN_THREAD:
                self._masked = masked(self._record, self._rule)
            else:
                self._task = self._task or asyncio.ensure_future(asyncio.to_thread(masked, self._record, self._rule))
                self._masked = await asyncio.shield(self._task)
        return self._masked


# An item, and who waits to hear that it is stored.
_Waiting = tuple[_Item, asyncio.Future[None] | None]


class _Lane:
    """The queue of one sink, and the task that empties it in batches."""

    def __init__(self, name: str, sink: Sink, metrics: Metrics, most: int, timeout_s: float) -> None:
        self.name = name
        self._sink = sink
        self._metrics = metrics
        self._most = most
        self._timeout_s = timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._characters = 0
        self._there_is_work = asyncio.Event()
        self._closing = False
        self._dropped = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sink, by writing nothing to it. Raises what the sink raises."""
        self._task = asyncio.create_task(self._run(), name=f"audit {self.name}")
        async with asyncio.timeout(self._timeout_s):
            await self._sink.write(())

    def put(self, item: _Item, done: asyncio.Future[None] | None) -> None:
        """Queue `item`; `done` learns whether it was stored. A full queue drops it, which is counted and logged."""
        full = len(self._waiting) >= self._most or self._characters + item.characters > _CHARACTERS
        # A text longer than the whole bound is still taken when nothing else waits.
        if self._closing or (full and self._waiting):
            self._drop(1)
            if done:
                done.set_exception(AuditUnavailable(f"audit sink {self.name!r} does not keep up"))
            return
        if self._dropped:
            _log.warning("audit_catching_up", sink=self.name, dropped=self._dropped)
            self._dropped = 0
        self._waiting.append((item, done))
        self._characters += item.characters
        self._there_is_work.set()

    def _drop(self, count: int) -> None:
        self._metrics.audit_dropped(self.name, count)
        if not self._dropped:  # one line when it begins and one when it ends, not one for each record
            _log.error("audit_dropping", sink=self.name, waiting=len(self._waiting))
        self._dropped += count

    async def _run(self) -> None:
        while True:
            await self._there_is_work.wait()
            while self._waiting:
                await self._write_batch()
            self._there_is_work.clear()
            if self._closing:
                return

    async def _write_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
        self._characters -= sum(item.characters for item, _ in batch)
        try:
            await self._write([await item.masked() for item, _ in batch])
        except asyncio.CancelledError:
            self._failed(batch, TimeoutError("closed before the write was done"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever a sink raises costs its records, never the traffic
            self._failed(batch, error)
        else:
            self._metrics.audit_written(self.name, len(batch))
            for _, done in batch:
                if done and not done.done():
                    done.set_result(None)

    async def _write(self, records: Sequence[Record]) -> None:
        attempts = AsyncRetrying(stop=stop_after_attempt(_ATTEMPTS), wait=wait_exponential(0.1), reraise=True)
        async with asyncio.timeout(self._timeout_s):
            async for attempt in attempts:
                with attempt:
                    await self._sink.write(records)

    def _failed(self, batch: Sequence[_Waiting], error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        self._metrics.audit_failed(self.name, len(batch))
        _log.error("audit_failed", sink=self.name, records=len(batch), error=problem)
        failure = AuditUnavailable(f"audit sink {self.name!r} failed: {problem}")
        failure.__cause__ = error
        for _, done in batch:
            if done and not done.done():
                done.set_exception(failure)

    async def close(self, timeout_s: float) -> None:
        """Write what waits, for at most `timeout_s`; what is left then is dropped, counted and logged."""
        self._closing = True
        self._there_is_work.set()
        if self._task:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        if self._waiting:
            self._drop(len(self._waiting))
            for _, future in self._waiting:
                if future and not future.done():
                    future.set_exception(AuditUnavailable(f"audit sink {self.name!r} was closed"))
            self._waiting.clear()
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - closing the others must go on
            _log.error("audit_close_failed", sink=self.name, error=f"{type(error).__name__}: {error}")


class Observers:
    """Hands the record of every judged turn to the sinks, and counts it.

    `sinks` by the name that metrics and logs call them; `text` says what is kept of a record's text, before any sink
    sees it; with `required`, `record` returns once every sink has stored the records and raises where one could not;
    `queue_size` bounds the records that wait for each sink; a write, with its retries, takes `write_timeout_s` at most.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        *,
        text: TextRule = "redacted",
        required: bool = False,
        metrics: Metrics,
        queue_size: int = 10_000,
        write_timeout_s: float = 10.0,
    ) -> None:
        self._text: TextRule = text
        self._required = required
        self._metrics = metrics
        self._lanes = [_Lane(name, sink, metrics, queue_size, write_timeout_s) for name, sink in sinks.items()]
        self._timeout_s = write_timeout_s
        self._started = not sinks

    async def start(self) -> None:
        """Open the sinks and start their tasks.

        Raises AuditUnavailable for a sink that cannot be opened where `required`; elsewhere it is logged, and each
        later write tries again.
        """
        self._started = True
        results = await asyncio.gather(*(lane.start() for lane in self._lanes), return_exceptions=True)
        for lane, result in zip(self._lanes, results, strict=True):
            if isinstance(result, Exception):
                await self._not_opened(lane, result)
            elif isinstance(result, BaseException):
                raise result

    async def _not_opened(self, lane: _Lane, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        _log.error("audit_not_opened", sink=lane.name, error=problem)
        if self._required:
            await self.close()
            raise AuditUnavailable(f"audit sink {lane.name!r} cannot be opened: {problem}") from error

    async def record(self, records: Sequence[Record]) -> None:
        """Hand over the records of one exchange, also to the metrics.

        Returns at once unless `required`; then it raises AuditUnavailable if a sink did not store all of them, and
        the answer they speak of must not leave.
        """
        if not self._started:
            raise RuntimeError("Observers.start() comes before record()")
        waiting: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        for record in records:
            self._metrics.decision(record)
            item = _Item(record, self._text)
            for lane in self._lanes:
                done = loop.create_future() if self._required else None
                lane.put(item, done)
                if done:
                    waiting.append(done)
        failures = [r for r in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(r, BaseException)]
        if failures:
            raise failures[0]

    async def close(self) -> None:
        """Write what waits, then close the sinks."""
        await asyncio.gather(*(lane.close(self._timeout_s) for lane in self._lanes))
