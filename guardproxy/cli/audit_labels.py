"""`guardproxy audit label`: what reviewers say of records."""

import argparse
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from guardproxy.errors import GuardproxyError
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.reviews import LabelKind
    from guardproxy.sinks.database import AuditStore, ReviewStore, StoredRecord

WRITES = ("chain_key",)
"""The keys of the section `audit` that a command which writes into the store cannot do without."""
KINDS: "tuple[LabelKind, ...]" = ("false_positive", "correct", "false_negative")


def add_parsers(subcommands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    label = add(
        subcommands, "label", _label, "say of records whether their decision was right", as_json=False, secrets=WRITES
    )
    label.add_argument("ids", nargs="+", metavar="ID", help="the number or id of a record")
    label.add_argument(
        "kind", choices=(*KINDS, "none"), help="the decision was too severe, right, or too mild; none: withdraw yours"
    )
    label.add_argument(
        "--same-text",
        action="store_true",
        help="label every record with exactly the same text, side and decision, too",
    )
    label.add_argument("--category", default="", metavar="NAME", help="the category that the label speaks of")
    label.add_argument("--note", default="", metavar="TEXT", help="why; credentials in it are masked")
    label.add_argument("--by", required=True, metavar="NAME", help="who says so")


async def _label(store: "ReviewStore", args: argparse.Namespace) -> int:
    from guardproxy.observe.masking import mask_credentials
    from guardproxy.reviews import Label

    found = {stored.record.id: stored for stored in [await one_record(store, name) for name in args.ids]}
    if args.kind == "none":
        _check_withdrawal(found.values(), args)
    now, note = time.time(), mask_credentials(args.note)
    labels = [Label(one, args.kind, args.by, now, args.category, note) for one in found]
    if args.same_text:
        await _check_same(store, found.values())
    try:
        if args.same_text:
            count = await store.label_same(labels)
        else:
            await store.label(labels)
            count = len(labels)
    except ValueError as error:
        raise GuardproxyError(f"nothing was labelled: {error}") from error
    records, by = f"{count:,} record{'s' if count != 1 else ''}", printable(args.by)
    if args.kind == "none":
        print(f"the labels of {by} on {records} are withdrawn")
    else:
        print(f"{records} labelled {args.kind} by {by}")
    if args.same_text:
        await _say_otherwise(store, found.values())
    return 0


def _check_withdrawal(found: "Iterable[StoredRecord]", args: argparse.Namespace) -> None:
    """Check that there is a label to withdraw on each record. Raises GuardproxyError."""
    if args.category or args.note:
        raise GuardproxyError("none withdraws a label: leave --category and --note out")
    without = [str(stored.seq) for stored in found if args.by not in {label.by for label in stored.labels}]
    if without:
        number = f"record{'s' if len(without) > 1 else ''} {', '.join(without)}"
        raise GuardproxyError(f"nothing was withdrawn: {printable(args.by)} has no label on {number}")


async def _check_same(store: "ReviewStore", found: "Iterable[StoredRecord]") -> None:
    """Check that the store knows the other records of each text. Raises GuardproxyError."""
    for stored in found:
        unknown = (await store.same_text(stored)).unknown
        if unknown:
            raise GuardproxyError(
                f"nothing was labelled: record {stored.seq}: {unknown}; records with the same text cannot be found, so "
                "leave --same-text out and name each record"
            )


async def _say_otherwise(store: "ReviewStore", found: "Iterable[StoredRecord]") -> None:
    """Say which records of the texts have another side or decision, on which a label would say something else."""
    for stored in found:
        others = (await store.same_text(stored)).otherwise
        if others:
            print(f"{others:,} more with the text of record {stored.seq} have another side or decision: not labelled")


async def one_record(store: "AuditStore", name: str) -> "StoredRecord":
    """The record with this number or id. A request has several records: naming it is an error."""
    found = await store.get(name)
    if not found:
        raise GuardproxyError(f"no record {name!r} in {store.place}")
    if len(found) > 1:
        numbers = ", ".join(str(stored.seq) for stored in found)
        raise GuardproxyError(f"the request {name!r} has the records {numbers}: name those that you mean")
    return found[0]
