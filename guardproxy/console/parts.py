"""What the page is built from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from guardproxy.console.people import People
from guardproxy.policy import Policy, PolicySet
from guardproxy.replay import StoredTurn
from guardproxy.reviews import LabelKind, Opinion
from guardproxy.sinks.database import ReviewStore, StoredRecord
from guardproxy.types import Decision, Side, Verdict


@dataclass(frozen=True, slots=True)
class TriedPolicy:
    """What a policy decides about a text; `error` says why there is no verdict, empty if there is one."""

    policy: str
    decision: Decision
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReadView:
    """A form of a text in which a guard read it: the text itself, or a view of it.

    `verdicts` has the verdict of each guard on this form alone, None if the guard gave none. `skipped` are the policies
    that do not ask for this view.
    """

    name: str
    text: str
    verdicts: Sequence[Verdict | None]
    skipped: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What one guard says of a text, and what each policy decides by it.

    `unread` are the languages that the guard does not read.
    """

    guard: str
    verdict: Verdict | None
    decisions: Sequence[TriedPolicy]
    unread: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A text that the guards judged: first the one that runs, then, if it combines others, each of these alone.

    `complete`: everything in the text that looks encoded was decoded. `excluded`: an exclusion covers the text.
    """

    trials: Sequence[Trial]
    views: Sequence[ReadView] = ()
    complete: bool = True
    excluded: bool = False


class TryIt(Protocol):
    """Judges a text with the configured guards, outside of any exchange and without a record."""

    async def __call__(self, text: str, side: Side) -> Tried:
        """Judge a text under every policy. A guard that fails is an `error` of the decisions, not an exception."""
        ...


@dataclass(frozen=True, slots=True)
class ThresholdChange:
    """New rules for some categories of a policy, which `by` wants to save.

    `policy` is the policy as it shall become, and `rules` the change as `settings.with_rules` takes it. `base` is the
    version of the policies that the page showed.
    """

    policy: Policy
    rules: str
    base: str
    by: str


class PolicyEditor(Protocol):
    """Changes thresholds in the configuration file, and puts them in force."""

    @property
    def file(self) -> str:
        """The name of the file; empty without one."""
        ...

    @property
    def preset(self) -> str:
        """The built-in policy that is in force because the configuration has none; empty if it has policies."""
        ...

    async def save(self, change: ThresholdChange) -> PolicySet:
        """Return the policies that decide after the change.

        Raises ConfigError with every reason why it cannot be saved; the file is then as it was.
        """
        ...


class AskOpinion(Protocol):
    """Asks another guard about a record, and stores what it says beside the labels."""

    async def __call__(self, store: ReviewStore, stored: StoredRecord, by: str, /) -> Opinion:
        """The opinion. Raises GuardproxyError if there is none, ValueError if the record is gone."""
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

    `rewrites` are the names that a rewrite may have.
    `stopping` tells whether the server is about to stop, which ends live pages. `kept` are the records that the
    workbench holds in memory for a while, by their filter. `opinion` is None if no guard gives second opinions.
    """

    store: ReviewStore
    people: People
    policies: Callable[[], PolicySet]
    interval: Interval
    try_it: TryIt
    editor: PolicyEditor
    rewrites: Sequence[str] = ()
    categories: Mapping[str, str] = field(default_factory=dict)
    stopping: Callable[[], bool] = lambda: False
    kept: dict[str, LoadedTurns] = field(default_factory=dict)
    opinion: AskOpinion | None = None
