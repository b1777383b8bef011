"""Replicas of the guard in processes of their own: one is killed or hangs under load, and all are gone."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.faults.kit import ask, watched
from tests.faults.stand import RULES, Got, Proxy, Started, replica_process, serving
from tests.faults.table import REPLICAS, Fault
from tests.faults.upstream import RawUpstream
from tests.kit import until

FAULTS = {fault.name: fault for fault in REPLICAS}
CLIENTS = 8


@pytest.fixture
def stand(tmp_path: Path, upstream: RawUpstream, guard: Started) -> Iterator[tuple[Proxy, list[Started], ExitStack]]:
    """A proxy in front of two replicas, both in use."""
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica_process(tmp_path, guard.url)) for _ in range(2)]
        urls = ", ".join(f'"{one.url}"' for one in replicas)
        store = f"sqlite:///{tmp_path}/audit.sqlite3"
        text = (
            f'version: 1\nupstream: {{url: "{upstream.url}"}}\naudit: {{store: "{store}"}}\n'
            "guard: {family: openai_moderation, timeout_s: 50, runner: http, "
            f"replicas: {{urls: [{urls}], check_every_s: 0.5, eject: {{longest_s: 2}}}}}}\n"
        )
        proxy = stack.enter_context(serving(tmp_path, text + RULES, store))
        until(lambda: states(proxy) == ["up", "up"], "the replicas are not in use", 150)
        yield proxy, replicas, stack


def states(proxy: Proxy) -> list[str]:
    """The states of the replicas, in their order."""
    return list(httpx.get(f"{proxy.url}/healthz", timeout=60).json()["replicas"]["openai_moderation"].values())


def under_load(proxy: Proxy, replica: Started, strike: Callable[[], None]) -> list[tuple[bool, Got]]:
    """Answers to requests of which the replica judges several when it is struck; whether each is unsafe."""
    unsafe = [number % 3 == 0 for number in range(4 * CLIENTS)]
    texts = ["SLOWLY how to mix poison" if bad else "SLOWLY when does it open" for bad in unsafe]
    with ThreadPoolExecutor(CLIENTS) as pool:
        waiting = [pool.submit(proxy.post, ask("fine", text)) for text in texts]
        until(lambda: in_flight(replica) >= 2, "it is asked nothing")
        strike()
        answers = [one.result(120) for one in waiting]
    return list(zip(unsafe, answers, strict=True))


def in_flight(replica: Started) -> float:
    """The requests that a replica is answering, without the scrape."""
    lines = httpx.get(f"{replica.url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("guardproxy_requests_in_flight "))


def all_are_right(answers: list[tuple[bool, Got]]) -> None:
    """Every request has an answer, and the right one."""
    assert [got.status for _, got in answers] == [200] * len(answers)
    assert [b"content_filter" in got.body for _, got in answers] == [unsafe for unsafe, _ in answers]


def counted(proxy: Proxy, fault: Fault, replica: Started) -> float:
    """The metric of a fault."""
    return proxy.metric(fault.metrics[0].replace("URL", replica.url))


@pytest.mark.timeout(400)  # five processes start on a busy machine
def test_replicas_that_are_killed(
    stand: tuple[Proxy, list[Started], ExitStack], tmp_path: Path, guard: Started, upstream: RawUpstream
) -> None:
    """One under load: no answer is lost, and none is wrong. Then the other one; then one is back."""
    proxy, (first, second), stack = stand
    fault = FAULTS["killed-replica"]
    all_are_right(under_load(proxy, first, lambda: first.process.send_signal(signal.SIGKILL)))
    until(lambda: counted(proxy, fault, first) >= 1, "the broken calls are not counted")
    until(lambda: states(proxy) == ["down", "up"] or states(proxy) == ["probing", "up"], "it is not taken out of use")
    second.end(signal.SIGKILL)
    asked = len(upstream.asked)
    with watched(proxy, FAULTS["no-replica"]) as seen:
        seen.answered(proxy.post(ask("fine")))
    assert len(upstream.asked) == asked
    stack.enter_context(replica_process(tmp_path, guard.url, first.port))
    until(lambda: states(proxy)[0] == "up", "it is not used again", 150)
    assert b'"stop"' in proxy.post(ask("fine")).body


@pytest.mark.timeout(400)
def test_a_replica_that_hangs(stand: tuple[Proxy, list[Started], ExitStack]) -> None:
    """It is stopped under load, long before the time of a check is up; when it goes on, it is used again."""
    proxy, (first, _), _ = stand
    fault = FAULTS["stopped-replica"]
    try:
        all_are_right(under_load(proxy, first, lambda: first.process.send_signal(signal.SIGSTOP)))
        assert counted(proxy, fault, first) >= 1
    finally:
        first.process.send_signal(signal.SIGCONT)
    until(lambda: states(proxy) == ["up", "up"], "it is not used again")
