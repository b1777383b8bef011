"""Which turns of a request are judged, in which context, and which messages are dropped together. Pure."""

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, takewhile
from types import MappingProxyType

from guardproxy.frozen import frozen
from guardproxy.policy import JudgeScope, Policy
from guardproxy.types import Coverage, Message, Part, PartKind, Replace, Role
from guardproxy.views import says_something

# A context of more characters fits no guard's window. Without this bound, a conversation of thousands of turns would
# cost quadratic time. The judged turn itself is never cut.
CONTEXT_CHARACTERS = 16_000
# The least that a guard's prompt adds around each message, in characters.
_FRAME_CHARACTERS = 32
SYSTEM_ROLES = ("system", "developer")
# The keys of a message's own text. Names, citations and unknown fields stand beside it, and templates leave them out.
_OWN_TEXT = frozenset({"content", "text", "refusal", "transcript", "response", ""})
_TOO_MANY = "too many encodings"
_OWN = "policy: a text of guardproxy itself is not judged"


@frozen
class Turn:
    """A message that is judged.

    `index` is its place among the messages of the conversation; the first `context` messages precede it. The decision
    on a `current` turn applies to the whole request, that on a turn of the history only to its own exchange. `thread`
    are the texts before it that it is judged together with as well (`pipeline.thread`), oldest first. `joined`: its
    message joins several, which are judged as well.
    """

    index: int
    context: int
    message: Message
    current: bool = True
    thread: tuple[str, ...] = ()
    joined: bool = False


def reply_turn(messages: Sequence[Message], reply: Message) -> Turn:
    """The turn of a reply (one choice of it) to the conversation `messages`."""
    return Turn(len(messages), len(messages), reply)


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """The indices at which the turns of the conversation begin, the current turn last; 0 is the first.

    A turn follows an assistant message that says something and that precedes a user message. So neither a trailing
    assistant prefill nor a trailing system or empty message hides the user's text, an assistant message that says
    nothing does not separate two halves of a text, and a tool's result belongs to the turn that called the tool. In the
    history, that holds for a result in a user message as well: the upstream rejects a call without its result.
    """
    return [0, *reversed([*later_starts(messages)])]


def later_starts(messages: Sequence[Message]) -> Iterator[int]:
    """The `turn_starts` from the last one on backwards, without 0."""
    user_follows, is_last = False, True
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "user":
            user_follows = user_follows or is_last or all(part.kind != "tool_result" for part in message.parts)
        elif message.role == "assistant" and user_follows and says_anything(message):
            yield index + 1
            user_follows = is_last = False


def current_start(messages: Sequence[Message]) -> int:
    """The index of the current turn's first message."""
    return turn_starts(messages)[-1]


def says_anything(message: Message) -> bool:
    """Whether a model reads something that the assistant said, called or showed in this message."""
    for part in message.parts:
        if part.kind in ("image", "opaque"):
            if part.note != "unknown field":
                return True
        elif part.kind != "reasoning" and says_something(part.text):
            key = part.path.rpartition(".")[2].partition("[")[0]
            if key in _OWN_TEXT or part.kind in ("tool_call", "tool_result"):
                return True
    return False


def turns_of(messages: Sequence[Message], scope: JudgeScope, starts: Sequence[int] = ()) -> list[Turn]:
    """Every message to judge on its own, in the history and in the current turn.

    A system message always counts as current: it applies to every turn and is not dropped with one. `starts` are the
    `turn_starts`, if known.
    """
    start = (starts or turn_starts(messages))[-1]
    return [
        Turn(index, index, message, index >= start or message.role in SYSTEM_ROLES)
        for index, message in enumerate(messages)
        if message.role == "assistant" or message.role in scope.roles or message.opaque
    ]


def joined_turns(
    messages: Sequence[Message], scope: JudgeScope, new_texts: Mapping[str, str], starts: Sequence[int] = ()
) -> list[Turn]:
    """Each turn of several messages as one text, which shows a text that was split over them; the current turn last.

    A turn's user and tool messages are joined, its results of calls of the turn before also with that turn,
    assistant messages that follow each other, and system messages with the user messages behind them. `new_texts`, by
    part path, take the place of the parts' own texts. `starts` are the `turn_starts`, if known.
    """
    starts = starts or turn_starts(messages)
    runs = (*_system_runs(messages, scope), *_assistant_runs(messages), *_user_runs(messages, scope, starts))
    return [
        Turn(
            run[-1],
            context,
            Message(role, _readable([messages[i] for i in run], new_texts)),
            run[-1] >= starts[-1] or role in SYSTEM_ROLES,
            joined=True,
        )
        for role, context, run in runs
        if len(run) > 1
    ]


