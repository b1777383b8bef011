"""The proxy's handler in process: every branch of a request's way, its limits to the byte, its log and its metrics."""

import gzip
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from guardproxy.policy import BlockPolicy, PolicySet, Route, SideRules, StreamPolicy
from guardproxy.settings import Limits
from guardproxy.web.upstream import Retries
from tests.kit import WORDS, ListSink, Scripted, WordGuard
from tests.web.alone import CHAT, Alone, Got
from tests.web.kit import chat, completion, events, policy

LENGTH = [(b"content-type", b"application/json")]


def of(script: Scripted) -> bytes:
    """The bytes of a scripted body."""
    return b"".join(item for item in script.body if isinstance(item, bytes))


def code(got: Got) -> str:
    """The code of an error answer, whose length is right."""
    assert got.header("content-length") == str(len(got.body))
    assert got.header("content-type") == "application/json"
    return str(json.loads(got.body)["error"]["code"])


# --- the way of a request --------------------------------------------------------------------------------------------


def test_a_pass() -> None:
    """Bytes, status and headers pass; the upstream is asked for plain bytes, once; log and metrics know it."""
    sink = ListSink()
    reply = replace(
        completion("fine"), headers={"x-request-id": "u1", "content-length": "1", "connection": "x-hop", "x-hop": "1"}
    )
    alone = Alone(reply, sinks={"list": sink}, policies=PolicySet({"default": policy()}))
    headers = [*LENGTH, (b"accept-encoding", b"gzip"), (b"authorization", b"Bearer k1"), (b"connection", b"close")]
    got = alone.ask(chat(stream=False), headers=headers, query=b"a=1&key=k2")
    assert (got.status, got.body, got.ended) == (200, of(reply), True)
    assert (got.header("x-request-id"), got.header("x-hop"), got.header("connection")) == ("u1", None, None)
    assert got.header("content-length") == str(len(got.body))
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-coverage")) == ("pass", "full")
    assert got.header("x-should-retry") is None
    (seen,) = alone.seen
    assert (seen.method, seen.target, seen.body) == ("POST", f"/base{CHAT}?a=1&key=k2", chat(stream=False))
    assert [value for name, value in seen.headers if name == "accept-encoding"] == ["identity"]
    assert (seen.header("authorization"), seen.header("content-type")) == ("Bearer k1", "application/json")
    assert [record.origin.stream for record in sink.records] == [False, False]
    origin = sink.records[0].origin
    assert (origin.route, origin.wire, origin.upstream, origin.model) == (
        "default",
        "openai_chat",
        "http://up.test/base",
        "m",
    )
    assert origin.request_id == got.header("x-guardproxy-request-id")
    assert origin.client.count(",") == 1
    assert (alone.metric('requests_total{status="2xx",wire="openai_chat"}'), alone.metric("added_seconds_count")) == (
        1,
        1,
    )
    assert alone.metric("upstream_seconds_count") == 1
    entry = alone.logged("request") or {}
    assert entry.pop("ms") >= entry.pop("upstream_ms") >= 0
    assert entry == {
        "event": "request",
        "log_level": "debug",
        "wire": "openai_chat",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "action": "pass",
        "categories": (),
        "complete": True,
    }


def test_times() -> None:
    """Judging counts on both sides as the guard's time, waiting as the upstream's, and both reach log and metrics."""
    slow = replace(completion("fine"), body=[0.8, *completion("fine").body])
    alone = Alone(slow, guard=WordGuard(WORDS, delay_s=0.1))
    got = alone.ask(chat())
    times = dict(part.strip().split(";dur=") for part in str(got.header("server-timing")).split(","))
    assert 200 <= float(times["guard"]) < 700
    assert 800 <= float(times["upstream"]) < 2000
    entry = alone.logged("request") or {}
    assert 1000 <= entry["ms"] < 3000
    assert (entry["ms"], entry["upstream_ms"]) == (round(entry["ms"], 1), round(entry["upstream_ms"], 1))
    assert 800 <= entry["upstream_ms"] < 2000
    assert 0.2 <= alone.metric("added_seconds_sum") < 0.8
    assert alone.metric("upstream_seconds_sum") < 0.8


