"""Measured tables are written between their own marks, and the rest of the page stays; what is measured for them."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.pages import fill
from bench.presets import chosen_fit, overview, presets_text, stopped
from bench.sampling import stratified
from bench.shipped import Stored
from guardproxy.errors import GuardUnavailable
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.report import Pair
from guardproxy.evaluation.scoring import Score, open_score_store
from guardproxy.policy import PRESETS
from guardproxy.settings import load
from guardproxy.settings.packaged import preset_rules
from guardproxy.settings.yaml_tree import read
from guardproxy.types import Check, Conversation, Finding, Message, Part, Side, Taxonomy, Verdict
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
    tree, problems = read(presets_text(pairs, rows("user", False, [0.1]), {}, whole=True))
    assert problems == []
    assert tree is not None
    thresholds = [tree.get(preset, "user", "unsafe", "block") for preset in PRESETS]
    assert [node.value for node in thresholds if node] == [0.9191, 0.9691, 0.9891]
    packaged = [set(preset_rules(preset).plain_value()) - {"sentences"} for preset in PRESETS]
    assert [set(tree.get(preset).plain_value()) for preset in PRESETS] == packaged
    policies = {preset: load(None, {}, NAMES, preset).policies.policies["default"] for preset in PRESETS}
    table = list(overview(policies, pairs, [], {}))
    assert [line.partition(" |")[0] for line in table[2:]] == ["| `strict`", "| `balanced`", "| `permissive`"]
    assert table[2].endswith("| - | - |")


def placed(pairs: list[Pair], name: str) -> list[Pair]:
    """The rows, each with a place of its own."""
    return [(replace(row, place=f"{name}:{number}"), score) for number, (row, score) in enumerate(pairs)]


def test_the_bound_of_sentences_is_found_with_the_threshold_of_whole_texts() -> None:
    """The benign prompts that sentences stop count in the share; the bound costs few unsafe and no everyday prompts."""
    benign = placed(rows("user", False, [index / 1000 for index in range(1000)]), "benign")
    unsafe = placed(rows("user", True, [0.2 + index / 1000 for index in range(700)]), "unsafe")
    everyday = placed(rows("user", False, [0.1] * 100), "everyday")
    # Sentences show a tenth of the unsafe prompts from 0.9 on, and as many benign ones only below 0.8.
    highest = {row.place: 0.95 for row, _ in unsafe[:70]} | {row.place: 0.79 for row, _ in benign[:100]}
    found = chosen_fit([*benign, *unsafe], everyday, highest, 0.1, 0.0)
    assert found is not None
    assert found.policy.sentences.unsafe == 0.9  # the first bound that is no lower than the threshold
    assert stopped(benign, found.policy, highest).value <= 0.1
    assert stopped(unsafe, found.policy, highest).hits == 70
    # A bound that stops everyday prompts is not taken.
    higher = {**highest, everyday[0][0].place: 0.93}
    found = chosen_fit([*benign, *unsafe], everyday, higher, 0.1, 0.0)
    assert found is not None
    assert found.policy.sentences.unsafe == 0.94
    # Benign prompts that sentences stop are taken from what whole texts may stop.
    stopping = {**highest, **{row.place: 0.97 for row, _ in benign[:50]}}
    found = chosen_fit([*benign, *unsafe], everyday, stopping, 0.1, 0.0)
    assert found is not None
    assert stopped(benign, found.policy, stopping).value <= 0.1
    assert found.policy.user.by_category["unsafe"][0].threshold > 0.945
    # No bound that a sentence reaches is as good as none.
    found = chosen_fit([*benign, *unsafe], everyday, {benign[0][0].place: 0.5}, 0.1, 0.0)
    assert found is not None
    assert found.policy.sentences.unsafe is None


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=5), number=st.integers(0, 60), seed=st.integers(0, 99))
def test_a_sample_has_the_share_of_every_group(sizes: list[int], number: int, seed: int) -> None:
    """Each group has its exact share, rounded up or down; the draw does not depend on the order of the items."""
    groups = [[(group, item) for item in range(size)] for group, size in enumerate(sizes)]
    drawn = stratified(groups, number, seed, bytes)
    assert len(drawn) == min(number, sum(sizes)) == len(set(drawn))
    for group, size in enumerate(sizes):
        exact = min(number, sum(sizes)) * size / max(1, sum(sizes))
        assert abs(sum(item[0] == group for item in drawn) - exact) < 1
    assert drawn == stratified(groups, number, seed, bytes)
    if number < sum(sizes):
        assert drawn == stratified([group[::-1] for group in groups], number, seed, bytes)


def test_another_seed_draws_other_items() -> None:
    """Two seeds give different samples of a large group."""
    one, other = (stratified([range(200)], 20, seed, lambda item: bytes([item])) for seed in (0, 1))
    assert set(one) != set(other)


class Once:
    """A guard that judges one check unsafe, and then fails."""

    name, taxonomy = "once", Taxonomy("t", ())

    def __init__(self) -> None:
        self.asked = 0

    async def judge(self, check: Check) -> Verdict:
        """The verdict on the first check. Raises GuardUnavailable from the second on."""
        self.asked += 1
        if self.asked > 1:
            raise GuardUnavailable("is down")
        return Verdict(0.75, (Finding("harm", 0.5),), self.name)

    def forget(self, stream: str) -> None:
        """Nothing is cached."""

    async def start(self) -> None:
        """Nothing is loaded."""

    async def close(self) -> None:
        """Nothing is released."""


def test_a_measured_guard_keeps_its_verdicts_and_ends_at_a_failure(tmp_path: Path) -> None:
    """A text is judged once, also by a later measurement; a guard that fails gives no verdict."""
    guard = Once()
    check = rows("user", True, [0.5])[0][0].check
    for new in (1, 0):
        with open_score_store(tmp_path / "scores.sqlite3", "g") as store:
            stored = Stored(guard, store)
            verdicts = [asyncio.run(stored.judge(check)) for _ in range(2)]
            assert [(verdict.unsafe, verdict.findings) for verdict in verdicts] == [(0.75, (Finding("harm", 0.5),))] * 2
            assert (stored.new, stored.known) == (new, 2 - new)
            with pytest.raises(RuntimeError, match="is down"):
                asyncio.run(stored.judge(Check(check.conversation, "assistant")))
