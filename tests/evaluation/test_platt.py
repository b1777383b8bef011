"""Platt scaling fitted to labelled scores: it finds the frequencies, is held out to be shown, and is refused else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guardproxy.calibration import UNCALIBRATED, Calibration, Platt
from guardproxy.cli import main
from guardproxy.evaluation.platt import MIN_ROWS, NoFit, PlattFit, calibration_of, fit_calibration
from guardproxy.evaluation.report import Pair, overall, weights_of
from guardproxy.settings import with_found_rules
from guardproxy.sinks.shared import to_dict
from guardproxy.types import Decision, Finding, Side, Verdict
from tests.evaluation.test_thresholds import pair
from tests.sinks.kit import record

TRUE = Platt(0.6, -2.0)


def sampled(n: int, true: Platt = TRUE, seed: int = 1, side: Side = "user") -> list[Pair]:
    """Rows whose frequency of harm is `true` of the guard's probability; all unsafe ones are of one category."""
    source = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-source.normal(0, 3, n)))
    unsafe = source.random(n) < [true.value(float(score)) for score in scores]
    return [
        pair(bool(label), {"x": bool(label)}, float(score), side, x=float(score))
        for score, label in zip(scores, unsafe, strict=True)
    ]


def only(results: list[PlattFit | NoFit], category: str = "unsafe", side: Side = "user") -> PlattFit | NoFit:
    """The result of a category."""
    (found,) = [one for one in results if (one.side, one.category) == (side, category)]
    return found


def test_the_map_behind_the_labels_is_found() -> None:
    """With many rows, slope and shift are those of the labels, for P(unsafe) and the category, and the error falls."""
    found = fit_calibration(sampled(6000))
    for category in ("unsafe", "x"):
        fit = only(found, category)
        assert isinstance(fit, PlattFit)
        assert fit.scaling.slope == pytest.approx(0.6, abs=0.06)
        assert fit.scaling.shift == pytest.approx(-2.0, abs=0.15)
        assert fit.error[0] > 0.2
        assert fit.error[1] < 0.03
        assert fit.loss[1] < fit.loss[0]
        assert (fit.rows, fit.positives) == (6000, int(overall(sampled(6000))[1].sum()))


def test_calibrated_probabilities_add_up_to_the_unsafe_rows() -> None:
    """The mean calibrated probability is the weighted share of unsafe rows, because the shift has no prior."""
    rows = [(replace(row, weight=1.0 + place % 5), score) for place, (row, score) in enumerate(sampled(400))]
    fit = only(fit_calibration(rows))
    assert isinstance(fit, PlattFit)
    (scores, labels), weights = overall(rows), weights_of(rows)
    calibrated = [fit.scaling.value(float(score)) for score in scores]
    assert np.average(calibrated, weights=weights) == pytest.approx(np.average(labels, weights=weights), abs=1e-3)


def test_weights_undo_a_chosen_sample() -> None:
    """If most rows with a low probability have no label, weights of the others give the map of all rows."""
    everything = sampled(30_000)
    source = np.random.default_rng(5)
    kept = [(row, score) for row, score in everything if score.unsafe > 0.5 or source.random() < 0.1]
    weighted = [(row if score.unsafe > 0.5 else replace(row, weight=10.0), score) for row, score in kept]
    fit = only(fit_calibration(weighted))
    assert isinstance(fit, PlattFit)
    assert fit.scaling.slope == pytest.approx(0.6, abs=0.1)
    assert fit.scaling.shift == pytest.approx(-2.0, abs=0.2)


def test_each_side_has_its_own_map() -> None:
    """Prompts and replies are fitted apart; a side without rows is not named."""
    found = fit_calibration([*sampled(3000), *sampled(3000, Platt(1.4, 1.0), seed=2, side="assistant")])
    user, assistant = only(found), only(found, side="assistant")
    assert isinstance(user, PlattFit)
    assert isinstance(assistant, PlattFit)
    assert user.scaling.shift < 0 < assistant.scaling.shift
    assert {one.side for one in fit_calibration(sampled(300))} == {"user"}
    known = Calibration({"y": Platt(3.0), "unsafe": Platt(9.0)})
    assert calibration_of(found, known).user == {
        "y": Platt(3.0),
        "unsafe": user.scaling,
        "x": only(found, "x").scaling,  # type: ignore[union-attr]
    }


