"""Long, large and deep bodies: bounded time, or a clear error of the protocol that no client retries."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from guardproxy.settings import Limits
from tests.conformance.clients import CLIENTS, Client
from tests.conformance.guarding import Guarding
from tests.conformance.reading import Reach
from tests.conformance.speech import CHATS, PROTOCOLS, Protocol, conversation, plain
from tests.conformance.stand import Stand, standing
from tests.kit import Scripted
from tests.web.kit import policy

# Seconds of this process's own time: ten times as long as on a slow machine.
BOUND_S = 40.0

NAMES = [name for name in PROTOCOLS if name != "gemini-array"]
each_protocol = pytest.mark.parametrize("protocol", [PROTOCOLS[name] for name in NAMES], ids=NAMES)
# A client of each protocol that asks for a whole answer.
READERS = list({client.protocol: client for client in reversed(CLIENTS) if not client.streamed}.values())


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module, with the default limits except for the bytes."""
    with standing(limits=Limits(body_bytes=1 << 20, reply_bytes=1 << 20, characters=100_000, messages=50)) as found:
        yield found


@pytest.mark.parametrize("name", CHATS)
def test_ten_thousand_messages(name: str) -> None:
    """Every message of a long conversation is judged, in time linear in their number."""
    protocol, guarding = PROTOCOLS[name], Guarding(policy())
    raw = plain(conversation(name, [f"message {n}" for n in range(9_999)]))
    began = time.process_time()
    request = protocol.wire.parse_request(protocol.target(stream=False), raw)
    review = guarding.request(guarding.exchange(protocol.wire, request))
    assert time.process_time() - began < BOUND_S
    assert (review.action, review.coverage, review.body) == ("pass", "full", raw)
    assert len(guarding.guard.asked) == 9_999


def test_ten_thousand_harmful_messages() -> None:
    """The same number of earlier turns can be left out."""
    protocol, guarding = PROTOCOLS["chat"], Guarding(policy())
    raw = plain(conversation("chat", [*(f"poison {n}" for n in range(9_998)), "hello"]))
    began = time.process_time()
    request = protocol.wire.parse_request(protocol.target(stream=False), raw)
    review = guarding.request(guarding.exchange(protocol.wire, request))
    assert time.process_time() - began < BOUND_S
    assert b"poison" not in review.body
    assert b"hello" in review.body


@each_protocol
def test_a_long_stream(protocol: Protocol) -> None:
    """A stream of thousands of pieces is judged as it grows, and passes unchanged."""
    guarding = Guarding(policy())
    frames = protocol.streamed([f"piece {n} " for n in range(3_000)])
    exchange = guarding.exchange(protocol.wire, protocol.request("Hello.", stream=True))
    began = time.process_time()
    told = guarding.stream(exchange, frames, protocol.content_type)
    assert time.process_time() - began < BOUND_S
    assert told == b"".join(frames)


@each_protocol
def test_large_bodies(protocol: Protocol) -> None:
    """A prompt and a reply of a megabyte (20 MB in one protocol) are judged and pass unchanged."""
    size = 20_000_000 if protocol.name == "chat" else 1_000_000
    guarding, text = Guarding(policy()), "All is well. " * (size // 12)
    raw, reply = plain(protocol.ask(text, False)), plain(protocol.whole(text))
    began = time.process_time()
    exchange = guarding.exchange(protocol.wire, protocol.wire.parse_request(protocol.target(stream=False), raw))
    assert guarding.request(exchange).body is raw
    assert guarding.reply(exchange, reply).body is reply
    assert time.process_time() - began < BOUND_S
    assert [len(check.turn.text) for check in guarding.guard.asked] == [len(text)] * 2


NESTS: dict[str, Callable[[int], bytes]] = {
    "lists": lambda depth: b"[" * depth + b"]" * depth,
    "objects": lambda depth: b'{"a":' * depth + b"1" + b"}" * depth,
    "open": lambda depth: b"[" * depth,
}


@each_protocol
@pytest.mark.parametrize("nest", NESTS)
def test_deep_nesting(stand: Stand, protocol: Protocol, nest: str) -> None:
    """A body that is nested too deep is refused with the protocol's error, in both directions."""
    deep = NESTS[nest](100_000)
    with httpx.Client(base_url=stand.watch.url, timeout=60, trust_env=False) as client:
        stand.play(Scripted([plain(protocol.whole("All is well."))]))
        body = plain(protocol.ask("Hello.", False))
        answer = client.post(protocol.target(stream=False), content=body[:-1] + b',"x":' + deep + b"}")
        assert (answer.status_code, stand.asked()) == (400, [])
        assert "deep" in json.dumps(answer.json()["error"])
        whole = plain(protocol.whole("All is well."))
        stand.play(Scripted([whole[:-1] + b',"x":' + deep + b"}"]))
        answer = client.post(protocol.target(stream=False), content=body)
        assert answer.status_code == 502
        assert answer.json()["error"]


@pytest.mark.parametrize("client", READERS, ids=lambda client: client.name)
@pytest.mark.parametrize(
    ("prompt", "limit"), [("a" * 200_000, "characters"), ("a" * 2_000_000, "body_bytes")], ids=["characters", "bytes"]
)
def test_what_is_too_large(stand: Stand, client: Client, prompt: str, limit: str) -> None:
    """A request beyond a limit gets the protocol's error of status 413, which names the limit."""
    stand.play(Scripted())
    read = stand.ask(client, prompt)
    assert read.status == 413
    assert f"limits.{limit}" in read.error
    assert stand.asked() == []


@pytest.mark.parametrize("name", CHATS)
def test_too_many_messages(stand: Stand, name: str) -> None:
    """The same for too many messages."""
    stand.play(Scripted())
    body = plain(conversation(name, ["hello"] * 51))
    answer = httpx.post(stand.watch.url + PROTOCOLS[name].target(stream=False), content=body, timeout=60)
    assert answer.status_code == 413
    assert "limits.messages" in json.dumps(answer.json()["error"])
    assert stand.asked() == []


@pytest.mark.parametrize("client", READERS, ids=lambda client: client.name)
def test_too_large_a_reply(stand: Stand, client: Client) -> None:
    """A reply beyond the limit becomes an error of status 502, which is not retried."""
    stand.play(Scripted([plain(PROTOCOLS[client.protocol].whole("a" * 2_000_000))]))
    read = client.ask(Reach(stand.watch.url), "Hello.")
    assert read.status == 502
    assert len(stand.watch.crossed) == 1
    assert len(stand.received) < 2_000
