"""At the door: whose key a request has, and whether its client may send that much now."""

import time
from collections.abc import Callable, Sequence

from guardproxy.access import Client, Clients, LimitReached, LimitsUnavailable
from guardproxy.types import Message
from guardproxy.web.buckets import Buckets, OwnBuckets
from guardproxy.web.client import keys_of
from guardproxy.web.headers import Headers


class Access:
    """Checks who sends a request and how much, by the `clients` in force; None: nobody is asked, there is no limit.

    `now` returns the seconds since 1970.
    """

    def __init__(self, buckets: Buckets | None = None, now: Callable[[], float] = time.time) -> None:
        self.clients: Clients | None = None
        self._buckets = buckets or OwnBuckets()
        self._now = now

    def admit(self, headers: Headers, query: bytes) -> Client | None:
        """Whose request this is, which counts as one from now on; None if nobody is asked.

        Raises KeyRefused, LimitReached, LimitsUnavailable, and AmbiguousRequest as `keys_of` does.
        """
        if self.clients is None:
            return None
        client = self.clients.holder(keys_of(headers, query), self._now())
        self._take(client, "requests", client.requests_per_minute, 1)
        return client

    def charge(self, client: Client | None, messages: Sequence[Message]) -> None:
        """Count the characters of a request. Raises LimitReached, LimitsUnavailable."""
        if client is not None and client.characters_per_minute is not None:
            characters = sum([message.size for message in messages])
            self._take(client, "characters", client.characters_per_minute, characters)

    def _take(self, client: Client, kind: str, per_minute: float | None, amount: float) -> None:
        if per_minute is None:
            return
        try:
            wait_s = self._buckets.take(f"{client.name}.{kind}", per_minute, amount)
        except OSError as error:  # a full disk, too many open files, or the folder is gone
            raise LimitsUnavailable(
                "the use of this client's limits cannot be noted; repeat the request later"
            ) from error
        if wait_s > 0:
            message = f"{client.name} may send {per_minute:g} {kind} per minute; repeat the request in {wait_s:.1f} s"
            raise LimitReached(message, wait_s)
