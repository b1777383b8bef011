"""The nouns: what flows between the rooms. Frozen, slotted, standard library only.

A *message* has parts. A *turn* is a message that is judged. A *check* asks a guard about a turn. The guard answers with
a *verdict*: findings and P(unsafe). The policy makes a *decision* of it, an action makes an *outcome* of the decision,
and a *record* keeps all of them for the audit.

Units: `_s` at the end of a name is seconds, a probability is in [0, 1], lengths and positions are in characters.
"""

from typing import Literal

from guardproxy.frozen import frozen
from guardproxy.images import InlineImage

Side = Literal["user", "assistant"]
"""Whose rules hold: those for the request (users, tools, the system) or those for the reply."""

Role = Literal["system", "developer", "user", "assistant", "tool"]

PartKind = Literal[
    "text", "refusal", "reasoning", "tool_call", "tool_result", "tool_definition", "transcript", "image", "opaque"
]
"""What a part is. `opaque` is content that the guard does not read; all other kinds but `image` are text."""

# `ActionName` is how severe a *decision* is. An action (`guardproxy.actions`) is the plug-in that carries it out:
# `Decision.how` names that of a rewrite. An `Outcome` is what the action made of the text, which wires render.

ActionName = Literal["pass", "flag", "rewrite", "block"]
"""The severity of a decision, in ascending order. `flag` passes the text and marks it in headers, metrics and audit."""

Cause = Literal["verdict", "guard_error", "overload", "opaque", "language"]
"""Why a decision was made: for a verdict, or without one: the guard failed or was overloaded, or content is opaque.
`language`: the text is in a language that the guard does not read."""

OutcomeName = Literal["pass", "replace", "steer", "refuse", "drop"]
"""What happened to a text, in a record. `replace`: it was edited. `steer`: it was forwarded with an instruction.
`drop`: a turn of the history was left out of the request."""

SEVERITY: dict[ActionName, int] = {"pass": 0, "flag": 1, "rewrite": 2, "block": 3}
Span = tuple[int, int]  # the first character, and the one behind the last
# Categories that are not a kind of harm. The rule "*" does not cover them; a rule must name them.
SIGNALS = frozenset({"guard_injection", "jailbreak"})


# --- conversations ---------------------------------------------------------------------------------------------------


@frozen
class Part:
    """One piece of a message, readable or `opaque`.

    `path` is its place in the body, for example `messages[3].content[0].text`. `text` is empty for most opaque parts.
    `note` says what an opaque part is, for example "image"; that of an image, which file it is, with its SHA-256. The
    `image` of an opaque part is one that was not decoded, or that the guard does not read.
    """

    path: str
    text: str
    kind: PartKind = "text"
    note: str = ""
    image: InlineImage | None = None

    @property
    def shown_as(self) -> tuple[PartKind, str]:
        """What a reader of a stream tells apart: the kind and the last key of the path, such as `content`."""
        return self.kind, self.path.rpartition(".")[2]


@frozen
class Message:
    """A role and its parts: the lines of one text. `views.joined` has the other texts that readers make of them.

    `arrived` are the pieces of a streamed reply in the order of their arrival, those of its other choices included, if
    texts have arrived in alternation; otherwise it is empty.
    """

    role: Role
    parts: tuple[Part, ...]
    arrived: tuple[Part, ...] = ()

    @property
    def text(self) -> str:
        """The text that the guard reads: all readable parts that are not empty, one per line."""
        return "\n".join([part.text for part in self.parts if part.kind != "opaque" and part.text])

    @property
    def size(self) -> int:
        """Characters of all readable parts without separators: the unit of positions in a stream (`chunks.Mark`)."""
        return sum([len(part.text) for part in self.parts if part.kind != "opaque"])

    @property
    def side(self) -> Side:
        """The side whose rules hold for this message. System and tool messages are on the user's side."""
        return "assistant" if self.role == "assistant" else "user"

    @property
    def images(self) -> tuple[Part, ...]:
        """The parts that are images, of which the guard is shown one in a check."""
        return tuple([part for part in self.parts if part.kind == "image"])

    @property
    def opaque(self) -> tuple[Part, ...]:
        """The parts that the guard does not read."""
        return tuple([part for part in self.parts if part.kind == "opaque"])


@frozen
class Conversation:
    """Messages, oldest first."""

    messages: tuple[Message, ...]


