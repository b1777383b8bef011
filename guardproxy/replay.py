"""Replay: what another policy would have decided about the turns that the audit keeps, from their scores alone. Pure.

A record holds the verdict, so the rules of another policy can be applied to it without a model. The policy is chosen as
the proxy chooses it: the first matching route, else `default`. A record holds the model, the protocol, the client, the
end user and the name of its route, but neither path nor method nor headers: a route with a condition on them matches
the records of its own name only.

Decided again: the rules on the verdict, `on_opaque` on content that no guard reads, and `on_language` on texts in the
languages that the guard did not read, as the coverage names them. Kept as it was, and counted by its reason (`Kept`):
what the scores cannot answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from guardproxy.calibration import Calibration
from guardproxy.policy import ANY, UNSAFE, Policy, PolicySet, decide, on_failure, on_languages, worst
from guardproxy.reviews import LabelKind
from guardproxy.routing import Asked
from guardproxy.stricter import stricter
from guardproxy.types import SEVERITY, SIGNALS, ActionName, Decision, Finding, OutcomeName, Reason, Side, Usage, Verdict

Change = Literal["blocked", "rewritten", "flagged", "passed", "unchanged"]
"""What a turn newly is; `rewritten` also if it was rewritten before in another way."""

Kept = Literal["shadow", "failed", "excluded", "floor", "taxonomy"]
"""Why a decision is kept as it was: a shadow policy made it; the guard failed or was overloaded, or the reply could not
be read; an exclusion says that the text is harmless; the guard read no categories of the text, because P(unsafe) was
below every threshold of then; or it has no probability of a category that a rule names."""

Dimension = Literal["side", "route", "client", "category"]

CHANGES: tuple[Change, ...] = ("blocked", "rewritten", "flagged", "passed", "unchanged")
_NEWLY: Mapping[ActionName, Change] = {"block": "blocked", "rewrite": "rewritten", "flag": "flagged", "pass": "passed"}
# A guard reports a signal other than a jailbreak only where it finds one: without a finding, it is absent.
_ONLY_IF_FOUND = "guard_injection"
_NO_USAGE = Usage()
_PROBABILITY = "probability"  # what records without `kind` have
_LANGUAGES = "language: "  # the beginning of a coverage's note (`policy.language_note`)


class StoredTurn(NamedTuple):
    """What replaying needs of a record. `number` is that of its row, `text` the text as it is stored.

    `scored` are the categories of which the guard gave a probability; the verdict may lack those below a floor.
    `failed`: there is no verdict or not the final one. `excluded`: without an exclusion, a rule would be reached.
    `whole`: `text` is the judged text itself, neither masked nor left out nor erased. `opaque` are the roles of the
    parts that no guard reads, and `languages` those that the guard does not read, in the turn's coverage. The verdict
    has the guard's own probabilities; `calibrated` says that the decision was about others.
    """

    number: int
    id: str
    time: float
    side: Side
    route: str
    model: str
    client: str
    protocol: str
    user: str
    streamed: bool
    policy: str
    policy_version: str
    verdict: Verdict | None
    scored: frozenset[str]
    decision: Decision
    outcome: OutcomeName
    text: str
    failed: bool
    shadow: bool
    sampled: bool
    excluded: bool = False
    whole: bool = False
    opaque: frozenset[str] = frozenset()
    languages: tuple[str, ...] = ()
    calibrated: bool = False

    @property
    def chooses(self) -> tuple[str, ...]:
        """What `policy_for` needs of the turn."""
        return self.route, self.model, self.client, self.protocol, self.user, self.policy


def stored_turn(number: int, data: Mapping[str, Any], floor: float = 0.0) -> StoredTurn:
    """The turn of a record as its JSON holds it, without findings below `floor`, which no rule reaches.

    Raises KeyError or TypeError for anything but a record.
    """
    origin, side, verdict = data["origin"], data["side"], data["verdict"]
    decision = _decision(data["decision"])
    opaque, languages = _unread(data["coverage"], side)
    if decision.cause == "opaque":
        opaque |= {side}
    return StoredTurn(
        number=number,
        id=data["id"],
        time=data["time"],
        side=side,
        route=origin["route"],
        model=origin["model"],
        client=origin["client"],
        protocol=origin["wire"],
        user=origin.get("user", ""),
        streamed=origin["stream"],
        policy=data["policy"],
        policy_version=data["policy_version"],
        verdict=verdict and _verdict(verdict, floor),
        scored=frozenset([finding["category"] for finding in verdict["findings"]]) if verdict else frozenset(),
        decision=decision,
        outcome=data["outcome"],
        text=data["text"],
        failed=bool(data["error"]) or decision.cause in ("guard_error", "overload"),
        shadow=data["shadow"],
        sampled=data.get("sampled", False),
        excluded=bool(data.get("exclusion")),
        whole=data.get("exact", False) and bool(data["text"].strip()),
        opaque=opaque,
        languages=decision.languages or languages,
        calibrated=bool(verdict and verdict.get("raw")),
    )


def _verdict(data: Mapping[str, Any], floor: float) -> Verdict:
    raw: dict[str, list[float]] = {}
    # In the order of the findings, of which a category may have several; labels have none.
    for category, probability in data.get("raw", ()):
        raw.setdefault(category, []).append(probability)
    unsafe = raw.get(UNSAFE, [data["unsafe"]]).pop(0)
    findings: list[Finding] = []
    for one in data["findings"]:
        kind, own = one.get("kind", _PROBABILITY), raw.get(one["category"])
        probability = own.pop(0) if own and kind == _PROBABILITY else one["probability"]
        if probability >= floor:
            findings.append(Finding(one["category"], probability, view=one.get("view", "text"), kind=kind))
    kind = data.get("kind", _PROBABILITY)
    return Verdict(unsafe, tuple(findings), data["guard"], data["taxonomy"], _NO_USAGE, kind=kind)


def _decision(data: Mapping[str, Any]) -> Decision:
    reasons = tuple([Reason(**reason) for reason in data["reasons"]]) if data["reasons"] else ()
    return Decision(data["action"], data["how"], reasons, data["cause"], tuple(data.get("languages", ())))


def _unread(coverage: Iterable[Mapping[str, Any]], side: Side) -> tuple[frozenset[str], tuple[str, ...]]:
    """The roles of opaque content, and the languages not read, among the parts of a side."""
    opaque: set[str] = set()
    languages: dict[str, None] = {}
    for part in coverage:
        why, own = part["why"], (part["role"] == "assistant") == (side == "assistant")
        if why and own and why.startswith("opaque"):
            opaque.add(part["role"])
        elif why and own and why.startswith(_LANGUAGES):
            languages.update(dict.fromkeys(why.removeprefix(_LANGUAGES).split(", ")))
    return frozenset(opaque), tuple(languages)


# --- one turn --------------------------------------------------------------------------------------------------------


class Applies(NamedTuple):
    """The policy that applies to a record, and the routes before it whose conditions the record cannot answer."""

    policy: Policy
    undecided: tuple[str, ...]


def policy_for(policies: PolicySet, turn: StoredTurn) -> Applies:
    """The policy for the requests that took the turn's route with its model, client (the first one) and so on.

    A policy that the caller chose beside the route's own still decides, if the route still lets callers choose it.
    """
    undecided: list[str] = []
    asked = Asked(("",), turn.model, turn.client.partition(",")[0], {}, turn.protocol, "", turn.user)
    for route in policies.routes:
        known = replace(route, path=ANY, header=None, method=ANY)
        if not known.matches(asked):
            continue
        if route == known or route.name == turn.route:
            own = policies.policies[route.policy]
            chosen = next((name for name in route.may_choose if turn.policy.endswith(f"+{name}")), None)
            return Applies(stricter(policies, own, policies.policies[chosen]) if chosen else own, tuple(undecided))
        undecided.append(route.name)
    return Applies(policies.policies["default"], tuple(undecided))


def decide_again(policy: Policy, turn: StoredTurn) -> Decision:
    """The decision of `policy` about a turn whose guard has not failed."""
    verdict = turn.verdict and policy.calibration.applied(turn.side, turn.verdict)
    decisions = [Decision("pass", "", ()) if verdict is None else decide(policy, turn.side, verdict)]
    if turn.opaque & {"assistant", *policy.judge.roles}:
        decisions.append(on_failure(policy.on_opaque[turn.side], "opaque"))
    if turn.languages:
        decisions.append(on_languages(policy.on_language[turn.side], turn.languages))
    return worst(decisions)


def unscored(policy: Policy, turn: StoredTurn, decision: Decision) -> tuple[str, ...]:
    """The categories with rules that could make `decision` more severe, and of which the guard gave no probability.

    If it has no category at all, that is so for every rule, and the guard gives no category more than P(unsafe)
    (`floor`). The policy that decided about the turn then had no probability either, so nothing is missing for it.
    """
    verdict, side, found = turn.verdict, turn.side, turn.scored
    if verdict is None or policy.version == turn.policy_version:
        return ()
    unsafe = policy.calibration.value(side, UNSAFE, verdict.unsafe)
    most = 1.0 if found - SIGNALS else verdict.unsafe
    severity = SEVERITY[decision.action]
    missing: list[str] = []
    for category, rules in policy.side(side).by_category.items():
        if category in (UNSAFE, _ONLY_IF_FOUND) or category in found or (category == ANY and found - SIGNALS):
            continue
        highest = 1.0 if category in SIGNALS else _highest(policy.calibration, side, category, most)
        for rule in rules:
            if SEVERITY[rule.action] > severity and rule.threshold <= highest and rule.with_unsafe <= unsafe:
                missing.append(category)
                break
    return tuple(missing)


def _highest(calibration: Calibration, side: Side, category: str, most: float) -> float:
    """The highest calibrated probability of a category, or of any, to which the guard gives at most `most`."""
    return calibration.highest(side, most) if category == ANY else calibration.value(side, category, most)


def change_of(before: Decision, after: Decision) -> Change:
    """What a turn newly is after `after` instead of `before`."""
    same = (before.action, before.how) == (after.action, after.how)
    return "unchanged" if same else _NEWLY[after.action]


def stops(decision: Decision) -> bool:
    """Whether the text is rewritten or blocked."""
    return SEVERITY[decision.action] > SEVERITY["flag"]


def is_unsafe(label: LabelKind, decision: Decision) -> bool:
    """Whether a reviewer's label says that the text is unsafe; `correct` agrees with the decision."""
    return stops(decision) if label == "correct" else label == "false_negative"


