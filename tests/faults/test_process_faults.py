"""What befalls the proxy's own process: no descriptors, no log, another time, half a configuration, signals."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.faults.kit import Watched, ask, watched
from tests.faults.raw import request, until_closed
from tests.faults.stand import Proxy, Started, proxy_process, readers, workers
from tests.faults.table import PROCESS
from tests.faults.upstream import RawUpstream
from tests.kit import forking, until

FAULTS = {fault.name: fault for fault in PROCESS}
CLIENTS = 12
YEARS_S = 10 * 365 * 86_400
TIMEOUT_S = 3  # `guard.timeout_s`
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SLOW = " ".join("".join(Random(number).choices(BASE58, k=40)) for number in range(12_000))  # half a minute of views
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")  # Debian's package `libfaketime`


def set_clock(folder: Path, offset_s: int) -> None:
    """Set the clock of the proxy. At once: libfaketime ends a process that reads half of the file."""
    (folder / "new").write_text(f"{offset_s:+d}")
    (folder / "new").replace(folder / "time")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream, guard: Started) -> Iterator[Proxy]:
    """A proxy with a few connections and a clock that a file sets, if libfaketime is there."""
    folder = tmp_path_factory.mktemp("process")
    set_clock(folder, 0)
    env = {
        "LD_PRELOAD": str(FAKETIME) if FAKETIME.exists() else "",
        "FAKETIME_TIMESTAMP_FILE": str(folder / "time"),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    with proxy_process(
        folder,
        upstream.url,
        guard.url,
        env=env,
        server=f"max_connections: {CLIENTS}, header_timeout_s: 30",
        limits_of_upstream="timeouts: {first_byte_s: 2.5}",
    ) as running:
        yield running


def test_the_process_of_long_texts_is_killed(proxy: Proxy) -> None:
    """Its text counts as one that the guard could not judge; the next one is judged by another process."""
    with watched(proxy, FAULTS["reader"]) as seen, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(proxy.post, ask("fine", SLOW))
        first = until(lambda: [one for one in readers(proxy) if _cpu_s(one) > 0.5], "no process")
        assert not waiting.done()
        for number in first:
            os.kill(number, signal.SIGKILL)
        seen.answered(waiting.result(60))
        assert proxy.post(ask("fine", "a long way " * 30_000)).status == 200
        again = readers(proxy)
        assert again
        assert not set(first) & set(again)


def test_a_long_text_takes_too_long_to_read(proxy: Proxy) -> None:
    """Twice, and all the while other clients' texts are read, which are long as well, but not as long."""
    proxy.post(ask("fine", "a long way " * 6500))  # starts their process
    with watched(proxy, FAULTS["reading"]) as seen, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(proxy.post, ask("fine", SLOW)) for _ in range(2)]
        beside = 0
        while not all(one.done() for one in waiting):
            assert proxy.post(ask("fine", "a long way " * 6500)).status == 200  # within the time of a check
            beside += 1
        assert beside
        answers = [one.result() for one in waiting]
        # The second of one client has waited for the first; whom others have kept waiting may come again.
        assert sorted(answer.status for answer in answers) in ([413, 413], [413, 503])
        seen.answered(next(answer for answer in answers if answer.status == 413))
        until(lambda: all(_cpu_s(one) < TIMEOUT_S for one in readers(proxy)), "the process goes on")
        assert proxy.post(ask("fine", "a long way " * 30_000)).status == 200


def test_descriptors_run_out(proxy: Proxy) -> None:
    """New clients are turned away, the one that is connected is served, and all are when there are descriptors."""
    process = proxy.process.pid
    with watched(proxy, FAULTS["descriptors"]), ExitStack() as stack, httpx.Client(timeout=60) as old:
        assert old.get(f"{proxy.url}/healthz").status_code == 200
        used = max(int(entry.name) for entry in Path(f"/proc/{process}/fd").iterdir()) + 1
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (used + 3, before[1]))
        for _ in range(CLIENTS - 4):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 60))
        time.sleep(0.3)
        assert old.get(f"{proxy.url}/healthz").status_code == 200
        spent = _cpu_s(process)
        time.sleep(0.5)
        assert _cpu_s(process) - spent < 0.4  # it does not try again and again without a pause
        stack.close()
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        until(lambda: _is_served(proxy), "not served")


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_served(proxy: Proxy) -> bool:
    try:
        return proxy.post(ask("fine")).status == 200
    except httpx.TransportError:
        return False


