"""The checks of a streamed reply: one choice as far as it was fed, beside the other choices if texts alternate."""

import asyncio
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardproxy.errors import GuardUnavailable
from guardproxy.patterns import Reach
from guardproxy.pipeline.exchange import Exchange, Judgement
from guardproxy.pipeline.exclusions import CountedVerdict
from guardproxy.pipeline.gathering import AT_ONCE, gathered
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.message_views import ArrivalViews, ReplyViews
from guardproxy.pipeline.reach import reach_of
from guardproxy.pipeline.turns import in_scope, recent_context
from guardproxy.policy import Policy, decide
from guardproxy.ports import ReplyStream
from guardproxy.types import SEVERITY, Decision, Finding, Message, Part, Side, Verdict

# A text is cut behind a word if one ends within so many characters. Texts without spaces are cut anywhere.
_LONGEST_WORD = 40
# A choice that the guard has failed to judge is judged again for the others after this time at the earliest.
_AGAIN_S = 1.0


@dataclass(slots=True)
class LatestCheck:
    """The latest finished check of a choice. `seconds` and `unread` add up over all checks of the choice.

    `failure` is the guard's, if the client gets it as an error.
    """

    message: Message
    verdict: Verdict | None
    decision: Decision
    error: str = ""
    seconds: float = 0.0
    undecoded: bool = False
    unread: tuple[str, ...] = ()
    counted: CountedVerdict | None = None
    failure: GuardUnavailable | None = None
    unfinished: bool = False

    def stops(self, policy: Policy, *, early: bool = False) -> bool:
        """Whether the text must not pass as it is; in an `early` check, whether that is in doubt."""
        if SEVERITY[self.decision.action] >= SEVERITY["rewrite"]:
            return True
        counted = self.counted.verdict if self.counted else self.verdict
        return early and counted is not None and not is_clearly_passed(policy, "assistant", counted)


