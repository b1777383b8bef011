"""What a connection to a replica of a guard does: the protocol between `ReplicaGuard` and the ways to reach one."""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from guardproxy.asking import Asker, token_of
from guardproxy.checkapi import Caller, CheckCall, call_fields
from guardproxy.types import Check, Verdict
from guardproxy.upstreams import Ending


class GuardIdentity(NamedTuple):
    """What a verdict depends on: all replicas of a guard have the same.

    `name` and `taxonomy` (`id@version`) are those of the guard, `version` says which models it runs, and how. It reads
    no categories of a text whose P(unsafe) is below `floor`.
    """

    name: str
    taxonomy: str
    version: str
    floor: float = 0.0


class ReplicaFailed(Exception):
    """A call to a replica failed otherwise than by an answer of its guard; `ending` says how."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending


class ReplicaLink(Protocol):
    """A connection to a replica. `name` is its address, as operators read it."""

    name: str

    async def identity(self) -> GuardIdentity:
        """What the replica is. Raises ReplicaFailed, with the ending `declined` as long as it cannot judge yet.

        Raises ConfigError if it can never judge for this guard.
        """

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The verdict, and the version of the guard that gave it. Cancelling the call drops the check there.

        Raises ReplicaFailed, and the GuardUnavailable of the replica's guard, or a subclass of it.
        """

    def facts(self) -> dict[str, str | int]:
        """What the replica was found to be able to do, for people; {} if it need not be found out."""

    async def forget(self, stream: str) -> None:
        """Tell the replica that a streamed reply has ended. Raises ReplicaFailed."""

    async def close(self) -> None:
        """Close the connections."""


def call_for(check: Check, asker: Asker) -> dict[str, Any]:
    """A check as JSON values, to a guard that gives the same verdict on it.

    The client is a hash: its address or name is nobody's business there. The places of the texts in the client's body
    are left out: no verdict depends on them, and with keys that the client makes up they may have any length.
    """
    return call_fields(CheckCall(check, Caller(_hashed(asker.client), token_of(asker), asker.answered)), places=False)


@lru_cache(maxsize=4096)
def _hashed(client: str) -> str:
    return hashlib.sha256(client.encode("utf-8", "surrogatepass")).hexdigest()[:32] if client else ""