def agreed_unsafe(labels: Iterable[LabelKind], decision: Decision) -> bool | None:
    """What all labels in force of a record say together: whether its text is unsafe; None if they differ."""
    said = {is_unsafe(label, decision) for label in labels}
    return said.pop() if len(said) == 1 else None


def is_right(unsafe: bool, before: Decision, after: Decision) -> bool:
    """Whether a decision is right: severer for an unsafe text, milder for a safe one, or as severe and fitting."""
    difference = SEVERITY[after.action] - SEVERITY[before.action]
    return (difference > 0) == unsafe if difference else stops(after) == unsafe


# --- many turns ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplayedTurn:
    """A turn with the decision of the other policy, named `policy`, and the probabilities that this decided about."""

    turn: StoredTurn
    policy: str
    after: Decision
    change: Change


class Group(NamedTuple):
    """What records are counted by: their change, and whether each stands for others that are not in the sample."""

    change: Change
    weighted: bool


Counts = Counter[Group]


@dataclass(slots=True)
class ReplayReport:
    """What was counted. A turn that is `kept` is in no other count but `records`.

    `moves` counts actions before and after. `labelled` counts, by change, decisions that labels call right and wrong,
    and `disputed` the turns whose reviewers disagree on whether the text is unsafe. `outside`: passed turns outside of
    the random sample, which count for nothing if a sampling rate is given. `missing` counts the categories that a
    verdict lacks, by its taxonomy. `undecided` counts the records that a route may or may not match, by its name, for
    a condition that a record cannot answer; they are decided as if it did not.
    `shortened`: streamed replies that were stopped and now are not: the guard never saw their rest. `rows`: the first.
    """

    records: int = 0
    outside: int = 0
    shortened: int = 0
    changes: Counts = field(default_factory=Counter)
    by: dict[Dimension, dict[str, Counts]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    moves: Counter[tuple[ActionName, ActionName]] = field(default_factory=Counter)
    labelled: dict[Change, Counter[bool]] = field(default_factory=lambda: defaultdict(Counter))
    disputed: int = 0
    kept: Counter[Kept] = field(default_factory=Counter)
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    rows: dict[Change, list[ReplayedTurn]] = field(default_factory=lambda: defaultdict(list))


class Replay:
    """Decides stored turns again under `policies`, one at a time, and counts.

    `labels` has the labels in force of a record, one of each reviewer, by its id. `sampled` says that passed turns
    are a random sample: those outside of it (`StoredTurn.sampled`) are left out, and each inside stands for others.
    `rows` is how many turns of each change are kept.
    """

    def __init__(
        self, policies: PolicySet, labels: Mapping[str, Sequence[LabelKind]], *, sampled: bool = False, rows: int = 10
    ) -> None:
        self._policies = policies
        self._labels = labels
        self._sampled = sampled
        self._rows = rows
        self._chosen: dict[tuple[str, ...], Applies] = {}
        self._with_categories: set[str] = set()
        # By taxonomy: turns without categories. If a record of the taxonomy has some, the floor left those out.
        self._waiting: defaultdict[str, list[tuple[StoredTurn, Applies, Decision, tuple[str, ...]]]] = defaultdict(list)
        self._report = ReplayReport()

    def add(self, turn: StoredTurn) -> None:
        """Decide a turn again and count it."""
        report = self._report
        report.records += 1
        if turn.shadow or turn.failed or turn.excluded:
            report.kept["shadow" if turn.shadow else "failed" if turn.failed else "excluded"] += 1
            return
        applies = self._chosen.get(turn.chooses)
        if applies is None:
            applies = self._chosen[turn.chooses] = policy_for(self._policies, turn)
        after = decide_again(applies.policy, turn)
        taxonomy = turn.verdict.taxonomy if turn.verdict else ""
        if turn.scored - SIGNALS:
            self._with_categories.add(taxonomy)
            missing = unscored(applies.policy, turn, after)
            if missing:
                self._keep("taxonomy", taxonomy, missing)
            else:
                self._count(turn, applies, after)
        elif missing := unscored(applies.policy, turn, after):
            self._waiting[taxonomy].append((turn, applies, after, missing))
        else:
            self._count(turn, applies, after)

    def report(self) -> ReplayReport:
        """The counts of all turns."""
        for taxonomy, turns in self._waiting.items():
            for turn, applies, after, missing in turns:
                named = [category for category in missing if category != ANY]
                if taxonomy in self._with_categories:
                    self._keep("floor", taxonomy, missing)
                elif named:
                    self._keep("taxonomy", taxonomy, named)
                else:
                    self._count(turn, applies, after)
        self._waiting.clear()
        return self._report

    def _keep(self, why: Kept, taxonomy: str, missing: Iterable[str]) -> None:
        self._report.kept[why] += 1
        self._report.missing.update((taxonomy, category) for category in missing)

    def _count(self, turn: StoredTurn, applies: Applies, after: Decision) -> None:
        report, before = self._report, turn.decision
        passed = before.action == "pass"
        if self._sampled and passed and not turn.sampled:
            report.outside += 1
            return
        change = change_of(before, after)
        group = Group(change, self._sampled and passed)
        report.changes[group] += 1
        report.moves[before.action, after.action] += 1
        for dimension, name in _places(turn, after):
            report.by[dimension][name][group] += 1
        report.undecided.update(applies.undecided)
        if labels := self._labels.get(turn.id):
            unsafe = agreed_unsafe(labels, before)
            if unsafe is None:
                report.disputed += 1
            else:
                report.labelled[change][is_right(unsafe, before, after)] += 1
        cut = turn.streamed and turn.side == "assistant" and turn.outcome == "refuse"
        report.shortened += cut and not stops(after)
        if change != "unchanged" and len(report.rows[change]) < self._rows:
            shown = turn._replace(verdict=turn.verdict and applies.policy.calibration.applied(turn.side, turn.verdict))
            report.rows[change].append(ReplayedTurn(shown, applies.policy.name, after, change))


def _places(turn: StoredTurn, after: Decision) -> Iterator[tuple[Dimension, str]]:
    """Where a turn is counted. Its categories are those that reached a threshold of either policy."""
    yield "side", turn.side
    yield "route", turn.route
    yield "client", turn.client
    for category in {*turn.decision.categories, *after.categories}:
        yield "category", category