def test_times_of_an_unread_path() -> None:
    """The log has the seconds of the upstream, which are not the guard's."""
    alone = Alone(Scripted([0.1, b"{}"]))
    assert alone.ask(b"", "/v1/models", method="GET").header("server-timing") is None
    assert (alone.logged("request") or {})["upstream_ms"] >= 100


def test_times_of_an_error() -> None:
    """The judgement of an upstream's error counts as well."""
    alone = Alone(Scripted([b'{"error": {"message": "no"}}'], status=400), guard=WordGuard(WORDS, delay_s=0.1))
    times = dict(part.strip().split(";dur=") for part in str(alone.ask(chat()).header("server-timing")).split(","))
    assert 200 <= float(times["guard"]) < 2000


def test_a_block() -> None:
    """A blocked request does not go on, and the answer must not be retried; the log says it at level info."""
    alone = Alone(completion("fine"))
    got = alone.ask(chat("poison"))
    assert (got.status, got.header("x-should-retry"), alone.seen) == (200, "false", [])
    entry = alone.logged("request") or {}
    assert (entry["log_level"], entry["action"], entry["categories"]) == ("info", "block", ("weapons",))
    assert (alone.metric("added_seconds_count"), alone.metric("upstream_seconds_count")) == (1, 0)


def test_a_reply_that_is_changed() -> None:
    """A blocked or rewritten reply keeps the headers that do not describe its bytes; as an error it has none."""
    script = Scripted(completion("poison").body, headers={"etag": '"e"', "x-request-id": "u"})
    for text, action in (("poison", "block"), ("secret", "rewrite")):
        got = Alone(replace(script, body=completion(text).body)).ask(chat())
        assert (got.status, got.header("etag"), got.header("x-request-id")) == (200, None, "u")
        assert got.header("content-length") == str(len(got.body))
        assert (got.header("x-guardproxy-action"), got.header("x-should-retry")) == (action, None)
        assert text.encode() not in got.body
    refusing = PolicySet({"default": policy(block=BlockPolicy(how="error"))})
    refused = Alone(script, policies=refusing).ask(chat())
    assert (refused.status, code(refused), refused.header("x-should-retry")) == (400, "content_filter", "false")
    assert refused.header("x-request-id") is None


def test_a_dropped_turn() -> None:
    """The header names the messages that the upstream did not get."""
    turns = [("user", "poison"), ("assistant", "no"), ("user", "hello")]
    messages = [{"role": role, "content": text} for role, text in turns]
    alone = Alone(completion("fine"))
    got = alone.ask(json.dumps({"model": "m", "messages": messages}).encode())
    assert got.header("x-guardproxy-dropped-turns") == "0,1"
    assert b"poison" not in alone.seen[0].body


def test_routes_and_shadows() -> None:
    """A route chooses the policy by another spelling of the path, and its shadows are recorded."""
    sink = ListSink()
    lax = policy(user=SideRules({}))
    named = {"default": policy(), "lax": lax, "tried": replace(policy(), name="tried")}
    routes = (Route("chat", "lax", path="/v1/chat/*", shadow=("tried",)),)
    alone = Alone(completion("fine"), policies=PolicySet(named, routes), sinks={"list": sink})
    assert alone.ask(chat("poison"), "/chat/completions").header("x-guardproxy-action") == "pass"
    assert {
        (record.origin.route, record.policy, record.shadow) for record in sink.records if record.side == "user"
    } == {
        ("chat", "default", False),
        ("chat", "tried", True),
    }


