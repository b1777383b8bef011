"""The upstreams of the proxy: which one a request goes to, and what happens if its call fails."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from guardproxy.errors import ConfigError, GuardproxyError, UpstreamUnavailable
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


@dataclass(frozen=True, slots=True)
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

    def only(self, url: str) -> "UpstreamPlan":
        """The plan with the upstreams at an address alone; as it is if there are none."""
        there = tuple(upstream for upstream in self.upstreams if upstream.url == url)
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
        return self._plan(target or DEFAULT, lambda upstream: not upstream.protocols or wire in upstream.protocols)

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
        sending = _Sending(self._call, plan, outgoing)
        upstream, attempt = await (sending.patiently() if plan.group is None else self._in_turn(sending, plan.group))
        try:
            if attempt.response is None:
                raise attempt.error or UpstreamUnavailable("no answer")
            waited_s = time.perf_counter() - began
            response = UpstreamResponse(attempt.response, upstream, waited_s, repeated=sending.repeated)
            check_framing(response.status, response.headers)
            yield response
        except UpstreamUnavailable as error:
            error.repeated = sending.repeated
            raise
        finally:
            if attempt.response is not None:
                await drop(attempt.response)

    async def _in_turn(self, sending: "_Sending", group: UpstreamGroup) -> tuple[Upstream, Attempt]:
        """Call the upstreams of a group, one after another, until one answers or the rest must not be tried."""
        now = self._clock()
        # The state may have changed since the plan was made, while the request was judged.
        order = sorted(sending.plan.upstreams, key=lambda upstream: not self._health[upstream.name].usable(now))
        *others, last = order[: group.attempts]
        for upstream in others:
            attempt = await sending.call(upstream)
            if not may_repeat(attempt.ending, group.after):
                return upstream, attempt
            await _give_up(upstream, attempt, "upstream_failover")
            self._metrics.failed_over(upstream.name)
        return last, await sending.call(last)

    async def _call(self, upstream: Upstream, outgoing: Outgoing) -> Attempt:
        """Call an upstream once, and note what that says of it."""
        health = self._health[upstream.name]
        permit = health.begin(self._clock())
        attempt: Attempt | None = None
        try:
            attempt = await upstream.call(outgoing)
        finally:
            self._note(upstream, health, permit, attempt)
        return attempt

    def _note(self, upstream: Upstream, health: Health, permit: Permit, attempt: Attempt | None) -> None:
        now = self._clock()
        status = attempt.response.status_code if attempt is not None and attempt.response is not None else 0
        limited_s = None
        if attempt is not None and status == 429:
            # At the limit of the client's own key, the upstream is not at its limit for others.
            limited_s = attempt.wait_s if upstream.is_shared else 0.0
        was = health.state(now)
        if health.end(permit, attempt.ending if attempt is not None else None, now, limited_s=limited_s):
            log.warning("upstream_ejected", upstream=upstream.name, for_s=round(health.usable_at() - now, 1))
            self._metrics.ejected(upstream.name)
        elif was in ("down", "probing") and health.state(now) == "up":
            log.info("upstream_recovered", upstream=upstream.name)
        if attempt is not None:
            result = "429" if status == 429 else f"{status // 100}xx" if status else attempt.ending
            self._metrics.called(upstream.name, result)


class _Sending:
    """One request on its way: `reached` counts the calls that came to an upstream."""

    def __init__(
        self, call: Callable[[Upstream, Outgoing], Awaitable[Attempt]], plan: UpstreamPlan, outgoing: Outgoing
    ) -> None:
        self.plan = plan
        self.reached = 0
        self._call = call
        self._outgoing = outgoing

    @property
    def repeated(self) -> bool:
        """Whether more than one call came to an upstream."""
        return self.reached > 1

    async def call(self, upstream: Upstream) -> Attempt:
        """Call an upstream once."""
        attempt = await self._call(upstream, self._outgoing)
        self.reached += attempt.ending != "unsent"
        return attempt

    async def patiently(self) -> tuple[Upstream, Attempt]:
        """Call the only upstream, and again as its retries say."""
        upstream = self.plan.upstreams[0]
        attempt = await self.call(upstream)
        if upstream.retries.attempts > 1 and _is_repeated(upstream, attempt):
            attempt = await self._retry(upstream, attempt)
        return upstream, attempt

    async def _retry(self, upstream: Upstream, failed: Attempt) -> Attempt:
        """Retry after a first attempt has `failed`: it ran without tenacity, which would add 80 µs to every request."""
        first_attempt = [failed]

        async def attempt_again() -> Attempt:
            return first_attempt.pop() if first_attempt else await self.call(upstream)

        def pause(state: RetryCallState) -> float:
            """As the upstream asked, else an exponential back-off from 0.25 s."""
            wait = _last(state).wait_s or 0.25 * 2.0 ** (state.attempt_number - 1)
            return min(wait, upstream.retries.max_wait_s)

        async def before_sleep(state: RetryCallState) -> None:
            await _give_up(upstream, _last(state), "upstream_retry")

        retrying = AsyncRetrying(
            stop=stop_after_attempt(upstream.retries.attempts),
            retry=retry_if_result(lambda attempt: _is_repeated(upstream, attempt)),
            wait=pause,
            before_sleep=before_sleep,
            retry_error_callback=_last,
        )
        return await retrying(attempt_again)


def _is_repeated(upstream: Upstream, attempt: Attempt) -> bool:
    """Whether the only upstream is called again: a longer wait than `max_wait_s` is left to the client."""
    retries = upstream.retries
    return may_repeat(attempt.ending, retries.after) and (attempt.wait_s or 0.0) <= retries.max_wait_s


async def _give_up(upstream: Upstream, attempt: Attempt, event: str) -> None:
    """Log and drop the answer of a call that is repeated."""
    status = attempt.response.status_code if attempt.response is not None else None
    log.warning(event, upstream=upstream.name, status=status, error=str(attempt.error or ""))
    if attempt.response is not None:
        await drop(attempt.response)


def _last(state: RetryCallState) -> Attempt:
    if state.outcome is None:
        raise RuntimeError("tenacity asks before the first attempt has ended")
    result: Attempt = state.outcome.result()
    return result
