"""Alerts: which records somebody is told about. Pure: every time is that of a record."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from annotated_types import Interval, Len

from guardproxy.types import ActionName, Cause, Record, Side

AlertGroup = Literal["client", "user", "session", "route", "policy"]
"""What the records that are counted have in common."""

# An alert that is not about a record of its own has this condition: `guardproxy alerts test`.
TEST: Final = "guardproxy alerts test"
_UNSAFE: Final = "unsafe"
_LATE_S: Final = 60  # for how long a window is remembered when it is over, for records that are written late
_MOST_TIMES: Final = 20_000  # the most records that the windows of all conditions remember together

_Name = Annotated[str, Len(1)]
_Names = _Name | Annotated[tuple[_Name, ...], Len(1)] | None


@dataclass(frozen=True, slots=True)
class AlertCondition:
    """Which records an alert is about. A record must fit every option that is given.

    This is also the shape of `alerts.conditions.NAME` in a configuration file.
    """

    action: ActionName | Annotated[tuple[ActionName, ...], Len(1)] | None = None
    """The decision, or a list of decisions: `pass`, `flag`, `rewrite`, `block`."""
    category: _Names = None
    """A category, or a list, of which one has reached a threshold, or `score`; `unsafe` is P(unsafe)."""
    score: Annotated[float, Interval(ge=0, le=1)] | None = None
    """The least probability of one of the categories; without `category`, of P(unsafe)."""
    cause: Cause | Annotated[tuple[Cause, ...], Len(1)] | None = None
    """Why it was decided so: `verdict`, `guard_error`, `overload`, `opaque`, `language`; or a list."""
    side: Side | None = None
    """`user` or `assistant`; without it, both."""
    route: _Names = None
    """The name of a route, or a list; `default` is that of requests that no route matches."""
    policy: _Names = None
    """The name of a policy, or a list."""
    client: _Names = None
    """The name of a client, or a list; without `clients`, the first 16 hex digits of the SHA-256 of its key."""
    shadow: bool = False
    """Whether it is about decisions of shadow policies, and not about those that act."""
    count: Annotated[int, Interval(ge=1, le=1000)] = 1
    """How many such records make an alert; they are then counted anew."""
    within_s: Annotated[float, Interval(gt=0, le=86_400)] | None = None
    """Within how many seconds, by the times of the records."""
    per: AlertGroup | None = None
    """Count the records of each of these by itself; without it, all together."""

    def holds(self, record: Record) -> bool:
        """Whether a record fits, whatever else happened."""
        origin, decision = record.origin, record.decision
        return (
            record.shadow == self.shadow
            and _is_one(self.action, decision.action)
            and _is_one(self.cause, decision.cause)
            and _is_one(self.side, record.side)
            and _is_one(self.route, origin.route)
            and _is_one(self.policy, record.policy)
            and (self.client is None or not {*listed(self.client)}.isdisjoint(origin.client.split(",")))
            and self._is_scored(record)
        )

    def _is_scored(self, record: Record) -> bool:
        if self.score is None:
            return self.category is None or not {*listed(self.category)}.isdisjoint(record.decision.categories)
        if record.verdict is None:
            return False
        names = {*listed(self.category)} or {_UNSAFE}
        reached = record.verdict.unsafe if _UNSAFE in names else 0.0
        found = [finding.probability for finding in record.verdict.findings if finding.category in names]
        return max([reached, *found]) >= self.score

    def group_of(self, record: Record) -> str:
        """The value of `per` in a record, empty without `per`, and if the record has none."""
        if self.per is None:
            return ""
        value: str = record.policy if self.per == "policy" else getattr(record.origin, self.per)
        return value


def listed(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The names that an option of a condition lists, one or several."""
    return (value,) if isinstance(value, str) else value or ()


def _is_one(wanted: str | tuple[str, ...] | None, value: str) -> bool:
    return wanted is None or value in listed(wanted)


def wanted_actions(conditions: Iterable[AlertCondition]) -> tuple[ActionName, ...] | None:
    """The only decisions that fit one of the conditions; None if a decision of any kind may."""
    actions: set[ActionName] = set()
    for condition in conditions:
        if condition.action is None:
            return None
        actions.update((condition.action,) if isinstance(condition.action, str) else condition.action)
    return tuple(sorted(actions))


