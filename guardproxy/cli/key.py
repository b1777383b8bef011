"""`guardproxy key`: keys of clients, for the section `clients` of a configuration."""

import argparse
import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from guardproxy.access import CLIENT_NAME
from guardproxy.durations import duration_s
from guardproxy.errors import ConfigError

_BYTES = 32  # of randomness: nobody can guess a key, so its hash needs no salt


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "key", help="make a key for a client", description="Make keys for the section `clients` of a configuration."
    )
    below = parser.add_subparsers(required=True, metavar="ACTION")
    new = below.add_parser(
        "new",
        help="make a key",
        description="Make a key for a client. It is shown once and stored nowhere; the configuration file gets its "
        "hash, from which nobody can compute the key.",
    )
    new.add_argument("name", metavar="NAME", help="the name of the client in `clients`")
    new.add_argument("--expires-in", metavar="TIME", help="when the key ends, such as 90d; without it, never")
    new.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a new key, and the lines of the configuration file with its hash. Raises ConfigError."""
    if not CLIENT_NAME.fullmatch(args.name):
        raise ConfigError(
            f"{args.name!r} is no name for a client: use letters, digits, dots, dashes and underscores, at most 64"
        )
    end = _end_of(args.expires_in) if args.expires_in is not None else None
    key = f"gp-{secrets.token_urlsafe(_BYTES)}"
    print(f"The key of {args.name}, which is shown only this once:\n\n  {key}\n")
    print("The lines for the configuration file, which hold only its hash:\n")
    print(f"clients:\n  {args.name}:\n    keys:")
    print(f"      - sha256: {hashlib.sha256(key.encode()).hexdigest()}")
    if end is not None:
        print(f"        expires: {end}")
    return 0


def _end_of(duration: str) -> str:
    """When a duration from now ends, as the configuration writes it. Raises ConfigError."""
    try:
        seconds = duration_s(duration)
        if seconds <= 0:
            raise ConfigError("--expires-in: the key would have ended already; write a time such as 90d")
        end = datetime.now().astimezone() + timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--expires-in: {error}") from error
    return end.isoformat(timespec="seconds")
