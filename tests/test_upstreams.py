"""The choice of an upstream, its health, and what may be repeated: a state machine under random histories."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from guardproxy.upstreams import Ejection, Ending, Health, Permit, ending_of, may_repeat, model_at, ranked

FAILURES: list[Ending] = ["unsent", "declined", "failed", "unknown"]


def test_what_may_have_been_acted_on_is_repeated_only_if_it_is_asked_for() -> None:
    """Silence, a broken connection and a gateway's time-out: nobody knows what the upstream did."""
    for after in ("unsent", "declined", "failed"):
        assert not may_repeat("unknown", after)  # type: ignore[arg-type]
        assert not any(may_repeat(ending_of(status), after) for status in (504, 524))  # type: ignore[arg-type]
    assert may_repeat("unknown", "unknown")


@given(st.integers(200, 499).filter(lambda status: status != 429))
def test_an_answer_is_never_repeated(status: int) -> None:
    """Whatever the setting: refusals and mistakes of the client included."""
    assert not may_repeat(ending_of(status), "unknown")


@pytest.mark.parametrize(
    ("status", "ending"),
    [(429, "declined"), (503, "declined"), (529, "declined"), (500, "failed"), (502, "failed"), (504, "unknown")],
)
def test_statuses(status: int, ending: Ending) -> None:
    """What a status says of the request."""
    assert ending_of(status) == ending


def failing(health: Health, times: int, now: float = 0.0) -> bool:
    """Fail so many calls, one after another; whether the last one ejected the upstream."""
    changes = [health.end(health.begin(now), "unsent", now) for _ in range(times)]
    return changes[-1] == "ejected"


def test_ejection_probe_and_return() -> None:
    """Down after five failures in a row, one probe after ten seconds, down for twice as long if it fails."""
    health = Health(Ejection())
    assert not failing(health, 4)
    health.end(health.begin(0), "answered", 0)
    assert not failing(health, 4)
    assert failing(health, 1)
    assert health.state(9.9) == "down"
    assert not health.usable(9.9)
    assert health.usable(10)
    probe = health.begin(10)
    assert (probe.probe, health.usable(10), health.state(10)) == (True, False, "probing")
    assert health.end(probe, "unknown", 12) == "ejected"
    assert (health.state(31.9), health.state(32)) == ("down", "probing")
    assert health.end(health.begin(32), "answered", 33) == "recovered"
    assert health.state(33) == "up"
    assert not failing(health, 4, 34)


def test_calls_that_began_before_the_ejection_say_nothing_new() -> None:
    """Many calls fail at once when an upstream dies: that is one ejection, not one after another."""
    health = Health(Ejection(failures=2))
    permits = [health.begin(0) for _ in range(20)]
    assert [health.end(permit, "unknown", 1) for permit in permits] == [None, "ejected"] + [None] * 18
    assert health.usable_at() == 11


def test_a_probe_that_is_given_up_makes_room_for_the_next() -> None:
    """A client that leaves does not leave the upstream without a probe for ever."""
    health = Health(Ejection(failures=1))
    failing(health, 1)
    health.end(health.begin(10), None, 11)
    assert health.usable(11)


def test_a_limit_is_a_pause_and_no_failure() -> None:
    """An upstream at its rate limit is spared for as long as it asks, at most for the longest ejection."""
    health = Health(Ejection(failures=1, longest_s=60))
    health.end(health.begin(0), "declined", 0, limited_s=30)
    assert (health.state(29), health.state(30)) == ("limited", "up")
    health.end(health.begin(30), "declined", 30, limited_s=3600)
    assert (health.state(89), health.state(90)) == ("limited", "up")
    assert health.end(health.begin(90), "declined", 90) == "ejected"


def test_an_upstream_that_is_tried_as_the_last_resort_may_come_back() -> None:
    """Its success ends the ejection; its failure does not prolong it."""
    health = Health(Ejection(failures=1))
    failing(health, 1)
    assert health.end(health.begin(1), "unsent", 1) is None
    assert health.usable_at() == 10
    health.end(health.begin(2), "answered", 2)
    assert health.state(2) == "up"


class Upstream(RuleBasedStateMachine):
    """Any history of calls, in any order of their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ejection = Ejection(failures=3, first_s=4.0, longest_s=20.0)
        self.health = Health(self.ejection)
        self.now = 0.0
        self.open: list[Permit] = []
        self.in_a_row = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        usable = self.health.usable(self.now)
        permit = self.health.begin(self.now)
        assert permit.probe == (usable and self.health.state(self.now) == "probing")
        self.open.append(permit)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ending=st.sampled_from([*FAILURES, "answered", None]))
    def end(self, data: st.DataObject, ending: Ending | None) -> None:
        permit = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        was_up = self.health.state(self.now) in ("up", "limited")
        change = self.health.end(permit, ending, self.now)
        ejected = change == "ejected"
        assert change != "recovered" or (ending == "answered" and not was_up)
        assert not (ejected and ending in ("answered", None))
        if ejected:
            assert self.health.state(self.now) == "down"
            assert self.now + 4.0 <= self.health.usable_at() <= self.now + 20.0
        elif was_up:
            assert self.health.state(self.now) == "up"

    @invariant()
    def at_most_one_probe(self) -> None:
        probes = [permit for permit in self.open if permit.probe and permit.epoch == self.health._epoch]
        assert len(probes) <= 1
        if probes:
            assert not self.health.usable(self.now) or self.health.state(self.now) == "up"

    @invariant()
    def never_down_for_ever(self) -> None:
        assert self.health.usable_at() <= self.now + 20.0


TestUpstream = Upstream.TestCase


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=1),
    st.sets(st.sampled_from("abcdef")),
    st.integers(0, 1 << 30),
)
def test_a_rank_has_every_member_once(weights: dict[str, float], down: set[str], seed: int) -> None:
    """Usable ones before those that are down, weights before spares."""
    health = {name: Health(Ejection(failures=1)) for name in weights}
    for name in down & weights.keys():
        failing(health[name], 1)
    order = ranked(weights, health, 1.0, Random(seed).random)
    assert sorted(order) == sorted(weights)
    groups = [2 if name in down else 1 if not weights[name] else 0 for name in order]
    assert groups == sorted(groups)


def test_the_first_is_drawn_by_weight() -> None:
    """Three times the weight gets three times the requests; of the rest, the spare gets none while others are up."""
    weights = {"a": 3.0, "b": 1.0, "spare": 0.0}
    health = {name: Health(Ejection()) for name in weights}
    random = Random(7)
    first = Counter(ranked(weights, health, 0, random.random)[0] for _ in range(8000))
    assert first["spare"] == 0
    assert math.isclose(first["a"] / 8000, 0.75, abs_tol=0.02)


def test_names_of_models() -> None:
    """The first pattern that matches counts."""
    models = (("gpt-4o", "big"), ("gpt-*", "small"))
    assert [model_at(models, name) for name in ("gpt-4o", "gpt-4o-mini", "claude")] == ["big", "small", None]
