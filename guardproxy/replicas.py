"""Which replica of a guard judges a check, and when a second one is asked as well. Pure: no clock, no I/O.

Times are seconds of any clock that only goes forward; callers pass them as `now`.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from guardproxy.upstreams import Health, UpstreamState

# `unknown`: it has not said yet what it is, or not again since it was lost. `other`: it is another guard than the rest.
ReplicaState = Literal["unknown", "other"] | UpstreamState

# The latest durations from which the 95th percentile is taken, and how many there must be.
_DURATIONS: Final = 256
_ENOUGH: Final = 32
# Every so many new durations, the percentile is computed again.
_EVERY: Final = 16
# At most this share of the checks is asked twice, so that replicas that are slow with work do not get twice the work.
_SHARE: Final = 0.1


@dataclass(slots=True)
class Standing:
    """What is known of one replica: the calls that are `open`, its health, and whether it is one of the guard's.

    `known`: it has said what it is since it was last lost. `other`: that was another guard, so it is never asked.
    """

    health: Health
    open: int = 0
    known: bool = False
    other: bool = False

    def state(self, now: float) -> ReplicaState:
        """The state at a time, as operators see it."""
        if self.other:
            return "other"
        state = self.health.state(now)
        return "unknown" if state == "up" and not self.known else state

    def usable(self, now: float) -> bool:
        """Whether a check should go here."""
        return self.known and not self.other and self.health.state(now) == "up"


def in_order(
    replicas: Mapping[str, Standing], now: float, draw: Callable[[], float], stream: str | None = None
) -> tuple[str, ...]:
    """The replicas in the order in which a check asks them.

    1. The usable ones: those with the fewest open calls first, equal ones at random. The checks of a `stream` have an
       order of its own instead, always the same, so that they find the work on their common text where it was done.
    2. Those that are not usable, the soonest first: a check is rather asked in vain than not at all.

    Replicas that are another guard are left out.
    """
    usable = [name for name, one in replicas.items() if one.usable(now)]
    if len(usable) > 1:
        if stream is None:
            usable.sort(key=lambda name: (replicas[name].open, draw()))
        else:
            usable = affine(usable, stream)
    if len(usable) == len(replicas):
        return tuple(usable)
    others = [name for name, one in replicas.items() if name not in usable and not one.other]
    return (*usable, *sorted(others, key=lambda name: replicas[name].health.usable_at()))


def affine(names: Collection[str], stream: str) -> list[str]:
    """The order of names for a stream: without one of them, that of the others is the same.

    Each name has a random weight for each stream (rendezvous hashing, Thaler and Ravishankar 1998).
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{name}\n{stream}".encode()).digest())


def next_of(order: Collection[str], asked: Collection[str]) -> str | None:
    """The replica that is asked next, after those that were `asked` in vain: each once before any of them again."""
    waiting = [name for name in order if name not in asked]
    if waiting:
        return waiting[0]
    again = list(asked)
    return min(order, key=lambda name: (again.count(name), list(order).index(name)), default=None)


class Hedging:
    """When a check is asked a second time, of another replica: after the 95th percentile of the latest durations."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_DURATIONS)
        self._new = 0
        self._percentile: float | None = None
        self._credit = 0.0

    def begin(self) -> float | None:
        """Seconds after which a check that begins now is asked again; None for never."""
        self._credit = min(self._credit + _SHARE, 1 / _SHARE)
        return self._percentile if self._credit >= 1 else None

    def hedged(self) -> None:
        """Count a check that is asked a second time."""
        self._credit -= 1

    def ended(self, seconds: float) -> None:
        """Count a check that was judged within these seconds."""
        self._durations.append(seconds)
        self._new += 1
        if self._new >= _EVERY and len(self._durations) >= _ENOUGH:
            self._new = 0
            ranked = sorted(self._durations)
            self._percentile = ranked[len(ranked) * 95 // 100]
