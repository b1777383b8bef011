"""Measured tables are written between their own marks, and the rest of the page stays."""

from pathlib import Path

import pytest

from bench.pages import fill

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
