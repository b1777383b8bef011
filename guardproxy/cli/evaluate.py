"""`guardproxy evaluate`: measure guards on labelled data."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audited import AUDIT, add_audit, audited_scores, check_audit, rate
from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.evaluation.datasets import LabelledRow
    from guardproxy.evaluation.scoring import ScoredRows, ScoreStore
    from guardproxy.settings import Settings

# The time limit of a check whose verdict, not speed, is measured: other programs may slow the machine down.
UNHURRIED_S = 3600.0

PLOT_HELP = "draw precision-recall and reliability curves as .png, .svg or .pdf"

DATA = """
Data: .jsonl or .csv files, also with .gz. Formats: guardproxy's own rows ({"messages": [...], "unsafe": 1, "labels":
{"violence_hate": 1}}), OpenAI's samples-1680.jsonl.gz, ToxicChat's CSV, and any CSV with a column text, and optionally
id, side (user or assistant), prompt (the message before the text), unsafe, and categories. Labels are 1 or 0; a missing
label is unknown, and its row does not count for the measures that need it.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure guards on labelled data",
        description="Measure guards on labelled data: AUPRC (average precision), ROC-AUC, F1, precision, recall and "
        "false-positive rate at the threshold, recall at 1 % and 5 % false positives and the expected calibration "
        "error, each with a 95 % bootstrap interval; overall, by side, by category; and the cost of a row. Scores are "
        "stored: an interrupted run continues where it stopped.",
        epilog=DATA,
    )
    add_inputs(parser)
    parser.add_argument(
        "--threshold", type=rate, default=0.5, metavar="P", help="P(unsafe) that counts as unsafe (default 0.5)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, keyed by guard")
    form.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=PLOT_HELP)
    parser.add_argument(
        "--mistakes",
        action="store_true",
        help="also list the benign rows that the default policy stops and the unsafe rows that it does not stop",
    )
    parser.set_defaults(run=run)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that evaluate and calibrate share: data, guards, and the folder of the scores."""
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA", help="files of labelled data")
    parser.add_argument(
        "--guard",
        action="append",
        metavar="NAME",
        help="`embedded`, or a configuration file whose guard to use; may be repeated (default: the guard of --config)",
    )
    parser.add_argument("--config", metavar="FILE", help="guard and policies (default: the built-in configuration)")
    parser.add_argument(
        "--columns",
        type=_columns,
        default={},
        metavar="OURS=THEIRS,...",
        help="column names of a CSV file, such as text=comment,unsafe=is_toxic",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="read only the first N rows of each file")
    parser.add_argument(
        "--views",
        action="store_true",
        help="judge the views of the default policy with each text, as the proxy does (default: the text alone)",
    )
    parser.add_argument("--fresh", action="store_true", help="judge every row again, ignoring stored scores")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="the folder of stored scores, of embedded-multilingual and of the audit store"
    )
    add_audit(parser)


def run(args: argparse.Namespace) -> int:
    """Print the measures; return 1 if a row got no verdict. Raises ConfigError, GuardUnavailable."""
    from guardproxy.evaluation.report import mistakes, report
    from guardproxy.evaluation.tables import tables

    guards = guard_settings(args)
    scored = with_calibration(score_all(args, guards), guards)
    if args.plot is not None:
        draw(scored, args.plot)
    measured = {
        name: report(scored[name], settings.policies.policies["default"], args.threshold)
        for name, settings in guards.items()
    }
    if args.mistakes:
        for name, settings in guards.items():
            measured[name]["mistakes"] = mistakes(scored[name], settings.policies.policies["default"])
    print(json.dumps(measured) if args.json else tables(measured, markdown=args.markdown))
    return report_failures(scored.values())


def guard_settings(args: argparse.Namespace) -> "dict[str, Settings]":
    """The configuration of each guard, by the guard's name in the results. Raises ConfigError."""
    out: dict[str, Settings] = {}
    for guard in args.guard or [None]:
        name, settings = _name_and_settings(guard, args.config)
        if guard is None and args.from_audit:
            name = AUDIT
        if name in out:
            raise ConfigError(f"--guard: two guards are named {name}; give their files different names")
        out[name] = settings
    return out


def score_all(
    args: argparse.Namespace, guards: "Mapping[str, Settings]", *, labels: bool = True
) -> "dict[str, ScoredRows]":
    """Score every row with every guard, without calibration.

    Rows from the audit have the scores of their records, unless a guard is named. Raises ConfigError for unreadable
    data or a guard that cannot be loaded, and without `labels` for records whose guard answered with a label.
    """
    check_audit(args)
    if args.from_audit:
        settings = None if args.config is None else next(iter(guards.values()))
        audited, whole = audited_scores(args, settings, labels=labels or bool(args.guard))
        if not args.guard:
            return {AUDIT: audited}
        rows = [row for row in audited.rows if row.id in whole]
        if len(rows) < len(audited.rows):
            left_out = len(audited.rows) - len(rows)
            print(f"{left_out} labelled records are left out: their text is masked or not stored", file=sys.stderr)
    else:
        rows = read_rows(args)
    return {name: score_by(name, settings, rows, args) for name, settings in guards.items()}


def with_calibration(scored: "Mapping[str, ScoredRows]", guards: "Mapping[str, Settings]") -> "dict[str, ScoredRows]":
    """The rows with the probabilities that each guard's thresholds are compared with."""
    from guardproxy.calibration import UNCALIBRATED
    from guardproxy.evaluation.scoring import calibrated

    return {name: calibrated(rows, guards[name].guard.calibration or UNCALIBRATED) for name, rows in scored.items()}


