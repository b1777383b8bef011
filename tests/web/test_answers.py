"""Answers of the upstream that nobody can judge: another charset, odd encodings, malformed HTTP, texts in headers."""

import gzip
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guardproxy.errors import UpstreamUnreadable
from guardproxy.policy import PolicySet
from guardproxy.web.answers import AnswerHeaders, check_charset, check_framing
from guardproxy.web.upstream import Retries, Upstream
from tests.kit import Scripted, serve
from tests.web.kit import chat, completion, events, guarded, policy, standing

CHAT = "/v1/chat/completions"
TEXT = "HIDDEN words of the upstream"
JSON_TYPE = {"content-type": "application/json"}
SSE_TYPE = {"content-type": "text/event-stream"}
Pairs = list[tuple[str, str]]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


@contextmanager
def raw_upstream(answer: bytes | Sequence[bytes], **changes: Any) -> Iterator[str]:
    """Serve a guarded proxy in front of a socket that writes `answer` to every request; yield the proxy's URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer if isinstance(answer, bytes) else b"".join(answer))

        threading.Thread(target=run, daemon=True).start()
        upstream = Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", retries=Retries(1), between_chunks_s=5)
        with serve(guarded(upstream, **changes)) as url:
            yield url


def answer(body: bytes, headers: Pairs, status: int = 200, reason: str = "OK") -> bytes:
    """Return an HTTP answer with exactly these headers and its length."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1") + body


def is_unreadable(received: httpx.Response) -> bool:
    """Return whether an answer is the proxy's own 502, without a text of the upstream."""
    assert TEXT.partition(" ")[0] not in received.text
    assert TEXT.partition(" ")[0] not in str(received.headers)
    return received.status_code == 502 and received.json()["error"]["code"] == "upstream_unreadable"


CHARSETS = [
    [("content-type", "application/json; charset=utf-7")],
    [("content-type", "application/json; charset=utf-16le")],
    [("content-type", 'application/json;Charset = "Shift_JIS"')],
    [("content-type", "application/json; charset=utf-8; charset=iso-2022-jp")],
    [("content-type", "application/json; charset*=utf-7''x")],
    [("content-type", "application/json; charset=")],
    [("content-type", "application/json"), ("content-type", "text/html; charset=utf-7")],
    [("content-type", "application/json"), ("content-type", "text/html")],
]


@pytest.mark.parametrize("headers", CHARSETS)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_another_charset_is_refused(http: httpx.Client, headers: Pairs, status: int) -> None:
    """A reply or an error that a client would decode to another text is a 502, whatever `on_opaque` says."""
    hidden = "+" + "poison".encode("utf-16-be").hex() + "-"
    body = completion(hidden).body[0] if status == 200 else json.dumps({"error": {"message": hidden}}).encode()
    assert isinstance(body, bytes)
    lenient = PolicySet({"default": policy(on_opaque={"user": "allow", "assistant": "allow"})})
    with raw_upstream(answer(body, headers, status), policies=lenient) as url:
        assert is_unreadable(http.post(url + CHAT, content=chat()))


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "shift_jis", "iso-8859-1"])
def test_a_stream_in_another_charset_is_refused(http: httpx.Client, charset: str) -> None:
    """A stream must be UTF-8: the next frame could be in any charset that its content type names."""
    script = replace(events("all", "is well"), headers={"content-type": f"text/event-stream; charset={charset}"})
    with standing(script) as (url, _):
        assert is_unreadable(http.post(url + CHAT, content=chat(stream=True)))


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "application/json;charset=us-ascii", ""])
def test_utf8_passes(http: httpx.Client, kind: str) -> None:
    """UTF-8 and ASCII pass under every spelling."""
    script = replace(completion("all is well"), headers={"content-type": kind} if kind else {})
    with standing(script) as (url, _):
        received = http.post(url + CHAT, content=chat())
    assert (received.status_code, received.content) == (200, script.body[0])
    assert received.headers.get("content-type", "") == kind


