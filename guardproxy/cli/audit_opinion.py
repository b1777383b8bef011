"""`guardproxy audit second-opinion`: what another guard says of a record."""

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit_labels import WRITES, one_record
from guardproxy.cli.audit_show import opinion_line
from guardproxy.errors import ConfigError, GuardproxyError

if TYPE_CHECKING:
    from guardproxy.sinks.database import ReviewStore


def add_parser(subcommands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add(
        subcommands,
        "second-opinion",
        _second_opinion,
        "ask the guard of audit.second_opinion about a record, and store what it says beside the labels",
        as_json=False,
        secrets=WRITES,
    )
    parser.add_argument("id", metavar="ID", help="the number or id of a record")
    parser.add_argument("--by", required=True, metavar="NAME", help="who asks")


async def _second_opinion(store: "ReviewStore", args: argparse.Namespace) -> int:
    from guardproxy import app
    from guardproxy.settings import load

    if args.config is None:
        raise ConfigError("--config FILE is missing: the configuration describes the guard of audit.second_opinion")
    settings = load(args.config, os.environ, app.catalogue(), without_secrets=True)
    asked = app.SecondOpinions(settings, args.data_dir)
    stored = await one_record(store, args.id)
    try:
        opinion = await asked.ask(store, stored, args.by)
    except ValueError as error:
        raise GuardproxyError(f"nothing was stored: {error}") from error
    print(f"record {stored.seq}\n{opinion_line(opinion)}")
    return 0