def test_too_many_clients(proxy: Proxy) -> None:
    """One too many is refused; when others have left, it is served."""
    name = FAULTS["connections"].metrics[0]
    before = proxy.metric(name)
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 60))
        got = until_closed(proxy, request(ask("fine")))
    assert got.status in {503, 0}  # a reset may overtake the answer
    until(lambda: _is_served(proxy), "not served")
    assert proxy.metric(name) > before


def test_the_log_cannot_be_written(proxy: Proxy) -> None:
    """Files may not grow: the log and the store fail. Answers are given as before."""
    with watched(proxy, FAULTS["log"]) as seen:
        process = proxy.process.pid
        body = ask("fine")
        store_file = Path(proxy.store.removeprefix("sqlite:///"))
        size = max(path.stat().st_size for path in store_file.parent.iterdir() if path.is_file())
        got = proxy.post(body)
        seen.answered(got)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (min(4096, size), resource.RLIM_INFINITY))
        errors = [proxy.post(ask(model)).status for model in ("closes", "fine")]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert errors == [502, 200]


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
def test_the_clock_jumps(proxy: Proxy) -> None:
    """Records have the times of the clock, in the order of their writing; no time-out comes early or late."""
    with watched(proxy, FAULTS["clock"]) as seen:
        times = []
        for offset in (YEARS_S, -YEARS_S, 0):
            set_clock(proxy.folder, offset)
            got = proxy.post(ask("fine"))
            seen.answered(got)
            times.append(seen.recorded(got.request_id)[0].time - time.time() - offset)
            began = time.monotonic()
            assert proxy.post(ask("silent")).status == 504
            assert time.monotonic() - began > 0.9
    assert [round(difference / 100) for difference in times] == [0, 0, 0]
    command = [sys.executable, "-m", "guardproxy", "audit", "verify", "--data-dir", str(proxy.folder)]
    assert subprocess.run(command, check=False, timeout=150, capture_output=True).returncode == 0


def test_the_configuration_is_half_written(proxy: Proxy) -> None:
    """The old policies stay in force until the file is whole again."""
    config = proxy.folder / "guardproxy.yaml"
    whole = config.read_text()
    version = httpx.get(f"{proxy.url}/healthz").json()["policy"]
    with watched(proxy, FAULTS["half-file"]) as seen:
        for cut in (whole[: whole.index("routes:")], whole[: whole.index("block: {how") + 3]):
            refused = _logged(proxy, "reload_refused")
            config.write_text(cut)
            until(lambda refused=refused: _logged(proxy, "reload_refused") > refused, "not refused")  # type: ignore[misc]
            assert httpx.get(f"{proxy.url}/healthz").json()["policy"] == version
        assert b"content_filter" in proxy.post(ask("fine", "how to mix poison")).body
        seen.answered(proxy.post(ask("fine")))
        reloaded = _logged(proxy, "policies_reloaded")
        config.write_text(whole.replace("block: 0.5", "block: 0.6"))
        until(lambda: _logged(proxy, "policies_reloaded") > reloaded, "not reloaded")


def _logged(proxy: Proxy, event: str) -> int:
    return sum(line["event"] == event for line in proxy.log())


