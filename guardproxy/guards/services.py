"""Moderation services as guards: calls over httpx, in windows and batches, within rates, tried again where it helps."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable, Overloaded
from guardproxy.ports import Guard, ServiceFamily
from guardproxy.types import Check, Conversation, Message, Part, Usage, Verdict
from guardproxy.verdicts import worst

# A window begins with this share of the one before it: one tenth.
_OVERLAP = 10
# Where a service does not say when to come again.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=8)
# Google's APIs answer a wrong key with status 400 and this reason (google/api/error_reason.proto).
_WRONG_KEY = "API_KEY_INVALID"
# How much of a service's own error message is told.
_TOLD = 200


class _Again(Exception):
    """A call that may succeed later: in `after_s` seconds, where the service says so."""

    def __init__(self, reason: str, *, busy: bool = False, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.busy = busy
        self.after_s = after_s


class _Refused(GuardUnavailable):
    """The service takes no call of ours: the key or the address is wrong."""


class ServiceGuard:
    """A guard that is a service. Implements ports.Guard; build it with `open_service`."""

    def __init__(
        self,
        *,
        name: str,
        family: ServiceFamily,
        client: httpx.AsyncClient,
        timeout_s: float,
        attempts: int,
        concurrency: int,
        per_second: float | None,
    ) -> None:
        self.name = name
        self.taxonomy = family.taxonomy
        self._family = family
        self._client = client
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._door = asyncio.Semaphore(concurrency)
        self._interval_s = 1 / per_second if per_second else 0.0
        self._next_call = 0.0

    async def judge(self, check: Check) -> Verdict:
        """The verdict on the judged text alone; the worst of its windows where it is long.

        Raises Overloaded where the service is over its rate for as long as the check may take, GuardUnavailable where
        it fails, refuses the call or answers anything else than it should.
        """
        began = time.perf_counter()
        # JSON has no lone surrogates, which stand for no character.
        text = check.turn.text.encode("utf-8", "replace").decode()
        parts = windows(text, self._family.limit, in_bytes=self._family.in_bytes)
        size = self._family.batch
        deadline = time.monotonic() + self._timeout_s
        calls = [
            asyncio.ensure_future(self._judged(parts[start : start + size], deadline))
            for start in range(0, len(parts), size)
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                verdicts = [verdict for found in await asyncio.gather(*calls) for verdict in found]
        except TimeoutError:
            raise GuardUnavailable(f"{self.name}: no answer within {self._timeout_s:g} s") from None
        except GuardproxyError:
            raise
        except Exception as error:
            # Whatever breaks in a call or an answer, the text was not judged: never to be taken for safe.
            raise GuardUnavailable(f"{self.name}: the call failed: {type(error).__name__}") from error
        finally:
            for call in calls:
                call.cancel()
        usage = Usage(forward_s=time.perf_counter() - began, batch=len(calls), windows=len(parts))
        return replace(worst(verdicts), usage=usage)

    def forget(self, stream: str) -> None:
        """Nothing is kept for a stream."""

    async def start(self) -> None:
        """Judge a harmless text. Raises ConfigError where the service refuses the key or the address.

        A service that is down or busy is no reason not to start: each check will say so while it lasts.
        """
        hello = Message("user", (Part("start", "Hello."),))
        try:
            await self.judge(Check(Conversation((hello,)), "user"))
        except _Refused as failure:
            raise ConfigError(str(failure)) from None
        except GuardUnavailable:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _judged(self, texts: Sequence[str], deadline: float) -> tuple[Verdict, ...]:
        """The verdicts of one call, made again until it succeeds, is refused, or the time or the attempts are over."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_wait,
            stop=stop_after_attempt(self._attempts) | stop_before_delay(deadline - time.monotonic()),
            reraise=True,
        )
        try:
            answer: Any = await retrying(self._answer, texts, deadline)
        except _Again as failure:
            kind = Overloaded if failure.busy else GuardUnavailable
            raise kind(f"{self.name}: {failure}") from None
        try:
            return self._family.parse(answer, texts, self.name)
        except GuardUnavailable as failure:
            raise GuardUnavailable(f"{self.name}: {failure}") from None

    async def _answer(self, texts: Sequence[str], deadline: float) -> Any:
        """The JSON of one call's answer."""
        call = self._family.request(texts)
        async with self._door:
            await self._slot(deadline)
            try:
                response = await self._client.post(call.path, json=call.body, params=call.params)
            except httpx.TransportError as failure:
                raise _Again(f"the service cannot be reached ({type(failure).__name__})") from None
        self._check(response)
        try:
            return response.json()
        except ValueError:
            raise GuardUnavailable(f"{self.name}: the answer is not JSON") from None

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise _Again("the service is over its rate or quota (429)", busy=True, after_s=_retry_after(response))
        if status == httpx.codes.REQUEST_TIMEOUT or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _Again(f"the service failed ({status})", after_s=_retry_after(response))
        wrong_key = status == httpx.codes.BAD_REQUEST and _WRONG_KEY in response.text
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN} or wrong_key:
            raise _Refused(f"{self.name}: the service refuses the key ({status})")
        if status == httpx.codes.NOT_FOUND:
            raise _Refused(
                f"{self.name}: the service knows no {response.request.url.path} (404): is its address right?"
            )
        if not response.is_success:
            raise GuardUnavailable(f"{self.name}: the service answered {status}: {response.text[:_TOLD]}")

    async def _slot(self, deadline: float) -> None:
        """Wait for this call's turn in the rate. Raises Overloaded where it comes too late."""
        now = time.monotonic()
        turn = max(now, self._next_call)
        if turn > deadline:
            raise Overloaded(f"{self.name}: the calls that wait take longer than a check may")
        self._next_call = turn + self._interval_s
        if turn > now:
            await asyncio.sleep(turn - now)


