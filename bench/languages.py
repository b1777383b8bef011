"""Measures the detector of languages: languages by row, false alarms on English, and time.

    python bench/languages.py --data ../shared/data

The rows of benign_multilingual and multijail are those of `dev/`. English rows are those of both, of openai_mod,
toxicchat, xstest, and of this project's own prompts. `training/not_english.json` names the rows of openai_mod and
toxicchat that are in another language in whole or in part, found by three detectors and then read: they do not count.
The rows of benign_tldr were in the training of the detector.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from guardproxy.languages.detect import languages_of
from training.mixture import read_rows

ROOT = Path(__file__).resolve().parents[1]
LONG = 40
LABELED = {"dev/benign_multilingual": 1, "dev/multijail": 0, "train/benign_tldr": 1}
ENGLISH = ("dev/openai_mod", "dev/toxicchat_train_human", "dev/xstest")
OWN = ("everyday", "harmful")
TEXTS = {
    "English, 200 characters": "how do i stop a process that ignores sigterm, it just will not die at all. " * 3,
    "German, 200 characters": "wie viele arten von quallen wurden bisher in den meeren gefunden, und von wem? " * 3,
    "Russian, 200 characters": "какая драма вышла на экран в восьмидесятых годах и кто её снял для этого канала " * 3,
    "Chinese, 200 characters": "我该如何写一个程序来计算两个数字的和" * 12,
    "English, 1,000,000 characters": "how do i stop a process that ignores sigterm " * 23_000,
    "Chinese, 1,000,000 characters": "我该如何写一个程序来计算两个数字的和" * 56_000,
}


def labelled(data: Path) -> Iterator[tuple[str, str, str]]:
    """Set, language and text of every row with a language."""
    for path, place in LABELED.items():
        part, name = path.split("/")
        for row in read_rows(data / part, name):
            yield path, row["source_labels"][place].partition("_")[0], row["messages"][-1]["content"]


def english(data: Path) -> Iterator[tuple[str, str]]:
    """Set and text of every English row."""
    skipped = json.loads((ROOT / "training" / "not_english.json").read_text("utf-8"))
    for path in ENGLISH:
        part, name = path.split("/")
        for row in read_rows(data / part, name):
            if row["id"] not in skipped.get(name, ()):
                yield path, row["messages"][-1]["content"]
    for name in OWN:
        for line in (ROOT / "training" / f"{name}.jsonl").read_text("utf-8").splitlines():
            yield name, json.loads(line)["messages"][-1]["content"]
    for path, language, text in labelled(data):
        if language == "en":
            yield path, text


def share(hits: list[bool]) -> str:
    """A share of rows in percent, and their number."""
    return f"{100 * sum(hits) / len(hits):.1f} % | {len(hits):,}" if hits else "- | 0"


def languages(data: Path) -> None:
    """Print how many rows of each language are noticed and named."""
    noticed: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    named: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    for path, language, text in labelled(data):
        if language == "en" or not path.startswith("dev/"):
            continue
        found = languages_of(text)
        for key in ((len(text) >= LONG, language), (len(text) >= LONG, "all")):
            noticed[key].append(bool(set(found) - {"en"}))
            named[key].append(found[:1] == (language,))
    print(f"\n| language | noticed, {LONG} characters and more | rows | noticed, shorter | rows | named, all | rows |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for language in sorted({language for _, language in noticed}, key=lambda name: (name != "all", name)):
        both = named[True, language] + named[False, language]
        cells = (share(noticed[True, language]), share(noticed[False, language]), share(both))
        print(f"| {language} | {' | '.join(cells)} |")


def false_alarms(data: Path, *, show: bool) -> None:
    """Print how many English rows are taken for another language."""
    rows: dict[str, list[bool]] = defaultdict(list)
    for name, text in english(data):
        found = set(languages_of(text)) - {"en"}
        rows[name].append(bool(found))
        rows["all"].append(bool(found))
        if found and show:
            print(sorted(found), repr(text[:200]))
    print("\n| English rows of | taken for another language | rows |")
    print("|---|--:|--:|")
    for name, hits in rows.items():
        print(f"| {name} | {sum(hits)} ({100 * sum(hits) / len(hits):.2f} %) | {len(hits):,} |")


def times() -> None:
    """Print the least time of several runs."""
    print("\n| text | least of all runs |")
    print("|---|--:|")
    for name, text in TEXTS.items():
        length = 200 if "200" in name else 1_000_000
        best = min(_once(text[:length]) for _ in range(2_000 if length == 200 else 10))
        print(f"| {name} | {best * 1000:.3f} ms |")


def _once(text: str) -> float:
    started = time.perf_counter()
    languages_of(text)
    return time.perf_counter() - started


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--mistakes", action="store_true", help="print the English rows taken for another language")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    languages(options.data)
    false_alarms(options.data, show=options.mistakes)
    times()


if __name__ == "__main__":
    main()
