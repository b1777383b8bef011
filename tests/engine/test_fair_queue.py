"""Whose windows run next: fair shares, replies first, order within a request, and slices within their bounds."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.asking import Asker
from guardproxy.engine.fair_queue import REPLY_WEIGHT, FairQueue, Ticket
from guardproxy.engine.runner import WorkItem


def ticket(name, costs, asker=None, *, reply=False):
    """A ticket of windows with these costs; its asker is a request of a client of that name."""
    windows = deque(enumerate(WorkItem(cost, f"{name} {at}") for at, cost in enumerate(costs)))
    return Ticket(name, asker or Asker(name), reply, windows)


def queue_of(*tickets):
    """A queue in which a token costs 1."""
    queue = FairQueue(lambda work: work.cost)
    for each in tickets:
        queue.add(each)
    return queue


def names(windows):
    """The names of the tickets of a slice."""
    return [window.ticket.item for window in windows]


def test_a_new_client_does_not_wait_for_the_rest_of_a_long_check():
    """A check that comes while a long one runs is in the next slice, and then gets every second window."""
    queue = queue_of(ticket("long", [10] * 100))
    assert names(queue.take(30, 1000)) == ["long"] * 3
    queue.add(ticket("short", [10, 10]))
    assert names(queue.take(40, 1000)) == ["long", "short", "long", "short"]


def test_new_clients_do_not_overtake_one_that_is_served_in_part():
    """With a new client for every window that runs, a check of three windows ends after rounds of those present."""
    queue = queue_of(*(ticket(f"old{at}", [10]) for at in range(9)), ticket("three", [10] * 3))
    ran = []
    for at in range(60):
        ran += names(queue.take(10, 1000))
        queue.add(ticket(f"new{at}", [10]))
    places = [at for at, name in enumerate(ran) if name == "three"]
    assert len(places) == 3
    assert places[-1] <= 33


def test_requests_of_one_client_share_as_clients_do():
    """A long request of a client delays neither its own short requests nor, any further, those of other clients."""
    queue = queue_of(
        ticket("long", [10] * 100, Asker("a")), ticket("own", [10], Asker("a")), ticket("other", [10] * 2, Asker("b"))
    )
    first = names(queue.take(60, 1000))
    assert first.count("other") == 2
    assert "own" in first


def test_many_requests_give_a_client_no_greater_share():
    """A client with twenty requests and one with a single long one get the same."""
    queue = queue_of(*(ticket("many", [10] * 10, Asker("m")) for _ in range(20)), ticket("one", [10] * 100, Asker("o")))
    counts = Counter(names(queue.take(400, 10_000)))
    assert abs(counts["many"] - counts["one"]) <= 1


def test_replies_go_first_and_do_not_starve_requests():
    """A reply overtakes requests that wait; a load of replies leaves the requests their share."""
    queue = queue_of(ticket("old", [10]), ticket("reply", [10], reply=True))
    assert names(queue.take(10, 1000)) == ["reply"]
    queue = queue_of(ticket("request", [10] * 50), *(ticket("reply", [10] * 50, reply=True) for _ in range(9)))
    counts = Counter(names(queue.take(1000, 10_000)))
    assert abs(counts["reply"] - REPLY_WEIGHT * counts["request"]) <= REPLY_WEIGHT
    assert counts["request"] >= 5


def test_cancelled_checks_are_dropped_at_no_cost():
    """A cancelled ticket never runs, also if some of its windows have run."""
    gone, half = ticket("gone", [10]), ticket("half", [10, 10])
    queue = queue_of(gone, half, ticket("here", [10]))
    gone.cancelled = True
    assert names(queue.take(10, 100)) == ["half"]
    half.cancelled = True
    assert names(queue.take(100, 100)) == ["here"]
    assert queue.is_empty
    assert queue.dropped == 2


def test_a_window_for_the_next_model_goes_before_the_rest_of_its_request():
    """It is queued whether its ticket still waits or not."""
    asker = Asker("a")
    queue = queue_of(ticket("first", [10, 10], asker), ticket("second", [10], asker))
    (window,) = queue.take(10, 100)
    queue.add_again(window.ticket, 0, WorkItem(10, "again", model=1))
    taken = queue.take(100, 100)
    assert [each.work.data for each in taken] == ["again", "first 1", "second 0"]
    queue.add_again(taken[1].ticket, 1, WorkItem(10, "last", model=1))
    assert [each.work.data for each in queue.take(100, 100)] == ["last"]
    assert queue.is_empty


def test_a_check_of_one_window_ends_once_it_has_begun():
    """Its window for the next model goes before all others, and its client pays for it before its next check."""
    queue = queue_of(ticket("one", [10]), *(ticket(f"c{at}", [10] * 9) for at in range(3)))
    (window,) = queue.take(10, 100)
    queue.add(ticket("late", [10]))
    queue.add_again(window.ticket, 0, WorkItem(40, "again", model=1))
    queue.add(ticket("one", [10]))
    assert names(queue.take(40, 100)) == ["one"]
    ran = [name for _ in range(20) for name in names(queue.take(10, 100))]
    assert ran.index("late") < 5
    assert ran.index("one") in range(15, 21)  # the three others have had 50 each, as it has


def test_a_check_of_one_window_that_is_cancelled_is_dropped():
    """Its window for the next model does not run."""
    queue = queue_of(ticket("one", [10]), ticket("other", [10]))
    (window,) = queue.take(10, 100)
    queue.add_again(window.ticket, 0, WorkItem(40, "again", model=1))
    window.ticket.cancelled = True
    assert names(queue.take(100, 100)) == ["other"]
    assert queue.dropped == 1
    assert queue.is_empty


def test_everything_that_waits_can_be_taken_out():
    """Checks that have begun as well, each once."""
    queue = queue_of(ticket("one", [10]), ticket("other", [10]))
    (window,) = queue.take(10, 100)
    queue.add_again(window.ticket, 0, WorkItem(40, "again", model=1))
    assert sorted(each.item for each in queue.clear()) == ["one", "other"]
    assert queue.is_empty


def test_a_window_beyond_every_bound_goes_alone():
    """The bounds hold for slices of several windows: a window cannot be cut."""
    queue = queue_of(ticket("huge", [1000]), ticket("small", [1]))
    assert names(queue.take(10, 10)) == ["huge"]
    assert names(queue.take(10, 10)) == ["small"]


def test_a_client_without_work_does_not_save_up_shares():
    """A client that comes back does not get what it did not ask for, nor twice what it has used already."""
    queue = queue_of(ticket("busy", [10] * 100), ticket("rare", [50]))
    names(queue.take(300, 1000))
    queue.add(ticket("rare", [10] * 50, Asker("rare")))
    counts = Counter(names(queue.take(200, 1000)))
    assert abs(counts["busy"] - counts["rare"]) <= 2


_checks = st.lists(
    st.tuples(
        st.integers(0, 3),  # the client
        st.integers(0, 2),  # the request
        st.booleans(),  # a reply
        st.lists(st.integers(1, 40), min_size=1, max_size=12),  # the windows
        st.sampled_from([False, False, False, True]),  # cancelled after the first slice
        st.integers(0, 4),  # the slice before which it comes
    ),
    max_size=14,
)


@given(_checks, st.integers(1, 60), st.integers(1, 100))
def test_every_window_runs_once_in_order_within_the_bounds(rows, budget, tokens):
    """Whatever comes when: no window is lost or runs twice, requests keep their order, and slices their bounds."""
    askers = {(client, request): Asker(f"c{client}") for client in range(4) for request in range(3)}
    waiting = [
        (when, ticket(at, costs, askers[client, request], reply=reply), cancelled)
        for at, (client, request, reply, costs, cancelled, when) in enumerate(rows)
    ]
    everything = {each.item: len(each.windows) for _, each, _ in waiting}
    queue, ran, number = queue_of(), [], 0
    while waiting or not queue.is_empty:
        for row in [row for row in waiting if row[0] <= number]:
            queue.add(row[1])
            waiting.remove(row)
        slice_ = queue.take(budget, tokens)
        costs = [window.work.cost for window in slice_]
        assert len(costs) < 2 or sum(costs) <= min(budget, tokens)
        ran += [(window.ticket, window.index) for window in slice_]
        number += 1
        assert number < 1000
        for window in slice_:
            window.ticket.cancelled = rows[window.ticket.item][4]
    by_ticket = Counter(each.item for each, _ in ran)
    assert len(set(ran)) == len(ran)
    for item, count in by_ticket.items():
        assert count == everything[item] or rows[item][4]
    assert set(by_ticket) == set(everything)
    for asker in askers.values():
        for reply in (True, False):
            own = [
                (rows[each.item][5], each.item, index)
                for each, index in ran
                if (each.asker, each.reply) == (asker, reply)
            ]
            assert own == sorted(own)


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=2, max_size=6),
    st.integers(1, 200),
)
def test_busy_clients_get_equal_shares(costs, served):
    """While two clients are busy, what they got differs by at most one window of each (Goyal et al., theorem 1)."""
    queue = queue_of(*(ticket(at, each) for at, each in enumerate(costs)))
    got, largest = Counter(), [max(each) for each in costs]
    for _ in range(served):
        for window in queue.take(1, 1000):
            got[window.ticket.item] += window.work.cost
        busy = [at for at, each in enumerate(costs) if got[at] < sum(each)]
        assert all(abs(got[a] - got[b]) <= largest[a] + largest[b] for a in busy for b in busy)
