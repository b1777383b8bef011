"""The proxy over real sockets: what reaches the upstream, what reaches the client, and what stops."""

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from structlog.testing import capture_logs

from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.policy import BlockPolicy, PolicySet, Route, Rule, SideRules, StreamPolicy
from guardproxy.settings import Limits
from guardproxy.types import Check, Verdict
from guardproxy.web.upstream import Retries
from tests.kit import WORDS, ListSink, Scripted, WordGuard, until
from tests.web.kit import ENCODINGS, chat, completion, events, leave, policy, standing

CHAT = "/v1/chat/completions"
# Unknown fields, odd order, odd numbers and odd spaces: a new serialisation would change them.
ODD_REQUEST = (
    b'{ "vendor_extra":{"b":1.50,"a":1e3}, "temperature":0.70,\n'
    b'"messages":[{"content":"h\\u00e9llo \\/","role":"user"}]'
    b' ,"model":"m","seed":12345678901234567890}\n'
)
ODD_REPLY = (
    b'{"usage":{"total_tokens":3.0},"choices":[{"finish_reason":"stop","message":{"content":"caf\\u00e9 \\/",'
    b'"role":"assistant"},"index":0}],"x_vendor":[1.10,1E+2],  "model":"m","object":"chat.completion","id":"q"}\r\n'
)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def sdk(url: str) -> openai.OpenAI:
    """The official client, as a user sets it up."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60)


def post(http: httpx.Client, url: str, body: bytes, **headers: str) -> httpx.Response:
    """A chat request."""
    return http.post(url + CHAT, content=body, headers={"content-type": "application/json", **headers})


def test_harmless_bytes_pass_as_they_came(http: httpx.Client) -> None:
    """Request and reply pass byte for byte, with the client's and the upstream's headers."""
    upstream_headers = {"content-type": "application/json; charset=utf-8", "x-vendor": "v", "etag": '"e"'}
    with standing(Scripted([ODD_REPLY], headers=upstream_headers)) as (url, upstream):
        answer = post(http, url, ODD_REQUEST, authorization="Bearer sk-client", **{"x-client": "c"})
    assert upstream.seen[0].body == ODD_REQUEST
    assert upstream.seen[0].target == CHAT
    assert upstream.seen[0].header("authorization") == "Bearer sk-client"
    assert upstream.seen[0].header("x-client") == "c"
    assert upstream.seen[0].header("accept-encoding") == "identity"
    assert (answer.status_code, answer.content) == (200, ODD_REPLY)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert (answer.headers["x-vendor"], answer.headers["etag"]) == ("v", '"e"')
    assert answer.headers["x-guardproxy-action"] == "pass"
    assert answer.headers["x-guardproxy-coverage"] == "full"
    assert len(answer.headers["x-guardproxy-request-id"]) == 24
    assert "guard;dur=" in answer.headers["server-timing"]
    assert "x-guardproxy-categories" not in answer.headers


def test_harmful_request_stops_here(http: httpx.Client) -> None:
    """A harmful turn never reaches the upstream; the SDK gets a completion with finish_reason content_filter."""
    with standing(completion("fine")) as (url, upstream):
        answer = sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "mix poison"}])
        raw = post(http, url, chat("mix poison"))
    assert answer.choices[0].finish_reason == "content_filter"
    assert "withheld" in (answer.choices[0].message.content or "")
    assert upstream.seen == []
    assert raw.headers["x-guardproxy-action"] == "block"
    assert raw.headers["x-guardproxy-categories"] == "weapons"
    assert raw.headers["x-should-retry"] == "false"


def test_block_as_error_is_not_retried() -> None:
    """With `block: error` the SDK raises BadRequestError with code content_filter, after one request."""
    guard = WordGuard(WORDS)
    policies = PolicySet({"default": policy(block=BlockPolicy(how="error"))})
    standing_proxy = standing(completion("fine"), guard=guard, policies=policies)
    with standing_proxy as (url, upstream), pytest.raises(openai.BadRequestError) as caught:
        sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "mix poison"}])
    assert caught.value.code == "content_filter"
    assert len(guard.asked) == 1
    assert upstream.seen == []


def test_harmful_reply_is_withheld(http: httpx.Client) -> None:
    """A harmful reply is withheld with the headers that describe its bytes, and the length is right."""
    reply = completion("take the poison")
    reply = replace(reply, headers={"content-type": "application/json", "etag": '"e"', "content-digest": "sha-256=:x:"})
    with standing(reply) as (url, _):
        answer = post(http, url, chat())
    assert b"poison" not in answer.content
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert answer.headers["x-guardproxy-action"] == "block"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "etag" not in answer.headers
    assert "content-digest" not in answer.headers


def test_rewritten_request_goes_on(http: httpx.Client) -> None:
    """A replaced turn is forwarded with its new text and the right length, and the header says so."""
    with standing(completion("ok")) as (url, upstream):
        answer = post(http, url, chat("my secret"))
    seen = upstream.seen[0]
    assert b"secret" not in seen.body
    assert seen.header("content-length") == str(len(seen.body))
    assert answer.headers["x-guardproxy-action"] == "rewrite"
    assert answer.headers["x-guardproxy-categories"] == "privacy"


def test_worse_side_and_all_categories_are_named(http: httpx.Client) -> None:
    """The headers name the more severe action of both sides, and the categories of both."""
    with standing(completion("some secret")) as (url, _):
        answer = post(http, url, chat("rude"))
    assert answer.headers["x-guardproxy-action"] == "rewrite"
    assert answer.headers["x-guardproxy-categories"] == "hate,privacy"


def test_blocked_history_is_left_out(http: httpx.Client) -> None:
    """An earlier turn that would be blocked is dropped, and a header says which messages are missing."""
    turns = [("user", "poison"), ("assistant", "no"), ("user", "hello")]
    body = json.dumps({"model": "m", "messages": [{"role": role, "content": text} for role, text in turns]}).encode()
    with standing(completion("ok")) as (url, upstream):
        answer = post(http, url, body)
    assert answer.status_code == 200
    assert b"poison" not in upstream.seen[0].body
    assert answer.headers["x-guardproxy-dropped-turns"].split(",")[0] == "0"


def test_a_long_history_is_left_out_in_few_words(http: httpx.Client) -> None:
    """However many turns are dropped, the header that names them stays short enough for clients."""
    consecutive = [("user", "poison"), *[("assistant", "ok")] * 3000, ("user", "hello")]
    scattered = [("user", "hi"), ("assistant", "ok"), ("user", "poison"), ("assistant", "no")] * 1000 + [("user", "hi")]
    headers = []
    for turns in (consecutive, scattered):
        messages = [{"role": role, "content": text} for role, text in turns]
        with standing(completion("fine")) as (url, _):
            answer = http.post(url + CHAT, json={"model": "m", "messages": messages})
        headers.append(answer.headers["x-guardproxy-dropped-turns"])
    assert headers[0] == "0-3000"
    assert headers[1].startswith("2,3,6,7,10,11,")
    assert headers[1].endswith(",...")
    assert len(headers[1]) < 2010


def test_streams_pass_as_they_came(http: httpx.Client) -> None:
    """A harmless stream passes byte for byte, uncompressed and with headers against buffering."""
    script = events("hel", "lo ", "there")
    with standing(script) as (url, _):
        answer = post(http, url, chat(stream=True), **{"accept-encoding": "gzip"})
        text = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in sdk(url).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        )
    assert answer.content == b"".join(part for part in script.body if isinstance(part, bytes))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-guardproxy-action"] == "pass"
    assert "content-encoding" not in answer.headers
    assert text == "hello there"


def test_stream_that_turns_harmful_ends_before_the_harm() -> None:
    """The client gets the judged part and the protocol's own end; the harmful text is not released."""
    policies = PolicySet({"default": policy(stream=StreamPolicy(every=5))})
    with standing(events("nice words ", "more nice ", "poison ", "later", pause_s=0.05), policies=policies) as (url, _):
        chunks = list(
            sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("nice words more nice ")
    assert "poison" not in text
    assert "later" not in text
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_json_answer_to_a_stream_request(http: httpx.Client) -> None:
    """A whole reply to a stream request is judged as a whole, whatever its content type."""
    for content_type in ("application/json", "text/event-stream"):
        reply = replace(completion("the poison"), headers={"content-type": content_type})
        with standing(reply) as (url, _):
            answer = post(http, url, chat(stream=True))
        assert b"the poison" not in answer.content
        assert answer.headers["x-guardproxy-action"] == "block"


def test_stream_under_a_wrong_content_type(http: httpx.Client) -> None:
    """Events are judged as a stream, even with the content type text/plain."""
    script = replace(events("so ", "poison"), headers={"content-type": "text/plain"})
    with standing(script) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert b"poison" not in answer.content
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_compressed_answers_are_judged(http: httpx.Client, encoding: str, stream: bool) -> None:
    """A compressed reply, which was not asked for, is decoded, judged and passed on uncompressed."""
    for text, kept in (("all is well", True), ("the poison", False)):
        plain = events(text) if stream else completion(text)
        body = ENCODINGS[encoding](b"".join(part for part in plain.body if isinstance(part, bytes)))
        script = Scripted([body], headers={**plain.headers, "content-encoding": encoding, "etag": '"e"'})
        with standing(script) as (url, _):
            answer = post(http, url, chat(stream=stream), **{"accept-encoding": encoding})
        assert (text.encode() in answer.content) is kept
        assert not kept or answer.content == b"".join(part for part in plain.body if isinstance(part, bytes))
        assert "content-encoding" not in answer.headers
        assert "etag" not in answer.headers


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_upstream_errors_pass_as_they_came(http: httpx.Client, status: int) -> None:
    """Status, headers and body of an upstream's own error reach the client unchanged, compressed or not."""
    body = gzip.compress(b'{"error": {"message": "out of luck", "code": "x"}}')
    headers = {"content-type": "application/json", "content-encoding": "gzip", "retry-after": "77", "x-request-id": "u"}
    with (
        standing(Scripted([body], status=status, headers=headers)) as (url, upstream),
        http.stream("POST", url + CHAT, content=chat()) as answer,
    ):
        raw = b"".join(answer.iter_raw())
    assert (answer.status_code, raw) == (status, body)
    assert answer.headers["retry-after"] == "77"
    assert answer.headers["x-request-id"] == "u"
    assert answer.headers["x-guardproxy-action"] == "pass"
    assert answer.headers["x-guardproxy-coverage"] == "full"
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("word", ["poison", "secret"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        (CHAT, '{"error": {"message": "Failed to parse input at pos 3: the WORD", "code": 500}}'),
        (CHAT, '{"error": {"message": "x", "code": "tool_use_failed", "failed_generation": "the WORD"}}'),
        ("/api/chat", '{"error": "error parsing tool call: raw=\'the WORD\'"}'),
        ("/v1/messages", '{"type": "error", "error": {"type": "api_error", "message": "the WORD"}}'),
        ("/v1beta/models/m:generateContent", '{"error": {"code": 500, "message": "the WORD", "status": "INTERNAL"}}'),
        ("/v1beta/models/m:streamGenerateContent", '[{"error": {"code": 500, "message": "the WORD"}}]'),
    ],
)
def test_what_an_error_quotes_of_the_model_is_judged(http: httpx.Client, path: str, error: str, word: str) -> None:
    """Servers quote a reply that they cannot parse: an error that must not pass becomes an error without it."""
    ask = {"contents": [{"parts": [{"text": "hello"}]}]} if "models" in path else json.loads(chat())
    script = Scripted([error.replace("WORD", word).encode()], status=500)
    with standing(script, upstream={"retries": Retries(1)}) as (url, _):
        answer = http.post(url + path, json=ask)
    assert answer.status_code == 500
    assert "error" in answer.json()
    assert word not in answer.text
    assert answer.headers["x-guardproxy-action"] in ("block", "rewrite")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_past_the_guard(status: int) -> None:
    """The official client follows redirects, so a redirect of the upstream is an error."""
    with (
        standing(completion("the poison")) as (elsewhere, other),
        standing(Scripted(status=status, headers={"location": f"{elsewhere}{CHAT}"})) as (url, _),
        pytest.raises(openai.InternalServerError, match="redirect") as failed,
    ):
        sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert failed.value.response.json()["error"]["code"] == "upstream_redirects"
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert other.seen == []


@pytest.mark.parametrize("on_opaque", ["flag", "allow", "block"])
def test_an_error_page_is_judged_as_text(http: httpx.Client, on_opaque: str) -> None:
    """An error that is not JSON passes unchanged if the guard finds nothing in it; `on_opaque` is not asked."""
    rules = policy(on_opaque={"user": on_opaque, "assistant": on_opaque})
    headers = {"content-type": "text/html", "content-encoding": "gzip"}
    for reason, action in (("Bad Gateway", "pass"), ("poison", "block")):
        page = f"<html><body>502 {reason}</body></html>".encode()
        script = Scripted([gzip.compress(page)], status=502, headers=headers)
        with standing(script, policies=PolicySet({"default": rules})) as (url, _):
            answer = post(http, url, chat())
        assert (answer.status_code, page.decode() in answer.text) == (502, action != "block")
        assert answer.headers["x-guardproxy-coverage"] == "full"
        assert answer.headers["x-guardproxy-action"] == action


@pytest.mark.parametrize(
    "headers",
    [{"content-encoding": "unknown"}, {"content-type": "text/html; charset=utf-7"}],
    ids=["coding", "charset"],
)
@pytest.mark.parametrize("on_opaque", ["flag", "allow", "block"])
def test_an_unreadable_error_is_recorded(http: httpx.Client, headers: dict[str, str], on_opaque: str) -> None:
    """The record of an unreadable error body holds the decision, its cause and that the body was not judged."""
    sink = ListSink()
    rules = policy(on_opaque={"user": "flag", "assistant": on_opaque})
    script = Scripted([b"<html>502 Bad Gateway</html>"], status=502, headers=headers)
    with standing(script, policies=PolicySet({"default": rules}), sinks={"list": sink}) as (url, _):
        post(http, url, chat())
    (record,) = [record for record in sink.records if record.side == "assistant"]
    assert (record.decision.action, record.decision.cause, record.outcome) == ("block", "opaque", "refuse")
    assert (record.verdict, record.text, record.turn) == (None, "", 1)
    assert [(part.kind, part.judged) for part in record.coverage] == [("opaque", False)]
    assert "opaque" in record.coverage[0].why
    assert record.error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("word", "action"), [("poison", "block"), ("secret", "rewrite")])
