"""`guardproxy serve`: run the proxy."""

import argparse
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guardproxy.errors import ConfigError
from guardproxy.policy import PRESETS

if TYPE_CHECKING:
    from guardproxy.settings import Settings


def add_parser(commands: Any) -> None:
    """Add the command. Its options override the configuration file."""
    parser = commands.add_parser("serve", help="run the proxy", description="Run the proxy until it is stopped.")
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: the built-in one)")
    parser.add_argument(
        "--preset", choices=PRESETS, help="the built-in policy, if the file has no policies (default: balanced)"
    )
    parser.add_argument(
        "--upstream", metavar="URL", help="the LLM service, or `demo` for a small chat model on this machine"
    )
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=number(0, 65_535), help="the port to listen on; 0 takes any free port")
    parser.add_argument("--workers", type=number(1, 256), metavar="N", help="the number of worker processes")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="the folder of the embedded audit store and of embedded-multilingual"
    )
    parser.add_argument("--builtin-only", action="store_true", help="forbid `module:attribute` in the configuration")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load the configuration, override it and serve. Raises ConfigError with every mistake before anything starts."""
    # Until the server can reload, it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    from guardproxy import app

    source = app.read(args.config, args.data_dir, builtin_only=args.builtin_only, preset=args.preset)
    return app.serve(overridden(source.file, args), source)


def overridden(settings: "Settings", args: argparse.Namespace) -> "Settings":
    """The settings with the options of the command line in place of the file's. Raises ConfigError."""
    from guardproxy.settings import DEMO, upstream_url_error

    options = {name: getattr(args, name) for name in ("host", "port", "workers") if getattr(args, name) is not None}
    settings = replace(settings, server=replace(settings.server, **options))
    if args.upstream is None:
        return settings
    if settings.upstreams:
        raise ConfigError(f"{settings.name} names its upstreams, so --upstream has no effect; change the file instead")
    fault = None if args.upstream == DEMO else upstream_url_error(args.upstream)
    if fault:
        raise ConfigError(f"--upstream: {fault}")
    return replace(settings, upstream=replace(settings.upstream, url=args.upstream))


def number(low: int, high: int) -> Callable[[str], int]:
    """A converter of an argument to a whole number in this range."""

    def converted(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return converted
