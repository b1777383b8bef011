"""Rewrites of a choice of a streamed reply, of which the client has the beginning already."""

from collections.abc import Sequence
from dataclasses import replace

from guardproxy.pipeline.choice_checks import LatestCheck
from guardproxy.pipeline.exchange import Exchange
from guardproxy.pipeline.judging import Judging
from guardproxy.types import Decision, Edit, Message, Outcome, Replace


async def rewritten(
    judging: Judging, exchange: Exchange, context: Sequence[Message], released: Message, check: LatestCheck
) -> Outcome:
    """The outcome for the text that was not sent yet; candidates are judged after `released`, the text that was.

    The client reads both, so the edits of a Replace begin with what was sent.
    """
    sent = {part.path: part.text for part in released.parts}
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
