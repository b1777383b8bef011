"""Which replica is asked, and when a second one is: orders under random standings, streams, and durations."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.replicas import Hedging, Standing, in_order, next_of
from guardproxy.upstreams import Ejection, Health

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True)
STREAMS = st.one_of(st.none(), st.text(max_size=12))


def standing(open_calls: int = 0, *, known: bool = True, other: bool = False, ejected_until: float = 0.0) -> Standing:
    """The standing of a replica; one that is ejected is so from time 0 on."""
    health = Health(Ejection(failures=1, first_s=ejected_until or 1.0))
    if ejected_until:
        health.end(health.begin(0.0), "unsent", 0.0)
    return Standing(health, open_calls, known, other)


@st.composite
def standings(draw: st.DrawFn) -> dict[str, Standing]:
    """Replicas in any state."""
    return {
        name: standing(
            draw(st.integers(0, 3)),
            known=draw(st.booleans()),
            other=draw(st.booleans()),
            ejected_until=draw(st.sampled_from([0.0, 5.0, 9.0])),
        )
        for name in draw(NAMES)
    }


@given(standings(), STREAMS, st.randoms(use_true_random=False))
def test_every_replica_that_may_judge_is_in_the_order_once(
    replicas: dict[str, Standing], stream: str | None, random: Random
) -> None:
    """Another guard never is; the usable ones come first; without a stream, the one with the fewest open calls."""
    order = in_order(replicas, 1.0, random.random, stream)
    assert Counter(order) == Counter(name for name, one in replicas.items() if not one.other)
    usable = [replicas[name].usable(1.0) for name in order]
    assert usable == sorted(usable, reverse=True)
    if stream is None and any(usable):
        assert replicas[order[0]].open == min(one.open for one in replicas.values() if one.usable(1.0))


@given(standings(), st.text(max_size=12), st.data())
def test_a_stream_stays_with_its_replica(replicas: dict[str, Standing], stream: str, data: st.DataObject) -> None:
    """The order of a stream does not depend on open calls or chance, and when a replica goes, only its streams move."""
    usable = [name for name, one in replicas.items() if one.usable(1.0)]
    first = in_order(replicas, 1.0, Random(1).random, stream)[: len(usable)]
    for one in replicas.values():
        one.open = data.draw(st.integers(0, 9))
    assert in_order(replicas, 1.0, Random(2).random, stream)[: len(usable)] == first
    if len(usable) > 1:
        gone = data.draw(st.sampled_from(usable))
        replicas[gone].known = False
        assert in_order(replicas, 1.0, Random(3).random, stream)[: len(usable) - 1] == tuple(
            name for name in first if name != gone
        )


def test_streams_spread_over_the_replicas() -> None:
    """Each of three replicas gets about a third of a thousand streams."""
    replicas = {name: standing() for name in "abc"}
    firsts = Counter(in_order(replicas, 1.0, Random(1).random, f"stream {number}")[0] for number in range(1000))
    assert all(250 < count < 420 for count in firsts.values())


@given(NAMES, st.integers(1, 20))
def test_each_is_asked_once_before_any_is_asked_again(order: list[str], times: int) -> None:
    """And then in the same order."""
    asked: list[str] = []
    for _ in range(times):
        found = next_of(order, asked)
        assert found is not None
        asked.append(found)
    counts = Counter(asked)
    assert max(counts.values()) - min(counts[name] for name in order) <= 1
    assert asked[: len(order)] == order[:times]
    assert next_of((), asked) is None


def test_a_replica_that_says_it_is_another_guard_is_shown_as_such() -> None:
    """Operators read it in the state."""
    assert standing().state(1.0) == "up"
    assert standing(known=False).state(1.0) == "unknown"
    assert standing(other=True).state(1.0) == "other"
    assert standing(ejected_until=5.0).state(1.0) == "down"
    assert standing(ejected_until=5.0).state(6.0) == "probing"
    assert not standing(ejected_until=5.0).usable(6.0)  # it says first what it is


def test_nothing_is_hedged_before_the_durations_are_known() -> None:
    """Then after their 95th percentile."""
    hedging = Hedging()
    assert hedging.begin() is None
    for number in range(100):
        hedging.ended(0.01 * number)
    for _ in range(20):
        delay = hedging.begin()
    assert delay is not None
    assert 0.9 <= delay <= 0.95


@given(st.lists(st.booleans(), min_size=1, max_size=400))
def test_at_most_a_tenth_is_asked_twice(slow: list[bool]) -> None:
    """Beyond a small start, however many are slow: replicas that are busy do not get twice the work."""
    hedging, hedged = Hedging(), 0
    for _ in range(64):
        hedging.ended(1.0)
    for is_slow in slow:
        if hedging.begin() is not None and is_slow:
            hedging.hedged()
            hedged += 1
    assert hedged <= len(slow) / 10
