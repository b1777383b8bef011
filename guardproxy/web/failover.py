"""The upstreams of the proxy: which one a request goes to, and what happens if its call fails."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from guardproxy.errors import ConfigError, GuardproxyError, UpstreamUnavailable
from guardproxy.frozen import frozen
from guardproxy.observe import UpstreamMetrics
from guardproxy.upstreams import Health, Permit, RepeatAfter, UpstreamState, may_repeat, ranked
from guardproxy.web.answers import check_framing
from guardproxy.web.transport import drop
from guardproxy.web.upstream import Attempt, Outgoing, Upstream, UpstreamResponse
from guardproxy.wires import protocol_of

log = structlog.get_logger("guardproxy.upstream")

DEFAULT: Final = "default"


class NotServed(GuardproxyError):
    """No upstream of the request's route speaks its protocol."""

    status = 404
    code = "protocol_not_served"


@frozen
class UpstreamGroup:
    """Upstreams that stand in for each other: a request is sent to at most `attempts` of them, each once.

    It goes to the next one after every ending up to `after`. Nothing is repeated once the client has a byte of it.
    """

    members: tuple[str, ...]
    attempts: int = 3
    after: RepeatAfter = "failed"


class UpstreamPlan(NamedTuple):
    """The upstreams for a request, in the order in which they are tried; `group` is None for a single one."""

    upstreams: tuple[Upstream, ...]
    group: UpstreamGroup | None = None

    @property
    def url(self) -> str:
        """The address of the first one."""
        return self.upstreams[0].url

    def only(self, name: str) -> "UpstreamPlan":
        """The plan with the upstream of this name alone; as it is if it has none."""
        there = tuple(upstream for upstream in self.upstreams if upstream.name == name)
        return UpstreamPlan(there, self.group) if there else self


class Upstreams:
    """Every upstream and group of the proxy by name. Requests whose route names none go to `default`.

    The health of an upstream is common to all its groups. `clock` counts seconds, `random` draws by weight. Raises
    ConfigError without `default`.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        groups: Mapping[str, UpstreamGroup] | None = None,
        *,
        metrics: UpstreamMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._groups = dict(groups or {})
        if DEFAULT not in self._upstreams and DEFAULT not in self._groups:
            raise ConfigError("no upstream or group is called default; requests whose route names none need it")
        self._health = {upstream.name: Health(upstream.ejection) for upstream in upstreams}
        self._plans = {name: UpstreamPlan((upstream,)) for name, upstream in self._upstreams.items()}
        self._metrics = metrics or UpstreamMetrics(CollectorRegistry())
        self._metrics.follow(tuple(self._upstreams), self.states)
        self._clock = clock
        self._draw = (random or Random()).random

    def states(self) -> dict[str, UpstreamState]:
        """The state of every upstream by its name."""
        now = self._clock()
        return {name: health.state(now) for name, health in self._health.items()}

    async def aclose(self) -> None:
        """Close all connections."""
        for upstream in self._upstreams.values():
            await upstream.aclose()

    # --- choose ----------------------------------------------------------------------------------------------------

    def plan(self, target: str, wire: str) -> UpstreamPlan:
        """Choose for a request of this protocol; `target` is an upstream or a group, empty for `default`.

        Raises NotServed if none of them speaks the protocol.
        """
        target = target or DEFAULT
        only = self._plans.get(target)
        if only is not None and not only.upstreams[0].protocols:
            return only
        return self._plan(target, lambda upstream: not upstream.protocols or wire in upstream.protocols)

    def plan_unread(self, target: str, path: str) -> UpstreamPlan:
        """Choose for a request that no wire reads: OpenAI's wires share paths such as `/v1/models`."""
        maker = protocol_of(path).partition("_")[0]
        return self._plan(
            target or DEFAULT,
            lambda upstream: not upstream.protocols or any(name.startswith(maker) for name in upstream.protocols),
        )

    def _plan(self, target: str, serves: Callable[[Upstream], bool]) -> UpstreamPlan:
        group = self._groups.get(target)
        members = [self._upstreams[name] for name in (group.members if group else (target,))]
        weights = {upstream.name: upstream.weight for upstream in members if serves(upstream)}
        if not weights:
            raise NotServed(f"the upstream {target} does not serve this protocol; the operator can add one that does")
        if group is None:
            return self._plans[target]
        order = ranked(weights, self._health, self._clock(), self._draw)
        return UpstreamPlan(tuple(self._upstreams[name] for name in order), group)

    # --- send ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def send(self, plan: UpstreamPlan, outgoing: Outgoing) -> AsyncIterator[UpstreamResponse]:
        """The answer to a request. Leaving the context drops the part of the body that was not read.

        Raises UpstreamUnavailable if there is no answer, UpstreamTimeout if it is late, UpstreamUnreadable if its HTTP
        is malformed.
        """
        began = time.perf_counter()
        upstreams = plan.upstreams if plan.group is None else self._in_order(plan.upstreams, plan.group)
        upstream = upstreams[0]
        attempt = await self._call(upstream, outgoing)
        repeated = False
        if attempt.ending != "answered":
            sending = _Sending(self._call, outgoing, upstream, attempt)
            if plan.group is None:
                await sending.retry()
            else:
                await sending.fail_over(upstreams[1:], plan.group.after, self._metrics)
            upstream, attempt, repeated = sending.upstream, sending.attempt, sending.reached > 1
        try:
            if attempt.response is None:
                raise attempt.error or UpstreamUnavailable("no answer")
            waited_s = time.perf_counter() - began
            response = UpstreamResponse(attempt.response, upstream, waited_s, repeated=repeated)
            check_framing(response.status, response.headers)
            yield response
        except UpstreamUnavailable as error:
            error.repeated = repeated
            raise
        finally:
            if attempt.response is not None:
                await drop(attempt.response)

    def _in_order(self, upstreams: Sequence[Upstream], group: UpstreamGroup) -> Sequence[Upstream]:
        """Those that are tried, with the usable ones first: that may have changed while the request was judged."""
        now = self._clock()
        order = sorted(upstreams, key=lambda upstream: not self._health[upstream.name].usable(now))
        return order[: group.attempts]

    async def _call(self, upstream: Upstream, outgoing: Outgoing) -> Attempt:
        """Call an upstream once, and note what that says of it."""
        health = self._health[upstream.name]
        permit = health.begin(self._clock())
        attempt: Attempt | None = None
        try:
            attempt = await upstream.call(outgoing)
        finally:
            self._note(
                upstream, health, permit, attempt, shared=upstream.is_shared and upstream.name not in outgoing.keys
            )
        return attempt

    def _note(
        self, upstream: Upstream, health: Health, permit: Permit, attempt: Attempt | None, *, shared: bool
    ) -> None:
        now = self._clock()
        status = attempt.response.status_code if attempt is not None and attempt.response is not None else 0
        limited_s = None
        if attempt is not None and status == 429:
            # At the limit of the client's own key, the upstream is not at its limit for others.
            limited_s = attempt.wait_s if shared else 0.0
        change = health.end(permit, attempt.ending if attempt is not None else None, now, limited_s=limited_s)
        if change == "ejected":
            log.warning("upstream_ejected", upstream=upstream.name, for_s=round(health.usable_at() - now, 1))
            self._metrics.ejected(upstream.name)
        elif change == "recovered":
            log.info("upstream_recovered", upstream=upstream.name)
        if attempt is not None:
            self._metrics.called(upstream.name, status or attempt.ending)


