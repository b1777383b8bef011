"""What the pipeline passes on: an exchange, and a turn with what was found and decided about it."""

from dataclasses import replace
from typing import Literal, Protocol

from guardproxy.errors import GuardUnavailable
from guardproxy.frozen import frozen
from guardproxy.pipeline.exclusions import CountedVerdict
from guardproxy.pipeline.known_turns import TurnScores
from guardproxy.pipeline.turns import Turn
from guardproxy.policy import REGENERATE, Policy
from guardproxy.ports import Request, Wire
from guardproxy.types import SEVERITY, Decision, Origin, Outcome, Verdict


@frozen
class ConversationPlace:
    """Where a request stands in its conversation.

    `prefixes` has, for each message of the client's request, a hash of the conversation up to and including it
    (`conversations.prefixes_of`). From the message `new` on, nothing can have been in an earlier request: the assistant
    has said or called nothing since. With `tools`, the current turn comes again with the result of each call.
    """

    prefixes: tuple[bytes, ...]
    new: int
    tools: bool


@frozen
class Exchange:
    """What all turns of one request and its reply have in common.

    `policies` are all policies in force. `place` is None before the pipeline finds it. `account` is the name of the
    upstream: several may have one address, each with a key of its own. `attempt` is the number of the reply that is
    judged: above 1 if it was asked for in the place of another; `earlier` are the tokens of those before.
    """

    wire: Wire
    request: Request
    origin: Origin
    policy: Policy
    shadow: tuple[Policy, ...] = ()
    sampled: bool = False
    policies: tuple[Policy, ...] = ()
    place: ConversationPlace | None = None
    account: str = ""
    attempt: int = 1
    earlier: tuple[int, int] = (0, 0)

    def placed(self, origin: Origin, place: ConversationPlace) -> "Exchange":
        """The exchange at its place. Every request is placed, and `replace` takes four times as long."""
        return Exchange(
            self.wire,
            self.request,
            origin,
            self.policy,
            self.shadow,
            self.sampled,
            self.policies,
            place,
            self.account,
        )

    def at(self, address: str, account: str) -> "Exchange":
        """The exchange with another upstream."""
        return replace(self, origin=replace(self.origin, upstream=address), account=account)

    @property
    def waits_for_text(self) -> bool:
        """Whether no frame of a streamed reply leaves before its first text, because something may take its place."""
        policy, rules = self.policy, self.policy.assistant.by_category.values()
        may_regenerate = any(rule.how == REGENERATE for of_category in rules for rule in of_category)
        return policy.block.how == "error" or (may_regenerate and self.attempt <= policy.rewrite.tries)


class Case(Protocol):
    """What all records of one request have in common: an exchange, or a request without an upstream.

    `sampled` is drawn once for each request (`Record.sampled`). Without a `place`, every turn is new.
    """

    @property
    def origin(self) -> Origin: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def shadow(self) -> tuple[Policy, ...]: ...
    @property
    def sampled(self) -> bool: ...
    @property
    def place(self) -> ConversationPlace | None: ...


@frozen
class JudgedTurn:
    """A turn with its verdict, decision and outcome.

    `verdict` is None if the turn has no readable text or the guard is unavailable; `error` says why the guard gave
    none. `latency_s` is how long judging took, in seconds; `choice` is the index of the choice in a reply.
    `undecoded`: the bounds of the views ended before everything that looks encoded was decoded. `unread`: the languages
    of the text that the guard does not read. `complete` and `late` are those of `Record`. `counted` is what decisions
    count of the verdict if an exclusion covers the text. `failure` is the guard's, if the client gets it as an error.
    """

    turn: Turn
    verdict: Verdict | None
    decision: Decision
    outcome: Outcome
    error: str = ""
    latency_s: float = 0.0
    choice: int = 0
    undecoded: bool = False
    unread: tuple[str, ...] = ()
    complete: bool = True
    late: bool = False
    counted: CountedVerdict | None = None
    failure: GuardUnavailable | None = None

    @property
    def stands_out(self) -> bool:
        """Whether there is more to say of the turn than that it passed."""
        return self.decision.action != "pass" or bool(self.error)

    @property
    def coverage(self) -> Literal["full", "partial"]:
        """`full` if the verdict is about all of the turn: nothing is opaque, left encoded or in an unread language."""
        whole = self.verdict is not None and not (self.turn.message.opaque or self.undecoded or self.unread)
        return "full" if whole else "partial"

    @property
    def passed(self) -> bool:
        """Whether the guard judged the whole turn and the decision leaves it unchanged."""
        unchanged = SEVERITY[self.decision.action] <= SEVERITY["flag"]
        return self.verdict is not None and not self.error and not self.undecoded and unchanged


@frozen
class Judgement:
    """The verdict on a message and the decision; the other fields as in `JudgedTurn`.

    `scores` are those that the decision was made of, None if there is no verdict.
    """

    verdict: Verdict | None
    decision: Decision
    error: str = ""
    undecoded: bool = False
    unread: tuple[str, ...] = ()
    counted: CountedVerdict | None = None
    failure: GuardUnavailable | None = None
    scores: TurnScores | None = None
