"""Which records an alert is about: conditions, and counts in windows, by the times of the records alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.alerting import Alert, AlertCondition, AlertHit, AlertWindows, wanted_actions
from guardproxy.types import Record
from tests.sinks.kit import BLOCKED, PASSED, record

BLOCK = AlertCondition(action="block")
FIVE_MINUTES = AlertCondition(action="block", count=3, within_s=300, per="client")


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        (BLOCK, True),
        (AlertCondition(action=("flag", "block")), True),
        (AlertCondition(action="flag"), False),
        (AlertCondition(category="violence"), True),
        (AlertCondition(category=("privacy", "jailbreak")), True),
        (AlertCondition(category="privacy"), False),
        (AlertCondition(category="violence", score=0.91), True),
        (AlertCondition(category="violence", score=0.92), False),
        (AlertCondition(category=("privacy", "violence"), score=0.9), True),
        (AlertCondition(score=0.3), True),  # P(unsafe) is 0.3
        (AlertCondition(score=0.31), False),
        (AlertCondition(category=("unsafe", "privacy"), score=0.3), True),
        (AlertCondition(cause="verdict"), True),
        (AlertCondition(cause=("guard_error", "overload")), False),
        (AlertCondition(action="block", side="user"), True),
        (AlertCondition(action="block", side="assistant"), False),
        (AlertCondition(action="block", route=("a", "default")), True),
        (AlertCondition(action="block", route="a"), False),
        (AlertCondition(action="block", policy="default"), True),
        (AlertCondition(action="block", policy="strict"), False),
        (AlertCondition(action="block", client="c11e47"), True),
        (AlertCondition(action="block", client="c11e4"), False),
        (AlertCondition(action="block", shadow=True), False),
    ],
)
def test_a_condition_is_in_the_words_of_a_record(condition: AlertCondition, fits: bool) -> None:
    """Every option that is given must fit."""
    assert condition.holds(record()) is fits


def test_what_a_record_lacks_fits_no_condition_on_it() -> None:
    """Without a verdict there is no score; a shadow policy's decision does not act; any of several keys fits."""
    failed = record(verdict=None, decision=replace(BLOCKED, reasons=(), cause="guard_error"))
    assert not AlertCondition(score=0.0).holds(failed)
    assert AlertCondition(cause="guard_error").holds(failed)
    assert not BLOCK.holds(record(shadow=True))
    assert replace(BLOCK, shadow=True).holds(record(shadow=True))
    assert replace(BLOCK, client="b").holds(record(client="a,b"))


def test_which_decisions_have_to_be_read() -> None:
    """Those that conditions name, unless one names none."""
    assert wanted_actions([BLOCK, AlertCondition(action=("flag", "block"))]) == ("block", "flag")
    assert wanted_actions([BLOCK, AlertCondition(score=0.5)]) is None


def at(time: float, client: str = "a", number: int = 0) -> Record:
    """A blocked turn at a time."""
    return record(number, time=time, client=client)


def hits(condition: AlertCondition, *records: Record) -> list[float]:
    """The times of the records that complete the condition."""
    windows = AlertWindows({"one": condition})
    return [one.time for one in records if windows.take(one)]


def test_a_count_in_a_window() -> None:
    """Three blocks of one client in five minutes are an alert, and are counted anew; of two clients they are none."""
    assert hits(FIVE_MINUTES, at(0), at(100), at(299)) == [299]
    assert hits(FIVE_MINUTES, at(0), at(100), at(300)) == []
    assert hits(FIVE_MINUTES, at(0), at(1), at(2), at(3), at(4), at(5)) == [2, 5]
    assert hits(FIVE_MINUTES, at(0), at(1, "b"), at(2), at(3, "b")) == []
    assert hits(FIVE_MINUTES, at(0), record(time=1.0, decision=PASSED), at(2)) == []
    assert hits(replace(FIVE_MINUTES, per=None), at(0), at(1, "b"), at(2)) == [2]
    assert AlertWindows({"one": replace(BLOCK, count=2, within_s=9, per="policy")}).take(at(0)) == []


def test_records_out_of_the_order_of_their_times() -> None:
    """A record that is written late counts if it is within the window of the others, and not if it is older."""
    assert hits(FIVE_MINUTES, at(100), at(200), at(50)) == [50]
    assert hits(FIVE_MINUTES, at(1000), at(1001), at(5)) == []


TIMES = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=40)


def expected(turns: list[tuple[int, str]], count: int, within_s: int) -> list[AlertHit]:
    """What a count in a window means, by a list of everything that was not told yet."""
    untold: dict[str, list[int]] = {}
    found = []
    for time, client in turns:
        group = untold.setdefault(client, [])
        newest = max([*group, time])
        group[:] = [one for one in [*group, time] if one > newest - within_s]
        if len(group) >= count:
            found.append(AlertHit("one", count, client))
            group.clear()
    return found


@given(TIMES, st.integers(2, 4), st.integers(1, 20), st.integers(0, 40))
def test_windows_go_on_where_they_were(turns: list[tuple[int, str]], count: int, within_s: int, cut: int) -> None:
    """Written down and read again after any record, the windows find the same; each group is counted by itself."""
    conditions = {"one": AlertCondition(action="block", count=count, within_s=within_s, per="client")}
    windows, found = AlertWindows(conditions), []
    for place, (time, client) in enumerate(turns):
        if place == cut:
            windows = AlertWindows(conditions, windows.held())
        found += windows.take(at(time, client))
    assert found == expected(turns, count, within_s)


def test_windows_are_bounded() -> None:
    """A client who invents keys does not fill the memory: the oldest group is forgotten."""
    windows = AlertWindows({"one": FIVE_MINUTES})
    assert not windows.take(at(0, "first"))
    for number in range(30_000):
        windows.take(at(1, f"client-{number}"))
    held = windows.held()["one"]
    assert len(held) == 20_000
    assert windows.forgotten == 10_001
    assert "first" not in held
    windows.take(at(1000, "later"))  # all other windows are over
    assert list(windows.held()["one"]) == ["later"]


def test_an_alert_has_the_id_of_its_condition_and_record() -> None:
    """Whoever makes it, the id is the same; another condition or record has another one."""
    first = Alert("a", BLOCK, 1, "", record(1))
    assert first.id == Alert("a", BLOCK, 1, "", record(1, text="masked otherwise")).id
    assert len({first.id, Alert("b", BLOCK, 1, "", record(1)).id, Alert("a", BLOCK, 1, "", record(2)).id}) == 3
