"""Who may use the proxy and how much: clients, their keys, and their limits as token buckets. Pure.

The caller gives the time: seconds since 1970 for the end of a key, the seconds of any steady clock for a bucket.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from hashlib import blake2b, sha256
from typing import Final

from guardproxy.errors import GuardproxyError
from guardproxy.frozen import frozen

# The name of a client stands in records, metrics and the names of files.
CLIENT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROUNDING: Final = 1e-6  # units of a limit by which sums of fractions may be wrong


class KeyRefused(GuardproxyError):
    """The request has no key, one that belongs to no client, or one that has expired."""

    status = 401
    code = "invalid_api_key"


class LimitReached(GuardproxyError):
    """The client has used up one of its limits. `retry_s`: after how many seconds the request is accepted."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_s: float) -> None:
        self.retry_s = retry_s
        super().__init__(message)


class LimitsUnavailable(GuardproxyError):
    """What the client has used of its limits cannot be read or noted, so the request is not accepted."""

    status = 503
    code = "limits_unavailable"
    retry_s = 5.0


@frozen
class ClientKey:
    """A key, by the SHA-256 of its text. From the time `expires` on it is refused; None: never."""

    digest: bytes
    expires: float | None = None


@frozen
class Client:
    """Somebody who may use the proxy, and how much each minute; None: without a limit.

    `upstream_keys` are the client's own keys at upstreams, by the name of the upstream.
    """

    name: str
    keys: tuple[ClientKey, ...]
    requests_per_minute: float | None = None
    characters_per_minute: float | None = None
    upstream_keys: Mapping[str, str] = field(default_factory=dict, repr=False)


class Clients:
    """Finds clients by their keys.

    A key is looked up by a MAC of its hash, which is made with `secret`: random bytes that no caller knows. So the time
    of a comparison tells nothing about the hashes, however many bytes of them agree.
    """

    def __init__(self, clients: Iterable[Client], secret: bytes) -> None:
        self._secret = secret
        self._holders = {self._mac(key.digest): (client, key) for client in clients for key in client.keys}

    def holder(self, keys: Collection[bytes], now: float) -> Client:
        """The client to whom all keys of a request belong; `now` is seconds since 1970. Raises KeyRefused."""
        if not keys:
            raise KeyRefused("the request has no key; send the one that the operator of this proxy gave you")
        found = [self._holders.get(self._mac(sha256(key).digest())) for key in keys]
        known = [holder for holder in found if holder is not None]
        if len(known) < len(found):
            several = " one of" if len(found) > 1 else ""
            raise KeyRefused(f"the proxy does not know{several} the request's key{'s' if several else ''}")
        client = known[0][0]
        if any(other is not client for other, _ in known):
            raise KeyRefused("the request has keys of several clients; send only one")
        if any(key.expires is not None and key.expires <= now for _, key in known):
            raise KeyRefused("the key has expired; ask the operator of this proxy for a new one")
        return client

    def _mac(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._secret).digest()


@frozen
class Bucket:
    """What is left of a limit at the time `at`, in seconds of any steady clock. Below 0 after one large amount."""

    level: float
    at: float


def taken(bucket: Bucket | None, per_minute: float, amount: float, now: float) -> tuple[Bucket, float]:
    """Take `amount` from a bucket: the bucket after it, and 0, or the seconds until the amount can be taken.

    A bucket holds what may be used in a minute, and is full at first (None). Unused, it fills up in a minute. An amount
    of more than a minute's is taken from a full bucket, which is then below 0 for as long as the amount is worth: no
    request waits for ever, and the mean stays within the limit.
    """
    if bucket is None:
        bucket = Bucket(per_minute, now)
    now = max(now, bucket.at)
    level = min(per_minute, bucket.level + (now - bucket.at) * per_minute / 60)
    lacking = min(amount, per_minute) - level
    if lacking <= _ROUNDING:
        return Bucket(level - amount, now), 0.0
    return Bucket(level, now), lacking * 60 / per_minute
