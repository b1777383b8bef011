"""What the page is built from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from guardproxy.console.people import People
from guardproxy.policy import PolicySet
from guardproxy.replay import StoredTurn
from guardproxy.sinks.database import ReviewStore
from guardproxy.types import Decision, LabelKind, Side, Verdict


@dataclass(frozen=True, slots=True)
class TriedPolicy:
    """What a policy decides about a text; `error` says why there is no verdict, empty if there is one."""

    policy: str
    decision: Decision
    error: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A text that the running guard judged. `views` are the names and texts of the views that it was read in."""

    verdict: Verdict | None
    decisions: Sequence[TriedPolicy]
    views: Sequence[tuple[str, str]] = ()
    complete: bool = True
    unread: tuple[str, ...] = ()
    seconds: float = 0.0


class TryIt(Protocol):
    """Judges a text with the running guard, outside of any exchange and without a record."""

    async def __call__(self, text: str, side: Side) -> Trial:
        """Judge a text under every policy. A guard that fails is an `error` of the decisions, not an exception."""
        ...


Interval = Callable[[int, int], tuple[float, float]]
"""The 95 % interval of a share, from its hits and the number of cases; (0, 1) without cases."""


@dataclass(frozen=True, slots=True)
class LoadedTurns:
    """The turns of a filter with the last label on each, as they were `at` that time of the monotonic clock."""

    turns: Sequence[StoredTurn]
    labels: Mapping[str, LabelKind]
    at: float


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """The objects that the pages use. `policies` returns those in force, `categories` names each category for people.

    `stopping` tells whether the server is about to stop, which ends live pages. `kept` are the records that the
    workbench holds in memory for a while, by their filter.
    """

    store: ReviewStore
    people: People
    policies: Callable[[], PolicySet]
    interval: Interval
    try_it: TryIt
    categories: Mapping[str, str] = field(default_factory=dict)
    stopping: Callable[[], bool] = lambda: False
    kept: dict[str, LoadedTurns] = field(default_factory=dict)
