"""Clients that leave, are slow, or do not read, at a running proxy."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.kit import ask, found_by_text, watched
from tests.faults.raw import leave_after, request, until_closed
from tests.faults.stand import CHAT, Got, Proxy
from tests.faults.table import CLIENT
from tests.faults.upstream import RawUpstream, chunk
from tests.kit import until

FAULTS = {fault.name: fault for fault in CLIENT}


def slow_head(proxy: Proxy) -> Got:
    return until_closed(proxy, b"POST / HTTP/1.1\r\n", *[b"a: b\r\n"] * 40, pause_s=0.1)


def slow_body(proxy: Proxy) -> Got:
    return until_closed(proxy, request({}, length=900), *[b" "] * 40, pause_s=0.1)


def long_head(proxy: Proxy) -> Got:
    return until_closed(proxy, b"POST / HTTP/1.1\r\n", *[b"a: " + b"b" * 10_000 + b"\r\n"] * 10)


def trailers(proxy: Proxy) -> Got:
    head = f"POST {CHAT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    body = chunk(json.dumps(ask("fine")).encode()) + b"0\r\n"
    return until_closed(proxy, head + body, *[b"a: b\r\n" * 1000] * 1000, pause_s=0.001)


@pytest.mark.parametrize("name", ["while-judged", "before-answer", "in-stream"])
def test_a_client_that_leaves(proxy: Proxy, upstream: RawUpstream, name: str) -> None:
    """It leaves before its answer or in it; what was judged is recorded, and nothing is forwarded any more."""
    words = "SLOWLY" if name == "while-judged" else name
    body = ask("steady" if name == "in-stream" else "silent", words)
    text, judged = body["messages"][0]["content"], name == "while-judged"
    with watched(proxy, FAULTS[name]) as seen:
        leave_after(proxy, request({**body, "stream": True}), 0.5, lambda: judged or text in str(upstream.asked))
        seen.recorded(until(lambda: found_by_text(proxy, text), f"no record of {text}"))
    assert (text in str(upstream.asked)) != judged


@pytest.mark.parametrize(("name", "sent"), [("in-head", request({})[:40]), ("in-body", request({}, length=900))])
def test_a_client_that_leaves_before_its_request_is_whole(proxy: Proxy, name: str, sent: bytes) -> None:
    before = len(proxy.records())
    with watched(proxy, FAULTS[name]):
        leave_after(proxy, sent, 0.1)
    assert len(proxy.records()) == before


def test_a_client_that_leaves_after_its_answer(proxy: Proxy) -> None:
    with watched(proxy, FAULTS["after"]) as seen:
        seen.answered(proxy.post(ask("fine")))


@pytest.mark.parametrize(
    ("name", "send"),
    [("slow-head", slow_head), ("slow-body", slow_body), ("long-head", long_head), ("trailers", trailers)],
)
def test_a_client_that_sends_too_slowly_or_too_much(proxy: Proxy, name: str, send: Callable[[Proxy], Got]) -> None:
    before = len(proxy.records())
    with watched(proxy, FAULTS[name]) as seen:
        seen.answered(send(proxy))
    assert len(proxy.records()) == before


def test_clients_that_ask_for_another_protocol(proxy: Proxy) -> None:
    """The body is read and judged, in one piece with the headers or behind them, also of many requests at once."""
    asked = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n\r\n"
    for size in (0, 10):
        with watched(proxy, FAULTS["upgrade"]) as seen:
            last = asked.replace(b"connection: ", b"connection: close, ")
            whole = request(ask("fine")).replace(b"\r\n\r\n", b"\r\n" + last)
            head = len(whole) - size if size else whole.index(b"\r\n\r\n") + 4
            got = until_closed(proxy, whole[:head], whole[head:], pause_s=0.1)
            seen.answered(replace(got, ended=True))
    harmful = until_closed(proxy, request(ask("fine", "how to mix poison")).replace(b"\r\n\r\n", b"\r\n" + last))
    assert b"content_filter" in harmful.body
    many = b"GET /healthz HTTP/1.1\r\n" + asked
    assert until_closed(proxy, many * 999, b"GET /healthz HTTP/1.1\r\n" + last).body.count(b"HTTP/1.1 200") == 999
