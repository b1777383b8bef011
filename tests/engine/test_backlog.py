"""How long a new check would wait, and what the queue's books hold when checks come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.asking import Asker
from guardproxy.engine.backlog import Backlog, Pace
from guardproxy.engine.fair_queue import Ticket


def booked(*rows):
    """A backlog of (client, seconds, reply)."""
    backlog = Backlog()
    for client, seconds, reply in rows:
        backlog.book(Ticket(None, Asker(client), reply), seconds)
    return backlog


def wait(backlog, seconds, client="new", *, reply=False):
    """The wait of a check of a new request."""
    return backlog.wait(Asker(client), reply=reply, seconds=seconds)


def test_an_empty_queue_makes_nobody_wait():
    """The wait is what others add: none, whatever the check itself takes."""
    assert wait(booked(), 20.0) == 0.0


def test_short_checks_of_others_all_come_first_in_time():
    """A hundred short checks of a hundred clients take their sum."""
    assert wait(booked(*((f"c{at}", 0.02, False) for at in range(100))), 0.02) == pytest.approx(2.0)


def test_a_long_check_delays_a_short_one_by_a_slice():
    """One that takes 20 s counts as one slice for a short check, and as 20 s for a check of the same length."""
    backlog = booked(("long", 20.0, False))
    assert wait(backlog, 0.01) == pytest.approx(0.05)
    assert wait(backlog, 20.0) == pytest.approx(20.0)


def test_requests_of_the_same_client_count_likewise():
    """A client's own long request delays its short ones by a slice."""
    assert wait(booked(("same", 20.0, False)), 0.01, "same") == pytest.approx(0.05)


def test_replies_wait_less_for_requests_than_requests_for_replies():
    """By the weights of the queue: a sixteenth against sixteen times."""
    assert wait(booked(("a", 20.0, False)), 4.0, reply=True) == pytest.approx(0.25)
    assert wait(booked(("a", 20.0, True)), 1.0) == pytest.approx(16.0)


def test_a_request_waits_for_the_replies_that_come_first():
    """A second of requests before it brings two of replies, which overtake it; a reply does not wait for them."""
    backlog = booked(*((f"c{at}", 0.1, False) for at in range(10)))
    assert backlog.wait(Asker("new"), reply=False, seconds=0.1, pace=Pace(replies_share=2.0)) == pytest.approx(3.0)
    assert backlog.wait(Asker("new"), reply=True, seconds=0.1, pace=Pace(replies_share=2.0)) == pytest.approx(0.05)


def test_the_wait_counts_what_checks_really_take():
    """Requests that take twice what is booked, and replies that take three times as much."""
    backlog = booked(("a", 0.1, False), ("b", 0.1, True))
    assert backlog.wait(Asker("new"), reply=False, seconds=0.1, pace=Pace(2.0, 3.0)) == pytest.approx(0.2 + 0.3)


def test_a_check_of_one_window_counts_as_a_whole():
    """It runs in one go, so a shorter check waits for all of it; of a longer check, for a slice."""
    backlog, long, one = Backlog(), Ticket(None, Asker("long"), False), Ticket(None, Asker("one"), False)
    for ticket in (long, one):
        backlog.book(ticket, 0.5)
    backlog.change(long, 0.5)
    assert wait(backlog, 0.01) == pytest.approx(0.1)
    backlog.change(one, 0.5, one_window=True)
    assert wait(backlog, 0.01) == pytest.approx(0.55)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 30), st.floats(0, 30)), max_size=20))
def test_nothing_is_left_when_all_checks_have_ended(rows):
    """Whatever checks are booked, changed and removed, the total is their sum, and none when they have ended."""
    backlog, askers = Backlog(), [Asker(f"c{at % 2}") for at in range(4)]
    tickets = [Ticket(None, askers[at], reply) for at, reply, _, _ in rows]
    for ticket, row in zip(tickets, rows, strict=True):
        backlog.book(ticket, row[2])
    assert backlog.total == pytest.approx(sum(row[2] for row in rows), abs=1e-6)
    for ticket, row in zip(tickets, rows, strict=True):
        backlog.change(ticket, row[3])
    assert backlog.total == pytest.approx(sum(row[3] for row in rows), abs=1e-6)
    assert len(backlog) == len(rows)
    for ticket in tickets:
        backlog.remove(ticket)
        backlog.change(ticket, 5.0)  # the worker may still count what a check has left
    assert backlog.total == len(backlog) == 0
    assert all(backlog.own(asker) is None for asker in askers)
