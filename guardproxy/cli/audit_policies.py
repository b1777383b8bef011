"""`guardproxy audit policies`: changes of thresholds that people saved on the reviewer's page."""

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit_table import local
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.reviews import PolicyChange
    from guardproxy.sinks.database import ReviewStore


def add_parser(subcommands: Any, add: Callable[..., argparse.ArgumentParser], number: Callable[[str], int]) -> None:
    """Add the command. `number` reads a whole number."""
    parser = add(subcommands, "policies", _policies, "list the changes of thresholds saved on the page, newest first")
    parser.add_argument("-n", "--limit", type=number, default=50, metavar="N", help="list at most N changes (50)")


async def _policies(store: "ReviewStore", args: argparse.Namespace) -> int:
    from guardproxy.sinks.shared import policy_change_dict

    found = await store.policy_changes(args.limit)
    if not found and not args.json:
        print(f"no saved changes of thresholds in {store.place}")
    for change in found:
        print(json.dumps(policy_change_dict(change)) if args.json else _shown(change))
    return 0


def _shown(change: "PolicyChange") -> str:
    """A change with a line for each of its rules."""
    head = f"{local(change.time)}  policy {change.policy} by {change.by}, version {change.before} to {change.after}"
    rules = [
        f"  {rule.side} {rule.category}, {rule.rule}: {rule.before or 'none'} to {rule.after or 'none'}"
        for rule in change.rules
    ]
    return "\n".join(map(printable, [head, *rules]))
