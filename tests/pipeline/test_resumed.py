"""Conversations that the upstream keeps: which of its replies a request may continue from."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.errors import GuardUnavailable, Unreadable
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exchange, Pipeline
from guardproxy.pipeline.resumed import JudgedReplies
from guardproxy.policy import Policy, Rule, SideRules
from guardproxy.ports import SharedState
from guardproxy.registry import load
from guardproxy.stricter import combined
from guardproxy.types import Origin
from guardproxy.wires.openai_responses import wire
from tests.kit import WordGuard
from tests.sharing.memory import MemoryState
from tests.wires.kit import BY_NAME

BLOCK = SideRules({"*": (Rule("block", 0.5),)})
POLICY = Policy("default", "v", BLOCK, BLOCK, on_opaque={"user": "block", "assistant": "flag"})


class Talk:
    """A pipeline, and requests and replies through it."""

    def __init__(self, shared: SharedState | None = None) -> None:
        metrics = Metrics(CollectorRegistry())
        actions = {name: load(name, REGISTRY, "action") for name in REGISTRY}
        observers = Observers({}, metrics=metrics)
        self.pipeline = Pipeline(WordGuard({"bomb": ("harm", 0.9)}), observers, metrics, actions, shared=shared)
        asyncio.run(observers.start())

    def exchange(self, upstream: str = "u", **body: Any) -> Exchange:
        """A request, ready for the pipeline."""
        request = wire.parse_request("/v1/responses", json.dumps({"model": "m", "input": "hello", **body}).encode())
        origin = Origin("id", "default", wire.name, upstream, "m")
        return Exchange(wire, request, origin, POLICY, account=upstream)

    def refused(self, exchange: Exchange) -> bool:
        """Whether the request is refused."""
        return asyncio.run(self.pipeline.review_request(exchange)).refusal is not None

    def answered(self, exchange: Exchange, name: str, text: str) -> None:
        """The upstream answers."""
        asyncio.run(self.pipeline.review_reply(exchange, response(name, text)))

    def streamed(self, exchange: Exchange, raw: bytes) -> None:
        """The upstream answers with a stream."""

        async def run() -> None:
            async for _ in self.pipeline.review_stream(exchange, _whole(raw), "text/event-stream"):
                pass

        asyncio.run(run())


async def _whole(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def response(name: str, text: str, status: str = "completed") -> bytes:
    """A whole response."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "i1", "role": "assistant", "status": "completed", "content": [part]}
    body = {"id": name, "object": "response", "created_at": 1, "status": status, "model": "m", "output": [item]}
    return json.dumps(body).encode()


def test_a_judged_reply_may_be_continued() -> None:
    """A request that continues from a reply that was judged and passed is not opaque."""
    talk = Talk()
    talk.answered(talk.exchange(), "resp_1", "fine")
    assert not talk.refused(talk.exchange(previous_response_id="resp_1"))


def test_an_unknown_reply_is_opaque() -> None:
    """A reply that was never seen is opaque, and the policy's `on_opaque` decides."""
    talk = Talk()
    assert talk.refused(talk.exchange(previous_response_id="resp_1"))


# --- what goes on from a refusal --------------------------------------------------------------------------------------


def forwarded(talk: Talk, exchange: Exchange) -> Any:
    """What the upstream gets for `previous_response_id`; None for none."""
    review = asyncio.run(talk.pipeline.review_request(exchange))
    assert review.refusal is None
    return json.loads(review.body).get("previous_response_id")


