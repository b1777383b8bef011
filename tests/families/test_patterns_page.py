"""docs/patterns.md: its configuration finds what its table says, and it names every format of credentials."""

import re
from pathlib import Path

from guardproxy.app import catalogue
from guardproxy.app.finders import open_finder
from guardproxy.families.patterns.secrets import FORMATS
from guardproxy.settings import load_text
from tests.families.test_patterns import found

PAGE = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text()


def test_the_example_finds_what_the_table_says() -> None:
    """Every row: the category of the first match and its text, or none."""
    example, *_ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    settings = load_text(example, "patterns.md", {}, catalogue())
    family = open_finder(settings.members["house"].guard)
    rows = re.findall(r"^\| `([^`]*)` \| (?:`(\w+)`|none) \| (?:`([^`]*)` )?\|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for text, category, match in rows:
        hits = family.hits(text)
        assert [(hit.category, text[slice(*hit.span)]) for hit in hits[:1]] == ([(category, match)] if category else [])


def test_every_format_is_on_the_page() -> None:
    """The list of formats is complete."""
    (listed,) = re.findall(r"The formats of `secrets`: (.*?)\. They", PAGE, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == list(FORMATS)


def test_what_the_page_says_of_words() -> None:
    """Its examples of spellings."""
    assert found("STRASSE", words=("straße",))
    assert found("falcon\nnine", words=("falcon nine",))
