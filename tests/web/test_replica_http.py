"""Replicas over HTTP: the guard's client in front of the real check API, over sockets."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.access import Client, ClientKey, Clients
from guardproxy.asking import Asker, asked_by, current_asker
from guardproxy.checkapi import verdict_fields
from guardproxy.errors import ConfigError, GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.guards.links import ReplicaFailed
from guardproxy.guards.replica_http import HttpLink, base_of
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.types import Check, Conversation, Finding, Message, Part, Usage, Verdict
from guardproxy.web.access import Access
from guardproxy.web.transport import tls_context
from tests.certificates import Authority
from tests.families.kit import ask
from tests.kit import WORDS, WordGuard, eventually, serve
from tests.web.test_checks import Stand

FULL = Verdict(
    0.1 + 0.2,
    (Finding("weapons", 1 / 3, "S1", "decoded", (2, 9)), Finding("hate", 5e-324)),
    "words",
    "words@",
    Usage(0.25, 0.5, 1e-9, 7, 8, 9, 10, cached=True, share_s=0.125),
    1e-17,
    0.0,
    "decoded",
    (0, 4),
    (("weapons", 0.7), ("unsafe", 0.9)),
)


class Told(WordGuard):
    """A guard that does what it is told."""

    def __init__(self, does: Callable[[Check], Verdict]) -> None:
        super().__init__(WORDS)
        self.does = does

    async def judge(self, check: Check) -> Verdict:
        await super().judge(check)
        return self.does(check)


@asynccontextmanager
async def linked(app: ASGIApp, *, key: str | None = None) -> AsyncIterator[HttpLink]:
    """A link to an application on a port."""
    with serve(app) as url:
        link = HttpLink(url, key=key)
        try:
            yield link
        finally:
            await link.close()


def run(app: ASGIApp, work: Callable[[HttpLink], Awaitable[Any]], key: str | None = None) -> Any:
    """What `work` returns for a link to an application."""

    async def all_of_it() -> Any:
        async with linked(app, key=key) as link:
            return await work(link)

    return asyncio.run(all_of_it())


def raising(error: Exception) -> Callable[[Check], Verdict]:
    """What raises this error."""

    def judge(_: Check) -> Verdict:
        raise error

    return judge


def test_a_verdict_arrives_as_it_was_given() -> None:
    """Every field of it, bit by bit; and the check as it was asked, with a text that UTF-8 cannot hold."""
    guard = Told(lambda _: FULL)
    parts = (Part("messages[1].content", "half \ud83d of a pair", "tool_result", "note"), Part("x", "", "opaque"))
    check = Check(Conversation((*ask("before").conversation.messages, Message("tool", parts))), "user", "stream")
    verdict, version = run(Stand(guard).api, lambda link: link.judge(check, Asker("client")))
    assert verdict == FULL
    assert version == "w1 (words)"
    (asked,) = guard.asked
    texts = [[(part.text, part.kind, part.note) for part in message.parts] for message in check.conversation.messages]
    assert [[(p.text, p.kind, p.note) for p in message.parts] for message in asked.conversation.messages] == texts
    assert ([one.role for one in asked.conversation.messages], asked.side) == (["user", "tool"], check.side)


@pytest.mark.parametrize(("stream", "header"), [("one two", [b"one%20two"]), (None, [])])
def test_a_balancer_can_tell_streams_apart(stream: str | None, header: list[bytes]) -> None:
    """Each check of a stream has its name in a header; others have none."""
    seen: list[list[bytes]] = []
    api = Stand(WordGuard(WORDS)).api

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append([value for name, value in scope["headers"] if name == b"x-session-id"])
        await api(scope, receive, send)

    run(noting, lambda link: link.judge(Check(ask("x").conversation, "assistant", stream), Asker()))
    assert seen == [header]


@pytest.mark.parametrize("unfinished", [True, False])
def test_the_end_of_a_growing_text_is_told(unfinished: bool) -> None:
    """A guard that looks for patterns reads it otherwise."""
    guard = WordGuard(WORDS)
    check = Check(ask("x").conversation, "assistant", "stream", unfinished)
    run(Stand(guard).api, lambda link: link.judge(check, Asker()))
    assert [asked.unfinished for asked in guard.asked] == [unfinished]


@pytest.mark.parametrize("least", [0.0, 0.25, 0.7821999999999999])
def test_what_makes_no_difference_is_told(least: float) -> None:
    """The guard behind the connection need not compute it either."""
    guard = WordGuard(WORDS)
    check = Check(ask("x").conversation, "user", least=least)
    run(Stand(guard).api, lambda link: link.judge(check, Asker()))
    assert [asked.least for asked in guard.asked] == [least]


def test_the_place_of_a_text_is_no_matter_of_the_guards() -> None:
    """A client's own keys may make its path longer than a check may have one: the check is judged like any other."""
    check = Check(Conversation((Message("user", (Part(f"messages[0].{'key' * 9999}", "poison"),)),)), "user")
    assert run(Stand(WordGuard(WORDS)).api, lambda link: link.judge(check, Asker()))[0].unsafe == 0.9


