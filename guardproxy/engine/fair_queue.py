"""Whose windows run next: start-time fair queueing between clients, and between the requests of a client.

Theory of operation. A check waits as its windows, and a slice takes a few windows of several checks. At each of three
levels (replies before requests, clients, the requests of a client) a flow has a start tag: the virtual time at which
its next window may start. The flow with the lowest tag goes first, and its tag grows by what its window costs. So every
busy flow gets the same share, and a new one does not wait for the rest of a long one (P. Goyal, H. M. Vin, H. Cheng,
"Start-time Fair Queuing", SIGCOMM 1996, with its hierarchy of flows). A flow that becomes busy starts at the virtual
time, which grows by the share of each busy flow in what is served, and is never behind the lowest tag (J. C. R.
Bennett, H. Zhang, "Hierarchical Packet Fair Queueing Algorithms", IEEE/ACM Transactions on Networking 1997): so new
flows, however many, do not overtake one that is served in part. The checks of one request run in order.

A check of one window ends once it has begun: if a further model must read the window, it goes first, and its flows pay
for it when they are served next. Otherwise it would wait for everybody again, and for all who have come meanwhile.
Pure: no clock, no threads, no torch.
"""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from guardproxy.asking import Asker
from guardproxy.engine.runner import WorkItem

T = TypeVar("T")

# The share of the replies in a full queue is this many times the share of the requests.
REPLY_WEIGHT = 16.0
# The most flows without work whose tags are kept.
_IDLE_FLOWS = 1024


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """The place of the check `item` in the queue: its windows that have not run, each with its index in the check.

    `reply`: the check holds a reply, streamed or whole. `cancelled`: nobody waits for it, so it is dropped. `taken`
    counts the windows that have run. `dropped`: it was counted as such.
    """

    item: T
    asker: Asker
    reply: bool
    windows: deque[tuple[int, WorkItem]] = field(default_factory=deque)
    cancelled: bool = False
    taken: int = 0
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class WaitingWindow(Generic[T]):
    """A window that runs now: the `index`-th of its check."""

    ticket: Ticket[T]
    index: int
    work: WorkItem


