"""What a client or an upstream may cost, over real sockets: connections, headers, time, unread answers, held bytes."""

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from guardproxy.app.protocol import HEADER_BYTES, BoundedHttp
from guardproxy.policy import BlockPolicy, PolicySet, StreamPolicy
from guardproxy.settings import Limits, ServerSettings
from guardproxy.web.upstream import Upstream
from tests.kit import Scripted, ScriptedUpstream, serve, until
from tests.web.kit import chat, completion, events, guarded, policy

CHAT = "/v1/chat/completions"
_SERVER = ServerSettings()
SSE = {"content-type": "text/event-stream"}


@contextmanager
def bounded(*script: Scripted, server: ServerSettings = _SERVER, **changes: Any) -> Iterator[tuple[str, int]]:
    """Serve a guarded proxy with the bounds of `server`; yield its host and port."""
    upstream = {"max_connections": changes.pop("pool", 256), "connect_s": changes.pop("connect_s", 5.0)}
    with serve(ScriptedUpstream(list(script))) as below:
        app = guarded(Upstream(below, **upstream), **changes)
        with serve(app, http=partial(BoundedHttp, server), timeout_keep_alive=server.idle_timeout_s) as url:
            host, _, port = url.removeprefix("http://").partition(":")
            yield host, int(port)


