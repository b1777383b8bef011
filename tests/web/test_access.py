"""Who is served, and how much: 401 and 429 in the client's own protocol, and no key beyond the proxy."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anthropic
import httpx
import openai
import pytest

from guardproxy.access import Client, ClientKey, Clients
from guardproxy.policy import PolicySet, Route, Rule, SideRules
from guardproxy.web.access import Access
from guardproxy.web.buckets import OwnBuckets, SharedBuckets
from tests.kit import ListSink, Scripted, ScriptedUpstream
from tests.web.kit import chat, completion, policy, standing

CHAT = "/v1/chat/completions"
RED, BLUE, OLD = "gp-red-key", "gp-blue-key", "gp-old-key"


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def client(name: str, *keys: str, expires: float | None = None, **limits: Any) -> Client:
    """A client with these keys."""
    return Client(name, tuple(ClientKey(sha256(key.encode()).digest(), expires) for key in keys), **limits)


def access(*clients: Client, clock: Clock | None = None) -> Access:
    """The check of these clients; the time stands still."""
    clock = clock or Clock()
    checks = Access(OwnBuckets(clock), clock)
    checks.clients = Clients(clients, b"secret")
    return checks


@contextmanager
def served(*clients: Client, answer: Scripted | None = None, **changes: Any) -> Iterator[tuple[str, ScriptedUpstream]]:
    """A proxy for these clients: red and blue, and old, whose key has expired, without others."""
    known = clients or (client("red", RED), client("blue", BLUE), client("old", OLD, expires=999.0))
    checks = access(*known, clock=changes.pop("clock", None))
    with standing(answer or completion("ok"), access=checks, **changes) as proxy:
        yield proxy


def post(url: str, key: str | None = RED, text: str = "hello", path: str = CHAT, **headers: str) -> httpx.Response:
    """Send a chat request with a key."""
    own = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{url}{path}", content=chat(text), headers={**own, **headers}, timeout=30)


PROTOCOLS = [
    (CHAT, {"authorization": "Bearer KEY"}, ("error", "code"), "invalid_api_key"),
    ("/v1/responses", {"authorization": "Bearer KEY"}, ("error", "code"), "invalid_api_key"),
    ("/v1/messages", {"x-api-key": "KEY"}, ("error", "type"), "authentication_error"),
    ("/v1beta/models/m:generateContent", {"x-goog-api-key": "KEY"}, ("error", "status"), "UNAUTHENTICATED"),
    ("/v1beta/models/m:generateContent?key=KEY", {}, ("error", "status"), "UNAUTHENTICATED"),
    ("/api/chat", {"authorization": "Bearer KEY"}, ("code",), "invalid_api_key"),
]


@pytest.mark.parametrize(("path", "headers", "place", "value"), PROTOCOLS)
@pytest.mark.parametrize("key", ["gp-wrong", OLD, ""])
def test_a_key_that_is_not_known_gets_401(
    path: str, headers: dict[str, str], place: tuple[str, ...], value: str, key: str
) -> None:
    """In the protocol's own form, without reaching the upstream; official SDKs do not repeat it."""
    with served() as (url, upstream):
        sent = {name: text.replace("KEY", key).strip() for name, text in headers.items()}
        answer = httpx.post(url + path.replace("KEY", key), content=chat(), headers=sent, timeout=30)
        found: Any = answer.json()
        for step in place:
            found = found[step]
        assert (answer.status_code, found, upstream.seen) == (401, value, [])
        assert answer.headers["x-should-retry"] == "false"
        assert key not in answer.text or not key