def test_models_choose_the_route() -> None:
    """A model beside the request's own is matched only if a route depends on models."""
    named = {"default": policy(user=SideRules({})), "strict": policy()}
    by_model = PolicySet(named, (Route("r", "strict", model="kids"),))
    by_path = PolicySet(named, (Route("r", "strict", path="/v1/messages"),))
    assert code(Alone(completion("fine"), policies=by_model).ask(chat(models=["kids"]))) == "ambiguous_request"
    assert Alone(completion("fine"), policies=by_path).ask(chat(models=["kids"])).status == 200
    kids = Alone(completion("fine"), policies=by_model).ask(chat("poison", model="kids"))
    assert kids.header("x-guardproxy-action") == "block"


@pytest.mark.parametrize(
    ("method", "path", "changes", "status"),
    [
        ("GET", "/v1/models", {}, 200),
        ("HEAD", "/v1/models", {}, 200),
        ("OPTIONS", CHAT, {}, 200),
        ("POST", "/v1/messages/count_tokens", {}, 200),
        ("GET", CHAT, {}, 404),
        ("POST", "/v1/audio/speech", {}, 404),
        ("POST", CHAT, {"refuse": ("POST /v1/chat/*",)}, 404),
        ("GET", "/v1/models", {"refuse": ("GET /v1/*",)}, 404),
        ("GET", "/v1//models", {}, 400),
    ],
)
def test_paths(method: str, path: str, changes: dict[str, Any], status: int) -> None:
    """What passes unread keeps its bytes and its headers, without the proxy's own and those of the connection."""
    answer = {"x-guardproxy-action": "pass", "x-guardproxy-x": "1", "etag": '"e"', "connection": "x-hop", "x-hop": "1"}
    alone = Alone(Scripted([b"{", b"}"], status=200, headers=answer), **changes)
    got = alone.ask(b'{"a": 1}', path, method=method, headers=[(b"x-http-method", b"PUT"), (b"accept-encoding", b"br")])
    assert got.status == status
    entry = alone.logged("request") or {}
    assert (entry["wire"], entry["action"], entry["status"]) == ("none", None, status)
    assert entry["log_level"] == ("debug" if status == 200 else "info")
    assert alone.metric(f'requests_total{{status="{status // 100}xx",wire="none"}}') == 1
    assert alone.metric("added_seconds_count") == 0
    assert (len(alone.seen) == 1) is (status == 200)
    if status == 200:
        assert (got.pieces, got.ended) == ([b"{", b"}", b""], True)
        assert (got.header("etag"), got.header("x-hop")) == ('"e"', None)
        assert not [name for name, _ in got.headers if name.startswith(b"x-guardproxy-") and b"request-id" not in name]
        assert alone.seen[0].body == (b'{"a": 1}' if method == "POST" else b"")
        assert (alone.seen[0].header("x-http-method"), alone.seen[0].header("accept-encoding")) == (None, "br")
    else:
        assert code(got) == ("ambiguous_path" if status == 400 else "path_not_guarded")
        assert got.header("x-should-retry") == "false"
        assert status == 400 or f"'{method} {path}' to paths.allow" in json.loads(got.body)["error"]["message"]


# --- clients that leave ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_before_its_body_ends() -> None:
    """Nothing is sent, judged, logged or counted."""
    alone = Alone(completion("fine"))
    assert alone.ask(chat(), cut=True).status == 0
    assert (alone.seen, alone.logs, alone.metric('requests_total{status="2xx",wire="openai_chat"}')) == ([], [], 0)


