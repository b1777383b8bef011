"""The shape of policies and routes in a configuration file; see `model` for its conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, Len

from guardproxy.policy import (
    BlockFinish,
    BlockPolicy,
    BlockShape,
    HistoryMode,
    JudgeScope,
    OnFailure,
    OnUnavailable,
    PresetName,
    RewritePolicy,
    StreamPolicy,
    ThreadPolicy,
)
from guardproxy.sentences import SentencePolicy
from guardproxy.views import VIEWS

Probability = Annotated[float, Interval(ge=0, le=1)]
# P(unsafe) always reaches 0: as a condition it would have no effect.
Condition = Annotated[float, Interval(gt=0, le=1)]
Count = Annotated[int, Interval(ge=1)]
Text = Annotated[str, Len(1)]

_STREAM, _JUDGE = StreamPolicy(), JudgeScope()
_THREAD = ThreadPolicy()
_SENTENCES = SentencePolicy()


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """The probability from which a text is rewritten, and how."""

    at: Probability
    """The threshold."""
    how: Text = "replace"
    """The rewrite: `replace`, `redact`, `mask`, `steer` in requests, `regenerate` in replies, `module:attribute`."""
    with_unsafe: Condition | None = None
    """The rewrite also needs this overall probability; without it, that of the category's other rules, if any."""


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """The thresholds of a category, as probabilities. The most severe action whose threshold is reached applies."""

    flag: Probability | None = None
    """From this probability, the text passes and is marked in headers, metrics and audit records."""
    rewrite: RewriteSettings | None = None
    """From this probability, the text is rewritten."""
    block: Probability | None = None
    """From this probability, the text is withheld."""
    with_unsafe: Condition | None = None
    """Every action of the category also needs this overall probability; not for `unsafe` itself."""


@dataclass(frozen=True, slots=True)
class OpaqueSettings:
    """What to do with content that the guard cannot read, by side."""

    user: OnFailure = "flag"
    """In requests."""
    assistant: OnFailure = "flag"
    """In replies."""


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How earlier turns of the conversation are handled."""

    unsafe_turns: HistoryMode = "drop"
    """Earlier turns that would be blocked now: `drop` removes them, `block` refuses the request, `allow` sends them."""


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """What the client gets instead of a blocked text."""

    how: BlockShape = "completion"
    """`completion`: a normal reply with the message. `error`: the protocol's error body with HTTP 400."""
    message: Text | Mapping[str, Text | Mapping[str, Text]] = BlockPolicy().message
    """The text that the client reads. As a mapping: a text by category, "*" for all others; the most severe reason
    chooses. Each may be a mapping of texts by language and country, or `file:NAME`, a file with such a mapping."""
    place_header: Text | None = None
    """The request header that names the client's country or language, such as `cf-ipcountry`; without it, or if a
    request lacks it, `accept-language` does. `rewrite.instruction` uses it as well."""
    finish: BlockFinish = "content_filter"
    """The finish reason of the completion."""
    closing: str = BlockPolicy().closing
    """The last sentence of a stream that is cut behind text that the client has; empty for none."""
    name_categories: bool = False
    """Whether the message, and the reason for programs, name the categories."""


@dataclass(frozen=True, slots=True)
class RewriteTextSettings:
    """The texts that rewrites write, and their bounds."""

    replacement: Text = RewritePolicy().replacement
    """The text that `replace` writes instead of a turn."""
    marker: Text = RewritePolicy().marker
    """The text that `redact` writes instead of a sentence."""
    max_checks: Annotated[int, Interval(ge=2, le=10_000)] = RewritePolicy().max_checks
    """The most texts that `redact` has judged for one turn; a turn that needs more is blocked."""
    instruction: Text | Mapping[str, Text | Mapping[str, Text]] | None = None
    """What `steer` tells the model: a text, or texts by category and place as in `block.message`."""
    retry_instruction: Text = RewritePolicy().retry_instruction
    """What `regenerate` tells the model when it asks for another reply."""
    tries: Annotated[int, Interval(ge=1, le=5)] = RewritePolicy().tries
    """How many further replies `regenerate` asks for; if none may pass, the last one is blocked."""
    retry_s: Annotated[float, Interval(gt=0, le=3600)] = RewritePolicy().retry_s
    """Seconds since the arrival of the request after which `regenerate` asks for no further reply."""


