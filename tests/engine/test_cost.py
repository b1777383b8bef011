"""The running estimate of what work takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine.cost import CostModel


def model_of(batches, base=0.0, per_token=0.0, batch_s=0.05):
    """A model that has seen batches of these sizes."""
    cost = CostModel(batch_s)
    for tokens in batches:
        cost.observe(0, tokens, base + per_token * tokens)
    return cost


def test_the_first_batch_does_not_count():
    """It sets up kernels and caches; before the second nothing is known."""
    cost = model_of([10])
    assert not cost.is_known(0)
    assert cost.seconds(0, 100) == 0.0
    cost.observe(0, 100, 0.5)
    assert cost.is_known(0)
    assert cost.seconds(0, 200) == pytest.approx(1.0)


@given(st.floats(1e-4, 0.003), st.floats(5e-5, 1e-3), st.lists(st.integers(50, 800), min_size=4, max_size=60))
def test_a_long_text_is_not_estimated_from_short_batches(base, per_token, sizes):
    """What a batch costs is told from what a token costs, so short checks do not make long ones look slow."""
    cost = model_of([1, 10, 600, *sizes], base, per_token)
    estimate, exact = cost.seconds(0, 100_000), 100_000 * per_token / (1 - base / 0.05)
    assert estimate == pytest.approx(exact, rel=0.05)


def test_noise_does_not_make_a_token_cheap():
    """Short batches that were slow by chance leave a token at a quarter of the average at least."""
    cost = model_of([])
    for tokens, seconds in [(30, 0.02)] * 9 + [(60, 0.02)]:
        cost.observe(0, tokens, seconds)
    assert cost.seconds(0, 100) > 100 * 0.25 * 0.02 / 60


def test_the_replies_to_requests_are_expected():
    """Their seconds for each second of requests; none before the first."""
    cost = model_of([])
    assert cost.replies_share == 0.0
    for _ in range(50):
        cost.observe_check(0.1, 0.1, 0.5, reply=False)
        cost.observe_check(0.3, 0.2, 0.4, reply=True)
    assert cost.replies_share == pytest.approx(3.0, rel=0.15)


def test_a_burst_of_requests_hides_no_reply():
    """Forty requests before the first of their replies lower by a third what is expected of the replies."""
    cost = model_of([])
    for reply in (*(False, True) * 200, *(False,) * 40):
        cost.observe_check(0.3 if reply else 0.1, 0.1, 0.0, reply=reply)
    assert cost.replies_share > 1.8


def test_checks_that_take_longer_than_expected_correct_what_is_expected():
    """By kind, and hardly after a few short checks."""
    cost = model_of([])
    assert cost.correction(reply=True) == cost.correction(reply=False) == 1.0
    cost.observe_check(0.02, 0.001, 0.0, reply=False)
    assert cost.correction(reply=False) < 1.1
    for _ in range(200):
        cost.observe_check(0.3, 0.1, 0.4, reply=True)
    assert cost.correction(reply=True) == pytest.approx(3.0, rel=0.1)
    assert cost.reply_wait_s == pytest.approx(0.4, rel=0.1)


def test_batches_of_one_size_give_their_average():
    """Without different sizes there is no line to fit."""
    assert model_of([50] * 9, 0.004, 0.0001).seconds(0, 500) == pytest.approx(0.09)


def test_the_estimate_follows_a_slower_machine():
    """After some eighty batches at a tenth of the speed, the estimate is that speed."""
    cost = model_of([10, 400] * 5, 0.001, 0.0001)
    for tokens in [10, 400] * 40:
        cost.observe(0, tokens, 10 * (0.001 + 0.0001 * tokens))
    assert cost.seconds(0, 1000) == pytest.approx(1000 * 0.001 / (1 - 0.01 / 0.05), rel=0.1)


def test_short_checks_are_expected_to_take_what_they_take_now():
    """A check no longer than a batch costs its share of the average; of a longer one, only the beginning does."""
    cost = model_of([30, 30, 30, 90] * 20, 0.01, 0.0001)
    mean = sum(0.01 + 0.0001 * tokens for tokens in (30, 30, 30, 90)) / 180
    assert cost.expected(30) == pytest.approx(30 * mean, rel=0.1)
    full = 0.0001 / (1 - 0.01 / 0.05)
    assert cost.expected(10_000) == pytest.approx(10_000 * full + 45 * (mean - full), rel=0.05)


def test_windows_for_the_second_model_are_expected():
    """A quarter of the tokens also costs what they cost in the second model; before it has run, as in the first."""
    cost = model_of([100, 100, 100], per_token=0.001)
    cost.observe_share(1000, 250)
    assert cost.expected(1000) == pytest.approx(1.25)
    for _ in range(3):
        cost.observe(1, 100, 0.8)
    assert cost.expected(1000) == pytest.approx(1 + 250 * 0.008)
