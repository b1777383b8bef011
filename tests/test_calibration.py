"""A calibrated guard: its maps, the policy that applies them, and what records keep of the guard's own numbers."""

import asyncio
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guardproxy.calibration import NEAREST, Calibration, Platt
from guardproxy.console.panels import scores_of
from guardproxy.console.parts import LoadedTurns
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exclusions, Judging
from guardproxy.policy import Policy, Rule, SideRules, ThreadPolicy, decide
from guardproxy.replay import stored_turn
from guardproxy.reviews import Exclusion
from guardproxy.sinks.shared import from_dict, to_dict
from guardproxy.types import Finding, Message, Part, Side, Verdict
from tests.kit import WordGuard
from tests.sinks.kit import record

MAPS = st.builds(Platt, st.floats(0.01, 20), st.floats(-50, 50))
PROBABILITIES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, NEAREST, 1 - NEAREST, 5e-324]))
CALIBRATION = Calibration({"unsafe": Platt(0.5, -2.0), "violence": Platt(0.8, 1.0)}, {"unsafe": Platt(2.0, 0.5)})


@given(MAPS, PROBABILITIES, PROBABILITIES)
def test_a_map_keeps_the_order_of_texts(scaling: Platt, one: float, other: float) -> None:
    """Calibrated probabilities are probabilities, in the order of the guard's own; 0 stays 0, and only 0 becomes 0."""
    low, high = sorted((one, other))
    assert 0 <= scaling.value(low) <= scaling.value(high) * (1 + 1e-12) <= 1 + 1e-9
    assert scaling.value(0.0) == 0.0
    assert (scaling.value(one) > 0) == (one > 0)


@given(MAPS, PROBABILITIES, PROBABILITIES)
def test_the_inverse_is_the_lowest_probability_that_reaches(scaling: Platt, probability: float, bound: float) -> None:
    """A calibrated probability reaches a bound only if the guard's own reaches the inverse of the bound."""
    inverse = scaling.inverse(bound)
    assert 0 <= inverse <= 1
    if scaling.value(probability) >= bound * (1 + 1e-9) + 1e-12:
        assert probability >= inverse * (1 - 1e-9) - 1e-12


def test_the_known_values_of_a_map() -> None:
    """A slope of 1 and no shift change nothing; a shift multiplies the odds; a slope under 1 draws towards one half."""
    assert Platt(1.0).value(0.3) == 0.3 or abs(Platt(1.0).value(0.3) - 0.3) < 1e-12
    assert abs(Platt(1.0, -2.302585093).value(0.5) - 1 / 11) < 1e-9
    assert 0.5 < Platt(0.5).value(0.9) < 0.9
    assert Platt(1.0).value(1.0) == 1 - NEAREST


@settings(deadline=None)
@given(
    st.builds(Calibration, st.dictionaries(st.sampled_from(["violence", "unsafe"]), MAPS), st.just({})),
    st.floats(0.001, 1),
    PROBABILITIES,
)
def test_nothing_below_the_floor_reaches_a_rule(calibration: Calibration, threshold: float, probability: float) -> None:
    """The floor is the guard's own probability: a text whose probabilities are all below it passes."""
    rules = SideRules({"violence": (Rule("block", threshold),), "unsafe": (Rule("flag", threshold),)})
    policy = Policy("default", "1", rules, SideRules({}), calibration=calibration)
    verdict = Verdict(probability, (Finding("violence", probability),), "guard")
    if probability < policy.floor * (1 - 1e-9) - 1e-12:
        assert decide(policy, "user", calibration.applied("user", verdict)).action == "pass"


def test_a_record_keeps_both_numbers() -> None:
    """A stored record has the calibrated probabilities and the guard's own, with which replay begins."""
    own = Verdict(0.9, (Finding("violence", 0.3), Finding("sexual", 0.2), Finding("violence", 0.4)), "guard", "six@1")
    calibrated = CALIBRATION.applied("user", own)
    assert calibrated.raw == (("unsafe", 0.9), ("violence", 0.3), ("violence", 0.4))
    stored = record(1, verdict=calibrated)
    assert from_dict(to_dict(stored)) == stored
    turn = stored_turn(1, to_dict(stored))
    assert turn.calibrated
    assert turn.verdict is not None
    assert turn.verdict.unsafe == 0.9
    assert turn.verdict.findings == own.findings
    assert not stored_turn(1, to_dict(record(1))).calibrated
    assert CALIBRATION.applied("assistant", own).findings == own.findings


