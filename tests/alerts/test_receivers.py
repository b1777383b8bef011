"""Webhooks and syslog servers over TLS, as processes that are killed: what was not taken is known not to be."""

import asyncio
import json
import signal
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from guardproxy.alerting import Alert, AlertMessage
from guardproxy.observe.alerts import NotTaken, SyslogReceiver, WebhookReceiver
from guardproxy.observe.alerts.webhook import signature
from tests.alerts.kit import CONDITIONS, in_loop
from tests.alerts.receiving import frames, running, signed, taken
from tests.certificates import Authority
from tests.kit import Scripted, ScriptedUpstream, free_port, serve
from tests.sinks.kit import record

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = AlertMessage(tuple(Alert("blocked", CONDITIONS["blocked"], 1, "", record(n)) for n in range(3)), 1e9)


def webhook(url: str, *, timeout_s: float = 10) -> WebhookReceiver:
    """A signed webhook."""
    tls = httpx.create_ssl_context()
    return WebhookReceiver(url, secret=SECRET, form="json", text=False, timeout_s=timeout_s, tls=tls)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """An independent reader accepts it, and neither another body, id or time nor another secret."""
    body = json.dumps({"type": "guardproxy.alerts"}).encode()
    now = 2_000_000_000
    found = signature(SECRET, "msg_1", now, body)
    assert found.startswith("v1,")
    assert found == signature(SECRET.removeprefix("whsec_"), "msg_1", now, body)
    others = [
        signature("whsec_" + "A" * 32, "msg_1", now, body),
        signature(SECRET, "msg_2", now, body),
        signature(SECRET, "msg_1", now + 1, body),
        signature(SECRET, "msg_1", now, body + b" "),
    ]
    assert len({found, *others}) == 5


@in_loop
async def test_a_webhook_takes_a_signed_message(tmp_path: Path) -> None:
    """The process that checks the signature takes the message; sent again, it has the same id."""
    port, file = free_port(), tmp_path / "taken"
    receiver = webhook(f"http://127.0.0.1:{port}/hooks/secret-part")
    with running("webhook", port, file, SECRET):
        assert await receiver.send(MESSAGE) == "HTTP 204"
        await receiver.send(MESSAGE)
    first, second = taken(file)
    assert first == second
    assert first["id"] == MESSAGE.id
    assert [one["id"] for one in first["body"]["data"]["alerts"]] == [one.id for one in MESSAGE.alerts]
    with pytest.raises(NotTaken, match=r"^http://127\.0\.0\.1:\d+: ConnectError$") as caught:  # not the secret path
        await receiver.send(MESSAGE)
    assert not caught.value.refused
    await receiver.close()


@pytest.mark.parametrize(
    ("status", "refused"),
    [(301, False), (400, True), (401, False), (410, False), (413, True), (429, False), (500, False)],
)
def test_what_a_webhook_answers(status: int, refused: bool) -> None:
    """Only 2xx takes a message; only an answer about the message itself refuses it. Redirects are not followed."""
    upstream = ScriptedUpstream([Scripted(status=status, headers={"location": "/elsewhere"})])

    async def run(url: str) -> NotTaken:
        receiver = webhook(url)
        with pytest.raises(NotTaken, match=f"HTTP {status}") as caught:
            await receiver.send(MESSAGE)
        await receiver.close()
        return caught.value

    with serve(upstream) as url:
        assert asyncio.run(run(url)).refused is refused
    (seen,) = upstream.seen
    headers = {name: seen.header(name) or "" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
    assert signed(SECRET, headers, seen.body)


@pytest.mark.parametrize("host", ["☃.invalid", "xn--zzz---.invalid", f"{'a' * 70}.invalid", "a..b"])
def test_a_host_that_can_be_no_name_takes_nothing(host: str) -> None:
    """It is a failure like any other, and does not end the delivery."""

    async def run() -> None:
        tls = ssl.create_default_context()
        receivers = [
            WebhookReceiver(f"https://{host}/x", secret=None, form="json", text=False, timeout_s=5, tls=tls),
            SyslogReceiver(host, 1, form="cef", text=False, timeout_s=5, tls=tls),
        ]
        for receiver in receivers:
            with pytest.raises(NotTaken):
                await receiver.send(MESSAGE)
            await receiver.close()

    asyncio.run(run())


def syslog(port: int, authority: Path, *, timeout_s: float = 10) -> SyslogReceiver:
    """A syslog server whose certificate is checked."""
    tls = ssl.create_default_context(cafile=str(authority))
    return SyslogReceiver("localhost", port, form="cef", text=False, timeout_s=timeout_s, tls=tls)


@in_loop
async def test_a_syslog_server_takes_frames_over_tls(tmp_path: Path) -> None:
    """Every alert is a message of its own. A server that is stopped, gone or a stranger takes nothing."""
    authority = Authority(tmp_path)
    pair, port, file = authority.issue("server"), free_port(), tmp_path / "taken"
    receiver = syslog(port, authority.file)
    with running("syslog", port, file, pair.cert, pair.key) as process:
        assert await receiver.send(MESSAGE) == "3 written over TLS, and read to the end"
        assert [f"externalId={one.id}" in line for one, line in zip(MESSAGE.alerts, taken(file), strict=True)] == [
            True
        ] * 3
        with pytest.raises(NotTaken, match="CERTIFICATE_VERIFY_FAILED"):
            await syslog(port, Authority(tmp_path, "another").file).send(MESSAGE)
        process.send_signal(signal.SIGSTOP)  # the kernel still accepts connections and bytes
        with pytest.raises(NotTaken, match=r"no end of the connection within 0\.2 s"):
            await syslog(port, authority.file, timeout_s=0.2).send(MESSAGE)
    with pytest.raises(NotTaken, match="ConnectionRefusedError"):
        await receiver.send(MESSAGE)
    assert len(taken(file)) == 3


@pytest.mark.parametrize("reads", [False, True])
@in_loop
async def test_a_syslog_server_that_is_killed_has_not_taken_the_message(tmp_path: Path, reads: bool) -> None:
    """An end of the connection that nobody asked for is none, with bytes read or unread."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    async def killed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.read(1)
        writer.transport.abort()  # as the kernel does for a process that dies

    server = await asyncio.start_server(killed, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(NotTaken):
        await syslog(port, authority.file).send(MESSAGE)
    server.close()


@in_loop
async def test_a_syslog_server_need_not_end_tls_before_the_connection(tmp_path: Path) -> None:
    """Some read to the end and close the connection: they have taken the message."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    read: list[bytes] = []

    def served(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        tls = context.wrap_socket(connection, server_side=True)
        while part := tls.recv(65_536):
            read.append(part)
        tls.close()  # without `unwrap`

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(served, listening))
        assert await syslog(listening.getsockname()[1], authority.file).send(MESSAGE)
        await serving
    assert len(list(frames(b"".join(read)))) == 3


def test_frames_are_read_as_the_standard_says() -> None:
    """The reader of these tests notices a cut frame."""
    assert list(frames(b"1 a3 b c")) == ["a", "b c"]
    with pytest.raises(ValueError, match="cut"):
        list(frames(b"4 abc"))
