"""`guardproxy init`: a commented configuration file to start from."""

import argparse
import os
import secrets
import shlex
from pathlib import Path
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.policy import PRESETS


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="write a configuration file to start from",
        description="Write a commented configuration file to start from. An existing file is never overwritten.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("guardproxy.yaml"),
        metavar="FILE",
        help="the file to write; guardproxy.yaml by default",
    )
    parser.add_argument("--preset", choices=PRESETS, help="the rules in the file (default: balanced)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and print the next commands. Raises ConfigError if it exists or cannot be written."""
    from guardproxy.settings import starter

    create(args.file, starter(args.preset))
    name = shlex.quote(str(args.file))
    print(f"{args.file} is written. Change it, check it and run it:")
    print(f"  guardproxy validate {name}")
    print(f"  guardproxy serve --config {name}")
    return 0


def create(path: Path, text: str) -> None:
    """Create `path` with `text`, whole or not at all. Raises ConfigError if it exists or cannot be written."""
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
            # A link fails if its name exists; a rename would overwrite a file that appeared in the meantime.
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; name another file or remove this one first") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no folder {path.parent}; create it first") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name a file in another folder") from error
