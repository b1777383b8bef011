"""Stored scores under another policy."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.calibration import Calibration, Platt
from guardproxy.policy import (
    OnFailure,
    Policy,
    PolicySet,
    Route,
    Rule,
    SideRules,
    decide,
    language_note,
    on_failure,
    on_languages,
    worst,
)
from guardproxy.replay import Replay, StoredTurn, decide_again, is_right, is_unsafe, policy_for, stored_turn
from guardproxy.reviews import LabelKind
from guardproxy.sinks.shared import to_dict
from guardproxy.stricter import stricter
from guardproxy.types import ActionName, Coverage, Decision, Finding, Record, Side, Verdict
from tests.sinks.kit import record

CATEGORIES = ["violence", "sexual", "weapons", "jailbreak", "guard_injection"]
PROBABILITIES = st.floats(0, 1)
RULES = st.builds(
    Rule,
    st.sampled_from(["flag", "rewrite", "block"]),
    PROBABILITIES,
    st.sampled_from(["replace", "redact", "steer", "regenerate"]),
    st.one_of(st.just(0.0), PROBABILITIES),
)
SIDE_RULES = st.builds(
    SideRules,
    st.dictionaries(st.sampled_from([*CATEGORIES, "*", "unsafe"]), st.lists(RULES, max_size=3).map(tuple), max_size=6),
)
FAILURES: st.SearchStrategy[OnFailure] = st.sampled_from(["block", "flag", "allow"])
BY_SIDE = st.fixed_dictionaries({"user": FAILURES, "assistant": FAILURES})
MAPS = st.dictionaries(
    st.sampled_from([*CATEGORIES, "unsafe"]), st.builds(Platt, st.floats(0.05, 8), st.floats(-8, 8)), max_size=3
)
POLICIES = st.builds(
    Policy,
    st.just("default"),
    st.just("new"),
    SIDE_RULES,
    SIDE_RULES,
    on_opaque=BY_SIDE,
    on_language=BY_SIDE,
    calibration=st.builds(Calibration, MAPS, MAPS),
)
VERDICTS = st.builds(
    Verdict,
    PROBABILITIES,
    st.lists(st.builds(Finding, st.sampled_from(CATEGORIES), PROBABILITIES), max_size=6).map(tuple),
    st.just("guard"),
    st.sampled_from(["one@1", "two@1"]),
)
NOBODY = SideRules({})


def policy(version: str = "new", **user: tuple[Rule, ...]) -> Policy:
    """A policy with these rules for requests; the name `every` stands for "*"."""
    rules = {"*" if name == "every" else name: group for name, group in user.items()}
    return Policy("default", version, SideRules(rules), NOBODY)


def turn(**changed: Any) -> StoredTurn:
    """A stored turn as the store has it."""
    return stored_turn(1, to_dict(record(1, **changed)))


def decided_by(policy: Policy, side: Side, verdict: Verdict | None, opaque: bool, languages: tuple[str, ...]) -> Record:
    """The record of a turn about which a policy has decided, as the pipeline decides."""
    verdict = verdict and policy.calibration.applied(side, verdict)
    decision = Decision("pass", "", ()) if verdict is None else decide(policy, side, verdict)
    role = side
    parts = [Coverage("messages[0].content[0]", role, "text", 20, judged=not languages)]
    if languages:
        parts[0] = replace(parts[0], why=language_note(languages))
    if opaque:
        parts.append(Coverage("messages[0].content[1]", role, "opaque", 0, judged=False, why="opaque: image"))
        decision = worst([decision, on_failure(policy.on_opaque[side], "opaque")])
    if languages:
        decision = worst([decision, on_languages(policy.on_language[side], languages)])
    return record(
        0, side=side, verdict=verdict, decision=decision, coverage=tuple(parts), policy_version=policy.version
    )


@settings(deadline=None)
@given(
    POLICIES,
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]),
            st.one_of(st.none(), VERDICTS),
            st.booleans(),
            st.sampled_from([(), ("zh",), ("ru", "zh")]),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_the_policy_that_decided_changes_nothing(
    chosen: Policy, turns: list[tuple[Side, Verdict | None, bool, tuple[str, ...]]], floored: bool
) -> None:
    """Under the very policy that decided about the records, every decision is the stored one."""
    replay = Replay(PolicySet({"default": chosen}), {})
    for side, verdict, opaque, languages in turns:
        stored = decided_by(chosen, side, verdict, opaque, languages)
        again = stored_turn(1, to_dict(stored), chosen.floor if floored else 0.0)
        assert decide_again(chosen, again) == stored.decision
        replay.add(again)
    report = replay.report()
    assert {group.change for group in report.changes} <= {"unchanged"}
    assert report.changes.total() == len(turns)
    assert not report.rows
    assert not report.kept


@settings(deadline=None)
@given(POLICIES, POLICIES, VERDICTS, st.sampled_from(["user", "assistant"]))
def test_a_replayed_decision_is_the_new_policys(old: Policy, new: Policy, verdict: Verdict, side: Side) -> None:
    """A turn is either decided as the new policy would have decided, or kept and named."""
    stored = replace(decided_by(old, side, verdict, False, ()), policy_version="old")
    replay = Replay(PolicySet({"default": new}), {})
    replay.add(turn_of(stored))
    report = replay.report()
    assert report.changes.total() + report.kept.total() == 1
    if not report.kept:
        expected = decide(new, side, new.calibration.applied(side, verdict))
        assert list(report.moves) == [(stored.decision.action, expected.action)]
    else:
        assert set(report.kept) == {"taxonomy"}
        assert report.missing


def turn_of(stored: Record) -> StoredTurn:
    """The stored turn of a record."""
    return stored_turn(1, to_dict(stored))


def test_a_category_without_probability_is_named_only_if_it_matters() -> None:
    """A rule for a category that the guard has not judged leaves a turn undecided, unless it is blocked anyway."""
    verdict = Verdict(0.6, (Finding("violence", 0.7),), "guard", "six@1")
    stored = turn(verdict=verdict, decision=Decision("pass", "", ()))
    for rules, kept in (
        ({"weapons": (Rule("block", 0.5),)}, {"taxonomy": 1}),
        ({"weapons": (Rule("flag", 0.5),), "violence": (Rule("block", 0.5),)}, {}),
        ({"weapons": (Rule("block", 0.5, "", 0.7),)}, {}),  # needs a P(unsafe) that the turn does not have
        ({"guard_injection": (Rule("block", 0.5),)}, {}),  # a guard reports it only if it finds one
    ):
        replay = Replay(PolicySet({"default": policy(**rules)}), {})
        replay.add(stored)
        report = replay.report()
        assert dict(report.kept) == kept
        assert dict(report.missing) == ({("six@1", "weapons"): 1} if kept else {})


def test_categories_that_a_floor_left_out() -> None:
    """Without categories, P(unsafe) bounds them: below a threshold nothing is missing, above it they are named."""
    low, high = (turn(verdict=Verdict(p, (), "guard", "list@1"), decision=Decision("pass", "", ())) for p in (0.2, 0.4))
    read = turn(verdict=Verdict(0.9, (Finding("violence", 0.1),), "guard", "list@1"), decision=Decision("pass", "", ()))
    for turns, kept in (([low, high, read], {"floor": 1}), ([low, high], {})):
        replay = Replay(PolicySet({"default": policy(every=(Rule("block", 0.3),))}), {})
        for stored in turns:
            replay.add(stored)
        report = replay.report()
        # A taxonomy of which no record has a category belongs to a guard that gives P(unsafe) alone.
        assert dict(report.kept) == kept
        assert report.changes.total() == len(turns) - len(kept)


def test_what_is_kept() -> None:
    """Decisions of shadow policies, those without a verdict, and those by an exclusion are kept and counted."""
    replay = Replay(PolicySet({"default": policy(unsafe=(Rule("block", 0.0),))}), {})
    for number, changed in enumerate(
        (
            {"shadow": True},
            {"verdict": None, "decision": Decision("block", "", (), "overload"), "error": "busy"},
            {"error": "the reply ended in the middle of a frame"},
            {"decision": Decision("pass", "", ()), "exclusion": "e1"},
        )
    ):
        replay.add(turn_of(record(number, **changed)))
    report = replay.report()
    assert dict(report.kept) == {"shadow": 1, "failed": 2, "excluded": 1}
    assert report.records == 4
    assert not report.changes


def test_a_route_by_protocol_and_user_is_found_again_and_a_choice_still_decides() -> None:
    """A record has both; the policy that the caller chose decides beside the route's, if it may still be chosen."""
    rules = {name: Policy(name, "v", NOBODY, NOBODY) for name in ("default", "a", "b", "c")}
    routes = (
        Route("odd", "c", method="PUT"),
        Route("wire", "a", protocol="anthropic_*"),
        Route("user", "b", user="kid-*", may_choose=("a", "c")),
    )
    policies = PolicySet(rules, routes)
    assert policy_for(policies, turn(route="wire", wire="anthropic_messages")) == (rules["a"], ("odd",))
    assert policy_for(policies, turn(route="user", wire="ollama", user="kid-7")).policy is rules["b"]
    assert policy_for(policies, turn(route="default", wire="ollama", user="x")).policy is rules["default"]
    chosen = policy_for(policies, turn(route="user", wire="ollama", user="kid-7", policy="old+c")).policy
    assert chosen is stricter(policies, rules["b"], rules["c"])
    gone = policy_for(policies, turn(route="user", wire="ollama", user="kid-7", policy="b+default"))
    assert gone.policy is rules["b"]