def refusal_of(talk: Talk, **body: Any) -> str:
    """The id of the refusal of a harmful request."""
    exchange = talk.exchange(input="a bomb", **body)
    review = asyncio.run(talk.pipeline.review_request(exchange))
    assert review.refusal is not None
    answer = wire.refuse(exchange.request, review.refusal).body
    name: str = (
        json.loads(answer.rpartition(b"data: ")[2])["response"]["id"]
        if body.get("stream")
        else json.loads(answer)["id"]
    )
    return name


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_request_may_be_continued(stream: bool) -> None:
    """It goes on from the last reply that the upstream knows, however many refusals lie between, or from none.

    The refusal's id says so itself: a pipeline of another process forwards the same.
    """
    talk = Talk()
    first = refusal_of(talk, stream=stream)
    second = refusal_of(talk, stream=stream, previous_response_id=first)
    for other in (talk, Talk()):
        assert [forwarded(other, other.exchange(previous_response_id=name)) for name in (first, second)] == [None, None]
    talk.answered(talk.exchange(), "resp_1", "fine")
    third = refusal_of(talk, stream=stream, previous_response_id="resp_1")
    fourth = refusal_of(talk, stream=stream, previous_response_id=third)
    assert [forwarded(talk, talk.exchange(previous_response_id=name)) for name in (third, fourth)] == ["resp_1"] * 2
    assert Talk().refused(talk.exchange(previous_response_id=fourth))  # `resp_1` is opaque to others, as ever