@frozen
class Check:
    """One question to the guard: is the last message of this conversation unsafe? All others are its context.

    `stream` identifies the streamed reply that waits for the answer, None if no stream does. Checks of one stream share
    the guard's work on their common text, and run before others. `unfinished`: the message's last words may go on.
    A P(unsafe) below `least` makes no difference to the caller: the guard may answer any other number below it.
    """

    conversation: Conversation
    side: Side
    stream: str | None = None
    unfinished: bool = False
    least: float = 0.0

    @property
    def turn(self) -> Message:
        """The message that is judged."""
        return self.conversation.messages[-1]


# --- verdicts --------------------------------------------------------------------------------------------------------


@frozen
class Category:
    """A kind of harm.

    `id` stands in policies and records, `name` in prompts and reports. `code` is what a generative guard writes for it,
    such as "S1". `description`, and `examples` as few-shot lines, are for guards that read their policy in the prompt.
    """

    id: str
    name: str
    description: str = ""
    code: str = ""
    examples: tuple[str, ...] = ()


@frozen
class Taxonomy:
    """The categories of a guard. `id` and `version` (a hash of the content) identify it in records."""

    id: str
    categories: tuple[Category, ...]
    version: str = ""


@frozen
class Finding:
    """One category with its probability.

    `label` is the guard's own name for the category, if it has one. `view` names the form of the text that this was
    found in: "text" itself, or a view. `span` is where in it: the window that scored highest, or the match; or None. Of
    the kind `label` it is no probability, but a model's word for yes (1) or no (0).
    """

    category: str
    probability: float
    label: str = ""
    view: str = "text"
    span: Span | None = None
    kind: Literal["probability", "label"] = "probability"


@frozen
class Usage:
    """What a verdict cost. Of a service, the seconds of its calls, waits for its rate included, and their number.

    `verdicts` adds up tokens, windows and work of several checks, and waiting times of checks in sequence.
    """

    queue_s: float = 0.0  # between tokenising and the start of the first batch
    tokenize_s: float = 0.0  # of rendering and tokenising the prompts
    forward_s: float = 0.0  # of the batch's forward passes, in wall time
    tokens_computed: int = 0
    tokens_reused: int = 0  # whose keys and values came from the prefix cache
    batch: int = 0  # checks in it, the largest one if there were several
    windows: int = 1  # that the text was judged in, over all prompts
    cached: bool = False  # from the verdict cache; then its seconds and tokens are 0
    share_s: float = 0.0  # of computing for this check alone: its share of `forward_s` by tokens; always added up


@frozen
class Verdict:
    """A guard's answer to a check.

    `unsafe` is P(unsafe), over all categories. `guard` and `taxonomy` name what gave it. `leftover` is how far a
    probability may be off (label lists not explored, tokens that a server does not show), `outside` the mass that was
    not seen on verdict tokens. `view`, `span`, `kind` are those of P(unsafe), as in a finding. `raw` has the guard's
    own probability of each category, and of `unsafe`, that was calibrated. `rationale` is why, in a model's own words.
    """

    unsafe: float
    findings: tuple[Finding, ...]
    guard: str
    taxonomy: str = ""
    usage: Usage = Usage()
    leftover: float = 0.0
    outside: float = 0.0
    view: str = "text"
    span: Span | None = None
    raw: tuple[tuple[str, float], ...] = ()
    kind: Literal["probability", "label"] = "probability"
    rationale: str = ""


# --- decisions and outcomes ------------------------------------------------------------------------------------------


@frozen
class Reason:
    """A category whose `probability` reached the `threshold` of a rule; `action` is that of the rule.

    `with_unsafe` is the rule's threshold for P(unsafe), which is reached as well; 0 if the rule has none.
    """

    category: str
    probability: float
    threshold: float
    action: ActionName
    with_unsafe: float = 0.0

    @property
    def thresholds(self) -> str:
        """Every threshold of the rule as text."""
        second = f" with unsafe >= {self.with_unsafe:g}" if self.with_unsafe else ""
        return f"{self.threshold:g}{second}"


