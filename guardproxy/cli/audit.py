"""`guardproxy audit`: read, verify and erase what the audit store holds."""

import argparse
import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

from guardproxy.cli.audit_table import Table, details, local, summary
from guardproxy.errors import ConfigError, GuardproxyError

if TYPE_CHECKING:
    from guardproxy.sinks.database import AuditStore, Filter, Head, StoredRecord

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_POLL_S = 0.5

Handler = Callable[["AuditStore", argparse.Namespace], Awaitable[int]]


def moment(text: str) -> float:
    """Seconds since the epoch of `7d` (ago; also s, m, h, w) or of an ISO 8601 time, local where it names no zone."""
    ago = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if ago:
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        message = f"{text!r} is neither an age such as 2h or 7d nor a time such as 2025-01-31T12:00"
        raise argparse.ArgumentTypeError(message) from None


def head(text: str) -> "Head":
    """The number and hash of a row, as `verify` prints them."""
    from guardproxy.sinks.database import Head

    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if not found:
        raise argparse.ArgumentTypeError("a head is NUMBER:HASH as `audit verify` prints it")
    return Head(int(found[1]), found[2])


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


# --- arguments -------------------------------------------------------------------------------------------------------


def add_parser(commands: Any) -> None:
    """Add the command with its own commands."""
    parser = commands.add_parser("audit", help="read, verify and erase audit records", description=__doc__)
    own = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = _add(own, "list", _list, "the latest records, newest first")
    _filters(listing)
    listing.add_argument("-n", "--limit", type=_count, default=50, metavar="N", help="at most so many (50)")

    show = _add(own, "show", _show, "everything of a record")
    show.add_argument("id", metavar="ID", help="the number of a record, its id, or a request id")

    _filters(_add(own, "stats", _stats, "counts by side, category and route"))

    tail = _add(own, "tail", _tail, "the latest records, newest last")
    _filters(tail)
    tail.add_argument("-n", "--limit", type=_count, default=10, metavar="N", help="at most so many at first (10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with new records until interrupted")

    verify = _add(own, "verify", _verify, "whether a row was edited, removed or moved; exit status 1 if so")
    verify.add_argument(
        "--head", type=head, metavar="NUMBER:HASH", help="a head noted earlier that must still be there"
    )

    export = _add(own, "export", _export, "records as JSON lines, oldest first", as_json=False)
    _filters(export)
    export.add_argument("-o", "--output", metavar="FILE", help="a new file, instead of standard output")

    erase = _add(own, "delete", _delete, "erase the records of a request", as_json=False)
    erase.add_argument("request_id", metavar="REQUEST_ID")
    erase.add_argument("--yes", action="store_true", help="do not ask")

    prune = _add(own, "prune", _prune, "erase old records", as_json=False)
    prune.add_argument("--before", type=moment, required=True, metavar="TIME", help="an age (90d) or an ISO 8601 time")
    prune.add_argument("--yes", action="store_true", help="do not ask")


def _add(own: Any, name: str, handler: Handler, what: str, *, as_json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = own.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--data-dir", metavar="DIR", help="where the embedded store lies, as for serve")
    place.add_argument("--store", metavar="URL", help="another store: sqlite:////path or postgresql://user@host/db")
    if as_json:
        parser.add_argument("--json", action="store_true", help="JSON lines")
    parser.set_defaults(run=run, handler=handler)
    return parser


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=moment, metavar="TIME", help="an age (2h, 7d) or an ISO 8601 time")
    parser.add_argument("--until", type=moment, metavar="TIME", help="likewise; this moment is not included")
    parser.add_argument("--side", choices=("user", "assistant"))
    parser.add_argument("--action", choices=("pass", "flag", "rewrite", "block"))
    parser.add_argument("--category", metavar="NAME", help="one that reached a threshold")
    parser.add_argument("--route", metavar="NAME")
    parser.add_argument("--request-id", metavar="ID")
    parser.add_argument("--model", metavar="NAME")
    parser.add_argument("--policy", metavar="NAME")


def _chosen(args: argparse.Namespace) -> "Filter":
    from guardproxy.sinks.database import Filter

    names = ("since", "until", "side", "action", "category", "route", "request_id", "model", "policy")
    return Filter(**{name: getattr(args, name) for name in names})