@pytest.mark.parametrize(
    "change", [{"taxonomy_version": "w2"}, {"taxonomy": "other"}, {"guard": "other"}, {"floor": 0.9}, {"floor": None}]
)
def test_a_verdict_of_another_guard_behind_the_same_address_does_not_count(change: dict[str, Any]) -> None:
    """Also if its models have the same version; once it says so itself, it is compared like any other."""
    short = {"guard": "g", "taxonomy": "t", "taxonomy_version": "1", "models": ["m"], "version": "v", "languages": None}
    said = {**short, "floor": 0.0, "categories": []}
    judged = [{**said, **change}]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = said if scope["method"] == "GET" else {**verdict_fields(FULL), "account": judged[0]}
        await JSONResponse(answer)(scope, receive, send)

    async def work(link: HttpLink) -> None:
        await link.identity()
        with pytest.raises((ReplicaFailed, GuardUnavailable), match=r"of another guard: |cannot be read"):
            await link.judge(ask("x"), Asker())
        judged[0] = said
        assert (await link.judge(ask("x"), Asker()))[1] == "v (m)"

    run(app, work)


def test_the_identity_is_that_of_the_account_and_its_version_that_of_the_verdicts() -> None:
    """So that a replica that was replaced is noticed with its next verdict."""

    async def both(link: HttpLink) -> tuple[Any, str]:
        return await link.identity(), (await link.judge(ask("x"), Asker()))[1]

    identity, version = run(Stand().api, both)
    assert (identity.name, identity.version, identity.floor) == ("words", version, 0.0)


