"""Labelled audit records as data: what their labels say, whom they stand for, and the commands that read them."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.cli import main
from guardproxy.cli.replay_report import as_dict
from guardproxy.evaluation.audited import RecordLabel, audited_rows, labelled_row
from guardproxy.evaluation.metrics import effective_rows, measure, rate_of
from guardproxy.evaluation.report import pairs_of
from guardproxy.evaluation.thresholds import NoThreshold, Target, Threshold, find_thresholds
from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.replay import Replay, StoredTurn, stored_turn
from guardproxy.reviews import LabelKind
from guardproxy.sinks.database import AuditStore, default_store_url
from guardproxy.sinks.shared import to_dict
from guardproxy.types import Record, Verdict
from tests.replay_kit import OLD, records
from tests.sinks.kit import BLOCKED, PASSED, record

TURNS = [stored_turn(number, to_dict(item)) for number, item in enumerate(records(400))]


def label_of(item: Record, harmful: bool) -> dict[str, str]:
    """The label of a reviewer who knows whether the text is harmful."""
    stopped = item.decision.action in ("rewrite", "block")
    if harmful == stopped:
        return {"kind": "correct"}
    return {"kind": "false_negative" if harmful else "false_positive"}


@pytest.mark.parametrize(
    ("kind", "passed", "unsafe"),
    [
        ("false_positive", False, False),
        ("correct", False, True),
        ("correct", True, False),
        ("false_negative", True, True),
    ],
)
def test_what_a_label_says(kind: LabelKind, passed: bool, unsafe: bool) -> None:
    """A label about a decision says whether the text is unsafe; safe texts are of no category."""
    turn = stored_turn(1, to_dict(record(1, decision=PASSED) if passed else record(1)))
    row = labelled_row(turn, [RecordLabel(kind, "violence")], "audit")
    assert row.unsafe is unsafe
    assert row.labels == {"violence": unsafe}
    assert labelled_row(turn, [RecordLabel(kind)], "audit").labels == ({} if unsafe else {"violence": False})
    assert labelled_row(turn, [], "audit").unsafe is None


@settings(deadline=None)
@given(st.sets(st.integers(0, 399), min_size=1), st.one_of(st.none(), st.sampled_from([0.1, 0.5])))
def test_labelled_records_stand_for_all_of_their_kind(chosen: set[int], rate: float | None) -> None:
    """The weights of the rows of a side and action add up to the turns that were judged, those not kept included."""
    turns = [turn._replace(sampled=True) for turn in TURNS]
    labels = {turns[number].id: [RecordLabel("correct")] for number in chosen}
    audited = audited_rows(turns, labels, "audit", rate)
    assert len(audited.scored.rows) + audited.others.total() == 400
    by_id = {turn.id: turn for turn in turns}
    for side, action in {(turn.side, turn.decision.action) for turn in turns if turn.id in labels}:
        own = [turn for turn in turns if (turn.side, turn.decision.action) == (side, action)]
        total = sum(
            row.weight
            for row in audited.scored.rows
            if (by_id[row.id].side, by_id[row.id].decision.action) == (side, action)
        )
        assert total == pytest.approx(len(own) / (rate if rate and action == "pass" else 1))


def test_reviewers_who_disagree() -> None:
    """A record is no row if its reviewers disagree; of two that agree, both categories count."""
    first, second = TURNS[0], TURNS[1]
    labels: Mapping[str, Sequence[RecordLabel]] = {
        first.id: [RecordLabel("false_positive"), RecordLabel("false_negative")],
        second.id: [RecordLabel("false_negative", "a"), RecordLabel("false_negative", "b")],
    }
    audited = audited_rows([first, second], labels, "audit")
    assert [row.labels for row in audited.scored.rows] == [{"a": True, "b": True}]
    assert audited.others["disputed"] == 1


def test_what_is_no_row() -> None:
    """What an exclusion decided about is left out and counted, as are turns without a verdict."""
    first, second, third = TURNS[0]._replace(excluded=True), TURNS[1]._replace(verdict=None), TURNS[2]
    labels = {turn.id: [RecordLabel("correct")] for turn in (first, second, third)}
    audited = audited_rows([first, second, third], labels, "audit")
    assert [row.id for row in audited.scored.rows] == [third.id]
    assert dict(audited.others) == {"excluded": 1, "unscored": 1}


def test_a_stored_text_is_whole_or_not() -> None:
    """A text is whole if it is the judged text itself and has not been erased."""
    assert stored_turn(1, to_dict(record(1, exact=True))).whole
    assert not stored_turn(1, to_dict(record(1, exact=False))).whole
    assert not stored_turn(1, to_dict(record(1, text="", exact=True))).whole


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans(), st.integers(1, 4)), min_size=3, max_size=30))
def test_a_weight_counts_as_repetition(rows: list[tuple[int, bool, int]]) -> None:
    """Every measure of a row with a whole weight is that of the row repeated as often."""
    scores, labels, times = (np.array(column) for column in zip(*rows, strict=True))
    weighted = measure(scores / 10, labels, resamples=1, weights=times.astype(float)).values
    repeated = measure(np.repeat(scores / 10, times), np.repeat(labels, times), resamples=1).values
    for name, value in repeated.items():
        assert weighted[name] == (None if value is None else pytest.approx(value))
    if len(set(times)) == 1:
        assert effective_rows(times.astype(float)) == pytest.approx(len(rows))
    assert rate_of(labels, times.astype(float)).value == pytest.approx(np.repeat(labels, times).mean())


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([Target("fpr", 0.2), Target("recall", 0.8)]), st.integers(2, 5))
def test_weighted_thresholds_are_those_of_repeated_rows(target: Target, times: int) -> None:
    """A threshold of rows with different weights is that of the rows repeated as often."""
    labels = {turn.id: [RecordLabel("correct" if turn.number % 3 else "false_positive")] for turn in TURNS}
    pairs = pairs_of(audited_rows(TURNS, labels, "audit").scored)
    weighted = [(replace(row, weight=float(times)), score) if row.unsafe else (row, score) for row, score in pairs]
    repeated = [pair for pair in pairs for _ in range(times if pair[0].unsafe else 1)]
    found, expected = (
        {
            (item.side, item.category): item.threshold
            for item in find_thresholds(rows, target)
            if isinstance(item, Threshold) and item.category == "unsafe"
        }
        for rows in (weighted, repeated)
    )
    assert found == expected


def test_unequal_weights_need_more_rows() -> None:
    """Rows of unequal weight count as fewer, and the refusal says how many more are needed."""
    labels = {turn.id: [RecordLabel("false_positive")] for turn in TURNS}
    pairs = pairs_of(audited_rows(TURNS, labels, "audit").scored)
    unequal = [
        (replace(row, weight=50.0 if number % 10 == 0 else 1.0), score) for number, (row, score) in enumerate(pairs)
    ]
    found = find_thresholds(unequal, Target("fpr", 0.05))
    reasons = [result.reason for result in found if isinstance(result, NoThreshold) and result.category == "unsafe"]
    assert reasons
    assert "which count as" in reasons[0]
    assert "so add" in reasons[0]


def test_hits_among_rows_of_great_weight_say_less() -> None:
    """A share whose hits are all in the sampled part has that part's certainty, not that of all rows together."""
    weights = np.repeat([100.0, 1.0], [40, 4000])
    hits = np.arange(4040) < 4
    rate = rate_of(hits, weights)
    assert rate.value == pytest.approx(400 / 8000)
    # The share is half of that of 40 rows, so it varies half as much: its variance is 0.25 * 0.1 * 0.9 / 40.
    assert rate.n == pytest.approx(0.05 * 0.95 / (0.25 * 0.1 * 0.9 / 40), rel=0.1)
    assert rate.n < effective_rows(weights)
    assert rate_of(np.zeros(4040, dtype=np.bool_), weights).n == pytest.approx(effective_rows(weights))


