"""`guardproxy audit`: read, verify and erase the records of the audit store."""

import argparse
import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

from guardproxy.cli.audit_table import Table, details, local, summary
from guardproxy.errors import ConfigError, GuardproxyError

if TYPE_CHECKING:
    from guardproxy.sinks.database import AuditStore, Filter, Head, StoredRecord

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_POLL_S = 0.5
# The options of `add_filters`, and the fields of `Filter`.
FILTERS = ("since", "until", "side", "action", "category", "route", "request_id", "model", "policy")

Handler = Callable[["AuditStore", argparse.Namespace], Awaitable[int]]


def moment(text: str) -> float:
    """Seconds since the epoch of an age (`7d`; also s, m, h, w) or an ISO 8601 time, local if it has no zone."""
    age = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if age:
        return time.time() - int(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        message = f"{text!r} is neither an age such as 2h or 7d nor a time such as 2025-01-31T12:00"
        raise argparse.ArgumentTypeError(message) from None


def head(text: str) -> "Head":
    """Parse NUMBER:HASH, the number and hash of a row."""
    from guardproxy.sinks.database import Head

    parts = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} is not a head: copy NUMBER:HASH from the output of `audit verify`")
    return Head(int(parts[1]), parts[2])


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


# --- arguments -------------------------------------------------------------------------------------------------------


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "audit",
        help="read, verify and erase audit records",
        description="Read, verify and erase the records of the audit store.",
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = _add(subcommands, "list", _list, "list the latest records, newest first")
    add_filters(listing)
    listing.add_argument(
        "-n", "--limit", type=whole_number, default=50, metavar="N", help="list at most N records (50)"
    )

    show = _add(subcommands, "show", _show, "show all fields of a record, or of all records of a request")
    show.add_argument("id", metavar="ID", help="the number of a record, its id, or a request id")

    add_filters(_add(subcommands, "stats", _stats, "count records by side, category and route"))

    tail = _add(subcommands, "tail", _tail, "print the latest records, newest last")
    add_filters(tail)
    tail.add_argument(
        "-n", "--limit", type=whole_number, default=10, metavar="N", help="start with at most N records (10)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="keep printing new records until interrupted")

    verify = _add(subcommands, "verify", _verify, "check that no row was edited, removed or moved; else exit status 1")
    verify.add_argument(
        "--head", type=head, metavar="NUMBER:HASH", help="the head from an earlier run, which must still exist"
    )

    export = _add(subcommands, "export", _export, "export records as JSON lines, oldest first", as_json=False)
    add_filters(export)
    export.add_argument("-o", "--output", metavar="FILE", help="write to this new file instead of standard output")

    erase = _add(subcommands, "delete", _delete, "erase the records of a request", as_json=False)
    erase.add_argument("request_id", metavar="REQUEST_ID")
    erase.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    prune = _add(subcommands, "prune", _prune, "erase old records", as_json=False)
    prune.add_argument(
        "--before", type=moment, required=True, metavar="TIME", help="erase records older than an age (90d) or a time"
    )
    prune.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _add(
    subcommands: Any, name: str, handler: Handler, summary: str, *, as_json: bool = True
) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=summary, description=description)
    add_store(parser)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.set_defaults(run=run, handler=handler)
    return parser


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the store."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--data-dir", metavar="DIR", help="the folder of the embedded store, as for serve")
    place.add_argument("--store", metavar="URL", help="another store: sqlite:////path or postgresql://user@host/db")


def add_filters(parser: argparse.ArgumentParser, *, policy: str = "--policy") -> None:
    """Add the options that select records; `policy` is the one for the policy's name."""
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="from this time on: an age (2h, 7d) or an ISO 8601 time"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="before this time")
    parser.add_argument("--side", choices=("user", "assistant"))
    parser.add_argument("--action", choices=("pass", "flag", "rewrite", "block"))
    parser.add_argument("--category", metavar="NAME", help="a category that reached a threshold")
    parser.add_argument("--route", metavar="NAME")
    parser.add_argument("--request-id", metavar="ID")
    parser.add_argument("--model", metavar="NAME")
    parser.add_argument(policy, dest="policy", metavar="NAME", help="the policy that decided")


def filter_of(args: argparse.Namespace) -> "Filter":
    """The records that the options of `add_filters` select."""
    from guardproxy.sinks.database import Filter

    return Filter(**{name: getattr(args, name) for name in FILTERS})