@pytest.mark.parametrize("path", ["/v1/models", "/v1/unknown"])
def test_no_other_path_is_open(path: str) -> None:
    """What passes unread needs a key as well, and is refused as before with one."""
    with served() as (url, upstream):
        assert httpx.get(url + path, timeout=30).status_code == (401 if path == "/v1/models" else 404)
        assert upstream.seen == []
        assert httpx.get(url + path, headers={"x-api-key": RED}, timeout=30).status_code in {200, 404}
        assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": f"Bearer {RED}"}, ""),
        ({"x-api-key": RED}, ""),
        ({"api-key": RED, "x-goog-api-key": RED}, ""),
        ({}, f"?alt=json&key={RED}&x=1"),
        ({}, f"?alt=json;key={RED}"),
        ({"authorization": RED}, f"?api_key={RED}"),
        ({"authorization": RED, "helicone-auth": f"Bearer {RED}", "cookie": f"a=b; k={RED}"}, f"?alt=json&token={RED}"),
        ({"x-api-key": RED, "x-litellm-api-key": RED}, "?alt=json&token=" + RED.replace("k", "%6b")),
    ],
)
@pytest.mark.parametrize("own", [None, "sk-upstream"])
def test_no_key_goes_beyond_the_proxy(
    headers: dict[str, str], query: str, own: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither to the upstream, with or without a key of its own, nor into records or the log; records have the name."""
    sink = ListSink()
    with served(sinks={"list": sink}, upstream={"key": own}) as (url, upstream):
        answer = httpx.post(f"{url}{CHAT}{query}", content=chat(), headers=headers, timeout=30)
        assert answer.status_code == 200
        httpx.get(f"{url}/v1/models{query}", headers=headers, timeout=30)
    assert len(upstream.seen) == 2
    assert RED not in repr(upstream.seen)
    assert [seen.header("authorization") for seen in upstream.seen] == [f"Bearer {own}" if own else None] * 2
    assert {record.origin.client for record in sink.records} == {"red"}
    assert RED not in repr(sink.records)
    logged = capsys.readouterr()
    assert "request_id" in logged.out
    assert RED not in logged.out + logged.err
    if "alt" in query:
        assert "alt=json" in upstream.seen[0].target
    assert RED not in unquote(upstream.seen[0].target)


@pytest.mark.parametrize(("header", "sent"), [("authorization", "Bearer sk-red"), ("x-api-key", "sk-red")])
def test_a_clients_own_key_at_an_upstream(header: str, sent: str) -> None:
    """It is sent instead of the upstream's, in its header, for this client and this upstream alone."""
    red = client("red", RED, upstream_keys={"default": "sk-red", "other": "sk-other"})
    with served(red, client("blue", BLUE), upstream={"key": "sk-all", "key_header": header}) as (url, upstream):
        assert [post(url, key).status_code for key in (RED, BLUE)] == [200, 200]
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": RED}, timeout=30).status_code == 200
    assert [seen.header(header) for seen in upstream.seen] == [sent, sent.replace("red", "all"), sent]
    assert "sk-other" not in repr(upstream.seen)


def test_a_client_is_one_however_it_connects_and_whichever_key_it_uses() -> None:
    """Its limit is that of all its keys and connections, others have their own; with the time it is served again."""
    clock = Clock()
    red = client("red", RED, "gp-red-2", requests_per_minute=3)
    with served(red, client("blue", BLUE), clock=clock) as (url, upstream):
        statuses = [post(url, key).status_code for key in (RED, "gp-red-2", RED, RED, "gp-red-2")]
        assert statuses == [200, 200, 200, 429, 429]
        assert post(url, BLUE).status_code == 200
        refused = post(url)
        assert refused.headers["retry-after"] == "20"
        assert "x-should-retry" not in refused.headers
        assert refused.json()["error"] == {**refused.json()["error"], "code": "rate_limit_exceeded", "type": "requests"}
        assert RED not in refused.text
        clock.now += 19.9
        assert post(url).status_code == 429
        clock.now += 0.2
        assert [post(url).status_code, post(url).status_code] == [200, 429]
        assert len(upstream.seen) == 5


def test_characters_are_limited_too() -> None:
    """Of all texts of a request; a model list has none. What is refused costs no characters."""
    clock = Clock()
    with served(client("red", RED, characters_per_minute=100), clock=clock) as (url, _):
        assert [post(url, text=text).status_code for text in ("x" * 60, "x" * 60, "x" * 40, "x")] == [
            200,
            429,
            200,
            429,
        ]
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": RED}, timeout=30).status_code == 200
        clock.now += 60
        assert post(url, text="x" * 1000).status_code == 200
        clock.now += 60
        assert post(url, text="x").headers["retry-after"] == "481"


def test_official_clients_wait_as_long_as_they_are_told() -> None:
    """The SDKs repeat a 429 after its Retry-After; a wrong key they do not repeat."""
    clock = Clock()
    red = client("red", RED, requests_per_minute=1)

    class Waking(OwnBuckets):
        """Buckets of a clock that a minute passes on after each refusal."""

        def take(self, name: str, per_minute: float, amount: float) -> float:
            wait_s = super().take(name, per_minute, amount)
            clock.now += wait_s
            return min(wait_s, 1.0)

    checks = Access(Waking(clock), clock)
    checks.clients = Clients([red], b"secret")
    with standing(completion("ok"), access=checks) as (url, upstream):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=RED) as sdk:
            for _ in range(2):
                done = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
                assert done.choices[0].message.content == "ok"
            assert len(upstream.seen) == 2
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="gp-wrong") as wrong,
            pytest.raises(openai.AuthenticationError, match="does not know"),
        ):
            wrong.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        with (
            anthropic.Anthropic(base_url=url, api_key="gp-wrong") as other,
            pytest.raises(anthropic.AuthenticationError, match="does not know"),
        ):
            other.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
        assert len(upstream.seen) == 2