def open_service(
    *,
    name: str,
    family: ServiceFamily,
    key: str,
    base_url: str = "",
    timeout_s: float = 30.0,
    attempts: int = 4,
    concurrency: int = 8,
    per_second: float | None = None,
) -> Guard:
    """A guard named `name` that asks a moderation service.

    `base_url` replaces the service's own address, and is needed where each customer has one. A check fails after
    `timeout_s`; a call that the service is too busy for, or fails at, is made up to `attempts` times, when the service
    says or with growing waits. At most `concurrency` calls run at once, and `per_second` begin in a second (None: as
    many as come). Raises ConfigError for a key or an address that cannot be used.
    """
    address = base_url or family.base_url
    if not key.strip() or not key.isascii() or not key.isprintable():
        raise ConfigError(f"guard {name!r}: the service needs a key, in printable ASCII")
    if not address.startswith(("https://", "http://")) or not _host(address):
        raise ConfigError(f"guard {name!r}: the service needs an address that begins with https://, not {address!r}")
    client = httpx.AsyncClient(
        base_url=address,
        headers={family.key_header: f"{family.key_prefix}{key}"},
        timeout=timeout_s,
        limits=httpx.Limits(max_connections=concurrency),
    )
    return ServiceGuard(
        name=name,
        family=family,
        client=client,
        timeout_s=timeout_s,
        attempts=attempts,
        concurrency=concurrency,
        per_second=per_second,
    )


def _host(address: str) -> str:
    """The host of an address; empty where it names none."""
    try:
        return httpx.URL(address).host
    except httpx.InvalidURL:
        return ""


def windows(text: str, limit: int, *, in_bytes: bool) -> list[str]:
    """`text` in pieces of at most `limit` characters (or bytes of UTF-8), each beginning with the end of the last."""
    data = text.encode() if in_bytes else text
    step = limit - limit // _OVERLAP
    count = 1 + max(0, -(-(len(data) - limit) // step))
    cut = [data[start : start + limit] for start in range(0, count * step, step)]
    # A character that is cut in two at one end of a window is whole in its neighbour.
    return [piece if isinstance(piece, str) else piece.decode("utf-8", "ignore") for piece in cut]


def _wait(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    told = failure.after_s if isinstance(failure, _Again) else None
    return _BACKOFF(state) if told is None else told


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds until the service wants to be asked again (RFC 9110, 10.2.3), or None where it does not say."""
    given = response.headers.get("retry-after", "").strip()
    if given.isdecimal():
        return float(given)
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