def _system_runs(messages: Sequence[Message], scope: JudgeScope) -> Iterator[tuple[Role, int, list[int]]]:
    """System messages that follow each other, with the user messages behind them: some templates join them."""
    run: list[int] = []
    for index, message in enumerate(messages):
        is_system = message.role in SYSTEM_ROLES
        if run and (_ends_run(message) or (is_system and messages[run[-1]].role == "user")):
            yield messages[run[-1]].role, run[0], run
            run = []
        if message.role in scope.roles and message.parts and (is_system or (run and message.role == "user")):
            run.append(index)
    if run:
        yield messages[run[-1]].role, run[0], run


def _ends_run(message: Message) -> bool:
    return message.role in ("assistant", "tool") and says_anything(message)


def _user_runs(
    messages: Sequence[Message], scope: JudgeScope, starts: Sequence[int]
) -> Iterator[tuple[Role, int, list[int]]]:
    before, earlier = 0, list[int]()
    for start, stop in pairwise([*starts, len(messages)]):
        said = (i for i in range(start, stop) if messages[i].role in ("user", "tool") and messages[i].parts)
        judged = [i for i in said if messages[i].role in scope.roles]
        if earlier:
            # Results before anything of the assistant's answer a call of the turn before: the model reads them with it.
            first = takewhile(lambda i: messages[i].role != "assistant", range(start, stop))
            answers = {i for i in first if _has(messages[i], "tool_result")}
            results = [i for i in judged if i in answers]
            said_before = takewhile(lambda i: messages[i].role == "assistant", range(start - 1, -1, -1))
            if results and any(_has(messages[i], "tool_call") for i in said_before):
                yield "user", before, [*earlier, *results]
        yield "user", start, judged
        before, earlier = start, judged


def _has(message: Message, kind: PartKind) -> bool:
    return any(part.kind == kind for part in message.parts)


def _assistant_runs(messages: Sequence[Message]) -> Iterator[tuple[Role, int, list[int]]]:
    run: list[int] = []
    for index, message in enumerate(messages):
        if message.role == "assistant" and any(part.kind == "text" and part.text for part in message.parts):
            run.append(index)
        elif run and message.role in ("user", "tool") and says_anything(message):
            yield "assistant", run[0], run
            run = []
    if run:
        yield "assistant", run[0], run


def _readable(messages: Iterable[Message], new_texts: Mapping[str, str]) -> tuple[Part, ...]:
    return tuple(
        replace(part, text=new_texts.get(part.path, part.text))
        for message in messages
        for part in message.parts
        # What a tool shows again and again would be judged again with every further message of its turn.
        if part.kind not in ("image", "opaque") or (part.kind == "image" and not is_of_tool(message, part))
    )


def is_of_tool(message: Message, part: Part) -> bool:
    """Whether a part is the result of a tool, or a picture in one."""
    return message.role == "tool" or part.kind == "tool_result" or (part.image is not None and part.image.of_tool)


