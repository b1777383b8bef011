"""Harmless exchanges cross the proxy byte for byte, however they are written and wherever a stream is split."""

import random
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from guardproxy.policy import StreamPolicy
from guardproxy.types import Message, Part
from guardproxy.views import apart
from tests.conformance import odd
from tests.conformance.guarding import Guarding
from tests.conformance.speech import PROTOCOLS, SSE, Protocol
from tests.conformance.stand import Stand, standing
from tests.kit import Scripted
from tests.web.kit import policy

EXCHANGES = 200

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)


class Exchanged:
    """A generated exchange: the prompt and its request, the pieces of the answer, whole and streamed."""

    def __init__(self, protocol: Protocol, seed: int, *, stream: bool) -> None:
        rng = random.Random(f"{protocol.name} {seed} {stream}")
        self.prompt = odd.text(rng)
        self.pieces = [odd.text(rng) for _ in range(rng.randint(1, 5))]
        self.request = odd.Odd(rng, lines=True)(protocol.ask(self.prompt, stream))
        self.whole = odd.Odd(rng, lines=True)(protocol.whole("".join(self.pieces)))
        if protocol.content_type == SSE:
            dump = odd.several_lines(odd.Odd(rng, lines=rng.random() < 0.3))
            frames = [odd.frame(rng, frame) for frame in protocol.streamed(self.pieces, dump)]
        else:
            frames = protocol.streamed(self.pieces, odd.Odd(rng))
        self.stream = b"".join(frames)
        self.split = odd.split(rng, self.stream)
        self.held = StreamPolicy(rng.choice(("window", "window", "hold_all")), every=rng.choice((1, 10, 200, "auto")))


@each_protocol
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_clean_exchanges(protocol: Protocol, stream: bool) -> None:
    """Request and reply are the same at both ends, and their texts are judged."""
    guarding = Guarding(policy())
    for seed in range(EXCHANGES):
        sample = Exchanged(protocol, seed, stream=stream)
        guarding.policy = replace(guarding.policy, stream=sample.held)
        request = protocol.wire.parse_request(protocol.target(stream=stream), sample.request)
        exchange = guarding.exchange(protocol.wire, request)
        guarding.guard.asked.clear()
        forwarded = guarding.request(exchange)
        assert (forwarded.action, forwarded.coverage, forwarded.body) == ("pass", "full", sample.request), seed
        if stream:
            received = guarding.stream(exchange, sample.split, protocol.content_type)
            assert received == odd.as_it_leaves(sample.stream), seed
        else:
            review = guarding.reply(exchange, sample.whole)
            assert (review.action, review.coverage, review.body) == ("pass", "full", sample.whole), seed
        judged = [(check.side, check.turn.text) for check in guarding.guard.asked]
        assert judged[0] == ("user", sample.prompt), seed
        # The whole text, and what it has as values of code: some random texts have quotation marks like them.
        reply = "".join(sample.pieces)
        texts = (reply, *apart(Message("assistant", (Part("content", reply),))))
        assert judged[-len(texts) :] == [("assistant", text) for text in texts], seed


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module."""
    with standing() as found:
        yield found


@each_protocol
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_clean_exchanges_over_sockets(stand: Stand, protocol: Protocol, stream: bool) -> None:
    """The same with real servers and the pieces that the upstream sends."""
    with httpx.Client(base_url=stand.watch.url, timeout=60, trust_env=False) as client:
        for seed in range(1000, 1004):
            sample = Exchanged(protocol, seed, stream=stream)
            kind = protocol.content_type if stream else "application/json"
            stand.play(Scripted(sample.split if stream else [sample.whole], headers={"content-type": kind}))
            answer = client.post(protocol.target(stream=stream), content=sample.request)
            assert stand.asked() == [sample.request], seed
            assert answer.content == (odd.as_it_leaves(sample.stream) if stream else sample.whole), seed
            assert answer.headers["content-type"] == kind
            assert answer.headers["x-guardproxy-action"] == "pass"
