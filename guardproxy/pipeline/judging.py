"""One turn: its verdict (with the views of its text), the decision, the outcome, the record."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from guardproxy.errors import GuardUnavailable, Overloaded
from guardproxy.observe import Metrics, Observers
from guardproxy.policy import Policy, decide, on_failure, worst
from guardproxy.ports import Action, Guard, Judge, Request, Wire
from guardproxy.types import (
    SEVERITY,
    Check,
    Conversation,
    Coverage,
    Decision,
    Message,
    Origin,
    Outcome,
    Part,
    Pass,
    Record,
    Refuse,
    Replace,
    Side,
    Verdict,
)
from guardproxy.verdicts import worst_of_views
from guardproxy.views import View, views

T = TypeVar("T")

# Context older than this many characters cannot fit any guard's window; leaving it out here keeps the cost of a
# conversation of thousands of turns linear. The judged turn itself is never cut.
CONTEXT_CHARACTERS = 16_000
# What a guard's prompt says around each message, at the least.
_FRAME = 32
# Characters of a text whose views are kept.
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is the same for every turn of one request and its reply."""

    wire: Wire
    request: Request
    origin: Origin
    policy: Policy
    shadow: tuple[Policy, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A turn with everything that was said about it. `verdict` is None where nothing could be or needed to be read."""

    turn: int
    message: Message
    side: Side
    verdict: Verdict | None
    decision: Decision
    outcome: Outcome
    error: str
    latency_s: float
    choice: int = 0


def side_of(message: Message) -> Side:
    """The side whose rules hold for a message."""
    return "assistant" if message.role == "assistant" else "user"


def scoped(message: Message, policy: Policy) -> Message:
    """The message with only the parts that the policy wants judged (and the opaque ones)."""
    if not any(part.kind in policy.judge.skip for part in message.parts):
        return message
    return replace(message, parts=tuple(p for p in message.parts if p.kind not in policy.judge.skip))


def recent(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The latest of `messages` that together have at most CONTEXT_CHARACTERS characters, each with its frame."""
    return tuple(messages[recent_starts(messages)[-1] :])


def recent_starts(messages: Sequence[Message]) -> list[int]:
    """Where the recent part of the first 0, 1, 2, ... of `messages` begins, in time linear in their number."""
    sizes = [message.size + _FRAME for message in messages]
    starts, start, size = [0], 0, 0
    for end, added in enumerate(sizes, 1):
        size += added
        while size > CONTEXT_CHARACTERS and start < end:
            size -= sizes[start]
            start += 1
        starts.append(start)
    return starts


class Judging:
    """Judges turns with one guard; `actions` opens the action of a name for a policy."""

    def __init__(
        self,
        guard: Guard,
        observers: Observers,
        metrics: Metrics,
        actions: Mapping[str, Callable[[Policy], Action]],
    ) -> None:
        self.guard = guard
        self._observers = observers
        self._metrics = metrics
        self.actions = actions

    async def judge(
        self, context: Sequence[Message], message: Message, policy: Policy, stream: str | None = None
    ) -> tuple[Verdict | None, Decision, str]:
        """Verdict, decision, and what went wrong (empty where nothing did). `context` is what is `recent`.

        1. What the guard can read is judged, in context and in every view.
        2. A guard that is overloaded, or fails in any way it knows of, leaves the decision to the policy.
        3. What no guard can read adds the policy's word on opaque parts.
        """
        side = side_of(message)
        verdict, decision, error = None, Decision("pass", "", ()), ""
        if message.text.strip():
            try:
                verdict = await self._verdict(tuple(context), message, policy, stream)
                decision = decide(policy, side, verdict)
            except Overloaded as failure:
                decision, error = on_failure(policy.on_overload, "overload"), str(failure)
            except GuardUnavailable as failure:
                decision, error = on_failure(policy.on_guard_error, "guard_error"), str(failure)
        if message.opaque:
            decision = worst([decision, on_failure(policy.on_opaque[side], "opaque")])
        return verdict, decision, error

    async def _verdict(
        self, context: tuple[Message, ...], message: Message, policy: Policy, stream: str | None
    ) -> Verdict:
        side = side_of(message)
        started = time.perf_counter()
        checks = [("text", Check(Conversation((*context, message)), side, stream))]
        for view in _views(message.text, policy.views):
            seen = Message(message.role, (Part(message.parts[0].path, view.text),))
            checks.append((view.name, Check(Conversation((*context, seen)), side)))
        answers = await gathered([self.guard.judge(check) for _, check in checks])
        verdict = worst_of_views([(name, answer) for (name, _), answer in zip(checks, answers, strict=True)])
        self._metrics.guard(time.perf_counter() - started, verdict.usage)
        return verdict

    async def act(self, context: Sequence[Message], message: Message, decision: Decision, policy: Policy) -> Outcome:
        """What happens to `message`. Only `rewrite` and `block` change anything."""

        async def again(candidate: Message) -> Decision:
            return (await self.judge(context, candidate, policy))[1]

        return await self.apply(message, decision, policy, again)

    async def apply(self, message: Message, decision: Decision, policy: Policy, again: Judge) -> Outcome:
        """The outcome of the decision's action; `again` is what it judges a rewrite with."""
        if decision.action in ("pass", "flag"):
            return Pass()
        name = decision.how if decision.action == "rewrite" else "block"
        return await self.actions[name](policy)(message, decision, again)

    async def turn(
        self, exchange: Exchange, context: Sequence[Message], message: Message, index: int, choice: int = 0
    ) -> Judged:
        """Judge, decide and act on one turn. Where the request asked for a schema, a rewritten reply is a refusal."""
        started = time.perf_counter()
        policy = exchange.policy
        readable = scoped(message, policy)
        verdict, decision, error = await self.judge(context, readable, policy)
        outcome = await self.act(context, readable, decision, policy)
        if isinstance(outcome, Replace) and exchange.request.structured and message.role == "assistant":
            outcome = refusal(policy, decision)
        latency = time.perf_counter() - started
        return Judged(index, message, side_of(message), verdict, decision, outcome, error, latency, choice)

    async def record(
        self,
        exchange: Exchange,
        judged: Iterable[Judged],
        coverage: tuple[Coverage, ...],
        *,
        dropped: frozenset[int] = frozenset(),
    ) -> None:
        """Hand the records of judged turns to the observers, those of shadow policies with them.

        Each has what `coverage` says of its own parts, the last also what it says of parts without a record: so the
        records of a request grow with its parts, not with their square. Raises what the store raises where the policy
        of the audit makes the record part of the answer.
        """
        records: list[Record] = []
        for one, covered in _shared(list(judged), coverage):
            records.append(self._record(exchange, one, covered, exchange.policy, dropped))
            for policy in exchange.shadow:
                if one.verdict is None:
                    continue
                decision = decide(policy, one.side, one.verdict)
                shadow = replace(one, decision=decision, outcome=Pass())
                records.append(self._record(exchange, shadow, covered, policy, frozenset(), shadow=True))
        await self._observers.record(records)

    def _record(
        self,
        exchange: Exchange,
        judged: Judged,
        coverage: tuple[Coverage, ...],
        policy: Policy,
        dropped: frozenset[int],
        *,
        shadow: bool = False,
    ) -> Record:
        return Record(
            id=uuid.uuid4().hex,
            time=time.time(),
            origin=exchange.origin,
            side=judged.side,
            turn=judged.turn,
            choice=judged.choice,
            policy=policy.name,
            policy_version=policy.version,
            verdict=judged.verdict,
            decision=judged.decision,
            outcome="drop" if judged.turn in dropped else _name(judged.outcome),
            text=judged.message.text,
            coverage=coverage,
            latency_s=judged.latency_s,
            error=judged.error,
            shadow=shadow,
        )


def _shared(judged: Sequence[Judged], coverage: tuple[Coverage, ...]) -> Iterator[tuple[Judged, tuple[Coverage, ...]]]:
    """Every judged turn with what is said of its parts; the last also with what is said of parts of none."""
    places = [[part.path for part in one.message.parts] for one in judged]
    known = {item.path: item for item in coverage}
    told = {path for paths in places for path in paths}
    rest = [item for item in coverage if item.path not in told]
    for number, one in enumerate(judged, 1):
        own = [known[path] for path in places[number - 1] if path in known]
        yield one, (*own, *(rest if number == len(judged) else ()))


def passed(judged: Judged) -> bool:
    """Whether a turn was judged, and found to be nothing to act on."""
    return judged.verdict is not None and not judged.error and SEVERITY[judged.decision.action] <= SEVERITY["flag"]


def _views(text: str, names: tuple[str, ...]) -> tuple[View, ...]:
    """The views of a text. Those of short ones are kept: a conversation is sent again with every turn of it."""
    return _kept_views(text, names) if len(text) <= _SMALL else views(text, names)


_kept_views = lru_cache(maxsize=8192)(views)


def refusal(policy: Policy, decision: Decision | None = None) -> Refuse:
    """The refusal of a policy, for text that cannot be rewritten or could not be judged."""
    return policy.block.refusal(decision.categories if decision is not None else ())


def _name(outcome: Outcome) -> str:
    match outcome:
        case Pass():
            return "pass"
        case Replace():
            return "replace"
        case Refuse():
            return "refuse"


async def gathered(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, or the first error with every other call cancelled: nobody waits for what no one will read."""
    if len(calls) == 1:
        return [await calls[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
