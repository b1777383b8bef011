"""The page as the proxy serves it: when it is on, and which hosts and origins may ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from guardproxy.app import Service, read
from tests.kit import serve

CONFIG = """
version: 1
server: {host: %s}
upstream: {url: "http://127.0.0.1:9"}
guard:
  family: openai_moderation
  service: {key: "${env:GUARD_KEY}", url: "http://127.0.0.1:9", attempts: 1}
policies:
  default: {unsafe: {block: 0.5}}
console: %s
"""
KEYED = '{key: "${env:CONSOLE_KEY}"}'


@contextmanager
def proxy(tmp_path: Path, host: str, console: str) -> Iterator[str]:
    """A proxy with this host and section `console`."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(CONFIG % (host, console))
    source = read(str(path), str(tmp_path))
    with serve(Service(source.file, source).app) as url:
        yield url


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that the configuration reads from the environment."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    monkeypatch.setenv("CONSOLE_KEY", "a-key-of-the-console")


@pytest.mark.parametrize(
    ("host", "console", "served"),
    [
        ("127.0.0.1", "{}", True),
        ("127.0.0.1", "{enabled: false}", False),
        ("0.0.0.0", "{}", False),
        ("0.0.0.0", KEYED, True),
        ("0.0.0.0", '{enabled: false, key: "${env:CONSOLE_KEY}"}', False),
    ],
)
def test_when_it_is_served(tmp_path: Path, host: str, console: str, served: bool) -> None:
    """On loopback without keys, elsewhere with keys only; otherwise its paths are unknown like any other."""
    with proxy(tmp_path, host, console) as url:
        answer = httpx.get(f"{url}/guardproxy/feed", follow_redirects=True)
        assert (answer.status_code == 200) is served
        assert ("Sign in" in answer.text) is (served and console == KEYED)
        assert ("path_not_guarded" in answer.text) is not served


def test_other_hosts_and_origins_are_refused(tmp_path: Path) -> None:
    """Without keys a page from elsewhere neither reads by DNS rebinding nor sends a form."""
    with proxy(tmp_path, "127.0.0.1", "{}") as url:
        assert httpx.get(f"{url}/guardproxy/feed", headers={"host": "evil.test"}).status_code == 421
        page = f"{url}/guardproxy/try"
        assert httpx.post(page, headers={"origin": "http://evil.test"}, data={"text": "x"}).status_code == 403
        assert httpx.post(page, headers={"origin": url}, data={"text": "x"}).status_code == 403  # without its token
        secret = tmp_path / "console.secret"
        assert secret.stat().st_mode & 0o077 == 0
        assert len(secret.read_text()) >= 48