def test_an_error_that_is_withheld_is_recorded(http: httpx.Client, word: str, action: str, stream: bool) -> None:
    """The record of an error holds its text, the decision about it, and that the client did not get it."""
    sink = ListSink()
    quoted = json.dumps({"error": {"message": f"cannot parse: the {word}"}}).encode()
    script = replace(events(f"the {word}"), status=500) if stream else Scripted([quoted], status=500)
    with standing(script, upstream={"retries": Retries(1)}, sinks={"list": sink}) as (url, _):
        answer = post(http, url, chat(stream=stream))
    (record,) = [record for record in sink.records if record.side == "assistant"]
    assert (record.decision.action, record.decision.cause, record.outcome) == (action, "verdict", "refuse")
    assert word in record.text
    assert word not in answer.text
    assert answer.status_code == 500


@pytest.mark.parametrize("body", [b'{"error": {"message": "out of luck"}}', b""])
def test_an_error_that_passes_is_recorded_if_it_has_text(http: httpx.Client, body: bytes) -> None:
    """An error's text leaves a record as a reply does; an empty body leaves none."""
    sink = ListSink()
    with standing(Scripted([body], status=400), sinks={"list": sink}) as (url, _):
        answer = post(http, url, chat())
    assert answer.content == body
    texts = [(record.text, record.outcome) for record in sink.records if record.side == "assistant"]
    assert texts == ([("out of luck", "pass")] if body else [])


