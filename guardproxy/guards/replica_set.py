"""The replicas of a guard: what each of them is, whether it can be asked, and what its calls have shown.

What they are is compared at the start, whenever one comes back, and with every verdict: none of another model counts.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from guardproxy.errors import ConfigError
from guardproxy.guards.links import GuardIdentity, ReplicaFailed, ReplicaLink
from guardproxy.observe.replica_metrics import ReplicaCounts, ReplicaReport
from guardproxy.replicas import ReplicaState, Standing
from guardproxy.types import Taxonomy
from guardproxy.upstreams import Ejection, Ending, Health, HealthChange, Permit

log = structlog.get_logger("guardproxy.guard")

# The least seconds between two questions to a replica what it is.
_LEAST_PAUSE_S: Final = 0.25


@dataclass(slots=True, eq=False)
class Replica:
    """A replica: its link, its standing, the time limits of its open calls, and what wakes the task that watches it."""

    link: ReplicaLink
    standing: Standing
    limits: set[asyncio.Timeout] = field(default_factory=set)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    counts: ReplicaCounts = field(default_factory=ReplicaCounts)
    told: str = ""

    def doubt(self) -> None:
        """Ask it soon what it is: it may have been restarted as something else."""
        self.standing.known = False
        self.doubted.set()

    def give_up(self) -> None:
        """End its open calls, so that other replicas are asked."""
        now = asyncio.get_running_loop().time()
        for limit in self.limits:
            if not limit.expired():
                limit.reschedule(now)


class ReplicaSet:
    """The replicas of the guard `name`. Use it from one event loop.

    They must judge by `taxonomy`, and read categories from `floor` on or below it. Every `check_every_s` seconds each
    is asked what it is; the first answer of each is waited for `start_s` seconds at most (None: for ever).
    """

    def __init__(
        self,
        name: str,
        taxonomy: Taxonomy,
        links: Sequence[ReplicaLink],
        *,
        floor: float = 0.0,
        ejection: Ejection,
        check_every_s: float,
        start_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.by_name = {link.name: Replica(link, Standing(Health(ejection))) for link in links}
        self.standings = {name: one.standing for name, one in self.by_name.items()}
        self.clock = clock
        self._guard = name
        self._taxonomy = f"{taxonomy.id}@{taxonomy.version}"
        self._floor = floor
        self._check_every_s = check_every_s
        self._start_s = start_s
        self.identity: GuardIdentity | None = None
        """What all replicas are, as soon as one has said it."""
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Ask every replica what it is. Raises ConfigError if one is another guard than the configuration or the rest.

        A replica that is down does not prevent the start: it is used when it is back.
        """
        found = await asyncio.gather(*(self._started(one) for one in self.by_name.values()))
        if problems := [problem for problem in found if problem]:
            raise ConfigError(problems)
        self._watching = [asyncio.create_task(self._watch(one), name="replica") for one in self.by_name.values()]

    async def close(self) -> None:
        """End all calls and close the connections."""
        watching, self._watching = self._watching, []
        for task in watching:
            task.cancel()
        if watching:
            await asyncio.wait(watching)
        for one in self.by_name.values():
            one.give_up()
            await one.link.close()

    async def _started(self, one: Replica) -> str:
        """Why a replica cannot be one of this guard's; empty otherwise, also if it is down."""
        try:
            async with asyncio.timeout(self._start_s):
                identity = await one.link.identity()
        except ConfigError as error:
            return str(error)
        except (ReplicaFailed, TimeoutError) as failure:
            log.warning("replica_down", guard=self._guard, replica=one.link.name, reason=str(failure) or "no answer")
            return ""
        return self._accepted(one, identity)

    # --- what a replica is -----------------------------------------------------------------------------------------

    async def ensure_known(self, one: Replica) -> None:
        """Ask a replica what it is, unless that is known. Raises ReplicaFailed if it is another guard."""
        if not one.standing.known and (problem := self._accepted(one, await _said(one.link))):
            raise ReplicaFailed("failed", problem)

    def check_version(self, version: str) -> None:
        """Raise ReplicaFailed if a verdict was not given by this guard."""
        if self.identity is None or version != self.identity.version:
            raise ReplicaFailed("failed", f"the verdict is of another guard, version {version}")

    def _accepted(self, one: Replica, identity: GuardIdentity) -> str:
        """Use a replica if it is one of this guard's; otherwise say why not."""
        problem = self._difference(one.link.name, identity)
        one.standing.other, one.standing.known = bool(problem), not problem
        if not problem and self.identity is None:
            self.identity = identity
        if problem and problem != one.told:
            log.error("replica_is_another_guard", guard=self._guard, replica=one.link.name, reason=problem)
        one.told = problem
        return problem

    def _difference(self, name: str, identity: GuardIdentity) -> str:
        if identity.taxonomy != self._taxonomy:
            return (
                f"the replica {name} judges by the taxonomy {identity.taxonomy}, but the configuration's guard "
                f"{self._guard!r} by {self._taxonomy}; give both the same family, options and taxonomy"
            )
        if identity.floor > self._floor:
            return (
                f"the replica {name} reads categories only of texts whose P(unsafe) is {identity.floor:g} or more, and "
                f"a threshold here is {self._floor:g}; lower the thresholds of its own file"
            )
        known = self.identity
        if known is not None and (identity.name, identity.version) != (known.name, known.version):
            return (
                f"the replica {name} runs {identity.name}, version {identity.version}, and the others {known.name}, "
                f"version {known.version}; run the same guardproxy, model files, dtype and options everywhere"
            )
        return ""

    # --- whether it can be asked -----------------------------------------------------------------------------------

    async def _watch(self, one: Replica) -> None:
        """Ask a replica again and again what it is: one that does not answer is ejected."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_every_s):
                    await one.doubted.wait()
            one.doubted.clear()
            if one.standing.health.state(self.clock()) != "down":
                await self._ask(one)
            await asyncio.sleep(min(_LEAST_PAUSE_S, self._check_every_s))

    async def _ask(self, one: Replica) -> None:
        permit = one.standing.health.begin(self.clock())
        was_known = one.standing.known
        ending: Ending | None = None
        try:
            async with asyncio.timeout(self._check_every_s):
                identity = await _said(one.link)
            self._accepted(one, identity)
            # Answers to this question do not make up for checks that fail.
            ending = None if was_known and not permit.probe else "answered"
        except TimeoutError:
            ending = "unknown"
        except ReplicaFailed as failure:
            one.standing.known = False
            # One that says that it is not ready is asked again soon: it may be loading its model.
            ending = failure.ending if failure.ending != "declined" else None
        finally:
            if ending not in (None, "answered"):
                one.standing.known = False
            if self.ended(one, permit, ending) == "ejected":
                one.give_up()

    def ended(self, one: Replica, permit: Permit, ending: Ending | None) -> HealthChange | None:
        """Note how a call of a replica ended, None if it was given up; return what that changes."""
        now = self.clock()
        change = one.standing.health.end(permit, ending, now)
        if change == "ejected":
            one.counts.ejections += 1
            for_s = round(one.standing.health.usable_at() - now, 1)
            tell = log.debug if permit.probe else log.warning  # it is told once, and not with every trial
            tell("replica_ejected", guard=self._guard, replica=one.link.name, for_s=for_s)
            one.standing.known = False
        elif change == "recovered":
            log.info("replica_recovered", guard=self._guard, replica=one.link.name)
        return change

    def any_usable(self, without: Sequence[str]) -> bool:
        """Whether a replica is usable that is not among those."""
        now = self.clock()
        return any(one.usable(now) for name, one in self.standings.items() if name not in without)

    def states(self) -> dict[str, ReplicaState]:
        """The state of every replica by its name."""
        now = self.clock()
        return {name: one.state(now) for name, one in self.standings.items()}

    def report(self) -> ReplicaReport:
        """Whether every replica is in use, and its counts, by its name."""
        now = self.clock()
        return {name: (one.standing.usable(now), one.counts) for name, one in self.by_name.items()}

    def facts(self) -> dict[str, dict[str, str | int]]:
        """What every replica was found to be able to do, by its name, of those of which it had to be found out."""
        return {name: facts for name, one in self.by_name.items() if (facts := one.link.facts())}


async def _said(link: ReplicaLink) -> GuardIdentity:
    """What a replica says that it is. Raises ReplicaFailed, also if it can never judge for the guard."""
    try:
        return await link.identity()
    except ConfigError as error:
        raise ReplicaFailed("failed", str(error)) from error
