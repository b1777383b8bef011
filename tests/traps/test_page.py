"""The page that lists the traps names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.sources import syntax_tree

ROOT = Path(__file__).parents[2]
LINES = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "traps.md").read_text(), re.MULTILINE)


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The names of the test functions of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in syntax_tree(path).body if isinstance(node, kinds))


def test_every_failure_is_listed_once() -> None:
    """There are 51 lines, numbered in order, each with another trap."""
    assert [int(number) for number, _, _ in LINES] == list(range(1, 52))
    assert len({tried for _, tried, _ in LINES}) == 51


@pytest.mark.parametrize(("tried", "named"), [line[1:] for line in LINES], ids=[line[1] for line in LINES])
def test_its_tests_exist(tried: str, named: str) -> None:
    """Each line names tests by file and function, and these tests exist."""
    found = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", named)
    assert found, tried
    assert [f"{path}::{name}" for path, name in found if name not in defined_in(ROOT / path)] == []
