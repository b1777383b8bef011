"""Alerts of a running proxy with two workers, whose receivers are killed, and which is killed itself."""

import asyncio
import base64
import os
import re
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from guardproxy.sinks.database import AuditStore, Filter
from tests.alerts.receiving import running, taken
from tests.certificates import Authority
from tests.e2e.guarded import BAD, guarded
from tests.kit import free_port, until

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
MORE = """
server: {port: %d, workers: 2}
alerts:
  conditions:
    blocked: {action: block}
    many: {action: block, count: 5, within_s: 3600, per: client}
  receivers:
    hook: {webhook: "http://127.0.0.1:%d/alerts", secret: "${env:ALERTS_SECRET}", every_s: 0}
    siem: {syslog: "localhost:%d", conditions: [blocked], every_s: 0, tls: {ca: "%s"}}
"""


def blocked(folder: Path) -> set[str]:
    """The ids of the blocked records in the store."""

    async def run() -> set[str]:
        store = AuditStore(f"sqlite:///{folder}/audit.sqlite3", create=False)
        found = await store.query(Filter(action="block"), limit=1000)
        await store.close()
        return {one.record.id for one in found}

    return asyncio.run(run())


class Receivers:
    """The files of both receivers, and what is in them."""

    def __init__(self, folder: Path) -> None:
        self.hook, self.siem = folder / "hook", folder / "siem"

    def hooked(self, condition: str) -> list[tuple[str, str]]:
        """The ids of the alerts of a condition that the webhook has, each with its record's."""
        alerts = [alert for message in taken(self.hook) for alert in message["body"]["data"]["alerts"]]
        return [(alert["id"], alert["record"]["id"]) for alert in alerts if alert["condition"] == condition]

    def logged(self) -> list[tuple[str, str]]:
        """The ids of the alerts that the syslog server has, each with its record's."""
        found = [re.search(r"externalId=(\w+) .* cs5=(\w+) cs5Label=record", line) for line in taken(self.siem)]
        return [(one[1], one[2]) for one in found if one]

    def have(self, records: set[str]) -> bool:
        """Whether both have an alert about each of these records."""
        return all({record for _, record in told} >= records for told in (self.hooked("blocked"), self.logged()))


def block(url: str, times: int) -> None:
    """Send turns that are blocked, over new connections, so that both workers get some."""
    for number in range(times):
        body = {"model": "m", "messages": [{"role": "user", "content": f"{BAD} {number}"}]}
        headers = {"authorization": "Bearer a-key-of-a-client"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, trust_env=False, timeout=30)
        assert answer.headers["x-guardproxy-action"] == "block"


def test_nothing_is_lost_when_receivers_and_the_proxy_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every blocked turn in the store is told to both; once while nobody is killed, and later with the same id.

    A count over both workers goes on behind the kill. Requests are answered while the receivers take nothing.
    """
    monkeypatch.setenv("GUARD_KEY", "a-key")
    monkeypatch.setenv("ALERTS_SECRET", SECRET)
    authority = Authority(tmp_path)
    pair, receivers = authority.issue("server"), Receivers(tmp_path)
    port, hook, siem = free_port(), free_port(), free_port()
    url, more = f"http://127.0.0.1:{port}", MORE % (port, hook, siem, authority.file)

    def start(stack: ExitStack) -> list[int]:
        arguments = (("webhook", hook, receivers.hook, SECRET), ("syslog", siem, receivers.siem, pair.cert, pair.key))
        return [stack.enter_context(running(*one)).pid for one in arguments]

    with ExitStack() as first:
        pids = start(first)
        with guarded(tmp_path, "http://127.0.0.1:9", more, f"{url}/readyz") as process:
            block(url, 6)
            until(lambda: len(stored := blocked(tmp_path)) == 6 and receivers.have(stored))
            assert len(receivers.hooked("blocked")) == len(receivers.logged()) == 6  # by one of the workers
            until(lambda: len(receivers.hooked("many")) == 1)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)  # they accept connections, and read nothing
            block(url, 2)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            block(url, 2)
            until(lambda: len(blocked(tmp_path)) == 10)
            os.killpg(process.pid, signal.SIGKILL)
    with ExitStack() as second, guarded(tmp_path, "http://127.0.0.1:9", more, f"{url}/readyz"):
        start(second)
        until(lambda: receivers.have(blocked(tmp_path)))
        until(lambda: len({*receivers.hooked("many")}) == 2)  # the tenth block is the second time five
    for told in (receivers.hooked("blocked"), receivers.logged()):
        assert len({*told}) == 10  # each record has one id, however often it was sent
        assert max(Counter(told).values()) <= 2
