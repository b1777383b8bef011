"""The upstream client over real sockets: addresses, headers, retries, timeouts, encodings."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import httpx
import pytest

from guardproxy.errors import ConfigError, UpstreamUnavailable, UpstreamUnreadable
from guardproxy.web.failover import Upstreams
from guardproxy.web.headers import end_to_end, join
from guardproxy.web.upstream import Outgoing, Retries, Upstream, UpstreamTimeout, retry_after
from tests.kit import Scripted, ScriptedUpstream, serve
from tests.web.kit import ENCODINGS

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
POST = Outgoing("POST", "/v1/x", b"", [], b"{}")


def ask(
    url: str,
    *,
    method: str = "POST",
    path: str = "/v1/x",
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes = b"{}",
    times: int = 1,
    **settings: Any,
) -> Answer:
    """The last of `times` answers to the same request, through a new Upstream."""

    async def run() -> Answer:
        upstream = Upstreams([Upstream(url, **settings)])
        outgoing = Outgoing(method, path, query, headers or [], body)
        try:
            for _ in range(times):
                async with upstream.send(upstream.plan("", "openai_chat"), outgoing) as response:
                    whole = b"".join([chunk async for chunk in response.decoded()])
                    answer = (response.status, response.headers, whole)
            return answer
        finally:
            await upstream.aclose()

    return asyncio.run(run())


@contextmanager
def raw_server(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads one request per connection and writes the next answer (None: nothing), then closes."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    requests.append(connection.recv(1 << 16))
                    if answer is not None:
                        connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", requests


@contextmanager
def keeping_server(idle_s: float) -> Iterator[tuple[str, list[int]]]:
    """A server that answers every request of a connection, and closes it after `idle_s` seconds without a request.

    The list has the number of requests of each connection.
    """
    counts: list[int] = []

    def answer(connection: socket.socket, number: int) -> None:
        connection.settimeout(idle_s)
        with connection, suppress(TimeoutError, OSError):
            while connection.recv(1 << 16):
                counts[number] += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                counts.append(0)
                threading.Thread(target=answer, args=(connection, len(counts) - 1), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", counts


@contextmanager
def scripted(*script: Scripted) -> Iterator[tuple[str, ScriptedUpstream]]:
    """A scripted upstream and its URL."""
    upstream = ScriptedUpstream(list(script))
    with serve(upstream) as url:
        yield url, upstream


@pytest.mark.parametrize(
    ("prefix", "path", "joined"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/", "/v1/models", "/v1/models"),
        ("/v1", "/v1/models", "/v1/models"),
        ("/v1/", "/v1/models", "/v1/models"),
        ("/openai", "/v1/models", "/openai/v1/models"),
        ("/openai/v1", "/v1/models", "/openai/v1/models"),
        ("/openai", "/openai/deployments/d/chat/completions", "/openai/deployments/d/chat/completions"),
        ("/v1", "/v1beta/models", "/v1/v1beta/models"),
        ("/v1", "/v1", "/v1"),
    ],
)
def test_base_paths_join(prefix: str, path: str, joined: str) -> None:
    """Segments that end the base URL and start the path appear once."""
    assert join(prefix, path) == joined


@pytest.mark.parametrize(
    "url", ["", "localhost:80", "ftp://h", "http://", "http://h?x=1", "http://u:p@h", "http://h:x"]
)
def test_bad_base_url(url: str) -> None:
    """A base URL that is not an HTTP URL is a configuration error that names it."""
    with pytest.raises(ConfigError, match="upstream"):
        Upstream(url)


def test_target_and_headers_arrive() -> None:
    """Percent-encoding, query and headers arrive as sent; hop-by-hop headers and those Connection names do not."""
    headers = [
        (b"host", b"proxy.example"),
        (b"authorization", b"Bearer client"),
        (b"connection", b"keep-alive, X-Private"),
        (b"x-private", b"1"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"x-dup", b"a"),
        (b"x-dup", b"b"),
    ]
    with scripted(Scripted([b"ok"])) as (url, upstream):
        ask(url + "/base", path="/v1/a%2Fb%20c", query=b"q=%2B%26&key=k", headers=headers, body=b'{"a":1.0}')
    seen = upstream.seen[0]
    assert seen.target == "/base/v1/a%2Fb%20c?q=%2B%26&key=k"
    assert seen.body == b'{"a":1.0}'
    assert seen.header("host") == url.removeprefix("http://")
    assert seen.header("authorization") == "Bearer client"
    names = {name for name, _ in seen.headers}
    assert names == {"host", "authorization", "x-dup", "content-length"}


def test_own_key_replaces_the_clients() -> None:
    """With a key for the upstream, no credential of the client is forwarded, from any header or the query."""
    headers = [(b"authorization", b"Bearer c"), (b"x-api-key", b"c"), (b"api-key", b"c"), (b"x-goog-api-key", b"c")]
    with scripted(Scripted()) as (url, upstream):
        ask(url, headers=headers, query=b"alt=sse&key=c", key="own")
        ask(url, headers=headers, key="own", key_header="x-api-key")
    first, second = upstream.seen
    assert first.header("authorization") == "Bearer own"
    assert first.target == "/v1/x?alt=sse"
    assert [value for name, value in first.headers if "key" in name] == []
    assert second.header("x-api-key") == "own"
    assert second.header("authorization") is None


def test_cookies_are_not_kept() -> None:
    """One client's cookie does not travel with the next request."""
    with scripted(Scripted(headers={"set-cookie": "session=alice; Path=/"})) as (url, upstream):
        ask(url, times=2)
    assert [seen.header("cookie") for seen in upstream.seen] == [None, None]


