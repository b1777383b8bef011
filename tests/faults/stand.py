"""`guardproxy serve` in a process of its own, a guard's service in another, and what is seen of them from outside."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from guardproxy.sinks.database import AuditStore
from guardproxy.types import Record
from tests.kit import children, free_port, until, workers_of

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
CONFIG = """\
version: 1
server: {{host: 127.0.0.1, {server}}}
upstream: {{url: "{upstream}", {limits_of_upstream}}}
guard:
  family: openai_moderation
  timeout_s: 3
  service: {{key: "${{env:GUARD_KEY}}", url: "{guard}", attempts: 2}}
limits: {{{limits}}}
policies:
  default: {{unsafe: {{block: 0.5}}}}
  errors: {{unsafe: {{block: 0.5}}, block: {{how: error}}}}
  held: {{unsafe: {{block: 0.5}}, stream: {{mode: hold_all}}}}
  monitored: {{unsafe: {{block: 0.5}}, stream: {{mode: monitor}}}}
routes:
  - {{name: errors, policy: errors, when: {{model: "errors:*"}}}}
  - {{name: held, policy: held, when: {{model: "held:*"}}}}
  - {{name: monitored, policy: monitored, when: {{model: "monitored:*"}}}}
audit: {{{audit}}}
console: {{enabled: false}}
log: {{format: json}}
"""
RULES = """\
policies:
  default: {unsafe: {block: 0.5}}
console: {enabled: false}
log: {format: json}
"""


@dataclass
class Started:
    """A process, and the port that it listens on."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end of the process."""
        self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def guard_process(port: int = 0) -> Iterator[Started]:
    """Run the guard's service until the end of the context."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.faults.guard", str(port)]
    started = Started(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL), port)
    try:
        until(lambda: _listens(port), "the guard's service does not listen")
        yield started
    finally:
        started.end(signal.SIGKILL)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def replica_process(folder: Path, guard: str, port: int = 0) -> Iterator[Started]:
    """Run `guardproxy guard`, which asks the guard's service at the URL `guard`, until the end of the context."""
    port = port or free_port()
    config = folder / f"replica-{port}.yaml"
    service = f'service: {{key: "${{env:GUARD_KEY}}", url: "{guard}", attempts: 1}}'
    config.write_text(f"version: 1\nguard: {{family: openai_moderation, {service}}}\naudit: {{store: none}}\n" + RULES)
    arguments = ["-m", "guardproxy", "guard", "--port", str(port), "--config", str(config), "--data-dir", str(folder)]
    with (folder / f"replica-{port}.log").open("ab") as log:
        env = {**os.environ, "GUARD_KEY": "a-key"}
        process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, cwd=ROOT, env=env)
    started = Started(process, port)
    try:
        yield started
    finally:
        started.end(signal.SIGKILL)


@dataclass
class Proxy(Started):
    """A running proxy. `folder` has its configuration, its log and its store."""

    folder: Path
    store: str

    def post(self, body: Mapping[str, Any], path: str = CHAT, timeout_s: float = 60.0) -> "Got":
        """The answer to a request, as far as it comes."""
        got = Got()
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            with httpx.stream("POST", f"{self.url}{path}", json=body, timeout=timeout_s) as answer:
                got.status, got.headers = answer.status_code, answer.headers
                for piece in answer.iter_raw():
                    got.body += piece
            got.ended = True
        return got

    def metric(self, name: str) -> float:
        """The value of a metric, 0 if it was never counted."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
        return next((float(value) for key, _, value in lines if key == f"guardproxy_{name}"), 0.0)

    def records(self) -> list[Record]:
        """The records in the store."""

        async def read() -> list[Record]:
            opened = AuditStore(self.store, create=False)
            found = [stored.record async for stored in opened.scan()]
            await opened.close()
            return found

        return asyncio.run(read())

    def records_of(self, request_id: str) -> list[Record]:
        """The records of a request."""
        return [record for record in self.records() if record.origin.request_id == request_id]

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log, without those that are cut."""
        found = []
        for line in (self.folder / "log").read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def rss(self) -> int:
        """The memory of the process, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def sockets(self) -> int:
        """The number of open sockets."""
        count = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):
                count += str(entry.readlink()).startswith("socket:")
        return count

    def counts(self) -> "Counts":
        """What the process holds now."""
        names = ("event_loop_tasks", "held_bytes", "streams_held")
        return Counts(self.sockets(), *(int(self.metric(name)) for name in names))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a proxy holds: open sockets, tasks of its event loop, bytes of replies that wait, streams that wait."""

    sockets: int
    tasks: int
    held_bytes: int
    streams: int


@dataclass
class Got:
    """What a client got. `status` is 0 without an answer; `ended`: the answer is complete."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def request_id(self) -> str:
        """The id of the request in records and in the log."""
        return self.headers["x-guardproxy-request-id"]


@contextmanager
def proxy_process(
    folder: Path,
    upstream: str,
    guard: str,
    *,
    env: Mapping[str, str] | None = None,
    store: str = "",
    required: bool = False,
    **options: str,
) -> Iterator[Proxy]:
    """Run a proxy until the end of the context. `options` are the holes of CONFIG."""
    store = store or f"sqlite:///{folder}/audit.sqlite3"
    audit = f"store: '{store}', required: {str(required).lower()}"
    holes = {"server": "", "limits_of_upstream": "", "limits": "", "audit": audit, **options}
    with serving(folder, CONFIG.format(upstream=upstream, guard=guard, **holes), store, env) as proxy:
        yield proxy


@contextmanager
def serving(folder: Path, text: str, store: str, env: Mapping[str, str] | None = None) -> Iterator[Proxy]:
    """Run a proxy with this configuration until the end of the context; it keeps its files in `folder`."""
    config = folder / "guardproxy.yaml"
    config.write_text(text)
    port = free_port()
    arguments = ["-m", "guardproxy", "serve", "--port", str(port), "--data-dir", str(folder), "--config", str(config)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "GUARD_KEY": "a-key", **(env or {})},
        )
        proxy = Proxy(process, port, folder, store)
        try:
            until(lambda: _ready(proxy), "the proxy is not ready", 150)
            yield proxy
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _ready(proxy: Proxy) -> bool:
    assert proxy.process.poll() is None, (proxy.folder / "log").read_text()
    with suppress(httpx.TransportError):
        return httpx.get(f"{proxy.url}/readyz", timeout=60).status_code == 200
    return False


def workers(proxy: Proxy, count: int, without: Sequence[int] = ()) -> list[int]:
    """The ids of the worker processes, empty if there are not `count` of them."""
    found = [number for number in workers_of(proxy.process.pid) if number not in without]
    return found if len(found) == count else []


def readers(proxy: Proxy) -> list[int]:
    """The ids of the processes that read long texts."""
    return children(proxy.process.pid, b"guardproxy.apart")