# --- running ---------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; its exit status. Raises ConfigError where there is no store, GuardproxyError where it
    cannot be read."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    from guardproxy.sinks.database import AuditStore, default_store_url

    store = AuditStore(args.store or default_store_url(args.data_dir), create=False)
    handler: Handler = args.handler
    try:
        return await handler(store, args)
    except ConfigError as error:
        hint = "guardproxy serve creates it; --data-dir or --store names another"
        raise ConfigError([*error.problems, hint]) from error
    except BrokenPipeError:
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        why = getattr(error, "orig", None) or error
        raise GuardproxyError(f"the audit store at {store.place} cannot be used: {why}") from error
    finally:
        await store.close()


def _line(stored: "StoredRecord") -> str:
    from guardproxy.sinks.shared import to_dict

    return json.dumps({"seq": stored.seq, "hash": stored.hash, **to_dict(stored.record)})


def _printer(args: argparse.Namespace, found: Sequence["StoredRecord"]) -> Callable[["StoredRecord"], str]:
    """How a record is printed; the header of the table, laid out for `found`, is printed here."""
    if args.json:
        return _line
    # Without a terminal (and without COLUMNS) the wide form is the useful one.
    table = Table(shutil.get_terminal_size((120, 24)).columns, found)
    print(table.header())
    return table.row


async def _list(store: "AuditStore", args: argparse.Namespace) -> int:
    found = await store.query(_chosen(args), args.limit)
    if not found and not args.json:
        print(f"no such records in {store.place}")
        return 0
    show = _printer(args, found)
    for stored in found:
        print(show(stored))
    return 0


async def _show(store: "AuditStore", args: argparse.Namespace) -> int:
    found = await store.get(args.id)
    if not found:
        print(f"no record or request {args.id!r} in {store.place}", file=sys.stderr)
        return 1
    print("\n\n".join(details(one) for one in found) if not args.json else "\n".join(map(_line, found)))
    return 0


async def _stats(store: "AuditStore", args: argparse.Namespace) -> int:
    from dataclasses import asdict

    stats = await store.stats(_chosen(args))
    print(json.dumps(asdict(stats)) if args.json else summary(stats))
    return 0


async def _tail(store: "AuditStore", args: argparse.Namespace) -> int:
    chosen = _chosen(args)
    after = (await store.head()).seq
    found = await store.query(chosen, args.limit)
    show = _printer(args, found)
    for stored in reversed(found):
        print(show(stored))
    after = max(after, found[0].seq if found else 0)
    while args.follow:
        sys.stdout.flush()
        new = await store.tail(after, chosen)
        for stored in new:
            print(show(stored))
        after = new[-1].seq if new else after
        await asyncio.sleep(0 if new else _POLL_S)
    return 0


async def _verify(store: "AuditStore", args: argparse.Namespace) -> int:
    found = await store.verify(args.head)
    if args.json:
        problems = [{"row": problem.seq, "problem": problem.message} for problem in found.problems]
        print(json.dumps({"rows": found.rows, "erased": found.erased, "head": str(found.head), "problems": problems}))
    else:
        for problem in found.problems:
            print(problem)
        state = f"{len(found.problems)} problems" if found.problems else "no row was edited, removed or moved"
        print(f"{found.rows} rows, {found.erased} of them erased: {state}")
        print(f"head {found.head}")
    return 1 if found.problems else 0


async def _export(store: "AuditStore", args: argparse.Namespace) -> int:
    chosen = _chosen(args)
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
    """A file that was not there, and that only its owner can read."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii")
    except OSError as error:
        raise GuardproxyError(f"{path} cannot be written: {error.strerror}") from error


async def _delete(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import Filter

    count = await _held(store, Filter(request_id=args.request_id))
    if not count:
        print(f"no records of a request {args.request_id!r} in {store.place}", file=sys.stderr)
        return 1
    if not _agreed(args, f"erase {count} records of request {args.request_id} for good?"):
        return 1
    print(f"{await store.delete(args.request_id)} records erased")
    return 0


async def _prune(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import Filter

    count = await _held(store, Filter(until=args.before))
    if count and not _agreed(args, f"erase {count} records from before {local(args.before)} for good?"):
        return 1
    print(f"{await store.prune(args.before)} records erased")
    return 0


async def _held(store: "AuditStore", chosen: "Filter") -> int:
    """The number of records that match, those of shadow policies with them."""
    stats = await store.stats(chosen)
    return stats.total + sum(sum(actions.values()) for actions in stats.shadow.values())


def _agreed(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise GuardproxyError(f"{question} Say so with --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
