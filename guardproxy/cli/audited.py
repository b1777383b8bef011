"""What the commands on labelled data read from the audit: the store, or files of `audit export`."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit import opened_store, say_unmatched
from guardproxy.cli.audit_filters import FILTERS, add_filters, filter_of
from guardproxy.cli.audit_labels import KINDS
from guardproxy.errors import ConfigError
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.evaluation.audited import RecordLabel
    from guardproxy.evaluation.scoring import ScoredRows
    from guardproxy.replay import StoredTurn
    from guardproxy.settings import Settings
    from guardproxy.sinks.database import ReviewStore
    from guardproxy.types import Verdict

# The name of the stored scores in the results.
AUDIT = "audit"

_OTHERS = {
    "unlabelled": "without a label",
    "disputed": "whose reviewers disagree",
    "unscored": "without a verdict",
    "excluded": "that an exclusion covers",
    "outside": "of passed turns outside of the random sample",
}

Stored = tuple["StoredTurn", Mapping[str, Any]]
# Turns, and the labels in force of records by their ids.
Labelled = tuple["Sequence[StoredTurn]", "Mapping[str, Sequence[RecordLabel]]"]


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Add the options that read labelled records instead of other data."""
    group = parser.add_argument_group(
        "audit records", "Labelled records as data; with --guard, only those whose text is stored as it was judged."
    )
    group.add_argument(
        "--from-audit",
        action="store_true",
        help="DATA are files of `audit export` that hold labels; without DATA, read the audit store",
    )
    group.add_argument(
        "--sample-rate",
        type=sample_rate,
        metavar="X",
        help="the share of requests in the random sample, if only passed turns of the sample were recorded or count",
    )
    group.add_argument("--store", metavar="URL", help="another store: sqlite:////path or postgresql://user@host/db")
    add_filters(parser)


def check_audit(args: argparse.Namespace) -> None:
    """Check that every option of `add_audit` has an effect. Raises ConfigError."""
    names = [name for name in ("store", *FILTERS) if getattr(args, name) is not None]
    options = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in names))
    if names and args.from_audit and args.data:
        raise ConfigError(f"{options}: select records of the store, not of files; use them with `audit export`")
    if not args.from_audit and (names or args.sample_rate is not None):
        raise ConfigError(f"{options or '--sample-rate'}: needs --from-audit")


