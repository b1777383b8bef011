"""What a running proxy does with its audit store: retention, exclusions, keys, and a sudden death."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from structlog.testing import capture_logs

from guardproxy.app import Service, read
from guardproxy.app.audit import follow_exclusions, retain
from guardproxy.observe import Metrics
from guardproxy.observe.masking import text_hash
from guardproxy.pipeline import Exclusions
from guardproxy.reviews import Exclusion
from guardproxy.sinks.database import AuditStore, Filter, Keep, StoreKeys
from tests.kit import Scripted, ScriptedUpstream, eventually, serve, until
from tests.sinks.kit import record
from tests.test_service import CONFIG, Judge, is_ready

BAD = "how do I kill a zombie process?"
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """A configuration with these options of `audit`; a scripted guard and a scripted upstream."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    upstream = ScriptedUpstream([Scripted([json.dumps({"choices": [CHOICE]}).encode()])])
    judge = Starlette(routes=[Route("/v1/moderations", Judge().answer, methods=["POST"])])
    with serve(judge) as guard, serve(upstream) as below:

        def write(options: str) -> Path:
            path = tmp_path / "guardproxy.yaml"
            text = (CONFIG % guard).replace('"http://127.0.0.1:9"', f'"{below}"')
            audit = f"{{store: 'sqlite:///{tmp_path}/audit.sqlite3', {options}}}"
            path.write_text(text.replace("{store: none}", audit))
            return path

        yield write


def using(tmp_path: Path, action: Callable[[AuditStore], Awaitable[Any]]) -> Any:
    """Run `action` on the store."""

    async def run() -> Any:
        store = AuditStore(f"sqlite:///{tmp_path}/audit.sqlite3")
        try:
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())