@pytest.mark.parametrize(("path", "wire", "method"), [(CHAT, "openai_chat", "POST"), ("/v1/models", "none", "GET")])
def test_a_client_that_leaves(path: str, wire: str, method: str) -> None:
    """The log names the wire and the status so far; the request is not counted."""
    alone = Alone(replace(completion("fine"), body=[b"{", 30.0]))
    got = alone.ask(chat(), path, method=method, leaves_s=0.2)
    assert not got.ended
    entry = {"event": "client_left", "log_level": "info", "wire": wire, "status": got.status}
    assert [entry] == [item for item in alone.logs if item["event"] != "upstream_retry"]
    assert "requests_total{" not in alone.metrics


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "status"), [(0, 200), (-1, 413)])
@pytest.mark.parametrize("limit", ["messages", "characters", "body_bytes"])
def test_limits_of_a_request(limit: str, room: int, status: int) -> None:
    """A request of exactly the limit passes, a larger one is a 413 that names size and limit."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}] * 3}).encode()
    size = {"messages": 3, "characters": 15, "body_bytes": len(body)}[limit]
    alone = Alone(completion("fine"), limits=Limits(**{limit: size + room}))
    got = alone.ask(body)
    assert got.status == status
    if status == 413:
        message = json.loads(got.body)["error"]["message"]
        assert f"the {size + room} " in message
        assert f"limits.{limit}" in message
        assert limit == "body_bytes" or message.startswith(f"{size} ")
        assert (got.header("x-should-retry"), alone.seen) == ("false", [])


@pytest.mark.parametrize(("room", "status"), [(0, 200), (-1, 502)])
@pytest.mark.parametrize("kind", ["whole", "gzip", "error", "spaces"])
def test_limit_of_a_reply(kind: str, room: int, status: int) -> None:
    """A reply of exactly the limit passes; the decoded body counts, in pieces, errors and leading white space too."""
    plain = of(completion("fine")) + b" " * 90
    if kind == "spaces":
        plain = b" " * 400 + plain
    pieces = (
        [gzip.compress(plain)] if kind == "gzip" else [plain[start : start + 10] for start in range(0, len(plain), 10)]
    )
    headers = {"content-encoding": "gzip"} if kind == "gzip" else {}
    script = Scripted(pieces, status=400 if kind == "error" else 200, headers=headers)
    alone = Alone(script, limits=Limits(reply_bytes=len(plain) + room))
    got = alone.ask(chat())
    expected = 400 if kind == "error" and status == 200 else status
    assert got.status == expected
    if status == 502:
        assert code(got) == "upstream_unreadable"
        entry = alone.logged("request_failed") or {}
        assert entry["error"].endswith(f"it has more than the {len(plain) + room} bytes of limits.reply_bytes")
        assert f"see request {got.header('x-guardproxy-request-id')} in the log" in got.body.decode()
    else:
        assert got.body == plain


def test_leading_spaces_count_before_they_are_read_to_their_end() -> None:
    """A body of white space without end is refused at the limit."""
    script = Scripted([b" " * 60] * 2 + [30.0, b" "])
    assert Alone(script, limits=Limits(reply_bytes=100)).ask(chat(), leaves_s=20).status == 502


# --- errors ----------------------------------------------------------------------------------------------------------


def test_not_ready() -> None:
    """While the guard is not ready a judged path is a 503 that may be retried; an unread path passes."""
    alone = Alone(completion("fine"), ready=lambda: "the guard is loading")
    got = alone.ask(chat())
    assert (got.status, code(got), got.header("x-should-retry"), alone.seen) == (503, "not_ready", None, [])
    assert "the guard is loading" in got.body.decode()
    assert alone.ask(b"", "/v1/models", method="GET").status == 200


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"content-encoding", b"", 200),
        (b"content-encoding", b" Identity ", 200),
        (b"content-encoding", b"gzip", 415),
        (b"content-type", b"application/json; charset=utf-8", 200),
        (b"content-type", b"application/json; charset=utf-7", 415),
        (b"x-content-encoding", b"gzip", 200),
    ],
)
def test_encodings(name: bytes, value: bytes, status: int) -> None:
    """A body that others could decode to another text is refused, and the error says what to do."""
    got = Alone(completion("fine")).ask(chat(), headers=[(name, value)])
    assert got.status == status
    if status == 415:
        assert "send it without" in got.body.decode()
        assert code(got) == "unsupported_encoding"


class _Broken(WordGuard):
    async def judge(self, check: Any) -> Any:
        raise ZeroDivisionError("SECRET")


def test_a_bug() -> None:
    """A bug is a 500 without details that names the request in the log."""
    alone = Alone(completion("fine"), guard=_Broken(WORDS))
    got = alone.ask(chat())
    assert (got.status, code(got), got.header("x-should-retry")) == (500, "internal_error", "false")
    assert f"see the log of request {got.header('x-guardproxy-request-id')}" in got.body.decode()
    assert b"SECRET" not in got.body
    assert (alone.logged("request_broke") or {})["log_level"] == "error"
    assert (alone.logged("request") or {})["log_level"] == "info"
    assert alone.metric("added_seconds_count") == 0
    assert alone.metric('requests_total{status="5xx",wire="openai_chat"}') == 1


class _Down(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")


@pytest.mark.parametrize(("method", "path", "action"), [("POST", CHAT, "pass"), ("GET", "/v1/models", None)])
def test_an_upstream_that_is_down(method: str, path: str, action: str | None) -> None:
    """It is a 502 that may be retried; the log has the cause."""
    alone = Alone(upstream={"retries": Retries(1), "transport": _Down()})
    got = alone.ask(chat(), path, method=method)
    assert (got.status, code(got), got.header("x-should-retry")) == (502, "upstream_unavailable", None)
    assert (alone.logged("request_failed") or {})["cause"] == "ConnectError: refused"
    assert (alone.logged("request_failed") or {})["code"] == "upstream_unavailable"
    assert got.header("x-guardproxy-action") == action
    assert alone.metric("added_seconds_count") == 0


@pytest.mark.parametrize(
    ("status", "location", "path", "expected"),
    [
        (302, "http://x", CHAT, "upstream_redirects"),
        (300, "http://x", CHAT, "upstream_redirects"),
        (399, "/x", CHAT, "upstream_redirects"),
        (302, "", CHAT, "302"),
        (201, "http://x", CHAT, "201"),
        (299, "http://x", CHAT, "299"),
        (400, "http://x", CHAT, "400"),
        (302, "http://x", "/v1/models", "upstream_redirects"),
        (304, "", "/v1/models", "304"),
    ],
)
def test_redirects(status: int, location: str, path: str, expected: str) -> None:
    """A redirect stops, on read and unread paths; other answers pass with their status and without the address."""
    headers = {"location": location} if location else {}
    alone = Alone(replace(completion("fine"), status=status, headers=headers))
    got = alone.ask(chat(), path, method="GET" if path == "/v1/models" else "POST")
    if expected.isdigit():
        assert (got.status, got.header("location")) == (int(expected), None)
    else:
        assert (got.status, code(got), got.header("x-should-retry")) == (502, expected, "false")
        assert "set upstream.url" in got.body.decode()
        assert (alone.logged("request_failed") or {})["cause"] == ""


@pytest.mark.parametrize("status", [300, 400, 500])
def test_an_error_passes(status: int) -> None:
    """An upstream's own error is judged and passes byte for byte, compressed, with the headers of its body."""
    body = gzip.compress(b'{"error": {"message": "rude luck"}}')
    script = Scripted([body], status=status, headers={"content-encoding": "gzip", "etag": '"e"', "content-length": "7"})
    alone = Alone(script, upstream={"retries": Retries(1)})
    got = alone.ask(chat())
    assert (got.status, got.body, got.header("etag"), got.header("content-encoding")) == (status, body, '"e"', "gzip")
    assert got.header("content-length") == str(len(body))
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("flag", "hate")
    assert got.header("x-should-retry") is None
    assert (alone.logged("request") or {})["log_level"] == "info"
    assert alone.metric("added_seconds_count") == (1 if status < 500 else 0)


