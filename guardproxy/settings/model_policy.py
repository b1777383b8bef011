"""The shape of policies and routes in a configuration file, in the manner of `model`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len

from guardproxy.policy import (
    BlockPolicy,
    HistoryMode,
    JudgeScope,
    OnFailure,
    RewritePolicy,
    StreamMode,
    StreamPolicy,
)
from guardproxy.types import Role
from guardproxy.views import VIEWS

# How pydantic reads every mapping: unknown keys are mistakes, the texts under the fields their descriptions.
STRICT: Any = {"extra": "forbid", "use_attribute_docstrings": True}

Probability = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Interval(ge=1)]
Size = Annotated[int, Interval(ge=0)]
Text = Annotated[str, Len(1)]

# What `judge.skip` may name: the words of a turn itself are always judged.
Skippable = Literal["refusal", "reasoning", "tool_call", "tool_result", "tool_definition", "transcript"]

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
class Judge:
    """Which texts of a request are judged."""

    __pydantic_config__ = STRICT

    roles: tuple[Role, ...] = tuple(sorted(_JUDGE.roles))
    """Roles whose messages in a request are judged; `user` must be among them."""
    skip: tuple[Skippable, ...] = ("tool_definition",)
    """Kinds of content that are not judged."""


@dataclass(frozen=True, slots=True)
class History:
    """What becomes of earlier turns of the conversation."""

    __pydantic_config__ = STRICT

    unsafe_turns: HistoryMode = "drop"
    """Earlier turns that would be blocked now: `drop` sends the rest on, `block` refuses the request, `allow`."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the client gets in place of a blocked text."""

    __pydantic_config__ = STRICT

    how: Literal["completion", "error"] = _BLOCK.shape
    """`completion`: a normal reply with the message. `error`: the protocol's error body with HTTP 400."""
    message: Text = _BLOCK.message
    """The words that the client reads."""
    finish: Literal["content_filter", "stop"] = _BLOCK.finish
    """The finish reason of such a completion."""
    name_categories: bool = _BLOCK.name_categories
    """Whether the message names the categories."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The words that rewrites write."""

    __pydantic_config__ = STRICT

    replacement: Text = _REWRITE.replacement
    """What `replace` writes in place of a turn."""
    marker: Text = _REWRITE.marker
    """What `redact` writes in place of a sentence."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How streamed replies are held until they are judged."""

    __pydantic_config__ = STRICT

    mode: StreamMode = _STREAM.mode
    """`window` releases what is judged, `hold_all` the whole reply at its end, `monitor` everything at once."""
    every: Count = _STREAM.every
    """Characters between two checks."""
    exposure: Size = _STREAM.exposure
    """Characters that a client may see before a verdict covers them, at most."""


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
    judge: Judge = Judge()
    """Which texts of a request are judged."""
    history: History = History()
    """What becomes of earlier turns."""
    block: Block = Block()
    """What the client gets in place of a blocked text."""
    rewrite: Rewrite = Rewrite()
    """The words that rewrites write."""
    stream: Stream = Stream()
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