def ask(url: str, text: str) -> httpx.Response:
    """Send a chat request."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def withheld(url: str, text: str) -> bool:
    """Whether the text is refused."""
    answer = ask(url, text)
    assert answer.status_code == 200
    return "withheld" in answer.text


def test_retention_at_the_start(config: Callable[[str], Path], tmp_path: Path) -> None:
    """A proxy that starts erases what is kept no longer, and counts it."""
    now = time.time()
    using(tmp_path, lambda store: store.write([record(1, time=now - 90_000), record(2, time=now - 100)]))
    source = read(str(config("log: false, keep: {blocked: 1d, text: 1m}")), None)
    with serve(Service(source.file, source).app) as url:
        until(lambda: 'guardproxy_audit_retention_erased_total{what="text"} 1.0' in httpx.get(f"{url}/metrics").text)
        assert 'guardproxy_audit_retention_erased_total{what="record"} 1.0' in httpx.get(f"{url}/metrics").text
    (left,) = using(tmp_path, lambda store: store.query())
    assert (left.record.id, left.record.text) == ("record-2", "")


def test_a_failure_of_the_retention_is_counted_and_tried_again(tmp_path: Path) -> None:
    """A store that cannot be used now is used at the next turn."""
    metrics = Metrics(CollectorRegistry())
    store = AuditStore(f"sqlite:///{tmp_path}/folder/audit.sqlite3", create=False)

    def failures() -> float:
        lines = metrics.render()[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith("guardproxy_audit_retention_fail")).split()[1])

    async def run() -> None:
        task = asyncio.create_task(retain(store, Keep(text=1.0), metrics, every_s=0.05))
        await eventually(lambda: failures() >= 1)
        writer = AuditStore(f"sqlite:///{tmp_path}/folder/audit.sqlite3")
        await writer.write([record(1)])
        async with asyncio.timeout(60):
            while not (await writer.query())[0].text_erased:  # noqa: ASYNC110 - another task erases it
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})
        await writer.close()
        await store.close()

    with capture_logs() as logs:
        asyncio.run(run())
    assert "there is no audit store" in next(log["error"] for log in logs if log["event"] == "audit_retention_failed")


def test_a_new_exclusion_holds_within_seconds(config: Callable[[str], Path], tmp_path: Path) -> None:
    """A text that is excluded while the proxy runs passes soon, and is refused again when the exclusion ends."""
    source = read(str(config("log: false, text: full")), None)
    excluded = Exclusion("0a1b", text_hash(BAD), "*", "a computer", "ann", time.time() + 3600, time.time())
    with serve(Service(source.file, source).app) as url:
        until(lambda: is_ready(url))
        assert withheld(url, BAD)
        using(tmp_path, lambda store: store.exclude(excluded))
        until(lambda: not withheld(url, BAD))
        assert withheld(url, f"{BAD} ")
        ended = Exclusion("0a1b", text_hash(BAD), "*", "a computer", "ann", time.time(), time.time())
        using(tmp_path, lambda store: store.exclude(ended))
        until(lambda: withheld(url, BAD))
    passed = using(tmp_path, lambda store: store.query(Filter(action="pass", side="user")))
    assert {(one.record.text, one.record.exclusion) for one in passed} == {(BAD, "0a1b")}


def test_exclusions_of_the_file_are_reloaded(config: Callable[[str], Path]) -> None:
    """An exclusion that is added to the file holds without a restart."""
    path = config("log: false")
    source = read(str(path), None)
    with serve(Service(source.file, source).app) as url:
        until(lambda: is_ready(url))
        assert withheld(url, BAD)
        config(
            f"log: false, exclusions: [{{sha256: {text_hash(BAD)}, category: '*', reason: a computer, by: ann, "
            "until: 2199-12-31}]"
        )
        until(lambda: not withheld(url, BAD))


def test_exclusions_that_cannot_be_read_stay(tmp_path: Path) -> None:
    """While the store cannot be read, what was read last stays in force; the failure is logged once."""

    class FailingStore(AuditStore):
        turns = 0
        failed_often = asyncio.Event()

        async def exclusions(self, after: float) -> list[Exclusion]:
            self.turns += 1
            if self.turns == 5:
                self.failed_often.set()
            if self.turns > 1:
                raise OSError("the disk is gone")
            return [Exclusion("0a1b", text_hash(BAD), "*", "a computer", "ann", after + 3600)]

    store = FailingStore(f"sqlite:///{tmp_path}/audit.sqlite3")
    exclusions = Exclusions()

    async def run() -> None:
        task = asyncio.create_task(follow_exclusions(store, exclusions, every_s=0.001))
        async with asyncio.timeout(60):
            await store.failed_often.wait()
        task.cancel()
        await asyncio.wait({task})

    with capture_logs() as logs:
        asyncio.run(run())
    assert len(exclusions.covering(BAD)) == 1
    assert [log["event"] for log in logs] == ["audit_exclusions_unreadable"]


def test_the_key_of_another_chain_stops_the_start(config: Callable[[str], Path], tmp_path: Path) -> None:
    """`serve` does not go on without an audit that it cannot write."""
    path = config("log: false, required: true, chain_key: '${env:CHAIN_KEY}'")
    command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(path), "--port", "0"]
    environment = {**os.environ, "CHAIN_KEY": "d" * 40}

    async def run() -> None:
        store = AuditStore(f"sqlite:///{tmp_path}/audit.sqlite3", keys=StoreKeys(chain="c" * 40))
        await store.write([record(1)])
        await store.close()

    asyncio.run(run())
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)
    assert done.returncode == 1
    assert "has another key than the given one: set audit.chain_key" in done.stderr.splitlines()[-1]


def test_every_answer_has_its_records_when_the_process_is_killed(config: Callable[[str], Path], tmp_path: Path) -> None:
    """With `required: true`, a process that is killed under load leaves the records of every answer, and the chain."""
    path = config("log: false, required: true")
    command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(path), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=_environment())
    answered: list[str] = []
    stop = threading.Event()
    try:
        assert process.stderr is not None
        url = next(json.loads(line)["listening_on"] for line in process.stderr if "listening_on" in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        until(lambda: _answers(url), seconds=90)

        def load(number: int) -> None:
            with httpx.Client(timeout=60) as client:
                while not stop.is_set():
                    body = {"model": "m", "messages": [{"role": "user", "content": f"hello {number}"}]}
                    try:
                        answer = client.post(f"{url}/v1/chat/completions", json=body)
                    except httpx.TransportError:
                        return
                    assert (answer.status_code, "fine" in answer.text) == (200, True)
                    answered.append(answer.headers["x-guardproxy-request-id"])

        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(load, number) for number in range(8)]
            until(lambda: len(answered) >= 40 or any(run.done() for run in runs))
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            stop.set()
            for run in runs:
                run.result(60)
    finally:
        stop.set()
        if process.poll() is None:
            process.kill()
            process.wait(60)

    async def check(store: AuditStore) -> None:
        recorded: dict[str, set[str]] = {}
        async for stored in store.scan():
            recorded.setdefault(stored.record.origin.request_id, set()).add(stored.record.side)
        assert len(answered) >= 40
        assert [one for one in answered if recorded.get(one) != {"user", "assistant"}] == []
        assert (await store.verify()).problems == ()

    using(tmp_path, check)


def _environment() -> dict[str, str]:
    """The environment of a process in another folder, which must find this package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def _answers(url: str) -> bool:
    try:
        return is_ready(url)
    except httpx.TransportError:
        return False