@pytest.mark.parametrize("text", ["all is well", "the poison"])
def test_a_stream_under_the_status_of_an_error_is_judged(http: httpx.Client, text: str) -> None:
    """A stream is judged as a stream whatever its status."""
    with standing(replace(events(text), status=400)) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert answer.status_code == 400
    assert (text in answer.text) is (text == "all is well")
    assert ("error" in answer.text) is (text == "the poison")


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_stream_under_the_status_of_an_error_is_cleaned(http: httpx.Client, encoding: str) -> None:
    """The judged frames of an error stream reach the client, without comments, and without headers of other bytes."""
    plain = b"".join(part for part in events("all is well").body if isinstance(part, bytes))
    body = b": not judged\n" + plain
    headers = {**events().headers, "etag": '"e"'}
    if encoding:
        body, headers = ENCODINGS[encoding](body), {**headers, "content-encoding": encoding}
    with standing(Scripted([body], status=400, headers=headers)) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert (answer.status_code, answer.content) == (400, plain)
    assert "etag" not in answer.headers
    assert answer.headers["x-guardproxy-action"] == "pass"


def test_a_flagged_stream_under_the_status_of_an_error_says_so(http: httpx.Client) -> None:
    """The headers name the action and the categories of a stream of which the policy only flags the text."""
    rules = policy(assistant=SideRules({"*": (Rule("flag", 0.5),)}))
    script = replace(events("the poison"), status=400)
    with standing(script, policies=PolicySet({"default": rules})) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert (answer.status_code, "poison" in answer.text) == (400, True)
    assert answer.headers["x-guardproxy-action"] == "flag"
    assert answer.headers["x-guardproxy-categories"]