@frozen
class Decision:
    """The policy's decision about a turn.

    `action` is the most severe of all `reasons`. `how` names the rewrite (`steer` or another), empty for other actions.
    A `cause` other than "verdict" has no reasons; "language" has the `languages` that the guard does not read.
    """

    action: ActionName
    how: str
    reasons: tuple[Reason, ...]
    cause: Cause = "verdict"
    languages: tuple[str, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that reached a threshold, most probable first, without repetition."""
        ranked = sorted(self.reasons, key=lambda reason: -reason.probability) if self.reasons else ()
        return tuple(dict.fromkeys([reason.category for reason in ranked]))


@frozen
class Edit:
    """A new text for the part at `path`."""

    path: str
    text: str


@frozen
class Pass:
    """The text goes on as its original bytes."""


@frozen
class Replace:
    """The parts that `edits` name get a new text. With `whole`, all other readable parts are removed."""

    edits: tuple[Edit, ...]
    whole: bool = False


@frozen
class Steer:
    """The text goes on as it is, in a request that also has this `instruction` for the model. Not for replies."""

    instruction: str


@frozen
class Refuse:
    """The text is withheld, and the client reads `message` instead, or `closing` behind what it has already.

    `shape` is what carries the message: an ordinary `completion` whose finish reason is `finish`, or the protocol's
    `error` body. The client is told the categories `named`, and nothing of them if that is None. With `again`, another
    reply may be asked for in the place of this one, with `again` as an instruction for the model.
    """

    message: str
    shape: Literal["completion", "error"] = "completion"
    finish: Literal["content_filter", "stop"] = "content_filter"
    categories: tuple[str, ...] = ()
    closing: str = ""
    named: tuple[str, ...] | None = None
    again: str = ""


ReplyOutcome = Pass | Replace | Refuse
Outcome = ReplyOutcome | Steer


# --- records ---------------------------------------------------------------------------------------------------------


@frozen
class Coverage:
    """Whether one part was judged, and if not, `why`. `characters` is the length of its text; `note` is an image's."""

    path: str
    role: Role
    kind: PartKind
    characters: int
    judged: bool
    why: str = ""
    note: str = ""


@frozen
class Origin:
    """Where a judged turn comes from: the same for every record of an exchange.

    `upstream` is a URL, `model` the name in the request. `client` is its name in `clients` of the settings, else the
    start of a hash of its key; or empty. `stream`: whether a streamed reply was asked for. `user` and `session` are as
    the request names them, hashed unless `audit.user_plain`, or empty; or `pipeline.conversations` infers the session.
    """

    request_id: str
    route: str
    wire: str
    upstream: str
    model: str
    client: str = ""
    stream: bool = False
    user: str = ""
    session: str = ""


@frozen
class ReplyInfo:
    """What the upstream said of its reply, and what holding the reply back cost.

    `id` and `model` are the upstream's own, empty if it named none; token counts are None if it gave none.
    `held_characters` is the most text of a streamed reply that waited for a verdict at one time, `held_s` the longest
    time in seconds that a chunk waited. `attempt` counts the replies that were asked for, this one included.
    """

    id: str = ""
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    held_characters: int = 0
    held_s: float = 0.0
    attempt: int = 1


@frozen
class Record:
    """One judged turn, as the audit keeps it. The field names are the keys of stored records."""

    id: str  # random and unique, in hex
    time: float  # when the record was made, in seconds since 1970
    origin: Origin
    side: Side
    turn: int
    """The index of the message in the conversation; for a reply, the number of messages that it answers."""
    choice: int  # the index of the choice in a reply; 0 for a request
    policy: str
    policy_version: str  # a hash of the policy's text
    verdict: Verdict | None  # None if the turn has nothing that the guard reads, or the guard was unavailable
    decision: Decision
    outcome: OutcomeName
    text: str  # the turn's text, before sinks see it masked as `audit.text` says
    coverage: tuple[Coverage, ...]
    """The turn's own parts; in the last record of a request or reply also the parts without a record."""
    latency_s: float  # from the first check to the outcome
    error: str = ""
    """Why there is no verdict or not the final one, or why a reply could not be read; empty if nothing failed."""
    shadow: bool = False
    """Whether a shadow policy decided; such a decision is recorded only, and its outcome is always "pass"."""
    complete: bool = True
    """Whether the turn was judged to its end; False if the upstream cut it off, or the client left before its end."""
    late: bool = False  # it is only what came behind the end of a choice that has a record already
    reply: ReplyInfo | None = None  # of a reply; None for a user turn
    sampled: bool = False  # the turn is in the random sample of requests whose passed turns are kept for review
    exclusion: str = ""  # the ids of the exclusions without which a rule would have been reached, with commas
    exact: bool = False
    """Whether `text`, as sinks see it, is the judged text itself: nothing of it was masked or left out."""