def test_rows_that_the_guard_separates_have_a_finite_slope() -> None:
    """A probability that separates all rows gets a steeper map, not an infinite one."""
    rows = [pair(label, {}, score) for label, score in ((True, 0.6), (False, 0.4)) for _ in range(60)]
    fit = only(fit_calibration(rows))
    assert isinstance(fit, PlattFit)
    assert 1 < fit.scaling.slope < 20

    def cost(slope: float, shift: float) -> float:
        """The negative log-posterior, with the prior on the slope."""
        signed = [(1 if row.unsafe else -1) * (slope * np.log(s.unsafe / (1 - s.unsafe)) + shift) for row, s in rows]
        return float(np.logaddexp(0.0, -np.array(signed)).sum() + (slope - 1) ** 2 / 2)

    least = cost(fit.scaling.slope, fit.scaling.shift)
    for slope, shift in ((0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)):
        assert cost(fit.scaling.slope + slope, fit.scaling.shift + shift) > least


def test_probabilities_of_0_and_1() -> None:
    """A guard that says only 0 and 1 gets, for its 1, the share of unsafe rows to which it says so."""
    rows = [pair(place % 10 < 3, {}, 1.0) for place in range(200)] + [pair(place < 2, {}, 0.0) for place in range(400)]
    fit = only(fit_calibration(rows))
    assert isinstance(fit, PlattFit)
    assert fit.scaling.value(1.0) == pytest.approx(0.3, abs=0.01)
    assert fit.scaling.value(0.0) == 0.0


def test_what_is_refused() -> None:
    """Too few rows of a kind, no gain on other rows, an order against the labels, unsafe rows without a category."""
    few = only(fit_calibration(sampled(60)))
    unsafe = int(overall(sampled(60))[1].sum())
    assert isinstance(few, NoFit)
    assert few.reason == f"{unsafe} unsafe rows are known; a calibration needs 30 or more, so add {MIN_ROWS - unsafe}"
    none = only(fit_calibration([pair(True, {}, 0.9)]))
    assert isinstance(none, NoFit)
    assert "so add 29; 0 benign rows are known; a calibration needs 30 or more, so add 30" in none.reason
    right = only(fit_calibration(sampled(300, Platt(1.0))))
    assert isinstance(right, NoFit)
    assert "the guard's own probabilities stay" in right.reason
    turned = only(fit_calibration([pair(score < 0.5, {}, score) for score in np.linspace(0.01, 0.99, 200)]))
    assert isinstance(turned, NoFit)
    assert "does not rise" in turned.reason
    nameless = [pair(True, {}, 0.9, x=0.9) for _ in range(40)] + sampled(1000)
    named = int(overall(sampled(1000))[1].sum())
    found = only(fit_calibration(nameless), "every category")
    assert isinstance(found, NoFit)
    assert found.reason.startswith(f"40 of {named + 40} unsafe rows name no category")


def test_rows_of_unequal_weight_say_less() -> None:
    """Of rows with unequal weights, the effective number must be enough."""
    rows = [
        (replace(row, weight=1000.0) if place < 3 else row, score) for place, (row, score) in enumerate(sampled(800))
    ]
    found = only(fit_calibration(rows))
    assert isinstance(found, NoFit)
    assert "because their weights differ" in found.reason


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lines of `audit export` with labels, judged by a guard that takes harm to be far too frequent."""
    monkeypatch.setenv("GUARDPROXY_DATA_DIR", str(tmp_path))
    path = tmp_path / "export.jsonl"
    lines = []
    for number, (row, score) in enumerate(sampled(3000)):
        verdict = Verdict(score.unsafe, (Finding("violence_hate", score.unsafe),), "embedded", "six@1")
        stored = to_dict(record(number, verdict=verdict, decision=Decision("pass", "", ())))
        label = {"kind": "false_negative" if row.unsafe else "correct", "category": "violence_hate"}
        lines.append(json.dumps({**stored, "seq": number, "labels": [label]}))
    path.write_text("\n".join(lines) + "\n")
    return path


CONFIG = """# ours
version: 1
policies:
  default:
    preset: balanced
    user:
      sexual_content: {block: 0.7}   # ours too
