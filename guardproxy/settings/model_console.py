"""The shape of the section `console` of a configuration file; see `model` for its conventions."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, Len

ReviewerRole = Literal["read", "label", "admin"]
OPERATOR = "operator"  # the name that belongs to `console.key`


@dataclass(frozen=True, slots=True)
class ConsoleKeySettings:
    """The key of one person: either `key` or `hash`."""

    name: Annotated[str, Len(1, 100)]
    """The person's name, which labels carry."""
    role: ReviewerRole = "label"
    """`read` sees everything, `label` gives labels as well, `admin` also erases records."""
    key: str | None = field(default=None, repr=False)
    """The key, as ${env:NAME}."""
    hash: str | None = field(default=None, repr=False)
    """The SHA-256 of the key in 64 hex digits, instead of the key."""


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """The reviewer's page at /guardproxy/."""

    enabled: bool = True
    """Whether the page is served. Without keys, it is served only if the proxy listens on loopback."""
    key: str | None = field(default=None, repr=False)
    """One key with the role `admin`, as ${env:NAME}; the labels that it gives carry the name `operator`."""
    keys: tuple[ConsoleKeySettings, ...] = ()
    """Keys of several people."""
    session_hours: Annotated[float, Interval(gt=0, le=720)] = 12.0
    """Hours after which a person must sign in again."""
