"""Requests and whole replies: every turn is judged, the worst word on a current turn decides."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from guardproxy.errors import UpstreamUnreadable
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline.canary import CANARIES
from guardproxy.pipeline.judging import Exchange, Judged, Judging, gathered, passed, recent, recent_starts
from guardproxy.pipeline.resumed import JudgedReplies
from guardproxy.pipeline.stream import StreamReview
from guardproxy.pipeline.turns import (
    Turn,
    coverage_of,
    edited,
    exchanges_of,
    is_full,
    joined_turn,
    new_texts,
    turns_of,
)
from guardproxy.policy import Policy, on_failure, worst
from guardproxy.ports import Action, Guard, ReplyStream
from guardproxy.types import ActionName, Conversation, Edit, Message, Outcome, Part, Pass, Refuse, Replace

Extent = Literal["full", "partial"]


@dataclass(frozen=True, slots=True)
class RequestReview:
    """What becomes of a request. `body` is what to forward unless there is a `refusal`; `dropped` are the indices of
    messages left out of it, `exchange` what its reply belongs to: the conversation as the model sees it."""

    exchange: Exchange
    body: bytes
    refusal: Refuse | None
    action: ActionName
    categories: tuple[str, ...]
    dropped: tuple[int, ...]
    coverage: Extent


@dataclass(frozen=True, slots=True)
class ReplyReview:
    """What becomes of a whole reply: `body` goes to the client, unless there is a `refusal` that is an error."""

    body: bytes
    action: ActionName
    categories: tuple[str, ...]
    coverage: Extent
    refusal: Refuse | None = None


@dataclass(frozen=True, slots=True)
class ErrorReview:
    """What becomes of an upstream's error: if it `passes`, its bytes go to the client, else an error without them."""

    passes: bool
    action: ActionName
    categories: tuple[str, ...]
    coverage: Extent


