"""Alerts about the records of this process, without a store that could be read again."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from guardproxy.alerting import Alert, AlertCondition, AlertWindows
from guardproxy.observe.alerts.delivery import MESSAGE_ALERTS, AlertDelivery
from guardproxy.types import Record

_CLOSE_S = 5.0  # how long the alerts that wait are still sent when the process ends

_log = structlog.get_logger("guardproxy.alerts")


class MemoryAlerts:
    """A sink that tells one receiver of the records that it gets. Implements ports.Sink.

    A write never waits for the receiver. At most `limit` alerts wait; further ones are dropped and counted.
    """

    def __init__(self, delivery: AlertDelivery, conditions: Mapping[str, AlertCondition], limit: int) -> None:
        self._delivery = delivery
        self._conditions = conditions
        self._windows = AlertWindows(conditions)
        self._limit = limit
        self._pending: deque[Alert] = deque()
        self._batch: list[Alert] = []
        self._available = asyncio.Event()
        self._dropped = 0
        self._task: asyncio.Task[None] | None = None

    async def write(self, records: Sequence[Record]) -> None:
        """Queue an alert for every condition that a record completes. The first call begins to send."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"alerts {self._delivery.name}")
        for record in records:
            for hit in self._windows.take(record):
                self._put(Alert(hit.condition, self._conditions[hit.condition], hit.turns, hit.group, record))
        if self._windows.forgotten:
            self._delivery.metrics.forgotten(self._delivery.name, self._windows.forgotten)
            self._windows.forgotten = 0

    def _put(self, alert: Alert) -> None:
        if len(self._pending) >= self._limit:
            self._delivery.metrics.dropped(self._delivery.name, "full", 1)
            if not self._dropped:  # one log line when dropping begins and one when it ends
                _log.error("alerts_dropping", receiver=self._delivery.name, waiting=len(self._pending))
            self._dropped += 1
            return
        self._pending.append(alert)
        self._count()
        self._available.set()

    def _count(self) -> None:
        self._delivery.metrics.waiting(self._delivery.name, len(self._pending) + len(self._batch))

    async def _run(self) -> None:
        while True:
            await self._available.wait()
            await asyncio.sleep(self._delivery.wait_s)
            await self._send()

    async def _send(self) -> None:
        if not self._batch:
            self._batch = [self._pending.popleft() for _ in range(min(len(self._pending), MESSAGE_ALERTS))]
        if self._dropped:
            _log.warning("alerts_catching_up", receiver=self._delivery.name, dropped=self._dropped)
            self._dropped = 0
        await self._delivery.deliver(self._batch, len(self._pending))
        self._batch = []
        self._count()
        if not self._pending:
            self._available.clear()

    async def close(self) -> None:
        """Send the alerts that wait, for at most 5 seconds; drop, count and log the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while self._batch or self._pending:  # a message that was being sent is sent again, with its id
                    await self._send()
        if unsent := len(self._batch) + len(self._pending):
            self._delivery.metrics.dropped(self._delivery.name, "closed", unsent)
            _log.error("alerts_lost", receiver=self._delivery.name, alerts=unsent)
        await self._delivery.close()
