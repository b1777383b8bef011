"""The house: sizes of files and functions, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "guardproxy").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    """A file has at most 400 lines, a function at most 50."""
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


@pytest.mark.parametrize("module", ["guardproxy", "guardproxy.cli", "guardproxy.settings", "guardproxy.families"])
def test_light_imports(module: str) -> None:
    """The command line and the pure rooms load neither torch nor transformers nor starlette."""
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'starlette') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_composition_root_loads_no_torch() -> None:
    """Checking a configuration does not wait for torch."""
    code = "import sys, guardproxy.app; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_weights_fit_the_package() -> None:
    """The embedded guard is at most 50 MB."""
    files = [path for path in (ROOT / "guardproxy" / "weights").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 50_000_000
