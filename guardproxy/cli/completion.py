"""`guardproxy completion`: completion of the command line in a shell."""

import argparse
from collections.abc import Iterator
from typing import Any

_SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print completion for a shell",
        description="Print a script that completes guardproxy's commands and options in a shell. For bash: "
        'eval "$(guardproxy completion bash)".',
    )
    parser.add_argument("shell", choices=_SHELLS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script; return 0."""
    import shtab

    from guardproxy.cli import parser

    top = parser()
    for action in _actions(top):
        name = str(action.metavar)
        # shtab reads the attribute `complete`; which options take files is known by the names of their values.
        if name == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif name in ("FILE", "FILE.json", "DATA"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, shell=args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of a parser and of all its commands; argparse has no public list of them."""
    for action in parser._actions:  # noqa: SLF001
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for inner in action.choices.values():
                yield from _actions(inner)
