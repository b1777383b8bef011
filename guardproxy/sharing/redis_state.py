"""Shared state in Redis or Valkey. It may be slow, down or lie: the proxy then works as if there were none.

What is asked in one turn of the event loop travels together: the views of a text make one call. A call has some
milliseconds. After a few that fail in a row nothing is asked for a while, and then a `PING` beside the requests tries
whether the store is back, so that no request waits for that.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe.state_metrics import GetResult, PutResult, StateCounts
from guardproxy.ports import StateKind
from guardproxy.sharing.sealing import Sealer
from guardproxy.upstreams import Ejection, Ending, Health, UpstreamState

log = structlog.get_logger("guardproxy.shared_state")

T = TypeVar("T")

_EJECTION: Final = Ejection(failures=3, first_s=0.5, longest_s=10.0)
_CONNECTIONS: Final = 8
# Seconds of the first connection, at the start of the server.
_START_S: Final = 3.0
# What depends on the guard: such a value is of use to processes with the same guard only.
_OF_GUARD: Final[frozenset[StateKind]] = frozenset({"verdict", "passed"})
# What errors say of a password that is missing, of a database that the server lacks, and of a certificate.
_MISTAKES: Final = ("NOAUTH", "Authentication required", "DB index is out of range", "CERTIFICATE_VERIFY_FAILED")


@dataclass(frozen=True, slots=True)
class StateOptions:
    """Where the store is and how it is asked.

    `url` has the scheme redis, rediss (TLS) or unix. A call may take `timeout_s` seconds. `keep_s` are the seconds for
    which values stay, by kind. `tls` are the options of the connection with rediss, by redis-py's names.
    """

    url: str = field(repr=False)
    timeout_s: float
    keep_s: Mapping[StateKind, int]
    tls: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    """What is asked in one turn of the event loop: keys with the futures of their values, and values to keep."""

    gets: list[tuple[bytes, "asyncio.Future[bytes | None]"]] = field(default_factory=list)
    puts: list[tuple[StateKind, bytes, bytes, "asyncio.Future[None]"]] = field(default_factory=list)

    @property
    def waiting(self) -> list["asyncio.Future[Any]"]:
        """All futures."""
        return [*(one for _, one in self.gets), *(one for *_, one in self.puts)]


class _Failed(Exception):
    """The store gave no answer; it is counted where the call is."""


class RedisState:
    """Implements `ports.SharedState`. Use it from one event loop.

    Until `begin` has said which guard judges here, nothing that depends on the guard is read or kept: the canaries of a
    start must be judged by the guard itself.
    """

    def __init__(self, options: StateOptions, sealer: Sealer, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._sealer = sealer
        self._clock = clock
        self._client = _client(options)
        self._health = Health(_EJECTION)
        self._counts = StateCounts()
        self._identify: Callable[[], bytes | None] = lambda: None
        self._guard: bytes | None = None
        self._batch: _Batch | None = None
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, identify: Callable[[], bytes | None]) -> None:
        """Share verdicts from now on with processes whose guard is the same.

        `identify` says what they depend on. As long as that is not known (None), it is asked again and none is shared.
        """
        self._identify, self._guard = identify, None

    async def get(self, kind: StateKind, key: bytes, read: Callable[[Any], T], /) -> T | None:
        """See `ports.SharedState`."""
        place = self._place(kind, key)
        if place is None or not self._asked():
            self._counted(kind, "skipped")
            return None
        waiting: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._current().gets.append((place, waiting))
        try:
            sealed = await waiting
        except _Failed:
            self._counted(kind, "failed")
            return None
        if sealed is None:
            self._counted(kind, "missing")
            return None
        try:
            found = read(self._sealer.unseal(place, sealed))
        except (ValueError, KeyError, TypeError, RecursionError, GuardproxyError) as error:
            self._counted(kind, "refused")
            log.warning("shared_state_refused", kind=kind, reason=f"{type(error).__name__}: {error}")
            return None
        self._counted(kind, "found")
        return found

    async def put(self, kind: StateKind, key: bytes, value: Any, /) -> None:
        """See `ports.SharedState`."""
        place = self._place(kind, key)
        if place is None or not self._asked():
            self._put(kind, "skipped")
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._current().puts.append((kind, place, self._sealer.seal(place, value), waiting))
        try:
            await waiting
        except _Failed:
            self._put(kind, "failed")
        else:
            self._put(kind, "kept")

    def state(self) -> UpstreamState:
        """Whether the store is up, as operators see it."""
        return self._health.state(self._clock())

    def report(self) -> tuple[bool, StateCounts]:
        """Whether the store is up, and what was asked of it."""
        return self.state() == "up", self._counts

    async def check(self, name: str) -> None:
        """Try the store once, at the start of the server called `name`. A store that is down is told in the log.

        Raises ConfigError if it refuses the user, the password or the database, or if its certificate is not accepted.
        """
        try:
            async with asyncio.timeout(_START_S):
                place = self._sealer.key("verdict", b"", b"start")
                await self._client.set(place, b"", ex=1)
        except (RedisError, OSError, TimeoutError) as error:
            if _is_mistake(error):
                raise ConfigError(f"{name}: shared_state.url: the server refuses the connection: {error}") from error
            log.warning("shared_state_unreachable", reason=_reason(error), effect="nothing is shared until it is back")

    async def close(self) -> None:
        """End all calls and close the connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.aclose()

    # --- one call ------------------------------------------------------------------------------------------------

    def _place(self, kind: StateKind, key: bytes) -> bytes | None:
        """The key in the store; None if it depends on the guard, and it is not known which one judges here."""
        if self._guard is None and kind in _OF_GUARD:
            self._guard = self._identify()
        of = self._guard if kind in _OF_GUARD else b""
        return None if of is None else self._sealer.key(kind, of, key)

    def _asked(self) -> bool:
        """Whether the store is asked. If it is time to try whether it is back, that begins."""
        state = self._health.state(self._clock())
        if state == "probing" and self._health.usable(self._clock()):
            self._begin(self._probe())
        return state == "up"

    def _current(self) -> _Batch:
        """The batch of this turn of the event loop."""
        if self._batch is None:
            self._batch = _Batch()
            self._begin(self._send())
        return self._batch

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self) -> None:
        """Send the batch, which has all of its keys by now, and hand out the answers."""
        batch, self._batch = self._batch or _Batch(), None
        permit = self._health.begin(self._clock())
        ending: Ending | None = None
        reason = ""
        try:
            async with asyncio.timeout(self._options.timeout_s), self._slots:
                await self._ask(batch)
            ending = "answered"
        except (RedisError, OSError, TimeoutError) as error:
            ending, reason = "unknown", _reason(error)
        finally:
            for waiting in batch.waiting:
                if not waiting.done():
                    waiting.set_exception(_Failed())
            if self._health.end(permit, ending, self._clock()) == "ejected":
                log.warning("shared_state_down", reason=reason)

    async def _ask(self, batch: _Batch) -> None:
        pipeline = self._client.pipeline(transaction=False)
        if batch.gets:
            pipeline.mget([place for place, _ in batch.gets])
        for kind, place, value, _ in batch.puts:
            pipeline.set(place, value, ex=self._options.keep_s[kind])
        # A full server refuses to keep a value and still answers with others.
        answers = await pipeline.execute(raise_on_error=False)
        found = answers.pop(0) if batch.gets else []
        if isinstance(found, ResponseError):
            raise found
        for (_, waiting), value in zip(batch.gets, found, strict=True):
            if not waiting.done():
                waiting.set_result(value)
        for (*_, kept), answer in zip(batch.puts, answers, strict=True):
            if not kept.done() and not isinstance(answer, Exception):
                kept.set_result(None)

    async def _probe(self) -> None:
        permit = self._health.begin(self._clock())
        ending: Ending = "unknown"
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await self._client.ping()
            ending = "answered"
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("shared_state_still_down", reason=_reason(error))
        finally:
            if self._health.end(permit, ending, self._clock()) == "recovered":
                log.info("shared_state_up")

    def _counted(self, kind: StateKind, result: GetResult) -> None:
        self._counts.gets[kind, result] += 1

    def _put(self, kind: StateKind, result: PutResult) -> None:
        self._counts.puts[kind, result] += 1


def _client(options: StateOptions) -> "Redis":
    # No retries: a call that fails costs its time, and the health above decides whether there is another one.
    return Redis.from_url(
        options.url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=_START_S,
        client_name="guardproxy",
        **options.tls,
    )


def _is_mistake(error: Exception) -> bool:
    """Whether the operator must correct the configuration."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return True
    return any(words in str(error) for words in _MISTAKES)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else "no answer in time"