@pytest.mark.parametrize(("text", "kept"), [("FAIL", True), ("{nonsense", False)])
def test_an_unjudged_stream_under_the_status_of_an_error_is_partial(http: httpx.Client, text: str, kept: bool) -> None:
    """An error stream that the guard cannot judge, or the wire cannot read, has partial coverage."""
    rules = policy(on_guard_error="allow")
    script = events(text) if kept else Scripted([f"data: {text}\n\n".encode()], headers=events().headers)
    with standing(replace(script, status=400), policies=PolicySet({"default": rules})) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert (answer.status_code, answer.headers["x-guardproxy-coverage"]) == (400, "partial")
    assert (text in answer.text) is kept
    assert answer.headers["x-guardproxy-action"] == ("pass" if kept else "block")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"no json", {"content-type": "application/json"}),
        (b"", {"content-type": "application/json"}),
        (b"[1]", {"content-type": "application/json"}),
        (b"SECRET BYTES", {"content-type": "application/json", "content-encoding": "br"}),
    ],
)
def test_unreadable_answers_do_not_leave(http: httpx.Client, body: bytes, headers: dict[str, str]) -> None:
    """An answer that cannot be judged becomes a 502 in the protocol's shape that quotes nothing and is not retried."""
    with standing(Scripted([body], headers=headers)) as (url, _):
        answer = post(http, url, chat())
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreadable"
    assert answer.headers["x-should-retry"] == "false"
    assert b"SECRET" not in answer.content


