"""The verdict cache: equal checks of one guard are judged once. It holds verdicts, never decisions."""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

from guardproxy.checkapi import verdict_fields, verdict_of
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.offload import computed
from guardproxy.ports import Guard, SharedState
from guardproxy.types import Check, PartKind, Role, Usage, Verdict

# The digests of messages with one part of up to this many characters are cached.
_SMALL = 4096
# Verdicts that are on their way to the shared state; of more, the rest stays with this process.
_MOST_PUTS = 256


def check_key(check: Check) -> bytes:
    """A digest of 32 bytes, equal for checks with the same side, end, `least`, roles and contents of parts, in order.

    The parts' paths in the body and the stream are left out: they do not change a verdict.
    """
    digest = hashlib.sha256(f"{check.side}{'...' if check.unfinished else ''}{check.least or ''}".encode())
    for message in check.conversation.messages:
        # A message that has arrived in alternation with others is found by all their texts: that takes longer.
        part = message.parts[0] if len(message.parts) == 1 and not message.arrived else None
        if part is not None and len(part.text) <= _SMALL:
            digest.update(_short_digest(message.role, part.kind, part.text, part.note))
        else:
            digest.update(_digest(message.role, *[(part.kind, part.text, part.note) for part in message.parts]))
    return digest.digest()


def _digest(role: Role, *parts: tuple[PartKind, str, str]) -> bytes:
    """A digest of a message: of its role, and of the kind, text and note of its parts."""
    digest = hashlib.sha256(role.encode())
    for part in parts:
        for field in part:
            digest.update(_delimited(field))
    return digest.digest()


@lru_cache(maxsize=8192)
def _short_digest(role: Role, kind: PartKind, text: str, note: str) -> bytes:
    """The same of a message of one part. Clients send the whole conversation with every turn, so it is cached.

    By strings, because a collection of garbage does not visit them: a message is three objects for it.
    """
    return _digest(role, (kind, text, note))


def _delimited(field: str) -> bytes:
    """A field behind its length, so that different sequences of fields never give the same bytes."""
    data = field.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8) + data


@dataclass(slots=True)
class _SharedCall:
    """A check that the guard is judging, and the number of callers that await it."""

    task: "asyncio.Task[Verdict]"
    waiting: int = 0


class Cached:
    """A Guard that caches the `entries` most recently used verdicts of another guard.

    Equal checks at the same time share one call, which is cancelled when its last caller is. A failure reaches all
    callers of its call and is not cached. A verdict from the cache has a usage of only `cached` and `windows`. What the
    cache does not have is looked for in the `shared` state of several processes. Texts that are unfinished are not:
    nobody else has the same piece of a stream. Use it from one event loop. Raises ConfigError if `entries` is below 1.
    """

    def __init__(self, guard: Guard, entries: int, shared: SharedState | None = None) -> None:
        if entries < 1:
            raise ConfigError(f"a verdict cache needs room for 1 or more entries, not {entries}")
        self.name = guard.name
        self.taxonomy = guard.taxonomy
        self._guard = guard
        self._identity = b"".join(_delimited(name) for name in (guard.name, self.taxonomy.id, self.taxonomy.version))
        self._entries = entries
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._calls: dict[bytes, _SharedCall] = {}
        self._shared = shared
        self._putting: set[asyncio.Task[None]] = set()

    async def judge(self, check: Check) -> Verdict:
        """The verdict, from the cache if it has one. Raises what the guard raises."""
        # OpenSSL gives Python's lock up for 2 KB and more: the event loop would wait for it beside a busy thread.
        key = await computed(4 * check.turn.size, self._key, check)
        verdict = self._verdicts.get(key)
        if verdict is not None:
            self._verdicts.move_to_end(key)
            return verdict
        call = self._calls.get(key)
        if call is not None:
            return _without_cost(await self._wait(key, call))
        call = self._calls[key] = _SharedCall(asyncio.ensure_future(self._ask(key, check)))
        return await self._wait(key, call)

    def forget(self, stream: str) -> None:
        """Pass the stream on to the guard. Verdicts on its texts stay: the next request has the reply judged again."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Start the guard."""
        await self._guard.start()

    async def close(self) -> None:
        """Close the guard and empty the cache."""
        self._verdicts.clear()
        for task in self._putting:
            task.cancel()
        await self._guard.close()

    def _key(self, check: Check) -> bytes:
        """The key of a check in this cache: `check_key` with the guard and the version of its taxonomy."""
        return hashlib.sha256(check_key(check) + self._identity).digest()

    async def _ask(self, key: bytes, check: Check) -> Verdict:
        shared = None if check.unfinished else self._shared
        if shared is not None and (known := await shared.get("verdict", key, verdict_of)) is not None:
            return self._keep(key, known)
        verdict = await self._guard.judge(check)
        kept = self._keep(key, verdict)
        if shared is not None and len(self._putting) < _MOST_PUTS:
            task = asyncio.ensure_future(shared.put("verdict", key, verdict_fields(replace(kept, rationale=""))))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)
        return verdict

    def _keep(self, key: bytes, verdict: Verdict) -> Verdict:
        """Keep a verdict, as later callers get it."""
        kept = self._verdicts[key] = _without_cost(verdict)
        if len(self._verdicts) > self._entries:
            self._verdicts.popitem(last=False)
        return kept

    async def _wait(self, key: bytes, call: _SharedCall) -> Verdict:
        """The call's verdict. A caller that is cancelled leaves the call to the others; the last one cancels it."""
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        except asyncio.CancelledError:
            # The guard cancelled its own work, and not this caller: a CancelledError would end the caller's task.
            if call.task.cancelled() and not _cancelling():
                raise GuardUnavailable(f"guard {self.name!r} dropped the check") from None
            raise
        finally:
            call.waiting -= 1
            if self._calls.get(key) is call and (call.task.done() or call.waiting == 0):
                del self._calls[key]
            if call.waiting == 0:
                call.task.cancel()  # no effect on a call that has ended


def _cancelling() -> bool:
    """Whether the running task itself is being cancelled, and not only the task that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _without_cost(verdict: Verdict) -> Verdict:
    """The verdict with the usage of a cached one."""
    return replace(verdict, usage=Usage(windows=verdict.usage.windows, cached=True))