def test_a_route_by_model_and_client_is_found_again() -> None:
    """Routes by model or client choose as in the proxy; one by path or header matches the records of its name only."""
    rules = {name: Policy(name, "v", NOBODY, NOBODY) for name in ("default", "a", "b", "c")}
    policies = PolicySet(
        rules,
        (
            Route("beta", "a", header=("x-beta", "1")),
            Route("chat", "b", path="/v1/chat/*", model="gpt*"),
            Route("key", "c", client="c11e*"),
        ),
    )
    assert policy_for(policies, turn(route="beta", model="m", client="")) == (rules["a"], ())
    assert policy_for(policies, turn(route="chat", model="GPT-4", client="")) == (rules["b"], ("beta",))
    # The route of that name takes other models now.
    assert policy_for(policies, turn(route="chat", model="llama", client="")) == (rules["default"], ("beta",))
    assert policy_for(policies, turn(route="default", model="llama", client="c11e47,ffff")) == (rules["c"], ("beta",))
    assert policy_for(policies, turn(route="default", model="gpt", client="")) == (rules["default"], ("beta", "chat"))


@pytest.mark.parametrize(
    ("label", "before", "after", "right"),
    [
        ("false_positive", "block", "pass", True),
        ("false_positive", "block", "flag", True),
        ("false_positive", "block", "block", False),
        ("correct", "block", "pass", False),
        ("correct", "block", "rewrite", False),
        ("correct", "pass", "block", False),
        ("correct", "pass", "pass", True),
        ("false_negative", "pass", "block", True),
        ("false_negative", "pass", "flag", True),
        ("false_negative", "pass", "pass", False),
    ],
)
def test_labels_call_changes_right_or_wrong(label: Any, before: ActionName, after: ActionName, right: bool) -> None:
    """A decision about an unsafe text is right if it is stricter, about a safe one if it is milder."""
    old, new = Decision(before, "", ()), Decision(after, "", ())
    assert is_right(is_unsafe(label, old), old, new) is right


