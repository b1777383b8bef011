"""Texts that are judged by themselves, because a client asks for the verdict: nothing is forwarded or changed."""

import time
from collections.abc import Sequence

from guardproxy.offload import computed
from guardproxy.pipeline.exchange import Case, JudgedTurn
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.growing import GrowingReplies
from guardproxy.pipeline.judged_request import undecoded_paths, unread_parts
from guardproxy.pipeline.judging import Judging, refusal
from guardproxy.pipeline.turns import Turn, coverage_of, recent_context
from guardproxy.policy import Policy
from guardproxy.types import Coverage, Message, Pass, Refuse, Steer


async def moderated(
    judging: Judging,
    case: Case,
    messages: Sequence[Message],
    *,
    context: Sequence[Message] = (),
    stream: str | None = None,
    unfinished: bool = False,
    acts: bool = False,
    growing: GrowingReplies | None = None,
) -> list[JudgedTurn]:
    """Judge each message in the context, and record it as a turn.

    `stream` and `unfinished` are those of the check (`Check`). The outcome of each is what the decision's action makes
    of it with `acts`; otherwise that it passes. Texts of a stream that are not refused are recorded as `growing`
    replies, if it is given and `audit.required` is not set. Raises TooLarge for images beyond the limits, and
    AuditUnavailable if `audit.required` is set and a record could not be stored.
    """
    before = recent_context(context) if context else ()
    messages = await judging.images.of_request(messages, case.policy)

    async def judge(index: int, message: Message) -> JudgedTurn:
        started = time.perf_counter()
        judged = await judging.judgement(before, message, case.policy, stream, unfinished=unfinished)
        outcome = await judging.act(before, message, judged.decision, case.policy) if acts else Pass()
        if isinstance(outcome, Steer):  # whoever asks has no place for an instruction
            outcome = refusal(case.policy, judged.decision)
        return JudgedTurn(
            Turn(len(context) + index, len(context) + index, message),
            judged.verdict,
            judged.decision,
            outcome,
            judged.error,
            time.perf_counter() - started,
            undecoded=judged.undecoded,
            unread=judged.unread,
            counted=judged.counted,
            failure=judged.failure,
        )

    turns = await gathered([judge(index, message) for index, message in enumerate(messages)])
    size = sum(message.size for message in messages)
    coverage = await computed(size, _coverage, turns, case.policy)
    if growing is not None and stream is not None:
        if not judging.required and not any(isinstance(turn.outcome, Refuse) or turn.error for turn in turns):
            growing.grown(stream, lambda: judging.record(case, turns, coverage))
            return turns
        growing.ended(stream)
    await judging.record(case, turns, coverage)
    return turns


def _coverage(turns: Sequence[JudgedTurn], policy: Policy) -> tuple[Coverage, ...]:
    return tuple(
        part
        for turn in turns
        for part in coverage_of(
            [turn.turn.message],
            policy,
            failed=bool(turn.error),
            undecoded=undecoded_paths([turn]),
            unread=unread_parts([turn]),
        )
    )
