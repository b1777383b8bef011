"""The thread: the last user turns, judged as one text without the answers between them. Pure.

Harm that is spread over several turns shows in no single one of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from guardproxy.frozen import frozen
from guardproxy.pipeline.turns import in_scope, turn_starts
from guardproxy.policy import JudgeScope, Policy
from guardproxy.types import Message


@frozen
class UserTurn:
    """What the user wrote in one turn of the conversation, without the results of tools.

    `texts` are those of its messages, none of them empty; `index` is the place of the last such message in the
    conversation, `start` and `stop` the bounds of the turn with its answer.
    """

    start: int
    stop: int
    index: int
    texts: tuple[str, ...]


def user_turns(messages: Sequence[Message], scope: JudgeScope, starts: Sequence[int] = ()) -> list[UserTurn]:
    """The turns in which the user wrote something that the policy judges, oldest first.

    `starts` are the `turn_starts`, if known.
    """
    found = []
    for start, stop in pairwise([*(starts or turn_starts(messages)), len(messages)]):
        written = {i: own_text(in_scope(messages[i], scope)) for i in range(start, stop) if messages[i].role == "user"}
        texts = {index: text for index, text in written.items() if text}
        if texts:
            found.append(UserTurn(start, stop, max(texts), tuple(texts.values())))
    return found


def own_text(message: Message) -> str:
    """What a user wrote in a message: without the results of tools, which some protocols put into it."""
    if any(part.kind == "tool_result" for part in message.parts):
        message = replace(message, parts=tuple(part for part in message.parts if part.kind != "tool_result"))
    return message.text.strip()


def threads(
    turns: Sequence[UserTurn],
    most: int,
    kept: Callable[[UserTurn], Sequence[str]],
    earlier: list[tuple[str, ...]] | None = None,
) -> Iterator[tuple[UserTurn, tuple[str, ...]]]:
    """Every turn with the texts to join before its last one: those of at most `most` - 1 turns before it, oldest first.

    They are none if nothing was said before. `kept` is called for a turn when the next one is asked for, and gives the
    texts that later turns are joined with. Of turns that say the same, the last one counts, so that repetition does not
    push other turns out. `earlier` are the texts of turns before these; it is brought up to date with each turn.
    """
    earlier = [] if earlier is None else earlier
    for turn in turns:
        before = [text for texts in earlier if texts != turn.texts for text in texts]
        yield turn, (*before, *turn.texts[:-1]) if before else ()
        if texts := tuple(kept(turn)):
            earlier[:] = [*(other for other in earlier if other != texts), texts][1 - most :]


def thread_of(messages: Sequence[Message], policy: Policy, excluded: Callable[[str], bool]) -> tuple[str, ...]:
    """The texts to join before the last message; none if it is not the user's or the policy wants none.

    Left out are texts that are `excluded`: they count as harmless.
    """
    if policy.thread.turns < 2:
        return ()
    found = threads(user_turns(messages, policy.judge), policy.thread.turns, without(excluded))
    return next((texts for turn, texts in found if turn.index == len(messages) - 1), ())


def without(excluded: Callable[[str], bool]) -> Callable[[UserTurn], Sequence[str]]:
    """Gives the texts of a turn that are not `excluded`."""
    return lambda turn: [text for text in turn.texts if not excluded(text)]


def joined_text(texts: Sequence[str], most: int) -> str:
    """The texts, one per line, at most `most` characters in all.

    If they are longer, every text gets an equal share, and what shorter ones leave of theirs; of a text that is longer
    than its share, the beginning and the end are taken. So no long turn pushes the others out.
    """
    left = most - (len(texts) - 1)
    shares: dict[int, int] = {}
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        shares[place] = min(len(texts[place]), max(left, 0) // (len(texts) - len(shares)))
        left -= shares[place]
    return "\n".join(_ends(text, shares[place]) for place, text in enumerate(texts) if shares[place])


def _ends(text: str, most: int) -> str:
    """The text, or its first and last characters on two lines, `most` in all."""
    if len(text) <= most:
        return text
    half = max(most - 1, 0) // 2
    return f"{text[: most - 1 - half]}\n{text[len(text) - half :]}" if half else text[:most]
