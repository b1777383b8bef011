"""The house: sizes of files and functions, and what importing costs."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.sources import syntax_tree

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "guardproxy").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    """A file has at most 400 lines, a function at most 50."""
    assert path.read_text().count("\n") <= 400
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


@pytest.mark.parametrize("module", ["guardproxy", "guardproxy.cli", "guardproxy.settings", "guardproxy.families"])
def test_light_imports(module: str) -> None:
    """The command line and the pure rooms load neither torch nor transformers nor starlette."""
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'starlette') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["guardproxy.app", "guardproxy.guards.local", "guardproxy.engine.scheduler"])
def test_the_composition_root_loads_no_torch(module: str) -> None:
    """Checking a configuration does not wait for torch: a guard imports it when it starts."""
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.strip() == "[]"


def test_import_contracts_hold() -> None:
    """Imports point down, only the named rooms import torch, starlette, httpx, pydantic or yaml, and no circle exists.

    The contracts are in pyproject.toml; imports in functions and under TYPE_CHECKING count.
    """
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout


def test_no_class_name_is_defined_twice() -> None:
    """A class name stands for one class in the whole package, nested and private classes included."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_weights_fit_the_package() -> None:
    """The embedded guard, with the detector of languages, is at most 95 MB: package indexes refuse larger files."""
    files = [path for path in (ROOT / "guardproxy" / "weights").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 95_000_000
