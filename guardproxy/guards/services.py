"""Moderation services as guards: calls over httpx, in windows and batches, within rate limits, with retries."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol, runtime_checkable

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
from guardproxy.images import ImageBounds, InlineImage
from guardproxy.ports import Guard, ServiceCall, ServiceFamily
from guardproxy.types import Check, Conversation, Message, Part, Usage, Verdict
from guardproxy.verdicts import worst

# Neighbouring windows share one tenth of a window.
_OVERLAP = 10
# The waits between attempts, unless the service states one.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=8)
# Google's APIs answer a wrong key with status 400 and this reason (google/api/error_reason.proto).
_WRONG_KEY = "API_KEY_INVALID"
# The most bytes of an answer: it has a few hundred for each text of a call.
_ANSWER_BYTES = 1 << 20
# The most characters of a service's own error message to quote.
_QUOTED = 200
# Reads the JSON of an answer.
_Parse = Callable[[Any], tuple[Verdict, ...]]


class _Retryable(Exception):
    """A call failed that may succeed later: after `after_s` seconds, or None if the service states no time.

    `busy` means that the service is over its rate or quota.
    """

    def __init__(self, reason: str, *, busy: bool = False, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.busy = busy
        self.after_s = after_s


class _ServiceRefused(GuardUnavailable):
    """The service refuses every call, because the key or the address is wrong."""


@runtime_checkable
class ImageFamily(ServiceFamily, Protocol):
    """A family whose service reads images as well, of these bounds; None: not with the model that is configured."""

    image_bounds: ImageBounds | None

    def image_calls(self, texts: Sequence[str], image: InlineImage) -> tuple[ServiceCall, ...]:
        """The calls that judge an image with these windows of the text beside it; there may be none."""

    def image_verdict(self, answer: Any, guard: str) -> Verdict:
        """The verdict on the image. Raises GuardUnavailable if the answer does not say that the image was read."""


class ServiceGuard:
    """A guard that is a moderation service. Implements ports.Guard; build it with `open_service`."""

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
        self._concurrency = asyncio.Semaphore(concurrency)
        self._interval_s = 1 / per_second if per_second else 0.0
        self._next_call = 0.0

    async def judge(self, check: Check) -> Verdict:
        """Judge the turn's text alone, without its conversation; a long text gets the worst verdict of its windows.

        A turn that shows an image is judged with it: the verdict is that on the image beside the text, of which a long
        one shows its first and its last window. Raises Overloaded if the service stays over its rate until the check's
        timeout, GuardUnavailable if it fails, refuses the call or answers in an unknown form.
        """
        began = time.perf_counter()
        # UTF-8, in which the call is sent, cannot encode an unpaired surrogate.
        text = check.turn.text.encode("utf-8", "replace").decode()
        parts = windows(text, self._family.limit, in_bytes=self._family.in_bytes)
        deadline = time.monotonic() + self._timeout_s
        calls = [
            asyncio.ensure_future(self._judged(call, parse, deadline)) for call, parse in self._calls(check, parts)
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                verdicts = [verdict for of_call in await asyncio.gather(*calls) for verdict in of_call]
        except TimeoutError:
            raise GuardUnavailable(f"{self.name}: no answer within {self._timeout_s:g} s") from None
        except GuardproxyError:
            raise
        except Exception as error:
            # Any failure means that the text was not judged; it must not count as safe.
            raise GuardUnavailable(f"{self.name}: the call failed: {type(error).__name__}") from error
        finally:
            for call in calls:
                call.cancel()
        # Waits for the rate limit and for retries are part of the calls, so they count in forward_s, not in queue_s.
        usage = Usage(forward_s=time.perf_counter() - began, batch=len(calls), windows=len(parts))
        return replace(worst(verdicts), usage=usage)

    def forget(self, stream: str) -> None:
        """Do nothing: a service guard holds no state for a stream."""

    async def start(self) -> None:
        """Judge a harmless text. Raises ConfigError if the service refuses the key or the address.

        A service that is down or busy does not prevent the start: checks raise GuardUnavailable until it is back.
        """
        hello = Message("user", (Part("start", "Hello."),))
        try:
            await self.judge(Check(Conversation((hello,)), "user"))
        except _ServiceRefused as failure:
            raise ConfigError(str(failure)) from None
        except GuardUnavailable:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _calls(self, check: Check, texts: list[str]) -> list[tuple[ServiceCall, _Parse]]:
        """The calls for a check whose text has these windows, each with what reads its answer.

        Raises GuardUnavailable for an image if the service reads none.
        """
        family, size = self._family, self._family.batch
        images = [part.image for part in check.turn.images if part.image is not None]
        if not images:
            batches = [texts[start : start + size] for start in range(0, len(texts), size)]
            return [(family.request(batch), partial(family.parse, texts=batch, guard=self.name)) for batch in batches]
        if not isinstance(family, ImageFamily) or family.image_bounds is None:
            raise GuardUnavailable(f"{self.name}: the service reads no images")

        def parse(answer: Any) -> tuple[Verdict, ...]:
            return (family.image_verdict(answer, self.name),)

        # A call for every window would make a long text with images take longer than any time-out.
        beside = texts if len(texts) < 2 else [texts[0], texts[-1]]
        return [(call, parse) for image in images for call in family.image_calls(beside, image)]

    async def _judged(self, call: ServiceCall, parse: _Parse, deadline: float) -> tuple[Verdict, ...]:
        """The verdicts of one call, retried until it succeeds, is refused, or the time or the attempts are used up."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Retryable),
            wait=_seconds_until_retry,
            stop=stop_after_attempt(self._attempts) | stop_before_delay(deadline - time.monotonic()),
            reraise=True,
        )
        try:
            answer: Any = await retrying(self._answer, call, deadline)
        except _Retryable as failure:
            kind = Overloaded if failure.busy else GuardUnavailable
            raise kind(f"{self.name}: {failure}") from None
        try:
            return parse(answer)
        except GuardUnavailable as failure:
            raise GuardUnavailable(f"{self.name}: {failure}") from None

    async def _answer(self, call: ServiceCall, deadline: float) -> Any:
        """Make one call; return the JSON of its answer."""
        async with self._concurrency:
            await self._wait_for_slot(deadline)
            try:
                response = await self._post(call)
            except httpx.TransportError as failure:
                raise _Retryable(f"the service cannot be reached ({type(failure).__name__})") from None
        self._check(response)
        try:
            return response.json()
        except ValueError:
            raise GuardUnavailable(f"{self.name}: the answer is not JSON") from None

    async def _post(self, call: ServiceCall) -> httpx.Response:
        """The answer to a call. Raises httpx.TransportError, GuardUnavailable for an answer of too many bytes."""
        body, size = [], 0
        async with self._client.stream("POST", call.path, json=call.body, params=call.params) as response:
            async for piece in response.aiter_bytes():
                body.append(piece)
                size += len(piece)
                if size > _ANSWER_BYTES:
                    raise GuardUnavailable(f"{self.name}: the answer has more than {_ANSWER_BYTES} bytes")
        headers = [pair for pair in response.headers.items() if pair[0] == "retry-after"]
        return httpx.Response(response.status_code, headers=headers, content=b"".join(body), request=response.request)

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise _Retryable("the service is over its rate or quota (429)", busy=True, after_s=_retry_after(response))
        if status == httpx.codes.REQUEST_TIMEOUT or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _Retryable(f"the service failed ({status})", after_s=_retry_after(response))
        wrong_key = status == httpx.codes.BAD_REQUEST and _WRONG_KEY in response.text
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN} or wrong_key:
            raise _ServiceRefused(f"{self.name}: the service refuses the key ({status})")
        if status == httpx.codes.NOT_FOUND:
            raise _ServiceRefused(
                f"{self.name}: the service has no path {response.request.url.path} (404): check its address"
            )
        if not response.is_success:
            raise GuardUnavailable(f"{self.name}: the service answered {status}: {response.text[:_QUOTED]}")

    async def _wait_for_slot(self, deadline: float) -> None:
        """Wait until the rate limit allows this call. Raises Overloaded if that is after the deadline."""
        now = time.monotonic()
        start = max(now, self._next_call)
        if start > deadline:
            raise Overloaded(f"{self.name}: the calls in the queue take longer than a check's timeout")
        # Reserve the slot before the await: another call must not take the same one.
        self._next_call = start + self._interval_s
        if start > now:
            await asyncio.sleep(start - now)


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

    `base_url` replaces the service's own address, and is required if each customer has an address of their own. A check
    fails after `timeout_s` seconds. A call that fails or finds the service busy is made up to `attempts` times, after
    the time that the service states or with exponential back-off. At most `concurrency` calls run at once, and
    `per_second` start per second (None: no limit). Raises ConfigError for an unusable key or address.
    """
    address = base_url or family.base_url
    if not key.strip() or not key.isascii() or not key.isprintable():
        raise ConfigError(f"guard {name!r}: the service needs a key of printable ASCII characters")
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
    """The host of an address; empty if it has none."""
    try:
        return httpx.URL(address).host
    except httpx.InvalidURL:
        return ""


def windows(text: str, limit: int, *, in_bytes: bool) -> list[str]:
    """Cut `text` into windows of at most `limit` characters (or bytes of UTF-8) that overlap by a tenth."""
    data = text.encode() if in_bytes else text
    step = limit - limit // _OVERLAP
    count = 1 + max(0, -(-(len(data) - limit) // step))
    cut = [data[start : start + limit] for start in range(0, count * step, step)]
    # A character that is cut in two at one end of a window is whole in its neighbour, so "ignore" loses nothing.
    return [piece if isinstance(piece, str) else piece.decode("utf-8", "ignore") for piece in cut]


def _seconds_until_retry(state: RetryCallState) -> float:
    """Seconds until the next attempt."""
    failure = state.outcome.exception() if state.outcome else None
    after_s = failure.after_s if isinstance(failure, _Retryable) else None
    return _BACKOFF(state) if after_s is None else after_s


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds until the service accepts the next call (RFC 9110, 10.2.3), or None if it does not say."""
    header = response.headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