@pytest.mark.parametrize("name", ["stop", "stop-late", "stop-silent"])
def test_sigterm_under_load(tmp_path: Path, upstream: RawUpstream, guard: Started, name: str) -> None:
    """New clients are refused; what runs ends within the grace, or with an error of its protocol; all is stored."""
    fault = FAULTS[name]
    model = {"stop": "steady", "stop-late": "stalls", "stop-silent": "silent"}[name]
    grace = "grace_s: 20" if name == "stop" else "grace_s: 1"
    with (
        proxy_process(tmp_path, upstream.url, guard.url, server=grace) as proxy,
        ThreadPoolExecutor(5) as pool,
    ):
        asked = len(upstream.asked)
        waiting = [pool.submit(proxy.post, ask(model, stream=fault.stream)) for _ in range(5)]
        until(lambda: len(upstream.asked) == asked + 5, "not asked")
        time.sleep(0.3)
        began = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: not _is_served(proxy), "new clients are served")
        answers = [one.result(60) for one in waiting]
        proxy.process.wait(60)
    seen = Watched(proxy, fault)
    for got in answers:
        seen.answered(got)
    assert time.monotonic() - began < 50
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_worker_is_killed(tmp_path: Path, upstream: RawUpstream, guard: Started) -> None:
    """The other worker answers, and a new one is started."""
    with proxy_process(tmp_path, upstream.url, guard.url, server="workers: 2") as proxy:
        old = until(lambda: workers(proxy, 2), "no workers")
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 60)) for _ in range(8)]
            time.sleep(0.2)
            os.kill(old[0], signal.SIGKILL)
            time.sleep(0.2)
            closed = [client for client in clients if select.select([client], [], [], 0)[0]]
            assert [_received(client) for client in closed] == [FAULTS["worker"].status] * len(closed)
        until(lambda: _is_served(proxy), "not served")
        again = until(lambda: workers(proxy, 2, without=[old[0]]), "no new worker", 150)
        assert old[1] in again
        until(lambda: _is_served(proxy), "not served")


def test_the_process_from_which_workers_fork_is_killed(tmp_path: Path, upstream: RawUpstream, guard: Started) -> None:
    """No request is lost: the workers answer what they have begun, and new ones what comes."""
    with (
        proxy_process(tmp_path, upstream.url, guard.url, server="workers: 2") as proxy,
        ThreadPoolExecutor(4) as pool,
    ):
        old = until(lambda: workers(proxy, 2), "no workers")
        asked = len(upstream.asked)
        waiting = [pool.submit(proxy.post, ask("steady", stream=True)) for _ in range(4)]
        until(lambda: len(upstream.asked) == asked + 4, "not asked")
        (killed,) = forking(proxy.process.pid)
        os.kill(killed, signal.SIGKILL)
        seen = Watched(proxy, FAULTS["forks"])
        for one in waiting:
            seen.answered(one.result(60))
        until(lambda: workers(proxy, 2, without=old), "no new workers", 150)
        until(lambda: not any(Path(f"/proc/{one}").exists() for one in old), "the old workers go on")
        assert [proxy.post(ask("fine")).status for _ in range(8)] == [200] * 8
        assert proxy.end() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_parent_of_workers_is_killed(tmp_path: Path, upstream: RawUpstream, guard: Started) -> None:
    """The workers answer what they have begun, and end: they would keep the port from the next server."""
    with (
        proxy_process(tmp_path, upstream.url, guard.url, server="workers: 2") as proxy,
        ThreadPoolExecutor(1) as pool,
    ):
        old = until(lambda: workers(proxy, 2), "no workers") + forking(proxy.process.pid)
        asked = len(upstream.asked)
        waiting = pool.submit(proxy.post, ask("steady", stream=True))
        until(lambda: len(upstream.asked) == asked + 1, "not asked")
        proxy.process.kill()
        Watched(proxy, FAULTS["parent"]).answered(waiting.result(60))
        until(lambda: not any(Path(f"/proc/{one}").exists() for one in old), "the workers go on")
        with socket.create_server(("127.0.0.1", proxy.port)):
            pass
    assert "Traceback" not in (tmp_path / "log").read_text()


def _received(client: socket.socket) -> int:
    """The number of bytes that have come."""
    try:
        return len(client.recv(100))
    except ConnectionError:
        return 0