def test_the_workbench_shows_calibrated_scores() -> None:
    """A histogram has the probabilities that thresholds meet, from the guard's own ones in the records."""
    own = Verdict(0.9, (Finding("violence", 0.3),), "guard")
    stored = record(1, verdict=CALIBRATION.applied("user", own))
    loaded = LoadedTurns([stored_turn(1, to_dict(stored))], {}, 0.0)
    side = loaded.turns[0].side
    for category, probability in (("unsafe", 0.9), ("violence", 0.3)):
        scores = scores_of(loaded, CALIBRATION, side, category, ())
        assert scores["unlabelled"] == [CALIBRATION.value(side, category, probability)]
        assert scores_of(loaded, Calibration(), side, category, ())["unlabelled"] == [probability]


# --- in the pipeline -------------------------------------------------------------------------------------------------

RULES = SideRules({"unsafe": (Rule("block", 0.5),)})


def judged(
    text: str, policy: Policy, thread: tuple[str, ...] = (), *exclusions: Exclusion
) -> tuple[Verdict | None, str, int]:
    """The verdict and the action about a user's text, and how often the guard was asked."""
    guard = WordGuard({"knife": ("violence", 0.8), "spoon": ("violence", 0.2)})
    metrics = Metrics(CollectorRegistry())
    known = Exclusions(clock=lambda: 0.0)
    known.use("configuration", exclusions)
    observers = Observers({}, text="full", required=False, metrics=metrics)
    judging = Judging(guard, observers, metrics, {}, exclusions=known)
    message = Message("user", (Part("messages[0].content", text),))
    found = asyncio.run(judging.judgement((), message, policy, thread=thread))
    return found.verdict, found.decision.action, len(guard.asked)


def policy(calibration: Calibration, **options: ThreadPolicy) -> Policy:
    """A policy that blocks from a P(unsafe) of 0.5 on."""
    return Policy("default", "1", RULES, RULES, calibration=calibration, **options)


def test_thresholds_meet_calibrated_probabilities() -> None:
    """The same text is blocked or passes by its calibrated probability, whichever side its map is for."""
    lowered, raised = Calibration({"unsafe": Platt(1.0, -2.0)}), Calibration({"unsafe": Platt(1.0, 2.0)})
    other: Side = "assistant"
    assert judged("a knife", policy(Calibration()))[1] == "block"
    assert judged("a knife", policy(lowered))[1] == "pass"
    assert judged("a knife", policy(Calibration(**{other: lowered.user})))[1] == "block"
    verdict, action, _ = judged("a spoon", policy(raised))
    assert action == "block"
    assert verdict is not None
    assert verdict.unsafe > 0.5
    assert dict(verdict.raw) == {"unsafe": 0.2}


def test_the_bound_of_a_thread_is_calibrated() -> None:
    """A joined text counts from a calibrated P(unsafe) on."""
    raised = Calibration({"unsafe": Platt(1.0, 2.0)})
    thread = ThreadPolicy(turns=2, unsafe=0.6)
    assert judged("more", policy(Calibration(), thread=thread), ("a spoon",))[1:] == ("pass", 2)
    assert judged("more", policy(raised, thread=thread), ("a spoon",))[1:] == ("block", 2)


def test_an_excluded_text_stays_harmless() -> None:
    """What an exclusion leaves out of a verdict is 0 for a calibration that raises everything, too."""
    excluded = Exclusion("1", hashlib.sha256(b"a knife").hexdigest(), "*", "a kitchen", "me", until=1.0)
    raised = policy(Calibration({"unsafe": Platt(1.0, 50.0), "violence": Platt(1.0, 50.0)}))
    assert judged("a knife", raised)[1] == "block"
    verdict, action, _ = judged("a knife", raised, (), excluded)
    assert action == "pass"
    assert verdict is not None
    assert verdict.unsafe > 0.9
