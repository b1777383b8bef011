"""The verbs: the protocols between the rooms, and the values that pass through them.

A *family* turns a check into prompts and readings into a verdict; a *guard* does so with a model or a service. A *wire*
reads and writes one chat protocol. An *action* turns a decision into an outcome. A *sink* stores records. `Readout` is
the closed set of things that a model is read for.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Protocol, TypeVar

from guardproxy.chunks import Chunk, ChunkRun
from guardproxy.frozen import frozen
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
    ReplyInfo,
    ReplyOutcome,
    Span,
    Taxonomy,
    Verdict,
)

# --- families: the prompts for a check, and what a model is read for ------------------------------------------------


@frozen
class Piece:
    """A piece of a prompt: a `special` control token, encoded as that token, or ordinary text.

    In ordinary text no control token has any effect; adjacent ordinary pieces are encoded as one string, because tokens
    merge across them. `frame`: fixed text. `turn`: context, which may be left out if the prompt is too long. `judged`:
    the text that must be read in full, in windows if necessary.
    """

    text: str
    kind: Literal["special", "frame", "turn", "judged"] = "frame"


@frozen
class ClassLogits:
    """Read the class head of an encoder. `labels` are in the order of its outputs."""

    labels: tuple[str, ...]
    activation: Literal["sigmoid", "softmax"]


@frozen
class TokenChoice:
    """Read the probability of each label from the next token, normalised over all spellings of all labels.

    `spellings[i]` are the texts whose first token counts for `labels[i]`.
    """

    labels: tuple[str, ...]
    spellings: tuple[tuple[str, ...], ...]


TOLERANCE = 1e-3  # probability mass of label lists that may stay unexplored


@frozen
class LabelList:
    """Read a verdict token and, after the unsafe one, a list of labels.

    The answer's grammar is `safe | unsafe + opening + label (separator label)* + end`. The first probability of the
    reading is P(unsafe), normalised over the first tokens of `safe` and `unsafe`. Then, for each label, P(unsafe) times
    the probability that the list contains it: a sum over lists, most probable first, until the probability mass of all
    other lists is below `tolerance`.
    """

    safe: str
    unsafe: str
    opening: str
    labels: tuple[str, ...]
    separator: str
    end: str
    tolerance: float = TOLERANCE


Readout = ClassLogits | TokenChoice | LabelList


@frozen
class Prompt:
    """The text that a model reads, and its readout. `key` identifies the policy text at its start, which is shared."""

    pieces: tuple[Piece, ...]
    readout: Readout
    key: str
    least: float = 0.0  # as in `types.Check`


@frozen
class Reading:
    """One probability per label of the readout (a label list: unsafe, then its labels); the rest as in `Verdict`.

    `spans` has the characters of the judged text in which each probability was found; it is empty if that is the whole
    text, or unknown.
    """

    probabilities: tuple[float, ...]
    leftover: float = 0.0
    outside: float = 0.0
    spans: tuple[Span, ...] = ()


class Family(Protocol):
    """How a kind of guard model is prompted and read. Pure: no torch, no I/O."""

    taxonomy: Taxonomy

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """The prompts whose readings together answer `check`: one, or one per category."""

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """The verdict, from one reading per prompt. Raises GuardUnavailable if they cannot be a model's answer."""


@frozen
class ServiceCall:
    """A call to a moderation service: POST `body` as JSON to `path`, with `params` as the query."""

    path: str
    body: Mapping[str, Any]
    params: Mapping[str, str] = field(default_factory=dict)


class ServiceFamily(Protocol):
    """How a moderation service is called and its answer parsed. Pure: the guard (`guards.services`) sends the calls.

    `base_url` is the service's address, or empty if every customer has another. The header `key_header` holds
    `key_prefix` and the key. A text longer than `limit` (characters, or bytes of UTF-8 with `in_bytes`) is judged in
    windows. One call holds up to `batch` texts.
    """

    taxonomy: Taxonomy
    base_url: str
    key_header: str
    key_prefix: str
    limit: int
    in_bytes: bool
    batch: int

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """The call that judges at most `batch` texts."""

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """One verdict for each text, from the answer's JSON. Raises GuardUnavailable if anything is missing in it."""


