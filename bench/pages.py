"""What the pages with measured tables share: the marks between which a table stands, and the machine."""

import platform
import sys
from pathlib import Path


def fill(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`. Ends the program without both."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{path}: has no {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def machine() -> str:
    """The processor that this runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