def test_unreachable_upstream(http: httpx.Client) -> None:
    """An upstream that is down is a 502 that the SDK may retry."""
    with standing(completion("x"), upstream={"retries": Retries(1), "transport": _refusing()}) as (url, _):
        answer = post(http, url, chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert "x-should-retry" not in answer.headers


def _refusing() -> httpx.MockTransport:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    return httpx.MockTransport(refuse)


def test_slow_upstream_is_a_gateway_timeout(http: httpx.Client) -> None:
    """An upstream that stops sending in the middle of a reply is a 504."""
    script = Scripted([b'{"choices"', 5.0, b"}"])
    with standing(script, upstream={"between_chunks_s": 0.3}) as (url, _):
        answer = post(http, url, chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


def test_broken_stream_does_not_look_complete(http: httpx.Client) -> None:
    """A stream that the upstream breaks off breaks off for the client too."""
    whole = events("hello")
    broken = replace(whole, body=[*whole.body[:-2], None])
    with standing(broken) as (url, _), pytest.raises(httpx.RemoteProtocolError):
        post(http, url, chat(stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_stops_the_upstream(stream: bool) -> None:
    """When the client disconnects, the connection to the upstream closes."""
    script = events("a" * 400, pause_s=0.1) if stream else completion("hello")
    script = replace(script, body=[*script.body[:3], 120.0, b"x"] if stream else [b'{"a"', 120.0])
    with standing(script) as (url, upstream):
        leave(url, chat(stream=stream), lambda: upstream.seen)
        assert upstream.left.wait(60)


def test_client_that_leaves_cancels_the_check() -> None:
    """Without time for the texts of clients that have left, the check is cancelled; nothing is forwarded."""
    guard = WordGuard(WORDS, delay_s=120)
    with standing(completion("x"), guard=guard, after_disconnect_s=0) as (url, upstream):
        leave(url, chat(), lambda: guard.asked)
        assert guard.cancelled.wait(60)
        assert upstream.seen == []


def test_a_failing_guard_is_an_error(http: httpx.Client) -> None:
    """A guard that fails never means safe, and no text is against a policy: the client may repeat its request.

    The reason is the operator's. With `block`, the answer looks like any other block.
    """
    with standing(completion("x")) as (url, upstream):
        answer = post(http, url, chat("FAIL"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guard_unavailable")
    assert (answer.headers["retry-after"], "x-guardproxy-action" in answer.headers) == ("5", False)
    assert "x-should-retry" not in answer.headers
    assert "told to fail" not in answer.text
    policies = PolicySet({"default": policy(on_guard_error="block")})
    with standing(completion("x"), policies=policies) as (url, blocked):
        answer = post(http, url, chat("FAIL"))
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert upstream.seen == blocked.seen == []


@pytest.mark.parametrize("side", ["request", "reply", "stream"])
def test_a_bug_lets_nothing_out(http: httpx.Client, side: str) -> None:
    """An unexpected exception is a 500 without details, not retried; no unjudged text of a stream is released."""
    quiet = SideRules({"weapons": (Rule("block", 0.5),)})

    class Late(WordGuard):
        async def judge(self, check):  # type: ignore[no-untyped-def]
            if side == "request" or check.side == "assistant":
                raise ZeroDivisionError("a bug, with SECRET in it")
            return await super().judge(check)

    policies = PolicySet({"default": policy(user=quiet)})
    script = events("unjudged") if side == "stream" else completion("unjudged")
    with standing(script, guard=Late(WORDS), policies=policies) as (url, upstream):
        try:
            answer = post(http, url, chat(stream=side == "stream"))
        except httpx.RemoteProtocolError:
            assert side == "stream"
            return
    assert b"unjudged" not in answer.content
    assert b"SECRET" not in answer.content
    if side != "stream":
        assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
        assert answer.json()["error"]["code"] == "internal_error"
    assert (side == "request") is (upstream.seen == [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("GET", "/v1/models/org/name", 200),
        ("OPTIONS", "/v1/chat/completions", 200),
        ("OPTIONS", "/v1/models", 200),
        ("POST", "/v1/models", 404),
        ("GET", "/v1/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/assistants", 404),
        ("DELETE", "/v1/models/m", 404),
        ("GET", "/v1/models/..%2fchat/completions", 400),
        ("GET", "/v1/models/%2e%2e/x", 400),
        ("GET", "/v1//models", 400),
        ("GET", "/v1/models/%252e%252e/x", 404),
        ("GET", "/v1/models%5cx", 400),
        ("GET", "/v1/models/..;/chat/completions", 400),
        ("POST", "/v1/models/x;y=:countTokens", 400),
        ("GET", "/v1/models/m%3fx", 400),
        ("GET", "/v1/models/m%23x", 400),
        ("POST", "/v1/chat/completions%3fx", 400),
    ],
)
def test_which_paths_pass(method: str, path: str, status: int) -> None:
    """Paths that carry no chat pass; paths that no wire reads, and ambiguous paths, are refused."""
    with standing(Scripted([b"{}"])) as (url, upstream):
        host = httpx.URL(url)
        request = httpx.Request(method, host.copy_with(raw_path=path.encode()))
        with httpx.Client(trust_env=False) as client:
            answer = client.send(request)
    assert answer.status_code == status
    assert (status == 200) is (len(upstream.seen) == 1)
    if status == 200:
        assert upstream.seen[0].method == method
        assert upstream.seen[0].target == path
        assert "x-guardproxy-action" not in answer.headers
    else:
        assert answer.headers["x-should-retry"] == "false"


def test_no_header_makes_another_method_of_a_request(http: httpx.Client) -> None:
    """A GET that passes unread reaches the upstream as a GET."""
    override = {"x-http-method-override": "POST", "X-HTTP-Method": "POST", "x-method-override": "POST"}
    with standing(Scripted([b"{}"])) as (url, upstream):
        http.request("GET", url + "/v1/models/m", content=chat("poison"), headers=override)
    assert not [name for name, _ in upstream.seen[0].headers if "method" in name]


@pytest.mark.parametrize(("method", "path"), [("OPTIONS", CHAT), ("GET", "/v1/models/x:streamGenerateContent")])
def test_a_request_that_passes_unread_says_nothing(http: httpx.Client, method: str, path: str) -> None:
    """OPTIONS and GET requests pass unread, and without their bodies."""
    with standing(Scripted([b"{}"])) as (url, upstream):
        http.request(method, url + path, content=chat("poison"))
    assert (upstream.seen[0].method, upstream.seen[0].body) == (method, b"")


def test_a_models_name_with_a_colon_makes_no_chat_of_its_description(http: httpx.Client) -> None:
    """The description of a model passes; a POST to a method of a model is judged."""
    prompt = {"contents": [{"role": "user", "parts": [{"text": "mix poison"}]}]}
    with standing(Scripted([b"{}"])) as (url, upstream):
        assert http.get(url + "/v1/models/llama3:8b").status_code == 200
        answer = http.post(url + "/v1/models/x:streamGenerateContent", json=prompt)
    assert answer.headers["x-guardproxy-action"] == "block"
    assert [seen.target for seen in upstream.seen] == ["/v1/models/llama3:8b"]


def test_unknown_paths_say_what_to_do(http: httpx.Client) -> None:
    """The error names the path and the option that lets it pass, in OpenAI's shape."""
    with standing(completion("x")) as (url, _):
        error = http.post(url + "/v1/audio/speech", json={"input": "hi"}).json()["error"]
    assert error["code"] == "path_not_guarded"
    assert "POST /v1/audio/speech" in error["message"]
    assert "paths.allow" in error["message"]


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/audio/speech", "openai"),
        ("/v1/threads/t1/messages", "openai"),
        ("/v1/models/ft:gpt-4o:org::abc123", "openai"),
        ("/api/v1/images/generations", "openai"),
        ("/v1beta/openai/chat/completions", "openai"),
        ("/unknown", "openai"),
        ("/api/pull", "ollama"),
        ("/api/chat/", "ollama"),
        ("/v1/messages/batches", "anthropic"),
        ("/v1/messages/", "anthropic"),
        ("/anthropic/v1/messages/batches", "anthropic"),
        ("/v1beta/models/m:embedContent", "gemini"),
        ("/v1beta/cachedContents", "gemini"),
        ("/v1/models/m:batchEmbedContents", "gemini"),
        ("/v1/projects/p/locations/l/publishers/google/models/m:predict", "gemini"),
    ],
)
def test_errors_of_unread_paths_have_their_protocols_shape(http: httpx.Client, path: str, protocol: str) -> None:
    """A path that no wire reads gets its error in the protocol that it belongs to."""
    with standing(completion("x")) as (url, _):
        answer = http.post(url + path, json={})
    assert (answer.status_code, error_of(answer.json(), protocol)) == (404, "path_not_guarded")


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/chat/completions;x", "openai"),
        ("/api/chat;x", "ollama"),
        ("/v1/messages%3fx", "anthropic"),
        ("/v1beta/models/m:generateContent;x", "gemini"),
    ],
)
def test_errors_of_ambiguous_paths_have_their_protocols_shape(http: httpx.Client, path: str, protocol: str) -> None:
    """An ambiguous path is refused before its wire is known, and still gets its protocol's error."""
    with standing(completion("x")) as (url, _):
        answer = http.post(url + path, json={})
    assert (answer.status_code, error_of(answer.json(), protocol)) == (400, "ambiguous_path")


def test_errors_of_forwarded_paths_have_their_protocols_shape(http: httpx.Client) -> None:
    """An allowed path gets its protocol's error if the upstream cannot be reached."""
    down = {"retries": Retries(1), "transport": _refusing()}
    with standing(completion("x"), upstream=down, allow=("GET /api/tags",)) as (url, _):
        answer = http.get(url + "/api/tags")
    assert (answer.status_code, error_of(answer.json(), "ollama")) == (502, "upstream_unavailable")


def error_of(body: dict[str, Any], protocol: str) -> str:
    """The error's code, from a body that has the protocol's fields and no others."""
    if protocol == "ollama":
        assert (set(body), type(body["error"])) == ({"error", "code"}, str)
        return str(body["code"])
    error = body["error"]
    if protocol == "anthropic":
        assert (body["type"], set(error)) == ("error", {"type", "message", "code"})
        return str(error["code"])
    if protocol == "gemini":
        assert error["status"] in ("NOT_FOUND", "INVALID_ARGUMENT")
        return str(error["details"][0]["reason"]).lower()
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def test_refused_paths_are_refused(http: httpx.Client) -> None:
    """An operator can close a path that a wire could read."""
    with standing(completion("x"), refuse=("POST /v1/chat/*",)) as (url, upstream):
        assert post(http, url, chat()).status_code == 404
    assert upstream.seen == []


def test_passed_answers_are_untouched(http: httpx.Client) -> None:
    """A model list passes with the client's own encoding, query and headers."""
    body = gzip.compress(b'{"data": []}')
    script = Scripted([body], headers={"content-encoding": "gzip", "content-type": "application/json", "etag": '"e"'})
    with standing(script) as (url, upstream):
        answer = http.get(url + "/v1/models?limit=2&after=a%26b", headers={"accept-encoding": "gzip"})
    assert answer.json() == {"data": []}
    assert answer.headers["content-encoding"] == "gzip"
    assert upstream.seen[0].target == "/v1/models?limit=2&after=a%26b"
    assert upstream.seen[0].header("accept-encoding") == "gzip"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(body_bytes=100), "limits.body_bytes"),
        (Limits(characters=50), "limits.characters"),
        (Limits(messages=0), "limits.messages"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_too_large_is_refused(http: httpx.Client, limits: Limits, code: str, chunked: bool) -> None:
    """A request over a limit is a 413 that names the limit, with or without a content-length."""
    body = chat("x" * 200)
    with standing(completion("x"), limits=limits) as (url, upstream):
        answer = http.post(url + CHAT, content=iter([body]) if chunked else body)
    assert answer.status_code == 413
    assert code in answer.json()["error"]["message"]
    assert upstream.seen == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_reply_that_expands_without_end_is_refused(http: httpx.Client, encoding: str) -> None:
    """limits.reply_bytes applies to the decoded body."""
    script = Scripted(
        [ENCODINGS[encoding](b" " * (64 << 20))],
        headers={"content-type": "application/json", "content-encoding": encoding},
    )
    with standing(script, limits=Limits(reply_bytes=1 << 20)) as (url, _):
        assert post(http, url, chat()).status_code == 502


def test_too_large_a_reply_is_refused(http: httpx.Client) -> None:
    """A whole reply over the limit is a 502."""
    with standing(completion("x" * 5000), limits=Limits(reply_bytes=1000)) as (url, _):
        assert post(http, url, chat()).status_code == 502


def test_twenty_megabytes_cross(http: httpx.Client) -> None:
    """A request and a reply of 20 MB pass byte for byte."""
    limits = Limits(body_bytes=32 << 20, reply_bytes=32 << 20, characters=32 << 20)
    body, reply = chat("word " * (4 << 20)), completion("word " * (4 << 20))
    with standing(reply, limits=limits) as (url, upstream):
        answer = post(http, url, body)
    assert len(body) > 20_000_000
    assert upstream.seen[0].body == body
    assert answer.content == reply.body[0]


def test_compressed_requests_are_refused(http: httpx.Client) -> None:
    """A compressed request body is refused, because the upstream might decode it differently."""
    with standing(completion("x")) as (url, upstream):
        answer = post(http, url, gzip.compress(chat("poison")), **{"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert upstream.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        [("content-encoding", "identity"), ("content-encoding", "deflate")],
        [("content-type", "application/json; charset=utf-7")],
        [("content-type", 'application/json; Charset = "UTF-16"')],
        [("content-type", "application/json"), ("content-type", "application/json;charset=ibm037")],
        [("content-type", "application/json; charset=utf-8; charset=utf-7")],
        [("content-type", "application/json; charset*=utf-7''x")],
    ],
)
def test_bodies_that_say_something_else_to_others_are_refused(
    http: httpx.Client, headers: list[tuple[str, str]]
) -> None:
    """UTF-8 is judged: a body that an upstream would decode to another text is refused."""
    hidden = "poison".encode("utf-16-be").hex().upper()
    with standing(completion("x")) as (url, upstream):
        answer = http.post(url + CHAT, content=chat(f"+{hidden}-"), headers=headers)
        plain = http.post(url + CHAT, content=chat(), headers={"content-type": "application/json; charset=UTF-8"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert plain.status_code == 200
    assert len(upstream.seen) == 1


def test_what_cannot_be_read_is_not_in_the_log(http: httpx.Client) -> None:
    """The log says what is wrong with the body of a request or reply, without quoting it."""
    unreadable = (chat("my diary")[:-2] + b"\xff", chat("my diary")[:-2], b"my diary")
    with capture_logs() as logs:
        for body in unreadable:
            with standing(completion("fine")) as (url, _):
                assert post(http, url, body).status_code == 400
            with standing(Scripted([body])) as (url, _):
                assert post(http, url, chat()).status_code == 502
    assert [entry["event"] for entry in logs].count("request_failed") == 6
    assert "diary" not in str(logs)


def test_malformed_requests_name_the_place(http: httpx.Client) -> None:
    """A body that its protocol does not allow is a 400 that names the JSON path."""
    with standing(completion("x")) as (url, upstream):
        answer = post(http, url, b'{"model": "m", "messages": [{"role": "user", "content": 7}]}')
    assert answer.status_code == 400
    assert "messages[0].content" in answer.json()["error"]["message"]
    assert upstream.seen == []


def test_not_ready_refuses(http: httpx.Client) -> None:
    """While the guard is not ready, nothing is forwarded, and the SDK may retry."""
    with standing(completion("x"), ready=lambda: "the guard is loading") as (url, upstream):
        answer = post(http, url, chat())
        assert http.get(url + "/readyz").status_code == 503
        assert http.get(url + "/healthz").json() == {"status": "ok", "policy": "cfg1"}
        refused = http.post(url + "/healthz")
        assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
        assert {*refused.headers["allow"].split(", ")} == {"GET", "HEAD"}
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert "x-should-retry" not in answer.headers
    assert upstream.seen == []


def test_own_pages(http: httpx.Client) -> None:
    """guardproxy itself answers health, readiness and metrics."""
    with standing(completion("x")) as (url, upstream):
        post(http, url, chat())
        assert http.get(url + "/readyz").json() == {"status": "ready", "policy": "cfg1"}
        metrics = http.get(url + "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'guardproxy_requests_total{status="2xx",wire="openai_chat"} 1.0' in metrics.text
    assert "guardproxy_added_seconds_count 1.0" in metrics.text
    assert "guardproxy_upstream_seconds_count 1.0" in metrics.text
    assert len(upstream.seen) == 1


def test_time_is_accounted(http: httpx.Client) -> None:
    """Waiting for the upstream counts as its time, in whole replies and in streams; judging counts as the guard's."""
    slow = completion("x")
    with standing(replace(slow, body=[0.3, slow.body[0]]), events("a", pause_s=0.3)) as (url, _):
        timing = post(http, url, chat()).headers["server-timing"]
        post(http, url, chat(stream=True))
        metrics = http.get(url + "/metrics").text
    parts = dict(part.strip().split(";dur=") for part in timing.split(","))
    assert float(parts["upstream"]) >= 290
    assert float(parts["guard"]) < 200
    added = next(line for line in metrics.splitlines() if line.startswith("guardproxy_added_seconds_sum"))
    assert float(added.split()[1]) < 0.3


def test_routes_choose_the_policy(http: httpx.Client) -> None:
    """Path, model, key and header choose the policy that judges a request."""
    lenient = policy(user=SideRules({}))
    routes = (
        Route("by-key", "lenient", client="6ab9f1eb8f7d3388"),
        Route("by-header", "lenient", header=("X-Team", "research*")),
        Route("by-model", "lenient", model="open-*"),
    )
    policies = PolicySet({"default": policy(), "lenient": lenient}, routes)
    with standing(completion("ok"), policies=policies) as (url, upstream):
        post(http, url, chat("poison"), authorization="Bearer k1")
        post(http, url, chat("poison"), **{"x-team": "research-a"})
        post(http, url, chat("poison", model="open-7b"))
        assert len(upstream.seen) == 3
        blocked = post(http, url, chat("poison"), authorization="Bearer k2")
    assert blocked.headers["x-guardproxy-action"] == "block"
    assert len(upstream.seen) == 3


def test_upstream_cannot_speak_for_the_proxy(http: httpx.Client) -> None:
    """x-guardproxy headers of the upstream are removed."""
    reply = completion("ok")
    headers = {**reply.headers, "x-guardproxy-action": "block", "x-guardproxy-other": "1"}
    with standing(replace(reply, headers=headers)) as (url, _):
        answer = post(http, url, chat())
    assert answer.headers.get_list("x-guardproxy-action") == ["pass"]
    assert "x-guardproxy-other" not in answer.headers


def test_sdk_sees_models_and_errors() -> None:
    """`models.list()` passes, and an upstream's 401 is the SDK's AuthenticationError."""
    listing = Scripted([b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"o"}]}'])
    denied = Scripted([b'{"error":{"message":"bad key","code":"invalid_api_key"}}'], status=401)
    with standing(listing, denied) as (url, _):
        assert [model.id for model in sdk(url).models.list()] == ["m"]
        with pytest.raises(openai.AuthenticationError, match="bad key"):
            sdk(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


def test_concurrent_clients_keep_apart(http: httpx.Client) -> None:
    """Two concurrent exchanges have different request ids, and a slow exchange does not delay a quick one."""
    release = threading.Event()
    slow = replace(completion("slow"), body=[release, completion("slow").body[0]])
    with standing(slow, completion("quick")) as (url, upstream):
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(httpx.post(url + CHAT, content=chat(), timeout=60)))
        thread.start()
        until(lambda: upstream.seen)
        quick = post(http, url, chat())
        release.set()
        thread.join()
    assert "slow" in answers[0].text
    assert quick.headers["x-guardproxy-request-id"] != answers[0].headers["x-guardproxy-request-id"]


def test_held_streams_show_that_they_live(http: httpx.Client) -> None:
    """While a stream is held back, comments are sent between frames, and the SDK still reads the stream."""
    policies = PolicySet({"default": policy(stream=StreamPolicy(mode="hold_all"))})
    script = events("one ", "two", pause_s=0.5)
    with standing(script, policies=policies, keepalive_s=0.2) as (url, _):
        answer = post(http, url, chat(stream=True))
        asked = [{"role": "user", "content": "hi"}]
        chunks = list(sdk(url).chat.completions.create(model="m", messages=asked, stream=True))  # type: ignore[arg-type]
    whole = b"".join(part for part in script.body if isinstance(part, bytes))
    comments = answer.content.removesuffix(whole)
    assert comments.count(b": keep-alive\n\n") >= 2
    assert comments.replace(b": keep-alive\n\n", b"") == b""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"


@pytest.mark.parametrize("keepalive_s", [0.2, 60.0])
def test_a_stream_that_has_begun_ends_as_a_stream(http: httpx.Client, keepalive_s: float) -> None:
    """If blocks are errors, a streamed reply becomes an error only before its first byte, comments included."""
    held = policy(stream=StreamPolicy(mode="hold_all"), block=BlockPolicy(how="error"))
    script = events("mix ", "poison", pause_s=0.5)
    with standing(script, policies=PolicySet({"default": held}), keepalive_s=keepalive_s) as (url, _):
        answer = post(http, url, chat(stream=True))
    assert b"poison" not in answer.content
    if keepalive_s > 1:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
        assert answer.headers["x-should-retry"] == "false"
    else:
        assert answer.status_code == 200
        assert answer.content.startswith(b": keep-alive\n\n")
        assert b'"finish_reason":"content_filter"' in answer.content
        assert answer.content.endswith(b"data: [DONE]\n\n")


def test_one_blocked_choice_is_an_error_of_the_whole(http: httpx.Client) -> None:
    """If blocks are errors, one blocked choice makes the whole reply an error."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(("all is well", "the poison"))
    ]
    script = Scripted([json.dumps({"id": "c", "choices": choices}).encode()])
    with standing(script, policies=PolicySet({"default": policy(block=BlockPolicy(how="error"))})) as (url, _):
        answer = post(http, url, chat(n=2))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
    assert answer.headers["x-guardproxy-categories"] == "weapons"
    assert b"all is well" not in answer.content


def test_query_reaches_the_wire_without_keys(http: httpx.Client) -> None:
    """Gemini's `alt` decides how a refusal is framed; the key in the query is only for the upstream."""
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "poison"}]}]}).encode()
    path = "/v1beta/models/g:streamGenerateContent"
    with standing(Scripted()) as (url, upstream):
        events_asked = http.post(f"{url}{path}?alt=sse&key=k1", content=body)
        array_asked = http.post(f"{url}{path}?key=k1", content=body)
    assert events_asked.headers["content-type"].startswith("text/event-stream")
    assert array_asked.json()[0]["candidates"]
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("text", "coverage", "action"),
    [
        ("I would like to see a film with my brother.", "full", "pass"),
        ("Ich möchte mit meinem Bruder einen Film sehen.", "partial", "flag"),
    ],
)
def test_a_language_that_the_guard_does_not_read(http: httpx.Client, text: str, coverage: str, action: str) -> None:
    """Headers, record and metric name the language; request and reply pass byte for byte in any language."""
    sink, script, body = ListSink(), completion(text), chat(text)
    with standing(script, sinks={"list": sink}, reads=frozenset({"en"})) as (url, upstream):
        answer = post(http, url, body)
        metrics = http.get(f"{url}/metrics").text
    assert (answer.headers["x-guardproxy-coverage"], answer.headers["x-guardproxy-action"]) == (coverage, action)
    assert answer.content == script.body[0]
    assert upstream.seen[0].body == body
    whys = {part.why for record in sink.records for part in record.coverage}
    assert whys == ({"language: de"} if coverage == "partial" else {""})
    assert ('guardproxy_unread_languages_total{language="de",side="assistant"} 1.0' in metrics) == (
        coverage == "partial"
    )