def test_an_error_is_withheld() -> None:
    """An error that must not pass keeps its status and becomes the policy's message."""
    block = BlockPolicy(message="Not here.")
    policies = PolicySet({"default": policy(block=block)})
    got = Alone(Scripted([b'{"error": {"message": "poison"}}'], status=429), policies=policies).ask(chat())
    assert (got.status, code(got), got.header("x-should-retry")) == (429, "content_filter", "false")
    assert json.loads(got.body)["error"]["message"] == "Not here."


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xff", {}),
        (b"a\0b", {}),
        (b"text", {"content-encoding": "unknown"}),
        (b"text", {"content-type": "text/plain; charset=utf-7"}),
    ],
)
def test_an_unreadable_error(body: bytes, headers: dict[str, str]) -> None:
    """An error that is no text in UTF-8 becomes a 502."""
    alone = Alone(Scripted([body], status=400, headers=headers))
    got = alone.ask(chat())
    assert (got.status, code(got), got.header("x-should-retry")) == (502, "upstream_unreadable", "false")
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-coverage")) == ("block", "partial")
    assert "body is not text in UTF-8" in (alone.logged("request_failed") or {})["error"]


def test_an_empty_error_passes_even_if_its_encoding_is_unknown() -> None:
    """There is nothing to decode, to judge or to record."""
    sink = ListSink()
    script = Scripted([b""], status=400, headers={"content-encoding": "unknown"})
    got = Alone(script, sinks={"list": sink}).ask(chat())
    assert (got.status, got.body) == (400, b"")
    assert [record.side for record in sink.records] == ["user"]


