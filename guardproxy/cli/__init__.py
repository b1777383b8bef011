"""The command line. Each command is one module here, which imports what it runs only when it runs."""

import argparse
import os
import sys
from collections.abc import Sequence

from guardproxy import __version__
from guardproxy.cli import audit, calibrate, evaluate, init, moderate, schema, serve, validate
from guardproxy.errors import ConfigError, GuardproxyError

_COMMANDS = (serve, init, validate, schema, moderate, audit, evaluate, calibrate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status. 2 is a mistake in the configuration or the arguments, 1 any other failure."""
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
        # Who reads the output has gone; what is still held for it must not be an error when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    top = argparse.ArgumentParser(
        prog="guardproxy", description="A reverse proxy that judges what goes into a chat LLM and what comes out of it."
    )
    top.add_argument("--version", action="version", version=f"guardproxy {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return top
