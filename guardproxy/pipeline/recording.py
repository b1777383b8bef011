"""The records of judged turns: each turn has one, and none when a later request sends it again as history."""

import asyncio
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from guardproxy.observe import Metrics, Observers, Receipt
from guardproxy.offload import computed
from guardproxy.pipeline.conversations import CHEAPER, Conversations
from guardproxy.pipeline.exchange import Case, JudgedTurn
from guardproxy.pipeline.repeats import Recordable, RecordedTurns, may_repeat, prefix_of, recordable
from guardproxy.policy import Policy, decide
from guardproxy.types import Coverage, Outcome, OutcomeName, Pass, Record, Refuse, Replace, ReplyInfo, Steer


class Recorder:
    """Gives the observers the records of judged turns."""

    def __init__(self, observers: Observers, metrics: Metrics, conversations: Conversations) -> None:
        self._observers = observers
        self._metrics = metrics
        self._conversations = conversations
        self._recorded = RecordedTurns()
        self._later: dict[Recordable, asyncio.Task[None]] = {}

    async def record(
        self,
        case: Case,
        judged: Sequence[JudgedTurn],
        coverage: tuple[Coverage, ...],
        *,
        dropped: frozenset[int],
        reply: ReplyInfo | None,
    ) -> None:
        """Give the observers a record of each judged turn, and of each shadow policy's decision on it.

        A turn that comes again has none if it is recorded already with the same decision. If that record is still on
        its way to the sinks, the turn's own waits, and follows if they fail to store the first. `reply` is None for the
        turns of a request. Raises AuditUnavailable if `audit.required` is set and a record could not be stored.
        """
        hashed = sum(one.turn.message.size for one in judged) // CHEAPER if reply else 0
        size = 256 * len(judged) + 16 * len(coverage)
        withheld = _withheld(case, judged, dropped, is_reply=reply is not None)
        places = await computed(256 * len(judged) + hashed, _places, case, judged, withheld)
        if reply is not None:
            for one, (prefix, _) in zip(judged, places, strict=True):
                self._conversations.answered(case, prefix, "" if one.late else reply.id)
        turns = [turn for _, turn in places]
        if not any(turns):  # nothing that may come again
            groups = await computed(size, _records, case, judged, coverage, dropped, reply)
            for one in judged:
                self._metrics.unread(one.turn.message.side, one.unread)
            await self._observers.record([record for records in groups for record in records])
            return
        again = [turn if may_repeat(case, one) else None for one, turn in zip(judged, turns, strict=True)]
        repeats = {place for place, turn in enumerate(again) if turn is not None and self._recorded.is_known(turn)}
        waiting = {place: self._waiting(turn) for place, turn in enumerate(again)}
        if repeats:
            coverage = await computed(size, _without_repeats, judged, repeats, coverage)
        # Those that wait come first, because the last record has the coverage of the parts without one.
        kept = sorted((place for place in range(len(judged)) if place not in repeats), key=lambda p: not waiting[p])
        groups = await computed(size, _records, case, [judged[place] for place in kept], coverage, dropped, reply)
        now: list[tuple[Recordable | None, list[Record]]] = []
        for place, records in zip(kept, groups, strict=True):
            turn, written, message = turns[place], waiting[place], judged[place].turn.message
            if turn and written:
                self._give_later(written, turn, records)
            else:
                now.append((turn, records))
                self._metrics.unread(message.side, judged[place].unread)
        await self._give(now)

    def _waiting(self, turn: Recordable | None) -> "asyncio.Future[bool] | None":
        """For a turn that may repeat: whether a record that says the same will be stored, if one is on its way."""
        return None if turn is None or self._observers.required else self._recorded.waiting(turn)

    async def _give(self, turns: Sequence[tuple[Recordable | None, list[Record]]]) -> None:
        receipts: dict[str, Receipt] = {}
        for turn, records in turns:
            if turn is not None:
                receipt = Receipt()
                receipts.update((record.id, receipt) for record in records)
                self._recorded.expect(turn, receipt.written)
        try:
            await self._observers.record([record for _, records in turns for record in records], receipts)
        except BaseException:
            # If this is cancelled, some records never get to a sink: no repeat may wait for them.
            for receipt in receipts.values():
                receipt.note(stored=False)
            raise

    def _give_later(self, written: "asyncio.Future[bool]", turn: Recordable, records: list[Record]) -> None:
        """Give the records if the sinks fail to store those that say the same; one spare for each turn is enough."""
        if turn not in self._later:
            task = self._later[turn] = asyncio.ensure_future(self._given_unless(written, turn, records))
            task.add_done_callback(lambda _: self._later.pop(turn))

    async def _given_unless(self, written: "asyncio.Future[bool]", turn: Recordable, records: list[Record]) -> None:
        await asyncio.wait({written})
        if not written.result():
            await self._give([(turn, records)])