@pytest.mark.parametrize("text", ["fine", "poison"])
def test_a_stream_under_the_status_of_an_error(text: str) -> None:
    """A stream under the status of an error is judged as a stream."""
    got = Alone(replace(events(text), status=400)).ask(chat(stream=True))
    assert (got.status, text.encode() in got.body) == (400, text == "fine")
    assert got.header("x-guardproxy-coverage") == "full"


# --- whole replies ---------------------------------------------------------------------------------------------------


def test_decoded_replies_lose_the_headers_of_their_bytes() -> None:
    """A reply that came compressed leaves plain; a charset that is not UTF-8 is refused."""
    plain = of(completion("fine"))
    headers = {"content-encoding": "gzip", "etag": '"e"', "content-type": "application/json"}
    got = Alone(Scripted([gzip.compress(plain)], headers=headers)).ask(chat())
    assert (got.body, got.header("etag"), got.header("content-encoding")) == (plain, None, None)
    assert got.header("content-type") == "application/json"
    untouched = Alone(Scripted([plain], headers={"etag": '"e"'})).ask(chat())
    assert untouched.header("etag") == '"e"'
    foreign = Scripted(
        [plain.replace(b"fine", "é".encode())], headers={"content-type": "application/json; charset=utf-16"}
    )
    assert code(Alone(foreign).ask(chat())) == "upstream_unreadable"


@pytest.mark.parametrize(
    ("body", "stream", "changed"),
    [
        (b'{"choices": [\n]}', True, None),
        ('{"choices": [], "x": "a\u2028b"}'.encode(), True, b'{"choices": [], "x": "a\\u2028b"}'),
        ('{"choices": [], "x": "a\u2028b"}'.encode(), False, None),
    ],
)
def test_a_whole_reply_to_a_reader_of_lines(body: bytes, stream: bool, changed: bytes | None) -> None:
    """A client that asked for a stream reads lines, so line separators in strings are escaped for it only."""
    got = Alone(Scripted([body], headers={"etag": '"e"'})).ask(chat(stream=stream))
    assert got.body == (changed or body)
    assert got.header("etag") == (None if changed else '"e"')


@pytest.mark.parametrize(
    ("body", "stream", "one_line"),
    [
        (b'{"done": true,\n"message": {"content": "a"}\n}\n', True, False),
        (b'{"message":\n{"content": "a"}\n, "done": true}', True, True),
        (b'{"message":\n{"content": "a"}\n, "done": true}', False, False),
        (b'{"message":\n{"content": "a"\n}, "done": true}', True, False),
    ],
)
def test_a_line_of_a_whole_reply_is_no_other_reply(body: bytes, stream: bool, one_line: bool) -> None:
    """Clients of Ollama read a stream by lines: a line that is an object by itself is joined to the others."""
    got = Alone(Scripted([body])).ask(chat(stream=stream), "/api/chat")
    assert json.loads(got.body) == json.loads(body)
    assert (b"\n" not in got.body) is one_line
    assert one_line or got.body == body


