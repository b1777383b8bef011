"""The command line. Each command is a module here, which imports the code that it runs only when it runs."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from guardproxy import __version__
from guardproxy.cli import (
    alerts,
    audit,
    calibrate,
    completion,
    evaluate,
    guard,
    init,
    key,
    moderate,
    replay,
    schema,
    serve,
    validate,
)
from guardproxy.errors import ConfigError, GuardproxyError

_COMMANDS = (
    serve,
    guard,
    init,
    validate,
    schema,
    key,
    moderate,
    audit,
    alerts,
    evaluate,
    calibrate,
    replay,
    completion,
)


# The exit status of a process that SIGTERM has ended, as a shell tells it.
_TERMINATED = 128 + signal.SIGTERM


def program() -> NoReturn:
    """The program `guardproxy`: `main` with the arguments of the process, which SIGTERM ends at any moment.

    Python's own end is left out: a thread in torch, such as one that still loads a model, crashes in it.
    """
    signal.signal(signal.SIGTERM, _terminate)  # without a handler, the first process of a container never gets it
    try:
        status = main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    if status == _TERMINATED:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # goes on behind it only in the first process of a container
    os._exit(status)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what runs now must be closed
    raise SystemExit(_TERMINATED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for a mistake in configuration or arguments, 1 for other failures."""
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except GuardproxyError as error:
        print(f"guardproxy: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of the output is gone. Python flushes the buffered rest at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    top = argparse.ArgumentParser(
        prog="guardproxy", description="A reverse proxy that judges the turns and replies of a chat LLM."
    )
    top.add_argument("--version", action="version", version=f"guardproxy {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return top
