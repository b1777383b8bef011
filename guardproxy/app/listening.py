"""Where requests come in: the options of the server, its sockets, and the listener of the operators' paths."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from guardproxy.app.protocol import BoundedHttp
from guardproxy.app.tls import listening_context
from guardproxy.errors import ConfigError
from guardproxy.settings import ServerSettings, ServerTlsSettings, Settings

# Seconds for which the operators' listener waits for its open answers when the server stops.
_ADMIN_GRACE_S = 2

_log = structlog.get_logger("guardproxy")


def server_options(bounds: ServerSettings, tls: ServerTlsSettings | None) -> dict[str, Any]:
    """The options of uvicorn that every listener has."""
    return {
        "http": partial(BoundedHttp, bounds),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,  # the upstream's headers pass through
        "date_header": False,
        "timeout_keep_alive": bounds.idle_timeout_s,
        "ssl_context_factory": partial(listening_context, tls) if tls else None,
    }


def address_of(host: str, port: int, tls: ServerTlsSettings | None) -> str:
    """The URL of a listener."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def free_port(host: str, port: int, advice: str) -> int:
    """`port`, or a free port for 0. Raises ConfigError, which ends with `advice`, if the server cannot listen on it.

    This is tried before anything is loaded, and the banner shows the port.
    """
    sockets = bound(host, port, advice)
    port = sockets[-1].getsockname()[1]
    for probe in sockets:
        probe.close()
    return int(port)


def bound(host: str, port: int, advice: str, *, shared: bool = False) -> list[socket.socket]:
    """A socket for each address of a host. With `shared`, other processes of this server may listen there as well.

    Raises ConfigError, which ends with `advice`.
    """
    found: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for number, (family, _, _, _, address) in enumerate(addresses, 1):
            try:
                found.append(_bound(family, (address[0], port, *address[2:]), shared=shared))
            except OSError as error:
                # `localhost` may resolve to an address family that this machine lacks; uvicorn skips it as well.
                is_last = number == len(addresses) and not found
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} or is_last:
                    raise
            else:
                port = found[-1].getsockname()[1]
    except OSError as error:
        for opened in found:
            opened.close()
        reason = error.strerror or error
        raise ConfigError(f"cannot listen on port {port} of {host}: {reason}; {advice}") from error
    return found


def _bound(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    """A socket that is bound to an address. Raises OSError."""
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened


class _AdminServer(uvicorn.Server):
    """A server beside another one, to which the signals of the process belong."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


@contextlib.asynccontextmanager
async def admin_listener(app: ASGIApp | None, settings: Settings) -> AsyncIterator[None]:
    """Serve the operators' paths on the listener of their own while this context is open; nothing without `admin`.

    It has its own count of connections: clients of the proxy cannot keep the operators out. Several workers listen on
    the same port, and the kernel chooses which of them answers. Raises ConfigError if it cannot listen.
    """
    admin = settings.admin
    if admin is None or app is None:
        yield
        return
    sockets = bound(admin.host, admin.port, "change admin.host or admin.port", shared=settings.server.workers > 1)
    options = server_options(settings.server, admin.tls)
    config = uvicorn.Config(app, lifespan="off", timeout_graceful_shutdown=_ADMIN_GRACE_S, **options)
    server = _AdminServer(config)
    port = sockets[-1].getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets), name="admin")
    _log.info("admin_listening", url=address_of(admin.host, port, admin.tls))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