def test_redirects_are_not_followed() -> None:
    """A redirect is passed on: no credential is sent to another host."""
    with scripted(Scripted(status=307, headers={"location": "http://127.0.0.1:1/elsewhere"})) as (url, upstream):
        assert ask(url)[0] == 307
    assert len(upstream.seen) == 1


def test_environment_proxies_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy from the environment is not used unless `trust_env` is set."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with scripted(Scripted([b"ok"])) as (url, _):
        assert ask(url)[2] == b"ok"


def test_large_bodies_arrive_whole() -> None:
    """A body of 20 MB arrives byte for byte, with its length."""
    body = bytes(range(256)) * 80_000
    with scripted(Scripted([body])) as (url, upstream):
        assert ask(url, body=body)[2] == body
    assert upstream.seen[0].body == body
    assert upstream.seen[0].header("content-length") == str(len(body))


@pytest.mark.parametrize(
    ("status", "headers", "settings", "tries"),
    [
        (429, {"retry-after": "0"}, {}, 1),  # the client's SDK repeats it
        (503, {"retry-after": "0"}, {}, 1),
        (502, {}, {"method": "GET", "body": b""}, 1),
        (429, {"retry-after": "0"}, {"retries": Retries(3, "declined")}, 2),
        (503, {}, {"retries": Retries(3, "declined")}, 2),
        (529, {}, {"retries": Retries(3, "declined")}, 2),
        (502, {"retry-after": "0"}, {"retries": Retries(3, "declined")}, 1),
        (429, {"retry-after": "3600"}, {"retries": Retries(3, "declined")}, 1),  # longer than a client would wait here
        (500, {}, {"retries": Retries(3, "failed")}, 2),
        (504, {}, {"retries": Retries(3, "failed")}, 1),  # may have been acted on
        (504, {}, {"retries": Retries(3, "unknown")}, 2),
        (400, {}, {"retries": Retries(3, "unknown")}, 1),
        (429, {"retry-after": "0"}, {"retries": Retries(1, "unknown")}, 1),
    ],
)
def test_which_answers_are_tried_again(status: int, headers: dict[str, str], settings: Any, tries: int) -> None:
    """A request is sent again only after the endings that its retries name, and 4xx are none of them."""
    failing = Scripted([b"busy"], status=status, headers=headers)
    with scripted(failing, Scripted([b"ok"])) as (url, upstream):
        answer = ask(url, **settings)
    assert len(upstream.seen) == tries
    assert (answer[0], answer[2]) == ((200, b"ok") if tries == 2 else (status, b"busy"))


def test_attempts_end() -> None:
    """After the last attempt the upstream's own answer is passed on."""
    with scripted(Scripted([b"busy"], status=429, headers={"retry-after": "0"})) as (url, upstream):
        answer = ask(url, retries=Retries(3, "declined"))
    assert (len(upstream.seen), answer[0], answer[2]) == (3, 429, b"busy")
    assert (b"x-should-retry", b"false") in answer[1], "the client does not repeat what the proxy has repeated"