class ChoiceChecks:
    """Asks the guard about the choices of one reply. `context` are the messages that it answers, the recent ones.

    `ended` are the choices that the proxy has ended; the caller adds them.
    """

    def __init__(self, judging: Judging, exchange: Exchange, stream: ReplyStream) -> None:
        self._judging = judging
        self._exchange = exchange
        self._stream = stream
        self.context = recent_context(exchange.request.conversation.messages)
        self.ended: set[int] = set()
        self._reach = reach_of(exchange.policy, judging.traits.reaches)
        self._arrivals = ArrivalViews()
        self._views: dict[int, ReplyViews] = {}  # by choice
        # By choice: the latest judgement on it without the others, and until when it holds.
        self._alone: dict[int, tuple[Message, Judgement, float]] = {}
        self._unclean: set[int] = set()  # those of `_alone` that do not pass
        self._comparing = asyncio.Lock()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._key = uuid.uuid4().hex  # the guard keeps its work on this reply under this name

    async def check(
        self, choice: int, before: LatestCheck | None, upto: int | None = None, *, unfinished: bool = False
    ) -> LatestCheck:
        """Judge a choice up to the position `upto` (`cut`), or as far as it was fed; AT_ONCE choices at a time.

        `before` is the latest check of the choice. More may follow the text if it is `unfinished`.
        """
        async with self._turns:
            return await self._checked(choice, before, upto, unfinished=unfinished)

    async def _checked(
        self, choice: int, before: LatestCheck | None, upto: int | None, *, unfinished: bool
    ) -> LatestCheck:
        unfinished = unfinished and self._reach != Reach()  # other guards read an end like any other place
        started = time.perf_counter()
        message = self._stream.message(choice, without=self._known_harm_beside(choice))
        if upto is not None:
            message = cut(message, upto, before.message.parts if before else ())
        if before is not None and before.message == message and before.unfinished == unfinished:
            return before  # a finish frame without text: the last check judged exactly this message
        growing = self._views.setdefault(choice, ReplyViews(self._arrivals))
        if message.arrived:
            message, judged = await self._judged_beside(choice, message, growing, unfinished=unfinished)
        else:
            judged = await self._judged(message, growing, unfinished=unfinished)
        seconds, unread = time.perf_counter() - started, judged.unread
        if before is not None:
            seconds, unread = seconds + before.seconds, tuple(dict.fromkeys((*before.unread, *unread)))
        return LatestCheck(
            message,
            judged.verdict,
            judged.decision,
            judged.error,
            seconds,
            judged.undecoded,
            unread,
            judged.counted,
            judged.failure,
            unfinished,
        )

    def undecided(self, message: Message) -> int:
        """The characters at the end of a judged message that may be the beginning of what the guard looks for."""
        if self._reach == Reach():
            return 0
        return max([self._reach.undecided(part.text) for part in message.parts if part.kind != "opaque"], default=0)

    async def _judged(
        self, message: Message, growing: ReplyViews | None = None, *, unfinished: bool = False
    ) -> Judgement:
        policy, message = self._exchange.policy, in_scope(message, self._exchange.policy.judge)
        return await self._judging.judgement(
            self.context, message, policy, self._key, growing=growing, unfinished=unfinished
        )

    async def _judged_beside(
        self, choice: int, message: Message, growing: ReplyViews, *, unfinished: bool
    ) -> tuple[Message, Judgement]:
        """Judge a choice beside the others; return what was read and the judgement.

        While no choice is known to be harmful, all are read together first: that takes one check.
        """
        harm_is_known = bool(self._unclean)
        if not harm_is_known and _is_clean(judged := await self._judged(message, growing, unfinished=unfinished)):
            return message, judged
        own = await self._judged_alone(choice)
        if SEVERITY[own.decision.action] >= SEVERITY["rewrite"]:
            return message, own
        if harm_is_known and _is_clean(judged := await self._judged(message, growing, unfinished=unfinished)):
            return message, judged
        message = await self._without_harm_beside(choice)
        return message, await self._judged(message, ReplyViews(self._arrivals, None), unfinished=unfinished)

    async def _without_harm_beside(self, choice: int) -> Message:
        """The choice beside the released texts of others only, if their own text must not pass or cannot be judged.

        Harm in one choice is not that of another. A text that the guard has failed to judge is left out.
        """
        async with self._comparing:  # the first choice that asks has the others judged, and the next ones know it
            others = [other for other in self._stream.choices if other != choice and other not in self.ended]
            judged = dict(zip(others, await gathered([self._judged_alone(other) for other in others]), strict=True))
        unclean = [other for other, own in judged.items() if not _is_clean(own)]
        unjudged = {part.path for other, own in judged.items() if own.error for part in self._alone[other][0].parts}
        message = self._stream.message(choice, without=frozenset(unclean))
        return replace(message, arrived=tuple(part for part in message.arrived if part.path not in unjudged))

    async def _judged_alone(self, choice: int) -> Judgement:
        message = self._stream.alone(choice)
        known = self._alone.get(choice)
        if known is None or known[0] != message or known[2] < time.monotonic():
            judged = await self._judged(message)
            until = time.monotonic() + _AGAIN_S if judged.error else math.inf
            known = self._alone[choice] = (message, judged, until)
            (self._unclean.discard if judged.error or _is_clean(judged) else self._unclean.add)(choice)
        return known[1]

    def _known_harm_beside(self, choice: int) -> frozenset[int]:
        """The other choices whose text, as far as it has come, is known to be harmful by itself."""
        others = self._unclean - self.ended - {choice}
        return frozenset(other for other in others if self._alone[other][0] == self._stream.alone(other))

    def forget(self) -> None:
        """Free what the guard has kept for the reply."""
        self._judging.guard.forget(self._key)


def is_clearly_passed(policy: Policy, side: Side, verdict: Verdict) -> bool:
    """Whether a calibrated verdict would change no text with thresholds of half the size."""
    findings = tuple([Finding(finding.category, 2 * finding.probability) for finding in verdict.findings])
    doubled = Verdict(2 * verdict.unsafe, findings, verdict.guard)
    return SEVERITY[decide(policy, side, doubled).action] < SEVERITY["rewrite"]


def cut(message: Message, upto: int, judged: Sequence[Part] = ()) -> Message:
    """A message as it was when it had `upto` characters, up to the last end of a word.

    `judged` are the parts that an earlier check covered. If their order leaves open which characters came first, as for
    texts that alternate, the message is returned whole.
    """
    grown = [n for n, part in enumerate(message.parts) if part not in judged[n : n + 1]]
    if message.arrived or message.size < upto or len(grown) != 1 or message.parts[grown[0]].kind == "opaque":
        return message
    (place,) = grown
    part = message.parts[place]
    known = len(judged[place].text) if place < len(judged) else 0
    end = upto - (message.size - len(part.text))
    words = (n for n in range(end - 1, max(known, end - _LONGEST_WORD), -1) if part.text[n].isspace())
    shorter = replace(part, text=part.text[: next(words, end)])
    return replace(message, parts=(*message.parts[:place], shorter, *message.parts[place + 1 :]))


def _is_clean(judged: Judgement) -> bool:
    return judged.decision.action == "pass" and not judged.error
