"""Thresholds and combinations fitted to labelled scores keep their targets, or are refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.evaluation.combining import MIN_ROWS, bounds, weights
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.metrics import Rate, measure
from guardproxy.evaluation.plots import drawn
from guardproxy.evaluation.report import Pair, one_vs_all, one_vs_benign, overall, report
from guardproxy.evaluation.scoring import Score, ScoredRows
from guardproxy.evaluation.tables import tables
from guardproxy.evaluation.thresholds import NoThreshold, Target, Threshold, find_thresholds, side_totals
from guardproxy.policy import Policy, Rule, SideRules
from guardproxy.types import Check, Conversation, Message, Part, Side


def pair(unsafe: bool | None, labels: dict[str, bool], score: float, side: Side = "user", **categories: float) -> Pair:
    """A row with its score."""
    check = Check(Conversation((Message(side, (Part("p", "x"),)),)), side)
    row = LabelledRow("1", "f:1", "f", check, unsafe, labels)
    return row, Score(score, categories, 0.01, 0.01, 5, 0, 1)


def cluster(n: int, unsafe: bool, mean: float, seed: int, side: Side = "user") -> list[Pair]:
    """Rows of one kind around a score, labelled in one category."""
    scores = np.clip(np.random.default_rng(seed).normal(mean, 0.15, n), 0, 1)
    return [pair(unsafe, {"x": unsafe}, float(score), side, x=float(score) * 0.9) for score in scores]


def scored(pairs: list[Pair]) -> ScoredRows:
    """The rows and scores of a run."""
    return ScoredRows(tuple(row for row, _ in pairs), [score for _, score in pairs])


STRICT = SideRules({"x": (Rule("block", 0.5),)})
LAX = SideRules({"x": (Rule("flag", 0.1),)})
MIXED = cluster(400, False, 0.3, 1) + cluster(100, True, 0.7, 2)


def test_all_rules_together_keep_a_rate_of_false_positives() -> None:
    """Together the rules block at most the target rate of the benign rows, and nearly as many.

    The category adds nothing to `unsafe` here, so it has no rule of its own.
    """
    found = find_thresholds(MIXED, Target("fpr", 0.05))
    assert [type(result) for result in found] == [NoThreshold, Threshold]
    (side,) = side_totals(MIXED, found)
    assert side.benign.value <= 0.05
    assert side.benign.hits >= 15
    assert side.unsafe.value > 0.8
    assert all(
        result.ci[0] <= result.threshold <= result.ci[1]
        for result in found
        if isinstance(result, Threshold) and result.ci
    )


def test_each_rule_keeps_a_recall() -> None:
    """Each rule blocks at least the target rate of its category's rows, with the highest such threshold."""
    for result in find_thresholds(MIXED, Target("recall", 0.9)):
        assert isinstance(result, Threshold)
        assert result.unsafe.value >= 0.9
        higher = [pair for pair in MIXED if pair[0].unsafe and pair[1].categories["x"] >= result.threshold + 0.03]
        assert len(higher) < 90


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=60, max_size=90),
    st.lists(st.integers(0, 8), min_size=60, max_size=90),
    st.sampled_from([0.05, 0.1, 0.3]),
)
def test_whatever_the_scores_the_target_is_kept(benign: list[int], unsafe: list[int], rate: float) -> None:
    """With ties, and scores of 0 and 1, a threshold keeps its target or is refused."""
    pairs = [pair(False, {"x": False}, eighths / 8, x=eighths / 8) for eighths in benign]
    pairs += [pair(True, {"x": True}, eighths / 8, x=eighths / 8) for eighths in unsafe]
    false = find_thresholds(pairs, Target("fpr", rate))
    for side in side_totals(pairs, false):
        assert side.benign.value <= rate
    for result in find_thresholds(pairs, Target("recall", 1 - rate)):
        assert isinstance(result, NoThreshold) or result.unsafe.value >= 1 - rate
    assert all(isinstance(result, NoThreshold) or 0 < result.threshold <= 1 for result in false)


