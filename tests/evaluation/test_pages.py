"""Measured tables are written between their own marks, and the rest of the page stays."""

from pathlib import Path

import pytest

from bench.pages import fill
from bench.presets import overview, presets_text
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.report import Pair
from guardproxy.evaluation.scoring import Score
from guardproxy.policy import PRESETS
from guardproxy.settings import load
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import read
from guardproxy.types import Check, Conversation, Message, Part, Side
from tests.settings.kit import NAMES

PAGE = "# A\n<!-- one: begin -->\nold\n<!-- one: end -->\ntext\n<!-- two: begin -->\nkept\n<!-- two: end -->\nend\n"


def test_a_table_replaces_its_own_and_leaves_the_others(tmp_path: Path) -> None:
    """After two fills, the page holds the last table between its marks and is otherwise unchanged."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill(page, "one", "first")
    fill(page, "one", "new")
    assert page.read_text() == PAGE.replace("old", "new")


@pytest.mark.parametrize("missing", ["<!-- one: begin -->", "<!-- one: end -->"])
def test_a_page_without_its_marks_is_left_alone(tmp_path: Path, missing: str) -> None:
    """Without both marks the program ends and names them, and the page is unchanged."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(missing, ""))
    with pytest.raises(SystemExit, match="one: begin"):
        fill(page, "one", "new")
    assert "old" in page.read_text()


def rows(side: Side, label: bool, probabilities: list[float]) -> list[Pair]:
    """A row of a side and a label for each P(unsafe)."""
    check = Check(Conversation((Message(side, (Part("p", "x"),)),)), side)
    row = LabelledRow("1", "f:1", "f", check, label, {})
    return [(row, Score(p, {"violence_hate": p}, 0.01, 0.01, 5, 0, 1)) for p in probabilities]


def test_presets_are_written_with_their_shares() -> None:
    """The text is a file of presets, each stricter than the next, and the table has what the packaged ones stop."""
    steps = [index / 1000 for index in range(1000)]
    pairs = [pair for side in ("user", "assistant") for label in (True, False) for pair in rows(side, label, steps)]
    tree, problems = read(presets_text(pairs, whole=True))
    assert problems == []
    assert tree is not None
    thresholds = [tree.get(preset, "user", "unsafe", "block") for preset in PRESETS]
    assert [node.value for node in thresholds if node] == [0.9191, 0.9691, 0.9891]
    assert all(set(tree.get(preset).plain_value()) == set(preset_rules(preset).plain_value()) for preset in PRESETS)
    policies = {preset: load(None, {}, NAMES, preset).policies.policies["default"] for preset in PRESETS}
    table = list(overview(policies, pairs, []))
    assert [line.partition(" |")[0] for line in table[2:]] == ["| `strict`", "| `balanced`", "| `permissive`"]
    assert table[2].endswith("| - | - |")
