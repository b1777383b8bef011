"""Which upstream gets a request, and what may be repeated: weights, ejection and probes. Pure: no clock, no I/O.

Times are seconds of any clock that only goes forward; callers pass them as `now`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal, NamedTuple

from guardproxy.frozen import frozen

# How a call to an upstream ended, from what certainly had no effect to what may have had one:
# `unsent`: no connection came about, so nothing was sent; `declined`: the upstream says that it did not begin;
# `failed`: it says that it failed; `unknown`: it fell silent or broke off, so it may still work on the request.
Ending = Literal["answered", "unsent", "declined", "failed", "unknown"]
# The last of these endings after which a request is repeated; `unknown` repeats what may have been acted on.
RepeatAfter = Literal["unsent", "declined", "failed", "unknown"]
UpstreamState = Literal["up", "limited", "down", "probing"]
HealthChange = Literal["ejected", "recovered"]

_ORDER: Final = ("unsent", "declined", "failed", "unknown")
_LIMITED: Final = 429
# 503 is "unable to handle the request", 529 is Anthropic's for the same.
_DECLINED: Final = frozenset({_LIMITED, 503, 529})
# Gateways say with these that the server behind them is late: it may still work on the request. 524 is Cloudflare's.
_LATE: Final = frozenset({504, 524})


def ending_of(status: int) -> Ending:
    """How a call ended that was answered with this HTTP status."""
    if status in _DECLINED:
        return "declined"
    if status < 500:
        return "answered"
    return "unknown" if status in _LATE else "failed"


def may_repeat(ending: Ending, after: RepeatAfter) -> bool:
    """Whether a request whose call ended so is repeated; never once the upstream has answered it."""
    return ending != "answered" and _ORDER.index(ending) <= _ORDER.index(after)


@frozen
class Ejection:
    """When an upstream is no longer chosen: after `failures` in a row, first for `first_s` seconds.

    Then one request is a probe. If it fails, the upstream is ejected for twice as long, at most for `longest_s`.
    """

    failures: int = 5
    first_s: float = 10.0
    longest_s: float = 300.0


class Permit(NamedTuple):
    """A call that has begun. `epoch` is the number of ejections before it; `probe`: whether it decides the next one."""

    epoch: int
    probe: bool


class Health:
    """What the calls to one server have shown: an upstream, or a replica of a guard.

    It is `up` until too many calls in a row have failed, then `down`, then `probing` until one call has shown that it
    is up again. `limited`: it asked for a pause with 429. A call may begin in every state: `ranked` puts the upstreams
    that are not usable behind the others. Every `begin` needs its `end`, also for a call that was given up.
    """

    def __init__(self, ejection: Ejection) -> None:
        self._ejection = ejection
        self._failures = 0  # in a row
        self._epoch = 0  # ejections so far: calls that began before the latest one say nothing new
        self._for_s = 0.0  # how long the latest ejection lasts; 0 while the upstream is up
        self._until = -math.inf  # the end of the ejection
        self._limited_until = -math.inf
        self._has_probe = False

    def state(self, now: float) -> UpstreamState:
        """The state at a time."""
        if self._for_s:
            return "down" if now < self._until else "probing"
        return "limited" if now < self._limited_until else "up"

    def usable(self, now: float) -> bool:
        """Whether a request should go here: the upstream is up, or a probe is due."""
        state = self.state(now)
        return state == "up" or (state == "probing" and not self._has_probe)

    def usable_at(self) -> float:
        """The time from which on the upstream is usable, as far as it is known."""
        return self._until if self._for_s else self._limited_until

    def begin(self, now: float) -> Permit:
        """Begin a call."""
        probe = self.state(now) == "probing" and not self._has_probe
        self._has_probe = self._has_probe or probe
        return Permit(self._epoch, probe)

    def end(
        self, permit: Permit, ending: Ending | None, now: float, *, limited_s: float | None = None
    ) -> HealthChange | None:
        """End a call; return what that changes.

        An `ending` of None says nothing of the upstream: the client has left. `limited_s`: the upstream is at its limit
        for so many seconds, which is no failure; with None, a call that was declined counts as one.
        """
        if permit.epoch != self._epoch:
            return None
        if permit.probe:
            self._has_probe = False
        if ending is None:
            return None
        if ending == "answered" or limited_s is not None:
            was_ejected = bool(self._for_s)
            self._failures, self._for_s = 0, 0.0
            if limited_s:
                self._limited_until = max(self._limited_until, now + min(limited_s, self._ejection.longest_s))
            return "recovered" if was_ejected else None
        return self._failed(permit, now)

    def _failed(self, permit: Permit, now: float) -> HealthChange | None:
        if self._for_s and not permit.probe:
            return None
        self._failures += 1
        if not permit.probe and self._failures < self._ejection.failures:
            return None
        longer = 2 * self._for_s if self._for_s else self._ejection.first_s
        self._for_s = min(longer, self._ejection.longest_s)
        self._until = now + self._for_s
        self._epoch += 1
        self._has_probe = False
        return "ejected"


def ranked(
    weights: Mapping[str, float], health: Mapping[str, Health], now: float, draw: Callable[[], float]
) -> tuple[str, ...]:
    """The upstreams in `weights` in the order in which a request tries them; `draw` gives numbers in [0, 1).

    1. The usable ones at random: the first one is each with a probability in proportion to its weight.
    2. The usable ones with weight 0, in their order.
    3. The others, those first that become usable first: a request is rather tried in vain than refused.
    """
    usable = [name for name in weights if health[name].usable(now)]
    others = sorted((name for name in weights if name not in usable), key=lambda name: health[name].usable_at())
    # The order of exponential times with these rates (Efraimidis and Spirakis 2006).
    times = {name: -math.log(1.0 - draw()) / weights[name] for name in usable if weights[name]}
    spare = [name for name in usable if name not in times]
    return (*sorted(times, key=times.__getitem__), *spare, *others)


def model_at(models: Iterable[tuple[str, str]], name: str) -> str | None:
    """The name of a model at an upstream: that of the first pattern (a shell glob) that matches; None if none does."""
    return next((own for pattern, own in models if fnmatchcase(name, pattern)), None)
