"""Several verdicts and readings become one: the worst of each value, and where it was found."""

import math

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.calibration import Calibration, Platt
from guardproxy.ports import Reading
from guardproxy.types import Finding, Verdict
from guardproxy.verdicts import worst_of_views, worst_reading

CHANCES = st.floats(0, 1)


@given(st.lists(st.tuples(CHANCES, CHANCES), min_size=1, max_size=6))
def test_the_worst_reading_has_the_span_of_each_worst_window(values):
    """Each probability is the highest one, and its span is that of a window which has it."""
    spans = [(10 * place, 10 * place + 15) for place in range(len(values))]
    windows = [Reading(pair, spans=(span, span)) for pair, span in zip(values, spans, strict=True)]
    worst = worst_reading(windows)
    for column, (probability, span) in enumerate(zip(worst.probabilities, worst.spans, strict=True)):
        assert probability == max(pair[column] for pair in values)
        assert values[spans.index(span)][column] == probability


def test_a_window_without_a_span_leaves_the_place_open():
    """If one window does not say what it holds, the reading has no spans; NaN still shows."""
    assert worst_reading([Reading((0.1,), spans=((0, 4),)), Reading((0.9,))]).spans == ()
    assert math.isnan(worst_reading([Reading((0.1,)), Reading((math.nan,))]).probabilities[0])


def test_the_worst_view_says_where_it_was_unsafe():
    """P(unsafe) has the view and the span of the view that has it, and so has every finding."""
    text = Verdict(0.2, (Finding("a", 0.6, span=(0, 9)), Finding("b", 0.1)), "g", span=(0, 9))
    decoded = Verdict(0.7, (Finding("a", 0.5, span=(3, 5)), Finding("b", 0.4, span=(3, 5))), "g", span=(3, 5))
    worst = worst_of_views([("text", text), ("base64", decoded)])
    assert (worst.unsafe, worst.view, worst.span) == (0.7, "base64", (3, 5))
    assert worst.raw == ()
    assert {(one.category, one.view, one.span) for one in worst.findings} == {
        ("a", "text", (0, 9)),
        ("b", "base64", (3, 5)),
    }


def test_the_worst_verdict_has_the_guards_highest_own_probabilities():
    """Calibrated verdicts keep the guard's own probability of every category that has a map."""
    maps = Calibration({"unsafe": Platt(0.5, -1.0), "a": Platt(2.0)})
    verdicts = [Verdict(0.2, (Finding("a", 0.6), Finding("b", 0.1)), "g"), Verdict(0.7, (Finding("a", 0.5),), "g")]
    worst = worst_of_views([("text", maps.applied("user", one)) for one in verdicts])
    assert dict(worst.raw) == {"unsafe": 0.7, "a": 0.6}
    assert worst.unsafe == maps.value("user", "unsafe", 0.7)
    assert {one.category: one.probability for one in worst.findings} == {"a": maps.value("user", "a", 0.6), "b": 0.1}