class Pipeline:
    """Guards exchanges with one guard. Holds no state of an exchange between calls."""

    def __init__(
        self,
        guard: Guard,
        observers: Observers,
        metrics: Metrics,
        actions: Mapping[str, Callable[[Policy], Action]],
        *,
        max_held_bytes: int = 64 * 2**20,
    ) -> None:
        self.judging = Judging(guard, observers, metrics, actions)
        self._metrics = metrics
        self._replies = JudgedReplies()
        self._max_held_bytes = max_held_bytes

    def use(self, actions: Mapping[str, Callable[[Policy], Action]]) -> None:
        """Act with these actions as well from now on; turns under way keep those of the policy they began with."""
        self.judging.actions = {**self.judging.actions, **actions}

    async def canaries(self, policy: Policy) -> str:
        """Why the guard is not to be relied on: it fails, or known-bad turns score no higher than known-good ones.

        Empty where it may be. The turns take the way of all turns, views included.
        """
        for context, bad, good in CANARIES:
            scores = []
            for turn in (bad, good):
                verdict, _, error = await self.judging.judge(context, turn, policy)
                if verdict is None:
                    return f"the guard cannot judge: {error}"
                scores.append(verdict.unsafe)
            if scores[0] <= scores[1]:
                return (
                    f"the guard gives a known-bad {bad.role} turn P(unsafe) {scores[0]:.3f} and a known-good one "
                    f"{scores[1]:.3f}"
                )
        return ""

    async def review_request(self, exchange: Exchange) -> RequestReview:
        """Judge every turn of the request.

        1. A current turn that is refused refuses the request.
        2. A turn of the history that is refused is left out with its exchange, refuses the request, or stays, as the
           policy's `history` says: one bad turn does not poison the harmless ones behind it.
           The current turn is then judged behind what goes on.
        3. Rewritten turns go on with their new text. Where nothing changes, the client's own bytes go on.
        """
        exchange = self._replies.without_known(exchange)
        messages, policy = exchange.request.conversation.messages, exchange.policy
        turns, judged, texts = await self._judged(exchange)
        pairs = list(zip(turns, judged, strict=True))
        dropped = self._dropped(exchange, pairs)
        if dropped and any(turn.current and not isinstance(one.outcome, Pass) for turn, one in pairs):
            # A guard that reads the conversation may have said so for what is left out: ask again without it.
            without = replace(exchange.request, conversation=Conversation(edited(messages, {}, dropped)))
            turns, judged, texts = await self._judged(replace(exchange, request=without))
            again = [pair for pair in zip(turns, judged, strict=True) if pair[0].index not in dropped]
            pairs = [*(pair for pair in pairs if pair[0].index in dropped), *again]
            dropped = self._dropped(exchange, pairs)
        coverage = coverage_of(messages, policy, failed=any(one.error for _, one in pairs))
        refused = [(turn, one) for turn, one in pairs if isinstance(one.outcome, Refuse)]
        told = [one for turn, one in pairs if turn.current or one.decision.action != "pass" or one.error]
        await self.judging.record(exchange, told, coverage, dropped=dropped)
        extent: Extent = "full" if is_full(coverage) else "partial"
        for turn, one in sorted(refused, key=lambda pair: not pair[0].current):
            if isinstance(one.outcome, Refuse) and (turn.current or policy.history == "block"):
                return RequestReview(exchange, b"", one.outcome, "block", one.decision.categories, (), extent)
        edits = [Edit(path, text) for path, text in texts.items()]
        decision = worst([one.decision for turn, one in pairs if turn.current])
        body, action, categories = exchange.request.raw, decision.action, decision.categories
        if edits or dropped:
            changed = [one for turn, one in pairs if turn.index in dropped or isinstance(one.outcome, Replace)]
            found = [*categories, *(category for one in changed for category in one.decision.categories)]
            categories = tuple(dict.fromkeys(found))
            body = exchange.wire.edit_request(exchange.request, edits, sorted(dropped))
            seen = replace(exchange.request, conversation=Conversation(edited(messages, texts, dropped)))
            exchange, action = replace(exchange, request=seen), "rewrite"
        return RequestReview(exchange, body, None, action, categories, tuple(sorted(dropped)), extent)

    def _dropped(self, exchange: Exchange, pairs: Sequence[tuple[Turn, Judged]]) -> frozenset[int]:
        """The messages that are left out of the request: refused exchanges of the history, if the policy says so."""
        if exchange.policy.history != "drop":
            return frozenset()
        refused = (turn.index for turn, one in pairs if isinstance(one.outcome, Refuse) and not turn.current)
        return exchanges_of(exchange.request.conversation.messages, refused)

    async def _judged(self, exchange: Exchange) -> tuple[list[Turn], list[Judged], dict[str, str]]:
        """Every turn with what was said about it, and the new text of each part that is rewritten."""
        messages, policy = exchange.request.conversation.messages, exchange.policy
        turns = turns_of(messages, policy.judge)
        joined = joined_turn(messages, policy.judge, {})
        if joined is not None:
            turns.append(joined)
        starts = recent_starts(messages)
        judged = await gathered([self._turn(exchange, turn, starts[turn.context]) for turn in turns])
        texts: dict[str, str] = {}
        for turn, one in zip(turns, judged, strict=True):
            if isinstance(one.outcome, Replace) and turn is not joined:
                texts |= new_texts(one.message, one.outcome)
        if joined is not None:
            # What the rewrites of single messages leave behind is what counts of the turn as a whole.
            joined = joined_turn(messages, policy.judge, texts) if texts else joined
            if joined is not None and texts:
                turns[-1], judged[-1] = joined, await self._turn(exchange, joined, starts[joined.context])
            if isinstance(judged[-1].outcome, Replace):
                texts |= new_texts(judged[-1].message, judged[-1].outcome)
        return turns, judged, texts

    async def _turn(self, exchange: Exchange, turn: Turn, start: int) -> Judged:
        context = exchange.request.conversation.messages[start : turn.context]
        return await self.judging.turn(exchange, context, turn.message, turn.index)

    async def review_reply(self, exchange: Exchange, body: bytes) -> ReplyReview:
        """Judge every choice of a whole reply. Raises UpstreamUnreadable where it cannot be read."""
        messages = exchange.request.conversation.messages
        context = recent(messages)
        reply = exchange.wire.parse_reply(exchange.request, body)
        judged = await gathered(
            [
                self.judging.turn(exchange, context, choice, len(messages), index)
                for index, choice in enumerate(reply.choices)
            ]
        )
        coverage = coverage_of(reply.choices, exchange.policy, failed=any(one.error for one in judged))
        await self.judging.record(exchange, judged, coverage)
        outcomes: dict[int, Outcome] = {one.choice: one.outcome for one in judged if not isinstance(one.outcome, Pass)}
        if all(passed(one) for one in judged):
            self._replies.remember(exchange, reply.id)
        refused = [outcome for outcome in outcomes.values() if isinstance(outcome, Refuse) and outcome.shape == "error"]
        if outcomes:
            body = b"" if refused else exchange.wire.edit_reply(exchange.request, reply, outcomes)
        decision = worst([one.decision for one in judged])
        # A rewrite that was not judged safe in the end is a block.
        action = "block" if any(isinstance(outcome, Refuse) for outcome in outcomes.values()) else decision.action
        extent: Extent = "full" if is_full(coverage) else "partial"
        return ReplyReview(body, action, decision.categories, extent, refused[0] if refused else None)

    async def review_error(self, exchange: Exchange, body: bytes | None, stream_type: str) -> ErrorReview:
        """Judge the body of an upstream's error response: servers quote the model's reply in it.

        `body` is decoded, or None if it cannot be; `stream_type` is the content type of a stream, empty for a whole
        body. A body that the wire cannot read is opaque: the policy's `on_opaque` decides about it. An error is never
        rewritten: it passes as a whole or not at all.
        """
        if body == b"":
            return ErrorReview(True, "pass", (), "full")
        if body is None:
            return await self._opaque_error(exchange, "its body cannot be decoded")
        # As in a reply with a schema, a rewrite would break the form of an error: `structured` makes it a refusal.
        exchange = replace(exchange, request=replace(exchange.request, structured=True))
        try:
            if stream_type:
                pieces = self.review_stream(exchange, _once(body), stream_type)
                passes = b"".join([piece async for piece in pieces]) == body
                return ErrorReview(passes, "pass" if passes else "block", (), "full")
            review = await self.review_reply(exchange, body)
        except UpstreamUnreadable as error:
            return await self._opaque_error(exchange, str(error))
        passes = review.refusal is None and review.body is body
        return ErrorReview(passes, review.action, review.categories, review.coverage)

    async def _opaque_error(self, exchange: Exchange, why: str) -> ErrorReview:
        """Decide about an error body that cannot be read, and record the decision."""
        message = Message("assistant", (Part("", "", "opaque", "error body that cannot be read"),))
        decision = on_failure(exchange.policy.on_opaque["assistant"], "opaque")
        outcome = await self.judging.act((), message, decision, exchange.policy)
        turn = len(exchange.request.conversation.messages)
        judged = Judged(turn, message, "assistant", None, decision, outcome, why, 0.0)
        await self.judging.record(exchange, [judged], coverage_of([message], exchange.policy))
        return ErrorReview(isinstance(outcome, Pass), decision.action, (), "partial")

    def review_stream(
        self,
        exchange: Exchange,
        source: AsyncIterator[bytes],
        content_type: str,
        claim: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed reply that may leave, as they may. Closing the iterator cancels what is pending.

        Raises Refused where blocks are errors, no text has left, and `claim` says that the answer may still be one.
        """
        stream: ReplyStream = exchange.wire.open_stream(exchange.request, content_type)
        review = StreamReview(
            self.judging,
            self._metrics,
            exchange,
            stream,
            max_held_bytes=self._max_held_bytes,
            replies=self._replies,
            claim=claim,
        )
        return review.run(source)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
