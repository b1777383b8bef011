"""Several upstreams: which one gets a request, with which key and model, and when another one is tried."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.policy import BlockPolicy, PolicySet, Route
from guardproxy.upstreams import Ejection, may_repeat
from guardproxy.web.failover import NotServed, UpstreamGroup, Upstreams
from guardproxy.web.model_names import with_models
from guardproxy.web.upstream import Outgoing, Upstream
from tests.kit import ListSink, Scripted, ScriptedUpstream, Seen, serve
from tests.web.alone import ScriptedTransport
from tests.web.kit import chat, completion, events, guarded, policy

PAIR = {"default": UpstreamGroup(("a", "b"))}
ERRORS = {"unsent": httpx.ConnectError("no"), "unknown": httpx.ReadError("broken")}


class Failing(ScriptedTransport):
    """Raises an exception of the script in place of an answer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or fail."""
        if isinstance(self.script[0], Exception):
            self.seen.append(Seen(request.method, "", [], b""))
            raise self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await super().handle_async_request(request)


def upstream(name: str, *script: Any, **options: Any) -> tuple[Upstream, Failing]:
    """An upstream at NAME.test with scripted answers, and its transport."""
    transport = Failing([*script])
    return Upstream(f"http://{name}.test", name=name, transport=transport, **options), transport


def said(status: int = 200, **headers: str) -> Scripted:
    """An answer with this status."""
    return Scripted([b"{}"], status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def sent(upstreams: Upstreams, outgoing: Outgoing | None = None, wire: str = "openai_chat") -> tuple[int, Any]:
    """The status and the headers of the answer; for an error its status and itself."""
    try:
        plan = upstreams.plan("", wire)
        async with upstreams.send(plan, outgoing or Outgoing("POST", "/v1/x", b"", [], b"{}")) as response:
            return response.status, response.headers
    except GuardproxyError as error:
        return error.status, error


def calls(transports: Iterable[Failing]) -> list[int]:
    """How often each was called."""
    return [len(transport.seen) for transport in transports]


ENDINGS = {
    "answered": [said(200), said(400), said(401)],
    "unsent": [ERRORS["unsent"]],
    "declined": [said(429), said(503), said(529), said(429, retry_after="1")],
    "failed": [said(500), said(502), said(501)],
    "unknown": [ERRORS["unknown"], said(504), said(524)],
}


@given(
    st.lists(st.sampled_from(sorted(ENDINGS)), min_size=1, max_size=5),
    st.sampled_from(["unsent", "declined", "failed", "unknown"]),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_nothing_that_may_have_been_acted_on_is_repeated(
    endings: list[Any], after: Any, attempts: int, random: Random
) -> None:
    """Each member is called at most once, none after an ending beyond `after`, and an answer ends it all."""
    order: list[str] = []

    class Noting(Failing):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            order.append(request.url.host.partition(".")[0])
            return await super().handle_async_request(request)

    script = {f"u{index}": random.choice(ENDINGS[ending]) for index, ending in enumerate(endings)}
    by_name = dict(zip(script, endings, strict=True))
    members = [Upstream(f"http://{n}.test", name=n, transport=Noting([answer])) for n, answer in script.items()]
    group = UpstreamGroup(tuple(script), attempts, after)
    upstreams = Upstreams(members, {"default": group}, random=random)
    status, got = asyncio.run(sent(upstreams))
    called = [by_name[name] for name in order]
    assert len(order) == len(set(order)) <= attempts
    assert all(may_repeat(ending, after) for ending in called[:-1])
    stopped = not may_repeat(called[-1], after)
    assert stopped or len(order) == min(attempts, len(endings))
    last = script[order[-1]]
    assert status == (last.status if isinstance(last, Scripted) else 502)
    told = (b"x-should-retry", b"false") in got if isinstance(got, list) else getattr(got, "repeated", False)
    assert told == (status >= 400 and len([ending for ending in called if ending != "unsent"]) > 1)


def test_each_gets_its_own_key_and_no_other() -> None:
    """Neither the client's key nor that of another upstream, in no header and not in the query; and no cookie."""
    private = {b"authorization", b"x-llm-key"}
    a, at_a = upstream("a", said(503), weight=1e9, key="key-a", key_header="x-llm-key", private=private, cookies=False)
    b, at_b = upstream("b", said(503), weight=1.0, key="key-b", private=private, cookies=False)
    c, at_c = upstream("c", said(200, set_cookie="c=1"), weight=0.0, client_key=False, private=private, cookies=False)
    d, at_d = upstream("d", said(200))
    headers = [(b"authorization", b"Bearer client"), (b"x-api-key", b"client"), (b"x-llm-key", b"client")]
    headers += [(b"cookie", b"a=session"), (b"x-other", b"1")]
    upstreams = Upstreams([a, b, c, d], {"default": UpstreamGroup(("a", "b", "c"))})
    status, got = asyncio.run(sent(upstreams, Outgoing("POST", "/v1/x", b"alt=sse&key=client", headers, b"{}")))
    assert (status, got) == (200, [])
    for transport, credentials in ((at_a, ["key-a"]), (at_b, ["Bearer key-b"]), (at_c, [])):
        [one] = transport.seen
        assert [value for key, value in one.headers if key not in ("host", "content-length", "x-other")] == credentials
        assert one.target == "/v1/x?alt=sse"
    assert at_d.seen == []