class _Flow(Generic[T]):
    """A flow of one level: it holds flows of the next level, or the tickets of one request.

    A tag is a number of the unit of costs. Of flows with equal tags, the one with the greatest weight goes first, then
    the one that became busy first.
    """

    def __init__(self, weights: dict[Hashable, float] | None = None) -> None:
        self.tickets: deque[Ticket[T]] = deque()
        self._weights = weights or {}
        self._busy: dict[Hashable, _Flow[T]] = {}
        self._heap: list[tuple[float, float, int, Hashable]] = []
        self._finished: dict[Hashable, float] = {}  # the tags of flows without work
        self._owed: dict[Hashable, float] = {}  # what busy flows have cost out of their turn
        self._virtual = 0.0
        self._order = count()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in it."""
        return not self._busy and not self.tickets

    def at(self, key: Hashable) -> "_Flow[T]":
        """The flow `key`, which becomes busy if it was not."""
        flow = self._busy.get(key)
        if flow is None:
            flow = self._busy[key] = _Flow()
            start = max(self._virtual, self._finished.pop(key, 0.0))
            heapq.heappush(self._heap, (start, -self._weight(key), next(self._order), key))
        return flow

    def busy(self, key: Hashable) -> "_Flow[T] | None":
        """The flow `key`, if it is busy."""
        return self._busy.get(key)

    def first(self) -> "_Flow[T]":
        """The flow that is served next: one that was served out of its turn pays for that now."""
        while owed := self._owed.pop(self._heap[0][3], 0.0):
            start, rank, order, key = heapq.heappop(self._heap)
            heapq.heappush(self._heap, (start + owed / self._weight(key), rank, order, key))
        return self._busy[self._heap[0][3]]

    @property
    def next_window(self) -> WaitingWindow[T]:
        """The first window of a flow of tickets."""
        ticket = self.tickets[0]
        return WaitingWindow(ticket, *ticket.windows[0])

    def remove(self, window: WaitingWindow[T]) -> None:
        """Take out the window that was the first, or all of its ticket if that is cancelled."""
        if not window.ticket.cancelled:
            window.ticket.windows.popleft()
        if window.ticket.cancelled or not window.ticket.windows:
            self.tickets.popleft()

    def owe(self, key: Hashable, cost: float) -> None:
        """Count `cost` for the flow `key`, which was served out of its turn."""
        if key in self._busy:
            self._owed[key] = self._owed.get(key, 0.0) + cost
        elif key in self._finished:
            self._finished[key] += cost / self._weight(key)

    def charge(self, cost: float) -> None:
        """Count `cost` for the flow that was served, and choose the next."""
        start, rank, order, key = heapq.heappop(self._heap)
        self._virtual += cost / sum(map(self._weight, self._busy))
        finish = start + cost / self._weight(key)
        if not self._busy[key].is_empty:
            heapq.heappush(self._heap, (finish, rank, order, key))
        else:
            del self._busy[key]
            self._finished[key] = finish
        if not self._busy:
            self._virtual, self._finished = 0.0, {}
            return
        self._virtual = max(self._virtual, self._heap[0][0])
        if len(self._finished) > _IDLE_FLOWS:
            self._finished = {key: tag for key, tag in self._finished.items() if tag > self._virtual}

    def _weight(self, key: Hashable) -> float:
        return self._weights.get(key, 1.0)


class FairQueue(Generic[T]):
    """The tickets that wait. `cost` gives the seconds of a window; a slice costs at most `budget`, as `take` says."""

    def __init__(self, cost: Callable[[WorkItem], float]) -> None:
        self._cost = cost
        self._root: _Flow[T] = _Flow({True: REPLY_WEIGHT})
        self._begun: deque[WaitingWindow[T]] = deque()  # that go first
        self.dropped = 0  # tickets that were cancelled

    @property
    def is_empty(self) -> bool:
        """Whether no ticket waits, not even a cancelled one."""
        return self._root.is_empty and not self._begun

    def add(self, ticket: Ticket[T]) -> None:
        """Queue a ticket behind the others of its request."""
        self._request(ticket).tickets.append(ticket)

    def add_again(self, ticket: Ticket[T], index: int, item: WorkItem) -> None:
        """Queue a window that a further model must read: first of all if its check has no other, or of its request."""
        if ticket.taken == 1 and not ticket.windows:
            self._begun.append(WaitingWindow(ticket, index, item))
            return
        waits = bool(ticket.windows)
        ticket.windows.appendleft((index, item))
        if not waits:
            self._request(ticket).tickets.appendleft(ticket)

    def take(self, budget: float, budget_tokens: int) -> list[WaitingWindow[T]]:
        """The windows that run next, in order: at most `budget_tokens`, and at most `budget` in the unit of `cost`.

        The first window always goes. Empty if nothing waits. Cancelled tickets are dropped.
        """
        slice_: list[WaitingWindow[T]] = []
        while not self.is_empty:
            path = [] if self._begun else list(self._path())
            window = self._begun[0] if self._begun else path[-1].next_window
            ticket, cost = window.ticket, 0.0
            if not ticket.cancelled:
                cost, tokens = self._cost(window.work), window.work.cost
                if slice_ and (cost > budget or tokens > budget_tokens):
                    break
                budget, budget_tokens, ticket.taken = budget - cost, budget_tokens - tokens, ticket.taken + 1
                slice_.append(window)
            elif not ticket.dropped:
                self.dropped, ticket.dropped = self.dropped + 1, True
            if path:
                path[-1].remove(window)
                for level in reversed(path[:-1]):
                    level.charge(cost)
            else:
                self._begun.popleft()
                self._owe(ticket, cost)
        return slice_

    def clear(self) -> list[Ticket[T]]:
        """Take all tickets out."""
        left = [window.ticket for window in self._begun]
        self._begun.clear()
        while not self._root.is_empty:
            path = list(self._path())
            left.append(path[-1].tickets.popleft())
            for level in reversed(path[:-1]):
                level.charge(0.0)
        return list(dict.fromkeys(left))

    def _owe(self, ticket: Ticket[T], cost: float) -> None:
        self._root.owe(ticket.reply, cost)
        if (kind := self._root.busy(ticket.reply)) is not None:
            kind.owe(ticket.asker.client, cost)
            if (client := kind.busy(ticket.asker.client)) is not None:
                client.owe(ticket.asker, cost)

    def _request(self, ticket: Ticket[T]) -> _Flow[T]:
        return self._root.at(ticket.reply).at(ticket.asker.client).at(ticket.asker)

    def _path(self) -> Iterator[_Flow[T]]:
        """The flows from the root to the request that is served next."""
        flow = self._root
        for _ in range(3):
            yield flow
            flow = flow.first()
        yield flow
