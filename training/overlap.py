"""Runs of words that the evaluation files share with texts of the training, or with labelled rows.

    python -m training.overlap --data ../shared/data

prints every shared run with both places; the exit status is then 1. A guard that has learnt a text, or nearly that
text, would get a better score on these files than on texts of its users.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
EVALUATION = tuple(FOLDER / f"{name}.jsonl" for name in ("everyday", "harmful", "multiturn"))

# Words in a run: at six, a shared run is a borrowed phrase; shorter runs are shared by chance.
RUN = 6

_WORD = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"['\u2019]")

Placed = tuple[str, str]  # a place, and its text


def runs(text: str) -> set[str]:
    """Every run of RUN words in lower case, without apostrophes and other punctuation; a shorter text is one run."""
    words = _WORD.findall(_APOSTROPHE.sub("", text.lower()))
    return {" ".join(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))} - {""}


def row_texts(file: Path) -> Iterator[Placed]:
    """Every text of a .jsonl or .jsonl.gz file, whatever its fields are."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            for text in _strings(json.loads(line)):
                yield f"{file.name}:{number}", text


def _strings(value: Any) -> Iterator[str]:
    """Every string of several words in a JSON value, which leaves out names such as those of categories and styles."""
    if isinstance(value, str):
        if " " in value.strip():
            yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def module_texts(file: Path) -> Iterator[Placed]:
    """Every string of a Python module, docstrings included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield f"{file.name}:{node.lineno}", node.value


def training_texts() -> Iterator[Placed]:
    """Every text in this folder that may reach a training example."""
    for module in sorted(FOLDER.glob("*.py")):
        yield from module_texts(module)
    for file in sorted(set(FOLDER.glob("*.jsonl")) - set(EVALUATION)):
        yield from row_texts(file)


def labelled_texts(data: Path) -> Iterator[Placed]:
    """Every text of the labelled rows in `data`, in train/ and dev/. Raises FileNotFoundError."""
    files = sorted(data.glob("*/*.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"{data}: no */*.jsonl.gz; point --data at the folder that holds train/ and dev/")
    for file in files:
        yield from row_texts(file)


def shared(evaluation: Iterable[Placed], others: Iterable[Placed]) -> list[tuple[str, str, str]]:
    """(Run, place in `evaluation`, place in `others`) for every run that both have."""
    known = {run: place for place, text in evaluation for run in runs(text)}
    return [(run, known[run], place) for place, text in others for run in sorted(runs(text) & known.keys())]


def main(argv: list[str] | None = None) -> int:
    """Print the shared runs and their number; return 1 if there are any."""
    parser = argparse.ArgumentParser(description="Find runs of words that the evaluation files share with other texts.")
    parser.add_argument(
        "--data", type=Path, help="the folder with train/ and dev/; without it, only this folder's texts"
    )
    args = parser.parse_args(argv)
    evaluation = [placed for file in EVALUATION for placed in row_texts(file)]
    found = shared(evaluation, training_texts())
    if args.data is not None:
        found += shared(evaluation, labelled_texts(args.data))
    for run, place, other in found:
        print(f"{place}: '{run}' is also in {other}")
    print(f"{len(found)} runs of {RUN} words are shared")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
