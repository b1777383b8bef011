"""Turns that are recorded already. Clients send the whole conversation with every request, so turns come again."""

from asyncio import Future
from collections import OrderedDict
from functools import partial

from guardproxy.frozen import frozen
from guardproxy.pipeline.conversations import following
from guardproxy.pipeline.exchange import Case, JudgedTurn
from guardproxy.policy import Policy, decide
from guardproxy.types import Decision, Outcome, Pass, Refuse, Replace, Steer

_MOST = 50_000  # turns that are kept; the least recently used one is removed first

_Decided = tuple[object, ...]
_Key = tuple[str, str, bytes, int]


@frozen
class Recordable:
    """What tells a turn from others, what a record would say of it, and whether nobody got its text."""

    key: _Key
    decided: _Decided
    withheld: bool = False

    def tells(self, turn: "Recordable") -> bool:
        """Whether a record of this turn says all that one of `turn` would: above all, that its text was forwarded."""
        return self.decided == turn.decided and (turn.withheld or not self.withheld)


class RecordedTurns:
    """Remembers the latest record of each turn that may be recorded again.

    A turn is known once every sink has stored its records.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, Recordable] = OrderedDict()
        self._waiting: dict[_Key, tuple[Recordable, Future[bool]]] = {}

    def is_known(self, turn: Recordable) -> bool:
        """Whether the latest record of the turn is stored and says the same."""
        known = self._known.get(turn.key)
        if known is None or not known.tells(turn):
            return False
        self._known.move_to_end(turn.key)
        return True

    def waiting(self, turn: Recordable) -> "Future[bool] | None":
        """If a record that says the same is on its way to the sinks: whether they have stored it, once it is known."""
        first, written = self._waiting.get(turn.key, (None, None))
        return written if first and first.tells(turn) else None

    def expect(self, turn: Recordable, written: "Future[bool]") -> None:
        """Remember the turn once its records are `written`."""
        self._waiting[turn.key] = turn, written
        written.add_done_callback(partial(self._settle, turn))

    def _settle(self, turn: Recordable, written: "Future[bool]") -> None:
        if self._waiting.get(turn.key, (None, None))[1] is written:
            del self._waiting[turn.key]
        if written.cancelled() or not written.result():
            return
        self._known[turn.key] = turn
        self._known.move_to_end(turn.key)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)


def prefix_of(case: Case, judged: JudgedTurn) -> bytes:
    """The prefix of the conversation up to and including the turn; empty if its place in one is not known."""
    if case.place is None:
        return b""
    prefixes = case.place.prefixes
    if judged.turn.index < len(prefixes):
        return prefixes[judged.turn.index]
    return following(prefixes[-1], judged.turn.message, case.policy.judge)


def may_repeat(case: Case, judged: JudgedTurn) -> bool:
    """Whether an earlier request can have had the turn: the assistant has said or called something since."""
    return case.place is not None and judged.turn.index < case.place.new


def recordable(case: Case, judged: JudgedTurn, prefix: bytes, *, withheld: bool) -> Recordable | None:
    """The turn as `RecordedTurns` knows it; None if there is no need to know it, or its place is not known.

    A turn that passed is recorded as the current one only, so it need not be known unless it is current again: with the
    results of tools.

    It is the same turn if it stands at the same place of the same session, behind the same turns, under the same
    policy. Not compared are scores and the version of the policy: if they change the decision, that is compared. That
    the request was refused or the turn was left out of it (`withheld`) is no news, that it was forwarded since is.
    """
    turn = judged.turn
    if not prefix or judged.late or not (judged.stands_out or (case.place and case.place.tools)):
        return None
    joined = len(turn.message.parts) if turn.index > turn.context else 0
    key = (case.origin.session, case.policy.name, prefix, joined)
    counted = judged.counted.verdict if judged.counted else judged.verdict
    verdict = judged.verdict and (judged.verdict.guard, judged.verdict.taxonomy)
    shadow = [_shadow(policy, decide(policy, turn.message.side, counted)) for policy in case.shadow if counted]
    excluded = ""
    if judged.counted and judged.verdict:
        excluded = judged.counted.applied(case.policy, turn.message.side, judged.verdict)
    decided = (_decided(judged.decision), _effect(judged.outcome), bool(judged.error), verdict, excluded)
    return Recordable(key, (*decided, judged.undecoded, *shadow), withheld)


def _decided(decision: Decision) -> _Decided:
    return decision.action, decision.how, decision.cause, tuple(sorted(decision.categories)), decision.languages


def _shadow(policy: Policy, decision: Decision) -> _Decided:
    return policy.name, *_decided(decision)


def _effect(outcome: Outcome) -> str:
    """What became of the text by this decision."""
    match outcome:
        case Pass():
            return "passed"
        case Replace():
            return "replaced"
        case Steer():
            return "steered"
        case Refuse():
            return "withheld"
