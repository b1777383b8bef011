"""`guardproxy audit exclude`, `unexclude` and `exclusions`: texts that people have found to be harmless."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit_labels import WRITES, one_record
from guardproxy.cli.audit_table import local
from guardproxy.durations import duration_s
from guardproxy.errors import GuardproxyError
from guardproxy.plaintext import printable
from guardproxy.reviews import EXCLUDED_FOR, Exclusion

if TYPE_CHECKING:
    from guardproxy.sinks.database import AuditStore, StoredRecord


def add_parsers(subcommands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    exclude = add(
        subcommands,
        "exclude",
        _exclude,
        "let what the guard finds in the text of a record not count",
        as_json=False,
        secrets=WRITES,
    )
    exclude.add_argument("id", metavar="ID", help="the number or id of a record")
    exclude.add_argument(
        "--category",
        default="",
        metavar="NAME",
        help="whose findings do not count: a category, `unsafe`, or * for everything; default: an exclusion for each "
        "that reached a threshold",
    )
    exclude.add_argument("--reason", required=True, metavar="TEXT", help="why the text is harmless")
    exclude.add_argument("--by", required=True, metavar="NAME", help="who says so")
    exclude.add_argument(
        "--until",
        default=EXCLUDED_FOR,
        type=_end,
        metavar="TIME",
        help=f"when it ends: in {EXCLUDED_FOR} (default), or an ISO 8601 date or time",
    )
    exclude.add_argument(
        "--text-file", metavar="FILE", help="the exact text, for a record whose text is masked or not stored"
    )

    unexclude = add(subcommands, "unexclude", _unexclude, "end an exclusion now", as_json=False, secrets=WRITES)
    unexclude.add_argument("id", metavar="ID", help="the id of the exclusion")
    unexclude.add_argument("--by", required=True, metavar="NAME", help="who ends it")

    listing = add(subcommands, "exclusions", _exclusions, "list the exclusions of the store that are in force")
    listing.add_argument("--ended", action="store_true", help="list those that have ended, too")


def _end(text: str) -> float:
    """Seconds since the epoch of a time to come: a duration from now on, or what `parse_moment` reads."""
    from guardproxy.sinks.database import parse_moment

    now = time.time()
    try:
        end = now + duration_s(text)
    except ValueError:
        try:
            end = parse_moment(text)
        except ValueError:
            message = f"{text!r} is no time: write a duration such as 30d, or a date such as 2030-12-31"
            raise argparse.ArgumentTypeError(message) from None
    if end <= now:
        raise argparse.ArgumentTypeError(f"{text!r} is in the past")
    return end


async def _exclude(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.observe.masking import mask_credentials
    from guardproxy.sinks.database import excluded_categories, new_exclusion_id

    stored = await one_record(store, args.id)
    text, reason, now = _hash_of(stored, args.text_file), mask_credentials(args.reason), time.time()
    try:
        categories = excluded_categories(stored.record, args.category)
    except ValueError as error:
        raise GuardproxyError(f"record {stored.seq} {error}") from error
    made = [
        Exclusion(new_exclusion_id(), text, category, reason, args.by, args.until, now, stored.record.id)
        for category in categories
    ]
    await _store(store, made)
    for one in made:
        about = f"exclusion {one.id} for {printable(one.category)} holds until {local(one.until)}"
        print(f"{about}; `audit unexclude {one.id}` ends it")
    return 0


def _hash_of(stored: "StoredRecord", path: str | None) -> str:
    """The SHA-256 of the text in the file; without one, that of the judged text of the record."""
    from guardproxy.observe.masking import text_hash
    from guardproxy.sinks.database import judged_hash

    if path:
        return text_hash(_read(path))
    try:
        return judged_hash(stored.record)
    except ValueError as error:
        raise GuardproxyError(f"record {stored.seq}: {error}: give the exact text with --text-file") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise GuardproxyError(f"{path}: cannot be read as UTF-8: {error}; name a file with the exact text") from error


async def _unexclude(store: "AuditStore", args: argparse.Namespace) -> int:
    now = time.time()
    found = [one for one in await store.exclusions(now) if one.id == args.id]
    if not found:
        raise GuardproxyError(f"no exclusion {args.id!r} is in force in {store.place}; `audit exclusions` lists them")
    await _store(store, [replace(found[0], by=args.by, until=now, time=now)])
    print(f"exclusion {args.id} has ended")
    return 0


async def _store(store: "AuditStore", made: Sequence[Exclusion]) -> None:
    try:
        await store.exclude(*made)
    except ValueError as error:
        raise GuardproxyError(f"nothing was stored: {error}") from error


async def _exclusions(store: "AuditStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.shared import exclusion_dict

    found = await store.exclusions(0.0 if args.ended else time.time())
    if args.json:
        for one in found:
            print(json.dumps(exclusion_dict(one)))
        return 0
    if not found:
        print(f"no exclusions in {store.place}")
    for one in found:
        shown = f"{one.id}  until {local(one.until)}  {one.category}  by {one.by}: {one.reason}  (record {one.record})"
        print(printable(shown))
    return 0