# --- running ---------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return its exit status.

    Raises ConfigError if there is no store, GuardproxyError if it cannot be read.
    """
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    handler: Handler = args.handler
    async with opened_store(args) as store:
        return await handler(store, args)


@asynccontextmanager
async def opened_store(args: argparse.Namespace) -> "AsyncIterator[AuditStore]":
    """The store that `add_store` names. Raises ConfigError if there is none, GuardproxyError if it cannot be read."""
    from sqlalchemy.exc import SQLAlchemyError

    from guardproxy.sinks.database import AuditStore, default_store_url

    store = AuditStore(args.store or default_store_url(args.data_dir), create=False)
    try:
        yield store
    except ConfigError as error:
        hint = "`guardproxy serve` creates the store; --data-dir or --store names another store"
        raise ConfigError([*error.problems, hint]) from error
    except BrokenPipeError:
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise GuardproxyError(f"the audit store at {store.place} cannot be used: {reason}") from error
    finally:
        await store.close()


def _line(stored: "StoredRecord") -> str:
    from guardproxy.sinks.shared import to_dict

    return json.dumps({"seq": stored.seq, "hash": stored.hash, **to_dict(stored.record)})


def _start_output(args: argparse.Namespace, records: Sequence["StoredRecord"]) -> Callable[["StoredRecord"], str]:
    """Print the header of a table laid out for `records`; return the function that formats a record."""
    if args.json:
        return _line
    # Without a terminal and without COLUMNS (in a pipe), the wide table is more useful than 80 columns.
    table = Table(shutil.get_terminal_size((120, 24)).columns, records)
    print(table.header())
    return table.row


async def _list(store: "AuditStore", args: argparse.Namespace) -> int:
    records = await store.query(filter_of(args), args.limit)
    if not records and not args.json:
        print(f"no matching records in {store.place}")
        return 0
    render = _start_output(args, records)
    for stored in records:
        print(render(stored))
    return 0


async def _show(store: "AuditStore", args: argparse.Namespace) -> int:
    records = await store.get(args.id)
    if not records:
        print(f"no record or request {args.id!r} in {store.place}", file=sys.stderr)
        return 1
    print("\n\n".join(map(details, records)) if not args.json else "\n".join(map(_line, records)))
    return 0


async def _stats(store: "AuditStore", args: argparse.Namespace) -> int:
    from dataclasses import asdict

    stats = await store.stats(filter_of(args))
    print(json.dumps(asdict(stats)) if args.json else summary(stats))
    return 0


async def _tail(store: "AuditStore", args: argparse.Namespace) -> int:
    chosen = filter_of(args)
    # The head is read first: a record that is written in between comes with `tail` if the query missed it.
    after = (await store.head()).seq
    latest = await store.query(chosen, args.limit)
    render = _start_output(args, latest)
    for stored in reversed(latest):
        print(render(stored))
    after = max(after, latest[0].seq if latest else 0)
    while args.follow:
        sys.stdout.flush()
        new = await store.tail(after, chosen)
        for stored in new:
            print(render(stored))
        after = new[-1].seq if new else after
        await asyncio.sleep(0 if new else _POLL_S)
    return 0


async def _verify(store: "AuditStore", args: argparse.Namespace) -> int:
    result = await store.verify(args.head)
    if args.json:
        problems = [{"row": problem.seq, "problem": problem.message} for problem in result.problems]
        print(
            json.dumps({"rows": result.rows, "erased": result.erased, "head": str(result.head), "problems": problems})
        )
    else:
        for problem in result.problems:
            print(problem)
        state = f"{len(result.problems)} problems" if result.problems else "no row was edited, removed or moved"
        print(f"{result.rows} rows, {result.erased} of them erased: {state}")
        print(f"head {result.head}")
    return 1 if result.problems else 0


async def _export(store: "AuditStore", args: argparse.Namespace) -> int:
    chosen = filter_of(args)
    if args.output is None:
        async for stored in store.scan(chosen):
            print(_line(stored))
        return 0
    count = 0
    with _new_file(args.output) as file:
        async for stored in store.scan(chosen):
            file.write(_line(stored) + "\n")
            count += 1
    print(f"{count} records in {args.output}")
    return 0


def _new_file(path: str) -> IO[str]:
    """Create a file that only its owner can read. Raises GuardproxyError if it exists or cannot be created."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii")
    except OSError as error:
        raise GuardproxyError(f"{path}: cannot be created: {error.strerror}; name another file") from error


async def _delete(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import Filter

    count = await _count_matching(store, Filter(request_id=args.request_id))
    if not count:
        print(f"no records of a request {args.request_id!r} in {store.place}", file=sys.stderr)
        return 1
    if not _confirmed(args, f"erase {count} records of request {args.request_id} for good?"):
        return 1
    print(f"{await store.delete(args.request_id)} records erased")
    return 0


async def _prune(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import Filter

    count = await _count_matching(store, Filter(until=args.before))
    if count and not _confirmed(args, f"erase {count} records from before {local(args.before)} for good?"):
        return 1
    print(f"{await store.prune(args.before)} records erased")
    return 0


async def _count_matching(store: "AuditStore", chosen: "Filter") -> int:
    """The number of matching records, including records of shadow policies."""
    stats = await store.stats(chosen)
    return stats.total + sum(sum(actions.values()) for actions in stats.shadow.values())


def _confirmed(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise GuardproxyError(f"{question} Confirm with --yes: there is no terminal to ask on.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
