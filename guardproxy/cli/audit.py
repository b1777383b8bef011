"""`guardproxy audit`: read, verify and erase the records of the audit store."""

import argparse
import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from guardproxy.cli import audit_erase, audit_exclusions, audit_labels, audit_opinion, audit_policies
from guardproxy.cli.audit_filters import add_filters, filter_of
from guardproxy.cli.audit_show import details
from guardproxy.cli.audit_table import Table, counts_table, summary
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.plaintext import csv_line

if TYPE_CHECKING:
    from guardproxy.sinks.database import Filter, Head, ReviewStore, StoredRecord

_POLL_S = 0.5
# As in `sinks.database.COUNT_BY`, which is slow to import.
_COUNT_BY = (
    *("client", "user", "session", "category", "policy", "route", "model", "side", "action", "hour", "day", "label"),
    "reviewer",
)

Handler = Callable[["ReviewStore", argparse.Namespace], Awaitable[int]]


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
    show.add_argument(
        "--conversation", action="store_true", help="show all records of its request and of its session, in their order"
    )

    stats = _add(subcommands, "stats", _stats, "count records by side, category and route, or by what --by names")
    add_filters(stats)
    stats.add_argument("--by", choices=_COUNT_BY, help="count by action for every value of this")
    stats.add_argument(
        "-n", "--limit", type=whole_number, default=50, metavar="N", help="with --by: at most N lines (50)"
    )

    _add_others(subcommands)


def _add_others(subcommands: Any) -> None:
    tail = _add(subcommands, "tail", _tail, "print the latest records, newest last")
    add_filters(tail)
    tail.add_argument(
        "-n", "--limit", type=whole_number, default=10, metavar="N", help="start with at most N records (10)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="keep printing new records until interrupted")

    verify = _add(
        subcommands,
        "verify",
        _verify,
        "check that no row was edited, removed or moved; else exit status 1",
        secrets=audit_labels.WRITES,
    )
    verify.add_argument(
        "--head", type=head, metavar="NUMBER:HASH", help="the head from an earlier run, which must still exist"
    )

    export = _add(subcommands, "export", _export, "export records as JSON lines or CSV, oldest first", as_json=False)
    add_filters(export)
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="JSON lines (default) or CSV")
    export.add_argument("-o", "--output", metavar="FILE", help="write to this new file instead of standard output")

    audit_erase.add_parser(subcommands, _add)
    audit_labels.add_parsers(subcommands, _add)
    audit_exclusions.add_parsers(subcommands, _add)
    audit_opinion.add_parser(subcommands, _add)
    audit_policies.add_parser(subcommands, _add, whole_number)
    _add(
        subcommands,
        "rekey",
        _rekey,
        "encrypt all texts with the first of the given keys",
        as_json=False,
        secrets=("encrypt",),
    )
    _add(subcommands, "migrate", _migrate, "bring a store of an older version to this one", as_json=False)