# --- streams ---------------------------------------------------------------------------------------------------------

STREAM = StreamPolicy(every=5)


def test_a_stream_passes() -> None:
    """A stream passes in its pieces with headers against buffering, and without those of the body's bytes."""
    script = events("hello ", "there ")
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "etag": '"e"',
        "x-request-id": "u",
        "cache-control": "max-age=9",
    }
    alone = Alone(replace(script, headers=headers))
    got = alone.ask(chat(stream=True))
    assert (got.status, got.body, got.ended) == (200, of(script), True)
    assert got.header("content-type") == "text/event-stream; charset=utf-8"
    assert (got.all("cache-control"), got.header("x-accel-buffering")) == (["no-cache, no-transform"], "no")
    assert (got.header("etag"), got.header("x-request-id"), got.header("content-length")) == (None, "u", None)
    assert alone.metric("added_seconds_count") == 1


@pytest.mark.parametrize("keepalive_s", [0.35, 60.0])
@pytest.mark.parametrize("how", ["completion", "error"])
def test_a_held_stream(how: Any, keepalive_s: float) -> None:
    """The answer begins at once, or with `error` only when nothing can become an error any more."""
    held = policy(stream=StreamPolicy(mode="hold_all"), block=BlockPolicy(how=how))
    script = events("mix ", "poison", pause_s=0.5)
    alone = Alone(script, policies=PolicySet({"default": held}), keepalive_s=keepalive_s)
    got = alone.ask(chat(stream=True))
    assert b"poison" not in got.body
    assert got.begun_early if how == "completion" else got.begun_s > 0.3
    if how == "error" and keepalive_s > 1:
        assert (got.status, code(got), got.header("x-should-retry")) == (400, "content_filter", "false")
        assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("block", "weapons")
        assert got.header("x-guardproxy-coverage") == "full"
    else:
        assert (got.status, got.ended) == (200, True)
        assert got.body.endswith(b"data: [DONE]\n\n")
        assert got.body.startswith(b": keep-alive\n\n") is (keepalive_s < 1)


@pytest.mark.parametrize("body", [b": nothing\n\n", b"\n", b""])
@pytest.mark.parametrize("how", ["completion", "error"])
def test_an_empty_stream(how: Any, body: bytes) -> None:
    """A stream that says nothing still begins and ends."""
    script = Scripted([body], headers={"content-type": "text/event-stream"})
    policies = PolicySet({"default": policy(block=BlockPolicy(how=how))})
    got = Alone(script, policies=policies).ask(chat(stream=True))
    assert (got.status, got.ended) == (200, True)


def test_a_broken_stream() -> None:
    """A stream that breaks off has no end; what failed is logged, and no second answer is tried."""
    whole = events("hello")
    alone = Alone(replace(whole, body=[*whole.body[:-2], None]))
    got = alone.ask(chat(stream=True))
    assert (got.status, got.ended) == (200, False)
    assert (alone.logged("request_failed") or {})["code"] == "upstream_unavailable"
    entry = alone.logged("request") or {}
    assert (entry["complete"], entry["log_level"]) == (False, "info")
    assert alone.metric("added_seconds_count") == 0


def test_a_stream_in_another_charset() -> None:
    """A stream that a client could decode to another text is refused."""
    script = replace(events("hello"), headers={"content-type": "text/event-stream; charset=utf-16"})
    assert code(Alone(script).ask(chat(stream=True))) == "upstream_unreadable"


def test_a_late_stream() -> None:
    """An upstream that is silent for too long is a 504 that may be retried."""
    script = Scripted([b'{"choices"', 5.0])
    got = Alone(script, upstream={"between_chunks_s": 0.1}).ask(chat())
    assert (got.status, code(got), got.header("x-should-retry")) == (504, "upstream_timeout", None)
