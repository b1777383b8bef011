"""What people say of records and do after it: a text is harmless, a decision right or wrong, a threshold another."""

from dataclasses import dataclass
from typing import Final, Literal

EXCLUDED_FOR: Final = "30d"
"""How long an exclusion holds if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Somebody's word that a text is harmless: the findings of `category` in exactly this text do not count.

    The category "*" stands for all of them and P(unsafe), "unsafe" for P(unsafe) alone. Exclusions are never edited: of
    those with one id, the last one counts.
    """

    id: str
    """In hex."""
    text: str
    """The SHA-256 of the text, in hex."""
    category: str
    reason: str
    by: str
    """The name of the person."""
    until: float
    """When it ends, in seconds since 1970."""
    time: float = 0.0
    """When it was made, in seconds since 1970; 0 if the configuration has it."""
    record: str = ""
    """The id of the record whose text it is; empty if the configuration has it."""


LabelKind = Literal["false_positive", "correct", "false_negative", "none"]
"""What a reviewer says of a decision: too severe, right, or too mild. `none` withdraws the reviewer's last label."""


@dataclass(frozen=True, slots=True)
class Label:
    """A reviewer's word on a stored record. Labels are never edited: the last one of a reviewer on a record counts."""

    record: str
    """The id of the record."""
    kind: LabelKind
    by: str
    """The name of the reviewer."""
    time: float
    """When the label was given, in seconds since 1970."""
    category: str = ""
    """The category that the label speaks of; empty if it is the decision as a whole."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What another guard says of a stored record: an annotation for reviewers, and never a label of theirs."""

    record: str
    """The id of the record."""
    guard: str
    """The name of the guard: its model."""
    taxonomy: str
    """Its categories as `id@version`; of a guard with a policy text, the version covers that text."""
    by: str
    """The name of the person who asked for it."""
    time: float
    """When it was given, in seconds since 1970."""
    kind: Literal["probability", "label"]
    """What the numbers are."""
    unsafe: float
    findings: tuple[tuple[str, float], ...]
    """Categories with their numbers, the greatest first."""
    exact: bool
    """Whether the guard read the judged text itself, and not one of which parts are masked."""
    rationale: str = ""
    """Why, in the model's own words; empty if it gives no reason, or if that was erased."""


@dataclass(frozen=True, slots=True)
class ChangedRule:
    """A rule of a category before and after a change, in words; empty where there is none."""

    side: str
    category: str
    rule: str
    """The action, or what it needs."""
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """New thresholds of a policy that somebody saved on the reviewer's page."""

    by: str
    """The name of the person."""
    time: float
    """When the change was saved, in seconds since 1970."""
    policy: str
    """The name of the policy."""
    before: str
    """The version of the configuration before."""
    after: str
    """The version of the configuration after."""
    policy_before: str
    """The version of the policy before, which records name."""
    policy_after: str
    """The version of the policy after."""
    file: str
    rules: tuple[ChangedRule, ...]