def _add(
    subcommands: Any,
    name: str,
    handler: Handler,
    summary: str,
    *,
    as_json: bool = True,
    secrets: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a subcommand. `secrets` are the keys of the section `audit` that it cannot do without."""
    description = summary[0].upper() + summary[1:] + "."
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=summary, description=description)
    add_store(parser)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.set_defaults(run=run, handler=handler, secrets=secrets)
    return parser


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the store and its keys."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--data-dir", metavar="DIR", help="the folder of the embedded store, as for serve")
    place.add_argument("--store", metavar="URL", help="another store: sqlite:////path or postgresql://user@host/db")
    parser.add_argument("--config", metavar="FILE", help="the configuration, which names the store and its keys")


# --- running ---------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return its exit status.

    Raises ConfigError if there is no store, GuardproxyError if it cannot be read.
    """
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    handler: Handler = args.handler
    async with opened_store(args, args.secrets) as store:
        return await handler(store, args)


@asynccontextmanager
async def opened_store(args: argparse.Namespace, secrets: Sequence[str] = ()) -> "AsyncIterator[ReviewStore]":
    """Open the store that the options of `add_store` name, with its keys. `secrets` are those that must be set.

    Raises ConfigError if there is none, if one of these is not set, or if a filter cannot be used, GuardproxyError if
    the store cannot be read.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from guardproxy.sinks.database import FilterError

    store, unset = _open(args, secrets)
    try:
        yield store
    except ConfigError as error:
        if not error.problems[0].startswith("there is no audit store"):
            raise ConfigError([*error.problems, *unset]) from error
        hint = "`guardproxy serve` creates the store; --data-dir or --store names another store"
        raise ConfigError([*error.problems, hint]) from error
    except FilterError as error:
        raise ConfigError(f"--{error}") from error
    except BrokenPipeError:
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise GuardproxyError(f"the audit store at {store.place} cannot be used: {reason}") from error
    finally:
        await store.close()


def _open(args: argparse.Namespace, secrets: Sequence[str]) -> "tuple[ReviewStore, list[str]]":
    """Open the store that the arguments name, with the keys of the configuration or of the environment.

    Also return a message for each key of the store whose variable is not set. Raises ConfigError if `secrets` has it.
    """
    from guardproxy.sinks.database import ReviewStore, StoreKeys, default_store_url

    address = args.store or (args.data_dir and default_store_url(args.data_dir))
    if args.config:
        from guardproxy import app
        from guardproxy.settings import load

        settings = load(args.config, os.environ, app.catalogue(), without_secrets=True)
        for secret in secrets:
            settings.require("audit", secret)
        store = ReviewStore(address or app.store_address(settings, None), create=False, keys=app.store_keys(settings))
        return store, [message for path, message in settings.unset.items() if path[0] == "audit"]
    # Several keys have a comma between them.
    encrypt = tuple(filter(None, os.environ.get("GUARDPROXY_AUDIT_KEY", "").split(",")))
    keys = StoreKeys(os.environ.get("GUARDPROXY_AUDIT_CHAIN_KEY") or None, encrypt)
    return ReviewStore(address or default_store_url(), create=False, keys=keys), []


def _line(stored: "StoredRecord") -> str:
    from guardproxy.sinks.shared import label_dict, to_dict

    labels = [label_dict(label) for label in stored.labels]
    return json.dumps({"seq": stored.seq, "hash": stored.hash, **to_dict(stored.record), "labels": labels})


def _start_output(args: argparse.Namespace, records: Sequence["StoredRecord"]) -> Callable[["StoredRecord"], str]:
    """Print the header of a table laid out for `records`; return the function that formats a record."""
    if args.json:
        return _line
    # Without a terminal and without COLUMNS (in a pipe), the wide table is more useful than 80 columns.
    table = Table(shutil.get_terminal_size((160, 24)).columns, records)
    print(table.header())
    return table.row


async def _list(store: "ReviewStore", args: argparse.Namespace) -> int:
    chosen = filter_of(args).acting()
    records = await store.query(chosen, args.limit)
    if not records:
        await say_unmatched(store, chosen)
        if not args.shadow and await store.page(replace(chosen, shadow="only"), limit=1):
            print("only decisions of shadow policies match: --shadow with lists them", file=sys.stderr)
    if not records and not args.json:
        print(f"no matching records in {store.place}")
        return 0
    render = _start_output(args, records)
    for stored in records:
        print(render(stored))
    return 0


async def say_unmatched(store: "ReviewStore", chosen: "Filter") -> None:
    """Say on standard error which names of the filter no record has."""
    for sentence in await store.unmatched(chosen):
        print(sentence, file=sys.stderr)


async def _show(store: "ReviewStore", args: argparse.Namespace) -> int:
    records = await (store.conversation if args.conversation else store.get)(args.id)
    if not records:
        print(f"no record or request {args.id!r} in {store.place}", file=sys.stderr)
        return 1
    ids = [stored.record.id for stored in records]
    opinions = await store.opinions(ids)
    if args.json:
        from guardproxy.sinks.shared import opinion_dict

        for stored in records:
            about = [opinion_dict(one) for one in opinions.get(stored.record.id, ())]
            print(json.dumps({**json.loads(_line(stored)), "opinions": about}))
        return 0
    history = await store.label_history(ids)
    shown = [details(one, history.get(one.record.id, ()), opinions.get(one.record.id, ())) for one in records]
    print("\n\n".join(shown))
    return 0


async def _stats(store: "ReviewStore", args: argparse.Namespace) -> int:
    from dataclasses import asdict

    chosen = filter_of(args)
    await say_unmatched(store, chosen)
    if args.by:
        counts = await store.counts(args.by, chosen)
        print(json.dumps(counts) if args.json else counts_table(args.by, counts, args.limit))
        return 0
    stats = await store.stats(chosen)
    print(json.dumps(asdict(stats)) if args.json else summary(stats))
    return 0


async def _migrate(store: "ReviewStore", args: argparse.Namespace) -> int:
    before = await store.version()
    after = await store.migrate()
    print(f"{store.place} has version {after}{'' if before == after else f'; it had version {before}'}")
    return 0


async def _rekey(store: "ReviewStore", args: argparse.Namespace) -> int:
    print(f"the texts of {await store.rekey():,} records are encrypted with the first key")
    return 0


async def _tail(store: "ReviewStore", args: argparse.Namespace) -> int:
    chosen = filter_of(args).acting()
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


async def _verify(store: "ReviewStore", args: argparse.Namespace) -> int:
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


async def _export(store: "ReviewStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import SHEET_HEAD, sheet_row

    chosen = filter_of(args)
    await say_unmatched(store, chosen)
    is_csv = args.format == "csv"
    lines = _exported(store, chosen, (lambda stored: csv_line(sheet_row(stored))) if is_csv else _line)
    header = [csv_line(SHEET_HEAD)] if is_csv else []
    if args.output is None:
        for line in header:
            print(line)
        async for line in lines:
            print(line)
        return 0
    count = 0
    with _new_file(args.output) as file:
        file.writelines(f"{line}\n" for line in header)
        async for line in lines:
            file.write(line + "\n")
            count += 1
    print(f"{count} records in {args.output}")
    return 0


async def _exported(
    store: "ReviewStore", chosen: "Filter", render: Callable[["StoredRecord"], str]
) -> AsyncIterator[str]:
    async for stored in store.scan(chosen):
        yield render(stored)


def _new_file(path: str) -> IO[str]:
    """Create a file that only its owner can read. Raises GuardproxyError if it exists or cannot be created."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise GuardproxyError(f"{path}: cannot be created: {error.strerror}; name another file") from error