def test_retry_after_is_waited_for() -> None:
    """The next attempt comes no sooner than the upstream asked."""
    with scripted(Scripted(status=429, headers={"retry-after": "1"}), Scripted([b"ok"])) as (url, _):
        began = time.monotonic()
        assert ask(url, retries=Retries(3, "declined"))[0] == 200
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", None, None),
        ("soon", None, None),
        ("-1", None, None),
        (None, None, None),
    ],
)
def test_retry_after_forms(value: str | None, date: str | None, seconds: float | None) -> None:
    """Seconds and dates are parsed; anything else counts as absent."""
    assert retry_after(value, date) == seconds


def test_connection_failures_are_tried_again() -> None:
    """After a refused connection nothing was sent, so a POST is retried, and the error says what is wrong."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
            ask(url, retries=Retries(2))
    assert time.monotonic() - began >= 0.25


def test_a_broken_connection_is_not_tried_again() -> None:
    """A server that closes the connection may have acted on the request, so the operator decides."""
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    with raw_server(None, ok) as (url, requests):
        with pytest.raises(UpstreamUnavailable, match="broke the connection off"):
            ask(url)
        assert len(requests) == 1
    with raw_server(None, None, ok) as (url, requests):
        assert ask(url, retries=Retries(3, "unknown"))[2] == b"ok"


def test_nothing_is_tried_again_once_the_answer_has_begun() -> None:
    """An answer that breaks off in its body is an error, not a second request."""
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    with raw_server(half, half) as (url, requests):
        with pytest.raises(UpstreamUnavailable, match="broke its answer off"):
            ask(url, retries=Retries(3, "unknown"))
        assert len(requests) == 1


def test_first_byte_timeout() -> None:
    """An upstream that does not begin its answer in time is a timeout, which is not retried."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout, match="no answer"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", first_byte_s=0.2)
    assert time.monotonic() - began < 60


def test_silence_timeout() -> None:
    """A pause in the answer that is too long is a timeout; a slow but steady answer is not."""
    with scripted(Scripted([b"a", 0.4, b"b", 0.4, b"c", 0.4, b"d"]), Scripted([b"a", 60.0, b"b"])) as (url, _):
        assert ask(url, between_chunks_s=1.0)[2] == b"abcd"
        with pytest.raises(UpstreamTimeout, match="silent"):
            ask(url, between_chunks_s=1.0)


def test_leaving_early_closes_the_connection() -> None:
    """An answer that is not read to the end is closed, so the upstream stops."""

    async def run(url: str) -> None:
        upstream = Upstreams([Upstream(url)])
        async with upstream.send(upstream.plan("", "openai_chat"), POST) as response:
            assert await anext(response.chunks()) == b"a"
        await asyncio.to_thread(left.wait, 60)
        await upstream.aclose()

    with scripted(Scripted([b"a", 120.0, b"b"])) as (url, upstream):
        left = upstream.left
        asyncio.run(run(url))
        assert left.is_set()


@pytest.mark.parametrize("split", [1, 7, 1000])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "x-gzip", "br", "zstd"])
def test_encoded_answers_are_decoded(encoding: str, split: int) -> None:
    """Bodies are decoded however they are split, also with several members if the encoding has them."""
    text = b"some text " * 50
    if encoding in {"deflate", "br", "identity"}:
        encoded = ENCODINGS.get(encoding, bytes)(text * 2)
    else:
        encoded = ENCODINGS[encoding.removeprefix("x-")](text) * 2
    parts = [encoded[start : start + split] for start in range(0, len(encoded), split)]
    with scripted(Scripted(parts, headers={"content-encoding": encoding})) as (url, _):
        assert ask(url)[2] == text * 2


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"no brotli, for sure"),
        ("br", ENCODINGS["br"](b"text" * 99)[:-2]),
        ("br", ENCODINGS["br"](b"text") + b"more"),
        ("zstd", b"no zstd"),
        ("zstd", ENCODINGS["zstd"](b"text")[:-2]),
        ("zstd", ENCODINGS["zstd"](b"text") + b"more"),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\xf8"),  # a window of 2 TiB
        ("gzip, br", b"x"),
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b"text", mtime=0)[:-9]),
        ("compress", b"x"),
    ],
)
def test_what_cannot_be_decoded_is_unreadable(encoding: str, body: bytes) -> None:
    """An unknown, broken or unfinished encoding is an error."""
    answer = Scripted([body], headers={"content-encoding": encoding})
    with scripted(answer) as (url, _), pytest.raises(UpstreamUnreadable):
        ask(url)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding_is_bounded(encoding: str) -> None:
    """A decompression bomb is decoded in small pieces, so that the reader can stop."""

    async def run(url: str) -> tuple[int, int]:
        upstream = Upstreams([Upstream(url)])
        async with upstream.send(upstream.plan("", "openai_chat"), POST) as response:
            sizes = [len(piece) async for piece in response.decoded()]
        await upstream.aclose()
        return max(sizes), sum(sizes)

    with scripted(Scripted([ENCODINGS[encoding](bytes(1 << 24))], headers={"content-encoding": encoding})) as (url, _):
        largest, size = asyncio.run(run(url))
    assert (largest <= 1 << 16, size) == (True, 1 << 24)


