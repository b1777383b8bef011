"""Which texts of a request are judged, and in which order: messages, joined turns, and threads."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guardproxy.offload import computed
from guardproxy.pipeline.exchange import Exchange, JudgedTurn
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.judged_request import JudgedRequest, new_texts_of
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.known_turns import Prefix, prefixes_of
from guardproxy.pipeline.reasks import asks, is_refusal, question_starts, quotes
from guardproxy.pipeline.thread import UserTurn, threads, user_turns, without
from guardproxy.pipeline.turns import Turn, edited, joined_turns, recent_context_starts, turn_starts, turns_of
from guardproxy.policy import Policy
from guardproxy.types import Message, Part, Pass, Refuse

_AT_ONCE = 128  # known turns that are decided about before other tasks run


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is judged of a request.

    `context` has the start of the recent context of each message, `prefixes` the prefix of each message, `begins` the
    starts of the turns. `singles` are the turns of one message, each with its thread; `joined` those of several.
    """

    context: list[int]
    begins: list[int]
    singles: list[Turn]
    joined: list[Turn]
    prefixes: list[Prefix]


async def judge_request(judging: Judging, exchange: Exchange, own: Collection[str] = ()) -> JudgedRequest:
    """Judge every message by itself, the messages of each turn as one text if there are several, and threads.

    `own` are the paths of texts that the proxy itself has written: a message of nothing else is not judged.
    """
    messages, policy = exchange.request.conversation.messages, exchange.policy
    size = len(exchange.request.raw)
    plan = await computed(size, _plan, messages, policy, judging.excluded, own)

    async def judge(turn: Turn, prefix: Prefix = b"") -> JudgedTurn:
        context = messages[plan.context[turn.context] : turn.context]
        return await judging.turn(exchange, turn, context, prefix=prefix)

    singles = len(plan.singles)
    judged = await _judged_once(judging, exchange, plan, judge)
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
    begins = await computed(size, question_starts, messages, plan.begins, refused, own, form=form)
    return JudgedRequest(_asked_again(judged, begins[-1]), new_texts, begins, refusal)


def _only_asks_again(
    exchange: Exchange, messages: Sequence[Message], begins: Sequence[int], own: Collection[str]
) -> bool:
    """Whether the request ends with a refusal, or asks for another answer in the place of one without the question."""
    if messages and is_refusal(messages[-1], own):
        return True
    if len(begins) > 1:
        return False
    refusals = [said for policy in exchange.policies or (exchange.policy,) for said in policy.block.messages]
    if not exchange.request.after_refusal and not quotes(messages, refusals):
        return False
    return not asks(messages, form=exchange.request.has_form)


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
) -> list[JudgedTurn]:
    """Judge the turns of the plan: those that are known at once, the others beside each other."""
    turns = [(turn, plan.prefixes[turn.index]) for turn in (*plan.singles, *plan.joined)]
    known: list[JudgedTurn | None] = []
    for place, (turn, prefix) in enumerate(turns, 1):
        known.append(judging.known(exchange, turn, prefix))
        if place % _AT_ONCE == 0:
            await asyncio.sleep(0)
    new = [judge(turn, prefix) for (turn, prefix), found in zip(turns, known, strict=True) if found is None]
    others = iter(await gathered(new))
    return [next(others) if found is None else found for found in known]


def _plan(messages: Sequence[Message], policy: Policy, excluded: Callable[[str], bool], own: Collection[str]) -> _Plan:
    """What is judged of these messages. The last message of each turn of the user gets its thread.

    The thread is that of a conversation of which every turn is forwarded.
    """
    begins = turn_starts(messages)
    singles = _of_others(turns_of(messages, policy.judge, begins), own)
    if policy.thread.turns > 1:
        users = user_turns(messages, policy.judge, begins)
        texts = {user.index: earlier for user, earlier in threads(users, policy.thread.turns, without(excluded))}
        singles = [replace(turn, thread=texts.get(turn.index, ())) for turn in singles]
    joined = _of_others(joined_turns(messages, policy.judge, {}, begins), own)
    return _Plan(recent_context_starts(messages), begins, singles, joined, prefixes_of(messages))


def _of_others(turns: Sequence[Turn], own: Collection[str]) -> list[Turn]:
    """The turns without those that have no text but `own` ones."""
    if not own:
        return list(turns)
    return [turn for turn in turns if not _is_own([part for part in turn.message.parts if part.text], own)]


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
    if policy.thread.turns < 2 or all(isinstance(one.outcome, Pass) for one in judged):
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