"""


def test_the_command_prints_and_writes_a_calibration(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a target, the maps and thresholds for them go into the file together; what keeps its number is named."""
    config = data.parent / "config.yaml"
    config.write_text(CONFIG)
    asked = ["calibrate", str(data), "--from-audit", "--platt", "--target-fpr", "0.05"]
    picture = data.parent / "curves.png"
    assert main([*asked, "--write", str(config), "--plot", str(picture)]) == 0
    captured = capsys.readouterr()
    assert "policies.default.user.sexual_content" in captured.err
    assert "guard:\n  calibration:\n    user:\n      # 3,000 rows, " in captured.out
    assert picture.stat().st_size > 10_000
    written = config.read_text()
    assert "# ours\n" in written
    assert "# ours too" in written
    assert main(["validate", str(config)]) == 0
    capsys.readouterr()
    assert main(["calibrate", str(data), "--from-audit", "--target-fpr", "0.05", "--config", str(config)]) == 0
    again = capsys.readouterr().out
    threshold = again.split("unsafe: {block: ")[1].split("}")[0]
    assert f"unsafe: {{block: {threshold}}}" in written
    assert main(["evaluate", str(data), "--from-audit", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["overall"]["ece"] < 0.03
    assert main(["evaluate", str(data), "--from-audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["overall"]["ece"] > 0.2


def test_records_of_a_calibrated_guard_need_its_configuration(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records with calibrated probabilities are measured from the guard's own, so the calibration must be named."""
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for line in lines:
        own, verdict = line["verdict"]["unsafe"], line["verdict"]
        verdict["raw"] = [["unsafe", own]]
        verdict["unsafe"] = UNCALIBRATED.value("user", "unsafe", own) / 2
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["calibrate", str(data), "--from-audit", "--platt"]
    assert main(asked) == 2
    assert "name its configuration with --config" in capsys.readouterr().err
    config = data.parent / "config.yaml"
    config.write_text(CONFIG)
    assert main([*asked, "--config", str(config)]) == 0
    slope = float(capsys.readouterr().out.split("unsafe: {slope: ")[1].split(",")[0])
    assert slope == pytest.approx(0.6, abs=0.06)


def test_combinations_of_options_that_mean_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A calibration alone is not written: the thresholds of the file would mean something else."""
    config = data.parent / "config.yaml"
    config.write_text(CONFIG)
    asked = ["calibrate", str(data), "--from-audit", "--platt"]
    assert main([*asked, "--write", str(config)]) == 2
    assert "name --target-fpr or --target-recall" in capsys.readouterr().err
    assert config.read_text() == CONFIG
    assert main([*asked, "--target-fpr", "0.1", "--target-recall", "0.9"]) == 2
    assert "at most one of --target-fpr and --target-recall" in capsys.readouterr().err
    config.write_text(CONFIG.replace("policies:", "guard: {calibration: {user: {unsafe: {slope: 0.5}}}}\npolicies:", 1))
    other = data.parent / "other.yaml"
    other.write_text(CONFIG)
    wrong = ["calibrate", str(data), "--from-audit", "--target-fpr", "0.1", "--write", str(config)]
    assert main([*wrong, "--config", str(other)]) == 2
    assert "has another calibration" in capsys.readouterr().err


def test_own_rules_of_a_category_that_keeps_to_unsafe_stay(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule that only names a category replaces none; a condition is part of the thresholds that are found."""
    config = data.parent / "config.yaml"
    config.write_text(
        "version: 1\npolicies:\n  default:\n    preset: balanced\n    user:\n"
        "      violence_hate: {flag: 0.3, block: 0.9}  # ours\n"
    )
    assert main(["calibrate", str(data), "--from-audit", "--target-fpr", "0.05", "--write", str(config)]) == 0
    assert "violence_hate: the printed shares do not count them" in capsys.readouterr().err
    assert "violence_hate: {flag: 0.3, block: 0.9}  # ours\n" in config.read_text()
    text = "policies:\n  default:\n    user:\n      x: {block: 0.5, with_unsafe: 0.6}\n      '*': {block: 0.4}\n"
    assert "x: {block: 0.3}" in with_found_rules(text, "default", "user:\n  x: {block: 0.3}\n")
    kept = with_found_rules(text, "default", "user:\n  y: {flag: 0.5, with_unsafe: 0.7}\n  unsafe: {block: 0.7}\n")
    assert "y:" not in kept
    assert "unsafe: {block: 0.7}" in kept
