"""The nouns: what flows between the rooms. Frozen, slotted, standard library only."""

from dataclasses import dataclass, field
from typing import Literal

Side = Literal["user", "assistant"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
PartKind = Literal[
    "text", "refusal", "reasoning", "tool_call", "tool_result", "tool_definition", "transcript", "opaque"
]
ActionName = Literal["pass", "flag", "rewrite", "block"]
Cause = Literal["verdict", "guard_error", "overload", "opaque"]

SEVERITY: dict[ActionName, int] = {"pass": 0, "flag": 1, "rewrite": 2, "block": 3}

# Findings that are no category of harm: a rule must name them, "*" does not cover them.
SIGNALS = frozenset({"guard_injection", "jailbreak"})


@dataclass(frozen=True, slots=True)
class Part:
    """One readable (or `opaque`) piece of a message.

    `path` is its place in the body, as `messages[3].content[0].text`; `note` says of an opaque part what it is.
    """

    path: str
    text: str
    kind: PartKind = "text"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A role and its parts. Several parts are read as lines of one text."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """What the guard reads of this message."""
        return "\n".join(part.text for part in self.parts if part.kind != "opaque" and part.text)

    @property
    def size(self) -> int:
        """Characters of all readable parts, separators not counted: the unit of positions in a stream."""
        return sum(len(part.text) for part in self.parts if part.kind != "opaque")

    @property
    def opaque(self) -> tuple[Part, ...]:
        """The parts that no guard can read."""
        return tuple(part for part in self.parts if part.kind == "opaque")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, oldest first."""

    messages: tuple[Message, ...]

    def upto(self, index: int) -> "Conversation":
        """The conversation that ends with message `index`."""
        return Conversation(self.messages[: index + 1])

    def then(self, message: Message) -> "Conversation":
        """The conversation followed by `message`."""
        return Conversation((*self.messages, message))


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the guard: is the last message of this conversation unsafe?

    `stream` names the streamed reply that waits for the answer; checks of one stream reuse what they share and go
    before checks that hold nobody.
    """

    conversation: Conversation
    side: Side
    stream: str | None = None

    @property
    def turn(self) -> Message:
        """The message that is judged."""
        return self.conversation.messages[-1]


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of harm. `code` is what a generative guard prints for it; `description` goes into its prompt.

    `examples` are few-shot lines for guards that read their policy from the prompt.
    """

    id: str
    name: str
    description: str = ""
    code: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The categories a guard judges by. `id` and `version` (a content hash) identify it in records."""

    id: str
    categories: tuple[Category, ...]
    version: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One category with its probability in [0, 1]; `view` names the reading of the text it was found in."""

    category: str
    probability: float
    label: str = ""
    view: str = "text"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a verdict cost.

    `queue_s` is the wait between tokenising and the start of the batch, `tokenize_s` the time for rendering and
    tokenising, `forward_s` the wall time of the batch's forward passes (of a service's calls, waits for its rate
    included), and `share_s` the check's equal share of `forward_s`; all in seconds. `batch` is the number of checks in
    the batch (of calls to a service), `windows` the number of windows read. `cached` means that the verdict came from
    the cache at no other cost. verdicts.py adds up the usage of several checks: times in parallel are the longest, in
    sequence the sum.
    """

    queue_s: float = 0.0
    tokenize_s: float = 0.0
    forward_s: float = 0.0
    tokens_computed: int = 0
    tokens_reused: int = 0
    batch: int = 0
    windows: int = 1
    cached: bool = False
    share_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard says: P(unsafe), every category's probability, and how sure the reading is.

    `leftover` is the probability mass of label lists not explored; `outside` the mass at the verdict position that
    lies on neither verdict token.
    """

    unsafe: float
    findings: tuple[Finding, ...]
    guard: str
    taxonomy: str = ""
    usage: Usage = field(default_factory=Usage)
    leftover: float = 0.0
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class Reason:
    """A category that reached a threshold."""

    category: str
    probability: float
    threshold: float
    action: ActionName


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says: the most severe action reached, how it is done, and every reason for it."""

    action: ActionName
    how: str
    reasons: tuple[Reason, ...]
    cause: Cause = "verdict"

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that reached a threshold, most probable first, each once."""
        ranked = sorted(self.reasons, key=lambda reason: -reason.probability)
        return tuple(dict.fromkeys(reason.category for reason in ranked))


@dataclass(frozen=True, slots=True)
class Edit:
    """A new text for the part at `path`."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Pass:
    """The text goes on as it came."""


@dataclass(frozen=True, slots=True)
class Replace:
    """The named parts get a new text. With `whole`, readable parts that no edit names are removed."""

    edits: tuple[Edit, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The text does not go on; `message` is what the client reads instead."""

    message: str
    shape: Literal["completion", "error"] = "completion"
    finish: Literal["content_filter", "stop"] = "content_filter"
    categories: tuple[str, ...] = ()


Outcome = Pass | Replace | Refuse


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of one part: judged, or not and why."""

    path: str
    role: Role
    kind: PartKind
    characters: int
    judged: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a judged turn comes from: the same for every record of an exchange."""

    request_id: str
    route: str
    wire: str
    upstream: str
    model: str
    client: str = ""
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One judged turn, as the audit keeps it. `time` is seconds since the epoch, `latency_s` what judging it took."""

    id: str
    time: float
    origin: Origin
    side: Side
    turn: int
    choice: int
    policy: str
    policy_version: str
    verdict: Verdict | None
    decision: Decision
    outcome: str
    text: str
    coverage: tuple[Coverage, ...]
    latency_s: float
    error: str = ""
    shadow: bool = False
