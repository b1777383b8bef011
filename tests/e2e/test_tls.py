"""TLS towards clients and towards the upstream, with real processes and OpenAI's own client."""

import json
import socket
import ssl
import time
import warnings
from pathlib import Path

import httpx
import openai
import pytest

from tests.certificates import Authority, Pair
from tests.e2e.guarded import BAD, guarded
from tests.kit import Scripted, ScriptedUpstream, free_port, serve

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
ANSWER = Scripted([json.dumps({"choices": [CHOICE]}).encode()])


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that the configuration reads from the environment."""
    monkeypatch.setenv("GUARD_KEY", "a-key")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority whose files are in the test's folder."""
    return Authority(tmp_path)


def tls(pair: Pair, more: str = "") -> str:
    """The options of a certificate."""
    return f"{{cert: {pair.cert}, key: {pair.key}{more}}}"


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """How a client checks certificates, and its own."""
    context = ssl.create_default_context(cafile=authority.file)
    if pair:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def test_both_ends_over_tls(tmp_path: Path, authority: Authority) -> None:
    """OpenAI's client reaches the proxy over TLS, and the proxy an upstream that asks for its certificate."""
    server, below, own = authority.issue("server"), authority.issue("below"), authority.issue("own")
    upstream = ScriptedUpstream([ANSWER])
    port = free_port()
    url = f"https://localhost:{port}"
    asks = {"ssl_certfile": below.cert, "ssl_keyfile": below.key, "ssl_ca_certs": authority.file, "ssl_cert_reqs": 2}
    out = f", tls: {tls(own, f', ca: {authority.file}')}"
    with serve(upstream, **asks) as plain:
        secure = plain.replace("http://127.0.0.1", "https://localhost")
        more = f"server: {{host: localhost, port: {port}, tls: {tls(server)}}}\n"
        context = trusting(authority)
        with (
            guarded(tmp_path, secure, more, f"{url}/readyz", tls=out, verify=context),
            openai.OpenAI(
                base_url=f"{url}/v1", api_key="k", http_client=openai.DefaultHttpxClient(verify=context)
            ) as client,
        ):
            said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
            assert said.choices[0].message.content == "fine"
            blocked = client.chat.completions.create(model="m", messages=[{"role": "user", "content": BAD}])
            assert blocked.choices[0].finish_reason == "content_filter"
            with pytest.raises(httpx.ConnectError):  # the authorities of the system do not know this one
                httpx.get(f"{url}/readyz", trust_env=False)
            assert _versions(port, context) == {"TLSv1.2": True, "TLSv1.3": True, "TLSv1.1": False}
    assert len(upstream.seen) == 1
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert next(line["listening_on"] for line in lines if line["event"] == "starting") == url


def _versions(port: int, trusted: ssl.SSLContext) -> dict[str, bool]:
    """Whether the server speaks each version."""
    spoken = {}
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        try:
            with socket.create_connection(("localhost", port)) as raw, context.wrap_socket(raw) as connection:
                spoken[connection.version() or ""] = True
        except (ssl.SSLError, OSError):
            spoken[version.name.replace("_", ".")] = False
    return spoken


def test_an_upstream_that_cannot_be_trusted_gets_nothing(tmp_path: Path, authority: Authority) -> None:
    """With an upstream whose authority is not trusted, the client gets 502, and no request arrives there."""
    below, other = authority.issue("below"), Authority(tmp_path, "other")
    upstream = ScriptedUpstream([ANSWER])
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serve(upstream, ssl_certfile=below.cert, ssl_keyfile=below.key) as plain:
        secure = plain.replace("http://", "https://")
        more = f"server: {{port: {port}}}\n"
        with guarded(tmp_path, secure, more, f"{url}/readyz", tls=f", tls: {{ca: {other.file}}}"):
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert upstream.seen == []


def test_only_clients_with_a_certificate(tmp_path: Path, authority: Authority) -> None:
    """With `client_ca` a client without a certificate is not served; the operators' listener may do without."""
    server, client = authority.issue("server"), authority.issue("client")
    port, admin_port = free_port(), free_port()
    admin = f"http://127.0.0.1:{admin_port}"
    options = tls(server, f", client_ca: {authority.file}")
    more = f"server: {{port: {port}, tls: {options}}}\nadmin: {{port: {admin_port}}}\n"
    with guarded(tmp_path, "http://127.0.0.1:9", more, f"{admin}/readyz"):
        url = f"https://127.0.0.1:{port}/v1/moderations"
        with httpx.Client(verify=trusting(authority, client), trust_env=False) as http:
            assert http.post(url, json={"input": "x"}).status_code == 200
        with httpx.Client(verify=trusting(authority), trust_env=False) as http, pytest.raises(httpx.TransportError):
            http.post(url, json={"input": "x"})
        with httpx.Client(trust_env=False) as http, pytest.raises(httpx.TransportError):
            http.post(url.replace("https", "http"), json={"input": "x"})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_used(tmp_path: Path, authority: Authority, workers: int) -> None:
    """A new pair of files answers from the next connection on; half of a pair leaves the old one."""
    old, new = authority.issue("old"), authority.issue("new")
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    used.cert.write_bytes(old.cert.read_bytes())
    used.key.write_bytes(old.key.read_bytes())
    port = free_port()
    more = f"server: {{port: {port}, workers: {workers}, tls: {tls(used)}}}\n"
    context = trusting(authority)
    with guarded(tmp_path, "http://127.0.0.1:9", more, f"https://127.0.0.1:{port}/readyz", verify=context):
        assert _subject(port, context) == "old"
        _replace(used.cert, new.cert)
        assert _subject(port, context) == "old"
        _replace(used.key, new.key)
        assert _subject(port, context) == "new"
        if workers == 1:  # of several, one may not have had a connection since, and so have the old pair still
            used.cert.unlink()
            assert _subject(port, context) == "new"
    log = (tmp_path / "log").read_text()
    assert "certificate_not_reloaded" in log
    assert "certificate_reloaded" in log


def _replace(path: Path, new: Path) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(new.read_bytes())
    beside.replace(path)
    time.sleep(0.05)


def _subject(port: int, context: ssl.SSLContext) -> str:
    """The name in the certificate of the server, by a client that names no host."""
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as connection:
        subject = (connection.getpeercert() or {})["subject"]
    return str(subject[0][0][1])  # type: ignore[index]