class Guard(Protocol):
    """Answers checks: with a local model, with a service, or with several guards combined."""

    name: str
    taxonomy: Taxonomy

    async def judge(self, check: Check) -> Verdict:
        """The verdict on a check. Cancelling the call drops the check.

        Raises Overloaded if the wait would be too long, GuardUnavailable for every other failure, timeouts included.
        """

    def forget(self, stream: str) -> None:
        """Free the memory kept for a streamed reply (`Check.stream`) that has ended."""

    async def start(self) -> None:
        """Load the weights and warm up. Raises ConfigError if the model cannot be loaded."""

    async def close(self) -> None:
        """Release the model."""


# --- wires: one chat protocol each ---------------------------------------------------------------------------------


@frozen
class Request:
    """A request that a wire has parsed. `body` is the parsed JSON and is for that wire only.

    `places` holds, for each message of the conversation, the paths in the body that contain it: its item in the message
    list, or the top-level fields of a message from beside the list. `resumes` names an earlier reply whose conversation
    the upstream keeps: the opaque part that stands for it, with the reply's id as its text. With `structured` the reply
    must follow a schema, so it is refused, not rewritten; with `must_call` it must call a tool. With `after_refusal`
    it named a refused or withheld reply, and `resumes` names the one before. Only with `instructible` does an
    instruction reach the model. Without `repeatable`, the upstream keeps a reply where the next one would stand behind
    it. `received` is the time of arrival in seconds since 1970, and `id` the proxy's name for the request, which
    refusals tell the client; the caller of the wire sets both.
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
    instructible: bool = False
    repeatable: bool = True
    must_call: bool = False
    resumes: Part | None = None
    after_refusal: bool = False
    received: float = 0.0
    id: str = ""

    @property
    def has_form(self) -> bool:
        """Whether the reply must have a form that only programs read: then a refusal is no text, but marked as one."""
        return self.structured or self.must_call


@frozen
class Reply:
    """A whole reply that a wire has parsed: one assistant message per choice. `raw` are its original bytes.

    `body` is the parsed JSON and is for that wire only. `id` is the name by which a later request may resume the
    conversation, empty if the protocol has none. `info` is what the upstream says of the reply.
    """

    choices: tuple[Message, ...]
    raw: bytes
    body: Any
    id: str = ""
    info: ReplyInfo = ReplyInfo()


@frozen
class Answer:
    """An answer to the client that takes the place of the upstream's. `status` is the HTTP status."""

    status: int
    content_type: str
    body: bytes


class ReplyStream(Protocol):
    """Reads and writes one streamed reply. It knows which text was released, so that it can end a choice after it."""

    def feed(self, data: bytes) -> list[Chunk | ChunkRun]:
        """The chunks that `data` completes; it may be split anywhere. Raises UpstreamUnreadable."""

    def finish(self) -> list[Chunk]:
        """The last chunks, after the upstream has ended, with a final mark for every choice that is still open."""

    def message(self, choice: int, without: Collection[int] = ()) -> Message:
        """The text of a choice that was fed so far, with the part paths of a whole reply.

        `Message.arrived` leaves out the unreleased texts of the choices `without`.
        """

    def alone(self, choice: int) -> Message:
        """The same without `Message.arrived`."""

    def released(self, choice: int) -> Message:
        """The text of a choice that was released so far, with the part paths of `message`."""

    def release(self, chunk: Chunk) -> bytes:
        """The chunk's bytes for the client, without the choices that the proxy has ended."""

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Frames that end `choice` and take the place of all its text that is not released yet.

        The edits of a Replace start with the released text; the frames add the rest of each edit and end the choice
        normally. A Refuse ends the choice with the protocol's content-filter finish reason."""

    def close(self) -> bytes:
        """The stream's terminator, for a stream in which the proxy has ended choices; empty if it was released."""

    @property
    def choices(self) -> tuple[int, ...]:
        """The indices of the choices that were fed so far."""

    @property
    def id(self) -> str:
        """The reply's id, as in `Reply.id`."""

    @property
    def info(self) -> ReplyInfo:
        """What the upstream has said of the reply so far, as in `Reply.info`."""

    def is_complete(self, choice: int) -> bool:
        """Whether the upstream itself has ended the choice in what was fed."""


