"""`guardproxy audit delete`: erase records for good."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit_filters import add_filters, filter_of
from guardproxy.cli.audit_labels import WRITES
from guardproxy.cli.audit_table import local
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.sinks.database import Filter, ReviewStore


def add_parser(subcommands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    erase = add(subcommands, "delete", _delete, "erase the records that match for good", as_json=False, secrets=WRITES)
    add_filters(erase)
    erase.add_argument("--yes", action="store_true", help="do not ask for confirmation")


async def _delete(store: "ReviewStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.database import Filter

    chosen = filter_of(args)
    if chosen == Filter():
        raise ConfigError("`audit delete` needs a filter, such as --request-id, --user, --client or --until 90d")
    which = _described(chosen)
    count = await store.count(chosen)
    if not count:
        print("\n".join([f"no records {which} in {store.place}", *await store.unmatched(chosen)]), file=sys.stderr)
        return 1
    if not _confirmed(args, f"erase {count:,} records {which} for good?"):
        return 1
    print(f"{await store.erase(chosen):,} records erased")
    return 0


def _described(chosen: "Filter") -> str:
    """The filter in words."""
    from guardproxy.sinks.database.words import name_hash

    words = []
    for key, values in chosen.to_query().items():
        match key:
            case "since":
                words.append(f"from {local(chosen.since or 0.0)} on")
            case "until":
                words.append(f"from before {local(chosen.until or 0.0)}")
            case "user" | "session":
                words.append(f"of {key} {values[0]!r} or its hash {name_hash(values[0])}")
            case "client" | "request-id":
                words.append(f"of {key.removesuffix('-id')} {values[0]}")
            case _:
                words.append(f"with {key} {' and '.join(values)}")
    return printable(", ".join(words))


def _confirmed(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise GuardproxyError(f"{question} Confirm with --yes: there is no terminal to ask on.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