def traffic(number: int, source: np.random.Generator) -> tuple[StoredTurn, bool]:
    """A turn of a guard that is often wrong, and whether its text is unsafe."""
    unsafe = bool(source.random() < 0.2)
    probability = float(np.clip(source.normal(0.6 if unsafe else 0.3, 0.2), 0, 1))
    blocked = probability >= 0.5
    made = record(
        number, verdict=Verdict(probability, (), "embedded", "six@1"), decision=BLOCKED if blocked else PASSED
    )
    return stored_turn(number, to_dict(made))._replace(sampled=bool(source.random() < 0.1)), unsafe


def labelled(turns: Sequence[tuple[StoredTurn, bool]], source: np.random.Generator) -> dict[str, list[RecordLabel]]:
    """Labels of half of the blocked turns and of half of the passed ones in the random sample."""
    out = {}
    for turn, unsafe in turns:
        stopped = turn.decision.action == "block"
        if (stopped or turn.sampled) and source.random() < 0.5:
            wrong: LabelKind = "false_positive" if stopped else "false_negative"
            out[turn.id] = [RecordLabel("correct" if unsafe == stopped else wrong)]
    return out


def test_rates_from_a_sample_are_those_of_all_traffic() -> None:
    """Over many samples of labels the estimated rates are right on average, and the intervals hold the true rate.

    Blocked turns count once, passed ones of the sample 1/rate times. Without these weights the false-positive rate is
    several times too high.
    """
    source = np.random.default_rng(11)
    everything = [traffic(number, source) for number in range(4000)]
    benign = [turn for turn, unsafe in everything if not unsafe]
    true = np.mean([turn.decision.action == "block" for turn in benign])
    estimates, held, plain = [], 0, []
    for _ in range(60):
        drawn = [(turn._replace(sampled=bool(source.random() < 0.1)), unsafe) for turn, unsafe in everything]
        # Only what a store with `passed: sampled` holds.
        stored = [(turn, unsafe) for turn, unsafe in drawn if turn.sampled or turn.decision.action == "block"]
        rows = pairs_of(audited_rows([turn for turn, _ in stored], labelled(stored, source), "audit", 0.1).scored)
        safe = [pair for pair in rows if pair[0].unsafe is False]
        hits = np.array([score.unsafe >= 0.5 for _, score in safe])
        rate = rate_of(hits, np.array([row.weight for row, _ in safe]))
        estimates.append(rate.value)
        plain.append(hits.mean())
        held += rate.interval[0] <= true <= rate.interval[1]
    assert np.mean(estimates) == pytest.approx(true, rel=0.03)
    assert np.mean(plain) > 2 * true
    assert held >= 54


