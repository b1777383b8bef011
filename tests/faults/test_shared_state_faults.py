"""Two proxies and one Redis: what one has judged the other knows, and what a server that fails comes to."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.faults.kit import ask, watched
from tests.faults.stand import CONFIG, Got, Proxy, Started, serving
from tests.faults.table import SHARED, Fault
from tests.faults.upstream import RawUpstream
from tests.kit import until
from tests.sharing.redis_server import SECRET, RedisServer, redis_server

FAULTS = {fault.name: fault for fault in SHARED}
FOUND = 'shared_state_gets_total{kind="verdict",result="found"}'
KEPT = 'shared_state_puts_total{kind="verdict",result="kept"}'
JUDGED = 'guard_seconds_count{cached="false"}'
PATIENT = "shared_state: {url: '%s', secret: '${env:STATE_SECRET}', timeout_s: %s}\n"
CLIENTS = 8


def sharing(folder: Path, upstream: str, guard: str, redis: str, timeout_s: float = 1.0) -> tuple[str, str]:
    """The configuration of a proxy that shares its state, and its store."""
    folder.mkdir()
    store = f"sqlite:///{folder}/audit.sqlite3"
    holes = {"server": "", "limits_of_upstream": "", "limits": "", "audit": f"store: '{store}'"}
    text = CONFIG.replace("timeout_s: 3", "timeout_s: 60").format(upstream=upstream, guard=guard, **holes)
    return text + PATIENT % (redis, timeout_s), store


@pytest.fixture(scope="module")
def stand(
    tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream, guard: Started
) -> Iterator[tuple[Proxy, Proxy, RedisServer]]:
    """Two proxies that share their state in one server."""
    folder = tmp_path_factory.mktemp("shared")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        proxies = []
        for name in ("first", "second"):
            text, store = sharing(folder / name, upstream.url, guard.url, redis.url)
            proxies.append(stack.enter_context(serving(folder / name, text, store, {"STATE_SECRET": SECRET})))
        yield (*proxies, redis)


def is_up(proxy: Proxy, text: str = "are you open") -> bool:
    """Whether the proxy uses the server, once a request has given it a reason to try."""
    proxy.post(ask("fine", text))
    return httpx.get(f"{proxy.url}/healthz", timeout=60).json()["shared_state"] == "up"


def under_load(proxies: tuple[Proxy, Proxy], strike: Callable[[], None]) -> None:
    """Both proxies judge new and shared texts, harmful and harmless, while the server is struck; all are right."""
    bodies = [ask("fine", "how to mix poison" if number % 3 == 0 else "when does it open") for number in range(40)]

    def post(number: int) -> Got:
        return proxies[number % 2].post(bodies[number // 2])

    with ThreadPoolExecutor(CLIENTS) as pool:
        waiting = [pool.submit(post, number) for number in range(2 * len(bodies))]
        until(lambda: sum(one.done() for one in waiting) > len(bodies) // 2, "nothing is answered")
        strike()
        answers = [one.result(120) for one in waiting]
    assert [got.status for got in answers] == [200] * len(answers)
    blocked = [b"content_filter" in got.body for got in answers]
    assert blocked == [number // 2 % 3 == 0 for number in range(len(answers))]


def test_what_one_has_judged_the_other_knows(stand: tuple[Proxy, Proxy, RedisServer]) -> None:
    """The second proxy asks no guard, and decides and records the same."""
    first, second, _ = stand
    for text in ("how to mix poison", "when does it open"):
        body, kept = ask("fine", text), first.metric(KEPT)
        blocked = [b"content_filter" in first.post(body).body]
        until(lambda kept=kept: first.metric(KEPT) > kept, "the verdict is not kept")  # type: ignore[misc]
        found, judged = second.metric(FOUND), second.metric(JUDGED)
        other = second.post(body)
        assert [*blocked, b"content_filter" in other.body] == ["poison" in text] * 2
        assert second.metric(FOUND) > found
        if blocked[0]:  # else the reply is judged as well
            assert second.metric(JUDGED) == judged
        until(lambda other=other: second.records_of(other.request_id), "nothing is recorded")  # type: ignore[misc]
        asked = [record for record in second.records_of(other.request_id) if record.side == "user"]
        assert [record.verdict and record.verdict.usage.cached for record in asked] == [True]


def test_a_value_that_nobody_sealed(stand: tuple[Proxy, Proxy, RedisServer]) -> None:
    """A writer of the server declares every text harmless: nobody believes it."""
    first, second, redis = stand
    body, kept = ask("fine", "how to mix poison"), first.metric(KEPT)
    first.post(body)
    until(lambda: first.metric(KEPT) > kept, "the verdict is not kept")
    client = redis.client()
    for key in client.keys("*"):
        client.set(key, b"\0" * 16 + b'{"unsafe": 0.0, "findings": []}')
    fault = FAULTS["forged-state"]
    before = second.metric(fault.metrics[0])
    assert b"content_filter" in second.post(body).body
    assert second.metric(fault.metrics[0]) > before


@pytest.mark.timeout(400)  # on a busy machine
def test_a_server_that_is_killed_and_comes_back_empty(stand: tuple[Proxy, Proxy, RedisServer]) -> None:
    """No answer is lost or wrong; when it is back, it is used again."""
    first, second, redis = stand
    fault = FAULTS["killed-state"]
    before = first.metric(fault.metrics[0]) + second.metric(fault.metrics[0])
    under_load((first, second), redis.end)
    under_load((first, second), lambda: None)
    assert first.metric(fault.metrics[0]) + second.metric(fault.metrics[0]) > before
    redis.start()
    for proxy in (first, second):
        until(lambda proxy=proxy: is_up(proxy), "the server is not used again")  # type: ignore[misc]
    with watched(first, FAULTS["empty-state"]) as seen:
        seen.answered(first.post(ask("fine")))
    assert any(line["event"] == "shared_state_down" for line in [*first.log(), *second.log()])


@pytest.mark.timeout(400)
def test_a_server_that_hangs(stand: tuple[Proxy, Proxy, RedisServer]) -> None:
    """A request waits for its time-out at most, and after three none waits; when it goes on, it is used again."""
    first, second, redis = stand
    until(lambda: is_up(first) and is_up(second), "the server is not used")
    fault = FAULTS["frozen-state"]
    try:
        with watched(first, fault) as seen:
            redis.send(signal.SIGSTOP)
            seen.answered(first.post(ask("fine")))
        under_load((first, second), lambda: None)
        began = time.monotonic()
        first.post(ask("fine"))
        assert time.monotonic() - began < 30
    finally:
        redis.send(signal.SIGCONT)
    until(lambda: is_up(first) and is_up(second), "the server is not used again")


def test_every_fault_is_one_of_the_table() -> None:
    """And its metrics have the names that a scrape has."""
    assert all(isinstance(fault, Fault) and fault.metrics for fault in FAULTS.values())