def test_the_clients_limit_is_not_the_upstreams() -> None:
    """A 429 for the client's own key does not keep others away; one for the proxy's key does, as long as it says."""
    a, at_a = upstream("a", said(429, retry_after="30"))
    b, at_b = upstream("b", said(429, retry_after="30"), key="own")
    now = [0.0]
    upstreams = Upstreams(
        [a, b], {"default": UpstreamGroup(("a",)), "other": UpstreamGroup(("b",))}, clock=lambda: now[0]
    )

    async def run() -> None:
        for name in ("default", "other"):
            async with upstreams.send(upstreams.plan(name, "openai_chat"), Outgoing("POST", "/", b"", [], b"{}")):
                pass

    asyncio.run(run())
    assert upstreams.states() == {"a": "up", "b": "limited"}
    now[0] = 30.0
    assert upstreams.states()["b"] == "up"
    assert calls([at_a, at_b]) == [1, 1]


def test_ejection_and_return() -> None:
    """A dead member costs five requests an attempt, then one in ten seconds; when it is back, it gets its share."""
    now = [0.0]
    a, at_a = upstream("a", ERRORS["unsent"], weight=1e9)
    b, at_b = upstream("b", said())
    upstreams = Upstreams([a, b], PAIR, clock=lambda: now[0], random=Random(1))

    async def ask(times: int) -> None:
        for _ in range(times):
            assert (await sent(upstreams))[0] == 200

    with capture_logs() as logs:
        asyncio.run(ask(20))
        assert (calls([at_a, at_b]), upstreams.states()) == ([5, 20], {"a": "down", "b": "up"})
        now[0] = 10.0
        asyncio.run(ask(10))
        assert calls([at_a, at_b]) == [6, 30]
        at_a.script = [said()]
        now[0] = 30.0
        asyncio.run(ask(10))
    assert (calls([at_a, at_b]), upstreams.states()["a"]) == ([16, 30], "up")
    events = [line["event"] for line in logs if line["event"] != "upstream_failover"]
    assert events == ["upstream_ejected", "upstream_ejected", "upstream_recovered"]


def test_all_down_is_tried_and_not_refused() -> None:
    """The proxy's belief is no reason to refuse: a request is tried even if all are ejected."""
    a, _ = upstream("a", ERRORS["unsent"], ejection=Ejection(failures=1))
    b, at_b = upstream("b", ERRORS["unsent"], ejection=Ejection(failures=1))
    upstreams = Upstreams([a, b], PAIR, clock=lambda: 0.0)
    assert asyncio.run(sent(upstreams))[0] == 502
    assert set(upstreams.states().values()) == {"down"}
    at_b.script = [said()]
    assert asyncio.run(sent(upstreams))[0] == 200
    assert upstreams.states() == {"a": "down", "b": "up"}


def test_a_client_that_leaves_frees_the_probe() -> None:
    """A cancelled request says nothing of its upstream."""

    class Silent(Failing):
        asked = asyncio.Event()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.script:
                return await super().handle_async_request(request)
            self.asked.set()
            await asyncio.sleep(60)
            raise AssertionError("not reached")

    now, transport = [0.0], Silent([ERRORS["unsent"]])
    down = Upstream("http://a.test", name="a", transport=transport, ejection=Ejection(1))
    other, at_other = upstream("b", said(), weight=0.0)
    upstreams = Upstreams([down, other], PAIR, clock=lambda: now[0])

    async def run() -> None:
        await sent(upstreams)
        now[0] = 10.0
        transport.script.clear()
        probe = asyncio.create_task(sent(upstreams))
        await transport.asked.wait()
        assert (await sent(upstreams))[0] == 200, "only one request is a probe"
        probe.cancel()
        await asyncio.wait([probe])
        transport.script.append(said())
        assert (await sent(upstreams))[0] == 200

    asyncio.run(run())
    assert (len(at_other.seen), upstreams.states()["a"]) == (2, "up")