class AlertHit(NamedTuple):
    """A condition that a record has completed, with the number of turns and what they have in common (`per`)."""

    condition: str
    turns: int
    group: str


HeldTimes = Mapping[str, Mapping[str, Collection[float]]]
"""The times of the records in the windows, in seconds since 1970, by condition and group."""


class AlertWindows:
    """Says of each record which conditions it completes; remembers those that count towards a `count`.

    `held` is what `held()` of an earlier object returned. Of records that are written out of the order of their times,
    those older than a window do not count. Together, the windows remember 20,000 records: of more, the group without
    a record for the longest time is forgotten, and its records added to `forgotten`.
    """

    def __init__(self, conditions: Mapping[str, AlertCondition], held: HeldTimes | None = None) -> None:
        self._conditions = conditions
        self._windows: dict[str, dict[str, list[float]]] = {
            name: {group: [*times] for group, times in (held or {}).get(name, {}).items()}
            for name, condition in conditions.items()
            if condition.count > 1
        }
        self._times = sum(len(times) for groups in self._windows.values() for times in groups.values())
        self.forgotten = 0

    def take(self, record: Record) -> list[AlertHit]:
        """Count a record; return the conditions that it completes."""
        hits = []
        for name, condition in self._conditions.items():
            if not condition.holds(record):
                continue
            group = condition.group_of(record)
            if condition.count == 1 or self._is_full(name, condition, group, record.time):
                hits.append(AlertHit(name, condition.count, group))
        return hits

    def _is_full(self, name: str, condition: AlertCondition, group: str, time: float) -> bool:
        windows, within_s = self._windows[name], condition.within_s or 0.0
        times = windows.pop(group, [])
        self._times -= len(times)
        newest = max([time, *times])
        times = [one for one in [*times, time] if one > newest - within_s]
        if len(times) >= condition.count:
            return True  # what is counted anew begins without these
        windows[group] = times  # behind the others: the first group is the one without a record for the longest time
        self._times += len(times)
        self._forget(windows, newest - within_s - _LATE_S)
        return False

    def _forget(self, windows: dict[str, list[float]], before: float) -> None:
        """Drop the groups whose windows are over, and others if there are too many."""
        while windows and max(next(iter(windows.values()))) <= before:
            self._times -= len(windows.pop(next(iter(windows))))
        while self._times > _MOST_TIMES:
            largest = max(self._windows.values(), key=len)
            dropped = largest.pop(next(iter(largest)))
            self._times -= len(dropped)
            self.forgotten += len(dropped)

    def held(self) -> HeldTimes:
        """The records that count towards a later alert."""
        return {name: groups for name, groups in self._windows.items() if groups}


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that held, with the record that completed it.

    `count` is how many turns made the alert, `group` what these have in common.
    """

    name: str
    condition: AlertCondition
    count: int
    group: str
    record: Record

    @property
    def id(self) -> str:
        """The same for the same condition and record, whoever makes the alert and how often: 24 hex digits."""
        return hashlib.sha256(f"{self.name}\n{self.record.id}".encode("utf-8", "backslashreplace")).hexdigest()[:24]

    @property
    def title(self) -> str:
        """What happened, in a line without words of a client."""
        if self.name == TEST:
            return "guardproxy: a test alert"
        decision = self.record.decision
        about = f"{decision.action} on the {self.record.side}'s side"
        categories = f" for {', '.join(decision.categories)}" if decision.categories else ""
        cause = f" ({decision.cause})" if decision.cause != "verdict" else ""
        if self.count == 1:
            return f"guardproxy: {self.name}: {about}{categories}{cause}"
        per = f" of one {self.condition.per}" if self.condition.per else ""
        within = f"{self.condition.within_s:g} s"
        return f"guardproxy: {self.name}: {self.count} turns{per} within {within}; the last: {about}{categories}{cause}"


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """What one receiver gets at once: at least one alert. `time` is when the message was made, in seconds since 1970.

    `waiting` is how many further alerts wait for the next message.
    """

    alerts: tuple[Alert, ...]
    time: float
    waiting: int = 0

    @property
    def id(self) -> str:
        """The same for the same alerts: 24 hex digits."""
        ids = "\n".join(alert.id for alert in self.alerts)
        return hashlib.sha256(ids.encode()).hexdigest()[:24]


class Told(NamedTuple):
    """How far a receiver has been told: the records up to the number `seq` of the store are in `state`."""

    seq: int
    state: str