class _Sending:
    """A request whose first call has failed: its latest call, and how many of its calls have `reached` an upstream."""

    def __init__(
        self,
        call: Callable[[Upstream, Outgoing], Awaitable[Attempt]],
        outgoing: Outgoing,
        upstream: Upstream,
        first: Attempt,
    ) -> None:
        self.upstream = upstream
        self.attempt = first
        self.reached = int(first.ending != "unsent")
        self._call = call
        self._outgoing = outgoing

    async def fail_over(self, others: Sequence[Upstream], after: RepeatAfter, metrics: UpstreamMetrics) -> None:
        """Call the others, one after another, until one answers or no more may be called."""
        for other in others:
            if not may_repeat(self.attempt.ending, after):
                return
            await self._give_up("upstream_failover")
            metrics.failed_over(self.upstream.name)
            await self._call_again(other)

    async def retry(self) -> None:
        """Call the same upstream again, as its retries say. Without any, tenacity would add 80 µs to each failure."""
        retries = self.upstream.retries
        if retries.attempts == 1 or not self._is_repeated():
            return
        is_first = [True]

        async def attempt_again() -> Attempt:
            if not is_first:
                await self._call_again(self.upstream)
            is_first.clear()
            return self.attempt

        def pause(state: RetryCallState) -> float:
            """As the upstream asked, else an exponential back-off from 0.25 s."""
            wait = self.attempt.wait_s or 0.25 * 2.0 ** (state.attempt_number - 1)
            return min(wait, retries.max_wait_s)

        async def before_sleep(state: RetryCallState) -> None:
            await self._give_up("upstream_retry")

        retrying = AsyncRetrying(
            stop=stop_after_attempt(retries.attempts),
            retry=retry_if_result(lambda _: self._is_repeated()),
            wait=pause,
            before_sleep=before_sleep,
            retry_error_callback=lambda _: self.attempt,
        )
        await retrying(attempt_again)

    async def _call_again(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.attempt = await self._call(upstream, self._outgoing)
        self.reached += self.attempt.ending != "unsent"

    def _is_repeated(self) -> bool:
        """Whether the same upstream is called again: a longer wait than `max_wait_s` is left to the client."""
        retries = self.upstream.retries
        return may_repeat(self.attempt.ending, retries.after) and (self.attempt.wait_s or 0.0) <= retries.max_wait_s

    async def _give_up(self, event: str) -> None:
        """Log and drop the answer of the latest call, which is repeated."""
        response = self.attempt.response
        status = response.status_code if response is not None else None
        log.warning(event, upstream=self.upstream.name, status=status, error=str(self.attempt.error or ""))
        if response is not None:
            await drop(response)