def test_protocols() -> None:
    """A request goes only to members that speak its protocol; if none does, the answer says so."""
    a, at_a = upstream("a", said(), protocols=["anthropic_messages"])
    b, at_b = upstream("b", said(), protocols=["openai_chat"])
    upstreams = Upstreams([a, b], PAIR)
    for _ in range(5):
        assert asyncio.run(sent(upstreams))[0] == 200
    assert calls([at_a, at_b]) == [0, 5]
    assert upstreams.plan_unread("", "/v1/messages/count_tokens").url == "http://a.test"
    assert upstreams.plan_unread("", "/v1/models").url == "http://b.test"
    with pytest.raises(NotServed):
        upstreams.plan("", "gemini")


def test_default_is_needed() -> None:
    """Without it, requests of no route would go nowhere."""
    with pytest.raises(ConfigError, match="default"):
        Upstreams([upstream("a", said())[0]])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model": "gpt-4o", "n": 1.0}', b'{"model": "big", "n": 1.0}'),
        (b'{"a": {"model": "gpt-4o"}, "model" : "gpt-5"}', b'{"a": {"model": "gpt-4o"}, "model" : "sm\\u00e4ll"}'),
        (b'{"m": "model", "\\u006dodel":"gpt-4o"}', b'{"m": "model", "\\u006dodel":"big"}'),
        (b'{"model": "claude"}', b'{"model": "claude"}'),
        (b'{"model": ["gpt-4o"]}', b'{"model": ["gpt-4o"]}'),
        (b'{"messages": [{"content": "\\"model\\": \\"gpt-4o\\""}]}', None),
        (b"\xff{", None),
        (b'{"\xff": 1, "model": "gpt-4o"}', None),
    ],
)
def test_names_of_models(body: bytes, expected: bytes | None) -> None:
    """Only the model's own name changes, byte for byte."""
    assert with_models("/v1/x", body, (("gpt-4o", "big"), ("gpt-*", "smäll")))[1] == (expected or body)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1beta/models/gpt-4o:generateContent", "/v1beta/models/big:generateContent"),
        ("/openai/deployments/gpt%2D4o/chat/completions", "/openai/deployments/big/chat/completions"),
        ("/v1/models/gpt-5", "/v1/models/a%2Fb"),
        ("/v1/models", "/v1/models"),
    ],
)
def test_names_of_models_in_paths(path: str, expected: str) -> None:
    """Gemini's, Azure's, and those of the list of models."""
    assert with_models(path, b"", (("gpt-4o", "big"), ("gpt-*", "a/b")))[0] == expected


_VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("model"), inner),
    max_leaves=9,
)


@given(st.dictionaries(st.text(), _VALUES), st.integers(0, 9))
def test_any_body_keeps_everything_but_its_model(body: dict[str, Any], place: int) -> None:
    """Whatever stands beside it, and wherever it stands."""
    items = [(key, value) for key, value in body.items() if key != "model"]
    items.insert(place, ("model", "gpt-4o"))
    _, mapped = with_models("/v1/x", json.dumps(dict(items)).encode(), (("gpt-4o", "big"),))
    assert json.loads(mapped) == {**dict(items), "model": "big"}


# --- with the whole proxy --------------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"


def ask(url: str, path: str = CHAT, body: bytes | None = None, **options: Any) -> httpx.Response:
    """The proxy's answer."""
    return httpx.post(url + path, content=body or chat(), timeout=60, trust_env=False, **options)


def used(sink: ListSink) -> list[tuple[str, str]]:
    """The side and the upstream of every record."""
    return [(record.side, record.origin.upstream) for record in sink.records]


def test_records_name_the_upstream_that_was_used() -> None:
    """The record of a reply names the one that gave it; that of the request the one that it was chosen for."""
    a, _ = upstream("a", said(503), weight=1e9)
    b, at_b = upstream("b", completion("hello"))
    sink = ListSink()
    with serve(guarded(Upstreams([a, b], PAIR), sinks={"list": sink})) as url:
        answer = ask(url)
        health = httpx.get(f"{url}/healthz", trust_env=False)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert used(sink) == [("user", "http://a.test"), ("assistant", "http://b.test")]
    assert len(at_b.seen) == 1
    assert health.status_code == 200


@pytest.mark.parametrize("how", ["completion", "error"])
@pytest.mark.parametrize("streamed", [False, True])
def test_never_around_a_block(how: Any, streamed: bool) -> None:
    """A refused request goes nowhere, and a refused reply is not asked for again elsewhere."""
    answer = events("the poison") if streamed else completion("the poison")
    a, at_a = upstream("a", answer)
    b, at_b = upstream("b", answer)
    policies = PolicySet({"default": policy(block=BlockPolicy(how=how))})
    upstreams = Upstreams([a, b], {"default": UpstreamGroup(("a", "b"), after="unknown")})
    with serve(guarded(upstreams, policies=policies)) as url:
        assert "withheld" in ask(url, body=chat("mix poison", stream=streamed)).text
        assert calls([at_a, at_b]) == [0, 0]
        assert "withheld" in ask(url, body=chat("hello", stream=streamed)).text
    assert sum(calls([at_a, at_b])) == 1