@pytest.mark.parametrize("steps", [1, 3, 7, 57, 1_113, 5_637, 9_998])
def test_a_score_of_four_digits_is_on_the_right_side_of_its_threshold(steps: int) -> None:
    """Ten scores tie at a four-digit number: an FPR target excludes all of them by one step, a recall includes all."""
    tie = steps / 10_000
    benign = [pair(False, {}, score) for score in [*[0.0] * 290, *[tie] * 10]]
    unsafe = [pair(True, {}, score) for score in [*[1.0] * 290, *[tie] * 10]]
    (false,), (kept,) = (
        find_thresholds(benign + unsafe, Target("fpr", 0.01)),
        find_thresholds(benign + unsafe, Target("recall", 0.99)),
    )
    assert isinstance(false, Threshold)
    assert isinstance(kept, Threshold)
    assert (false.threshold, false.benign.hits) == ((steps + 1) / 10_000, 0)
    assert (kept.threshold, kept.unsafe.hits) == (tie, 300)


def test_too_few_labels_are_refused() -> None:
    """A rate needs 3/rate rows: with fewer there is no threshold, and the refusal names the number."""
    pairs = cluster(299, False, 0.3, 1) + cluster(29, True, 0.7, 2)
    refused = find_thresholds(pairs, Target("fpr", 0.01)) + find_thresholds(pairs, Target("recall", 0.9))
    assert [(result.category, result.reason) for result in refused if isinstance(result, NoThreshold)] == [
        ("unsafe", "299 benign rows are known; fpr 0.01 needs 300 or more, so add 1"),
        ("x", "29 unsafe rows are known; recall 0.9 needs 30 or more, so add 1"),
        ("unsafe", "29 unsafe rows are known; recall 0.9 needs 30 or more, so add 1"),
    ]


def test_scores_that_cannot_keep_it_are_refused() -> None:
    """If benign rows have a probability of 1, or unsafe rows of 0, no threshold helps."""
    pairs = [pair(label, {"x": label}, float(not label), x=float(not label)) for label in (False, True)] * 40
    found = find_thresholds(pairs, Target("fpr", 0.1)) + find_thresholds(pairs, Target("recall", 0.9))
    assert [result.reason.rpartition(" ")[2] for result in found if isinstance(result, NoThreshold)] == [
        "1",
        "0",
        "0",
    ]


def test_sides_have_thresholds_of_their_own() -> None:
    """User and assistant rows get separate thresholds."""
    pairs = MIXED + cluster(400, False, 0.5, 3, "assistant") + cluster(100, True, 0.8, 4, "assistant")
    found = [result for result in find_thresholds(pairs, Target("fpr", 0.05)) if isinstance(result, Threshold)]
    by_side = {(result.side, result.category): result.threshold for result in found}
    assert by_side["assistant", "unsafe"] > by_side["user", "unsafe"]
    looser = find_thresholds(pairs, Target("fpr", 0.05), Target("fpr", 0.1))
    by_side_looser = {(r.side, r.category): r.threshold for r in looser if isinstance(r, Threshold)}
    assert by_side_looser["user", "unsafe"] == by_side["user", "unsafe"]
    assert by_side_looser["assistant", "unsafe"] < by_side["assistant", "unsafe"]


def test_signals_have_no_threshold() -> None:
    """A jailbreak is not a category of harm: it has measures but no rule."""
    pairs = [pair(row.unsafe, {"jailbreak": bool(row.unsafe)}, s.unsafe, jailbreak=s.unsafe) for row, s in MIXED]
    assert [result.category for result in find_thresholds(pairs, Target("fpr", 0.05))] == ["unsafe"]


