"""Which hosts are served, and which pages may call."""

import httpx
import pytest

from guardproxy.web.visitors import HostNotServed, OriginRefused, Visitors, is_loopback
from tests.kit import Scripted
from tests.web.kit import chat, completion, standing

CHAT = "/v1/chat/completions"


def checked(visitors: Visitors, host: str | None, origin: str | None = None) -> str:
    """The name of the refusal, "" if the request may pass."""
    headers = [(name, text.encode()) for name, text in ((b"host", host), (b"origin", origin)) if text is not None]
    try:
        visitors.check(headers)
    except (HostNotServed, OriginRefused) as error:
        return error.code
    return ""


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("chat.example.com", True),
        ("CHAT.example.com.:8443", True),
        ("a.internal", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("10.1.2.3", True),
        ("localhost:8080", True),
        ("evil.example", False),
        ("chat.example.com.evil.example", False),
        ("chat.example.com@evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("chat.example.com evil", False),
        ("", False),
        (None, False),
    ],
)
def test_only_listed_hosts_are_served(host: str | None, served: bool) -> None:
    """With a list, other names are refused; addresses and localhost are no names that a page could have."""
    visitors = Visitors(["chat.example.com", "*.internal"])
    assert checked(visitors, host) == ("" if served else "host_not_served")
    assert checked(Visitors(), host) == ""


@pytest.mark.parametrize(
    ("host", "origin", "admitted"),
    [
        ("localhost:8080", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("localhost:8080", "http://localhost:3000", True),
        ("127.0.0.1:8080", "http://localhost:3000", True),
        ("[::1]:8080", "http://localhost:3000", True),
        ("10.0.0.1:8080", "http://10.0.0.1", True),
        ("10.0.0.1:8080", "http://10.0.0.2", False),
        ("localhost:8080", "https://evil.example", False),
        ("localhost:8080", "null", False),
        ("localhost:8080", "", False),
        ("localhost:8080", "file://", False),
        ("localhost:8080", "chrome-extension://abc", False),
        ("localhost:8080", "http://localhost.evil.example", False),
        ("localhost:8080", "http://localhost@evil.example", False),
        ("localhost:8080", "http://evil.example/http://localhost", False),
    ],
)
def test_pages_from_elsewhere_may_not_call(host: str, origin: str | None, admitted: bool) -> None:
    """A page of the server's own host may call, on any port; every other page is refused."""
    for visitors in (Visitors(["chat.example.com"]), Visitors(loopback=True), Visitors()):
        assert checked(visitors, host, origin) == ("" if admitted else "origin_not_allowed")


def test_a_rebinding_page_is_not_the_servers_own() -> None:
    """On a loopback address no unlisted name is the server's own; elsewhere the operator lists the names."""
    page = ("evil.example:8080", "http://evil.example:8080")
    assert checked(Visitors(loopback=True), *page) == "origin_not_allowed"
    assert checked(Visitors(["chat.example.com"]), *page) == "host_not_served"
    assert checked(Visitors(["chat.example.com"], loopback=True), "chat.example.com", "https://chat.example.com") == ""
    assert checked(Visitors(), "chat.example.com", "https://chat.example.com") == ""


def test_listed_origins_may_call() -> None:
    """The operator lists origins, with patterns; `*` is every page."""
    visitors = Visitors(origins=["https://app.example.com/", "https://*.corp.example", "app://*"])
    for origin in ("https://app.example.com", "HTTPS://a.corp.example", "app://obsidian.md"):
        assert checked(visitors, "localhost", origin) == ""
    for origin in ("http://app.example.com", "https://corp.example", "https://app.example.com.evil.example"):
        assert checked(visitors, "localhost", origin) == "origin_not_allowed"
    assert checked(Visitors(origins=["*"]), "localhost", "null") == ""


def test_a_header_occurs_once() -> None:
    """Several hosts or origins are refused: servers would choose differently."""
    with pytest.raises(HostNotServed):
        Visitors().check([(b"host", b"a"), (b"host", b"b")])
    with pytest.raises(OriginRefused):
        Visitors().check([(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://localhost")])


def test_loopback_addresses() -> None:
    """The addresses that only this machine reaches."""
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.9.9.9")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com")))


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics", "/healthz"])
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_a_page_from_elsewhere_reaches_nothing(path: str, method: str) -> None:
    """A request of a foreign page, a preflight included, is an error of the protocol on every path."""
    with standing(completion("ok")) as (url, upstream), httpx.Client(trust_env=False) as http:
        answer = http.request(method, url + path, content=chat(), headers={"origin": "https://evil.example"})
        metrics = http.get(url + "/metrics").text
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "server.origins" in answer.json()["error"]["message"]
    assert "evil" not in answer.text
    assert upstream.seen == []
    assert 'guardproxy_requests_total{status="4xx",wire="none"} 1.0' in metrics


def test_a_name_that_is_not_served_is_refused() -> None:
    """A rebinding page sends its own name as the host: 421, and nothing reaches the upstream."""
    with (
        standing(completion("ok"), visitors=Visitors(["guard.example"])) as (url, upstream),
        httpx.Client(trust_env=False) as http,
    ):
        refused = http.post(url + CHAT, content=chat(), headers={"host": "evil.example"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (421, "host_not_served")
        assert upstream.seen == []
        assert http.post(url + CHAT, content=chat(), headers={"host": "guard.example:99"}).status_code == 200


def test_a_listed_page_gets_the_upstreams_permission() -> None:
    """CORS headers are the upstream's; the preflight of a listed origin is forwarded."""
    origin = "https://app.example.com"
    script = Scripted([b"{}"], headers={"access-control-allow-origin": origin})
    with (
        standing(script, visitors=Visitors(origins=[origin])) as (url, _),
        httpx.Client(trust_env=False) as http,
    ):
        answer = http.options(url + CHAT, headers={"origin": origin, "access-control-request-method": "POST"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


def test_pages_of_listed_origins_may_read_the_answers() -> None:
    """The proxy answers preflight requests; its headers take the place of the upstream's, also on errors."""
    page = {"origin": "https://app.example.com"}
    upstream = Scripted(
        completion("hello").body,
        headers={"content-type": "application/json", "access-control-allow-origin": "*", "access-control-max-age": "1"},
    )
    origins = ("https://*.example.com",)
    with (
        standing(upstream, visitors=Visitors(origins=origins), cors=origins) as (url, scripted),
        httpx.Client(trust_env=False) as http,
    ):
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless",
        }
        preflight = http.options(url + CHAT, headers={**page, **asked})
        answer = http.post(url + CHAT, content=chat(), headers=page)
        error = http.post(url + CHAT, content=b"{", headers=page)
        other = http.options(url + CHAT, headers={**asked, "origin": "https://evil.example"})
        plain = http.post(url + CHAT, content=chat())
        operators = http.get(f"{url}/healthz", headers=page)
    assert (preflight.status_code, error.status_code, other.status_code) == (200, 400, 403)
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for one in (preflight, answer, error):
        assert one.headers.get_list("access-control-allow-origin") == ["https://app.example.com"]
        assert "Origin" in one.headers["vary"]
    assert answer.headers["access-control-expose-headers"] == "*"
    assert "access-control-max-age" not in answer.headers
    for one in (other, plain, operators):
        assert "access-control-allow-origin" not in one.headers
    assert len(scripted.seen) == 2, "no preflight request reaches the upstream"
