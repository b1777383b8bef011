"""`guardproxy guard`: run the guard alone, as a service for proxies and gateways."""

import argparse
import signal
from dataclasses import replace
from typing import Any

from guardproxy.cli.serve import number
from guardproxy.errors import ConfigError
from guardproxy.policy import PRESETS


def add_parser(commands: Any) -> None:
    """Add the command. Its options override the configuration file."""
    parser = commands.add_parser(
        "guard",
        help="run the guard alone, as a service",
        description="Serve the guard to proxies and gateways until it is stopped. Nothing is forwarded.",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: the built-in one)")
    parser.add_argument(
        "--preset", choices=PRESETS, help="the built-in policy, if the file has no policies (default: balanced)"
    )
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=number(0, 65_535), help="the port to listen on; 0 takes any free port")
    parser.add_argument("--uds", metavar="PATH", help="listen on a Unix socket at this path, and on no port")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="the folder of the embedded audit store and of embedded-multilingual"
    )
    parser.add_argument("--builtin-only", action="store_true", help="forbid `module:attribute` in the configuration")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load the configuration, override it and serve. Raises ConfigError with every mistake before anything starts."""
    # Until the server can reload, it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if args.uds is not None and (args.host is not None or args.port is not None):
        raise ConfigError("--uds: a Unix socket has no host and no port; leave --host and --port out")

    from guardproxy import app

    source = app.read(args.config, args.data_dir, builtin_only=args.builtin_only, preset=args.preset)
    options = {name: getattr(args, name) for name in ("host", "port") if getattr(args, name) is not None}
    settings = replace(source.file, server=replace(source.file.server, **options))
    return app.serve_guard(settings, source, args.uds)