def test_unknown_labels_count_nowhere() -> None:
    """Rows without a label of the category, or without an overall label, are not negatives."""
    unknown = [pair(None, {}, 0.99, x=0.99), pair(False, {}, 0.99, x=0.99), pair(None, {"x": False}, 0.99, x=0.99)]
    assert len(one_vs_all(unknown, "x")[0]) == 1
    assert len(one_vs_benign(unknown, "x")[0]) == 0
    found = [
        result for result in find_thresholds(MIXED + unknown * 50, Target("fpr", 0.05)) if isinstance(result, Threshold)
    ]
    assert {result.category: result.benign.n for result in found} == {"unsafe": 450}
    recall = find_thresholds(MIXED + unknown * 50, Target("recall", 0.9))
    assert [(r.category, r.benign.n) for r in recall if isinstance(r, Threshold)] == [("x", 400), ("unsafe", 450)]


@given(st.integers(0, 500), st.integers(1, 500))
def test_rates_lie_in_their_intervals(hits: int, n: int) -> None:
    """The Wilson interval holds the share and stays in [0, 1]."""
    assume(hits <= n)
    low, high = Rate(hits, n).interval
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def test_a_share_of_no_rows_is_unknown() -> None:
    """Without rows the share may be anything between 0 and 1."""
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).interval == (0.0, 1.0)


def two_guards(seed: int = 5) -> tuple[ScoredRows, ScoredRows]:
    """A guard and a more accurate second guard, on the same rows."""
    random = np.random.default_rng(seed)
    labels = random.random(2000) < 0.3
    weaker = np.clip(random.normal(0.25 + 0.5 * labels, 0.15), 0, 1)
    better = np.clip(random.normal(0.15 + 0.7 * labels, 0.12), 0, 1)
    runs = [
        [pair(bool(y), {"x": bool(y)}, float(v), x=float(v)) for y, v in zip(labels, s, strict=True)]
        for s in (weaker, better)
    ]
    first, second = (scored(pairs) for pairs in runs)
    return first, ScoredRows(first.rows, second.scores)


def test_a_cascade_keeps_its_targets_and_saves() -> None:
    """The bounds lose and add no more than the targets allow, and most rows do not reach the second guard."""
    first, second = two_guards()
    found = bounds(first, second, fpr=0.01, recall=0.98)
    assert 0 < found.low < found.high < 1
    assert found.lost.value <= 0.02
    assert found.added.value <= 0.01
    assert found.skipped.value > 0.5
    stricter = bounds(first, second, fpr=0.005, recall=0.99)
    assert stricter.skipped.value < found.skipped.value


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("shift", [0.0, 0.45])
def test_a_cascade_does_what_its_bounds_promise(scale: float, shift: float) -> None:
    """The counts are those of the cascade's own verdicts, even if the first guard's scores are far too low or high."""
    unbiased, second = two_guards()
    values = [score and replace(score, unsafe=min(1.0, scale * score.unsafe + shift)) for score in unbiased.scores]
    first = ScoredRows(unbiased.rows, values)
    found = bounds(first, second, fpr=0.02, recall=0.95)
    lost = added = skipped = 0
    for row, first_score, second_score in zip(first.rows, first.scores, second.scores, strict=True):
        assert first_score is not None
        assert second_score is not None
        final = first_score if not found.low <= first_score.unsafe <= found.high else second_score
        skipped += final is first_score
        called, wanted = final.unsafe >= 0.5, second_score.unsafe >= 0.5
        lost += bool(row.unsafe) and wanted and not called
        added += not row.unsafe and called and not wanted
    assert (found.lost.hits, found.added.hits, found.skipped.hits) == (lost, added, skipped)
    assert found.lost.value <= 0.05
    assert found.added.value <= 0.02
    assert found.low <= 0.5 <= found.high


def test_a_cascade_needs_labels() -> None:
    """Too few unsafe or benign rows for the targets are an error that names the number needed."""
    first, second = two_guards()
    with pytest.raises(ConfigError, match="3000 benign rows or more, not 1"):
        bounds(first, second, fpr=0.001, recall=0.9)
    with pytest.raises(ConfigError, match="3000 unsafe rows found by the second guard or more"):
        bounds(first, second, fpr=0.1, recall=0.999)


def test_weights_fit_better_than_either_guard() -> None:
    """The mean's loss is at most the best guard's, the weights add up to 1, and the better guard weighs more."""
    found = weights(two_guards())
    assert [result.category for result in found] == ["x", "unsafe"]
    for result in found:
        assert sum(result.weights) == pytest.approx(1)
        assert result.loss <= min(result.losses) + 1e-6
        assert result.weights[1] > result.weights[0]


