"""The order of the queue, and the refusal of jobs that would wait too long."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine.batching import PATIENCE_S, Ticket, admit, next_batch, passes
from guardproxy.errors import Overloaded


def ticket(name, cost=10, arrived=0.0, *, stream=False, cancelled=False):
    """A ticket by name."""
    return Ticket(name, cost, arrived, stream, cancelled)


def names(tickets):
    """The tickets' items."""
    return [each.item for each in tickets]


def test_the_oldest_go_first_within_the_budget():
    """A batch is filled in the order of arrival, up to its tokens."""
    taken = next_batch([ticket("c", arrived=3), ticket("a", arrived=1), ticket("b", arrived=2)], 20, 3)
    assert names(taken.batch) == ["a", "b"]
    assert names(taken.waiting) == ["c"]


def test_checks_that_hold_a_stream_go_before_new_prompts():
    """A ticket of a stream goes before an older ticket without one."""
    taken = next_batch([ticket("old", arrived=1), ticket("stream", arrived=2, stream=True)], 10, 2)
    assert names(taken.batch) == ["stream"]


def test_streams_do_not_starve_prompts():
    """A prompt that has waited longer than the patience ranks by its arrival."""
    late = 1 + PATIENCE_S + 0.1
    taken = next_batch([ticket("old", arrived=1), ticket("stream", arrived=2, stream=True)], 10, late)
    assert names(taken.batch) == ["old"]


def test_patience_is_two_seconds():
    """A prompt has its own turn after more than two seconds, not at two seconds."""
    queue = [Ticket("old", 10, 1.0), ticket("stream", arrived=2, stream=True)]
    assert names(next_batch(queue, 10, 3.0).batch) == ["stream"]
    assert names(next_batch(queue, 10, 3.01).batch) == ["old"]


def test_cancelled_checks_are_dropped_before_they_run():
    """A cancelled ticket is neither in the batch nor in the queue."""
    taken = next_batch([ticket("gone", cancelled=True), ticket("here")], 100, 0)
    assert names(taken.batch) == ["here"]
    assert taken.waiting == ()


def test_a_check_beyond_the_budget_goes_alone():
    """The budget bounds batches, not checks."""
    taken = next_batch([ticket("huge", 1000), ticket("small", 1, 1.0)], 100, 1)
    assert names(taken.batch) == ["huge"]


def test_a_large_check_is_not_overtaken():
    """A ticket that does not fit ends the batch; smaller tickets behind it wait."""
    taken = next_batch([ticket("a", 60), ticket("large", 90, 1.0), ticket("b", 10, 2.0)], 100, 2)
    assert names(taken.batch) == ["a"]


@given(
    st.lists(st.tuples(st.integers(1, 99), st.floats(0, 9), st.booleans(), st.booleans()), max_size=20),
    st.integers(1, 300),
)
def test_nothing_is_lost_and_the_budget_holds(rows, budget):
    """Every live ticket is in the batch or waits, once; a batch of several fits the budget."""
    queue = [ticket(at, cost, when, stream=s, cancelled=c) for at, (cost, when, s, c) in enumerate(rows)]
    taken = next_batch(queue, budget, 9)
    alive = [each.item for each in queue if not each.cancelled]
    assert sorted(names(taken.batch) + names(taken.waiting)) == alive
    assert bool(taken.batch) == bool(alive)
    if len(taken.batch) > 1:
        assert sum(each.cost for each in taken.batch) <= budget


def test_the_door_closes_when_the_wait_is_too_long():
    """A check is refused with a typed error that says how far behind the guard is."""
    admit(1000, 0.001, 1.0)
    with pytest.raises(Overloaded, match=r"2\.0 s behind"):
        admit(2000, 0.001, 1.0)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_passes_hold_all_work_in_order_within_the_budget(costs, budget):
    """No item is lost or moved, no pass is empty, and only a single item that is too large exceeds the budget."""
    parts = [costs[part] for part in passes(costs, budget)]
    assert [cost for part in parts for cost in part] == costs
    assert all(part and (len(part) == 1 or sum(part) <= budget) for part in parts)
    assert all(sum(early) + late[0] > budget for early, late in pairwise(parts))
