"""SIGTERM and SIGINT while the server starts: it ends at once, and leaves no process behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guardproxy.sinks.database.schema import create_file
from tests.faults.stand import ROOT, RULES
from tests.faults.table import PROCESS, STORE
from tests.kit import children, forking, free_port, until

TEXT = """\
version: 1
server: {workers: %d}
upstream: {url: "http://127.0.0.1:9"}
guard: {model: embedded-small, dtype: float32, threads: 1}
audit: {store: "sqlite:///%s/audit.sqlite3"}
"""
FAULT = next(fault for fault in PROCESS if fault.name == "stop-start")
PATTERNS = "family: patterns, patterns: {violence_hate: {words: [poison]}}"
# Without the capabilities that let root write what its permissions forbid.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
FIRST = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def started(folder: Path, command: str, *, workers: int = 1, first: bool = False) -> "subprocess.Popen[bytes]":
    """A server that begins to start. `first`: as the first process of a namespace, as in a container."""
    config = folder / "guardproxy.yaml"
    config.write_text(TEXT % (workers, folder) + RULES)
    arguments = ["--port", str(free_port()), "--config", str(config), "--data-dir", str(folder)]
    # A job in the background of a shell ignores SIGINT, and so would the server that it starts.
    begins = ["env", "--default-signal=INT", *(FIRST if first else [])]
    begins += [sys.executable, "-m", "guardproxy", command, *arguments]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(begins, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)


def catches(process: int, what: signal.Signals) -> bool:
    """Whether a process handles a signal."""
    status = (Path(f"/proc/{process}/status")).read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (what - 1) & 1)


def ended(process: "subprocess.Popen[bytes]", folder: Path, expected: int) -> None:
    """Assert that a server has ended in order, and no process of its session is left."""
    status = process.wait(60)
    log = (folder / "log").read_text()
    assert (status, FAULT.end) == (expected, "closed"), log
    assert "Traceback" not in log
    assert "Fatal" not in log
    until(lambda: not session(process.pid), f"left behind: {session(process.pid)}")


def session(leader: int) -> list[str]:
    """The processes of a session that run."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if folder.name.isdecimal() and int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(folder.name)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["serve", "guard"])
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_loads(tmp_path: Path, command: str, what: signal.Signals) -> None:
    """The model is not waited for, and its thread does not crash at the end of Python."""
    process = started(tmp_path, command)
    until(lambda: b"Uvicorn running" in (tmp_path / "log").read_bytes(), "it does not listen", 200)
    process.send_signal(what)
    ended(process, tmp_path, -signal.SIGTERM if what == signal.SIGTERM else 128 + signal.SIGINT)
    assert '"ready"' not in (tmp_path / "log").read_text()


@pytest.mark.timeout(300)
def test_the_first_process_of_a_container_is_stopped_while_it_imports(tmp_path: Path) -> None:
    """The kernel keeps signals without a handler from it, so there is one before anything is imported."""
    if os.getuid() or not shutil.which("unshare") or subprocess.run([*FIRST, "true"], check=False).returncode:
        pytest.skip("needs root, and namespaces of processes")
    process = started(tmp_path, "serve", first=True)
    (inner,) = until(lambda: children(process.pid), "it does not start")
    until(lambda: catches(inner, signal.SIGTERM), "SIGTERM is not handled")
    assert b"listening" not in (tmp_path / "log").read_bytes()
    os.kill(inner, signal.SIGTERM)
    ended(process, tmp_path, 128 + signal.SIGTERM)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True])
def test_workers_are_stopped_while_they_import(tmp_path: Path, what: signal.Signals, to_all: bool) -> None:
    """They serve nothing yet, so they end at once; so does the process of the guard's model.

    A terminal sends SIGINT to all processes of its group, which are their parent's.
    """
    process = started(tmp_path, "serve", workers=2)
    until(lambda: b"Started parent" in (tmp_path / "log").read_bytes(), "it does not start", 200)
    until(lambda: forking(process.pid), "it does not fork")
    (os.killpg if to_all else os.kill)(process.pid, what)
    ended(process, tmp_path, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("file", "folder"), [(0o400, 0o700), (0o600, 0o500), (0o400, 0o500)])
def test_a_store_without_permission_to_write_it(tmp_path: Path, file: int, folder: int) -> None:
    """The start ends at once, and says which file or folder cannot be written and what to do."""
    needed = next(fault for fault in STORE if fault.name == "no-permission")
    config, place, log = tmp_path / "guardproxy.yaml", tmp_path / "store", tmp_path / "log"
    config.write_text(
        (TEXT % (1, place)).replace("model: embedded-small, dtype: float32, threads: 1", PATTERNS) + RULES
    )
    place.mkdir()
    create_file(place / "audit.sqlite3")
    for path, mode in ((place / "audit.sqlite3", file), (place, folder)):
        path.chmod(mode)
    line = [
        *UNPRIVILEGED,
        sys.executable,
        "-m",
        "guardproxy",
        "serve",
        "--port",
        str(free_port()),
        "--config",
        str(config),
    ]
    with log.open("wb") as output:
        status = subprocess.run(line, stdout=output, stderr=output, cwd=ROOT, timeout=60, check=False).returncode
    place.chmod(0o700)
    said = log.read_text().splitlines()[-1]
    assert (status, needed.end) == (1, "closed"), said
    assert f"{place if file == 0o600 else place / 'audit.sqlite3'} cannot be written: give the user" in said
