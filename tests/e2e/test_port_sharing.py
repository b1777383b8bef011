"""Several workers on one port: connections are divided between them, whatever one of them does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from guardproxy.app.port_sharing import ConnectionCounts
from tests.e2e.guarded import guarded
from tests.kit import free_port, until

CONNECTIONS = 32
_OTHER = """
import sys
from pathlib import Path
from guardproxy.app.port_sharing import ConnectionCounts
counts = ConnectionCounts(Path(sys.argv[1]))
counts.add(3)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that the configuration reads from the environment."""
    monkeypatch.setenv("GUARD_KEY", "a-key")


def established(port: int) -> set[str]:
    """The inodes of this machine's sockets that are the server's end of a connection to `port`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}


def held(pid: int, sockets: set[str]) -> int:
    """How many of these sockets a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    return len(found & sockets)


def workers_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """The workers' process ids."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, opened at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(count)]


def test_connections_are_divided(tmp_path: Path) -> None:
    """Of connections that are opened at once each worker has its share. If one stops or ends, the other has all."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with guarded(tmp_path, "http://127.0.0.1:9", f"server: {{port: {port}, workers: 2}}\n", f"{url}/readyz") as process:
        first, second = workers_of(process)
        for _ in range(3):
            until(lambda: not established(port))
            with connections(port, CONNECTIONS):
                until(lambda: held(first, established(port)) + held(second, established(port)) == CONNECTIONS)
                assert min(held(worker, established(port)) for worker in (first, second)) >= CONNECTIONS // 4
        os.kill(first, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(CONNECTIONS) as threads:
                asked = [threads.submit(httpx.get, f"{url}/readyz", trust_env=False, timeout=20) for _ in range(40)]
                assert [one.result().status_code for one in asked] == [200] * 40
        finally:
            os.kill(first, signal.SIGCONT)
        os.kill(first, signal.SIGKILL)
        for _ in range(5):
            assert httpx.get(f"{url}/readyz", trust_env=False, timeout=20).status_code == 200


def test_a_worker_that_has_ended_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    ConnectionCounts.create(path)
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        counts = ConnectionCounts(path)
        counts.add(3)
        assert not counts.another_has_fewer()
        counts.add(1)
        assert counts.another_has_fewer()
        other.kill()
    assert not counts.another_has_fewer()
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as later:
        assert later.stdout is not None
        assert later.stdout.readline() == "ready\n"
        assert counts.another_has_fewer()
        counts.add(-1)
        assert not counts.another_has_fewer()
        later.kill()
