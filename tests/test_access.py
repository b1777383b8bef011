"""Clients are known by their keys, and their limits are token buckets: pure functions of the time."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.access import Bucket, Client, ClientKey, Clients, KeyRefused, taken


def key(text: bytes, expires: float | None = None) -> ClientKey:
    """The key with this text."""
    return ClientKey(sha256(text).digest(), expires)


CLIENTS = Clients(
    (Client("red", (key(b"r1", 100.0), key(b"r2"))), Client("blue", (key(b"b1"),))),
    b"secret",
)


@pytest.mark.parametrize(
    ("keys", "name"),
    [([b"r1"], "red"), ([b"r2"], "red"), ([b"b1"], "blue"), ([b"r1", b"r2"], "red")],
)
def test_a_client_is_known_by_each_of_its_keys(keys: list[bytes], name: str) -> None:
    """Also by several at once, if all are its own."""
    assert CLIENTS.holder(keys, 99.9).name == name


@pytest.mark.parametrize(
    ("keys", "now", "why"),
    [
        ([], 0.0, "has no key"),
        ([b"x"], 0.0, "does not know the request's key"),
        ([b""], 0.0, "does not know"),
        ([b"r1", b"x"], 0.0, "does not know one of the request's keys"),
        ([b"r1", b"b1"], 0.0, "several clients"),
        ([b"r1"], 100.0, "expired"),
        ([b"r1", b"r2"], 100.0, "expired"),
        ([sha256(b"b1").digest()], 0.0, "does not know"),
        ([sha256(b"b1").hexdigest().encode()], 0.0, "does not know"),
    ],
)
def test_whose_request_is_refused(keys: list[bytes], now: float, why: str) -> None:
    """Without a key, with one that nobody has, with an expired one, with those of two clients, with a hash as key."""
    with pytest.raises(KeyRefused, match=why) as refused:
        CLIENTS.holder(keys, now)
    assert refused.value.status == 401
    assert not any(text in str(refused.value) for text in ("r1", "r2", "b1"))


def test_a_bucket_by_hand() -> None:
    """60 a minute: 60 at once, then one a second; unused for a minute, it is full again, and never fuller."""
    bucket, wait_s = taken(None, 60, 60, 1000.0)
    assert (bucket, wait_s) == (Bucket(0.0, 1000.0), 0.0)
    assert taken(bucket, 60, 1, 1000.0)[1] == pytest.approx(1.0)
    bucket, wait_s = taken(bucket, 60, 1, 1001.0)
    assert (bucket.level, wait_s) == (0.0, 0.0)
    bucket, wait_s = taken(bucket, 60, 30, 2000.0)
    assert (bucket.level, wait_s) == (30.0, 0.0)


def test_a_request_larger_than_the_limit_passes_from_a_full_bucket() -> None:
    """It is worth several minutes, after which the next one passes."""
    bucket, wait_s = taken(None, 100, 300, 0.0)
    assert (bucket.level, wait_s) == (-200.0, 0.0)
    assert taken(bucket, 100, 1, 0.0)[1] == pytest.approx(201 * 60 / 100)
    assert taken(bucket, 100, 300, 179.0)[1] > 0
    assert taken(bucket, 100, 300, 180.0)[1] == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Two processes may see the steady clock in another order by a little."""
    bucket, _ = taken(None, 60, 60, 100.0)
    later, wait_s = taken(bucket, 60, 1, 50.0)
    assert (later, wait_s > 0) == (bucket, True)


amounts = st.lists(st.tuples(st.floats(0, 200), st.integers(1, 50)), min_size=1, max_size=40)


@given(st.integers(1, 100), amounts)
def test_no_run_of_requests_exceeds_the_limit(per_minute: int, steps: list[tuple[float, int]]) -> None:
    """In any stretch of time at most its share of the limit and one full bucket is taken, and one last large amount."""
    bucket: Bucket | None = None
    accepted: list[tuple[float, int]] = []
    now = 0.0
    for pause_s, amount in steps:
        now += pause_s
        bucket, wait_s = taken(bucket, per_minute, amount, now)
        if wait_s == 0:
            accepted.append((now, amount))
    for start in range(len(accepted)):
        for end in range(start, len(accepted)):
            sum_before = sum(amount for _, amount in accepted[start:end])
            seconds = accepted[end][0] - accepted[start][0]
            least = min(accepted[end][1], per_minute)
            assert sum_before + least <= per_minute + seconds * per_minute / 60 + 1e-3


@given(st.integers(1, 1000), st.floats(0, 5000), st.integers(1, 3000), st.floats(-3000, 1000))
def test_what_waits_as_long_as_it_is_told_is_accepted(per_minute: int, now: float, amount: int, level: float) -> None:
    """And a moment before it is not; the refusal itself costs nothing."""
    bucket = Bucket(min(level, per_minute), now)
    refused, wait_s = taken(bucket, per_minute, amount, now)
    if wait_s == 0:
        return
    assert refused == bucket
    assert taken(refused, per_minute, amount, now + wait_s)[1] == 0
    if wait_s > 0.1:
        assert taken(refused, per_minute, amount, now + wait_s * 0.9)[1] > 0


def test_another_limit_takes_effect_at_once() -> None:
    """After a reload with a lower limit, a bucket holds no more than that."""
    bucket, _ = taken(None, 1000, 1, 0.0)
    lower, wait_s = taken(bucket, 10, 10, 0.0)
    assert (lower.level, wait_s) == (0.0, 0.0)
    assert taken(replace(lower), 10, 1, 0.0)[1] > 0
