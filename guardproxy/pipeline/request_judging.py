"""Which texts of a request are judged, and in which order: messages, joined turns, and threads."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from guardproxy.frozen import frozen
from guardproxy.offload import computed
from guardproxy.pipeline.exchange import Exchange, JudgedTurn
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.judged_request import JudgedRequest, new_texts_of
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.known_history import KnownHistory, is_settled
from guardproxy.pipeline.known_turns import Prefix, prefixes_of
from guardproxy.pipeline.reasks import asks, is_refusal, question_starts, quotes
from guardproxy.pipeline.thread import UserTurn, threads, user_turns, without
from guardproxy.pipeline.turns import Turn, edited, joined_turns, recent_context_starts, turn_starts, turns_of
from guardproxy.policy import Policy
from guardproxy.types import Message, Part, Pass, Refuse

_AT_ONCE = 128  # known turns that are decided about before other tasks run


@frozen
class _Plan:
    """What is judged of a request, from the message `first` on.

    `context` has the start of the recent context, and `prefixes` the prefix, of each of these messages; `begins` are
    the starts of the turns. `singles` are the turns of one message, each with its thread; `joined` those of several.
    `earlier` are the texts for the thread of the current turn.
    """

    first: int
    context: list[int]
    begins: list[int]
    singles: list[Turn]
    joined: list[Turn]
    prefixes: list[Prefix]
    earlier: tuple[tuple[str, ...], ...]


async def judge_request(
    judging: Judging, exchange: Exchange, own: Collection[str] = (), known: KnownHistory | None = None
) -> JudgedRequest:
    """Judge every message by itself, the messages of each turn as one text if there are several, and threads.

    `own` are the paths of texts that the proxy itself has written: a message of nothing else is not judged. The turns
    of a `known` history are left out, unless a later turn does not simply pass.
    """
    messages, policy = exchange.request.conversation.messages, exchange.policy
    size = len(exchange.request.raw)
    plan = await computed(size, _plan, messages, policy, judging.excluded, own, known)

    async def judge(turn: Turn, prefix: Prefix = b"") -> JudgedTurn:
        context = messages[plan.context[turn.context - plan.first] : turn.context]
        return await judging.turn(exchange, turn, context, prefix=prefix)

    singles = len(plan.singles)
    judged, new = await _judged_once(judging, exchange, plan, judge)
    if all(isinstance(one.outcome, Pass) for one in judged):
        begins = [0, *(plan.first + start for start in plan.begins)] if plan.first else plan.begins
        only_again = await computed(size, _only_asks_again, exchange, messages, begins, own)
        refusal = policy.block.refusal(()) if only_again else None
        return JudgedRequest(tuple(judged), {}, begins, refusal, _history(plan, judged, new))
    if known is not None:
        return await judge_request(judging, exchange, own)
    await _judge_threads_as_forwarded(judged, messages, policy, plan, excluded=judging.excluded, judge=judge)
    if new_texts := await computed(size, new_texts_of, judged[:singles]):
        # Joined turns are judged as they are forwarded, not as they came.
        joined = await computed(size, joined_turns, messages, policy.judge, new_texts, plan.begins)
        forwarded = _of_others(joined, own)
        changed = [turn for before, turn in zip(plan.joined, forwarded, strict=True) if before != turn]
        again = iter(await gathered([judge(turn) for turn in changed]))
        judged[singles:] = [
            before if before.turn == turn else next(again)
            for before, turn in zip(judged[singles:], forwarded, strict=True)
        ]
    new_texts = {**new_texts, **await computed(size, new_texts_of, judged[singles:])}
    form, refusal = exchange.request.has_form, None
    if await computed(size, _only_asks_again, exchange, messages, plan.begins, own):
        refusal = policy.block.refusal(())
    refused = [one.turn.index for one in judged if isinstance(one.outcome, Refuse)]
    if not refused:
        return JudgedRequest(tuple(judged), new_texts, plan.begins, refusal)
    said = _refusals_of(exchange)
    begins = await computed(size, question_starts, messages, plan.begins, refused, own, form=form, refusals=said)
    return JudgedRequest(_asked_again(judged, begins[-1]), new_texts, begins, refusal)


def _only_asks_again(
    exchange: Exchange, messages: Sequence[Message], begins: Sequence[int], own: Collection[str]
) -> bool:
    """Whether the request ends with a refusal, or asks for another answer in the place of one without the question."""
    if messages and is_refusal(messages[-1], own):
        return True
    if len(begins) > 1:
        return False
    if not exchange.request.after_refusal and not quotes(messages, _refusals_of(exchange)):
        return False
    return not asks(messages, form=exchange.request.has_form)


def _refusals_of(exchange: Exchange) -> list[str]:
    """The messages of refusals of all policies in force."""
    return [said for policy in exchange.policies or (exchange.policy,) for said in policy.block.messages]


def _asked_again(judged: Sequence[JudgedTurn], start: int) -> tuple[JudgedTurn, ...]:
    """The judged turns; refused ones from `start` on, where the current question begins, are current."""
    return tuple(
        replace(one, turn=replace(one.turn, current=True))
        if isinstance(one.outcome, Refuse) and one.turn.index >= start
        else one
        for one in judged
    )


async def _judged_once(
    judging: Judging, exchange: Exchange, plan: _Plan, judge: Callable[[Turn, Prefix], Coroutine[Any, Any, JudgedTurn]]
) -> tuple[list[JudgedTurn], list[JudgedTurn]]:
    """Judge the turns of the plan: those that are known at once, the others beside each other, which come second."""
    turns = [(turn, plan.prefixes[turn.index - plan.first]) for turn in (*plan.singles, *plan.joined)]
    known: list[JudgedTurn | None] = []
    for place, (turn, prefix) in enumerate(turns, 1):
        known.append(judging.known(exchange, turn, prefix))
        if place % _AT_ONCE == 0:
            await asyncio.sleep(0)
    calls = [judge(turn, prefix) for (turn, prefix), found in zip(turns, known, strict=True) if found is None]
    new = await gathered(calls)
    others = iter(new)
    return [next(others) if found is None else found for found in known], new


def _history(plan: _Plan, judged: Sequence[JudgedTurn], new: Sequence[JudgedTurn]) -> KnownHistory | None:
    """What is known of the messages before the current turn; None if that is no more than before."""
    size = plan.first + plan.begins[-1]
    before = [one for one in judged if one.turn.index < size]
    if size == plan.first or any(one.turn.index < size for one in new) or not is_settled(before):
        return None
    return KnownHistory(size, plan.prefixes[size - plan.first - 1], plan.earlier)


def _plan(
    messages: Sequence[Message],
    policy: Policy,
    excluded: Callable[[str], bool],
    own: Collection[str],
    known: KnownHistory | None,
) -> _Plan:
    """What is judged of these messages. The last message of each turn of the user gets its thread.

    The thread is that of a conversation of which every turn is forwarded.
    """
    first = known.size if known else 0
    later = messages[first:] if first else messages
    begins = turn_starts(later)
    singles = _of_others(turns_of(later, policy.judge, begins), own)
    earlier = [*known.earlier] if known else []
    before: tuple[tuple[str, ...], ...] | None = None
    if policy.thread.turns > 1:
        texts: dict[int, tuple[str, ...]] = {}
        users = user_turns(later, policy.judge, begins)
        for user, joined_before in threads(users, policy.thread.turns, without(excluded), earlier):
            texts[user.index] = joined_before
            if user.start == begins[-1]:
                before = tuple(earlier)
        singles = [replace(turn, thread=texts.get(turn.index, ())) for turn in singles]
    joined = _of_others(joined_turns(later, policy.judge, {}, begins), own)
    return _Plan(
        first,
        recent_context_starts(messages, first),
        begins,
        _moved(singles, first),
        _moved(joined, first),
        prefixes_of(later, known.prefix if known else b""),
        tuple(earlier) if before is None else before,
    )


def _moved(turns: list[Turn], by: int) -> list[Turn]:
    """The turns with their places behind `by` further messages."""
    return [replace(turn, index=turn.index + by, context=turn.context + by) for turn in turns] if by else turns


def _of_others(turns: Sequence[Turn], own: Collection[str]) -> list[Turn]:
    """The turns without those that have no text but `own` ones."""
    if not own:
        return list(turns)
    return [
        turn
        for turn in turns
        if not _is_own([part for part in turn.message.parts if part.text or part.kind == "image"], own)
    ]


def _is_own(parts: Sequence[Part], own: Container[str]) -> bool:
    return bool(parts) and all(part.path in own for part in parts)


async def _judge_threads_as_forwarded(
    judged: list[JudgedTurn],
    messages: Sequence[Message],
    policy: Policy,
    plan: _Plan,
    *,
    excluded: Callable[[str], bool],
    judge: Callable[[Turn], Awaitable[JudgedTurn]],
) -> None:
    """Judge again, in place, the turns whose thread has turns that are refused or rewritten.

    A refused turn is in no thread, or it would block every turn after it; a rewritten one is in it with its new text.
    One turn after the other, because each may be refused for its thread.
    """
    if policy.thread.turns < 2:
        return
    of_turn: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(judged):
        of_turn[plan.begins[bisect_right(plan.begins, one.turn.index) - 1]].append(place)

    def kept(user: UserTurn) -> Sequence[str]:
        own = [judged[place] for place in of_turn[user.start]]
        if any(isinstance(one.outcome, Refuse) for one in own):
            return ()
        new = edited(messages[user.start : user.stop], new_texts_of(own))
        return [text for left in user_turns(new, policy.judge, [0]) for text in unexcluded(left)]

    unexcluded = without(excluded)
    for user, earlier in threads(user_turns(messages, policy.judge, plan.begins), policy.thread.turns, kept):
        place = next(place for place in of_turn[user.start] if judged[place].turn.index == user.index)
        if judged[place].turn.thread != earlier:
            judged[place] = await judge(replace(judged[place].turn, thread=earlier))
