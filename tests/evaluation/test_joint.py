"""The rules of a side are found together: they stop most at a rate, and a category's own rule must gain held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.joint import MIN_ROWS, fit_jointly, held_out_totals
from guardproxy.evaluation.report import Pair
from guardproxy.evaluation.scoring import Score
from guardproxy.evaluation.thresholds import Target, Threshold, find_thresholds, held_out, side_totals
from guardproxy.types import Check, Conversation, Message, Part

RATE = 0.05


def rows(n: int, unsafe: float, weapons: float, *, label: bool, member: bool = False, seed: int = 0) -> list[Pair]:
    """Rows around a P(unsafe) and a probability of weapons, known to be of that category if `member`."""
    random = np.random.default_rng(seed)
    check = Check(Conversation((Message("user", (Part("p", "x"),)),)), "user")
    row = LabelledRow("1", "f:1", "f", check, label, {"weapons": True} if member else {})
    draws = np.clip(random.normal((unsafe, weapons), 0.06, (n, 2)), 0, 1)
    return [(row, Score(float(u), {"weapons": float(w)}, 0.01, 0.01, 5, 0, 1)) for u, w in draws]


BENIGN = rows(600, 0.3, 0.1, label=False, seed=1)
PLAIN = rows(200, 0.8, 0.1, label=True, seed=2)


def test_a_category_that_unsafe_misses_has_its_own_rule() -> None:
    """Rows of a category with a low P(unsafe) are stopped by a rule of their own; without it they pass."""
    missed = rows(100, 0.3, 0.9, label=True, member=True, seed=3)
    fit = fit_jointly(BENIGN + PLAIN + missed, RATE)
    (rule,) = fit.rules
    assert 0.3 < rule.threshold < 0.9
    assert fit.without == {}
    benign, unsafe = held_out_totals(BENIGN + PLAIN + missed, ["weapons"], RATE)
    assert (benign.n, unsafe.n) == (600, 300)
    assert benign.value <= RATE + 0.02
    assert unsafe.value > 0.9
    assert held_out_totals(BENIGN + PLAIN + missed, [], RATE)[1].value < 0.8


def test_an_unreliable_category_needs_p_unsafe_as_well() -> None:
    """If benign rows reach the category too, but with a low P(unsafe), the rule gets a second condition."""
    lookalikes = rows(300, 0.1, 0.9, label=False, seed=4)
    missed = rows(200, 0.42, 0.9, label=True, member=True, seed=5)
    borderline = rows(300, 0.42, 0.1, label=False, seed=6)
    (rule,) = fit_jointly(BENIGN + lookalikes + borderline + PLAIN + missed, RATE).rules
    assert 0.2 < rule.with_unsafe < 0.42
    assert 0.3 < rule.threshold < 0.9


def test_a_category_with_few_rows_keeps_to_unsafe() -> None:
    """With fewer than MIN_ROWS rows a category has no rule, and the reason has the number."""
    missed = rows(MIN_ROWS - 1, 0.3, 0.9, label=True, member=True, seed=3)
    fit = fit_jointly(BENIGN + PLAIN + missed, RATE)
    assert fit.rules == ()
    assert fit.without == {"weapons": "29 rows are known, 30 or more are needed"}


@pytest.mark.parametrize("seed", range(5))
def test_a_category_without_information_has_no_rule(seed: int) -> None:
    """A category whose probability is chance gains nothing on rows that its rule was not fitted on."""
    random = np.random.default_rng(seed)
    noise = [
        (row, Score(score.unsafe, {"weapons": float(random.random())}, 0.01, 0.01, 5, 0, 1))
        for row, score in BENIGN + PLAIN + rows(100, 0.5, 0.5, label=True, member=True, seed=seed)
    ]
    fit = fit_jointly(noise, RATE)
    assert fit.rules == ()
    assert fit.without["weapons"].startswith("held out, a rule of its own gains ")


scores = st.integers(0, 20).map(lambda step: step / 20)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(scores, scores), min_size=60, max_size=90),
    st.lists(st.tuples(scores, scores), min_size=60, max_size=90),
)
def test_together_they_stop_no_less_than_unsafe_alone(
    benign: list[tuple[float, float]], unsafe: list[tuple[float, float]]
) -> None:
    """Whatever the scores: the rate is kept, and at that rate the rules stop as much as `unsafe` alone, or more."""

    def pairs(values: list[tuple[float, float]], *, label: bool) -> list[Pair]:
        (row, _), *_ = rows(1, 0, 0, label=label, member=label)
        return [(row, Score(u, {"weapons": w}, 0.01, 0.01, 5, 0, 1)) for u, w in values]

    both = pairs(benign, label=False) + pairs(unsafe, label=True)
    target = Target("fpr", 0.1)
    found = find_thresholds(both, target)
    alone = find_thresholds([(row, Score(s.unsafe, {}, 0, 0, 0, 0, 0)) for row, s in both], target)
    for together, single in zip(side_totals(both, found), side_totals(both, alone), strict=False):
        assert together.benign.value <= 0.1
        assert together.unsafe.hits >= single.unsafe.hits
    for totals in held_out(both, found, {"user": target, "assistant": target}):
        assert (totals.benign.n, totals.unsafe.n) == (len(benign), len(unsafe))
    assert all(0 < result.threshold <= 1 for result in found if isinstance(result, Threshold))