def post(body: bytes, headers: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a request."""
    size = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (CHAT.encode(), size, headers, body)


def answer_to(address: tuple[str, int], *pieces: bytes, pause_s: float = 0.0) -> tuple[bytes, float]:
    """What the server sends until it closes the connection, and the seconds until then."""
    began = time.monotonic()
    with socket.create_connection(address, 30) as client:
        got = b""
        try:
            for piece in pieces:
                client.sendall(piece)
                if select.select([client], [], [], pause_s)[0]:
                    break  # what is sent behind an answer makes the system drop it
            while data := client.recv(65536):
                got += data
        except ConnectionError:
            pass
        return got, time.monotonic() - began


def test_a_request_within_the_bounds_is_answered() -> None:
    with bounded(completion("fine")) as address:
        got, _ = answer_to(address, post(chat(), b"x-long: %b\r\nconnection: close\r\n" % (b"a" * 60_000)))
    assert got.startswith(b"HTTP/1.1 200")
    assert b"fine" in got


@pytest.mark.parametrize("ending", [b"\r\n\r\n{}", b""])
def test_long_headers_are_refused(ending: bytes) -> None:
    with bounded(completion("fine")) as address:
        request = post(b"").removesuffix(b"\r\n") + b"x-long: " + b"a" * HEADER_BYTES + ending
        got, _ = answer_to(address, *(request[start : start + 9_000] for start in range(0, len(request), 9_000)))
    assert got.startswith(b"HTTP/1.1 431"), got[:100]


def test_many_short_headers_are_refused() -> None:
    with bounded(completion("fine")) as address:
        got, _ = answer_to(address, post(chat(), b"a: b\r\n" * 20_000))
    assert got.startswith(b"HTTP/1.1 431")


def test_slow_headers_end_the_connection() -> None:
    with bounded(completion("fine"), server=ServerSettings(header_timeout_s=0.5)) as address:
        got, took = answer_to(address, *([b"POST / HTTP/1.1\r\n"] + [b"a: b\r\n"] * 30), pause_s=0.1)
        nothing, idle = answer_to(address)
    assert got.startswith(b"HTTP/1.1 408")
    assert nothing == b""
    assert idle < 60 > took


def test_a_slow_body_ends_the_connection() -> None:
    with bounded(completion("fine"), server=ServerSettings(body_timeout_s=0.5)) as address:
        got, _ = answer_to(address, post(b"{", length=1000), *([b" "] * 30), pause_s=0.1)
    assert got.startswith(b"HTTP/1.1 408")


def test_an_idle_connection_is_closed_after_its_answer() -> None:
    with bounded(completion("fine"), server=ServerSettings(idle_timeout_s=0.3, header_timeout_s=60)) as address:
        got, took = answer_to(address, post(chat()))
    assert got.startswith(b"HTTP/1.1 200")
    assert took < 50


def test_connections_beyond_the_cap_are_refused() -> None:
    with bounded(completion("fine"), server=ServerSettings(max_connections=2)) as address:
        with socket.create_connection(address), socket.create_connection(address):
            got, _ = answer_to(address, post(chat()))
        last = post(chat(), b"connection: close\r\n")
        until(lambda: answer_to(address, last)[0].startswith(b"HTTP/1.1 200"), "nobody is served")
    assert got.startswith(b"HTTP/1.1 503") or got == b""  # a reset may overtake the answer


def test_a_connection_beyond_the_cap_takes_the_place_of_an_idle_one() -> None:
    """The connection that has waited longest for a further request is closed, and no other."""
    with (
        bounded(completion("fine"), completion("fine"), server=ServerSettings(max_connections=2)) as address,
        httpx.Client(trust_env=False, timeout=60) as first,
        httpx.Client(trust_env=False, timeout=60) as second,
    ):
        url = f"http://{address[0]}:{address[1]}{CHAT}"
        ports = [client.post(url, content=chat()).extensions["network_stream"] for client in (first, second)]
        got, _ = answer_to(address, post(chat(), b"connection: close\r\n"))
        ended = [stream.get_extra_info("socket").recv(1) == b"" for stream in ports[:1]]
        again = second.post(url, content=chat())
    assert got.startswith(b"HTTP/1.1 200")
    assert ended == [True]
    assert again.status_code == 200
    assert again.extensions["network_stream"] is ports[1]


def test_a_client_that_does_not_read_is_cut_and_frees_its_upstream() -> None:
    long = events(*["word " * 2000] * 800)
    server = ServerSettings(write_timeout_s=1.0)
    with (
        # What is left of its reply is judged for a moment only: that is not the subject, and takes long.
        bounded(long, completion("fine"), server=server, pool=1, connect_s=60.0, after_disconnect_s=0.0) as address,
        socket.socket() as stalled,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(address)
        stalled.sendall(post(chat(stream=True)))
        until(lambda: select.select([stalled], [], [], 0)[0], "the answer has not begun")
        got = httpx.post(f"http://{address[0]}:{address[1]}{CHAT}", content=chat(), timeout=60)
    assert got.status_code == 200


def errors() -> PolicySet:
    """A policy that blocks with errors, so that a stream begins with its first text."""
    return PolicySet({"default": policy(block=BlockPolicy(how="error"))}, version="cfg1")


def test_endless_comments_before_the_text_take_no_memory() -> None:
    comments = [b": comment\n\n" * 1000] * 20
    script = Scripted([*comments, *events("hi").body], headers=SSE)
    with bounded(script, policies=errors(), max_held_bytes=100_000) as (host, port):
        got = httpx.post(f"http://{host}:{port}{CHAT}", content=chat(stream=True), timeout=60)
    assert '"hi"' in got.text


def test_frames_without_text_are_held_up_to_the_bound() -> None:
    empty = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n' * 200
    script = Scripted([*[empty] * 20, *events("hi").body], headers=SSE)
    with bounded(script, policies=errors(), max_held_bytes=100_000) as (host, port):
        got = httpx.post(f"http://{host}:{port}{CHAT}", content=chat(stream=True), timeout=60)
    assert got.status_code == 400
    assert '"hi"' not in got.text


def test_a_stream_beyond_its_bytes_ends_with_a_refusal() -> None:
    script = events(*["word " * 200] * 200)
    with bounded(script, limits=Limits(stream_bytes=50_000)) as (host, port):
        got = httpx.post(f"http://{host}:{port}{CHAT}", content=chat(stream=True), timeout=60)
    assert "content_filter" in got.text
    assert len(got.text) < 100_000


def rss() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_memory_of_a_stream_that_is_held_is_bounded() -> None:
    """The reply is held until its end (`hold_all`): it is refused at the bound, far below what the upstream sends."""
    frame = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": "word " * 2000}}]}).encode()
    script = Scripted([b"data: " + frame + b"\n\n"] * 20_000, headers=SSE)  # 200 MB
    held = PolicySet({"default": policy(stream=StreamPolicy(mode="hold_all"))}, version="cfg1")
    with bounded(script, policies=held, max_held_bytes=5_000_000) as (host, port):
        before = rss()
        got = httpx.post(f"http://{host}:{port}{CHAT}", content=chat(stream=True), timeout=120)
        grown = rss() - before
    assert "content_filter" in got.text
    assert grown < 80_000_000
