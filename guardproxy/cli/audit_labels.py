"""`guardproxy audit label` and `unlabel`: what reviewers say of records."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardproxy.errors import GuardproxyError
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.reviews import LabelKind
    from guardproxy.sinks.database import AuditStore, StoredRecord

KINDS: "tuple[LabelKind, ...]" = ("false_positive", "correct", "false_negative")


def add_parsers(subcommands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both commands."""
    label = add(subcommands, "label", _label, "say of records whether their decision was right", as_json=False)
    label.add_argument("ids", nargs="+", metavar="ID", help="the number or id of a record")
    label.add_argument("kind", choices=KINDS, help="the decision was too severe, right, or too mild")
    label.add_argument("--category", default="", metavar="NAME", help="the category that the label speaks of")
    label.add_argument("--note", default="", metavar="TEXT", help="why; credentials in it are masked")
    label.add_argument("--by", required=True, metavar="NAME", help="who says so")

    unlabel = add(subcommands, "unlabel", _unlabel, "withdraw the labels that somebody gave", as_json=False)
    unlabel.add_argument("ids", nargs="+", metavar="ID", help="the number or id of a record")
    unlabel.add_argument("--by", required=True, metavar="NAME", help="whose labels")


async def _label(store: "AuditStore", args: argparse.Namespace) -> int:
    count = await _give(store, args, args.kind, args.category, args.note)
    print(f"{count} records labelled {args.kind} by {printable(args.by)}")
    return 0


async def _unlabel(store: "AuditStore", args: argparse.Namespace) -> int:
    count = await _give(store, args, "none", "", "")
    print(f"the labels of {printable(args.by)} on {count} records are withdrawn")
    return 0


async def _give(store: "AuditStore", args: argparse.Namespace, kind: "LabelKind", category: str, note: str) -> int:
    from guardproxy.observe.masking import mask_credentials
    from guardproxy.reviews import Label

    now = time.time()
    ids = [(await one_record(store, name)).record.id for name in dict.fromkeys(args.ids)]
    labels = [Label(one, kind, args.by, now, category, mask_credentials(note)) for one in dict.fromkeys(ids)]
    try:
        await store.label(labels)
    except ValueError as error:
        raise GuardproxyError(f"nothing was labelled: {error}") from error
    return len(labels)


async def one_record(store: "AuditStore", name: str) -> "StoredRecord":
    """The record with this number or id. A request has several records: naming it is an error."""
    found = await store.get(name)
    if not found:
        raise GuardproxyError(f"no record {name!r} in {store.place}")
    if len(found) > 1:
        numbers = ", ".join(str(stored.seq) for stored in found)
        raise GuardproxyError(f"the request {name!r} has the records {numbers}: name those that you mean")
    return found[0]
