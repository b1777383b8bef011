"""The operators' paths on a listener of their own, with real processes."""

import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.guarded import BAD, answers, guarded
from tests.kit import Scripted, ScriptedUpstream, free_port, serve, until

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
ANSWER = Scripted([json.dumps({"choices": [CHOICE]}).encode()])
OPERATORS = ("/healthz", "/readyz", "/metrics", "/guardproxy/feed")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that the configuration reads from the environment."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    monkeypatch.setenv("CONSOLE_KEY", "a-key-of-the-console")


def chat(url: str, text: str) -> httpx.Response:
    """The answer to a chat."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=60)


def test_each_listener_has_its_own_paths(tmp_path: Path) -> None:
    """The operators' listener has all of theirs and proxies nothing; the proxy's answers none of them."""
    upstream = ScriptedUpstream([ANSWER])
    port, admin_port = free_port(), free_port()
    url, admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    more = f"server: {{port: {port}}}\nadmin: {{port: {admin_port}}}\n"
    with (
        serve(upstream) as below,
        guarded(tmp_path, below, more, f"{admin}/readyz"),
        httpx.Client(trust_env=False, follow_redirects=True) as http,
    ):
        assert chat(url, BAD).headers["x-guardproxy-action"] == "block"
        assert chat(url, "hello").json()["choices"] == [CHOICE]
        for path in OPERATORS:
            assert http.get(f"{admin}{path}").status_code == 200, path
            refused = http.get(f"{url}{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "path_not_guarded"), path
        assert "guardproxy_decisions_total" in http.get(f"{admin}/metrics").text
        for path in ("/v1/chat/completions", "/v1/moderations", "/v1/models"):
            assert http.post(f"{admin}{path}", json={"input": "x"}).status_code == 404, path
        assert http.post(f"{url}/v1/moderations", json={"input": BAD}).json()["results"][0]["flagged"]
        for name, status in (("evil.test", 421), ("localhost", 200), ("127.0.0.1:1", 200)):
            assert http.get(f"{admin}/metrics", headers={"host": name}).status_code == status, name
        assert http.get(f"{admin}/metrics", headers={"origin": "http://evil.test"}).status_code == 403
        form = http.post(f"{admin}/guardproxy/try", headers={"origin": admin}, data={"text": "x"})
        assert form.status_code == 403  # without the token of its page
        assert "path_not_guarded" not in form.text
    assert len(upstream.seen) == 1
    started = json.loads((tmp_path / "log").read_text().partition("\n")[0])
    assert (started["metrics"], started["console"]) == (f"{admin}/metrics", f"{admin}/guardproxy/")


def token_of(page: str) -> str:
    """The token of a page's form."""
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def test_a_page_of_the_console_works_there(tmp_path: Path) -> None:
    """With a key: sign in, then send a form with its token, on the operators' listener."""
    port, admin_port = free_port(), free_port()
    admin = f"http://127.0.0.1:{admin_port}"
    more = f"server: {{port: {port}}}\nadmin: {{port: {admin_port}}}\n" + 'console: {key: "${env:CONSOLE_KEY}"}\n'
    with (
        guarded(tmp_path, "http://127.0.0.1:9", more, f"{admin}/readyz"),
        httpx.Client(trust_env=False, follow_redirects=True, headers={"origin": admin}) as http,
    ):
        form = {"token": token_of(http.get(f"{admin}/guardproxy/feed").text), "key": "a-key-of-the-console"}
        assert http.post(f"{admin}/guardproxy/sign-in", data=form).status_code == 200
        form = {"token": token_of(http.get(f"{admin}/guardproxy/try").text), "text": BAD, "side": "user"}
        tried = http.post(f"{admin}/guardproxy/try", data=form)
        assert tried.status_code == 200
        assert "block" in tried.text


def test_clients_cannot_keep_the_operators_out(tmp_path: Path) -> None:
    """With every connection of the proxy taken, the operators' paths still answer; so do they while it stops."""
    answered = threading.Event()
    upstream = ScriptedUpstream([Scripted([answered, b"{}"])])
    port, admin_port = free_port(), free_port()
    url, admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    more = f"server: {{port: {port}, max_connections: 2}}\nadmin: {{port: {admin_port}}}\n"
    with (
        serve(upstream) as below,
        guarded(tmp_path, below, more, f"{admin}/readyz") as process,
        httpx.Client(trust_env=False, headers={"connection": "close"}) as http,
    ):
        taken = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        until(lambda: answers(http, f"{url}/unknown", 503), "a third connection is served")
        assert http.get(f"{admin}/readyz").status_code == 200
        for connection in taken:
            connection.close()
        until(lambda: answers(http, f"{url}/unknown", 404), "nobody is served")
        waiting = threading.Thread(target=chat, args=(url, "hello"))
        waiting.start()
        until(lambda: upstream.seen, "the upstream is not asked")
        process.terminate()
        until(lambda: answers(http, f"{admin}/readyz", 503), "it is not stopping")
        assert http.get(f"{admin}/readyz").json()["status"] == "shutting down"
        answered.set()
        waiting.join(60)


def test_several_workers_share_it(tmp_path: Path) -> None:
    """With two workers, one that is free answers on the operators' port, and all end with the process."""
    port, admin_port = free_port(), free_port()
    admin = f"http://127.0.0.1:{admin_port}"
    more = f"server: {{port: {port}, workers: 2}}\nadmin: {{port: {admin_port}}}\n"
    with guarded(tmp_path, "http://127.0.0.1:9", more, f"{admin}/readyz"):
        until(lambda: (tmp_path / "log").read_text().count("admin_listening") >= 2, seconds=150)
        for _ in range(8):  # each on a connection of its own, which the kernel gives to one of them
            assert httpx.get(f"{admin}/healthz", trust_env=False).json()["status"] == "ok"
        assert chat(f"http://127.0.0.1:{port}", BAD).headers["x-guardproxy-action"] == "block"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{admin}/healthz", trust_env=False)


@pytest.mark.parametrize("same", [True, False])
def test_a_port_that_is_taken_ends_the_start(tmp_path: Path, same: bool) -> None:
    """The message names the option of the operators' listener; nothing is loaded."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        port = free_port()
        config = tmp_path / "guardproxy.yaml"
        config.write_text(f"admin: {{port: {port if same else taken}}}\nupstream: {{url: 'http://127.0.0.1:9'}}\n")
        command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(config), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 2
    assert ("choose another" if same else "change admin.host or admin.port") in done.stderr.splitlines()[-1]
