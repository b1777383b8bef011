"""The command line. Each command is a module here, which imports the code that it runs only when it runs."""

import argparse
import os
import sys
from collections.abc import Sequence

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
