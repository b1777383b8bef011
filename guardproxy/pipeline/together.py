"""The choices of a whole reply as one text: some readers join them, so harm may be spread over them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from guardproxy.pipeline.exchange import Exchange, JudgedTurn, Judgement
from guardproxy.pipeline.judging import Judging, refusal
from guardproxy.pipeline.turns import in_scope, recent_context, texts_after
from guardproxy.policy import Policy, worst
from guardproxy.types import SEVERITY, Message, Part, Refuse, Replace
from guardproxy.verdicts import worst_of_views


async def judged_together(judging: Judging, exchange: Exchange, judged: Sequence[JudgedTurn]) -> list[JudgedTurn]:
    """Return the judged choices of a reply after judging them as one text, as they would be sent.

    If this text must not pass, every choice is refused: no rewrite of one of them is known to help. A reply with fewer
    than two readable choices costs nothing.
    """
    if len(judged) < 2:
        return list(judged)
    policy = exchange.policy
    texts = [parts for choice in judged if (parts := _sent(choice, policy))]
    if len(texts) < 2:
        return list(judged)
    message = Message("assistant", tuple(part for parts in texts for part in parts))
    context = recent_context(exchange.request.conversation.messages)
    together = await judging.judgement(context, message, policy, by_part=False)
    return [_with(choice, together, policy) for choice in judged]


def _sent(choice: JudgedTurn, policy: Policy) -> tuple[Part, ...]:
    """The readable parts of a choice with the texts that would be sent; none if it is refused or not judged."""
    message, outcome = in_scope(choice.turn.message, policy.judge), choice.outcome
    if isinstance(outcome, Refuse) or choice.error:
        return ()
    new = texts_after(message, outcome) if isinstance(outcome, Replace) else {}
    return tuple(_readable(replace(part, text=new.get(part.path, part.text)) for part in message.parts))


def _readable(parts: Iterable[Part]) -> Iterable[Part]:
    return (part for part in parts if part.kind != "opaque" and part.text)


def _with(choice: JudgedTurn, together: Judgement, policy: Policy) -> JudgedTurn:
    decision = worst([choice.decision, together.decision])
    outcome = choice.outcome
    if SEVERITY[together.decision.action] >= SEVERITY["rewrite"] and not isinstance(outcome, Refuse):
        outcome = refusal(policy, together.decision)
    verdict, counted = choice.verdict, choice.counted
    if verdict is not None and together.verdict is not None and decision != choice.decision:
        verdict = worst_of_views([("text", verdict), ("choices", together.verdict)])
        if counted is not None:
            counts = together.counted.verdict if together.counted else together.verdict
            counted = replace(counted, verdict=worst_of_views([("text", counted.verdict), ("choices", counts)]))
    undecoded = choice.undecoded or together.undecoded
    return replace(
        choice,
        verdict=verdict,
        decision=decision,
        outcome=outcome,
        error=choice.error or together.error,
        undecoded=undecoded,
        counted=counted,
    )