def test_reviewers_who_disagree() -> None:
    """If reviewers differ on whether a text is unsafe, it counts neither as right nor as wrong."""
    labels: dict[str, list[LabelKind]] = {
        "record-0": ["false_positive", "correct"],
        "record-1": ["false_negative", "correct"],
        "record-2": ["false_positive"],
    }
    replay = Replay(PolicySet({"default": policy(unsafe=(Rule("block", 0.5),))}), labels)
    for number in range(3):
        replay.add(turn_of(record(number, verdict=Verdict(0.9, (Finding("violence", 0.1),), "guard"))))
    report = replay.report()
    # The stored decision is to block: both reviewers of record-1 say that the text is unsafe.
    assert report.labelled == {"unchanged": {True: 1, False: 1}}
    assert report.disputed == 1


def test_only_the_sample_of_passed_turns_counts() -> None:
    """With a sample, passed turns outside of it count for nothing, and those inside are counted apart."""
    blocked = Decision("block", "", ())
    replay = Replay(
        PolicySet({"default": policy(unsafe=(Rule("block", 0.5),))}), {"record-0": ["correct"]}, sampled=True
    )
    for number, (decision, sampled) in enumerate(
        [(blocked, False), (Decision("pass", "", ()), True), (Decision("pass", "", ()), False)]
    ):
        verdict = Verdict(0.9, (Finding("violence", 0.1),), "guard")
        replay.add(turn_of(record(number, decision=decision, sampled=sampled, verdict=verdict)))
    report = replay.report()
    assert dict(report.changes) == {("unchanged", False): 1, ("blocked", True): 1}
    assert report.outside == 1
    assert report.labelled["unchanged"] == {True: 1}
    assert [row.turn.id for row in report.rows["blocked"]] == ["record-1"]


def test_a_stopped_stream_that_would_go_on_is_named() -> None:
    """Of a streamed reply that was stopped, the guard has not seen the rest."""
    replay = Replay(PolicySet({"default": policy()}), {})
    replay.add(turn(side="assistant", stream=True, outcome="refuse"))
    replay.add(turn(side="assistant", stream=False, outcome="refuse"))
    assert replay.report().shortened == 1
