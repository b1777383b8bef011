"""The verbs: what each room expects of the others. Protocols, and the closed set of things a model is read for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from guardproxy.types import (
    Check,
    Conversation,
    Decision,
    Edit,
    Message,
    Outcome,
    Part,
    Record,
    Refuse,
    Replace,
    Taxonomy,
    Verdict,
)

# --- families: what a model is asked, and what it is read for ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a prompt.

    `special` is a control token of the template and is encoded as that token; everything else is ordinary text, in
    which control tokens have no power. Neighbouring ordinary pieces are encoded as one string, because tokens merge
    over their seams. `turn` is context that may be left out when the prompt is too long, `judged` the text that must
    be read in full, in windows if need be.
    """

    text: str
    kind: Literal["special", "frame", "turn", "judged"] = "frame"


@dataclass(frozen=True, slots=True)
class ClassLogits:
    """Read the class head of an encoder; `labels` in the order of its outputs."""

    labels: tuple[str, ...]
    activation: Literal["sigmoid", "softmax"]


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """Read the probabilities of named next tokens: one probability per label, normalised over all spellings given.

    `spellings[i]` are the texts whose first token counts for `labels[i]`.
    """

    labels: tuple[str, ...]
    spellings: tuple[tuple[str, ...], ...]


# Probability mass of label lists that may stay unexplored.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class LabelList:
    """Read a verdict word and, behind the unsafe one, a list of labels.

    The answer's grammar is `safe | unsafe + opening + label (separator label)* + end`. The first reading is P(unsafe),
    normalised over the first tokens of both words; then, for each label, P(unsafe) times the probability that it is
    in the list, summed over lists best first until the mass left over is below `tolerance`.
    """

    safe: str
    unsafe: str
    opening: str
    labels: tuple[str, ...]
    separator: str
    end: str
    tolerance: float = TOLERANCE


Readout = ClassLogits | TokenChoice | LabelList


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads, and what it is read for. `key` names the policy text at its head, which is shared."""

    pieces: tuple[Piece, ...]
    readout: Readout
    key: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One probability per label of the readout (a label list: `unsafe` first, then its labels)."""

    probabilities: tuple[float, ...]
    leftover: float = 0.0
    outside: float = 0.0