def test_requests_of_a_client_are_told_apart_and_the_client_is_not_named() -> None:
    """Two checks of one request have one asker there."""
    seen: list[Asker] = []

    class Asked(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            seen.append(current_asker())
            await eventually(lambda: len(seen) == 3)
            return await super().judge(check)

    async def work(link: HttpLink) -> None:
        one, other = Asker("10.1.2.3"), Asker("10.1.2.3", answered=True)
        await asyncio.gather(*(link.judge(ask(text), who) for text, who in (("a", one), ("b", one), ("c", other))))

    run(Stand(Asked(WORDS)).api, work)
    assert len(set(map(id, seen))) == 2
    assert len({asker.client for asker in seen}) == 1
    assert not any("10.1.2.3" in asker.client for asker in seen)
    assert sorted(asker.answered for asker in seen) == [False, False, True]


@pytest.mark.parametrize("retry_s", [0.1 + 0.2, 7.0, 1e-3])
def test_failures_of_the_guard_are_the_same_here(retry_s: float) -> None:
    """Overload with its seconds, texts that take too long, and guards that fail."""
    cases: list[GuardUnavailable] = [Overloaded("busy", retry_s), JudgingTooLong("99 s"), GuardUnavailable("broken")]
    for error in cases:

        async def work(link: HttpLink, error: GuardUnavailable = error) -> None:
            with pytest.raises(type(error), match=str(error)) as raised:
                await link.judge(ask("x"), Asker())
            assert type(raised.value) is type(error)
            assert raised.value.retry_s == error.retry_s

        run(Stand(Told(raising(error))).api, work)


def test_a_replica_that_is_not_ready_is_no_failure_of_the_guard() -> None:
    """Another one is asked."""

    async def work(link: HttpLink) -> None:
        for call in (link.identity(), link.judge(ask("x"), Asker())):
            with pytest.raises(ReplicaFailed, match="not_ready") as raised:
                await call
            assert raised.value.ending == "declined"

    run(Stand(ready=lambda: "the guard is loading").api, work)


def test_keys() -> None:
    """The replica may ask for one."""
    hashed = sha256(b"right").digest()
    access = Access()
    access.clients = Clients((Client("proxy", (ClientKey(hashed),)),), b"secret")

    async def work(link: HttpLink) -> Verdict:
        return (await link.judge(ask("poison"), Asker()))[0]

    assert run(Stand(WordGuard(WORDS), access=access).api, work, "right").unsafe == 0.9
    with pytest.raises(ReplicaFailed, match="refuses the key"):
        run(Stand(WordGuard(WORDS), access=access).api, work, "wrong")


def test_what_is_not_a_replica() -> None:
    """Whatever it answers, there is no verdict and no other error than that the replica failed or the guard did."""
    answers = [
        Response(b"", 404),
        Response(b"<html>", 200),
        Response(b"[]", 200),
        Response(b"{}", 200),
        JSONResponse({"unsafe": 0.1}, 200),
        JSONResponse({"unsafe": 0.1, "account": {"guard": 7}}, 200),
        Response(b"x" * (1 << 21), 200),
        Response(b"", 302, {"location": "http://127.0.0.1:1/"}),
        Response(b"", 500),
        Response(b"{", 503),
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answers[0](scope, receive, send)

    async def work(link: HttpLink) -> None:
        while answers:
            for call in (link.identity(), link.judge(ask("x"), Asker())):
                with pytest.raises((ReplicaFailed, GuardUnavailable)):
                    await call
            answers.pop(0)

    run(app, work)


@given(st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_no_bytes_are_a_verdict(data: bytes) -> None:
    """Over a raw socket: whatever comes back, there is no verdict."""

    async def all_of_it() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            link = HttpLink(f"http://127.0.0.1:{port}")
            with pytest.raises((ReplicaFailed, GuardUnavailable)):
                await link.judge(ask("x"), Asker())
            await link.close()

    asyncio.run(all_of_it())


def test_nobody_listens() -> None:
    """Nothing was sent."""

    async def work() -> None:
        link = HttpLink("http://127.0.0.1:9")
        with pytest.raises(ReplicaFailed, match="cannot be reached") as raised:
            await link.judge(ask("x"), Asker())
        assert raised.value.ending == "unsent"
        await link.close()

    asyncio.run(work())


def test_a_check_that_is_given_up_is_dropped_there() -> None:
    """The replica notices that the connection is gone."""
    guard = WordGuard(WORDS, delay_s=3600)

    async def work(link: HttpLink) -> None:
        judging = asyncio.ensure_future(link.judge(ask("x"), Asker()))
        await eventually(lambda: guard.asked)
        judging.cancel()
        await eventually(guard.cancelled.is_set)

    run(Stand(guard).api, work)


def test_the_end_of_a_stream_is_told() -> None:
    """Under the name that its checks had there."""
    forgot: list[str] = []
    guard = WordGuard(WORDS)
    guard.forget = forgot.append  # type: ignore[method-assign]

    async def work(link: HttpLink) -> None:
        await link.judge(Check(ask("x").conversation, "assistant", "a/b?c"), Asker())
        await link.forget("a/b?c")

    run(Stand(guard).api, work)
    assert forgot == [guard.asked[0].stream]


def test_mutual_tls(tmp_path: Path) -> None:
    """Replicas that ask for a certificate answer the proxy that has one, and no other."""
    authority = Authority(tmp_path)
    server, own = authority.issue("server"), authority.issue("proxy")
    options = {"ssl_certfile": str(server.cert), "ssl_keyfile": str(server.key)}
    options |= {"ssl_ca_certs": str(authority.file), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    with_certificate = tls_context(authorities=str(authority.file), cert=str(own.cert), key=str(own.key))

    async def work(url: str, context: ssl.SSLContext) -> float:
        link = HttpLink(url, context)
        try:
            return (await link.judge(ask("poison"), Asker()))[0].unsafe
        finally:
            await link.close()

    with serve(Stand(WordGuard(WORDS)).api, **options) as plain:
        url = plain.replace("http:", "https:")
        assert asyncio.run(work(url, with_certificate)) == 0.9
        for context in (tls_context(authorities=str(authority.file)), tls_context()):
            with pytest.raises(ReplicaFailed):
                asyncio.run(work(url, context))


def test_a_refused_certificate_has_its_reason(tmp_path: Path) -> None:
    """That of another authority, and one that has expired, with what to check."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")

    async def work(url: str) -> None:
        link = HttpLink(url, tls_context(authorities=str(authority.file)))
        try:
            await link.judge(ask("x"), Asker())
        finally:
            await link.close()

    cases = {other.issue("strange"): "issuer", authority.issue("old", days=-1): "expired"}
    for server, reason in cases.items():
        options = {"ssl_certfile": str(server.cert), "ssl_keyfile": str(server.key)}
        with serve(Stand(WordGuard(WORDS)).api, **options) as plain:
            told = rf"certificate is refused: .*{reason}.*check replicas\.tls\.ca"
            with pytest.raises(ReplicaFailed, match=told) as raised:
                asyncio.run(work(plain.replace("http:", "https:")))
            assert raised.value.ending == "unsent"


def test_over_a_unix_socket(tmp_path: Path) -> None:
    """As over a port."""
    path = str(tmp_path / "guard.sock")

    async def work() -> float:
        config = uvicorn.Config(Stand(WordGuard(WORDS)).api, uds=path, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve())
        await eventually(lambda: server.started)
        link = HttpLink(f"unix:{path}")
        verdict, _ = await link.judge(ask("poison"), Asker())
        await link.close()
        server.should_exit = True
        await serving
        return verdict.unsafe

    assert asyncio.run(work()) == 0.9


def test_a_guard_of_two_real_replicas() -> None:
    """One of them is loading: all checks go to the other one."""
    ready = ["the guard is loading"]

    async def work(urls: list[str]) -> None:
        """Judge, and wait for the other one."""
        links = [HttpLink(url) for url in urls]
        guard = ReplicaGuard("ours", WordGuard(WORDS).taxonomy, links, AskOptions(check_every_s=2))
        await guard.start()
        asked_by("client")
        verdicts = await asyncio.gather(*(guard.judge(ask(f"poison {number}")) for number in range(20)))
        assert [verdict.unsafe for verdict in verdicts] == [0.9] * 20
        assert guard.states()[urls[0]] != "up"
        ready.clear()
        await eventually(lambda: guard.states()[urls[0]] == "up")
        await guard.close()

    loading = Stand(WordGuard(WORDS), ready=lambda: ready[0] if ready else "")
    with serve(loading.api) as first, serve(Stand(WordGuard(WORDS)).api) as second:
        asyncio.run(work([first, second]))


@pytest.mark.parametrize("url", ["guard:1", "ftp://guard", "http://", "http://u:p@guard", "http://guard?x", "unix:x"])
def test_what_is_no_address(url: str) -> None:
    """It is a mistake of the configuration."""
    with pytest.raises(ConfigError, match="expected http"):
        base_of(url)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_what_is_no_port(port: str) -> None:
    """The system would take 99999 for 34463, where another server may listen."""
    with pytest.raises(ConfigError, match="port must be 1 to 65535"):
        HttpLink(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("key", ["", "a\r\nx-session-id: b", "k\u20ac"])
def test_what_is_no_key(key: str) -> None:
    """No header can hold it; it never becomes another header."""
    with pytest.raises(ConfigError, match=r"guard\.replicas\.key"):
        HttpLink("http://127.0.0.1:9", key=key)