def rate(text: str) -> float:
    """A number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def sample_rate(text: str) -> float:
    """A number greater than 0 and at most 1."""
    value = rate(text)
    if not value:
        raise argparse.ArgumentTypeError(f"must be greater than 0, not {text!r}")
    return value


async def stored_turns(
    store: "ReviewStore", args: argparse.Namespace, *, texts: bool = True, floor: float = 0.0
) -> AsyncIterator[Stored]:
    """The turns that the filters select, each with the fields of its record.

    `texts` as for `AuditStore.contents`, `floor` as for `replay.stored_turn`.
    """
    from guardproxy.replay import stored_turn

    chosen = filter_of(args)
    await say_unmatched(store, chosen)
    async for number, data in store.contents(chosen, texts=texts):
        yield stored_turn(number, data, floor), data


def audited_scores(
    args: argparse.Namespace, settings: "Settings | None", *, labels: bool
) -> "tuple[ScoredRows, set[str]]":
    """The labelled records with their stored scores, and the ids of those whose text is stored as it was judged.

    Scores are those of one guard: that of the `settings`, without these that of the newest record. The other records
    are counted on standard error. Raises ConfigError if no record has a label, and without `labels` if a guard answered
    with labels instead of probabilities.
    """
    from guardproxy.evaluation.audited import audited_rows

    turns, given = _exported(args) if args.data else asyncio.run(_from_store(args))
    if not args.guard:
        turns = _of_one_guard(turns, settings)
    said = [turn.number for turn in turns if turn.verdict is not None and _has_label(turn.verdict)]
    if said and not labels:
        raise ConfigError(
            f"{len(said):,} records, such as {said[0]}, hold labels of a guard that gives no probability: there is "
            "nothing to calibrate"
        )
    if args.config is None and not args.guard and any(turn.calibrated for turn in turns):
        raise ConfigError(
            "the guard of these records is calibrated; name its configuration with --config, so that probabilities and "
            "thresholds are those that it compares"
        )
    audited = audited_rows(turns, given, AUDIT, args.sample_rate)
    for name, number in audited.others.items():
        if number:
            print(f"{number:,} records {_OTHERS[name]} are no rows", file=sys.stderr)
    if not audited.scored.rows:
        raise ConfigError(f"no label of {len(turns):,} records can be used; label some with `guardproxy audit label`")
    return audited.scored, {turn.id for turn in turns if turn.whole}


def _has_label(verdict: "Verdict") -> bool:
    return "label" in (verdict.kind, *(finding.kind for finding in verdict.findings))


def _of_one_guard(turns: "Sequence[StoredTurn]", settings: "Settings | None") -> "Sequence[StoredTurn]":
    """The turns that one guard judged; those without a verdict stay. Raises ConfigError if all are of others."""
    from guardproxy import app

    judged = [(turn.time, turn.verdict.guard) for turn in turns if turn.verdict is not None]
    if not judged:
        return turns
    name = max(judged)[1] if settings is None else app.guard_name(settings)
    others = Counter(guard for _, guard in judged if guard != name)
    if not others:
        return turns
    named = printable(", ".join(f"{guard} ({number:,})" for guard, number in others.most_common()))
    if len(judged) == others.total():
        raise ConfigError(
            f"no record is of the guard {name} of the configuration; there are records of {named}: name their "
            "configuration with --config, or judge the stored texts again with --guard"
        )
    print(
        f"{others.total():,} records of other guards than {printable(name)} are left out: {named}; "
        "--config names the guard, --guard judges the stored texts again",
        file=sys.stderr,
    )
    return [turn for turn in turns if turn.verdict is None or turn.verdict.guard == name]


async def _from_store(args: argparse.Namespace) -> "Labelled":
    from guardproxy.evaluation.audited import RecordLabel

    async with opened_store(args) as store:
        turns = [turn async for turn, _ in stored_turns(store, args)]
        labels = await store.labels()
    given = {name: [RecordLabel(label.kind, label.category) for label in own] for name, own in labels.items()}
    return turns, given


def _exported(args: argparse.Namespace) -> "Labelled":
    """The records of every file. Raises ConfigError with the place of the first line that is none."""
    from guardproxy.evaluation.datasets import EXPORTED_CSV
    from guardproxy.replay import stored_turn
    from guardproxy.sinks.database import SHEET_HEAD

    turns: list[StoredTurn] = []
    labels: dict[str, Sequence[RecordLabel]] = {}
    for path in args.data:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        if path.suffix == ".csv" or (lines and lines[0].removeprefix("\ufeff").startswith(",".join(SHEET_HEAD[:3]))):
            raise ConfigError(f"{path}: cannot be used; {EXPORTED_CSV}")
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
                turn = stored_turn(data["seq"], data)
                labels[turn.id] = _labels(turn, data)
                turns.append(turn)
            except (ValueError, KeyError, TypeError) as error:
                message = f"is not a line of `guardproxy audit export`: {type(error).__name__}: {error}"
                raise ConfigError(f"{path}:{number}: {message}") from error
    return turns, labels


def _labels(turn: "StoredTurn", data: Mapping[str, Any]) -> "Sequence[RecordLabel]":
    """The labels of a record: objects with `kind` and `category`. Raises ConfigError for an unknown kind."""
    from guardproxy.evaluation.audited import RecordLabel

    labels = [RecordLabel(label["kind"], label.get("category", "")) for label in data.get("labels", ())]
    for label in labels:
        if label.kind not in KINDS:
            raise ConfigError(f"record {turn.number}: unknown label {label.kind!r}; known: {', '.join(KINDS)}")
    return labels
