"""The package: what `make` installs and what the wheel carries."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(("target", "tools"), [("serve", False), ("test", True)])
def test_serving_installs_no_development_tools(target: str, tools: bool, tmp_path: Path) -> None:
    """In a fresh clone `make serve` installs the package and the demo; `make test` adds the development group."""
    command = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"]
    steps = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "install -e '.[demo]'" in steps
    assert ("--group dev" in steps) is tools


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