@pytest.mark.parametrize(
    ("body", "passes"), [(b"<h1>Bad Gateway</h1>", True), ("<h1>Tür zu</h1>".encode("latin-1"), False)]
)
def test_error_pages_of_web_servers(http: httpx.Client, body: bytes, passes: bool) -> None:
    """In Latin-1, ASCII means the same as in UTF-8; other bytes do not."""
    script = Scripted([body], status=503, headers={"content-type": "text/html; charset=iso-8859-1"})
    with standing(script, upstream={"retries": Retries(1)}) as (url, _):
        received = http.post(url + CHAT, content=chat())
    assert (received.status_code, received.content == body) == ((503, True) if passes else (502, False))


@pytest.mark.parametrize("encode", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_charset_that_clients_detect(http: httpx.Client, encode: str, status: int) -> None:
    """JSON in UTF-16, which clients detect without a charset, is refused as a reply and as an error."""
    body = json.dumps({"error": {"message": TEXT}}).encode(encode)
    with standing(Scripted([body], status=status, headers=JSON_TYPE)) as (url, _):
        assert is_unreadable(http.post(url + CHAT, content=chat()))


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "headers",
    [
        [("content-encoding", ""), ("content-encoding", "gzip")],
        [("content-encoding", "identity"), ("content-encoding", "gzip")],
        [("content-encoding", "gzip"), ("content-encoding", "gzip")],
        [("content-encoding", "gzip, identity")],
        [("content-encoding", "compress")],
        [("content-encoding", TEXT)],
        [("content-encoding", "br")],
    ],
)
def test_odd_content_encodings_are_refused(http: httpx.Client, headers: Pairs, status: int) -> None:
    """Several content-encodings, an unknown one and a body that is not in it: a client may decode another text."""
    body = gzip.compress(json.dumps({"error": {"message": TEXT}, "choices": []}).encode())
    with capture_logs() as logs, raw_upstream(answer(body, [*JSON_TYPE.items(), *headers], status)) as url:
        assert is_unreadable(http.post(url + CHAT, content=chat()))
    assert "HIDDEN" not in str(logs)


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
MALFORMED = {
    "HTTP/0.9": TEXT.encode(),
    "status line": f"HTTP/1.1 abc {TEXT}\r\n\r\n".encode(),
    "status of four digits": f"HTTP/1.1 2000 {TEXT}\r\n\r\n".encode(),
    "status 101": f"HTTP/1.1 101 {TEXT}\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{TEXT}".encode(),
    "status 099": answer(TEXT.encode(), [], 99, TEXT).replace(b" 99 ", b" 099 "),
    "status 999": answer(TEXT.encode(), [], 999, TEXT),
    "length and chunks": CHUNKED + f"content-length: 3\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{TEXT}".encode(),
    "chunks and length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + CHUNKED[17:] + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "length with a sign": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n{}",
    "length with text": f"HTTP/1.1 200 OK\r\ncontent-length: {TEXT}\r\n\r\n{{}}".encode(),
    "gzip and chunks": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "identity": CHUNKED.replace(b"chunked", b"identity") + b"\r\n{}",
    "204 with a length": answer(TEXT.encode(), [], 204),
    "204 with chunks": CHUNKED.replace(b"200", b"204") + f"\r\n1c\r\n{TEXT}\r\n0\r\n\r\n".encode(),
    "204 and more": f"HTTP/1.1 204 No Content\r\n\r\n{TEXT}".encode(),
    "long header": answer(b"{}", [("x-long", TEXT * 1000)]),
    "many headers": answer(b"{}", [(f"x-{number}", TEXT * 50) for number in range(200)]),
    "chunk size": CHUNKED + f"\r\n{TEXT}\r\n{{}}\r\n0\r\n\r\n".encode(),
    "later chunk size": CHUNKED + f"\r\n2\r\n{{}}\r\n{TEXT}\r\n{{}}\r\n0\r\n\r\n".encode(),
    "no colon": f"HTTP/1.1 200 OK\r\n{TEXT}\r\ncontent-length: 2\r\n\r\n{{}}".encode(),
    "space in a name": answer(b"{}", [("x y", TEXT)]),
    "space before the colon": answer(b"{}", [("x-y ", TEXT)]),
    "NUL": answer(b"{}", [("x-y", f"{TEXT}\0")]),
    "lone CR": answer(b"{}", [("x-y", f"a\rx-z: {TEXT}")]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_refused(http: httpx.Client, name: str) -> None:
    """An answer that is not proper HTTP is a 502 without a traceback; nothing of it is in the answer or the log."""
    with capture_logs() as logs, raw_upstream(MALFORMED[name]) as url:
        assert is_unreadable(http.post(url + CHAT, content=chat()))
        relayed = http.get(url + "/v1/models")
        assert relayed.status_code == 502 or not relayed.content
    assert "request_broke" not in [entry["event"] for entry in logs]
    assert "request_failed" in [entry["event"] for entry in logs]
    assert "HIDDEN" not in str(logs)


def test_a_stream_with_a_broken_chunk(http: httpx.Client) -> None:
    """Malformed framing in the middle of a stream ends it; nothing of the framing leaves."""
    frame = events("all is well").body[2]
    assert isinstance(frame, bytes)
    head = CHUNKED.replace(b"application/json", b"text/event-stream") + b"\r\n"
    body = f"{len(frame):x}\r\n".encode() + frame + f"\r\n{TEXT}\r\n".encode()
    with capture_logs() as logs, raw_upstream(head + body) as url:
        try:
            shown = http.post(url + CHAT, content=chat(stream=True)).text
        except httpx.RemoteProtocolError:
            shown = ""
    assert "HIDDEN" not in shown + str(logs)


def test_the_reason_phrase_does_not_leave() -> None:
    """The status line of the client's answer has the usual reason phrase."""
    with raw_upstream(answer(completion("fine").body[0], list(JSON_TYPE.items()), 200, TEXT)) as url:  # type: ignore[arg-type]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            body = chat()
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HIDDEN" not in received


# --- headers ---------------------------------------------------------------------------------------------------------

LEAVES = [
    ("content-type", "application/json; charset=utf-8"),
    ("date", "Wed, 21 Oct 2026 07:28:30 GMT"),
    ("set-cookie", "__cf_bm=x.y-1; path=/; expires=Wed, 21-Oct-26 07:28:30 GMT; HttpOnly; Secure; SameSite=None"),
    ("set-cookie", "session=5f2d9c1e; Max-Age=3600; Domain=.api.openai.com; SameSite=Lax"),
    ("set-cookie", f"__cf_bm={'6rQ0pbfZp3wA9s8yK1bJf2QX5uHcG' * 10}; Path=/"),
    ("vary", "Accept-Encoding, Origin"),
    ("cache-control", "no-cache, must-revalidate"),
    ("strict-transport-security", "max-age=15552000; includeSubDomains; preload"),
    ("access-control-expose-headers", "X-Request-ID, CF-Ray"),
    ("retry-after", "77"),
    ("expires", "0"),
    ("age", "17"),
    ("last-modified", "Wed, 21 Oct 2026 07:28:30 GMT"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("etag", 'W/"a-1"'),
    ("via", "1.1 google"),
    ("content-language", "en-US"),
    ("server-timing", "cfCacheStatus;desc=DYNAMIC, cfOrigin;dur=412"),
    ("x-amz-id-2", "Xk3/aB+c9Zq0" * 6 + "="),
    ("x-request-id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
    ("request-id", "0197f3a0-6c1e-7d2b-9f5e-1a2b3c4d5e6f"),
    ("x-ratelimit-reset-requests", "6m0s"),
    ("ratelimit-policy", '"default";q=100;w=60'),
    ("anthropic-ratelimit-tokens-reset", "2026-10-21T07:28:30Z"),
    ("anthropic-organization-id", "0197f3a0-6c1e-7d2b-9f5e-1a2b3c4d5e6f"),
    ("openai-organization", "our-own-company-name"),
    ("openai-processing-ms", "412"),
    ("openai-version", "2020-10-01"),
    ("openai-model", "gpt-4o-mini-2024-07-18"),
    ("cf-ray", "9abcdef012345678-FRA"),
    ("x-envoy-upstream-service-time", "398"),
    ("x-amzn-trace-id", "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=0"),
    ("x-groq-region", "us-west-1"),
    ("x-vendor-date", "Wed, 21 Oct 2026 07:28:30 GMT"),
    ("x-should-retry", "false"),
    ("x-vendor", "v"),
    ("x-empty", ""),
]
STAYS = [
    ("refresh", "0"),
    ("refresh", "0;url=https://x.example"),
    ("link", f"<https://x.example>; title={TEXT}"),
    ("alt-svc", 'h3=":443"'),
    ("alt-svc", "clear"),
    ("warning", f'199 - "{TEXT}"'),
    ("location", "/elsewhere"),
    ("content-location", "/elsewhere"),
    ("content-disposition", f'attachment; filename="{TEXT}"'),
    ("content-disposition", "attachment"),
    ("www-authenticate", f'Basic realm="{TEXT}"'),
    ("retry-after", TEXT),
    ("date", f"Wed, 21 Oct 2026 07:28:30 GMT {TEXT}"),
    ("x-note", TEXT),
    ("x-note", "how-to-do-something-bad"),
    ("x-note", "how_to_do_something_bad"),
    ("x-note", "//x.example"),
    ("x-note", "9" * 65),
    ("x-note", "f\xfcr"),
    ("x-ratelimit-note", TEXT),
    ("server-timing", f'total;desc="{TEXT}"'),
    ("openai-note", TEXT),
    ("server", "cloudflare"),
    ("server", "a\x07b"),
    ("set-cookie", TEXT),
    ("set-cookie", f"a={TEXT}"),
    ("set-cookie", "kill=1; Path=/"),
    ("set-cookie", "a=kill; Path=/"),
    ("set-cookie", f"a=1; {TEXT}"),
    ("set-cookie", "a=1; kill"),
    ("set-cookie", "a=1; Domain=kill.your.self.example"),
    ("set-cookie", "a=1; Path=/how/to/kill"),
    ("set-cookie", "a=1; SameSite=kill"),
    ("set-cookie", f"a=1; Expires=Wed, 21 Oct 2026 07:28:30 GMT {TEXT}"),
    ("x-guardproxy-action", "pass"),
    ("note", TEXT),
]


def _encoded(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


@pytest.mark.parametrize("header", LEAVES)
def test_headers_that_leave(header: tuple[str, str]) -> None:
    """Known headers, and numbers, dates and identifiers under any name, leave as they came."""
    assert AnswerHeaders().select(_encoded([header]), frozenset()) == _encoded([header])


@pytest.mark.parametrize("header", STAYS)
def test_headers_that_stay(header: tuple[str, str]) -> None:
    """Texts that nobody judges do not leave in a header."""
    assert AnswerHeaders().select(_encoded([header]), frozenset()) == []


def test_headers_that_an_operator_allows() -> None:
    """A name of the configuration leaves with any text, in upper or lower case, except for the proxy's own names."""
    allowing = AnswerHeaders(["X-Note", "x-vendor-*", "Link", "Server", "Set-Cookie", "x-guardproxy-*"])
    names = [("x-note", TEXT), ("x-vendor-a", TEXT), ("link", TEXT), ("server", TEXT), ("set-cookie", TEXT)]
    stays = [("x-notes", TEXT), ("a-x-note", TEXT), ("x-guardproxy-action", "pass"), ("x-note", "a\x1bb")]
    assert allowing.select(_encoded([*names, *stays]), frozenset()) == _encoded(names)


def test_the_log_counts_the_headers_that_stay() -> None:
    """Their number is in the log, and none of their text."""
    with capture_logs() as lines:
        AnswerHeaders().select(_encoded([("server", TEXT), ("set-cookie", TEXT), ("age", "17")]), frozenset())
        AnswerHeaders().select(_encoded([("age", "17")]), frozenset())
    assert [line.get("count") for line in lines if line["event"] == "answer_headers_withheld"] == [2]
    assert TEXT not in str(lines)


@settings(max_examples=300, deadline=None)
@given(
    name=st.from_regex(r"[a-z][a-z-]{0,20}", fullmatch=True),
    words=st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True), min_size=3, max_size=8),
    between=st.sampled_from([" ", ", ", "-", "_", ".", "/", "+", ":"]),
)
def test_no_unknown_name_brings_a_sentence(name: str, words: list[str], between: str) -> None:
    """Under a name that is not listed, three words or more do not leave, however they are joined."""
    if not AnswerHeaders().select([(name.encode(), b"a" * 65)], frozenset()):
        assert AnswerHeaders().select([(name.encode(), between.join(words).encode())], frozenset()) == []


@pytest.mark.parametrize("kind", ["whole", "stream", "error"])
def test_no_text_of_a_header_leaves(http: httpx.Client, kind: str) -> None:
    """In a reply, a stream and an error, headers with text are left out, and those for clients stay."""
    plain = events("all is well") if kind == "stream" else completion("all is well")
    if kind == "error":
        plain = Scripted([b'{"error": {"message": "no luck"}}'], status=400)
    body = b"".join(part for part in plain.body if isinstance(part, bytes))
    pairs = [*LEAVES[1:], *(pair for pair in STAYS if pair[1].isprintable())]
    kept = SSE_TYPE if kind == "stream" else JSON_TYPE
    with raw_upstream(answer(body, [*kept.items(), *pairs], plain.status)) as url:
        received = http.post(url + CHAT, content=chat(stream=kind == "stream"))
        relayed = http.get(url + "/v1/models")
    assert (received.status_code, received.content) == (plain.status, body)
    assert "HIDDEN" not in str(received.headers)
    for name in {name for name, _ in STAYS} - {name for name, _ in LEAVES} - {"x-guardproxy-action"}:
        assert name not in received.headers
    for name, value in LEAVES[1:]:
        replaced = kind == "stream" and name in ("cache-control", "etag", "last-modified")
        assert replaced or value in received.headers[name]
    assert relayed.headers["x-ratelimit-note"] == TEXT  # a path that passes unread keeps its headers


@pytest.mark.parametrize("lines", [False, True])
def test_a_whole_reply_to_a_client_that_reads_lines(http: httpx.Client, lines: bool) -> None:
    """No reader of lines finds another line in a reply: separators are escaped, and Ollama's reply is one line."""
    line = '{"message": {"role": "assistant", "content": "all is well"}, "done": true}'
    if lines:
        body = f'{{"message": {{"role": "assistant", "content": "a\u2028b"}}, "x": [1,\r{line},\n{line}\n]}}\n'
    else:
        body = json.dumps(json.loads(completion("a\u2028data: b").body[0]), ensure_ascii=False, indent=1)
    request = json.loads(chat(stream=True))
    with standing(Scripted([body.encode()])) as (url, _):
        received = http.post(url + ("/api/chat" if lines else CHAT), json=request)
        plain = http.post(url + ("/api/chat" if lines else CHAT), json={**request, "stream": False})
    assert received.json() == json.loads(body)
    assert received.text != body
    assert plain.text == body
    assert len(list(received.iter_lines())) == (1 if lines else len(body.split("\n")))


def test_a_created_answer_leads_nowhere(http: httpx.Client) -> None:
    """The location of a 201 does not leave."""
    script = replace(completion("fine"), status=201, headers={**JSON_TYPE, "location": "https://x.example/poison"})
    with standing(script) as (url, _):
        received = http.post(url + CHAT, content=chat())
    assert (received.status_code, "location" in received.headers) == (201, False)


# --- the checks alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, []),
        (200, [("content-length", "0")]),
        (204, [("content-length", "0")]),
        (304, [("content-length", "7")]),
        (599, [("transfer-encoding", "Chunked")]),
    ],
)
def test_proper_framing(status: int, headers: Pairs) -> None:
    """Ordinary answers are proper."""
    check_framing(status, _encoded(headers))


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (199, []),
        (600, []),
        (204, [("content-length", "1")]),
        (204, [("transfer-encoding", "chunked")]),
        (200, [("content-length", "1"), ("content-length", "1")]),
        (200, [("content-length", "1, 1")]),
        (200, [("content-length", "")]),
        (200, [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
        (200, [("transfer-encoding", "chunked"), ("content-length", "1")]),
    ],
)
def test_improper_framing(status: int, headers: Pairs) -> None:
    """Answers that two parsers could cut differently are not."""
    with pytest.raises(UpstreamUnreadable):
        check_framing(status, _encoded(headers))


@settings(max_examples=200, deadline=None)
@given(charset=st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True), quote=st.sampled_from(["", '"', "'"]))
def test_only_utf8_is_utf8(charset: str, quote: str) -> None:
    """No other name of a charset passes for a text beyond ASCII."""
    headers = _encoded([("content-type", f"text/plain; Charset={quote}{charset}{quote}")])
    if charset in ("utf-8", "utf8", "us-ascii", "ascii"):
        check_charset(headers, "ü".encode())
    else:
        with pytest.raises(UpstreamUnreadable):
            check_charset(headers, "ü".encode())