def test_weights_need_labels() -> None:
    """A category with too few positive or negative rows has no weights."""
    pairs = cluster(500, False, 0.3, 1) + cluster(MIN_ROWS - 1, True, 0.7, 2)
    assert weights([scored(pairs), scored(pairs)]) == []


def test_a_row_that_one_guard_has_not_scored_is_left_out() -> None:
    """Combinations are fitted on rows that every guard has scored."""
    first, second = two_guards()
    second.scores[:1000] = [None] * 1000
    assert bounds(first, second, fpr=0.01, recall=0.95).skipped.n == 1000
    assert weights([first, second])[0].n == 1000


def test_a_report_has_every_slice() -> None:
    """A report has overall, sides, both measures of a category, datasets and cost; unknown labels count nowhere."""
    pairs = MIXED + cluster(50, True, 0.6, 9, "assistant") + [pair(None, {}, 0.5, x=0.5)]
    pairs += [pair(True, {"x": False, "y": True}, 0.9, x=0.2, y=0.8)]
    other = LabelledRow("1", "g:1", "g", pairs[0][0].check, True, {"x": True})
    run = scored([*pairs, (other, pairs[0][1])])
    run.scores[0] = None
    found = report(run, Policy("p", "v", STRICT, LAX))
    assert (found["rows"], found["scored"]) == (len(pairs) + 1, len(pairs))
    assert found["overall"]["n"] == len(pairs) - 1
    x = found["categories"]["x"]
    assert x["one_vs_all"]["n"] == x["one_vs_benign"]["n"] + 1
    assert 0.5 < x["one_vs_all"]["auprc"] <= 1
    assert list(found["sides"]) == ["user", "assistant"]
    assert found["sides"]["assistant"]["overall"]["positives"] == 50
    assert found["sides"]["assistant"]["overall"]["auprc"] is None
    assert list(found["datasets"]) == ["f", "g"]
    assert found["cost"]["tokens_computed"] == 5
    assert found["sides"]["assistant"]["policy"] == {
        "unsafe": {"n": 50, "acted": 0, "rate": 0.0, "ci": [0.0, pytest.approx(0.0714, abs=1e-3)]}
    }
    blocked = found["sides"]["user"]["policy"]
    over = [row.unsafe for row, score in pairs[1:] if row.check.side == "user" and score.categories["x"] >= 0.5]
    assert (blocked["benign"]["acted"], blocked["unsafe"]["acted"]) == (over.count(False), over.count(True))
    low, high = found["overall"]["ci"]["auprc"]
    assert low < found["overall"]["auprc"] < high


def test_a_guard_without_a_score_of_one_side_stands_beside_one_with() -> None:
    """Every side that the data has is in every report, so that one table can compare the guards."""
    pairs = cluster(20, False, 0.3, 1) + cluster(20, True, 0.7, 2) + cluster(9, True, 0.6, 9, "assistant")
    both, half = scored(pairs), scored(pairs)
    half.scores[40:] = [None] * 9
    reports = {name: report(run, Policy("p", "v", STRICT, LAX)) for name, run in (("both", both), ("half", half))}
    assert reports["half"]["sides"]["assistant"]["overall"] is None
    for order in (["both", "half"], ["half", "both"]):
        assert "all rows, assistant side" in tables({name: reports[name] for name in order})


def test_the_area_under_the_drawn_curve_is_the_average_precision() -> None:
    """The curve starts at recall 0, and a precision holds for the recalls up to its own."""
    figure = drawn({"g": scored(MIXED)}, Path("unwritten.png"))
    line = figure.axes[0].lines[0]
    recall, precision = (np.asarray(values) for values in line.get_data())
    assert line.get_drawstyle() == "steps-pre"
    assert (recall[0], recall[-1]) == (0.0, 1.0)
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(measure(*overall(MIXED)).values["auprc"])
