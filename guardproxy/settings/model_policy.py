"""The shape of policies and routes in a configuration file, in the manner of `model`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval, Len

from guardproxy.policy import (
    BlockPolicy,
    HistoryMode,
    JudgeScope,
    OnFailure,
    RewritePolicy,
    StreamPolicy,
)
from guardproxy.views import VIEWS

# How pydantic reads every mapping: unknown keys are mistakes, the texts under the fields their descriptions.
STRICT: Any = {"extra": "forbid", "use_attribute_docstrings": True}

Probability = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Interval(ge=1)]
Text = Annotated[str, Len(1)]

_BLOCK, _REWRITE, _STREAM, _JUDGE = BlockPolicy(), RewritePolicy(), StreamPolicy(), JudgeScope()


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """From which probability on a text is rewritten, and how."""

    __pydantic_config__ = STRICT

    at: Probability
    """The threshold."""
    how: Text = "replace"
    """The rewrite: `replace`, `redact`, or `module:attribute`."""


@dataclass(frozen=True, slots=True)
class CategoryRules:
    """Thresholds of one category, each a probability; the most severe one that is reached acts. None: it passes."""

    __pydantic_config__ = STRICT

    flag: Probability | None = None
    """From here on the text passes and is marked in headers, metrics and audit."""
    rewrite: RewriteRule | None = None
    """From here on the text is rewritten."""
    block: Probability | None = None
    """From here on the text is withheld."""


@dataclass(frozen=True, slots=True)
class OnOpaque:
    """What to do with content that the guard cannot read, by side."""

    __pydantic_config__ = STRICT

    user: OnFailure = "flag"
    """In requests."""
    assistant: OnFailure = "flag"
    """In replies."""


@dataclass(frozen=True, slots=True)
class History:
    """What becomes of earlier turns of the conversation."""

    __pydantic_config__ = STRICT

    unsafe_turns: HistoryMode = "drop"
    """Earlier turns that would be blocked now: `drop` sends the rest on, `block` refuses the request, `allow`."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What is done about what the guard finds."""

    __pydantic_config__ = STRICT

    user: Mapping[str, CategoryRules] = field(default_factory=dict)
    """Rules for requests: by category, `unsafe` for the overall probability, "*" for all other categories."""
    assistant: Mapping[str, CategoryRules] = field(default_factory=dict)
    """Rules for replies, likewise."""
    unsafe: CategoryRules | None = None
    """Rules for the overall probability on every side that has no `unsafe` of its own."""
    on_guard_error: OnFailure = "block"
    """What to do where the guard failed, timed out or said something unreadable."""
    on_overload: OnFailure = "block"
    """What to do where the guard had no time."""
    on_opaque: OnFailure | OnOpaque = "flag"
    """What to do with content that the guard cannot read, such as images: for both sides or for each."""
    judge: JudgeScope = _JUDGE
    """Which texts of a request are judged."""
    history: History = History()
    """What becomes of earlier turns."""
    block: BlockPolicy = _BLOCK
    """What the client gets in place of a blocked text."""
    rewrite: RewritePolicy = _REWRITE
    """The words that rewrites write."""
    stream: StreamPolicy = _STREAM
    """How streamed replies are held."""
    views: tuple[str, ...] = VIEWS
    """Readings of a text that are judged as well where they differ from it."""


@dataclass(frozen=True, slots=True)
class When:
    """Conditions, all of which must hold; * stands for any text."""

    __pydantic_config__ = STRICT

    path: Text | None = None
    """The request's path."""
    model: Text | None = None
    """The model that the request names."""
    client: Text | None = None
    """The hash of the client's key, as audit records show it."""
    header: Annotated[Mapping[str, str], Len(1, 1)] | None = None
    """A request header and its value."""


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """Which requests a policy is for. The first route that matches is taken, and `default` where none does."""

    __pydantic_config__ = STRICT

    name: Text
    """The name in records and metrics."""
    policy: Text
    """The policy that acts."""
    when: When = When()
    """The requests it is for; without conditions, all."""
    shadow: tuple[str, ...] = ()
    """Policies that are judged and recorded but never act."""
