"""One turn: its verdict (on its text and every view of it), the decision, the outcome.

The fail direction is in `Judging.judge`: a guard that fails is *unavailable*, never *safe*.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from guardproxy.asking import AsOneRequest
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.observe import Metrics, Observers
from guardproxy.offload import computed
from guardproxy.pipeline.conversations import Conversations
from guardproxy.pipeline.exchange import Case, Exchange, JudgedTurn, Judgement
from guardproxy.pipeline.exclusions import CountedVerdict, Exclusions
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.images import Images, image_checks, texts_only, without_images
from guardproxy.pipeline.known_turns import KnownTurn, KnownTurns, Prefix, TurnScores
from guardproxy.pipeline.message_views import MessageViews, ReplyViews
from guardproxy.pipeline.readings import readings
from guardproxy.pipeline.recording import Recorder
from guardproxy.pipeline.reread import counted_readings, of_sentences, of_thread
from guardproxy.pipeline.traits import ORDINARY, GuardTraits
from guardproxy.pipeline.turns import Turn, edited, in_scope, texts_after
from guardproxy.pipeline.unread import unread_languages
from guardproxy.policy import REGENERATE, Policy, decide, on_failure, on_languages, worst
from guardproxy.ports import Action, Guard, JudgeAgain
from guardproxy.types import (
    Cause,
    Check,
    Conversation,
    Coverage,
    Decision,
    Message,
    Outcome,
    Part,
    Pass,
    Refuse,
    Replace,
    ReplyInfo,
    Steer,
    Verdict,
)
from guardproxy.verdicts import usage_in_parallel, worst_of_views
from guardproxy.views import PART, View, ends_alike

Texts = Sequence[str]
_UNCHANGED = ("pass", "flag")  # the actions that leave a text as it is
_PASS = Pass()


class Judging:
    """Judges turns with one guard. `actions` maps the name of each action to its factory, which takes the policy.

    `reads` are the languages that the guard reads, None if that is unknown: then no language is detected. Each decision
    is made with the `exclusions` that are in force at its time. Without `conversations`, none is known. `traits` are
    those of the guard.
    """

    def __init__(
        self,
        guard: Guard,
        observers: Observers,
        metrics: Metrics,
        actions: Mapping[str, Callable[[Policy], Action]],
        *,
        reads: frozenset[str] | None = None,
        exclusions: Exclusions | None = None,
        conversations: Conversations | None = None,
        traits: GuardTraits = ORDINARY,
        views: MessageViews | None = None,
    ) -> None:
        self.guard = guard
        self.traits = traits
        self.images = Images(traits.images)
        self._exclusions = exclusions or Exclusions()
        self._reads = reads
        self._views = views or MessageViews(traits.timeout_s)
        self._known = KnownTurns()
        self._recorder = Recorder(observers, metrics, conversations or Conversations())
        self._metrics = metrics
        self.actions = actions
        self.required = observers.required

    @property
    def excludes(self) -> bool:
        """Whether there are exclusions."""
        return self._exclusions.any

    def excluded(self, text: str) -> bool:
        """Whether an exclusion is in force for this text."""
        return bool(self._exclusions.covering(text))

    async def verdict(self, check: Check, policy: Policy) -> Verdict:
        """The guard's own verdict on one check and on the images in it, for who decides himself.

        The policy says who reads the results of tools. Raises what `Guard.judge` raises.
        """
        *before, message = check.conversation.messages
        reading, reads_tools = self.traits.images, self.traits.reads_tools
        checks = [("text", check)]
        try:
            if reading is not None:
                context, words = texts_only(before), without_images(message)
                asked = [("text", replace(check, conversation=Conversation((*context, words))))]
                checks = asked if words.text.strip() else []
                checks += image_checks(context, message, policy, reading, reads_tools=reads_tools)
            return worst_of_views(await self._verdicts(checks))
        except (Overloaded, JudgingTooLong) as failure:
            self._metrics.guard_refused("overload" if isinstance(failure, Overloaded) else "too_long")
            raise

    async def judge(
        self, context: Sequence[Message], message: Message, policy: Policy, stream: str | None = None
    ) -> tuple[Verdict | None, Decision, str]:
        """Return the verdict, the decision and the error of `judgement`."""
        judged = await self.judgement(context, message, policy, stream)
        return judged.verdict, judged.decision, judged.error

    async def judgement(
        self,
        context: Sequence[Message],
        message: Message,
        policy: Policy,
        stream: str | None = None,
        thread: Texts = (),
        *,
        by_part: bool = True,
        growing: ReplyViews | None = None,
        unfinished: bool = False,
    ) -> Judgement:
        """Judge a message. `context` is recent; `thread`, if any, are the texts of the user turns to join before it.
        A streamed reply, which is judged again and again, has its `growing` views; `unfinished` as in `Check`.

        1. The guard judges the readable text, in its context and in every view; its parts and sentences as well, each
           by itself, unless `by_part` is false (a message that joins judged ones); and the text with each image. The
           policy's rules decide about what exclusions do not cover.
        2. If the guard is overloaded or fails in any way, there is no verdict, not even for the views that it judged:
           `on_overload` or `on_guard_error` decides (`_unjudged`). A failure never counts as "safe".
        3. If the message has opaque parts, or encodings that were not decoded, `on_opaque` decides as well, and the
           more severe decision applies.
        4. If its text or a view of it is in a language that the guard does not read, so does `on_language`.

        A message without text, images and opaque parts passes. Other exceptions propagate, and nothing is released.
        """
        scores, complete = None, True
        unread: tuple[str, ...] = ()
        reading, reads_tools = self.traits.images, self.traits.reads_tools
        context = texts_only(context) if reading else context
        words = without_images(message) if reading else message
        checks: list[tuple[str, Check]] = []
        says = bool(words.text.strip())  # not `says_something`: hidden text has views, and a guard may know mere signs
        if says or words is not message:
            try:
                if says:
                    asked = Check(Conversation((*context, words)), words.side, stream, unfinished)
                    checks, complete, unread = await self._text_checks(asked, policy, by_part=by_part, growing=growing)
                checks += image_checks(context, message, policy, reading, reads_tools=reads_tools)
                checks += await of_sentences(words, checks, policy) if by_part and says else []
                checks += of_thread(message, thread, policy)
                by_view = await self._verdicts(checks, policy)
            except GuardUnavailable as failure:
                return self._unjudged(failure, message, policy, unread, complete=complete)
            scores = TurnScores(worst_of_views(by_view), tuple(by_view), complete, unread, bool(message.opaque))
        if scores is not None:
            verdict, decision, counted = self._decided(message, policy, scores)
            return Judgement(verdict, decision, "", not complete, unread, counted, None, scores)
        decision = _with_unreadable(Decision("pass", "", ()), message, policy, unread, complete=complete)
        return Judgement(None, decision, "", not complete, unread)

    async def _text_checks(
        self, asked: Check, policy: Policy, *, by_part: bool, growing: ReplyViews | None
    ) -> tuple[list[tuple[str, Check]], bool, tuple[str, ...]]:
        """The checks of a text in every reading and view, whether these are complete, and the languages not read."""
        *context, message = asked.conversation.messages
        checks: list[tuple[str, Check]] = []
        complete, unread = True, list[str]()
        for step, read in readings(message, policy, reads_tools=self.traits.reads_tools, joined=not by_part):
            views = await self._views.of(read, policy.views, by_part=by_part, growing=growing)
            complete = complete and views.complete
            unread += await self._unread(read.text, views.views)
            check = Check(Conversation((*context, read)), read.side, asked.stream, asked.unfinished)
            checks += _checks(step, check, views.views)
        return checks, complete, tuple(dict.fromkeys(unread))

    def _unjudged(
        self, failure: GuardUnavailable, message: Message, policy: Policy, unread: tuple[str, ...], *, complete: bool
    ) -> Judgement:
        """What the policy decides about a message that the guard has not judged, and whether the failure is the answer.

        A text that takes longer to judge than a check may never passes, and its client always gets the error.
        """
        setting = policy.on_guard_error
        cause: Cause = "guard_error"
        if isinstance(failure, Overloaded):
            setting, cause = policy.on_overload, "overload"
            self._metrics.guard_refused("overload")
        elif isinstance(failure, JudgingTooLong):
            setting = "error"
            self._metrics.guard_refused("too_long")
        decision = _with_unreadable(on_failure(setting, cause), message, policy, unread, complete=complete)
        answer = failure if setting == "error" else None
        return Judgement(None, decision, str(failure), not complete, unread, None, answer)

    def _decided(
        self, message: Message, policy: Policy, scores: TurnScores
    ) -> tuple[Verdict, Decision, CountedVerdict | None]:
        """The calibrated verdict, what the policy decides about it, and what counts of it if an exclusion applies."""
        verdict = policy.calibration.applied(message.side, scores.verdict)
        counted = self._exclusions.counted(message, scores.by_view)
        counted = counted and counted.calibrated(policy, message.side)
        return verdict, _decision(message, policy, scores, counted.verdict if counted else verdict), counted

    async def _unread(self, text: str, views: Sequence[View]) -> tuple[str, ...]:
        """The languages of a text and its views that the guard does not read. Those of its parts are the text's."""
        if self._reads is None:
            return ()
        views = [view for view in views if view.name.partition("+")[0] != PART]
        size = len(text) + sum(len(view.text) for view in views)
        return await computed(size, unread_languages, text, views, self._reads)

    async def _verdicts(
        self, checks: Sequence[tuple[str, Check]], policy: Policy | None = None
    ) -> list[tuple[str, Verdict]]:
        """The verdicts on a message, its views, its sentences and its thread; of these two, what the policy counts."""
        started = time.perf_counter()
        with AsOneRequest():
            verdicts = await gathered([self.guard.judge(check) for _, check in checks])
        usage = verdicts[0].usage if len(verdicts) == 1 else usage_in_parallel([one.usage for one in verdicts])
        self._metrics.guard(time.perf_counter() - started, usage)
        by_view = [(name, verdict) for (name, _), verdict in zip(checks, verdicts, strict=True)]
        return by_view if policy is None else counted_readings(by_view, checks[0][1].side, policy)

    async def act(
        self,
        context: Sequence[Message],
        message: Message,
        decision: Decision,
        policy: Policy,
        thread: Texts = (),
        *,
        by_part: bool = True,
    ) -> Outcome:
        """The outcome for `message`; a rewritten text is judged again in the same context, behind the same thread."""

        async def judge_again(candidate: Message) -> Decision:
            return (await self.judgement(context, candidate, policy, thread=thread, by_part=by_part)).decision

        return await self.outcome_of(message, decision, policy, judge_again)

    async def outcome_of(
        self, message: Message, decision: Decision, policy: Policy, judge_again: JudgeAgain
    ) -> Outcome:
        """What the decision's action makes of `message`. Decisions to pass and to flag change nothing."""
        if decision.action in _UNCHANGED:
            return Pass()
        name = decision.how if decision.action == "rewrite" else "block"
        outcome = await self.actions[name](policy)(message, decision, judge_again)
        if isinstance(outcome, Steer) and message.side == "assistant":
            return refusal(policy, decision)  # what a model has said cannot be steered
        if isinstance(outcome, Replace) and message.images:  # a rewrite changes texts, and leaves images there
            left = await judge_again(edited([message], texts_after(message, outcome))[0])
            return outcome if left.action in _UNCHANGED else refusal(policy, decision)
        return outcome

    async def turn(
        self, exchange: Exchange, turn: Turn, context: Sequence[Message], choice: int = 0, prefix: Prefix = b""
    ) -> JudgedTurn:
        """Judge one turn, decide and act. If the request asked for a schema, a rewrite of the reply is a refusal.
        So is an instruction for a request that has no place for one.

        With the `prefix` of its last message, the turn is known when it comes again (`known`).
        """
        started = time.perf_counter()
        policy = exchange.policy
        readable = in_scope(turn.message, policy.judge)
        judged = await self.judgement(context, readable, policy, thread=turn.thread, by_part=not turn.joined)
        if prefix and judged.scores is not None and judged.verdict is not None:
            decision = _decision(readable, policy, judged.scores, judged.verdict)
            self._known.keep(turn, prefix, KnownTurn(policy, judged.scores, judged.verdict, decision))
        outcome = await self.act(context, readable, judged.decision, policy, turn.thread, by_part=not turn.joined)
        if isinstance(outcome, Replace) and exchange.request.structured and turn.message.role == "assistant":
            outcome = refusal(policy, judged.decision)
        if isinstance(outcome, Steer) and not exchange.request.instructible:
            outcome = refusal(policy, judged.decision)
        return JudgedTurn(
            turn,
            judged.verdict,
            judged.decision,
            outcome,
            judged.error,
            time.perf_counter() - started,
            choice,
            judged.undecoded,
            judged.unread,
            counted=judged.counted,
            failure=judged.failure,
        )

    def known(self, exchange: Exchange, turn: Turn, prefix: Prefix) -> JudgedTurn | None:
        """The same as `turn` for a turn whose scores are known, if the decision leaves it unchanged; otherwise None.

        It takes no time worth measuring: `latency_s` is 0, and the guard's metrics do not count it.
        """
        known = self._known.find(turn, prefix, exchange.policy)
        if known is None:
            return None
        _, scores, verdict, decision = known
        counted = None
        if self._exclusions.any:
            readable = in_scope(turn.message, exchange.policy.judge)
            verdict, decision, counted = self._decided(readable, exchange.policy, scores)
        if decision.action not in _UNCHANGED:
            return None
        undecoded, unread = not scores.complete, scores.unread
        return JudgedTurn(turn, verdict, decision, _PASS, "", 0.0, 0, undecoded, unread, True, False, counted)

    async def record(
        self,
        case: Case,
        judged: Iterable[JudgedTurn],
        coverage: tuple[Coverage, ...],
        *,
        dropped: frozenset[int] = frozenset(),
        reply: ReplyInfo | None = None,
    ) -> None:
        """Record judged turns as `Recorder.record` does. Raises AuditUnavailable as it does."""
        await self._recorder.record(case, list(judged), coverage, dropped=dropped, reply=reply)