class Family(Protocol):
    """How a kind of guard model is asked and understood. Pure: no torch, no I/O."""

    taxonomy: Taxonomy

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """The prompts that together answer `check` (one, or one per category)."""
        ...

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """The verdict, from one reading per prompt. Raises GuardUnavailable where they make no sense."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """A call of a moderation service: POST `body` as JSON to `path`, with `params` as the query."""

    path: str
    body: Mapping[str, Any]
    params: Mapping[str, str] = field(default_factory=dict)


class ServiceFamily(Protocol):
    """How a moderation service is asked and understood. Pure: a runner sends the calls.

    `base_url` is the service's own, or empty where every customer has one. `key_header` carries the key, behind
    `key_prefix`. A text of more than `limit` (characters, or bytes of UTF-8 with `in_bytes`) goes in windows, and up
    to `batch` texts in one call.
    """

    taxonomy: Taxonomy
    base_url: str
    key_header: str
    key_prefix: str
    limit: int
    in_bytes: bool
    batch: int

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """The call that judges `texts`, at most `batch` of them."""
        ...

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """One verdict for each text, from the JSON of the answer. Raises GuardUnavailable where it is not whole."""
        ...


class Guard(Protocol):
    """Answers checks: an engine with its model, or several guards combined."""

    name: str
    taxonomy: Taxonomy

    async def judge(self, check: Check) -> Verdict:
        """The verdict. Raises GuardUnavailable (also on timeout) or Overloaded; cancelling it drops the check."""
        ...

    def forget(self, stream: str) -> None:
        """Drop what was kept for a streamed reply that has ended."""
        ...

    async def start(self) -> None:
        """Load the weights and warm up. Raises ConfigError where the model cannot be had."""
        ...

    async def close(self) -> None:
        """Release the model."""
        ...


# --- wires: one chat protocol each ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a wire has parsed. `body` is the parsed JSON and is for that wire only.

    `places` holds, for each message of the conversation, the paths in the body that contain it: its item in the message
    list, or the top-level fields of a message from beside the list. `resumes` names an earlier reply whose conversation
    the upstream keeps: the opaque part that stands for it, with the reply's id as its text. `received` is the time of
    arrival in seconds since 1970; the caller of the wire sets it.
    """

    wire: str
    path: str
    model: str
    stream: bool
    conversation: Conversation
    places: tuple[tuple[str, ...], ...]
    raw: bytes
    body: Mapping[str, Any]
    structured: bool = False
    resumes: Part | None = None
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply that a wire has read: one assistant message per choice.

    `id` is what a later request may name it by, where the protocol has that.
    """

    choices: tuple[Message, ...]
    raw: bytes
    body: Any
    id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client in place of the upstream's answer."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a chunk leaves a choice: `upto` characters of it have been seen (`Message.size`); `final` closes it.

    What says more behind the end is `final` once more. A chunk with `whole` may only leave once the whole choice is
    judged (tool calls, finish frames).
    """

    choice: int
    upto: int
    final: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One frame of a streamed reply, as it came, with what it adds to each choice."""

    raw: bytes
    marks: tuple[Mark, ...]
    data: Any = None


class ReplyStream(Protocol):
    """A streamed reply of one protocol, bytes in and bytes out. Knows what has been released, so it can end well."""

    def feed(self, data: bytes) -> list[Chunk]:
        """The frames completed by `data`, whatever the split. Raises UpstreamUnreadable."""
        ...

    def finish(self) -> list[Chunk]:
        """The upstream has ended: what is left, with a final mark for every choice still open."""
        ...

    def message(self, choice: int) -> Message:
        """The choice as far as it has been fed, part paths as in a whole reply."""
        ...

    def released(self, choice: int) -> Message:
        """The choice as far as it has left through `release`, with the part paths of `message`."""
        ...

    def release(self, chunk: Chunk) -> bytes:
        """The chunk's bytes for the client, less what belongs to choices that were ended by the proxy."""
        ...

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Frames that end `choice` in place of everything of it not yet released.

        A Replace extends what was released (its edits begin with it) and closes the choice normally; a Refuse closes
        it with the protocol's own content-filter ending.
        """
        ...

    def close(self) -> bytes:
        """The stream's own terminator, after every choice was ended by the proxy."""
        ...

    @property
    def choices(self) -> tuple[int, ...]:
        """The choices seen so far."""
        ...

    @property
    def id(self) -> str:
        """What a later request may name the reply by, where the protocol has that."""
        ...


class Wire(Protocol):
    """One chat protocol: what of a body is text, and how an outcome looks in it. Pure.

    `keepalive` is what may stand between two frames of a stream to show that it lives; empty where clients of this
    protocol would choke on it. `lines` says that its streams are lines of JSON, not events.
    """

    name: str
    keepalive: bytes
    lines: bool

    def claims(self, method: str, path: str) -> bool:
        """Whether this wire reads requests to `path`."""
        ...

    def parse_request(self, path: str, body: bytes) -> Request:
        """Raises Unreadable with the JSON path of what is wrong."""
        ...

    def edit_request(self, request: Request, edits: Sequence[Edit], drop: Sequence[int]) -> bytes:
        """The body with new texts at the edits' paths and without the messages `drop` (conversation indices)."""
        ...

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Raises UpstreamUnreadable."""
        ...

    def edit_reply(self, request: Request, reply: Reply, outcomes: Mapping[int, Outcome]) -> bytes:
        """The reply with each choice replaced or refused as its outcome says; choices that pass stay as they are."""
        ...

    def refuse(self, request: Request, refusal: Refuse) -> Answer:
        """A complete valid answer that carries the refusal, streamed if the request asked for a stream."""
        ...

    def error(self, status: int, code: str, message: str) -> Answer:
        """The protocol's own error body."""
        ...

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the reply to `request`."""
        ...


# --- actions and sinks ---------------------------------------------------------------------------------------------


class Judge(Protocol):
    """Judges a text again in the place of a turn: what rewrites need of the guard."""

    async def __call__(self, message: Message, /) -> Decision:
        """The policy's decision on the same turn with `message` in its place."""
        ...


class Action(Protocol):
    """Turns a decision into an outcome."""

    async def __call__(self, turn: Message, decision: Decision, judge: Judge) -> Outcome:
        """What happens to `turn`. `released` text of a stream is not its business."""
        ...


class Sink(Protocol):
    """Where records go."""

    async def write(self, records: Sequence[Record]) -> None:
        """Store the records, durably when it returns. Raises OSError or the store's own error."""
        ...

    async def close(self) -> None:
        """Flush and release."""
        ...