def test_processes_share_their_buckets(tmp_path: Path) -> None:
    """What one process takes is gone for the other; a file that was not written to its end counts as none."""
    clock = Clock()
    first, second = (SharedBuckets(str(tmp_path / "limits"), clock) for _ in range(2))
    assert [first.take("red.requests", 2, 1), second.take("red.requests", 2, 1)] == [0.0, 0.0]
    assert first.take("red.requests", 2, 1) == second.take("red.requests", 2, 1) == 30.0
    assert second.take("blue.requests", 2, 1) == 0.0
    (tmp_path / "limits" / "red.requests").write_bytes(b"\0" * 7)
    assert first.take("red.requests", 2, 1) == 0.0


# --- routes and choices ----------------------------------------------------------------------------------------------

HARSH = replace(policy(user=SideRules({"hate": (Rule("block", 0.5),)})), name="harsh")
LAX = replace(policy(user=SideRules({}), assistant=SideRules({})), name="lax")
ROUTES = PolicySet(
    {"default": policy(), "harsh": HARSH, "lax": LAX},
    (
        Route("blue", "lax", client="blue"),
        Route("messages", "lax", protocol="anthropic_*"),
        Route("kid", "harsh", user="kid-*"),
        Route("all", "default", client="*", may_choose=("harsh", "lax")),
    ),
)


@pytest.mark.parametrize(
    ("key", "text", "choice", "action"),
    [
        (RED, "poison", None, "block"),
        (RED, "rude", None, "flag"),
        (RED, "rude", "harsh", "block"),
        (RED, "poison", "harsh", "block"),
        (RED, "poison", "lax", "block"),
        (RED, "fine", "harsh", "pass"),
        (BLUE, "poison", None, "pass"),
    ],
)
def test_routes_know_clients_by_name_and_choices_only_tighten(
    key: str, text: str, choice: str | None, action: str
) -> None:
    """A lax choice does not loosen; records name both policies; the header stays at the proxy."""
    sink = ListSink()
    with served(policies=ROUTES, sinks={"list": sink}) as (url, upstream):
        answer = post(url, key, text, **({"x-guardproxy-policy": choice} if choice else {}))
        assert answer.headers["x-guardproxy-action"] == action
        assert not any(seen.header("x-guardproxy-policy") for seen in upstream.seen)
    own = "default" if key == RED else "lax"
    assert {record.policy for record in sink.records} == {f"{own}+{choice}" if choice else own}


