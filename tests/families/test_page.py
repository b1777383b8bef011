"""docs/families.md lists every family, category and label, and its example family works."""

import re
from pathlib import Path
from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable
from guardproxy.families import REGISTRY, llama_guard, openai_moderation
from guardproxy.ports import Family, Reading
from guardproxy.registry import load
from tests.families.kit import NEEDED, ask, judged

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text()


def test_every_family_and_stock_category_is_on_the_page() -> None:
    """The tables are complete."""
    words = set(re.findall(r"`([\w/-]+)`", PAGE))
    opened: list[Family] = [load(name, REGISTRY, "family")(**NEEDED.get(name, {})) for name in REGISTRY]
    opened.append(llama_guard.open_family(version="4"))
    assert set(REGISTRY) <= words
    assert {category.id for family in opened for category in family.taxonomy.categories} - {"unsafe"} <= words
    assert set(openai_moderation.OMNI) <= words


def test_the_family_on_the_page_works() -> None:
    """The example family renders and parses as the page says."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(block, "families.md", "exec"), space)
    family: Family = space["open_family"]()
    asked = ask("You are a fool.")
    (prompt,) = family.render(asked)
    assert judged(prompt) == "You are a fool."
    assert family.parse(asked, [Reading((0.7, 0.3))], "g").unsafe == 0.7
    with pytest.raises(GuardUnavailable):
        family.parse(asked, [], "g")
