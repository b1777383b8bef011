"""Rewrites of a choice of a streamed reply, of which the client has the beginning already."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from guardproxy.actions import MASK
from guardproxy.pipeline.choice_checks import LatestCheck
from guardproxy.pipeline.exchange import Exchange
from guardproxy.pipeline.judging import Judging, refusal
from guardproxy.types import Decision, Edit, Message, Outcome, Replace


async def rewritten(
    judging: Judging, exchange: Exchange, context: Sequence[Message], released: Message, check: LatestCheck
) -> Outcome:
    """The outcome for the text that was not sent yet; candidates are judged after `released`, the text that was.

    The client reads both, so the edits of a Replace begin with what was sent.
    """
    sent = {part.path: part.text for part in released.parts}
    if check.decision.how == MASK:
        return await _masked(judging, exchange, context, sent, check)
    unsent = Message(
        check.message.role,
        tuple(replace(p, text=p.text[len(sent.get(p.path, "")) :]) for p in check.message.parts),
    )

    async def judge_again(candidate: Message) -> Decision:
        new = {part.path: part.text for part in candidate.parts}
        whole = tuple(replace(p, text=sent.get(p.path, "") + new.get(p.path, "")) for p in check.message.parts)
        arrived = (*released.arrived, *candidate.parts) if check.message.arrived else ()
        message = Message(candidate.role, whole, arrived)
        return (await judging.judge(context, message, exchange.policy))[1]

    outcome = await judging.outcome_of(unsent, check.decision, exchange.policy, judge_again)
    if not isinstance(outcome, Replace):
        return outcome
    return replace(outcome, edits=tuple(Edit(e.path, sent.get(e.path, "") + e.text) for e in outcome.edits))


async def _masked(
    judging: Judging, exchange: Exchange, context: Sequence[Message], sent: Mapping[str, str], check: LatestCheck
) -> Outcome:
    """The outcome for a whole choice, of which `sent` has left: whether a word begins there is seen only with it.

    A match that begins in what has left cannot be masked any more.
    """

    async def judge_again(candidate: Message) -> Decision:
        arrived = candidate.parts if check.message.arrived else ()
        return (await judging.judge(context, replace(candidate, arrived=arrived), exchange.policy))[1]

    outcome = await judging.outcome_of(check.message, check.decision, exchange.policy, judge_again)
    if isinstance(outcome, Replace) and not all(e.text.startswith(sent.get(e.path, "")) for e in outcome.edits):
        return refusal(exchange.policy, check.decision)
    return outcome
