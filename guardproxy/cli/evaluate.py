"""`guardproxy evaluate`: what guards are worth, measured on labelled data."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.evaluation.datasets import Row
    from guardproxy.evaluation.scoring import Scored
    from guardproxy.settings import Settings

DATA = """
Data: files in .jsonl or .csv, also .gz. Catalogue are guardproxy's own rows ({"messages": [...], "unsafe": 1,
"labels": {"violence_hate": 1}}), OpenAI's samples-1680.jsonl.gz, ToxicChat's CSV, and any CSV whose columns are named
text, and as they are there id, side (user or assistant), prompt (what was said before), unsafe, and categories. Labels
are 1 or 0; one that is missing is unknown, and its row is left out where it would be needed.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure guards on labelled data",
        description="Measure guards on labelled data: AUPRC (average precision), ROC-AUC, F1, precision, recall and "
        "false-positive rate at the threshold, recall at 1 % and 5 % false positives and the expected calibration "
        "error, each with a 95 % bootstrap interval; overall, by side, by category, and what a row costs. Scores are "
        "kept, so that a run that was broken off goes on where it stood.",
        epilog=DATA,
    )
    add_inputs(parser)
    parser.add_argument("--threshold", type=rate, default=0.5, metavar="P", help="unsafe from here on (default 0.5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object, by guard")
    form.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write both curves to this .png, .svg or .pdf")
    parser.set_defaults(run=run)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """What evaluate and calibrate share: data, guards, and where scores are kept."""
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="labelled data")
    parser.add_argument(
        "--guard",
        action="append",
        metavar="NAME",
        help="`embedded`, or a configuration file whose guard is taken; may be given several times. Without it, the "
        "guard of --config",
    )
    parser.add_argument("--config", metavar="FILE", help="guard and policies; without it, the built-in ones")
    parser.add_argument(
        "--columns",
        type=_columns,
        default={},
        metavar="OURS=THEIRS,...",
        help="columns of a CSV file, such as text=comment,unsafe=is_toxic",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N rows of each file")
    parser.add_argument(
        "--views",
        action="store_true",
        help="judge the views of the default policy with each text, as the proxy does; without it the text alone",
    )
    parser.add_argument("--fresh", action="store_true", help="judge every row anew, also those whose score is known")
    parser.add_argument("--data-dir", metavar="DIR", help="where scores are kept")


def run(args: argparse.Namespace) -> int:
    """Print the measures; 1 where a row got no verdict. Raises ConfigError, GuardUnavailable."""
    from guardproxy.evaluation.report import report
    from guardproxy.evaluation.tables import tables

    guards = opened(args)
    found = scored(args, guards)
    if args.plot is not None:
        _plot(found, args.plot)
    measured = {
        name: report(found[name], settings.policies.policies["default"], args.threshold)
        for name, settings in guards.items()
    }
    print(json.dumps(measured) if args.json else tables(measured, markdown=args.markdown))
    return tell_failures(found.values())


def opened(args: argparse.Namespace) -> "dict[str, Settings]":
    """The configuration of each guard, by its name in the results. Raises ConfigError."""
    out: dict[str, Settings] = {}
    for given in args.guard or [None]:
        name, settings = _opened(given, args.config)
        if name in out:
            raise ConfigError(f"two of the guards are named {name}: give their files different names")
        out[name] = settings
    return out


def scored(args: argparse.Namespace, guards: "Mapping[str, Settings]") -> "dict[str, Scored]":
    """Every row's score by every guard. Raises ConfigError for data and guards that cannot be had."""
    rows = _rows(args)
    return {name: _scored_by(name, settings, rows, args) for name, settings in guards.items()}


def tell_failures(found: "Iterable[Scored]") -> int:
    """The exit status: 1 where rows are without a verdict, the first of which are told."""
    failures = [failure for one in found for failure in one.failures]
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    if failures:
        print(f"{len(failures)} rows got no verdict and are left out of every measure", file=sys.stderr)
    return 1 if failures else 0


def rate(text: str) -> float:
    """A number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def _rows(args: argparse.Namespace) -> "list[Row]":
    from guardproxy.evaluation.datasets import read

    rows: list[Row] = []
    names: set[str] = set()
    problems: list[str] = []
    for path in args.data:
        try:
            found = read(path, args.columns, args.limit)
        except ConfigError as error:
            problems += error.problems
            continue
        if found.name in names:
            problems.append(f"{path}: a file named {found.name} is there already; give it another name")
        names.add(found.name)
        rows += found.rows
        if found.unread:
            print(f"{path}: columns that are not read: {', '.join(found.unread)}", file=sys.stderr)
    if problems:
        raise ConfigError(problems)
    return rows


def _opened(given: str | None, config: str | None) -> "tuple[str, Settings]":
    """The name of a guard in the results, and its configuration. Raises ConfigError.

    A guard that is no file of its own has the rest of its configuration, such as policies, from `config`.
    """
    from dataclasses import replace

    from guardproxy import app, families
    from guardproxy.settings import GuardSettings, load

    if given is not None and Path(given).suffix in (".yaml", ".yml"):
        return Path(given).stem, load(given, os.environ, app.catalogue())
    base = load(config, os.environ, app.catalogue())
    if given is None:
        return ("embedded" if config is None else Path(config).stem), base
    if given in ("embedded", "classifier"):
        return given, replace(base, guard=GuardSettings(), taxonomy=None, members={})
    if given in families.REGISTRY:
        what = "the key of its service" if given in families.SERVICES else "a model"
        raise ConfigError(f"{given}: this family needs {what}: name a configuration file whose guard says which")
    raise ConfigError(f"{given}: no guard of that name, and no file that ends in .yaml; `embedded` is built in")


def _identity(settings: "Settings") -> str:
    """What scores depend on: guardproxy, the guard's settings, its categories, and the size and age of its files."""
    from guardproxy import __version__

    models = [settings.guard.model, *(member.guard.model for member in settings.members.values())]
    described = (__version__, settings.guard, settings.taxonomy, settings.members)
    return repr((*described, [_stamps(model) for model in models]))


def _stamps(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file of a model on this machine but its card; none of one from a hub."""
    from importlib.resources import as_file, files

    with as_file(files("guardproxy") / "weights" / "embedded") as shipped:
        place = shipped if model == "embedded" else Path(model)
        held = sorted(place.rglob("*")) if place.is_dir() else [place] if place.is_file() else []
        return [
            (one.name, one.stat().st_size, one.stat().st_mtime_ns)
            for one in held
            if one.is_file() and one.suffix != ".md"
        ]


def _scored_by(name: str, settings: "Settings", rows: "Sequence[Row]", args: argparse.Namespace) -> "Scored":
    """The rows scored by the guard, with a progress bar on the terminal."""
    import asyncio

    from tqdm import tqdm

    from guardproxy import app
    from guardproxy.evaluation.scoring import open_store, score

    guard = app.guard(settings)
    views = settings.policies.policies["default"].views if args.views else ()
    with open_store(_store_path(args.data_dir), repr((_identity(settings), views))) as store:
        if args.fresh:
            store.clear()
        with tqdm(total=len(rows), desc=name, unit="row", disable=None) as bar:
            return asyncio.run(score(rows, guard, store, bar.update, views))


def _store_path(data_dir: str | None) -> Path:
    from guardproxy.sinks.database import data_folder

    return data_folder(data_dir) / "scores.sqlite3"


def _plot(found: "dict[str, Scored]", path: Path) -> None:
    try:
        from guardproxy.evaluation.plots import plot
    except ModuleNotFoundError as error:
        raise ConfigError(f"--plot needs {error.name}: pip install 'guardproxy[eval]'") from error
    plot(found, path)


def _columns(text: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs) or ours in out:
            raise argparse.ArgumentTypeError(f"must be OURS=THEIRS,... with each name once, not {text!r}")
        out[ours] = theirs
    return out


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)