def test_replayed_shares_of_a_sample_are_those_of_all_traffic() -> None:
    """Replay's shares from a store with sampled passed turns are those of all turns, and the intervals hold them."""
    source = np.random.default_rng(12)
    everything = [traffic(number, source)[0] for number in range(4000)]
    policy = Policy("default", "new", SideRules({"unsafe": (Rule("block", 0.45),)}), SideRules({}))
    policies = PolicySet({"default": policy})
    newly = [
        turn for turn in everything if turn.decision.action == "pass" and turn.verdict and turn.verdict.unsafe >= 0.45
    ]
    true, shares, held = len(newly) / len(everything), [], 0
    for _ in range(60):
        replay = Replay(policies, {}, sampled=True)
        for turn in everything:
            drawn = turn._replace(sampled=bool(source.random() < 0.1))
            if drawn.sampled or drawn.decision.action == "block":
                replay.add(drawn)
        found = as_dict(replay.report(), "new", 10.0, {})["changes"]["blocked"]
        shares.append(found["share"])
        held += found["ci"][0] <= true <= found["ci"][1]
    assert np.mean(shares) == pytest.approx(true, rel=0.08)  # three standard errors of 60 draws
    assert held >= 54


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A file of `audit export` with labels: texts with probable hate are harmful. The data folder has the store."""
    monkeypatch.setenv("GUARDPROXY_DATA_DIR", str(tmp_path))
    items = records(2000)

    async def run() -> None:
        store = AuditStore(default_store_url(str(tmp_path)))
        await store.write(items)
        await store.close()

    asyncio.run(run())
    path = tmp_path / "export.jsonl"
    assert main(["audit", "export", "-o", str(path)]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, item in zip(rows, items, strict=True):
        if row["seq"] % 2:
            harmful = row["verdict"]["findings"][0]["probability"] + (row["seq"] % 7) / 30 > 0.6
            row["labels"] = [label_of(item, harmful)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_calibrate_from_an_export(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thresholds come from stored scores, without a model; --write puts them into a file and keeps its comments."""
    config = export.parent / "config.yaml"
    config.write_text(f"# ours\n{OLD.replace('block: 0.7}', 'block: 0.7}  # others')}")
    asked = ["calibrate", str(export), "--from-audit", "--target-recall", "0.9"]
    assert main([*asked, "--write", str(config)]) == 0
    captured = capsys.readouterr()
    assert "1,000 records without a label are no rows" in captured.err
    assert f"# guardproxy {' '.join(asked[:2])} --target-recall 0.9 --from-audit\n" in captured.out
    threshold = captured.out.split("unsafe: {block: ")[1].split("}")[0]
    written = config.read_text()
    assert written.startswith("# ours\nversion: 1\n")
    assert "# others" in written
    assert f"unsafe: {{block: {threshold}}}" in written
    assert main(["validate", str(config)]) == 0


