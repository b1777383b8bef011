"""Which jobs run next, and whether another may queue. Pure: no clock, no threads, no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from guardproxy.errors import Overloaded

# A job without a stream that has waited this many seconds ranks with the streams, so that they cannot starve it.
PATIENCE_S = 2.0

T = TypeVar("T")


@dataclass(slots=True)
class Ticket(Generic[T]):
    """A place in the queue. `arrived` is in seconds of any monotonic clock, `cost` in tokens."""

    item: T
    cost: int
    arrived: float
    holds_stream: bool = False
    cancelled: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class NextBatch(Generic[T]):
    """The tickets that run next, and the tickets that go on waiting, in the order of their arrival."""

    batch: tuple[Ticket[T], ...]
    waiting: tuple[Ticket[T], ...]


def next_batch(queue: Sequence[Ticket[T]], budget: int, now: float) -> NextBatch[T]:
    """Choose the next batch, up to `budget` tokens: stream holders first, then the oldest; cancelled tickets drop out.

    The first ticket always goes, whatever it costs.
    """
    alive = sorted((ticket for ticket in queue if not ticket.cancelled), key=lambda ticket: ticket.arrived)
    ranked = sorted(alive, key=lambda t: 0 if t.holds_stream or now - t.arrived > PATIENCE_S else 1)
    batch: list[Ticket[T]] = []
    left = budget
    for ticket in ranked:
        # Stop at the first ticket that does not fit. Filling the rest with smaller ones would starve large checks.
        if batch and ticket.cost > left:
            break
        batch.append(ticket)
        left -= ticket.cost
    chosen = {id(ticket) for ticket in batch}
    return NextBatch(tuple(batch), tuple(ticket for ticket in alive if id(ticket) not in chosen))


def passes(costs: Sequence[int], budget: int) -> Iterator[slice]:
    """Split a batch's work items, by their `costs` in tokens, into passes of at most `budget` tokens, in order.

    An item that costs more than `budget` is a pass of its own. The first job of a batch runs whatever it costs, and a
    text of a request's full size has thousands of windows: a single pass over them would take all memory.
    """
    start = used = 0
    for index, cost in enumerate(costs):
        if index > start and used + cost > budget:
            yield slice(start, index)
            start, used = index, 0
        used += cost
    if start < len(costs):
        yield slice(start, len(costs))


def admit(waiting_tokens: int, seconds_per_token: float, max_wait_s: float) -> None:
    """Refuse a job whose wait would be too long. Raises Overloaded.

    `waiting_tokens` counts the jobs that wait or run; `seconds_per_token` is a recent average.
    """
    expected = waiting_tokens * seconds_per_token
    if expected > max_wait_s:
        raise Overloaded(f"the guard is {expected:.1f} s behind, more than the {max_wait_s:g} s allowed")
