"""What the tests of alerts share: a receiver in memory, and waits that take no time."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from prometheus_client import CollectorRegistry
from tenacity import wait_none

from guardproxy.alerting import AlertCondition, AlertMessage
from guardproxy.observe import Metrics
from guardproxy.observe.alerts import AlertDelivery, NotTaken

CONDITIONS = {
    "blocked": AlertCondition(action="block"),
    "many": AlertCondition(action="block", count=3, within_s=300, per="client"),
}


Arguments = ParamSpec("Arguments")


def in_loop(test: Callable[Arguments, Coroutine[Any, Any, None]]) -> Callable[Arguments, None]:
    """A test that runs in an event loop of its own."""

    @wraps(test)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> None:
        asyncio.run(test(*args, **options))

    return run


class Clock:
    """A clock that the test sets, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 5_000_000.0

    def __call__(self) -> float:
        return self.now


class MemoryReceiver:
    """Keeps the messages; `answers` are what it raises next, or None. It answers nothing while `stuck`."""

    def __init__(self) -> None:
        self.place = "memory"
        self.messages: list[AlertMessage] = []
        self.answers: list[NotTaken | None] = []
        self.tried = 0
        self.closed = False
        self._free = asyncio.Event()
        self._free.set()

    async def send(self, message: AlertMessage) -> str:
        self.tried += 1
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        await self._free.wait()
        self.messages.append(message)
        return "kept"

    async def close(self) -> None:
        self.closed = True

    @property
    def stuck(self) -> bool:
        """Whether it answers nothing."""
        return not self._free.is_set()

    @stuck.setter
    def stuck(self, value: bool) -> None:
        (self._free.clear if value else self._free.set)()

    @property
    def ids(self) -> list[str]:
        """The ids of the alerts that it has, in their order."""
        return [alert.id for message in self.messages for alert in message.alerts]


def delivery(receiver: MemoryReceiver, clock: Clock, *, every_s: float = 0.0) -> tuple[AlertDelivery, Metrics]:
    """A delivery without waits between attempts."""
    metrics = Metrics(CollectorRegistry())
    return AlertDelivery("ops", receiver, metrics.alerts, every_s=every_s, clock=clock, backoff=wait_none()), metrics


def counted(metrics: Metrics, name: str) -> float:
    """A series of the receiver `ops`: `sent_total`, `dropped_total{reason="full",`."""
    name, _, labels = name.partition("{")
    line = f'guardproxy_alerts_{name}{{{labels}receiver="ops"}} '
    (found,) = [row for row in metrics.render()[1].decode().splitlines() if row.startswith(line)]
    return float(found.removeprefix(line))