def test_evaluate_from_an_export(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a guard the stored scores are measured, over the labelled records."""
    assert main(["evaluate", str(export), "--from-audit", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["audit"]
    assert found["overall"]["n"] == 1000
    assert 100 < found["overall"]["positives"] < 900
    assert found["overall"]["ci"]["auprc"][0] < found["overall"]["auprc"] < 1
    assert found["cost"]["judged_now"] == 0


def test_records_of_other_guards_are_left_out(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The guard of the configuration counts, without one that of the newest record; others are counted."""
    lines = [json.loads(line) for line in export.read_text().splitlines()]
    for number, line in enumerate(lines):
        if number % 4 == 0:
            line["verdict"]["guard"] = "old\x1b"
    export.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    config = export.parent / "config.yaml"
    config.write_text("version: 1\n")
    for options in ([], ["--config", str(config)]):
        assert main(["evaluate", str(export), "--from-audit", "--json", *options]) == 0
        printed = capsys.readouterr()
        assert "500 records of other guards than embedded are left out: old\\x1b (500)" in printed.err
        assert json.loads(printed.out)["audit"]["overall"]["n"] == 500
    config.write_text("version: 1\nguard: {all: [embedded, other]}\nguards: {other: {model: /nowhere}}\n")
    assert main(["evaluate", str(export), "--from-audit", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "no record is of the guard embedded+other of the configuration" in error
    assert "embedded (1,500), old\\x1b (500)" in error


def test_mistakes_are_named(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No label, another kind of file, too few labels, an invalid result and no data are errors that say what to do."""
    assert main(["evaluate", "--from-audit"]) == 2
    assert "no label of 2,000 records can be used" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "no data: name files, or read the audit store with --from-audit" in capsys.readouterr().err
    assert main(["evaluate", str(export), "--from-audit", "--since", "7d", "--side", "user"]) == 2
    assert "--side, --since: select records of the store, not of files" in capsys.readouterr().err
    assert main(["evaluate", str(export), "--route", "default"]) == 2
    assert "--route: needs --from-audit" in capsys.readouterr().err
    assert main(["calibrate", str(export), "--from-audit", "--target-fpr", "0.001"]) == 2
    assert "so add" in capsys.readouterr().err
    config = export.parent / "config.yaml"
    config.write_text(
        'version: 1\npolicies:\n  default:\n    user: {unsafe: {flag: 0.99, block: 1.0}}\n    assistant: {"*": {}}\n'
    )
    before = config.read_text()
    assert main(["calibrate", str(export), "--from-audit", "--target-recall", "0.9", "--write", str(config)]) == 2
    assert "was not changed: with the new thresholds it would have these mistakes" in capsys.readouterr().err
    assert config.read_text() == before
    assert main(["evaluate", str(export)]) == 2
    assert capsys.readouterr().err.count("is a file of `guardproxy audit export`; read it with --from-audit") == 1
    table = export.parent / "export.csv"
    assert main(["audit", "export", "--format", "csv", "-o", str(table)]) == 0
    renamed = table.with_suffix(".txt")
    renamed.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    for name, options in ((table, []), (table, ["--from-audit"]), (renamed, ["--from-audit"])):
        assert main(["evaluate", str(name), *options]) == 2
        assert "as CSV an export lacks the probabilities of categories" in capsys.readouterr().err
    export.write_text('{"messages": []}\n')
    assert main(["evaluate", str(export), "--from-audit"]) == 2
    assert "export.jsonl:1: is not a line of `guardproxy audit export`" in capsys.readouterr().err
