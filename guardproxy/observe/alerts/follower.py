"""Alerts about the records of a store: what was stored is told at least once, also after the process was killed."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from guardproxy.alerting import Alert, AlertCondition, AlertWindows, Told, wanted_actions
from guardproxy.observe.alerts.delivery import MESSAGE_ALERTS, AlertDelivery
from guardproxy.types import Record

_POLL_S = 1.0
_HOLD_S = 10.0  # how long another process waits for one that was killed
_READS = 20  # queries for records between two notes

_log = structlog.get_logger("guardproxy.alerts")


class FollowedRecords(Protocol):
    """The records of a store by their numbers, and a place to note what was told (`sinks.database.FollowedStore`)."""

    async def seize(self, receiver: str, holder: str, now: float, until: float) -> Told | None:
        """Hold a receiver until a time; None if another process holds it."""

    async def note(self, receiver: str, holder: str, told: Told, until: float) -> bool:
        """Note how far a receiver has been told; False if another process holds it."""

    async def release(self, receiver: str, holder: str) -> None:
        """Let another process seize the receiver at once."""

    async def behind(self, seq: int, actions: Collection[str] | None) -> tuple[Sequence[tuple[int, Record]], int]:
        """Return the next records behind a number, and the number up to which there are no others."""

    async def numbered(self, numbers: Sequence[int]) -> Mapping[int, Record]:
        """Return the records with these numbers."""


class _Waiting(NamedTuple):
    """An alert as the store keeps it until it is sent: by the number of its record, so that what is erased is gone."""

    condition: str
    seq: int
    turns: int
    group: str


class AlertFollower:
    """Tells one receiver of the records of a store. Of several processes that do so, one at a time is at work.

    What is noted in the store: the number of the last record, the windows of the conditions, the alerts that wait, and
    the message that is being sent. A message is noted before it is sent: after a kill the next process sends the same
    message with the same id again, because it cannot know whether it arrived. What was only read since the last note is
    read again, and comes to the same.

    A receiver that takes nothing holds up reading once `limit` alerts wait for it; the store holds the rest. `holder`
    is a name for this process. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        delivery: AlertDelivery,
        conditions: Mapping[str, AlertCondition],
        store: FollowedRecords,
        limit: int,
        *,
        holder: str,
        clock: Callable[[], float] = time.time,
        hold_s: float = _HOLD_S,
    ) -> None:
        self._delivery = delivery
        self._conditions = conditions
        self._actions = wanted_actions(conditions.values())
        self._store = store
        self._limit = limit
        self._holder = holder
        self._clock = clock
        self._hold_s = hold_s
        self._holds = False
        self._until = 0.0
        self._seq = 0
        self._windows = AlertWindows(conditions)
        self._waiting: list[_Waiting] = []
        self._message: list[_Waiting] = []
        self._changed = False
        self._sending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Tell the receiver of new records, until the task is cancelled. What fails is logged once, and tried again."""
        failing = False
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - whatever fails here, later turns must take place
                if not failing:
                    _log.error("alerts_store_failed", receiver=self._name, error=f"{type(error).__name__}: {error}")
                failing = True
            else:
                failing = False
            await asyncio.sleep(_POLL_S)

    @property
    def _name(self) -> str:
        return self._delivery.name

    async def step(self) -> None:
        """Read what is new, begin to send what waits, and note it; nothing while another process does so."""
        if not self._holds and not await self._seize():
            return
        await self._read()
        await self._send()
        if self._changed or self._clock() > self._until - self._hold_s * 2 / 3:
            await self._note()
        metrics = self._delivery.metrics
        metrics.waiting(self._name, len(self._waiting) + len(self._message) if self._holds else 0)
        if self._windows.forgotten:
            metrics.forgotten(self._name, self._windows.forgotten)
            self._windows.forgotten = 0

    async def _seize(self) -> bool:
        now = self._clock()
        told = await self._store.seize(self._name, self._holder, now, now + self._hold_s)
        if told is None:
            return False
        try:
            state: dict[str, Any] = json.loads(told.state) if told.state else {}
            self._windows = AlertWindows(self._conditions, state.get("windows"))
            self._waiting = self._known(state.get("waiting", ()))
            self._message = self._known(state.get("message", ()))
            self._delivery.sent_at = float(state.get("sent_at", 0.0))
        except (ValueError, TypeError, AttributeError) as error:
            _log.error("alerts_state_unreadable", receiver=self._name, error=f"{type(error).__name__}: {error}")
        self._seq, self._until, self._holds = told.seq, now + self._hold_s, True
        return True

    def _known(self, waiting: Sequence[Any]) -> list[_Waiting]:
        """What was noted, less the conditions that the configuration no longer has."""
        return [one for one in (_Waiting(*values) for values in waiting) if one.condition in self._conditions]

    async def _read(self) -> None:
        for _ in range(_READS):
            if len(self._waiting) >= self._limit:
                return
            found, upto = await self._store.behind(self._seq, self._actions)
            if upto == self._seq:
                return
            self._take(found, upto)

    def _take(self, found: Sequence[tuple[int, Record]], upto: int) -> None:
        for seq, record in found:
            hits = self._windows.take(record)
            self._waiting += [_Waiting(hit.condition, seq, hit.turns, hit.group) for hit in hits]
            self._seq = seq
            if len(self._waiting) >= self._limit:
                return
        self._seq = upto

    async def _send(self) -> None:
        if self._sending is not None:
            if not self._sending.done():
                return
            sent, self._sending = self._sending, None
            sent.result()  # raises what the store raised; the message is then sent again
            self._message = []
            self._changed = True
        if not self._message:
            if not self._waiting or self._delivery.wait_s:
                return
            self._message, self._waiting = self._waiting[:MESSAGE_ALERTS], self._waiting[MESSAGE_ALERTS:]
            self._changed = True
        if self._changed and not await self._note():
            return
        self._sending = asyncio.create_task(self._deliver(), name=f"alerts {self._name}")

    async def _deliver(self) -> None:
        records = await self._store.numbered(sorted({one.seq for one in self._message}))
        alerts = [
            Alert(one.condition, self._conditions[one.condition], one.turns, one.group, records[one.seq])
            for one in self._message
            if one.seq in records
        ]
        if erased := len(self._message) - len(alerts):
            self._delivery.metrics.dropped(self._name, "erased", erased)
        if alerts:
            await self._delivery.deliver(alerts, len(self._waiting))

    async def _note(self) -> bool:
        """Note everything; False, and everything forgotten, if another process has taken over."""
        until = self._clock() + self._hold_s
        state = {
            "windows": self._windows.held(),
            "waiting": self._waiting,
            "message": self._message,
            "sent_at": self._delivery.sent_at,
        }
        told = Told(self._seq, json.dumps(state, separators=(",", ":")))
        if await self._store.note(self._name, self._holder, told, until):
            self._until, self._changed = until, False
            return True
        _log.warning("alerts_taken_over", receiver=self._name)
        await self._stop_sending()
        self._holds = self._changed = False
        return False

    async def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait({self._sending})
            self._sending = None

    async def close(self) -> None:
        """Note what was sent, and let another process take over. What is being sent is sent again by the next one."""
        done = self._sending is not None and self._sending.done() and not self._sending.exception()
        await self._stop_sending()
        try:
            if self._holds:
                self._message = [] if done else self._message
                if await self._note():
                    await self._store.release(self._name, self._holder)
        except Exception as error:  # noqa: BLE001 - the process ends; the next one takes over after `hold_s`
            _log.error("alerts_store_failed", receiver=self._name, error=f"{type(error).__name__}: {error}")
        await self._delivery.close()