def test_a_transport_of_httpx_will_do() -> None:
    """Any httpx transport can replace the network, and its errors are classified in the same way."""
    tries = []

    def handler(request: httpx.Request) -> httpx.Response:
        tries.append(request.url)
        raise httpx.ConnectError("no") if len(tries) == 1 else httpx.ReadError("broken")

    with pytest.raises(UpstreamUnavailable, match="broke the connection off"):
        ask("http://host", transport=httpx.MockTransport(handler))
    assert len(tries) == 2


def test_connection_names_headers() -> None:
    """Every header that Connection names is removed, in upper or lower case."""
    headers = [(b"Connection", b"Close, X-A"), (b"X-a", b"1"), (b"x-b", b"2")]
    assert end_to_end(headers, frozenset({b"connection"})) == [(b"x-b", b"2")]


def test_a_connection_that_the_upstream_has_closed_is_not_used() -> None:
    """A process that was not scheduled while the upstream closed an idle connection sends the POST on a new one."""

    async def run(url: str) -> None:
        upstream = Upstreams([Upstream(url, retries=Retries(1))])
        for _ in range(3):
            async with upstream.send(upstream.plan("", "openai_chat"), POST) as response:
                assert b"".join([chunk async for chunk in response.chunks()]) == b"ok"
            time.sleep(1)  # noqa: ASYNC251 - the event loop must not run
        await upstream.aclose()

    with keeping_server(idle_s=0.1) as (url, counts):
        asyncio.run(run(url))
    assert counts == [1, 1, 1]


@pytest.mark.parametrize(("pause_s", "expected"), [(0.1, [2]), (4.3, [1, 1])])
def test_an_idle_connection_is_kept_for_less_than_servers_keep_it(pause_s: float, expected: list[int]) -> None:
    """Many servers close a connection after five idle seconds, and a request that crosses the closing is lost."""

    async def run(url: str) -> None:
        upstream = Upstreams([Upstream(url, retries=Retries(1))])
        for wait_s in (0.0, pause_s):
            await asyncio.sleep(wait_s)
            async with upstream.send(upstream.plan("", "openai_chat"), POST) as response:
                assert b"".join([chunk async for chunk in response.chunks()]) == b"ok"
        await upstream.aclose()

    with keeping_server(idle_s=20) as (url, counts):
        asyncio.run(run(url))
    assert counts == expected


def test_what_came_on_an_idle_connection_is_nobody_s_answer() -> None:
    """An upstream sends another answer behind a whole one: the next client gets its own, on a new connection."""

    async def run() -> list[bytes]:
        asked, unasked = 0, asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            with closing(writer):
                while await reader.read(1 << 16):
                    asked += 1
                    for word in (b"%d", b"%d again"):
                        body = word % asked
                        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                        await writer.drain()
                        await unasked.wait()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        upstream = Upstreams([Upstream(f"http://127.0.0.1:{port}")])
        bodies: list[bytes] = []
        for _ in range(2):
            async with upstream.send(upstream.plan("", "openai_chat"), POST) as response:
                bodies.append(b"".join([chunk async for chunk in response.chunks()]))
            unasked.set()
            await asyncio.sleep(0.1)  # until the second answer is there: nothing tells that it has come
        await upstream.aclose()
        server.close()
        return bodies

    assert asyncio.run(run()) == [b"1", b"2"]
