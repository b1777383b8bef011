"""A guarded proxy in front of a scripted upstream, and the bodies that go through it."""

import gzip
import json
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import brotli
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp

from guardproxy.actions import REGISTRY as ACTIONS
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Pipeline
from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.ports import Sink
from guardproxy.registry import load
from guardproxy.settings import Limits
from guardproxy.web.app import OPERATOR_PATHS, create_app, operator_routes
from guardproxy.web.failover import Upstreams
from guardproxy.web.paths import PathList
from guardproxy.web.proxy import LivePolicies, Proxy
from guardproxy.web.upstream import Upstream
from guardproxy.wires import REGISTRY as WIRES
from tests.kit import WORDS, Scripted, ScriptedUpstream, WordGuard, serve, until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Content-encodings that the proxy decodes, and their encoders.
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
ALLOW = ("GET /", "GET /v1/models", "GET /v1/models/**", "POST /v1/messages/count_tokens")


def policy(**changes: Any) -> Policy:
    """A policy that blocks weapons, replaces privacy and flags hate, on both sides."""
    rules = {"weapons": (Rule("block", 0.5),), "privacy": (Rule("rewrite", 0.5, "replace"),)}
    side = SideRules({**rules, "hate": (Rule("flag", 0.5),)})
    return Policy("default", "v1", **{"user": side, "assistant": side, **changes})


def guarded(upstream: Upstream | Upstreams, **changes: Any) -> ASGIApp:
    """The whole proxy around a WordGuard, with `changes` by name."""
    proxy, policies, observers, metrics = parts_of(upstream, **changes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await observers.start()
        yield
        await proxy._pipeline.close(20)
        await observers.close()
        await upstream.aclose()

    async def scrape() -> tuple[str, bytes]:
        return metrics.render()

    return create_app(
        proxy,
        metrics=metrics,
        lifespan=lifespan,
        routes=operator_routes(policies=policies, scrape=scrape, ready=changes.get("ready", lambda: "")),
        own_paths=OPERATOR_PATHS,
        visitors=changes.get("visitors"),
        cors=changes.get("cors", ()),
    )


def parts_of(upstream: Upstream | Upstreams, **changes: Any) -> tuple[Proxy, LivePolicies, Observers, Metrics]:
    """The proxy alone, with `changes` by name, and what it was made of."""
    metrics = Metrics(CollectorRegistry())
    sinks: Mapping[str, Sink] = changes.get("sinks", {})
    audit = {name: changes[name] for name in ("required", "passed") if name in changes}
    observers = Observers(sinks, metrics=metrics, text="full", **audit)
    actions = {name: load(name, ACTIONS, "action") for name in ACTIONS}
    policies = LivePolicies(changes.get("policies") or PolicySet({"default": policy()}, version="cfg1"))
    proxy = Proxy(
        upstreams=Upstreams([upstream], metrics=metrics.upstreams) if isinstance(upstream, Upstream) else upstream,
        pipeline=Pipeline(
            changes.get("guard") or WordGuard(WORDS),
            observers,
            metrics,
            actions,
            after_disconnect_s=changes.get("after_disconnect_s", 30.0),
            reads=changes.get("reads"),
            infer_sessions=changes.get("infer_sessions", False),
            **({"max_held_bytes": changes["max_held_bytes"]} if "max_held_bytes" in changes else {}),
        ),
        wires=[load(name, WIRES, "wire") for name in WIRES],
        policies=policies,
        allow=PathList(changes.get("allow", ALLOW)),
        refuse=PathList(changes.get("refuse", ()), wide=True),
        limits=changes.get("limits") or Limits(),
        metrics=metrics,
        ready=changes.get("ready", lambda: ""),
        keepalive_s=changes.get("keepalive_s", 15.0),
        identities=changes.get("identities"),
        sample=changes.get("sample"),
        access=changes.get("access"),
    )
    return proxy, policies, observers, metrics


@contextmanager
def standing(
    *script: Scripted, upstream: Mapping[str, Any] | None = None, **changes: Any
) -> Iterator[tuple[str, ScriptedUpstream]]:
    """Serve a guarded proxy in front of a scripted upstream; yield the proxy's URL and the upstream."""
    scripted = ScriptedUpstream(list(script))
    with serve(scripted) as below, serve(guarded(Upstream(below, **(upstream or {})), **changes)) as url:
        yield url, scripted


def leave(url: str, body: bytes, when: Callable[[], Any]) -> None:
    """Send a chat, and close the connection a moment after `when` holds, before its answer."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        until(when)
        time.sleep(0.2)


def chat(text: str = "hello", **more: Any) -> bytes:
    """A chat request with one user turn."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


def completion(text: str) -> Scripted:
    """A whole chat completion with the content `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Scripted([json.dumps(body).encode()])


def events(*texts: str, pause_s: float = 0.0) -> Scripted:
    """A streamed chat completion with the contents `texts`, one frame each."""
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def line(delta: Mapping[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({**frame, "choices": [choice]}).encode() + b"\n\n"

    body: list[bytes | float | None] = [line({"role": "assistant", "content": ""}, None)]
    for text in texts:
        body += [pause_s, line({"content": text}, None)]
    return Scripted([*body, line({}, "stop"), b"data: [DONE]\n\n"], headers={"content-type": "text/event-stream"})
