"""What streams, clients and replies may take of the proxy's memory: measured from outside, over real sockets."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.kit import ask, found_by_text, watched
from tests.faults.raw import request
from tests.faults.stand import Proxy, Started, proxy_process
from tests.faults.table import MEMORY, Fault
from tests.faults.upstream import RawUpstream
from tests.kit import until

MOST = 100_000_000  # bytes
FAULTS = {fault.name: fault for fault in MEMORY}
ENDLESS = [fault for fault in MEMORY if ":" in fault.name and fault.status]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream, guard: Started) -> Iterator[Proxy]:
    """A proxy with the limits of a stream that it has by default, but for the time that an answer may take."""
    with proxy_process(
        tmp_path_factory.mktemp("memory"),
        upstream.url,
        guard.url,
        limits_of_upstream="timeouts: {answer_s: 3}",
        limits="reply_bytes: 5000000",
        server="write_timeout_s: 1, header_timeout_s: 60, body_timeout_s: 60",
    ) as running:
        running.post(ask("streams", stream=True))  # so that what is imported late is there
        yield running


@pytest.mark.parametrize("fault", ENDLESS, ids=[fault.name for fault in ENDLESS])
def test_a_reply_without_end(proxy: Proxy, fault: Fault) -> None:
    """For three seconds, or until its limit; in no mode is more kept than a part of it."""
    before, most = proxy.rss(), 0
    with watched(proxy, fault) as seen, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(proxy.post, ask(fault.name, stream=fault.stream))
        while not waiting.done():
            most = max(most, proxy.rss())
            time.sleep(0.005)
        seen.answered(waiting.result())
    assert most - before < MOST


def test_a_client_that_does_not_read(proxy: Proxy) -> None:
    """Its connection is cut after a second, and so is the upstream's; meanwhile little is kept."""
    fault, before = FAULTS["monitored:endless-stream"], proxy.rss()
    body = ask(fault.name, stream=True)
    with watched(proxy, fault) as seen, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", proxy.port))
        client.sendall(request(body))
        until(lambda: proxy.metric(fault.metrics[0]) > 0, "not cut")
        assert proxy.rss() - before < MOST
        seen.recorded(until(lambda: found_by_text(proxy, body["messages"][0]["content"]), "no record"))


def test_clients_that_send_endless_heads_and_bodies(proxy: Proxy) -> None:
    """Thirty clients send 60 KB of a head, and thirty 100 KB of a body, and no more."""
    before = proxy.rss()
    with watched(proxy, FAULTS["unfinished"]):
        head = b"POST / HTTP/1.1\r\n" + b"x-long: %b\r\n" % (b"a" * 9_000) * 6
        clients = [socket.create_connection(("127.0.0.1", proxy.port), 60) for _ in range(60)]
        for number, client in enumerate(clients):
            client.sendall(head if number % 2 else request({}, length=5_000_000) + b" " * 100_000)
        assert proxy.rss() - before < MOST
        for client in clients:
            client.close()
