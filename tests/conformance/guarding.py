"""The pipeline with a guard that finds words, without sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exchange, Pipeline, ReplyReview, RequestReview
from guardproxy.policy import Policy
from guardproxy.ports import Request, Wire
from guardproxy.registry import load
from guardproxy.types import Origin
from tests.kit import WORDS, WordGuard

ACTIONS = {name: load(name, REGISTRY, "action") for name in REGISTRY}


class Guarding:
    """Reviews requests and replies under a policy; `guard.asked` has the judged texts."""

    def __init__(self, policy: Policy) -> None:
        metrics = Metrics(CollectorRegistry())
        self.guard = WordGuard(WORDS)
        self.policy = policy
        self._pipeline = Pipeline(self.guard, Observers({}, metrics=metrics, text="none"), metrics, ACTIONS)

    def exchange(self, wire: Wire, request: Request) -> Exchange:
        """Return the exchange of a request."""
        return Exchange(wire, request, Origin("id", "default", wire.name, "u", "m"), self.policy)

    def request(self, exchange: Exchange) -> RequestReview:
        """Review the request."""
        return asyncio.run(self._pipeline.review_request(exchange))

    def reply(self, exchange: Exchange, body: bytes) -> ReplyReview:
        """Review a whole reply."""
        return asyncio.run(self._pipeline.review_reply(exchange, body))

    def stream(self, exchange: Exchange, pieces: Iterable[bytes], content_type: str) -> bytes:
        """Return the bytes of a streamed reply that reach the client."""

        async def run() -> bytes:
            left = self._pipeline.review_stream(exchange, _played(pieces), content_type)
            return b"".join([piece async for piece in left])

        return asyncio.run(run())


async def _played(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
