"""How much work waits or runs, for whom, and how long a new check would wait for it."""

import threading
from dataclasses import dataclass, field
from typing import Any

from guardproxy.asking import Asker
from guardproxy.engine.fair_queue import REPLY_WEIGHT, Ticket

# A flow that has just become busy may run a slice of this many seconds before a check that comes later.
_SLICE_S = 0.05


@dataclass(slots=True)
class _Load:
    """The seconds of some checks that wait or run, and those of the longest that has a single window."""

    seconds: float = 0.0
    window: float = 0.0

    def before(self, most: float) -> float:
        """The seconds that may run before a check of others that takes `most`."""
        return min(self.seconds, max(most, self.window))


@dataclass(slots=True)
class _RequestLoad(_Load):
    """The number of checks of one request."""

    checks: int = 0


@dataclass(slots=True)
class _ClientLoad(_Load):
    """The requests of one client."""

    requests: dict[Asker, _RequestLoad] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long checks of requests and of replies really take, for each second that is booked.

    For each second of requests, the replies to them take `replies_share` seconds.
    """

    request: float = 1.0
    reply: float = 1.0
    replies_share: float = 0.0


class Backlog:
    """The seconds of work that wait or run, of replies and of requests. Event loops and the worker share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[bool, dict[str, _ClientLoad]] = {True: {}, False: {}}
        self._booked: dict[Ticket[Any], float] = {}

    def __len__(self) -> int:
        return len(self._booked)

    def book(self, ticket: Ticket[Any], seconds: float) -> None:
        """Count a check that takes `seconds`."""
        with self._lock:
            self._booked[ticket] = 0.0
            client = self._clients[ticket.reply].setdefault(ticket.asker.client, _ClientLoad())
            client.requests.setdefault(ticket.asker, _RequestLoad()).checks += 1
            self._set(ticket, seconds)

    def change(self, ticket: Ticket[Any], seconds: float, *, one_window: bool = False) -> None:
        """Count a check with the `seconds` that it has left; no effect on one that is no longer counted.

        One of a single window runs in one go (`FairQueue`).
        """
        with self._lock:
            if ticket in self._booked:
                self._set(ticket, seconds)
                if one_window:
                    client = self._clients[ticket.reply][ticket.asker.client]
                    request = client.requests[ticket.asker]
                    client.window, request.window = max(client.window, seconds), max(request.window, seconds)

    def remove(self, ticket: Ticket[Any]) -> None:
        """No longer count a check."""
        with self._lock:
            self._set(ticket, 0.0)
            del self._booked[ticket]
            clients = self._clients[ticket.reply]
            client = clients[ticket.asker.client]
            request = client.requests[ticket.asker]
            request.checks -= 1
            if not request.checks:  # by the count: the seconds are sums of rounded numbers
                del client.requests[ticket.asker]
            if not client.requests:
                del clients[ticket.asker.client]

    def own(self, asker: Asker) -> float | None:
        """Seconds of the request's checks that wait or run; None if there are none."""
        with self._lock:
            found = [
                client.requests[asker]
                for clients in self._clients.values()
                if (client := clients.get(asker.client)) and asker in client.requests
            ]
            return sum(request.seconds for request in found) if found else None

    @property
    def total(self) -> float:
        """Seconds of all checks."""
        with self._lock:
            return self._sum(reply=True) + self._sum(reply=False)

    def wait(self, asker: Asker, *, reply: bool, seconds: float, pace: Pace = Pace()) -> float:
        """Seconds by which others would delay a check that takes `seconds`, by the shares of `FairQueue`.

        While a flow gets what it needs, every other busy flow gets as much as that, or all that it has, if it has less;
        and each may get one slice first. A request also waits for the replies to the requests before it.
        """
        with self._lock:
            clients = self._clients[reply]
            same = clients.get(asker.client, _ClientLoad()).requests
            most = max(seconds, _SLICE_S)
            own = seconds + sum(each.before(most) for each in same.values())
            most = max(own, _SLICE_S)
            kind = own + sum(each.before(most) for name, each in clients.items() if name != asker.client)
            share = 1 / REPLY_WEIGHT if reply else REPLY_WEIGHT
            real, other = (pace.reply, pace.request) if reply else (pace.request, pace.reply)
            before = real * (kind - seconds) * (1.0 if reply else 1.0 + pace.replies_share)
            return before + min(other * self._sum(reply=not reply), max(real * kind * share, _SLICE_S))

    def _set(self, ticket: Ticket[Any], seconds: float) -> None:
        more, self._booked[ticket] = seconds - self._booked[ticket], seconds
        client = self._clients[ticket.reply][ticket.asker.client]
        client.requests[ticket.asker].seconds += more
        client.seconds += more

    def _sum(self, *, reply: bool) -> float:
        return sum(client.seconds for client in self._clients[reply].values())