@pytest.mark.parametrize("history", ["drop", "block", "allow"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_withheld_reply_is_left_out(stream: bool, history: Any) -> None:
    """A request from a reply that was withheld goes on from the one before, unless the policy allows such turns."""
    talk = Talk()
    rules = replace(POLICY, history=history, on_opaque={"user": "flag", "assistant": "flag"})

    def asked(**body: Any) -> Exchange:
        return replace(talk.exchange(**body), policy=rules)

    talk.answered(asked(), "resp_1", "fine")
    if stream:
        raw = BY_NAME["responses"].raw.replace(b"High tide", b"A bomb now")
        name = json.loads(BY_NAME["responses"].reply)["id"]
        talk.streamed(asked(previous_response_id="resp_1", stream=True), raw.replace(b"A bomb", b"a bomb"))
    else:
        name = "resp_2"
        talk.answered(asked(previous_response_id="resp_1"), name, "a bomb")
    assert forwarded(talk, asked(previous_response_id=name)) == (name if history == "allow" else "resp_1")


@pytest.mark.parametrize("text", [b"A FAIL now", b"A bomb now"])
def test_a_reply_that_its_client_has_not_read_is_left_out(text: bytes) -> None:
    """The guard fails on it, or the client leaves before the harm: the client has the id of the reply all the same."""
    talk = Talk()
    rules = replace(POLICY, on_opaque={"user": "flag", "assistant": "flag"})
    raw = BY_NAME["responses"].raw.replace(b"High tide", text).replace(b', "instructions": "Answer briefly."', b"")
    name = json.loads(BY_NAME["responses"].reply)["id"]

    async def read() -> None:
        head, separator, rest = raw.partition(b"\n\n")
        pieces = talk.pipeline.review_stream(asked, _pieces(head + separator, rest), "text/event-stream")
        async with aclosing(pieces):
            assert name.encode() in await anext(pieces)
            if b"FAIL" in text:
                with pytest.raises(GuardUnavailable):
                    _ = [piece async for piece in pieces]
            else:
                assert b"withheld" not in await anext(pieces)
        await talk.pipeline.close(20)

    talk.answered(replace(talk.exchange(), policy=rules), "resp_0", "fine")
    asked = replace(talk.exchange(previous_response_id="resp_0", stream=True), policy=rules)
    asyncio.run(read())
    again = replace(talk.exchange(previous_response_id=name), policy=rules)
    assert forwarded(talk, again) == "resp_0"


def test_a_name_that_is_no_id() -> None:
    """It would be kept with a withheld reply, and with many of them the memory would be full."""
    with pytest.raises(Unreadable, match="previous_response_id"):
        Talk().exchange(previous_response_id="r" * 2049)
    assert Talk().refused(Talk().exchange(previous_response_id="r" * 2048))  # opaque, as any that is not known


def test_another_upstreams_reply_is_unknown() -> None:
    """A reply's id is valid only for the upstream that gave it."""
    talk = Talk()
    talk.answered(talk.exchange(), "resp_1", "fine")
    assert talk.refused(talk.exchange("v", previous_response_id="resp_1"))


def test_another_clients_reply_is_unknown() -> None:
    """A reply that one client received is unknown to every other client, and to requests without a key."""
    talk = Talk()

    def asked_by(client: str, **body: Any) -> Exchange:
        exchange = talk.exchange(**body)
        return replace(exchange, origin=replace(exchange.origin, client=client))

    talk.answered(asked_by("a"), "resp_1", "fine")
    assert not talk.refused(asked_by("a", previous_response_id="resp_1"))
    assert talk.refused(asked_by("b", previous_response_id="resp_1"))
    assert talk.refused(asked_by("", previous_response_id="resp_1"))


def test_another_policys_reply_is_unknown() -> None:
    """A reply that passed under one policy is unknown under another."""
    talk = Talk()
    lax = replace(POLICY, name="lax", user=SideRules({}), assistant=SideRules({}))
    talk.answered(replace(talk.exchange(input="a bomb"), policy=lax), "resp_1", "a bomb")
    assert not talk.refused(replace(talk.exchange(previous_response_id="resp_1"), policy=lax))
    assert talk.refused(talk.exchange(previous_response_id="resp_1"))


def test_a_reply_that_goes_on_elsewhere_is_unknown() -> None:
    """A reply that continues in the background, or whose stream breaks off, is unknown: its rest was not judged."""
    talk = Talk()
    exchange = talk.exchange()
    asyncio.run(talk.pipeline.review_reply(exchange, response("resp_1", "fine", "in_progress")))
    assert talk.refused(talk.exchange(previous_response_id="resp_1"))
    stream = BY_NAME["responses"]
    for raw, known in ((stream.raw, True), (stream.raw.partition(b"event: response.completed")[0], False)):
        talk = Talk()
        talk.streamed(talk.exchange(instructions="Answer briefly.", input="Hello there.", stream=True), raw)
        name = json.loads(stream.reply)["id"]
        assert talk.refused(talk.exchange(previous_response_id=name)) is not known


@pytest.mark.parametrize(
    "unread",
    [
        {"previous_response_id": "resp_0"},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/i.png"}]}]},
        {"conversation": "conv_1"},
    ],
)
def test_what_goes_on_from_unread_content_is_opaque(unread: dict[str, Any]) -> None:
    """A judged reply to a request with opaque content stays unknown."""
    talk = Talk()
    talk.answered(talk.exchange(**unread), "resp_1", "fine")
    assert talk.refused(talk.exchange(previous_response_id="resp_1"))
    talk.answered(talk.exchange(), "resp_2", "fine")
    talk.answered(talk.exchange(previous_response_id="resp_2"), "resp_3", "fine")
    assert not talk.refused(talk.exchange(previous_response_id="resp_3"))


def test_the_ids_that_were_named_last_are_kept() -> None:
    """A hundred thousand ids are kept; the one that nobody has named for longest goes first."""
    talk = Talk()
    replies = JudgedReplies()
    exchange = talk.exchange()

    async def known(number: int) -> bool:
        resuming = talk.exchange(previous_response_id=f"resp_{number}")
        return await replies.without_known(resuming) is not resuming

    async def run() -> list[bool]:
        for number in range(100_000):
            await replies.remember(exchange, f"resp_{number}")
        assert await known(0)  # named: now the last to go
        assert await known(2)
        await replies.remember(exchange, "resp_new")
        return [await known(number) for number in (0, 1, 2, 3, 99_999)]

    assert asyncio.run(run()) == [True, False, True, True, True]


def test_a_withheld_reply_of_a_group_of_upstreams() -> None:
    """The upstream is the one that gave the reply before the withheld one."""
    talk = Talk()
    talk.answered(talk.exchange("v"), "resp_1", "fine")
    talk.answered(talk.exchange("v", previous_response_id="resp_1"), "resp_2", "a bomb")
    resuming = talk.exchange("u", previous_response_id="resp_2")
    assert asyncio.run(talk.pipeline.gave_resumed(resuming, [("u", "u"), ("v", "v")])) == "v"
    assert forwarded(talk, talk.exchange("v", previous_response_id="resp_2")) == "resp_1"


@pytest.mark.parametrize("opaque", ["flag", "allow"])
def test_a_withheld_reply_is_left_out_under_another_policy_too(opaque: Any) -> None:
    """A choice of a stricter policy has a name of its own; the model must not go on from what nobody was to read."""
    talk = Talk()
    own = replace(POLICY, on_opaque={"user": opaque, "assistant": "flag"})

    def exchange(rules: Policy, **body: Any) -> Exchange:
        return replace(talk.exchange(**body), policy=rules)

    chosen = combined(own, replace(own, name="strict", history="block"))
    for first, then in ((own, chosen), (chosen, own)):
        talk.answered(exchange(first), "resp_1", "fine")
        talk.answered(exchange(first, previous_response_id="resp_1"), "resp_2", "a bomb")
        assert forwarded(talk, exchange(then, previous_response_id="resp_2")) == "resp_1"


def test_the_upstream_of_a_reply_is_known_under_another_policy() -> None:
    """A chosen policy must not send the request to an upstream that does not have the reply; it is opaque there."""
    talk = Talk()
    talk.answered(talk.exchange("v"), "resp_1", "fine")
    chosen = combined(POLICY, replace(POLICY, name="strict"))
    resuming = replace(talk.exchange("u", previous_response_id="resp_1"), policy=chosen)
    assert asyncio.run(talk.pipeline.gave_resumed(resuming, [("u", "u"), ("v", "v")])) == "v"
    assert talk.refused(replace(resuming, origin=replace(resuming.origin, upstream="v"), account="v"))


# --- what another process has seen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_reply_that_another_process_has_judged(shared: bool) -> None:
    """Its conversation may be continued here, if the processes share their state; otherwise it is opaque."""
    state = MemoryState() if shared else None
    one, other = Talk(state), Talk(state)
    one.answered(one.exchange(), "resp_1", "fine")
    assert other.refused(other.exchange(previous_response_id="resp_1")) is not shared


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_another_process_has_withheld(stream: bool) -> None:
    """A request from it goes on from the reply before it, and who retrieves it gets the refusal, as in one process."""
    state = MemoryState()
    one, other = Talk(state), Talk(state)
    one.answered(one.exchange(), "resp_1", "fine")
    going_on, name = one.exchange(previous_response_id="resp_1", stream=stream), "resp_2"
    if stream:
        name = json.loads(BY_NAME["responses"].reply)["id"]
        one.streamed(going_on, BY_NAME["responses"].raw.replace(b"High tide", b"a bomb now"))
    else:
        one.answered(going_on, name, "a bomb")
    assert forwarded(other, other.exchange(previous_response_id=name)) == "resp_1"
    retrieval = other.exchange(previous_response_id=name)
    request = wire.parse_request(f"/v1/responses/{name}", b"")
    review = asyncio.run(other.pipeline.review_request(replace(retrieval, request=request)))
    got = asyncio.run(other.pipeline.review_reply(review.exchange, response(name, "harmless by itself")))
    assert got.action == "block"


def test_a_state_that_is_down_leaves_each_process_its_own() -> None:
    """A process still knows what it has seen itself; what another one has seen is unknown, never judged harmless."""
    state = MemoryState()
    one, other = Talk(state), Talk(state)
    state.down = True
    one.answered(one.exchange(), "resp_1", "fine")
    assert not one.refused(one.exchange(previous_response_id="resp_1"))
    state.down = False
    assert other.refused(other.exchange(previous_response_id="resp_1"))