def _checks(step: str, asked: Check, views: Iterable[View]) -> list[tuple[str, Check]]:
    """The checks of a message and its views, by their names, which begin with the `step` of the reading, if any."""
    *context, message = asked.conversation.messages
    checks = [(step or "text", asked)]
    for view in views:
        viewed = Message(message.role, (Part(message.parts[0].path, view.text),))
        of_stream = asked.stream if view.name == PART else None  # grows with it
        unfinished = asked.unfinished and ends_alike(view)
        name = f"{step}+{view.name}" if step else view.name
        checks.append((name, Check(Conversation((*context, viewed)), asked.side, of_stream, unfinished)))
    return checks


def _decision(message: Message, policy: Policy, scores: TurnScores, counted: Verdict) -> Decision:
    """What the policy decides about a message with these scores, of which `counted` counts, calibrated."""
    decision = decide(policy, message.side, counted)
    if scores.opaque or scores.unread or not scores.complete:
        decision = _with_unreadable(decision, message, policy, scores.unread, complete=scores.complete)
    return decision


def _with_unreadable(
    decision: Decision, message: Message, policy: Policy, unread: tuple[str, ...], *, complete: bool
) -> Decision:
    """The decision, or a more severe one about opaque parts, encodings that are left, and languages not read."""
    if not complete or message.opaque:
        decision = worst([decision, on_failure(policy.on_opaque[message.side], "opaque")])
    if unread:
        decision = worst([decision, on_languages(policy.on_language[message.side], unread)])
    return decision


def refusal(policy: Policy, decision: Decision | None = None) -> Refuse:
    """The policy's refusal, for a text that cannot be rewritten or could not be judged.

    Another reply may be asked for if the decision says so.
    """
    if decision is None:
        return policy.block.refusal(())
    found = policy.block.refusal_of(decision)
    return replace(found, again=policy.rewrite.retry(found.named or ())) if decision.how == REGENERATE else found
