"""Which turns of a request are judged, in which context, and which messages are dropped together. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from guardproxy.policy import JudgeScope, Policy
from guardproxy.types import Coverage, Message, Part, Replace

# A context of more characters fits no guard's window. Without this bound, a conversation of thousands of turns would
# cost quadratic time. The judged turn itself is never cut.
CONTEXT_CHARACTERS = 16_000
# The least that a guard's prompt adds around each message, in characters.
_FRAME_CHARACTERS = 32
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message that is judged.

    `index` is its place among the messages of the conversation; the first `context` messages precede it. The decision
    on a `current` turn applies to the whole request, that on a turn of the history only to its own exchange.
    """

    index: int
    context: int
    message: Message
    current: bool = True


def reply_turn(messages: Sequence[Message], reply: Message) -> Turn:
    """The turn of a reply (one choice of it) to the conversation `messages`."""
    return Turn(len(messages), len(messages), reply)


def current_start(messages: Sequence[Message]) -> int:
    """The index of the current turn's first message.

    The current turn follows the last assistant message that is not empty and precedes a user message. So neither a
    trailing assistant prefill nor a trailing system or empty message hides the user's text, and an empty assistant
    message does not separate two halves of a text.
    """
    user_follows = False
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            user_follows = True
        elif messages[index].role == "assistant" and user_follows and _has_content(messages[index]):
            return index + 1
    return 0


def _has_content(message: Message) -> bool:
    return bool(message.opaque or message.text.strip())


def turns_of(messages: Sequence[Message], scope: JudgeScope) -> list[Turn]:
    """Every message to judge on its own, in the history and in the current turn.

    A system message always counts as current: it applies to every turn and is not dropped with one.
    """
    start = current_start(messages)
    return [
        Turn(index, index, message, index >= start or message.role in _SYSTEM_ROLES)
        for index, message in enumerate(messages)
        if message.role == "assistant" or message.role in scope.roles or message.opaque
    ]


def joined_turn(messages: Sequence[Message], scope: JudgeScope, new_texts: Mapping[str, str]) -> Turn | None:
    """The current turn as one text, which shows a text that was split over messages; None if it is a single message.

    `new_texts`, by part path, take the place of the parts' own texts.
    """
    start = current_start(messages)
    indices = [
        index
        for index in range(start, len(messages))
        if messages[index].role in ("user", "tool") and messages[index].role in scope.roles and messages[index].parts
    ]
    if len(indices) < 2:
        return None
    parts = tuple(
        replace(part, text=new_texts.get(part.path, part.text))
        for index in indices
        for part in messages[index].parts
        if part.kind != "opaque"
    )
    return Turn(indices[-1], start, Message("user", parts))


def recent_context(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The latest messages that have at most CONTEXT_CHARACTERS characters together, with their frames."""
    return tuple(messages[recent_context_starts(messages)[-1] :])


def recent_context_starts(messages: Sequence[Message]) -> list[int]:
    """For each n from 0 to len(messages): where the recent context of the first n messages starts. Linear time."""
    sizes = [message.size + _FRAME_CHARACTERS for message in messages]
    starts, start, total = [0], 0, 0
    for end, size in enumerate(sizes, 1):
        total += size
        while total > CONTEXT_CHARACTERS and start < end:
            total -= sizes[start]
            start += 1
        starts.append(start)
    return starts


def in_scope(message: Message, scope: JudgeScope) -> Message:
    """The message without the kinds of part that the policy skips. Opaque parts stay."""
    if not any(part.kind in scope.skip for part in message.parts):
        return message
    return replace(message, parts=tuple(part for part in message.parts if part.kind not in scope.skip))


def texts_after(message: Message, outcome: Replace) -> dict[str, str]:
    """The new text of each changed part by its path; a `whole` replacement empties every part that no edit names."""
    texts = {edit.path: edit.text for edit in outcome.edits}
    if outcome.whole:
        unnamed = (part.path for part in message.parts if part.kind != "opaque" and part.path not in texts)
        texts.update(dict.fromkeys(unnamed, ""))
    return texts


def exchanges_of(messages: Sequence[Message], indices: Iterable[int]) -> frozenset[int]:
    """The indices of all messages in the exchanges that contain `indices`, without system messages.

    An exchange reaches from one user turn to the next. In the history, a user message that holds a tool's result
    continues the exchange of the call: the upstream rejects a call without its result and a result without its call.
    """
    start = current_start(messages)
    user_turns = [i for i, m in enumerate(messages) if m.role == "user" and (i == 0 or messages[i - 1].role != "user")]
    begins = [i for i in user_turns if i >= start or all(part.kind != "tool_result" for part in messages[i].parts)]
    edges = [0, *begins, len(messages)]
    spans = {bisect_right(begins, index) for index in indices}
    members = (i for span in spans for i in range(edges[span], edges[span + 1]))
    return frozenset(i for i in members if messages[i].role not in _SYSTEM_ROLES)


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


def coverage_of(messages: Iterable[Message], policy: Policy, *, failed: bool = False) -> tuple[Coverage, ...]:
    """For every part: whether it is judged under `policy`, or why not. `failed`: the guard gave no verdict."""
    return tuple(_coverage(message, part, policy, failed=failed) for message in messages for part in message.parts)


def _coverage(message: Message, part: Part, policy: Policy, *, failed: bool) -> Coverage:
    if part.kind == "opaque":
        why = f"opaque: {part.note or 'unreadable'}"
    elif message.role != "assistant" and message.role not in policy.judge.roles:
        why = f"policy: role {message.role} is not judged"
    elif part.kind in policy.judge.skip:
        why = f"policy: {part.kind} is not judged"
    else:
        why = "guard unavailable" if failed else ""
    return Coverage(part.path, message.role, part.kind, len(part.text), judged=not why, why=why)


def is_full(coverage: Iterable[Coverage]) -> bool:
    """Whether everything was judged that the policy wants judged; parts that it skips on purpose do not count."""
    return all(item.judged or item.why.startswith("policy:") for item in coverage)
