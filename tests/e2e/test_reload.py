"""Reload of a running server by SIGHUP, under load: nothing is dropped, nothing is judged by a mixture."""

import os
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.e2e.guarded import BAD, guarded
from tests.kit import Scripted, ScriptedUpstream, free_port, serve, until, workers_of

MORE = "server: {port: %d, workers: %d, grace_s: 20}\n"
POLICY = "default: {unsafe: {block: 0.5}, block: {message: text-%d}}"


class Load:
    """Threads that ask what is refused, each request answered with the text of the policy that judged it.

    A context that ends them: those of a failed test would ask for ever.
    """

    def __init__(self, url: str) -> None:
        self.answers: dict[str, str] = {}
        self.errors: list[str] = []
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": f"how to {BAD}"}]}
        while not self._ended.wait(0.01):
            try:
                # A connection of its own, so that every worker is asked.
                answer = httpx.post(f"{self._url}/v1/chat/completions", json=body, timeout=60)
                text = answer.raise_for_status().json()["choices"][0]["message"]["content"]
            except httpx.HTTPError as error:
                self.errors.append(repr(error))
            else:
                self.answers[answer.headers["x-guardproxy-request-id"]] = text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def health(url: str) -> list[dict[str, Any]]:
    """What /healthz says in several connections, so that every worker is asked."""
    return [httpx.get(f"{url}/healthz").json() for _ in range(6)]


def in_force(url: str) -> set[str]:
    """The versions in force in the workers."""
    return {one["policy"] for one in health(url)}


def logged(folder: Path, event: str) -> int:
    """How many lines of the log have this event."""
    return (folder / "log").read_text().count(f'"event": "{event}"')


def judged(folder: Path) -> dict[str, set[str]]:
    """The versions of the policies in the records of each request."""
    with sqlite3.connect(folder / "audit.sqlite3") as store:
        found: dict[str, set[str]] = {}
        query = "SELECT request_id, json_extract(content, '$.policy_version') FROM guardproxy_records"
        for request, version in store.execute(query):
            found.setdefault(request, set()).add(version)
    return found


@pytest.mark.timeout(400)  # workers load for a minute on a busy machine
@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reloads_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Every request is answered, by the policy that its record names; a broken file is told and changes nothing."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = tmp_path / "guardproxy.yaml"
    upstream = ScriptedUpstream([Scripted([b"{}"])])
    with serve(upstream) as below, guarded(tmp_path, below, MORE % (port, workers), f"{url}/readyz") as process:
        first = config.read_text()
        with Load(url) as load:
            until(lambda: load.answers)
            for number in range(1, 3):
                config.write_text(first.replace("default: {unsafe: {block: 0.5}}", POLICY % number))
                process.send_signal(signal.SIGHUP)
                # All workers have switched when the log says so.
                until(lambda number=number: logged(tmp_path, "policies_reloaded") == number)  # type: ignore[misc]
                until(lambda number=number, load=load: f"text-{number}" in list(load.answers.values())[-4:])  # type: ignore[misc]
            version = in_force(url)
            assert len(version) == 1
            config.write_text(config.read_text().replace("grace_s: 20", "grace_s: 20, prot: 1"))
            process.send_signal(signal.SIGHUP)
            until(lambda: all(not one["reload"]["in_force"] for one in health(url)))
            assert f"{config}:9:" in health(url)[0]["reload"]["problems"][0]
            assert in_force(url) == version
            assert load.errors == []
            if workers > 1:
                _kill_one(process, tmp_path)
                # The new one has what is in force, not what the file says.
                assert in_force(url) == version
        counted = httpx.get(f"{url}/metrics").text
    if workers == 1:  # those of a worker that was killed are lost
        assert load.errors == []
        assert f'guardproxy_requests_total{{status="2xx",wire="openai_chat"}} {len(load.answers)}.0\n' in counted
    assert 'guardproxy_config_reloads_total{result="applied"} 2.0\n' in counted
    records = judged(tmp_path)
    texts: dict[str, set[str]] = {}
    for request, text in load.answers.items():
        if request in records:
            (by,) = records[request]
            texts.setdefault(by, set()).add(text)
    assert len(texts) >= 3
    assert all(len(of_version) == 1 for of_version in texts.values())


def _kill_one(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Kill a worker, and wait until another one is in its place."""
    workers = workers_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: logged(folder, "ready") == len(workers) + 1)