_BLOCK, _REWRITE = BlockSettings(), RewriteTextSettings()


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How requests and replies are treated, depending on the guard's findings."""

    preset: PresetName | None = None
    """Rules for the embedded guard, by their strictness; own rules of the policy replace them, category by category. If
    the guard is the embedded one alone, the preset sets `thread` and `sentences` as well."""
    user: Mapping[str, ThresholdSettings] = field(default_factory=dict)
    """Rules for requests: by category, `unsafe` for the overall probability, "*" for all other categories."""
    assistant: Mapping[str, ThresholdSettings] = field(default_factory=dict)
    """Rules for replies, by the same keys."""
    tool: Mapping[str, ThresholdSettings] = field(default_factory=dict)
    """Rules for the results of tools, read by themselves; a category without one has that of `user`."""
    unsafe: ThresholdSettings | None = None
    """Rules for the overall probability, on every side without `unsafe` rules of its own."""
    on_guard_error: OnUnavailable = "error"
    """What to do if the guard fails, times out or gives an unreadable answer."""
    on_overload: OnUnavailable = "error"
    """What to do if the guard is overloaded."""
    on_opaque: OnFailure | OpaqueSettings = "flag"
    """What to do with content that the guard cannot read, such as images: for both sides or for each."""
    on_language: OnFailure | OpaqueSettings = "flag"
    """What to do with a text in a language that the guard does not read: for both sides or for each."""
    judge: JudgeScope = _JUDGE
    """Which texts of a request are judged."""
    history: HistorySettings = HistorySettings()
    """How earlier turns are handled."""
    block: BlockSettings = _BLOCK
    """What the client gets instead of a blocked text."""
    rewrite: RewriteTextSettings = _REWRITE
    """The texts that rewrites write, and their bounds."""
    stream: StreamPolicy = _STREAM
    """How streamed replies are held back until they are judged."""
    thread: ThreadPolicy = _THREAD
    """Whether each user turn is also judged together with the user turns before it, without the answers."""
    sentences: SentencePolicy = _SENTENCES
    """Whether the sentences of a user's text are also judged, each by itself."""
    views: tuple[str, ...] = VIEWS
    """Other forms of a text, such as decoded base64, that are judged as well if they differ from it."""


@dataclass(frozen=True, slots=True)
class ConditionSettings:
    """Conditions that must all hold; * stands for any text."""

    path: Text | None = None
    """The request's path, in any of the endpoint's spellings."""
    model: Text | None = None
    """The model that the request names; case does not count."""
    client: Text | None = None
    """The client as audit records show it: its name in `clients`, without that section the hash of its key."""
    protocol: Text | None = None
    """The protocol of the request: a name of `wires`, or of `apis`."""
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] | None = None
    """The method of the request. What is judged comes with POST."""
    user: Text | None = None
    """The end user as audit records show it: a hash, or plain with `audit.user_plain`; case counts."""
    header: Annotated[Mapping[str, str], Len(1, 1)] | None = None
    """A request header and its value; a request that sends the header twice is refused."""


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """Which requests a policy applies to. The first matching route is taken; without one, `default` applies."""

    name: Text
    """The name in records and metrics."""
    policy: Text
    """The policy that applies."""
    upstream: Text | None = None
    """The upstream, or the group of upstreams, that the requests go to; without it, `default`."""
    when: ConditionSettings = ConditionSettings()
    """The conditions of the route; without conditions, every request."""
    shadow: tuple[str, ...] = ()
    """Policies that are judged and recorded but never act."""
    may_choose: tuple[str, ...] = ()
    """Policies of which a caller may name one in `x-guardproxy-policy`; then the stricter decision of both applies."""
    overlap: bool = False
    """Whether the upstream is called while the request is judged. The reply waits, but the upstream has the request."""
