"""The house: sizes of files and functions, and what importing costs."""

import ast
import subprocess
import sys
from collections.abc import Mapping
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


@pytest.mark.parametrize("module", ["guardproxy.app", "guardproxy.guards.local", "guardproxy.engine.scheduler"])
def test_the_composition_root_loads_no_torch(module: str) -> None:
    """Checking a configuration does not wait for torch: a guard imports it when it starts."""
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def module_name(path: Path) -> str:
    """The dotted name of a source file; a package's is that of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str, known: frozenset[str]) -> set[str]:
    """The modules among `known` that a source imports, in functions and under TYPE_CHECKING too.

    `from package import name` is an import of the submodule if there is one, else of the package itself.
    """
    out: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not resolved here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            out |= {name if name in known else str(node.module) for name in names}
    return out & known


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of two or more modules that import each other, directly or through others."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            new = graph[stack.pop()] - seen
            seen |= new
            stack += new
        return seen

    reach = {name: reachable(name) for name in graph}
    out: list[set[str]] = []
    for name in graph:
        circle = {other for other in reach[name] if name in reach[other]}
        if len(circle) > 1 and circle not in out:
            out.append(circle)
    return out


def package_circles() -> list[set[str]]:
    """The import circles of guardproxy."""
    known = frozenset(map(module_name, SOURCES))
    return circles({module_name(path): imports_of(path.read_text(), known) - {module_name(path)} for path in SOURCES})


@pytest.mark.parametrize("room", ["engine", "guards", "demo"])
def test_no_module_imports_itself_through_others(room: str) -> None:
    """No import circle passes through a room, not even one that is hidden in a function or under TYPE_CHECKING."""
    prefix = f"guardproxy.{room}."
    found = [circle for circle in package_circles() if any(f"{name}.".startswith(prefix) for name in circle)]
    assert found == []


def test_circles_are_found() -> None:
    """A hidden import closes a circle; a chain, and an import of an unknown module, do not."""
    known = frozenset({"p", "p.a", "p.b", "p.c"})
    hidden = "def f():\n    from p import a\n"
    assert imports_of(hidden, known) == {"p.a"}
    assert imports_of("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import X\n", known) == {"p.b"}
    assert imports_of("from p import X\nimport p.c\nimport os\n", known) == {"p", "p.c"}
    assert circles({"p": set(), "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}}) == [{"p.a", "p.b", "p.c"}]
    assert circles({"p": {"p.a"}, "p.a": {"p.b"}, "p.b": set(), "p.c": {"p.b"}}) == []


def test_weights_fit_the_package() -> None:
    """The embedded guard is at most 50 MB."""
    files = [path for path in (ROOT / "guardproxy" / "weights").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 50_000_000
