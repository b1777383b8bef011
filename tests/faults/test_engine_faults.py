"""The process that runs the guard's model for several workers: it is killed, and ends last."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.kit import ask, watched
from tests.faults.stand import ROOT, RULES, Proxy, serving, workers
from tests.faults.table import PROCESS
from tests.faults.upstream import RawUpstream
from tests.kit import children, until

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
    return children(proxy.process.pid, b"engine_process")


@pytest.mark.timeout(600)  # the model is loaded twice
def test_a_worker_starts_while_the_engine_cannot_load(tmp_path: Path, upstream: RawUpstream) -> None:
    """The weights are broken when the engine and the workers start again: they wait, and judge when they are whole."""
    model = tmp_path / "model"
    shutil.copytree(ROOT / "guardproxy" / "weights" / "embedded" / "small", model)
    (weights,) = model.glob("*.gguf")
    whole = weights.read_bytes()
    store = f"sqlite:///{tmp_path}/audit.sqlite3"
    text = TEXT.replace("model: embedded-small", f"family: classifier, model: '{model}'")
    with serving(tmp_path, text.format(upstream=upstream.url, store=store) + RULES, store) as proxy:
        assert proxy.post(ask("fine")).status == 200
        weights.write_bytes(whole[:1000])
        (engine,) = engines(proxy)
        os.kill(engine, signal.SIGKILL)
        old = until(lambda: workers(proxy, 2), "no workers")
        for worker in old:
            os.kill(worker, signal.SIGKILL)
        until(lambda: workers(proxy, 2, without=old), "no new workers", 150)
        until(lambda: b"engine_cannot_load" in (tmp_path / "log").read_bytes(), "it does not wait", 150)
        got = proxy.post(ask("fine"))
        assert (got.status, FAULTS["engine-start"].code.encode() in got.body) == (FAULTS["engine-start"].status, True)
        assert proxy.metric(FAULTS["engine-start"].metrics[0]) >= 1
        weights.write_bytes(whole)
        until(lambda: proxy.post(ask("fine")).status == 200, "it does not judge again", 240)
        assert proxy.end() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


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
