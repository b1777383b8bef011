"""`guardproxy alerts`: whether the receivers of alerts take what they are sent."""

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guardproxy.errors import ConfigError
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.alerting import AlertMessage
    from guardproxy.observe.alerts import AlertReceiver


def add_parser(commands: Any) -> None:
    """Add the command with its subcommand."""
    parser = commands.add_parser(
        "alerts", help="try the receivers of alerts", description="Try the receivers of alerts of a configuration."
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    test = subcommands.add_parser(
        "test",
        help="send one test alert to each receiver",
        description="Send one test alert to each receiver, once, and print what came back. The exit status is 1 if one "
        "did not take it.",
    )
    test.add_argument("--config", metavar="FILE", required=True, help="the configuration")
    test.add_argument("receivers", metavar="RECEIVER", nargs="*", help="its name in the configuration (default: all)")
    test.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send a test alert to the receivers. Raises ConfigError for an unusable file and an unknown name."""
    from guardproxy import app
    from guardproxy.settings import load

    settings = load(args.config, os.environ, app.catalogue(), without_secrets=True)
    configured = settings.alerts.receivers if settings.alerts else {}
    if not configured:
        raise ConfigError(f"{args.config}: has no alerts.receivers")
    if unknown := [name for name in args.receivers if name not in configured]:
        raise ConfigError(f"no receiver {unknown[0]!r}; {args.config} has {', '.join(configured)}")
    names = args.receivers or list(configured)
    for name in names:  # other secrets of the file need not be set
        settings.require("alerts", "receivers", name)
    return asyncio.run(_test({name: app.receiver_of(name, configured[name]) for name in names}))


async def _test(receivers: "Mapping[str, AlertReceiver]") -> int:
    message = _message()
    results = await asyncio.gather(*(_sent(name, receiver, message) for name, receiver in receivers.items()))
    return 0 if all(results) else 1


async def _sent(name: str, receiver: "AlertReceiver", message: "AlertMessage") -> bool:
    """Send a message and say what came back. Whether the receiver took it."""
    from guardproxy.observe.alerts import NotTaken

    try:
        answer = await receiver.send(message)
    except NotTaken as error:
        print(printable(f"{name}: not taken: {error}"), file=sys.stderr)
        return False
    finally:
        await receiver.close()
    print(printable(f"{name}: taken by {receiver.place}: {answer}"))
    return True


def _message() -> "AlertMessage":
    """An alert about a turn that never was."""
    from guardproxy.alerting import TEST, Alert, AlertCondition, AlertMessage
    from guardproxy.types import Decision, Origin, Record

    record = Record(
        id=secrets.token_hex(16),
        time=time.time(),
        origin=Origin("test", "default", "", "", ""),
        side="user",
        turn=0,
        choice=0,
        policy="default",
        policy_version="",
        verdict=None,
        decision=Decision("pass", "", ()),
        outcome="pass",
        text="This is a test of guardproxy's alerts.",
        coverage=(),
        latency_s=0.0,
    )
    return AlertMessage((Alert(TEST, AlertCondition(), 1, "", record),), time.time())