def recent_context(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The latest messages that have at most CONTEXT_CHARACTERS characters together, with their frames."""
    start, total = len(messages), 0
    while start > 0 and (total := total + messages[start - 1].size + _FRAME_CHARACTERS) <= CONTEXT_CHARACTERS:
        start -= 1
    return tuple(messages[start:])


def recent_context_starts(messages: Sequence[Message], first: int = 0) -> list[int]:
    """For each n from `first` to len(messages): where the recent context of the first n messages starts."""
    start, total = first, 0
    while start > 0 and (longer := total + messages[start - 1].size + _FRAME_CHARACTERS) <= CONTEXT_CHARACTERS:
        start, total = start - 1, longer
    starts = [start]
    for end in range(first, len(messages)):
        total += messages[end].size + _FRAME_CHARACTERS
        while total > CONTEXT_CHARACTERS and start <= end:
            total -= messages[start].size + _FRAME_CHARACTERS
            start += 1
        starts.append(start)
    return starts


def in_scope(message: Message, scope: JudgeScope) -> Message:
    """The message without the kinds of part that the policy skips. Opaque parts stay."""
    skip = scope.skip
    for part in message.parts:
        if part.kind in skip:
            break
    else:
        return message
    parts, arrived = (
        tuple(part for part in some if part.kind not in scope.skip) for some in (message.parts, message.arrived)
    )
    return replace(message, parts=parts, arrived=arrived)


def texts_after(message: Message, outcome: Replace) -> dict[str, str]:
    """The new text of each changed part by its path; a `whole` replacement empties every part that no edit names."""
    texts = {edit.path: edit.text for edit in outcome.edits}
    if outcome.whole:
        unnamed = (p.path for p in message.parts if p.kind not in ("image", "opaque") and p.path not in texts)
        texts.update(dict.fromkeys(unnamed, ""))
    return texts


def exchanges_of(messages: Sequence[Message], indices: Iterable[int], starts: Sequence[int] = ()) -> frozenset[int]:
    """The indices of all messages in the exchanges that contain `indices`, without system messages.

    An exchange is a turn with its answer. Without it, no two turns become one: the exchange before it ends with an
    answer. `starts` are the `turn_starts` at which exchanges begin, if not every turn is one of its own.
    """
    starts = starts or turn_starts(messages)
    edges = [*starts, len(messages)]
    spans = {bisect_right(starts, index) - 1 for index in indices}
    members = (i for span in spans for i in range(edges[span], edges[span + 1]))
    return frozenset(i for i in members if messages[i].role not in SYSTEM_ROLES)


def edited(
    messages: Sequence[Message], new_texts: Mapping[str, str], dropped: Iterable[int] = ()
) -> tuple[Message, ...]:
    """The messages with new texts by part path. Dropped ones become empty, so that the others keep their indices."""
    emptied = frozenset(dropped)
    return tuple(
        replace(
            message,
            parts=()
            if index in emptied
            else tuple(replace(part, text=new_texts.get(part.path, part.text)) for part in message.parts),
        )
        for index, message in enumerate(messages)
    )


def coverage_of(
    messages: Iterable[Message],
    policy: Policy,
    *,
    failed: bool = False,
    undecoded: Container[str] = (),
    unread: Mapping[str, str] = MappingProxyType({}),
    own: Container[str] = (),
) -> tuple[Coverage, ...]:
    """For every part: whether it is judged under `policy`, or why not, or not in full.

    `failed`: the guard gave no verdict. `undecoded`: the paths of parts whose encodings were not all decoded. `unread`:
    the paths of parts in languages that the guard does not read, each with a note of these. `own`: the paths of texts
    that the proxy itself has written.
    """
    covered = []
    for message in messages:
        for part in message.parts:
            if part.path in own:
                covered.append(Coverage(part.path, message.role, part.kind, len(part.text), judged=False, why=_OWN))
            else:
                failure = "guard unavailable" if failed else unread.get(part.path, "")
                covered.append(_coverage(message, part, policy, failure, undecoded))
    return tuple(covered)


def _coverage(message: Message, part: Part, policy: Policy, failure: str, undecoded: Container[str]) -> Coverage:
    if part.kind == "opaque":
        why = f"opaque: {part.note or 'unreadable'}"
    elif message.role != "assistant" and message.role not in policy.judge.roles:
        why = f"policy: role {message.role} is not judged"
    elif part.kind in policy.judge.skip:
        why = f"policy: {part.kind} is not judged"
    else:
        why = f"opaque: {_TOO_MANY}" if part.path in undecoded else failure
    if part.kind == "image":
        return Coverage(part.path, message.role, part.kind, 0, not why, why, part.note)
    make = _known_coverage if len(part.path) <= _SHORT else Coverage
    return make(part.path, message.role, part.kind, len(part.text), not why, why)


# Clients send the whole conversation with every turn, so most parts have occurred before.
_known_coverage = lru_cache(maxsize=16_384)(Coverage)
_SHORT = 128  # characters of a path, of which clients choose the keys


def with_undecoded(messages: Iterable[Message], undecoded: Container[str]) -> tuple[Message, ...]:
    """The messages; each part at a path in `undecoded` is followed by an opaque part, as unreadable content is."""
    return tuple(
        replace(message, parts=(*message.parts, *marks))
        if (marks := [Part(p.path, "", "opaque", _TOO_MANY) for p in message.parts if p.path in undecoded])
        else message
        for message in messages
    )


def is_full(coverage: Iterable[Coverage]) -> bool:
    """Whether everything was judged that the policy wants judged; parts that it skips on purpose do not count."""
    return all(item.judged or item.why.startswith("policy:") for item in coverage)