class Wire(Protocol):
    """One chat protocol: which parts of a body are text, and how an outcome is written in it. Pure.

    `keepalive` is a comment that may be sent between two frames of a stream to keep the connection open; empty if the
    protocol's clients cannot read one. `lines`: streams are lines of JSON, not server-sent events. `resumable`: a
    request may go on from an earlier reply (`Request.resumes`). `refuses_by_error`: no reply can carry a refusal.
    """

    name: str
    keepalive: bytes
    lines: bool
    resumable: bool
    refuses_by_error: bool

    def claims(self, method: str, path: str) -> bool:
        """Whether this wire reads requests to `path`."""

    def parse_request(self, path: str, body: bytes, received: float = 0.0, request_id: str = "") -> Request:
        """The parsed request. `path` includes the query. Raises Unreadable with the JSON path of the mistake."""

    def models(self, request: Request) -> Sequence[tuple[str, str]]:
        """The place (a JSON path) and the name of every model that the upstream may use for the request.

        The first is `Request.model`, if it is not empty.
        """

    def continued(self, request: Request, reply: str) -> Request:
        """The request, going on from the reply with this id, or from none; of a wire that is `resumable`."""

    def edit_request(self, request: Request, edits: Sequence[Edit], drop: Sequence[int]) -> bytes:
        """The body with the edits made and without the messages at the indices `drop` of the conversation."""

    def instructed(self, request: Request, body: bytes, instruction: str) -> bytes:
        """The body of an `instructible` request, edited or not, with an instruction of the operator's.

        It stands where the user's text cannot take its authority away, and no reply shows it.
        """

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """The parsed reply, or error body, to `request`. Raises UpstreamUnreadable."""

    def edit_reply(self, request: Request, reply: Reply, outcomes: Mapping[int, ReplyOutcome]) -> bytes:
        """The reply's body with the outcomes applied to the choices at their indices; all others stay unchanged."""

    def refuse(self, request: Request, refusal: Refuse) -> Answer:
        """A complete, valid answer with the refusal: a stream if the request asked for one."""

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """The protocol's error body; of a block, with a reason for programs."""

    def error_event(self, error: Answer, content_type: str) -> bytes:
        """An error as the last event of a stream of this content type that has begun."""

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the streamed reply to `request`; `content_type` is that of the reply."""


# --- actions and sinks ---------------------------------------------------------------------------------------------


class JudgeAgain(Protocol):
    """Judges a rewritten text in the same place: how an action finds out whether its rewrite is safe."""

    async def __call__(self, message: Message, /) -> Decision:
        """The decision on `message` in the place of the turn, in its context and under its policy."""


class Action(Protocol):
    """Turns a decision to rewrite or to block into an outcome.

    The name of a rewriting action stands in `Decision.how` (a rule's `how`); a decision to block uses `block`.
    """

    async def __call__(self, turn: Message, decision: Decision, judge_again: JudgeAgain, /) -> Outcome:
        """The outcome for `turn`. To rewrite a stream, it is called with the text that was not sent yet."""


class Sink(Protocol):
    """A place that stores records. Its methods raise OSError or the store's own error."""

    async def write(self, records: Sequence[Record]) -> None:
        """Store the records; they are durable when it returns. The first call has none: it opens the sink."""

    async def close(self) -> None:
        """Flush, and release the resources."""


# --- what several processes know --------------------------------------------------------------------------------------

T = TypeVar("T")
# A verdict of the guard; of a reply that the upstream keeps: that it passed, who gave it, and that it was withheld.
StateKind = Literal["verdict", "passed", "giver", "withheld"]


class SharedState(Protocol):
    """Values that several processes know, by kind and key. Any of them may be lost: that costs time, never a verdict.

    Values are JSON without any text of a user.
    """

    async def get(self, kind: StateKind, key: bytes, read: Callable[[Any], T], /) -> T | None:
        """What `read` makes of a value; None if there is none, or it cannot be had now. Never raises."""

    async def put(self, kind: StateKind, key: bytes, value: Any, /) -> None:
        """Keep a value, if that is possible now. Never raises."""
