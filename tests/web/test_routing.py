"""No request gets another client's or team's policy: raw bytes to a real server."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardproxy.policy import PolicySet, Route, SideRules
from tests.kit import Scripted, ScriptedUpstream
from tests.web.kit import chat, completion, policy, standing

CHAT = "/v1/chat/completions"
K1 = "6ab9f1eb8f7d3388"  # printf %s k1 | sha256sum | cut -c1-16
LAX = policy(user=SideRules({}))
# Requests of the team `kids`, of the key k1, of the model `kids` and on chat paths are judged; all others pass.
KIDS = PolicySet(
    {"default": LAX, "strict": policy()},
    (
        Route("team", "strict", header=("x-team", "kids")),
        Route("key", "strict", client=K1),
        Route("model", "strict", model="kids"),
    ),
)
# Requests of the team `adults` are not judged.
ADULTS = PolicySet({"default": policy(), "lax": LAX}, (Route("team", "lax", header=("x-team", "adults")),))


def raw(url: str, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send pieces of bytes over a connection, and read the answer to its end."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer


def head(*lines: str, path: str = CHAT) -> bytes:
    """The head of a request that ends the connection."""
    fixed = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", "connection: close"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode("latin-1")


def chunked(body: bytes, *trailers: str) -> bytes:
    """A body in two chunks, and trailers."""
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:20], body[20:])]
    return b"".join([*chunks, b"0\r\n", *(line.encode() + b"\r\n" for line in trailers), b"\r\n"])


def plain(body: bytes, *lines: str, path: str = CHAT) -> bytes:
    """A whole request with a length."""
    return head(*lines, f"content-length: {len(body)}", path=path) + body


@contextmanager
def kids() -> Iterator[tuple[str, ScriptedUpstream]]:
    """A proxy that judges the requests of kids."""
    with standing(completion("ok"), policies=KIDS) as proxy:
        yield proxy


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
@pytest.mark.parametrize("declared", [(), ("trailer: x-team, authorization",)])
def test_trailers_never_become_headers(pause_s: float, declared: tuple[str, ...]) -> None:
    """A trailer neither chooses the policy nor reaches the upstream, in the packet of the head or in a later one."""
    lines = ("transfer-encoding: chunked", *declared)
    trailers = ("x-team: adults", "authorization: Bearer sk-trailer", "content-encoding: gzip")
    harm, fine = chunked(chat("poison"), *trailers), chunked(chat("hello"), *trailers)
    with standing(completion("ok"), policies=ADULTS) as (url, upstream):
        assert b"x-guardproxy-action: block" in raw(url, head(*lines) + harm)
        assert b"x-guardproxy-action: block" in raw(url, head(*lines), harm[:-60], harm[-60:], pause_s=pause_s)
        assert upstream.seen == []
        assert b"x-guardproxy-action: pass" in raw(url, head(*lines), fine[:-60], fine[-60:], pause_s=pause_s)
        assert b"x-guardproxy-action: pass" in raw(url, head(*lines) + fine)
    for seen in upstream.seen:
        assert (seen.header("authorization"), seen.header("x-team"), seen.header("content-encoding")) == (None,) * 3
        assert seen.body == chat("hello")


def test_trailers_do_not_reach_the_next_request() -> None:
    """On a kept connection the trailers of a request are not headers of the next."""
    first = head("transfer-encoding: chunked").replace(b"connection: close\r\n", b"")
    with standing(completion("ok"), policies=ADULTS) as (url, upstream):
        answers = raw(url, first + chunked(chat(), "x-team: adults"), plain(chat("poison")), pause_s=0.3)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"x-guardproxy-action: block" in answers
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["authorization: Bearer k1"], b"block"),
        (["authorization: Bearer  k1"], b"block"),
        (["authorization:\tBearer\tk1\t"], b"block"),
        (["AUTHORIZATION: bEARER k1"], b"block"),
        (["authorization: k1"], b"block"),
        (["api-key: k1"], b"block"),
        (["authorization: Bearer k2", "authorization: Bearer k1"], b"400"),
        (["authorization: Bearer k1", "authorization: Bearer k2"], b"400"),
        (["api-key: k2", "authorization: Bearer k1"], b"400"),
        (["authorization: Bearer k2", "x-api-key: k1"], b"400"),
        (["authorization: Bearer k2 k1"], b"400"),
        (["authorization: Bearer k1\xa0"], b"400"),
        (["x-team: kids"], b"block"),
        (["x-team:   kids  "], b"block"),
        (["X-TEAM: kids"], b"block"),
        (["x-team: kids", "x-team: adults"], b"400"),
        (["x-team: adults", "x-team: kids"], b"400"),
        (["x_team: adults", "x-team: kids"], b"400"),
    ],
)
def test_no_header_avoids_a_route(lines: list[str], status: bytes) -> None:
    """Every spelling of a key or team has its policy, and several of them are refused."""
    with kids() as (url, upstream):
        answer = raw(url, plain(chat("poison"), *lines))
    assert upstream.seen == []
    if status == b"400":
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"ambiguous_request" in answer
        assert b"k1" not in answer
    else:
        assert b"x-guardproxy-action: block" in answer


@pytest.mark.parametrize("query", ["?key=k1", "?%6bey=k1", "?key=%6b1", "?a=b&KEY=k1", "?key=k2&key=k1", "?key=k1;x"])
def test_no_query_avoids_a_route(query: str) -> None:
    """The same for a key in the query."""
    with kids() as (url, upstream):
        answer = raw(
            url,
            plain(chat("poison"), path=CHAT + query),
        )
        mixed = raw(url, plain(chat("poison"), "authorization: Bearer k2", path=CHAT + query))
    assert upstream.seen == []
    assert b"action: block" in answer or answer.startswith(b"HTTP/1.1 400")
    assert mixed.startswith(b"HTTP/1.1 400")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [
                *("authorization: Bearer k1", "authorization: Bearer k2", "Authorization: k2", "api-key: k2"),
                *(
                    "x-api-key: k1",
                    "x-goog-api-key: k2",
                    "x-team: kids",
                    "x-team: adults",
                    "X-Team: other",
                    "x_team: x",
                ),
                *("x-api-key: Bearer k2", "authorization: Basic azI6azE=", "x_api_key: k2", "x-other: k1"),
            ]
        ),
        max_size=4,
    ),
    st.sampled_from(["", "?key=k1", "?key=k2", "?alt=sse"]),
)
def test_no_order_of_headers_avoids_a_route(lines: list[str], query: str) -> None:
    """A request that carries the strict key or team in any place is never forwarded with harm in it."""
    lowered = [line.lower() for line in lines]
    strict = any(line in ("authorization: bearer k1", "x-api-key: k1", "x-team: kids") for line in lowered)
    with kids() as (url, upstream):
        answer = raw(url, plain(chat("poison"), *lines, path=CHAT + query))
    if strict or query == "?key=k1":
        assert upstream.seen == []
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))


@pytest.mark.parametrize("model", ["kids", "Kids", " kids ", "KIDS:latest", "models/kids"])
def test_no_spelling_of_a_model_avoids_a_route(model: str) -> None:
    """Models are compared without case and outer space."""
    with kids() as (url, upstream):
        answer = raw(url, plain(chat("poison", model=model)))
    assert b"x-guardproxy-action: block" in answer
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("body", "query", "place"),
    [
        ({"models": ["m", "Kids"]}, "", "models[1]"),
        ({"fallbacks": [{"model": "kids"}]}, "", "fallbacks[0].model"),
        ({"model": "kids", "extra_body": {"model": "m"}}, "", "extra_body.model"),
        ({}, "?model=kids", "?model"),
        ({"model": None}, "", "names no model"),
    ],
)
def test_no_other_model_avoids_a_route(body: dict[str, Any], query: str, place: str) -> None:
    """A request that names a model of another route beside its own is refused with the place, harmful or not."""
    with kids() as (url, upstream):
        answers = [raw(url, plain(chat(text, **body), path=CHAT + query)) for text in ("hello", "poison")]
    assert upstream.seen == []
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"ambiguous_request" in answer
        assert place.encode() in answer


def test_other_models_of_the_same_route_pass() -> None:
    """A list of models with one policy passes and is judged under it."""
    with kids() as (url, upstream):
        answer = raw(url, plain(chat("poison", model="kids", models=["Kids", "kids:latest"])))
        lax = raw(url, plain(chat("poison", models=["n"])))
    assert b"x-guardproxy-action: block" in answer
    assert lax.startswith(b"HTTP/1.1 200")
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions", "/api/chat/completions"),
        *("/openai/v1/chat/completions", "/openai/deployments/d/chat/completions", "/v1/chat/%63ompletions"),
    ],
)
def test_no_spelling_of_a_path_avoids_a_route(path: str) -> None:
    """A route for /v1/chat/* holds for every path of the endpoint."""
    policies = PolicySet({"default": LAX, "strict": policy()}, (Route("chat", "strict", path="/v1/chat/*"),))
    with standing(completion("ok"), policies=policies) as (url, upstream):
        answer = raw(url, plain(chat("poison"), path=path))
        other = raw(url, plain(b'{"model": "m", "prompt": "poison"}', path="/v1/completions"))
    assert b"x-guardproxy-action: block" in answer
    assert b"x-guardproxy-action: block" not in other
    assert [seen.target for seen in upstream.seen] == ["/v1/completions"]


def test_headers_that_name_another_request_stop_here() -> None:
    """On judged and on unread paths: the upstream gets no header that names another path or method."""
    lines = ["x-original-url: /admin", "X-Rewrite-URL: /x", "x-http-method-override: PUT", "x-forwarded-prefix: /y"]
    with standing(completion("ok")) as (url, upstream):
        raw(url, plain(chat(), *lines, "x-mine: 1"))
        raw(url, head(*lines, "x-mine: 1", path="/v1/models").replace(b"POST", b"GET"))
    assert len(upstream.seen) == 2
    for seen in upstream.seen:
        assert seen.header("x-mine") == "1"
        assert not [name for name, _ in seen.headers if "url" in name or "override" in name or "prefix" in name]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/"), ("OPTIONS", CHAT), ("HEAD", "/")])
def test_a_redirect_of_an_unread_path_stops_here(status: int, method: str, path: str) -> None:
    """A client that follows redirects is not led past the guard from any path."""
    script = Scripted([b"see elsewhere"], status=status, headers={"location": "http://127.0.0.1:1/x", "refresh": "0"})
    with standing(script) as (url, _), httpx.Client(trust_env=False) as http:
        answer = http.request(method, url + path)
    assert answer.status_code == 502
    assert "location" not in answer.headers
    assert method == "HEAD" or answer.json()["error"]["code"] == "upstream_redirects"


def test_not_modified_is_no_redirect() -> None:
    """A 304 passes."""
    with standing(Scripted(status=304, headers={"etag": '"e"'})) as (url, _), httpx.Client(trust_env=False) as http:
        assert http.get(url + "/v1/models", headers={"if-none-match": '"e"'}).status_code == 304


def test_an_upstream_with_a_key_gets_no_other() -> None:
    """With a key for the upstream, no spelling of a client's key reaches it."""
    lines = ["authorization: Bearer k2", "x_api_key: k2", "ocp-apim-subscription-key: k2", "X-Own: k2"]
    for header, value in (("authorization", "Bearer own"), ("x-own", "own")):
        with standing(completion("ok"), upstream={"key": "own", "key_header": header}) as (url, upstream):
            given_lines = lines if header == "x-own" else lines[:-1]
            raw(url, plain(chat(), *given_lines, path=f"{CHAT}?%6bey=k2&a=b&access_token=k2"))
        assert upstream.seen[0].target == f"{CHAT}?a=b"
        assert "k2" not in repr(replace(upstream.seen[0], body=b""))
        assert [text for name, text in upstream.seen[0].headers if name == header] == [value]


def test_unread_paths_need_no_policy() -> None:
    """A path that carries no chat passes, whatever its keys and routing headers."""
    lines = ["x-team: kids", "x-team: adults", "authorization: Bearer a", "api-key: b"]
    with kids() as (url, upstream):
        answer = raw(url, head(*lines, path="/v1/models").replace(b"POST", b"GET"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(upstream.seen) == 1
