"""A cache of verdicts: the same question to the same guard is asked once. Scores are kept, decisions never."""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.ports import Guard
from guardproxy.types import Check, Message, Usage, Verdict

# Characters of a message whose digest is kept beside it.
_SMALL = 4096


def check_key(check: Check) -> bytes:
    """32 bytes that are equal for checks that ask the same: the same side, roles, and contents of parts, in order.

    Where a part stood in its body and which stream waits for the answer do not matter to a guard, and not here.
    """
    digest = hashlib.sha256(check.side.encode())
    for message in check.conversation.messages:
        ordinary = len(message.parts) == 1 and len(message.parts[0].text) <= _SMALL
        digest.update(_kept_digest(message) if ordinary else _digest(message))
    return digest.digest()


def _digest(message: Message) -> bytes:
    digest = hashlib.sha256(message.role.encode())
    for part in message.parts:
        _add(digest, part.kind, part.text, part.note)
    return digest.digest()


# A conversation that is sent again has each message in the context of every later one.
_kept_digest = lru_cache(maxsize=8192)(_digest)


def _add(digest: "hashlib._Hash", *fields: str) -> None:
    """Each field with its length before it, so that no two sequences of fields run together to one."""
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8))
        digest.update(data)


@dataclass(slots=True)
class _Call:
    """A check on its way to the guard, and how many wait for it."""

    task: "asyncio.Task[Verdict]"
    waiting: int = 0


class Cached:
    """A Guard that keeps the `entries` verdicts used last of the guard behind it.

    Equal checks at one time share one call, which is dropped once nobody waits for it any more. Failures reach
    everybody who waits for them and are not kept. A verdict that cost nothing new says so: its usage holds only
    `cached` and the windows. To be used from one event loop. Raises ConfigError where `entries` is below 1.
    """

    def __init__(self, guard: Guard, entries: int) -> None:
        if entries < 1:
            raise ConfigError(f"a verdict cache needs room for 1 entry or more, not {entries}")
        self.name = guard.name
        self.taxonomy = guard.taxonomy
        self._guard = guard
        self._entries = entries
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._calls: dict[bytes, _Call] = {}

    async def judge(self, check: Check) -> Verdict:
        """The verdict, from the cache where it holds one. Raises what the guard raises."""
        key = self._key(check)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return _free(kept)
        call = self._calls.get(key)
        if call is not None:
            return _free(await self._wait(key, call))
        call = self._calls[key] = _Call(asyncio.ensure_future(self._ask(key, check)))
        return await self._wait(key, call)

    def forget(self, stream: str) -> None:
        """Passed on; verdicts on a stream's texts stay, because the next turn asks for them again."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Start the guard."""
        await self._guard.start()

    async def close(self) -> None:
        """Close the guard and empty the cache."""
        self._kept.clear()
        await self._guard.close()

    def _key(self, check: Check) -> bytes:
        digest = hashlib.sha256(check_key(check))
        _add(digest, self.name, self.taxonomy.id, self.taxonomy.version)
        return digest.digest()

    async def _ask(self, key: bytes, check: Check) -> Verdict:
        verdict = await self._guard.judge(check)
        self._kept[key] = verdict
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)
        return verdict

    async def _wait(self, key: bytes, call: _Call) -> Verdict:
        """The call's verdict. Who is cancelled while waiting leaves the call to the others; the last one drops it."""
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        except asyncio.CancelledError:
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
    """Whether the running task itself is being cancelled, and not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _free(verdict: Verdict) -> Verdict:
    return replace(verdict, usage=Usage(windows=verdict.usage.windows, cached=True))
