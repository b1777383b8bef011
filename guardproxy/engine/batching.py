"""Which checks run next, and whether another may queue. Pure: no clock, no threads, no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from guardproxy.errors import Overloaded

# A prompt that has waited this long goes in the order of its arrival with the streams: they cannot starve it.
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
class Taken(Generic[T]):
    """What `take` decided: the next batch, and those who go on waiting, in the order of their arrival."""

    batch: tuple[Ticket[T], ...]
    waiting: tuple[Ticket[T], ...]


def take(queue: Sequence[Ticket[T]], budget: int, now: float) -> Taken[T]:
    """The next batch: cancelled tickets dropped, stream holders first, then the oldest, up to `budget` tokens.

    A ticket that would not fit is passed over by none: order is kept, so that a large check is not starved by small
    ones. The first ticket always goes, whatever it costs.
    """
    alive = sorted((ticket for ticket in queue if not ticket.cancelled), key=lambda ticket: ticket.arrived)
    ranked = sorted(alive, key=lambda t: 0 if t.holds_stream or now - t.arrived > PATIENCE_S else 1)
    batch: list[Ticket[T]] = []
    left = budget
    for ticket in ranked:
        if batch and ticket.cost > left:
            break
        batch.append(ticket)
        left -= ticket.cost
    chosen = {id(ticket) for ticket in batch}
    return Taken(tuple(batch), tuple(ticket for ticket in alive if id(ticket) not in chosen))


def passes(costs: Sequence[int], budget: int) -> Iterator[slice]:
    """A batch's work, by its `costs` in tokens and in order, in passes of at most `budget`, or of one piece.

    The first check of a batch always goes, and a text of a request's full size has thousands of windows: in one pass
    they would take all memory.
    """
    start = used = 0
    for at, cost in enumerate(costs):
        if at > start and used + cost > budget:
            yield slice(start, at)
            start, used = at, 0
        used += cost
    if start < len(costs):
        yield slice(start, len(costs))


def admit(waiting_tokens: int, seconds_per_token: float, max_wait_s: float) -> None:
    """Refuse a check whose wait would be too long. Raises Overloaded.

    `waiting_tokens` are those of the checks that wait or run; `seconds_per_token` is what a token has cost of late.
    """
    expected = waiting_tokens * seconds_per_token
    if expected > max_wait_s:
        raise Overloaded(f"the guard is {expected:.1f} s behind, more than the {max_wait_s:g} s allowed")
