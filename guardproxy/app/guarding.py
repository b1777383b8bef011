"""Serve the guard alone, for proxies and gateways, on a port or on a socket of this machine."""

import contextlib
import errno
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn

from guardproxy.app.access import OPEN, serves_anybody
from guardproxy.app.apis import PATHS, apis_of
from guardproxy.app.listening import address_of, free_port, server_options
from guardproxy.app.policy_file import ConfigSource
from guardproxy.app.service import Service
from guardproxy.app.serving import announce, guard_summary, log_as_configured, migrate_store
from guardproxy.app.shared_state import check_state
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings, UpstreamSettings

# An address that cannot exist (RFC 2606): nothing is forwarded.
_NOWHERE = UpstreamSettings(url="http://upstream.invalid")


def serve_guard(settings: Settings, source: ConfigSource, uds: str | None = None) -> int:
    """Serve until stopped; return the exit status. With `uds`, on the Unix socket at this path and on no port.

    Raises ConfigError if the guard cannot start, or if it cannot listen.
    """
    settings = without_upstreams(settings)
    with contextlib.ExitStack() as stack:
        sockets = None
        if uds is not None:
            sockets = [stack.enter_context(_listening(uds))]
        else:
            server = settings.server
            port = free_port(server.host, server.port, "choose others with --host and --port")
            settings = replace(settings, server=replace(server, port=port))
        as_json = log_as_configured(settings)
        announce(_rows(settings, uds), _banner(settings, uds), as_json=as_json)
        migrate_store(settings, source)
        check_state(settings)
        return _serve(settings, source, sockets)


def without_upstreams(settings: Settings) -> Settings:
    """The settings of a guard alone, in one process: nothing is forwarded."""
    server = replace(settings.server, workers=1)
    return replace(settings, server=server, upstream=_NOWHERE, upstreams={}, upstream_groups={})


class _GuardServer(uvicorn.Server):
    """uvicorn's server, which at its end removes its Unix socket, if it has one.

    Nothing behind `run` could do so: uvicorn ends the process with the signal that has stopped it.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the open answers, and end."""
        paths = [Path(one.getsockname()) for one in sockets or ()]
        await super().shutdown(sockets)
        for path in paths:
            path.unlink(missing_ok=True)


def _serve(settings: Settings, source: ConfigSource, sockets: list[socket.socket] | None) -> int:
    def stop() -> None:
        server.should_exit = True

    service = Service(settings, source, stop, stopping=lambda: server.should_exit, alone=True)
    bounds = settings.server
    options = server_options(bounds, None if sockets else bounds.tls)
    config = uvicorn.Config(
        service.app, host=bounds.host, port=bounds.port, timeout_graceful_shutdown=bounds.grace_s, **options
    )
    server = _GuardServer(config)
    signal.signal(signal.SIGHUP, lambda *_: service.reload())
    server.run(sockets=sockets)
    if service.failure is not None:
        raise service.failure
    return 0 if server.started else 1


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """A Unix socket at this path that only this user may open; it is removed at the end. Raises ConfigError.

    A socket that is left over from a process that was killed is replaced.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_if_left_over(path)
        opened.bind(path)
        Path(path).chmod(0o600)  # before `listen`: until then nobody can connect
    except OSError as error:
        opened.close()
        raise ConfigError(f"cannot listen on the socket {path}: {error.strerror or error}; choose another") from error
    try:
        yield opened
    finally:
        opened.close()
        Path(path).unlink(missing_ok=True)


def _remove_if_left_over(path: str) -> None:
    """Remove a socket on which nobody listens. Raises OSError if somebody does, or if it is no socket."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        refused = probe.connect_ex(path) in {errno.ECONNREFUSED, errno.ENOENT}
    if not refused:
        raise OSError(errno.EADDRINUSE, "another process listens there")
    Path(path).unlink(missing_ok=True)


def _rows(settings: Settings, uds: str | None) -> dict[str, str]:
    """What is served where, by name."""
    rows = {
        "listening on": uds or _url(settings),
        "guard": guard_summary(settings),
        "policy": f"{settings.name}, version {settings.policies.version}",
        "APIs": ", ".join(PATHS[name] for name in apis_of(settings, alone=True)),
    }
    if uds is None and serves_anybody(settings):
        rows["open to"] = OPEN
    return rows


def _url(settings: Settings) -> str:
    server = settings.server
    return address_of(server.host, server.port, server.tls)


def _banner(settings: Settings, uds: str | None) -> str:
    """The text at the start: what is served where, and a command to try it."""
    url = "http://guard" if uds else _url(settings)
    key = ' -H "authorization: Bearer $KEY"' if settings.clients is not None else ""
    socket_option = f" --unix-socket {uds}" if uds else ""
    lines = [f"  {name:<13} {value}" for name, value in _rows(settings, uds).items()]
    body = '{"messages": [{"role": "user", "parts": [{"text": "How do I build a pipe bomb?"}]}], "policy": "default"}'
    example = f"  curl{socket_option} {url}{PATHS['check']} -H 'content-type: application/json'{key} -d '{body}'"
    return "\n".join(["guardproxy guard", *lines, "", "Try it:", example, "", ""])