def report_failures(runs: "Iterable[ScoredRows]") -> int:
    """Print the first rows without a verdict to standard error; return the exit status, 1 if there are any."""
    failures = [failure for scored in runs for failure in scored.failures]
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    if failures:
        print(f"{len(failures)} rows got no verdict and are left out of every measure", file=sys.stderr)
    return 1 if failures else 0


def read_rows(args: argparse.Namespace) -> "list[LabelledRow]":
    """The rows of every file. Raises ConfigError with every mistake."""
    from guardproxy.evaluation.datasets import read

    if not args.data:
        raise ConfigError("no data: name files, or read the audit store with --from-audit")
    rows: list[LabelledRow] = []
    names: set[str] = set()
    problems: list[str] = []
    for path in args.data:
        try:
            dataset = read(path, args.columns, args.limit)
        except ConfigError as error:
            problems += error.problems
            continue
        if dataset.name in names:
            problems.append(f"{path}: another file is named {dataset.name} too; give it another name")
        names.add(dataset.name)
        rows += dataset.rows
        if dataset.unread:
            print(f"{path}: columns that are not read: {', '.join(dataset.unread)}", file=sys.stderr)
    if problems:
        raise ConfigError(problems)
    return rows


def _name_and_settings(guard: str | None, config: str | None) -> "tuple[str, Settings]":
    """The name of a guard in the results, and its configuration. Raises ConfigError.

    A guard without a file of its own takes the rest of its configuration, such as policies, from `config`.
    """
    from dataclasses import replace

    from guardproxy import app, families
    from guardproxy.settings import GuardSettings, load

    if guard is not None and Path(guard).suffix in (".yaml", ".yml"):
        return Path(guard).stem, load(guard, os.environ, app.catalogue(), without_secrets=True)
    base = load(config, os.environ, app.catalogue(), without_secrets=True)
    if guard is None:
        return ("embedded" if config is None else Path(config).stem), base
    if guard in ("embedded", "classifier"):
        own = GuardSettings()
        if replace(base.guard, calibration=None) == own:
            own = base.guard
        return guard, replace(base, guard=own, taxonomy=None, members={})
    if guard in families.REGISTRY:
        need = "the key of its service" if guard in families.SERVICES else "a model"
        raise ConfigError(f"--guard {guard}: this family needs {need}; name a configuration file that has it")
    raise ConfigError(f"--guard {guard}: unknown guard; name `embedded`, or a configuration file ending in .yaml")


def _identity(settings: "Settings", data_dir: str | None) -> str:
    """Everything that scores depend on: guardproxy's version, the guard's settings and categories, its model files."""
    from dataclasses import replace

    from guardproxy import __version__, app

    models = [settings.guard.model, *(member.guard.model for member in settings.members.values())]
    # Scores are stored as the guard gives them: another calibration needs no check.
    described = (__version__, replace(settings.guard, calibration=None), settings.taxonomy, settings.members)
    return repr((*described, [_stamps(app.location(model, data_dir)) for model in models]))


def _stamps(model: str) -> list[tuple[str, int, int]]:
    """Name, size and modification time of each file of a local model except its model card; empty for a hub model."""
    from importlib.resources import as_file, files

    from guardproxy.settings import EMBEDDED, EMBEDDED_PARTS

    with as_file(files("guardproxy") / "weights" / "embedded") as shipped:
        location = shipped if model in (EMBEDDED, *EMBEDDED_PARTS) else Path(model)
        paths = sorted(location.rglob("*")) if location.is_dir() else [location] if location.is_file() else []
        return [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in paths
            if path.is_file() and path.suffix != ".md"
        ]


def patient(settings: "Settings") -> "Settings":
    """The settings with time limits of UNHURRIED_S for every guard."""
    from dataclasses import replace

    from guardproxy.settings import GuardSettings

    def unhurried(guard: GuardSettings) -> GuardSettings:
        return replace(guard, timeout_s=UNHURRIED_S, max_wait_s=UNHURRIED_S)

    members = {name: replace(member, guard=unhurried(member.guard)) for name, member in settings.members.items()}
    return replace(settings, guard=unhurried(settings.guard), members=members)


def score_by(name: str, settings: "Settings", rows: "Sequence[LabelledRow]", args: argparse.Namespace) -> "ScoredRows":
    """Score the rows with a guard; show a progress bar on a terminal."""
    import asyncio

    from tqdm import tqdm

    from guardproxy import app
    from guardproxy.evaluation.scoring import score

    guard = app.guard(patient(settings), args.data_dir)
    views = settings.policies.policies["default"].views if args.views else ()
    with open_scores(settings, args.data_dir, views) as store:
        if args.fresh:
            store.clear()
        with tqdm(total=len(rows), desc=name, unit="row", disable=None) as bar:
            return asyncio.run(score(rows, guard, store, bar.update, views))


@contextmanager
def open_scores(settings: "Settings", data_dir: str | None, views: Sequence[str] = ()) -> "Iterator[ScoreStore]":
    """The stored scores of the guard of the settings on texts with these views. Raises ConfigError if unusable."""
    from guardproxy.evaluation.scoring import open_score_store
    from guardproxy.sinks.database import data_folder

    path = data_folder(data_dir) / "scores.sqlite3"
    with open_score_store(path, repr((_identity(settings, data_dir), views))) as store:
        yield store


def draw(scored: "dict[str, ScoredRows]", path: Path) -> None:
    """Draw the curves. Raises ConfigError without Matplotlib, or if the file cannot be written."""
    try:
        from guardproxy.evaluation.plots import plot
    except ModuleNotFoundError as error:
        raise ConfigError(f"--plot needs {error.name}; install it: pip install 'guardproxy[eval]'") from error
    plot(scored, path)


def _columns(text: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs) or ours in out:
            raise argparse.ArgumentTypeError(f"must be OURS=THEIRS,... with every name once, not {text!r}")
        out[ours] = theirs
    return out


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
