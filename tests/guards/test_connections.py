"""Connections to a replica: calls over raw sockets, and whatever a server may answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.guards.connections import Connections
from guardproxy.guards.links import ReplicaFailed
from tests.certificates import Authority
from tests.kit import eventually, free_port

OK = b"HTTP/1.1 200 OK\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asking(text: str) -> bytes:
    """A request whose body is a text."""
    return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text.encode())


def answering(body: bytes, head: bytes = OK) -> bytes:
    """An answer with its length."""
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


async def read(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request. Raises IncompleteReadError at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


class Server:
    """A server that gives each request the next of these answers, in pieces, and the last one for ever.

    `opened` and `ended` count its connections. An answer without pieces ends the connection.
    """

    def __init__(self, *answers: Sequence[bytes]) -> None:
        self.answers = [*answers]
        self.opened = self.ended = 0
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                self.asked.append(await read(reader))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                for piece in answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()


@asynccontextmanager
async def connected(serve: Serve, listens: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[Connections]:
    """Connections to a server on a port, over TLS if it `listens` so; `options` are those of the connections."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=listens)
    port = server.sockets[0].getsockname()[1]
    async with server:
        connections = Connections(httpx.URL(f"http{'s' if listens else ''}://127.0.0.1:{port}"), **options)
        try:
            yield connections
        finally:
            connections.close()


def run(work: Callable[[], Awaitable[Any]], *, uv: bool = False) -> Any:
    """What `work` returns, on an event loop of either kind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:

        async def whole() -> Any:
            return await work()

        return runner.run(whole())


ANSWERS = [
    answering(b"an answer"),
    OK + b"transfer-encoding: chunked\r\n\r\n3\r\nan \r\n6\r\nanswer\r\n0\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\n\r\n9;x=y\r\nan answer\r\n0\r\ntrailer: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answering(b"an answer"),
    answering(b"an answer", b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n"),
]


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@given(answer=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(1, 120), max_size=6))
@settings(max_examples=30, deadline=None)
def test_an_answer_in_any_pieces(uv: bool, answer: bytes, cuts: list[int]) -> None:
    """However it is split, it is the same, and the next call has the same connection."""
    ends = [0, *sorted(set(cuts)), len(answer)]
    server = Server([answer[start:end] for start, end in pairwise(ends) if start < end])

    async def work() -> None:
        async with connected(server) as connections:
            for _ in range(3):
                status = 503 if b" 503 " in answer else 200
                assert await connections.call(asking("a check")) == (status, b"an answer")

    run(work, uv=uv)
    assert (server.opened, server.asked) == (1, [b"a check"] * 3)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_each_call_gets_its_own_answer(uv: bool) -> None:
    """Of many at once, of which some are given up, over few connections."""
    opened, asked = [], set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        try:
            while True:
                text = await read(reader)
                asked.add(text)
                await asyncio.sleep(0.001 * (len(asked) % 3))
                writer.write(answering(text))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def work() -> None:
        async with connected(echo, most=5, connect_s=60) as connections:

            async def one(number: int) -> None:
                text = f"check {number}".encode()
                calling = asyncio.ensure_future(connections.call(asking(text.decode())))
                if number % 5 == 0:
                    await eventually(lambda: text in asked)
                    calling.cancel()
                    await asyncio.wait([calling])
                    return
                assert await calling == (200, text)

            await asyncio.gather(*(one(number) for number in range(200)))
            assert len(connections._open) <= 5

    run(work, uv=uv)
    assert len(opened) <= 5 + 40


@pytest.mark.parametrize(
    "answer",
    [
        [answering(b"1") + answering(b"2")],
        [answering(b"1") + b"HTTP/1.1 200 OK\r\ncontent-le"],
        [answering(b"1") + b"HTTP/1.1 103 Early Hints\r\n\r\n"],
        [answering(b"1") + b"more"],
        [answering(b"1", b"HTTP/1.1 200 OK\r\nconnection: close\r\n")],
        [answering(b"1", b"HTTP/1.0 200 OK\r\n")],
    ],
)
@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_a_connection_with_more_than_its_answer_is_not_used_again(answer: list[bytes], uv: bool) -> None:
    """The next call would take what came for its answer. So it is where the server says that it closes."""
    server = Server(answer, [answering(b"right")])

    async def work() -> None:
        async with connected(server) as connections:
            assert await connections.call(asking("a")) == (200, b"1")
            assert await connections.call(asking("b")) == (200, b"right")

    run(work, uv=uv)
    assert server.opened == 2


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_what_comes_on_an_idle_connection_ends_it(uv: bool) -> None:
    """Also a whole answer."""
    server = Server([answering(b"1")], [answering(b"right")])
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await server(reader, writer)

    async def work() -> None:
        async with connected(serve, idle_s=3600) as connections:
            assert await connections.call(asking("a")) == (200, b"1")
            writers[0].write(answering(b"wrong"))
            await eventually(lambda: server.ended == 1)
            assert await connections.call(asking("b")) == (200, b"right")

    run(work, uv=uv)


def endless(head: bytes, piece: bytes) -> Serve:
    """A server that goes on for as long as it is listened to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(head)
        try:
            while not writer.is_closing():
                writer.write(piece * 4096)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return serve