def _withheld(case: Case, judged: Sequence[JudgedTurn], dropped: frozenset[int], *, is_reply: bool) -> list[bool]:
    """For each turn, whether nobody got it: a choice of a reply, the turn's exchange, or the request was refused."""
    refused = [isinstance(one.outcome, Refuse) for one in judged]
    if is_reply:
        return refused
    # A failure of any turn refuses the request (`Pipeline.review_request`).
    stops = [one.turn.current or case.policy.history == "block" or one.failure is not None for one in judged]
    request = any(one and stop for one, stop in zip(refused, stops, strict=True))
    return [request or one.turn.index in dropped for one in judged]


def _places(
    case: Case, judged: Sequence[JudgedTurn], withheld: Sequence[bool]
) -> list[tuple[bytes, Recordable | None]]:
    """For each turn, its prefix, and what tells its record from others."""
    places: list[tuple[bytes, Recordable | None]] = []
    for one, without in zip(judged, withheld, strict=True):
        prefix = prefix_of(case, one)
        places.append((prefix, recordable(case, one, prefix, withheld=without)))
    return places


def _without_repeats(
    judged: Sequence[JudgedTurn], repeats: Collection[int], coverage: tuple[Coverage, ...]
) -> tuple[Coverage, ...]:
    """The coverage without the parts of repeats: the records of these have it, and no other turn's may."""
    paths = [{part.path for part in one.turn.message.parts} for one in judged]
    others = set().union(*(of_turn for place, of_turn in enumerate(paths) if place not in repeats))
    repeated = set().union(*(paths[place] for place in repeats)) - others
    return tuple(item for item in coverage if item.path not in repeated)


def _records(
    case: Case,
    judged: Sequence[JudgedTurn],
    coverage: tuple[Coverage, ...],
    dropped: frozenset[int],
    reply: ReplyInfo | None,
) -> list[list[Record]]:
    """For each judged turn, its record and one of each shadow policy's decision on it."""
    groups: list[list[Record]] = []
    for judged_turn, own_coverage in _with_coverage(judged, coverage):
        records = [_record(case, judged_turn, own_coverage, case.policy, reply, dropped=dropped)]
        for policy in case.shadow:
            if judged_turn.verdict is None:
                continue
            counted = judged_turn.counted.verdict if judged_turn.counted else judged_turn.verdict
            decision = decide(policy, judged_turn.turn.message.side, counted)
            shadow = replace(judged_turn, decision=decision, outcome=Pass())
            records.append(_record(case, shadow, own_coverage, policy, reply, shadow=True))
        groups.append(records)
    return groups


def _record(
    case: Case,
    judged: JudgedTurn,
    coverage: tuple[Coverage, ...],
    policy: Policy,
    reply: ReplyInfo | None,
    *,
    dropped: frozenset[int] = frozenset(),
    shadow: bool = False,
) -> Record:
    side = judged.turn.message.side
    excluded = judged.counted.applied(policy, side, judged.verdict) if judged.counted and judged.verdict else ""
    return Record(
        id=os.urandom(16).hex(),
        time=time.time(),
        origin=case.origin,
        side=side,
        turn=judged.turn.index,
        choice=judged.choice,
        policy=policy.name,
        policy_version=policy.version,
        verdict=judged.verdict,
        decision=judged.decision,
        outcome="drop" if judged.turn.index in dropped else _outcome_name(judged.outcome),
        text=judged.turn.message.text,
        coverage=coverage,
        latency_s=judged.latency_s,
        error=judged.error,
        shadow=shadow,
        complete=judged.complete,
        late=judged.late,
        reply=reply,
        sampled=case.sampled,
        exclusion=excluded,
    )


def _with_coverage(
    judged: Sequence[JudgedTurn], coverage: tuple[Coverage, ...]
) -> Iterator[tuple[JudgedTurn, tuple[Coverage, ...]]]:
    """Each judged turn with the coverage of its own parts; the last also with that of parts without a record.

    So the records of a request grow with the number of its parts, not with its square.
    """
    paths_of_turns = [[part.path for part in judged_turn.turn.message.parts] for judged_turn in judged]
    by_path = {item.path: item for item in coverage}
    recorded = {path for paths in paths_of_turns for path in paths}
    unrecorded = [item for item in coverage if item.path not in recorded]
    for number, (judged_turn, paths) in enumerate(zip(judged, paths_of_turns, strict=True), 1):
        own = [by_path[path] for path in paths if path in by_path]
        yield judged_turn, (*own, *(unrecorded if number == len(judged) else ()))


def _outcome_name(outcome: Outcome) -> OutcomeName:
    match outcome:
        case Pass():
            return "pass"
        case Replace():
            return "replace"
        case Steer():
            return "steer"
        case Refuse():
            return "refuse"
