"""Helpers for pages with measured tables: replace the text between two marks, and name the machine."""

import platform
import sys
from pathlib import Path


def fill(path: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->`; exit if either mark is missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        sys.exit(f"{path}: has no {begin} and {end}; add both marks")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def machine() -> str:
    """The number and name of this machine's processor cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