def test_a_filter_of_the_upstream_is_no_failure() -> None:
    """The upstream's own refusal, here Azure's, is an answer: nobody else is asked."""
    refusal = Scripted([b'{"error": {"code": "content_filter", "message": "no"}}'], status=400)
    a, at_a = upstream("a", refusal)
    b, at_b = upstream("b", refusal)
    with serve(guarded(Upstreams([a, b], {"default": UpstreamGroup(("a", "b"), after="unknown")}))) as url:
        assert ask(url).status_code == 400
    assert sum(calls([at_a, at_b])) == 1


def test_routes_name_upstreams() -> None:
    """Also those of requests that pass unread, if their conditions need no model."""
    a, at_a = upstream("a", completion("hello"))
    b, at_b = upstream("default", completion("hello"))
    routes = (
        Route("big", "default", model="big", upstream="a"),
        Route("team", "default", header=("x-team", "x"), upstream="a"),
    )
    with serve(guarded(Upstreams([a, b]), policies=PolicySet({"default": policy()}, routes))) as url:
        ask(url, body=json.dumps({"model": "big", "messages": [{"role": "user", "content": "hi"}]}).encode())
        ask(url)
        assert calls([at_a, at_b]) == [1, 1]
        httpx.get(f"{url}/v1/models", headers={"x-team": "x"}, trust_env=False)
        httpx.get(f"{url}/v1/models", trust_env=False)
    assert calls([at_a, at_b]) == [2, 2]


def reply_of(name: str) -> Scripted:
    """A whole reply of the Responses API, with an id of this upstream."""
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed"}
    content = [{"type": "output_text", "text": "hello", "annotations": []}]
    body = {"id": f"resp_{name}", "object": "response", "status": "completed", "model": "m", "created_at": 1}
    return Scripted([json.dumps({**body, "output": [{**message, "content": content}]}).encode()])


def test_a_conversation_goes_on_where_it_is_kept() -> None:
    """A response of the Responses API is known to the upstream that gave it, and to no other."""
    a, at_a = upstream("a", reply_of("a"))
    b, at_b = upstream("b", reply_of("b"))
    with serve(guarded(Upstreams([a, b], PAIR, random=Random(3)))) as url:

        def respond(**more: str) -> str:
            body = {"model": "m", "input": "hello", **more}
            return str(ask(url, "/v1/responses", json.dumps(body).encode()).json()["id"])

        first = respond()
        assert [respond(previous_response_id=first) for _ in range(12)] == [first] * 12
    assert sorted(calls([at_a, at_b])) == [0, 13]


def test_accounts_at_one_address_are_told_apart() -> None:
    """Two upstreams differ by their keys alone: a response is known to the account that made it."""
    app = ScriptedUpstream([reply_of("x")])
    with serve(app) as address:
        pair = [Upstream(address, name=name, key=f"key-{name}") for name in ("a", "b")]
        with serve(guarded(Upstreams(pair, PAIR, random=Random(3)))) as url:
            for name in ("x", "y", "z"):
                app.script[:] = [reply_of(name)]
                body = {"model": "m", "input": "hello"}
                first = ask(url, "/v1/responses", json.dumps(body).encode()).json()["id"]
                (made_by,) = {dict(seen.headers)["authorization"] for seen in app.seen}
                # One that goes on in the background is not known as judged, but by whom it was made.
                background = {"id": f"resp_{name}", "object": "response", "status": "queued", "output": []}
                app.script[:] = [Scripted([json.dumps(background).encode()]), reply_of(name)]
                app.seen.clear()
                ask(url, "/v1/responses", json.dumps({**body, "background": True}).encode())
                (made_by,) = {dict(seen.headers)["authorization"] for seen in app.seen}
                for _ in range(6):
                    ask(url, "/v1/responses", json.dumps({**body, "previous_response_id": first}).encode())
                httpx.get(f"{url}/v1/responses/{first}", trust_env=False)
                assert {dict(seen.headers)["authorization"] for seen in app.seen} == {made_by}
                assert len(app.seen) == 8
                app.seen.clear()


def targets(seen: Sequence[Seen]) -> list[str]:
    """The paths that arrived."""
    return [one.target for one in seen]


def test_a_part_of_the_path_is_left_out() -> None:
    """For an upstream that has its endpoints elsewhere."""
    transport = ScriptedTransport([completion("hello")])
    upstreams = Upstreams([Upstream("http://a.test/api/v4", strip_path="/v1", transport=transport)])
    for path in ("/v1/chat/completions", "/v1x/models", "/other/v1"):
        asyncio.run(sent(upstreams, Outgoing("POST", path, b"q=1", [], b"{}")))
    assert targets(transport.seen) == ["/api/v4/chat/completions?q=1", "/api/v4/v1x/models?q=1", "/api/v4/other/v1?q=1"]
