"""`guardproxy guard` as a process: on a Unix socket and on a port, its reload and its end."""

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.checkapi import CheckCall, read_account, read_verdict, write_call
from guardproxy.families.openai_moderation import OMNI
from guardproxy.types import Check, Conversation, Message, Part
from tests.kit import free_port, serve, until

CONFIG = """
version: 1
server: {port: %s, grace_s: 5}
guard: {family: openai_moderation, service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}}
policies: {default: {unsafe: {block: 0.95}}}
audit: {store: none}
log: {format: json}
"""


async def judged(request: Request) -> Response:
    """A moderation service that finds "kill" unsafe."""
    texts: list[str] = (await request.json())["input"]
    results = [{"category_scores": dict.fromkeys(OMNI, 0.9 if "kill" in text else 0.1)} for text in texts]
    return JSONResponse({"results": results})


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of the moderation service behind the guard."""
    with serve(Starlette(routes=[Route("/v1/moderations", judged, methods=["POST"])])) as url:
        yield url


@contextmanager
def running(file: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, until the end of the context."""
    command = [sys.executable, "-m", "guardproxy", "guard", "--config", str(file), *options]
    environment = {"GUARD_KEY": "a-key", "PATH": "/usr/bin"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_ready(client: httpx.Client) -> bool:
    """Whether /readyz answers 200."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_on_a_unix_socket(service: str, tmp_path: Path) -> None:
    """Only this user may open it; a socket that was left over is replaced, one in use is not; SIGTERM removes it."""
    file, path = tmp_path / "guard.yaml", tmp_path / "guard.sock"
    file.write_text(CONFIG % (free_port(), service))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    transport = httpx.HTTPTransport(uds=str(path))
    with (
        running(file, "--uds", str(path)) as process,
        httpx.Client(transport=transport, base_url="http://guard") as client,
    ):
        until(lambda: is_ready(client), seconds=200)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        check = Check(Conversation((Message("user", (Part("x", "kill"),)),)), "user")
        answer = client.post("/v1/check", content=write_call(CheckCall(check)))
        assert read_verdict(answer.content).unsafe == 0.9
        assert read_account(client.get("/v1/check").content).models == ("openai_moderation",)
        assert client.get("/v1/chat/completions").status_code == 404
        assert "upstreams" not in client.get("/healthz").json()
        assert 'guardproxy_requests_total{status="2xx",wire="check"} 2.0' in client.get("/metrics").text
        with running(file, "--uds", str(path)) as second:
            assert second.wait(200) == 2
            assert second.stderr is not None
            assert "another process listens there" in second.stderr.read()
        assert is_ready(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM  # as uvicorn ends, when the open answers have
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]  # each is JSON, the first one too
        assert [line["listening_on"] for line in lines if line["event"] == "starting"] == [str(path)]
    assert not path.exists()


def test_a_changed_file_is_taken_at_sighup(service: str, tmp_path: Path) -> None:
    """The policies of the file apply to checks that name them."""
    file, port = tmp_path / "guard.yaml", free_port()
    file.write_text(CONFIG % (port, service))
    body = {"messages": [{"role": "user", "parts": [{"text": "kill"}]}], "policy": "default"}

    def action() -> str:
        return str(client.post("/v1/check", content=json.dumps(body)).json()["decision"]["action"])

    with running(file) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        until(lambda: is_ready(client), seconds=200)
        assert action() == "pass"
        file.write_text(file.read_text().replace("0.95", "0.5"))
        process.send_signal(signal.SIGHUP)
        until(lambda: action() == "block")
