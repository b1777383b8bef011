"""The records of a streamed reply: one for each choice, with everything that came of it."""

import asyncio
from dataclasses import replace

from guardproxy.pipeline.choice_checks import LatestCheck
from guardproxy.pipeline.exchange import Exchange, JudgedTurn
from guardproxy.pipeline.judged_request import undecoded_paths, unread_parts
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.resumed import JudgedReplies
from guardproxy.pipeline.turns import coverage_of, reply_turn
from guardproxy.ports import ReplyStream
from guardproxy.types import Message, Outcome, Pass


class ReplyRecords:
    """Collects the judged choices of one streamed reply, and writes their records.

    A record waits for the end of the reply: what comes behind the end of a choice belongs to its record, and most
    servers name the usage last. If the audit is required, it cannot wait: then the record of a choice is written before
    its end leaves, and what comes later has a record of its own, marked `late`.

    `held_characters` and `held_s` are those of `ReplyInfo`; the caller keeps them up to date.
    """

    def __init__(self, judging: Judging, exchange: Exchange, stream: ReplyStream, replies: JudgedReplies) -> None:
        self._judging = judging
        self._exchange = exchange
        self._stream = stream
        self._replies = replies
        self._waiting: dict[int, JudgedTurn] = {}  # by choice
        self._added: dict[int, Message] = {}  # by choice: what its records hold, those that wait included
        self.held_characters = 0
        self.held_s = 0.0

    def has(self, choice: int) -> bool:
        """Whether the choice has a record, or one that waits."""
        return choice in self._added

    async def add(self, choice: int, check: LatestCheck, outcome: Outcome, *, complete: bool) -> None:
        """Note the outcome of a choice. What came of it since it was noted before may have an outcome of its own.

        Raises AuditUnavailable if the audit is required and the record cannot be stored.
        """
        earlier = self._added.get(choice)
        message = check.message if earlier is None else _behind(check.message, earlier)
        if earlier is not None and not message.parts:
            return
        self._added[choice] = check.message
        is_late = earlier is not None and self._judging.required
        if earlier is not None and not is_late and isinstance(outcome, Pass):
            outcome = self._waiting[choice].outcome
        judged = JudgedTurn(
            reply_turn(self._exchange.request.conversation.messages, message if is_late else check.message),
            check.verdict,
            check.decision,
            outcome,
            check.error,
            check.seconds,
            choice,
            check.undecoded,
            check.unread,
            complete,
            is_late,
            check.counted,
        )
        await self._replies.gave(self._exchange, self._stream.info.id)
        if judged.passed:
            await self._replies.remember(self._exchange, self._stream.id)
        self._waiting[choice] = judged
        if self._judging.required:
            await self.write()

    async def write(self) -> None:
        """Write the records that wait, in the order of the choices. Raises AuditUnavailable as `add` does."""
        info = replace(
            self._stream.info,
            held_characters=self.held_characters,
            held_s=self.held_s,
            attempt=self._exchange.attempt,
        )
        while self._waiting:
            judged = self._waiting.pop(min(self._waiting))
            undecoded, unread = undecoded_paths([judged]), unread_parts([judged])
            message, policy = judged.turn.message, self._exchange.policy
            coverage = coverage_of([message], policy, failed=bool(judged.error), undecoded=undecoded, unread=unread)
            await self._judging.record(self._exchange, [judged], coverage, reply=info)
            if self._waiting:
                await asyncio.sleep(0)


def _behind(message: Message, earlier: Message) -> Message:
    """What a message has more than `earlier`, its state before: new parts, and the rests of parts that have grown."""
    known = {part.path: part.text for part in earlier.parts}
    same = frozenset(earlier.parts)  # a reply may have 10,000 parts, each of which is looked up
    new = [part for part in message.parts if part not in same]
    return replace(message, parts=tuple(replace(part, text=part.text[len(known.get(part.path, "")) :]) for part in new))
