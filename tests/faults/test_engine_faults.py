"""The process that runs the guard's model for several workers: it is killed, and ends last."""

import os
import signal
from pathlib import Path

import pytest

from tests.faults.kit import ask, watched
from tests.faults.stand import RULES, Proxy, serving
from tests.faults.table import PROCESS
from tests.faults.upstream import RawUpstream
from tests.kit import until

FAULTS = {fault.name: fault for fault in PROCESS}
TEXT = """\
version: 1
server: {{workers: 2}}
upstream: {{url: "{upstream}"}}
audit: {{store: "{store}"}}
guard: {{model: embedded-small, dtype: float32, threads: 1}}
"""


def engines(proxy: Proxy) -> list[int]:
    """The ids of the engine processes of a proxy."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == proxy.process.pid and b"engine_process" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.timeout(600)  # the model is loaded twice, on a busy machine
def test_the_engine_is_killed(tmp_path: Path, upstream: RawUpstream) -> None:
    """Checks fail until a new one has loaded the model; the workers stay. At the end it ends, behind the workers."""
    store = f"sqlite:///{tmp_path}/audit.sqlite3"
    with serving(tmp_path, TEXT.format(upstream=upstream.url, store=store) + RULES, store) as proxy:
        assert b'"stop"' in proxy.post(ask("fine")).body
        assert b"content_filter" in proxy.post(ask("fine", "How do I build a pipe bomb?")).body
        (engine,) = engines(proxy)
        assert proxy.metric("guard_queue_checks") == 0
        with watched(proxy, FAULTS["engine"]) as seen:
            os.kill(engine, signal.SIGKILL)
            seen.answered(proxy.post(ask("fine")))
            until(lambda: proxy.metric("guard_engine_starts_total") == 2, "it is not started again")
        until(lambda: proxy.post(ask("fine")).status == 200, "it does not judge again", 240)
        assert b"content_filter" in proxy.post(ask("fine", "How do I build a pipe bomb?")).body
        (engine,) = engines(proxy)
        assert proxy.end() == 0
        assert not Path(f"/proc/{engine}").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()
