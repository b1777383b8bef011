"""The mutation tool: which changes it makes, and how it counts them."""

import time
from pathlib import Path

import pytest

from mutation import equivalents
from mutation.equivalents import Equivalent
from mutation.modules import TESTS, expand
from mutation.mutants import mutants
from mutation.trial import copies

ROOT = Path(__file__).parent.parent

CHANGES = [
    ("x = a < b", {"x = a <= b", "x = a >= b"}),
    ("x = a not in b", {"x = a in b"}),
    ("x = a is not b", {"x = a is b"}),
    ("x = a == b or c", {"x = a != b or c", "x = a == b and c"}),
    ("x = not a", {"x = (a)"}),
    ("x = b if a else c", {"x = b if (not (a)) else c"}),
    ("x = 3", {"x = 4", "x = 2"}),
    ("x = True", {"x = False"}),
    ("x = 'a'", {'x = ""'}),
    ("x = 'é' < a", {'x = "" < a', "x = 'é' <= a", "x = 'é' >= a"}),
    ("x = a - b", {"x = a + b"}),
    ("x = a[:b]", {"x = a[:(b) + 1]"}),
    ("x = any(a)", {"x = all(a)"}),
    ("x = min(a, b)", {"x = max(a, b)"}),
    ("x = sorted(a)", {"x = (a)"}),
    ("x = a.strip()", {"x = a"}),
    ("x = f(a, b)", {"x = f(b, a)"}),
    ("f(a)", {"pass"}),
    ("a.b = c", {"pass"}),
    ("a += b", {"pass", "a -= b"}),
    ("raise Error('text')", {"pass"}),
    ("x = [a for a in b if a]", {"x = [a for a in b if (not (a))]", "x = [a for a in b if True]"}),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_changes(before: str, after: set[str]) -> None:
    """A statement has exactly these mutants, wherever it stands."""
    for indent, head in (("", ""), ("    ", "def function():\n")):
        found = mutants(f"{head}{indent}{before}\n")
        assert {mutant.after for mutant in found} == after
        assert {mutant.before for mutant in found} == {before}
        assert {mutant.source for mutant in found} == {f"{head}{indent}{text}\n" for text in after}


@pytest.mark.parametrize(
    "source",
    ['"""Text."""', "import a", "x: int", "def f(a: 'A' = b) -> 'C': ...", "@f(1)\nclass A: ...", "X = Literal['a']"],
)
def test_what_is_left_alone(source: str) -> None:
    """Docstrings, imports, annotations, decorators and type aliases have no mutant."""
    assert mutants(source) == []


def test_modules_and_tests_exist() -> None:
    """Every module of the table exists, and so do its tests."""
    for place, tests in TESTS.items():
        assert (ROOT / "guardproxy" / place).exists()
        assert [test for test in tests if not (ROOT / test).exists()] == []
    assert [module for module, _ in expand(ROOT, ["guardproxy/policy.py"])] == ["policy.py"]
    with pytest.raises(LookupError, match=r"cli\.py"):
        expand(ROOT, ["cli.py"])


def test_equivalents_are_found_by_their_text() -> None:
    """A listed mutant is not tried; an entry that matches no mutant is reported."""
    listed = [Equivalent("m.py", "x = 3", "x = 4", "?"), Equivalent("m.py", "x = 5", "x = 6", "?")]
    tried, equivalent, stale = equivalents.split("m.py", mutants("\n\nx = 3\n"), listed)
    assert [mutant.after for mutant in tried] == ["x = 2"]
    assert [mutant.after for mutant in equivalent] == ["x = 4"]
    assert stale == listed[1:]
    assert all(entry.why for entry in equivalents.load())


def test_a_change_that_no_test_notices_survives() -> None:
    """A mutant is killed by a failure or by time; the same source survives; the copies go."""
    tests = ("tests/test_registry.py",)
    with copies(1) as trial:
        (lane,) = trial.lanes
        trial.baseline(tests)
        source = trial.source("registry.py")
        failing, endless = f"{source}\nraise ValueError\n", f"{source}\nwhile True:\n    pass\n"
        assert trial.survivors("registry.py", [failing, source], tests, 60) == [1]
        assert trial.survivors("registry.py", [endless], tests, 2) == []
        began = time.monotonic()
        hanging = source.replace(
            "def load(", "def load(*_: object) -> None:\n    while True:\n        pass\n\n\ndef _load("
        )
        assert hanging != source
        assert trial.survivors("registry.py", [hanging], tests, 600) == []
        assert time.monotonic() - began < 300
        assert trial.source("registry.py") == source
    assert not lane.exists()
