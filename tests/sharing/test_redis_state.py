"""Shared state in a real server: what is found, what is refused, and what a server that fails costs."""

import asyncio
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from guardproxy.app.shared_state import tls_options
from guardproxy.errors import ConfigError
from guardproxy.settings import SharedStateSettings, UpstreamTlsSettings
from guardproxy.sharing import RedisState, Sealer, StateOptions
from tests.certificates import Authority, Pair
from tests.kit import eventually, free_port
from tests.sharing.redis_server import SECRET, RedisServer, redis_server

T = TypeVar("T")
PATIENT_S = 10.0  # a busy machine may need seconds for what takes a millisecond
KEEP = {"verdict": 100, "passed": 200, "giver": 200, "withheld": 200}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that several tests use, each with keys of its own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


def state(
    url: str, timeout_s: float = PATIENT_S, secret: str = SECRET, clock: Callable[[], float] = time.monotonic
) -> RedisState:
    """The state of a process that is ready, with guard g."""
    made = RedisState(StateOptions(url, timeout_s, KEEP), Sealer(secret, "test"), clock)  # type: ignore[arg-type]
    made.begin(lambda: b"g")
    return made


def same(value: Any) -> Any:
    """Reads a value as it is."""
    return value


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run to the end."""

    async def main() -> T:
        return await work()

    return asyncio.run(main())


def counts(one: RedisState, kind: str = "verdict") -> dict[str, int]:
    """What came of the gets of a kind, without zeros."""
    return {result: count for (of, result), count in one.report()[1].gets.items() if of == kind and count}


def test_two_processes_know_the_same(shared: RedisServer) -> None:
    """What one keeps, another finds, for as long as values of its kind stay; the server has neither key nor text."""

    async def work() -> None:
        one, other = state(shared.url), state(shared.url)
        assert await other.get("withheld", b"resp_secret", same) is None
        await one.put("withheld", b"resp_secret", ["before", True])
        assert await other.get("withheld", b"resp_secret", same) == ["before", True]
        assert counts(other, "withheld") == {"missing": 1, "found": 1}
        assert one.report()[1].puts["withheld", "kept"] == 1
        await one.close()
        await other.close()

    run(work)
    keys = shared.client().keys("test:withheld:*")
    assert len(keys) == 1
    assert b"secret" not in keys[0]
    assert 0 < shared.client().ttl(keys[0]) <= KEEP["withheld"]


def test_what_depends_on_the_guard(shared: RedisServer) -> None:
    """Another guard's verdict is not found, and none at all before the process is ready; replies are everybody's."""

    async def work() -> None:
        one, other = state(shared.url), state(shared.url)
        other.begin(lambda: b"another guard")
        starting = RedisState(StateOptions(shared.url, PATIENT_S, KEEP), Sealer(SECRET, "test"))  # type: ignore[arg-type]
        for kind in ("verdict", "passed", "giver"):
            await one.put(kind, b"of a guard", "known")  # type: ignore[arg-type]
        assert [await other.get(kind, b"of a guard", same) for kind in ("verdict", "passed", "giver")] == [  # type: ignore[arg-type]
            None,
            None,
            "known",
        ]
        assert await starting.get("verdict", b"of a guard", same) is None
        await starting.put("verdict", b"of a start", "canary")
        assert counts(starting) == {"skipped": 1}
        assert await one.get("verdict", b"of a start", same) is None
        for process in (one, other, starting):
            await process.close()

    run(work)


def test_a_guard_that_is_known_later(shared: RedisServer) -> None:
    """Until then no verdict is shared; from then on it is not asked again what it is."""
    answers: list[bytes | None] = [None, None, b"g"]

    async def work() -> None:
        one, other = state(shared.url), state(shared.url)
        other.begin(lambda: answers.pop(0))
        await one.put("verdict", b"of g", "known")
        found = [await other.get("verdict", b"of g", same) for _ in range(4)]
        assert found == [None, None, "known", "known"]
        assert counts(other) == {"skipped": 2, "found": 2}
        await one.close()
        await other.close()

    run(work)


def test_what_is_asked_at_once_travels_together(shared: RedisServer) -> None:
    """The views of a text make one call of the server, as do the verdicts that are kept."""
    before = shared.client().info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]

    async def work() -> list[Any]:
        one = state(shared.url)
        await asyncio.gather(*(one.put("verdict", b"view %d" % number, number) for number in range(9)))
        found = await asyncio.gather(*(one.get("verdict", b"view %d" % number, same) for number in range(10)))
        await one.close()
        return found

    assert run(work) == [*range(9), None]
    assert shared.client().info("commandstats")["cmdstat_mget"]["calls"] == before + 1


def test_values_that_nobody_sealed(shared: RedisServer) -> None:
    """They are ignored, counted and told; so is one that its reader cannot use, and a key of another type."""

    def read(value: Any) -> float:
        return float(value["unsafe"])

    async def work() -> None:
        one = state(shared.url)
        for name in (b"forged", b"cut", b"list", b"odd"):
            await one.put("verdict", name, {"unsafe": 0.9})
        place = {
            name: Sealer(SECRET, "test").key("verdict", b"g", name) for name in (b"forged", b"cut", b"list", b"odd")
        }
        client = shared.client()
        client.set(place[b"forged"], b"x" * 16 + b'{"unsafe": 0.0}')
        client.set(place[b"cut"], client.get(place[b"cut"])[:-3])
        client.delete(place[b"list"])
        client.lpush(place[b"list"], b"x")
        await one.put("verdict", b"odd", {"safe": 1})
        with capture_logs() as told:
            assert [await one.get("verdict", name, read) for name in place] == [None] * 4
        assert counts(one) == {"refused": 3, "missing": 1}
        assert [line["event"] for line in told] == ["shared_state_refused"] * 3
        await one.close()

    run(work)


def test_a_server_that_is_full(tmp_path: Path) -> None:
    """It keeps nothing and says so, and what it has is still found: that is no outage."""

    async def work(server: RedisServer) -> None:
        one = state(server.url)
        await one.put("verdict", b"early", 1)
        server.client().config_set("maxmemory", "1")
        for number in range(5):
            await one.put("verdict", b"late %d" % number, 1)
        assert one.report()[1].puts["verdict", "failed"] == 5
        assert await one.get("verdict", b"early", same) == 1
        assert one.state() == "up"
        await one.close()

    with redis_server(tmp_path) as server:
        run(lambda: work(server))


def test_a_server_that_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    """Calls fail until three have failed in a row; then none is made, until a ping beside them finds the server."""

    async def work(server: RedisServer) -> None:
        one = state(server.url)
        await one.put("verdict", b"k", 1)
        server.end()
        with capture_logs() as told:
            for _ in range(5):
                assert await one.get("verdict", b"k", same) is None
        assert counts(one)["failed"] == 3
        assert counts(one)["skipped"] == 2
        assert [line["event"] for line in told] == ["shared_state_down"]
        assert one.report()[0] is False
        server.start()

        async def back() -> bool:
            await one.get("verdict", b"k", same)
            return one.state() == "up"

        while not await back():  # noqa: ASYNC110 - it asks
            await asyncio.sleep(0.05)
        assert await one.get("verdict", b"k", same) is None
        await one.put("verdict", b"k", 2)
        assert await one.get("verdict", b"k", same) == 2
        await one.close()

    with redis_server(tmp_path) as server:
        asyncio.run(asyncio.wait_for(work(server), 60))


def test_a_server_that_freezes(tmp_path: Path) -> None:
    """No call waits longer than its time-out, however many are open, and after three none waits at all."""

    async def work(server: RedisServer) -> None:
        one = state(server.url, timeout_s=0.1)
        # On a busy machine the first connection may take longer than the time-out.
        await eventually(lambda: asyncio.ensure_future(one.put("verdict", b"k", 1)) and counts_of_kept(one) > 0)
        server.send(signal.SIGSTOP)
        try:
            many = [one.get("verdict", b"k", same) for _ in range(200)]
            assert await asyncio.wait_for(asyncio.gather(*many), 30) == [None] * 200
            while one.state() == "up":
                await one.get("verdict", b"k", same)
            failed = counts(one)["failed"]
            assert await asyncio.gather(*(one.get("verdict", b"k", same) for _ in range(200))) == [None] * 200
            assert counts(one)["failed"] == failed
        finally:
            server.send(signal.SIGCONT)

        async def found() -> None:
            while await one.get("verdict", b"k", same) != 1:  # noqa: ASYNC110 - it asks
                await asyncio.sleep(0.05)

        await asyncio.wait_for(found(), 60)
        await one.close()

    with redis_server(tmp_path) as server:
        run(lambda: work(server))


def counts_of_kept(one: RedisState) -> int:
    """The verdicts that were kept."""
    return one.report()[1].puts["verdict", "kept"]


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_wrong_password(tmp_path: Path, password: str) -> None:
    """At the start it is a mistake of the configuration, which names its place and no password; later an outage."""

    async def work(port: int) -> None:
        one = state(f"redis://:{password}@127.0.0.1:{port}" if password else f"redis://127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=r"^f\.yaml: shared_state\.url: the server refuses") as raised:
            await one.check("f.yaml")
        assert "wrong@" not in str(raised.value)
        assert await one.get("verdict", b"k", same) is None
        await one.close()
        right = state(f"redis://:right@127.0.0.1:{port}")
        await right.check("f.yaml")
        await right.put("verdict", b"k", 1)
        assert await right.get("verdict", b"k", same) == 1
        await right.close()

    with redis_server(tmp_path, "--requirepass", "right") as server:
        run(lambda: work(server.port))


def test_a_database_that_does_not_exist(shared: RedisServer) -> None:
    """It is a mistake of the configuration."""

    async def work() -> None:
        one = state(f"redis://127.0.0.1:{shared.port}/99")
        with pytest.raises(ConfigError, match="DB index is out of range"):
            await one.check("f.yaml")
        await one.close()

    run(work)


def test_a_server_that_is_down_at_the_start() -> None:
    """It is told and does not prevent the start."""

    async def work() -> list[Any]:
        one = state(f"redis://127.0.0.1:{free_port()}")
        with capture_logs() as told:
            await one.check("f.yaml")
        await one.close()
        return [line["event"] for line in told]

    assert run(work) == ["shared_state_unreachable"]


# --- TLS --------------------------------------------------------------------------------------------------------------


async def behind_tls(port: int, pair: Pair) -> tuple[asyncio.Server, int]:
    """A server with this certificate in front of the one at a port, which speaks no TLS itself; and its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other, towards = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        await asyncio.gather(copy(reader, towards), copy(other, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


def test_over_tls(shared: RedisServer, tmp_path: Path) -> None:
    """With its authority the server is used; without it, its certificate is a mistake of the configuration."""
    authority = Authority(tmp_path)

    async def work() -> None:
        server, port = await behind_tls(shared.port, authority.issue("redis"))
        url = f"rediss://localhost:{port}"
        for ca in (str(authority.file), None):
            settings = SharedStateSettings(url, SECRET, tls=UpstreamTlsSettings(ca=ca))
            one = RedisState(StateOptions(url, PATIENT_S, KEEP, tls_options(settings)), Sealer(SECRET, "tls"))  # type: ignore[arg-type]
            one.begin(lambda: b"g")
            if ca is None:
                with pytest.raises(ConfigError, match="CERTIFICATE_VERIFY_FAILED"):
                    await one.check("f.yaml")
            else:
                await one.check("f.yaml")
                await one.put("verdict", b"k", 1)
            assert await one.get("verdict", b"k", same) == (1 if ca else None)
            await one.close()
        server.close()

    run(work)
