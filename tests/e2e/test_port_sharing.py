"""Several workers on one port: connections are divided between them, whatever one of them does."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from guardproxy.app.port_sharing import ConnectionCounts, SharedPortLoop
from tests.e2e.guarded import guarded
from tests.kit import free_port, until, workers_of

CONNECTIONS = 32
_OTHER = """
import sys
from pathlib import Path
from guardproxy.app.port_sharing import ConnectionCounts, SharedPortLoop
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


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, opened at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(count)]


def test_connections_are_divided(tmp_path: Path) -> None:
    """Of connections that are opened at once each worker has some. If one stops or ends, the other answers all."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with guarded(tmp_path, "http://127.0.0.1:9", f"server: {{port: {port}, workers: 2}}\n", f"{url}/readyz") as process:
        first, second = workers_of(process.pid)
        for _ in range(3):
            until(lambda: not established(port))
            with connections(port, CONNECTIONS):
                until(lambda: held(first, established(port)) + held(second, established(port)) == CONNECTIONS)
                assert min(held(worker, established(port)) for worker in (first, second)) > 0
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
        # It was killed while its parent waited for its answer to a ping, and the parent goes on all the same.
        until(lambda: first not in workers_of(process.pid) and len(workers_of(process.pid)) == 2, "no new worker", 30)
    assert '"event": "worker_ended"' in (tmp_path / "log").read_text()


@contextlib.contextmanager
def another(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another worker, as far as counts go: it has three connections."""
    command = [sys.executable, "-c", _OTHER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_worker_with_more_leaves_a_connection_for_a_while(tmp_path: Path) -> None:
    """It takes it in the end: the other one may hang."""
    path = tmp_path / "connections"
    ConnectionCounts.create(path)

    async def taken_after(own: int) -> float:
        """Seconds until a connection is taken, with so many open ones."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SharedPortLoop)
        loop.connection_changed(own)
        taken: asyncio.Future[float] = loop.create_future()

        class Taking(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                taken.set_result(time.perf_counter())
                transport.close()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = await loop.create_server(Taking, sock=listening, backlog=8)
            began = time.perf_counter()
            with socket.create_connection(listening.getsockname()):
                after = await asyncio.wait_for(taken, 20) - began
            server.close()
            await server.wait_closed()
        return after

    with another(path):
        for own, least in ((4, 0.02), (3, 0.0)):
            with asyncio.Runner(loop_factory=partial(SharedPortLoop, path)) as runner:
                assert runner.run(taken_after(own)) >= least


def test_a_worker_that_has_ended_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    ConnectionCounts.create(path)
    with another(path) as other:
        counts = ConnectionCounts(path)
        counts.add(3)
        assert not counts.another_has_fewer()
        counts.add(1)
        assert counts.another_has_fewer()
        other.kill()
    assert not counts.another_has_fewer()
    with another(path):
        assert counts.another_has_fewer()
        counts.add(-1)
        assert not counts.another_has_fewer()