@pytest.mark.parametrize(
    ("key", "headers", "message"),
    [
        (RED, {"x-guardproxy-policy": "nope"}, "must be one of harsh, lax"),
        (RED, {"x-guardproxy-policy": "default"}, "must be one of harsh, lax"),
        (RED, {"x-guardproxy-policy": ""}, "must be one of harsh, lax"),
        (RED, {"x_guardproxy_policy": "nope"}, "must be one of harsh, lax"),
        (BLUE, {"x-guardproxy-policy": "harsh"}, "no policy can be chosen"),
    ],
)
def test_a_choice_that_is_not_offered_is_refused(key: str, headers: dict[str, str], message: str) -> None:
    """With 400 and the names that are; nothing reaches the upstream."""
    with served(policies=ROUTES) as (url, upstream):
        answer = post(url, key, **headers)
        assert (answer.status_code, upstream.seen) == (400, [])
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "policy_not_choosable"
        twice = httpx.post(
            f"{url}{CHAT}",
            content=chat(),
            headers=[("x-api-key", key), ("x-guardproxy-policy", "harsh"), ("X-GuardProxy-Policy", "lax")],
            timeout=30,
        )
        assert (twice.status_code, twice.json()["error"]["code"]) == (400, "ambiguous_request")


def test_routes_by_protocol_and_end_user() -> None:
    """The wire's name and the end user as records show it are conditions."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "rude"}]}
    sink = ListSink()
    with served(policies=ROUTES, sinks={"list": sink}) as (url, _):
        httpx.post(f"{url}/v1/messages", json=body, headers={"x-api-key": RED}, timeout=30)
        httpx.post(f"{url}{CHAT}", json={**body, "user": "kid-7"}, headers={"x-api-key": RED}, timeout=30)
        httpx.post(f"{url}{CHAT}", json=body, headers={"x-api-key": RED}, timeout=30)
    routes = {(record.origin.wire, record.origin.user): record.origin.route for record in sink.records}
    hashed = sha256(b"kid-7").hexdigest()[:16]
    assert routes["anthropic_messages", ""] == "messages"
    assert routes["openai_chat", hashed] == "all"  # records show a hash, so the pattern kid-* does not match
    assert routes["openai_chat", ""] == "all"


def test_the_folder_of_the_buckets_is_locked(tmp_path: Path) -> None:
    """So that nobody who cleans temporary folders removes it; several processes lock it at once."""
    folder = tmp_path / "limits"
    buckets = [SharedBuckets(str(folder)) for _ in range(2)]
    cleaner = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(cleaner)
    assert [one.take("red.requests", 1, 1) > 0 for one in buckets] == [False, True]


def test_a_limit_that_cannot_be_counted_refuses_clearly(tmp_path: Path) -> None:
    """503 with `Retry-After` in the client's protocol, nothing goes upstream; clients without limits go on."""
    folder = tmp_path / "limits"
    checks = Access(SharedBuckets(str(folder)))
    limited = [client("red", RED, requests_per_minute=60), client("old", OLD, characters_per_minute=60)]
    checks.clients = Clients([*limited, client("blue", BLUE)], b"secret")
    folder.rmdir()
    with standing(completion("fine"), access=checks) as (url, upstream):
        for key in (RED, OLD):
            sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            with pytest.raises(openai.InternalServerError) as raised:
                sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
            assert (raised.value.status_code, raised.value.code) == (503, "limits_unavailable")
            assert raised.value.response.headers["retry-after"] == "5"
        assert not upstream.seen
        answer = httpx.post(url + CHAT, content=chat(), headers={"authorization": f"Bearer {BLUE}"}, trust_env=False)
        assert answer.status_code == 200
