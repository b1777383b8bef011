"""Which turns of a request are judged, and what leaving one out takes with it. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from guardproxy.policy import JudgeScope, Policy
from guardproxy.types import Coverage, Message, Part, Replace

_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message to judge behind the `context` first messages. `current` turns decide about the whole request."""

    index: int
    context: int
    message: Message
    current: bool


def current_start(messages: Sequence[Message]) -> int:
    """Where the current turn begins: behind the last assistant message that says something and has a user message
    behind it.

    So neither a trailing assistant prefill nor a trailing system or empty message hides the user's text, and an empty
    answer does not part one half of a text from the other.
    """
    user_behind = False
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            user_behind = True
        elif messages[index].role == "assistant" and user_behind and _speaks(messages[index]):
            return index + 1
    return 0


def _speaks(message: Message) -> bool:
    return bool(message.opaque or message.text.strip())


def turns_of(messages: Sequence[Message], scope: JudgeScope) -> list[Turn]:
    """Every message to judge by itself: those of the history, and those of the current turn.

    What is the system's is never history: it stands over every turn, and is not left out with one.
    """
    start = current_start(messages)
    return [
        Turn(index, index, message, index >= start or message.role in _SYSTEM)
        for index, message in enumerate(messages)
        if message.role == "assistant" or message.role in scope.roles or message.opaque
    ]


def joined_turn(messages: Sequence[Message], scope: JudgeScope, edits: Mapping[str, str]) -> Turn | None:
    """The current turn as one text, with `edits` (new texts by path) made: finds what was split over messages.

    None where the current turn is a single message.
    """
    start = current_start(messages)
    pieces = [
        index
        for index in range(start, len(messages))
        if messages[index].role in ("user", "tool") and messages[index].role in scope.roles and messages[index].parts
    ]
    if len(pieces) < 2:
        return None
    parts = tuple(
        replace(part, text=edits.get(part.path, part.text))
        for index in pieces
        for part in messages[index].parts
        if part.kind != "opaque"
    )
    return Turn(pieces[-1], start, Message("user", parts), current=True)


def new_texts(message: Message, outcome: Replace) -> dict[str, str]:
    """The text of each changed part by its path; what a whole replacement does not name becomes empty."""
    texts = {edit.path: edit.text for edit in outcome.edits}
    if outcome.whole:
        rest = (part.path for part in message.parts if part.kind != "opaque" and part.path not in texts)
        texts.update(dict.fromkeys(rest, ""))
    return texts


def exchanges_of(messages: Sequence[Message], indices: Iterable[int]) -> frozenset[int]:
    """The turns at `indices` with what belongs to them: the messages from one user turn to the next, less the
    system's.

    In the history a user's message with the result of a tool in it goes on from the call: a call without its result,
    or a result without its call, is an error upstream.
    """
    start = current_start(messages)
    users = [i for i, m in enumerate(messages) if m.role == "user" and (i == 0 or messages[i - 1].role != "user")]
    begins = [i for i in users if i >= start or all(part.kind != "tool_result" for part in messages[i].parts)]
    edges = [0, *begins, len(messages)]
    spans = {bisect_right(begins, index) for index in indices}
    found = (i for span in spans for i in range(edges[span], edges[span + 1]))
    return frozenset(i for i in found if messages[i].role not in _SYSTEM)


def edited(messages: Sequence[Message], texts: Mapping[str, str], dropped: Iterable[int]) -> tuple[Message, ...]:
    """The messages with new texts by path; those that are dropped are empty, so that the others keep their places."""
    gone = frozenset(dropped)
    return tuple(
        replace(
            message,
            parts=()
            if index in gone
            else tuple(replace(part, text=texts.get(part.path, part.text)) for part in message.parts),
        )
        for index, message in enumerate(messages)
    )


def coverage_of(messages: Iterable[Message], policy: Policy, *, failed: bool = False) -> tuple[Coverage, ...]:
    """What of every part is judged under `policy`, or why not; `failed` where the guard gave no verdict."""
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
    """Whether everything that the policy wants judged was judged: what it leaves out on purpose does not count."""
    return all(item.judged or item.why.startswith("policy:") for item in coverage)