BREAKS = "broke the connection off"
WRONG: dict[str, tuple[Serve, str, str]] = {
    "endless body": (endless(OK + b"content-length: 99999999999\r\n\r\n", b"x"), "more than 1048576 bytes", "failed"),
    "endless chunks": (endless(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "more than 10485", "failed"),
    "endless until its end": (endless(OK + b"\r\n", b"x"), "more than 1048576 bytes", "failed"),
    "endless headers": (endless(OK, b"x: y\r\n"), "headers of more than 65536 bytes", "failed"),
    "endless header": (endless(OK + b"x: ", b"y"), "headers of more than 65536 bytes", "failed"),
    "endless hints": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "headers of more than 65536", "failed"),
    "no HTTP": (Server([b"SSH-2.0-OpenSSH_9.2\r\n"]), "is not HTTP/1.1", "failed"),
    "HTTP/2": (Server([b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"]), "is not HTTP/1.1", "failed"),
    "a header without a name": (Server([OK + b": x\r\n\r\n"]), "is not HTTP/1.1", "failed"),
    "two lengths": (Server([OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx"]), "is not HTTP", "failed"),
    "length and chunks": (
        Server([OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]),
        "is not HTTP/1.1",
        "failed",
    ),
    "another protocol": (
        Server([b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"]),
        "changes the protocol",
        "failed",
    ),
    "no answer": (Server([]), BREAKS, "unknown"),
}


@pytest.mark.parametrize(("serve", "reason", "ending"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_what_is_no_answer(serve: Serve, reason: str, ending: str, uv: bool) -> None:
    """It fails with a reason, within bounds, and the connection is gone."""

    async def work() -> None:
        async with connected(serve) as connections:
            with pytest.raises(ReplicaFailed, match=reason) as raised:
                await connections.call(asking("a check"))
            assert raised.value.ending == ending
            await eventually(lambda: not connections._open)

    run(work, uv=uv)


@pytest.mark.parametrize("whole", [*ANSWERS[:4], OK + b"\r\nan answer"])
def test_half_an_answer_is_none(whole: bytes) -> None:
    """Wherever it ends; nor is one that only ends with its connection, which may have lost its rest."""

    async def work() -> None:
        cut = len(whole) if whole.startswith(OK + b"\r\n") else 0
        for end in range(1, cut or len(whole)):

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: int = end) -> None:
                await read(reader)
                writer.write(whole[:end])
                writer.close()

            async with connected(serve) as connections:
                with pytest.raises(ReplicaFailed, match=BREAKS):
                    await connections.call(asking("a check"))

    run(work)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_a_server_that_answers_before_it_has_read(uv: bool) -> None:
    """Its answer counts; the rest of the request never is taken for the next one."""
    refusal = answering(b"too large", b"HTTP/1.1 413 Content Too Large\r\n")
    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        if len(opened) == 1:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(refusal)
            return
        await read(reader)
        writer.write(answering(b"right"))

    async def work() -> None:
        async with connected(serve) as connections:
            assert await connections.call(asking("x" * (1 << 25))) == (413, b"too large")
            assert await connections.call(asking("b")) == (200, b"right")
            opened[0].close()
            opened[1].close()

    run(work, uv=uv)
    assert len(opened) == 2


def test_a_call_that_is_given_up_ends_its_connection() -> None:
    """Its answer, which comes late, is nobody's."""
    server = Server([answering(b"right")])
    hanging = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hanging.is_set():
            await server(reader, writer)
            return
        await read(reader)
        hanging.set()
        assert await reader.read() == b""
        server.ended += 1
        writer.close()

    async def work() -> None:
        async with connected(serve, idle_s=3600) as connections:
            calling = asyncio.ensure_future(connections.call(asking("late")))
            await asyncio.wait_for(hanging.wait(), 60)
            calling.cancel()
            await eventually(lambda: server.ended == 1)
            assert await connections.call(asking("b")) == (200, b"right")

    run(work)


def test_idle_connections_are_closed() -> None:
    """After their time, and only those."""
    server = Server([answering(b"1")])

    async def work() -> None:
        async with connected(server, idle_s=0.2) as connections:
            await asyncio.gather(*(connections.call(asking("a")) for _ in range(3)))
            opened = server.opened
            await eventually(lambda: server.ended == opened)
            assert not connections._idle
            assert await connections.call(asking("b")) == (200, b"1")
            assert server.opened == opened + 1

    run(work)


def test_a_server_that_closes_idle_connections() -> None:
    """It is noticed, and the next call has a new one."""
    server = Server([answering(b"1")])
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await server(reader, writer)

    async def work() -> None:
        async with connected(serve) as connections:
            for number in range(3):
                assert await connections.call(asking("a")) == (200, b"1")
                writers[number].close()
                await eventually(lambda: not connections._open)

    run(work)
    assert server.opened == 3


def test_no_more_connections_than_allowed() -> None:
    """A further call waits for as long as a connection may take, and says what to change."""
    gate = asyncio.Event()
    server = Server([answering(b"1")])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await server(reader, writer)

    async def work() -> None:
        async with connected(serve, most=2, connect_s=0.5) as connections:
            calls = [asyncio.ensure_future(connections.call(asking("a"))) for _ in range(3)]
            with pytest.raises(ReplicaFailed, match=r"all 2 connections .* raise guard\.replicas") as raised:
                await calls[2]
            assert raised.value.ending == "unsent"
            gate.set()
            assert await asyncio.gather(*calls[:2]) == [(200, b"1")] * 2
            assert await connections.call(asking("b")) == (200, b"1")

    run(work)
    assert server.opened == 2


def test_closing_ends_the_calls() -> None:
    """And no further one is made."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        assert await reader.read() == b""
        writer.close()

    async def work() -> None:
        async with connected(serve) as connections:
            calling = asyncio.ensure_future(connections.call(asking("a")))
            await eventually(lambda: connections._open)
            connections.close()
            with pytest.raises(ReplicaFailed, match=BREAKS):
                await calling
            with pytest.raises(ReplicaFailed, match="stopping"):
                await connections.call(asking("b"))

    run(work)


def test_one_address_of_a_name_is_enough() -> None:
    """`localhost` may have two, of which the server has one; and a name may be none."""

    async def work() -> None:
        server = await asyncio.start_server(Server([answering(b"1")]), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            connections = Connections(httpx.URL(f"http://localhost:{port}"))
            assert await connections.call(asking("a")) == (200, b"1")
            connections.close()
        for host in ("name.invalid", "x" * 70, "127.0.0.1"):
            nowhere = Connections(httpx.URL(f"http://{host}:{free_port()}"))
            with pytest.raises(ReplicaFailed, match="cannot be reached") as raised:
                await nowhere.call(asking("a"))
            assert raised.value.ending == "unsent"

    run(work)
    run(work, uv=True)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_tls(tmp_path: Path, uv: bool) -> None:
    """Calls over TLS share a connection; where one end has no TLS, there is no answer."""
    pair = Authority(tmp_path).issue("server")
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    listening.load_cert_chain(pair.cert, pair.key)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    server = Server([answering(b"1" * 300_000)])

    async def work() -> None:
        async with connected(server, listening, tls=trusting) as connections:
            for _ in range(5):  # more than one answer may have
                assert await connections.call(asking("x" * 300_000)) == (200, b"1" * 300_000)
            without = Connections(httpx.URL(f"http://127.0.0.1:{connections._port}"))
            with pytest.raises(ReplicaFailed):
                await without.call(asking("a"))
        async with connected(Server([b"plain"])) as plain:
            secure = Connections(httpx.URL(f"https://127.0.0.1:{plain._port}"), trusting, connect_s=0.5)
            with pytest.raises(ReplicaFailed, match="cannot be reached") as raised:
                await secure.call(asking("a"))
            assert raised.value.ending == "unsent"

    run(work, uv=uv)
    assert server.opened == 1
