"""`guardproxy validate`: report every mistake of a configuration file at once."""

import argparse
import os
import time
from typing import Any

from guardproxy.errors import ConfigError


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "validate",
        help="check a configuration file",
        description="Print every mistake of a configuration file as file:line:column: path: what is wrong. The exit "
        "status is 1 if there are mistakes, else 0. Of a file without any, print the policies, with notes on effects "
        "that may surprise.",
    )
    parser.add_argument("file", metavar="FILE", help="the configuration file")
    parser.add_argument(
        "--without-secrets",
        action="store_true",
        help="an environment variable that is not set is no mistake; it is printed as `not set`",
    )
    parser.add_argument("--builtin-only", action="store_true", help="forbid `module:attribute`, as for serve")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the mistakes; without any, print the versions that records and metrics will show."""
    from guardproxy import app
    from guardproxy.settings import load
    from guardproxy.settings.notes import client_notes, guard_notes, image_notes, notes

    try:
        names = app.catalogue(builtin_only=args.builtin_only)
        settings = load(args.file, os.environ, names, without_secrets=args.without_secrets)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)
        return 1
    print(f"{args.file}: ok, version {settings.version}")
    for message in settings.unset.values():
        print(f"  not set: {message}")
    members = {name: member.guard for name, member in settings.members.items()}
    for name, policy in settings.policies.policies.items():
        print(f"  policy {name}, version {policy.version}")
        for note in (*notes(policy), *image_notes(policy, [settings.guard, *members.values()])):
            print(f"    {note}")
    for note in guard_notes(settings.guard, members):
        print(f"  {note}")
    if app.serves_anybody(settings):
        print(
            f"  server.host {settings.server.host}: no clients are listed, so whoever reaches the address may use it; "
            "see docs/clients-and-limits.md"
        )
    if note := app.label_note(settings):
        print(f"  {note}")
    for note in client_notes(settings.clients or (), time.time()):
        print(f"  {note}")
    return 0