class Refusing(WordGuard):
    """A guard whose queue accepts no check of a text with `refused`; anything else is judged."""

    def __init__(self, failure: GuardUnavailable) -> None:
        super().__init__(WORDS)
        self.failure = failure

    async def judge(self, check: Check) -> Verdict:
        """The verdict, or the failure."""
        if "refused" in check.turn.text:
            raise self.failure
        return await super().judge(check)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        (CHAT, chat("refused"), 503, "server_error"),
        (
            "/v1/messages",
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"refused"}]}',
            529,
            "overloaded_error",
        ),
    ],
)
def test_overload_is_an_error_that_says_when_to_come_back(
    http: httpx.Client, path: str, body: bytes, status: int, kind: str
) -> None:
    """It is no refusal of the text: official clients wait and try again. The upstream sees nothing."""
    sink = ListSink()
    with standing(completion("ok"), guard=Refusing(Overloaded("busy", retry_s=2.2)), sinks={"list": sink}) as (
        url,
        upstream,
    ):
        answer = http.post(url + path, content=body, headers={"content-type": "application/json"})
        assert upstream.seen == []
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers["retry-after"] == "3"
    assert "x-should-retry" not in answer.headers
    assert [record.decision.cause for record in sink.records] == ["overload"]


def test_a_reply_that_meets_overload_is_an_error_as_well(http: httpx.Client) -> None:
    """The reply was not judged, so nothing of it is sent, and no refusal stands in its place."""
    with standing(completion("refused"), guard=Refusing(Overloaded("busy"))) as (url, _):
        answer = post(http, url, chat())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "refused" not in answer.text


def test_a_text_that_takes_too_long_to_judge_is_too_large(http: httpx.Client) -> None:
    """The client is told what to do, and that the same request will not succeed later."""
    failure = JudgingTooLong("judging takes longer than guard.timeout_s: about 45 s, not 30 s")
    policies = PolicySet({"default": policy(on_guard_error="allow", on_overload="allow")})
    with standing(completion("ok"), guard=Refusing(failure), policies=policies) as (url, upstream):
        answer = post(http, url, chat("refused"))
        assert upstream.seen == []
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert "judging takes longer than guard.timeout_s" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
