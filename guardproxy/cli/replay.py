"""`guardproxy replay`: what another policy would have decided about the turns in the audit store."""

import argparse
import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit import add_store, opened_store, whole_number
from guardproxy.cli.audit_filters import add_filters
from guardproxy.cli.audited import sample_rate, stored_turns
from guardproxy.cli.evaluate import report_failures, score_by
from guardproxy.cli.replay_report import as_dict, summary
from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.replay import ReplayReport, StoredTurn
    from guardproxy.reviews import LabelKind
    from guardproxy.settings import Settings
    from guardproxy.sinks.database import AuditStore

_DESCRIPTION = (
    "Decide again about the turns in the audit store under the policies of another configuration file, from stored "
    "probabilities and without a model, and compare with the stored decisions. Policies and routes of the file matter; "
    "its mistakes are reported as by `guardproxy validate`."
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "replay", help="decide again about audited turns under another policy", description=_DESCRIPTION
    )
    parser.add_argument(
        "--policy", dest="file", required=True, metavar="FILE", help="the configuration file with the new policies"
    )
    add_filters(parser, policy="old-policy")
    parser.add_argument(
        "-n", dest="rows", type=whole_number, default=10, metavar="ROWS", help="list so many turns of each change (10)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--sample-rate",
        type=sample_rate,
        metavar="X",
        help="the share of requests in the random sample, if only passed turns of the sample count: each stands for "
        "1/X turns",
    )
    parser.add_argument(
        "--rescore",
        nargs="?",
        const="",
        metavar="GUARD",
        help="judge the stored texts again instead: with the guard of FILE, or with this one of the guards that it "
        "combines",
    )
    add_store(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the comparison; return 1 if a text got no verdict from --rescore.

    Raises ConfigError for mistakes in the file or without a store, GuardproxyError if the store cannot be read.
    """
    from guardproxy import app
    from guardproxy.settings import load

    settings = load(args.file, os.environ, app.catalogue(), without_secrets=True)
    if args.rescore is None:
        return asyncio.run(_replay(settings, args))
    return _rescored(settings, args)


async def _replay(settings: "Settings", args: argparse.Namespace) -> int:
    from guardproxy.replay import Replay

    policies = settings.policies
    floor = min(policy.floor for policy in policies.policies.values())
    async with opened_store(args) as store:
        replay = Replay(policies, await _labels(store), sampled=args.sample_rate is not None, rows=args.rows)
        async for turn, _ in stored_turns(store, args, texts=False, floor=floor):
            replay.add(turn)
        report = replay.report()
        await _add_texts(store, report)
        erased = await store.erased()
    _print(report, settings, args, {"erased": erased})
    return 0


async def _labels(store: "AuditStore") -> "dict[str, list[LabelKind]]":
    """The kinds of the labels in force, by the id of the record."""
    return {name: [label.kind for label in given] for name, given in (await store.labels()).items()}


async def _add_texts(store: "AuditStore", report: "ReplayReport") -> None:
    """Read the texts of the listed turns: to read those of all takes longer."""
    for rows in report.rows.values():
        for at, row in enumerate(rows):
            # The record may have been erased since its scores were read.
            texts = [stored.record.text for stored in await store.get(str(row.turn.number))]
            rows[at] = replace(row, turn=row.turn._replace(text="".join(texts)))


def _print(report: "ReplayReport", settings: "Settings", args: argparse.Namespace, notes: Mapping[str, int]) -> None:
    weight = 1.0 / args.sample_rate if args.sample_rate else 1.0
    if args.json:
        print(json.dumps(as_dict(report, settings.version, weight, notes)))
    else:
        print(summary(report, f"{settings.name}, version {settings.version}", weight, notes, _width()))


def _width() -> int:
    # Without a terminal and without COLUMNS (in a pipe), a wide table is more useful than 80 columns.
    return shutil.get_terminal_size((120, 24)).columns


# --- judging again ---------------------------------------------------------------------------------------------------


def _rescored(settings: "Settings", args: argparse.Namespace) -> int:
    """Judge every text that is stored as it was judged, and replay the new verdicts."""
    from guardproxy.evaluation.audited import labelled_row
    from guardproxy.replay import Replay

    chosen = _with_guard(settings, args.rescore)
    turns, asked, labels, notes = asyncio.run(_with_texts(args))
    rows = [labelled_row(turn, (), "audit", asked.get(turn.id, "")) for turn in turns]
    args.views, args.fresh = True, False
    scored = score_by(args.rescore or settings.name, chosen, rows, args)
    replay = Replay(chosen.policies, labels, sampled=args.sample_rate is not None, rows=args.rows)
    for turn, score in zip(turns, scored.scores, strict=True):
        if score is not None:
            scored_again = frozenset(score.categories)
            replay.add(turn._replace(verdict=score.verdict(args.rescore), scored=scored_again, failed=False))
    _print(replay.report(), settings, args, {**notes, "no_verdict": len(scored.failures)})
    return report_failures([scored])


async def _with_texts(
    args: argparse.Namespace,
) -> "tuple[list[StoredTurn], dict[str, str], dict[str, list[LabelKind]], dict[str, int]]":
    """The turns whose text is stored as it was judged; for each reply the user's text; labels; and the others."""
    turns: list[StoredTurn] = []
    asked: dict[str, str] = {}
    last: dict[str, str] = {}
    without = 0
    async with opened_store(args) as store:
        async for turn, data in stored_turns(store, args):
            if not turn.shadow and not turn.whole:
                without += 1
                continue
            request = data["origin"]["request_id"]
            if turn.side == "user":
                last[request] = turn.text
            else:
                asked[turn.id] = last.get(request, "")
            turns.append(turn)
        labels, erased = await _labels(store), await store.erased()
    return turns, asked, labels, {"erased": erased, "no_text": without}


def _with_guard(settings: "Settings", name: str) -> "Settings":
    """The settings with the named member as their guard; unchanged without a name."""
    if not name:
        return settings
    if name not in settings.members:
        known = ", ".join(settings.members) or "none, it has a single guard"
        raise ConfigError(f"--rescore: {settings.name} combines no guard {name!r}; it combines: {known}")
    return settings.alone(name)
