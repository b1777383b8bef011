"""`guardproxy schema`: the JSON schema of a configuration file, for editors."""

import argparse
import sys
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON schema of a configuration",
        description="Print the JSON schema of a configuration file. Editors use it to complete keys, show their "
        "descriptions and mark mistakes.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the schema."""
    from guardproxy.settings.json_schema import schema

    sys.stdout.write(schema())
    return 0
