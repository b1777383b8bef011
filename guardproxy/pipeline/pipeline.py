"""Requests, replies and upstream errors: every turn is judged; the most severe decision on the current turn applies."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from guardproxy.errors import GuardproxyError, GuardUnavailable, JudgingTooLong, UpstreamUnreadable
from guardproxy.frozen import frozen
from guardproxy.observe import Metrics, Observers
from guardproxy.offload import computed
from guardproxy.pipeline.before_start import NOTHING, AskAgain, InPlace, asking_again
from guardproxy.pipeline.canary import CANARIES
from guardproxy.pipeline.conversations import Conversations
from guardproxy.pipeline.error_text import error_message
from guardproxy.pipeline.exchange import Exchange, JudgedTurn
from guardproxy.pipeline.exclusions import Exclusions
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.growing import GrowingReplies
from guardproxy.pipeline.held import HeldBytes
from guardproxy.pipeline.judged_request import JudgedRequest, covered, undecoded_paths, unread_parts
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.known_history import KnownHistories, of_parts
from guardproxy.pipeline.own_texts import OwnTexts
from guardproxy.pipeline.request_judging import judge_request
from guardproxy.pipeline.resumed import JudgedReplies, WithheldReplies
from guardproxy.pipeline.stream import StreamReview
from guardproxy.pipeline.together import judged_together
from guardproxy.pipeline.traits import ORDINARY, GuardTraits
from guardproxy.pipeline.turns import coverage_of, edited, is_full, recent_context, reply_turn, with_undecoded
from guardproxy.pipeline.unattended import Unattended
from guardproxy.policy import OnFailure, Policy, on_failure, worst
from guardproxy.ports import Action, Guard, SharedState
from guardproxy.types import (
    SEVERITY,
    ActionName,
    Conversation,
    Coverage,
    Message,
    Part,
    Pass,
    Refuse,
    Replace,
    ReplyInfo,
    ReplyOutcome,
)

Extent = Literal["full", "partial"]


@frozen
class RequestReview:
    """The review of a request. Forward `body` unless there is a `refusal`.

    Judge the reply in `exchange`: its conversation is the one that the upstream gets. `dropped` are the indices of the
    messages that `body` lacks.
    """

    exchange: Exchange
    body: bytes
    refusal: Refuse | None
    action: ActionName
    categories: tuple[str, ...]
    dropped: tuple[int, ...]
    coverage: Extent


@frozen
class ReplyReview:
    """The review of a whole reply. Send `body`, unless there is a `refusal`, an error; or what `again` brings."""

    body: bytes
    action: ActionName
    categories: tuple[str, ...]
    coverage: Extent
    refusal: Refuse | None = None
    again: AskAgain | None = None


@frozen
class ErrorReview:
    """The review of an upstream's error. If it `passes`, send its bytes to the client, else an error without them.

    `cleaned` takes the place of the bytes if they contain what no client may get, such as the comments of a stream.
    """

    passes: bool
    action: ActionName
    categories: tuple[str, ...]
    coverage: Extent
    cleaned: bytes | None = None


class Pipeline:
    """Guards exchanges with one guard, which reads the languages `reads`, None if that is unknown.

    A reply of more than `max_characters` is not judged, and so refused, unless the policy only monitors streams. A text
    whose client leaves while it is judged is judged on for at most `after_disconnect_s` seconds, so that it is
    recorded. With `infer_sessions`, requests that name no session get that of the request that they continue. A guard
    without a model (`traits`) need not tell the canaries apart. What is known of replies is `shared` by processes.
    """

    def __init__(
        self,
        guard: Guard,
        observers: Observers,
        metrics: Metrics,
        actions: Mapping[str, Callable[[Policy], Action]],
        *,
        max_held_bytes: int = 64 * 2**20,
        max_characters: int | None = None,
        after_disconnect_s: float = 30.0,
        reads: frozenset[str] | None = None,
        exclusions: Exclusions | None = None,
        infer_sessions: bool = False,
        traits: GuardTraits = ORDINARY,
        shared: SharedState | None = None,
    ) -> None:
        self._conversations = Conversations(infer=infer_sessions)
        self._own_texts = OwnTexts(guard.taxonomy)
        self._histories = KnownHistories()
        self.judging = Judging(
            guard,
            observers,
            metrics,
            actions,
            reads=reads,
            exclusions=exclusions,
            conversations=self._conversations,
            traits=traits,
        )
        self._metrics = metrics
        self._replies, self._withheld = JudgedReplies(shared), WithheldReplies(shared)
        self._held = HeldBytes(max_held_bytes, max_characters)
        metrics.held_from(lambda: self._held.all)
        self._unattended = Unattended(after_disconnect_s, max_held_bytes)
        self.growing = GrowingReplies()

    async def close(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` seconds for the judging of texts whose client has left; then stop it."""
        await self._unattended.close(timeout_s)
        await self.growing.close()

    def use(self, actions: Mapping[str, Callable[[Policy], Action]]) -> None:
        """Add actions, for new policies. The old ones stay: exchanges that have begun keep their policy."""
        self.judging.actions = {**self.judging.actions, **actions}

    async def canaries(self, policy: Policy) -> str:
        """Say why the guard cannot be trusted; empty if it can.

        It cannot if it fails, or if a known-bad turn scores no higher than a known-good one. The turns are judged like
        any other turn, with every view of the policy.
        """
        for context, bad, good in CANARIES:
            scores = []
            for message in (bad, good):
                verdict, _, error = await self.judging.judge(context, message, policy)
                if verdict is None:
                    return f"the guard cannot judge: {error}"
                scores.append(verdict.unsafe)
            if self.judging.traits.tells_canaries and scores[0] <= scores[1]:
                return (
                    f"the guard gives a known-bad {bad.role} turn P(unsafe) {scores[0]:.3f} and a known-good turn "
                    f"{scores[1]:.3f}; the first must be higher"
                )
        return ""

    async def review_request(self, exchange: Exchange) -> RequestReview:
        """Judge every turn of the request.

        1. A refused turn of the history is dropped with its exchange, refuses the request, or stays, as the policy's
           `history` says: so one harmful turn does not block every later request of the conversation. The current turn
           is then judged in the conversation that remains.
        2. A refused current turn refuses the request.
        3. Rewritten turns are forwarded with their new text, steered ones with an instruction for the model. If nothing
           changes, the client's own bytes are forwarded.

        If the guard fails on a turn and the policy says `error`, the records say so, and then this raises why:
        GuardUnavailable, Overloaded, or JudgingTooLong whatever the policy says.
        """
        return await self._unattended.attended(self._review_request(exchange), len(exchange.request.raw))

    async def _review_request(self, exchange: Exchange) -> RequestReview:
        sent = exchange.request.conversation.messages
        if (shown := await self.judging.images.of_request(sent, exchange.policy)) is not sent:
            exchange = _with_messages(exchange, shown)
        exchange = await self._conversations.placed(await self._withheld.left_out(exchange))
        exchange = await self._replies.without_known(exchange)
        messages, history = exchange.request.conversation.messages, exchange.policy.history
        policies = exchange.policies or (exchange.policy,)
        size, known = len(exchange.request.raw), None
        if not (excludes := self.judging.excludes):
            known = await computed(size, self._histories.find, messages, exchange.policy, policies)
        later = messages[known.size :] if known else messages
        own, kept = await computed(8 * len(later) * len(policies), self._own_texts.found, later, policies)
        if kept is not later:
            messages = (*messages[: known.size], *kept) if known else kept
            exchange = _with_messages(exchange, messages)
        own = own | known.own if known else own
        judged = await judge_request(self.judging, exchange, own, known)
        failure = _failure_of(judged.turns)
        dropped = judged.dropped(messages, history) if failure is None else frozenset()
        if dropped and judged.current_changes:
            # A guard that reads the conversation may have found the harm in the dropped messages: judge without them.
            remaining = _with_messages(exchange, edited(messages, {}, dropped))
            judged = judged.judged_again(dropped, await judge_request(self.judging, remaining, own))
            failure = _failure_of(judged.turns)
            dropped = judged.dropped(messages, history)
        known = None if judged.failed else known
        undecoded, coverage = await computed(
            size, covered, messages, exchange.policy, judged.turns, failed=judged.failed, own=own, known=known
        )
        if judged.history and not excludes and not self.judging.excludes:
            passed = of_parts(judged.history, messages, own, coverage)
            self._histories.keep(messages, exchange.policy, policies, passed)
        await self.judging.record(exchange, judged.to_record, coverage, dropped=dropped)
        if failure is not None:
            raise failure
        if undecoded:  # the reply may quote it, so no later request may continue from the reply unseen
            exchange = _with_messages(exchange, with_undecoded(messages, undecoded))
        return await computed(size, _request_review, exchange, judged, dropped, _extent(coverage))

    async def gave_resumed(self, exchange: Exchange, upstreams: Sequence[tuple[str, str]]) -> str:
        """The name of the one of the `upstreams` (address, name) that gave the resumed reply; empty if unknown."""
        return await self._replies.giver(await self._withheld.left_out(exchange), upstreams)

    async def review_reply(self, exchange: Exchange, body: bytes) -> ReplyReview:
        """Judge every choice of a whole reply.

        Raises UpstreamUnreadable if it cannot be read, or not be judged in the time of a check; GuardUnavailable or
        Overloaded if the guard fails and the policy says `error`.
        """
        return await self._unattended.attended(self._review_reply(exchange, body), len(body))

    async def _review_reply(self, exchange: Exchange, body: bytes) -> ReplyReview:
        messages = exchange.request.conversation.messages
        context = recent_context(messages)
        reply = await computed(len(body), exchange.wire.parse_reply, exchange.request, body)
        if (shown := await self.judging.images.of_reply(reply.choices, exchange.policy)) is not reply.choices:
            reply = replace(reply, choices=tuple(shown))
        self._held.check_reply(reply.choices)
        judged = await gathered(
            [
                self.judging.turn(exchange, reply_turn(messages, choice), context, index)
                for index, choice in enumerate(reply.choices)
            ]
        )
        judged = await judged_together(self.judging, exchange, judged)
        failed = any(choice.error for choice in judged)
        _, coverage = await computed(len(body), covered, reply.choices, exchange.policy, judged, failed=failed)
        info = reply.info if exchange.attempt == 1 else replace(reply.info, attempt=exchange.attempt)
        await self.judging.record(exchange, judged, coverage, reply=info)
        await self._replies.gave(exchange, reply.info.id)
        if failure := _failure_of(judged):
            raise _of_reply(failure)
        if all(choice.passed for choice in judged):
            await self._replies.remember(exchange, reply.id)
        outcomes: dict[int, ReplyOutcome] = {
            choice.choice: outcome for choice in judged if isinstance(outcome := choice.outcome, Replace | Refuse)
        }
        refusals = [outcome for outcome in outcomes.values() if isinstance(outcome, Refuse)]
        if refusals:
            await self._withheld.note(exchange, reply.info.id)
        is_error = exchange.wire.refuses_by_error
        as_error = next((one for one in refusals if is_error or one.shape == "error"), None)
        if outcomes:
            edit = exchange.wire.edit_reply
            body = b"" if as_error else await computed(len(body), edit, exchange.request, reply, outcomes)
        decision = worst([choice.decision for choice in judged])
        # A rewrite that did not pass when it was judged again is a block.
        action = "block" if refusals else decision.action
        again = asking_again(refusals, reply.info)
        return ReplyReview(body, action, decision.categories, _extent(coverage), as_error, again)

    async def review_error(self, exchange: Exchange, body: bytes | None, stream_type: str) -> ErrorReview:
        """Judge the body of an upstream's error response: servers quote the model's reply in it.

        `body` is decoded, or None if it cannot be; `stream_type` is the content type of a stream, empty for a whole
        body. If the wire cannot read a body, its text is judged. A body that is not text is opaque: the policy's
        `on_opaque` decides about it, and a body that cannot be decoded never passes. An error is never rewritten: it
        passes as a whole or not at all; of a stream, only what no client may get is cleaned away.
        """
        if body == b"":
            return ErrorReview(True, "pass", (), "full")
        return await self._unattended.attended(self._review_error(exchange, body, stream_type), len(body or b""))

    async def _review_error(self, exchange: Exchange, body: bytes | None, stream_type: str) -> ErrorReview:
        if body is None:
            return await self._opaque_error(exchange, "its body cannot be decoded", "block")
        # As in a reply with a schema, a rewrite would break the form of an error: `structured` makes it a refusal.
        exchange = replace(exchange, request=replace(exchange.request, structured=True))
        try:
            if stream_type:
                return await self._review_error_stream(exchange, body, stream_type)
            review = await self._review_reply(exchange, body)
        except UpstreamUnreadable as error:
            if (message := error_message(body)) is not None:
                return await self._error_of_text(exchange, message)
            return await self._opaque_error(exchange, str(error), exchange.policy.on_opaque["assistant"])
        passes = review.refusal is None and review.body is body
        return ErrorReview(passes, review.action, review.categories, review.coverage)

    async def _review_error_stream(self, exchange: Exchange, body: bytes, content_type: str) -> ErrorReview:
        """Judge a stream under the status of an error. It passes if nothing takes the place of one of its frames."""
        stream = self._stream_review(exchange, content_type)
        sent = b"".join([piece async for piece in stream.run(_once(body))])
        decision = stream.decision
        extent: Extent = "partial" if stream.failed else "full"
        if not stream.passed:
            return ErrorReview(False, "block", decision.categories, extent)
        # A policy that only monitors streams lets the text pass whatever the decision.
        action = min(decision.action, "flag", key=SEVERITY.__getitem__)
        return ErrorReview(True, action, decision.categories, extent, sent if sent != body else None)

    async def _error_of_text(self, exchange: Exchange, message: Message) -> ErrorReview:
        """Judge the text of an error that is in no form of the protocol."""
        messages = exchange.request.conversation.messages
        judged = await self.judging.turn(exchange, reply_turn(messages, message), recent_context(messages))
        undecoded, unread, failed = undecoded_paths([judged]), unread_parts([judged]), bool(judged.error)
        coverage = coverage_of([message], exchange.policy, failed=failed, undecoded=undecoded, unread=unread)
        await self.judging.record(exchange, [judged], coverage, reply=ReplyInfo())
        passes, decision = isinstance(judged.outcome, Pass), judged.decision
        return ErrorReview(passes, decision.action if passes else "block", decision.categories, _extent(coverage))

    async def _opaque_error(self, exchange: Exchange, why: str, setting: OnFailure) -> ErrorReview:
        """Decide about an error body that cannot be read, as `setting` says, and record the decision."""
        messages, policy = exchange.request.conversation.messages, exchange.policy
        message = Message("assistant", (Part("", "", "opaque", "error body that cannot be read"),))
        decision = on_failure(setting, "opaque")
        outcome = await self.judging.act((), message, decision, policy)
        judged = JudgedTurn(reply_turn(messages, message), None, decision, outcome, why)
        await self.judging.record(exchange, [judged], coverage_of([message], policy), reply=ReplyInfo())
        return ErrorReview(isinstance(outcome, Pass), decision.action, (), "partial")

    def review_stream(
        self, exchange: Exchange, source: AsyncIterator[bytes], content_type: str, in_place: InPlace = NOTHING
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a streamed reply once they may be sent.

        Closing the iterator stops the reading; what was read is judged to its end and recorded. Raises
        RefusedBeforeStart or AskAgain if the reply is refused, nothing was yielded, and `in_place` allows an error or
        another reply.
        """
        return self._stream_review(exchange, content_type, in_place).run(source)

    def _stream_review(self, exchange: Exchange, content_type: str, in_place: InPlace = NOTHING) -> StreamReview:
        return StreamReview(
            self.judging,
            self._metrics,
            exchange,
            exchange.wire.open_stream(exchange.request, content_type),
            held=self._held,
            replies=self._replies,
            withheld=self._withheld,
            unattended=self._unattended,
            in_place=in_place,
        )


def _request_review(
    exchange: Exchange, judged: JudgedRequest, dropped: frozenset[int], extent: Extent
) -> RequestReview:
    """The answer to a judged request: a refusal, the client's own bytes, or a changed body."""
    if refused := judged.refused(exchange.policy.history):
        refusal, categories = refused
        return RequestReview(exchange, b"", refusal, "block", categories, (), extent)
    request, decision = exchange.request, judged.decision
    instruction, body, indices = judged.instruction(dropped), request.raw, sorted(dropped)
    if not judged.new_texts and not dropped and not instruction:
        return RequestReview(exchange, body, None, decision.action, decision.categories, (), extent)
    if judged.new_texts or dropped:
        body = exchange.wire.edit_request(request, judged.edits, indices)
    if instruction:
        body = exchange.wire.instructed(request, body, instruction)
    forwarded = _with_messages(exchange, edited(request.conversation.messages, judged.new_texts, dropped))
    return RequestReview(forwarded, body, None, "rewrite", judged.categories(dropped), tuple(indices), extent)


def _with_messages(exchange: Exchange, messages: Sequence[Message]) -> Exchange:
    return replace(exchange, request=replace(exchange.request, conversation=Conversation(tuple(messages))))


def _failure_of(judged: Sequence[JudgedTurn]) -> GuardUnavailable | None:
    """The guard's failure that the client gets as an error, if there is one."""
    return next((turn.failure for turn in judged if turn.failure), None)


def _of_reply(failure: GuardUnavailable) -> GuardproxyError:
    """The error for a client whose reply could not be judged: that it takes too long is not the request's fault."""
    if isinstance(failure, JudgingTooLong):
        return UpstreamUnreadable(f"the reply takes too long to judge: {failure}")
    return failure


def _extent(coverage: tuple[Coverage, ...]) -> Extent:
    return "full" if is_full(coverage) else "partial"


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
