"""Turns that come again with every later request of a chat: one record, one session."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.errors import JudgingTooLong
from guardproxy.observe import Metrics, Observers
from guardproxy.observe.masking import INFERRED
from guardproxy.observe.records import masked_record
from guardproxy.pipeline import Exchange, Pipeline, RequestReview
from guardproxy.pipeline.conversations import Conversations, prefixes_of
from guardproxy.pipeline.recording import Recorder
from guardproxy.pipeline.request_judging import judge_request
from guardproxy.policy import JudgeScope, Policy, Rule, SideRules
from guardproxy.registry import load
from guardproxy.types import Check, Conversation, Message, Origin, Part, Record, Verdict
from guardproxy.wires.openai_chat import wire
from guardproxy.wires.openai_responses import wire as responses
from tests.kit import ListSink, WordGuard, eventually
from tests.pipeline.test_pipeline import frame, frames, played, reply
from tests.pipeline.test_resumed import response

WORDS = {"bomb": ("violence_hate", 0.9), "knife": ("violence_hate", 0.6), "poison": ("criminal_planning", 0.6)}
RULES = SideRules({"*": (Rule("flag", 0.5), Rule("block", 0.8))})
POLICY = Policy("default", "v1", RULES, RULES)
STRICT = Policy("strict", "v1", SideRules({"*": (Rule("block", 0.5),)}), RULES)
REFUSAL = POLICY.block.message


class ShakySink(ListSink):
    """A sink that fails while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.attempts = 0
        self.slow = asyncio.Event()
        self.slow.set()

    async def write(self, records: Sequence[Record]) -> None:
        self.attempts += bool(records)
        await self.slow.wait()
        if self.fails and records:
            raise OSError("the disk is full")
        await super().write(records)


class BusyGuard(WordGuard):
    """A guard to which a text with LONG is too long."""

    async def judge(self, check: Check) -> Verdict:
        if "LONG" in check.turn.text:
            raise JudgingTooLong("told so")
        return await super().judge(check)


class Proxy:
    """A pipeline whose requests come one after the other, and its records."""

    def __init__(self, *, required: bool = True, infer: bool = True, queue_size: int = 10_000) -> None:
        self.sink, self.guard = ShakySink(), BusyGuard(WORDS)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.observers = Observers(
            {"list": self.sink}, metrics=metrics, text="full", required=required, queue_size=queue_size
        )
        actions = {name: load(name, REGISTRY, "action") for name in REGISTRY}
        self.pipeline = Pipeline(self.guard, self.observers, metrics, actions, infer_sessions=infer)
        self.number = 0

    async def __aenter__(self) -> Self:
        await self.observers.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pipeline.close(5)
        await self.observers.close()

    async def ask(self, *texts: str, rules: Policy = POLICY, **more: Any) -> RequestReview:
        """Send a chat whose messages are the user's and the assistant's in turn."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return await self.send(messages, rules, **more)

    async def send(self, messages: list[dict[str, Any]], rules: Policy = POLICY, **more: Any) -> RequestReview:
        self.number += 1
        body = json.dumps({"model": "m", "messages": messages, "tools": more.pop("tools", [])}).encode()
        request = wire.parse_request("/v1/chat/completions", body)
        changes = {key: more.pop(key) for key in ("client", "user", "session") if key in more}
        origin = replace(Origin(f"r{self.number}", "default", wire.name, "u", "m", "c"), **changes)
        return await self.pipeline.review_request(Exchange(wire, request, origin, rules, **more))

    async def written(self) -> None:
        """Wait until what is queued is written, or is being written to a slow sink."""
        (queue,) = self.observers._queues
        if self.sink.slow.is_set():
            await eventually(lambda: not queue._work_available.is_set())
        else:
            await eventually(lambda: self.sink.attempts)

    def told(self) -> list[tuple[str, int, str, str]]:
        """Request, turn, action and outcome of every record that is not of a passed turn."""
        return [
            (r.origin.request_id, r.turn, r.decision.action, r.outcome)
            for r in self.sink.records
            if r.decision.action != "pass" or r.error
        ]

    def counted(self, action: str, name: str = "guardproxy_decisions_total") -> float:
        found = [one for metric in self.registry.collect() for one in metric.samples if one.name == name]
        return sum(one.value for one in found if (one.labels["side"], one.labels["action"]) == ("user", action))


CHAT = ("hello", "hi", "a knife", "yes", "a bomb", REFUSAL, "thanks", "sure", "bye")


@pytest.mark.parametrize("required", [True, False])
def test_a_resent_chat_has_one_record_for_each_turn(required: bool) -> None:
    """A flagged turn and a blocked one are recorded when they are sent, and never again; metrics count the same."""

    async def run() -> Proxy:
        async with Proxy(required=required) as proxy:
            for length in range(1, len(CHAT) + 1, 2):
                await proxy.ask(*CHAT[:length])
        return proxy

    proxy = asyncio.run(run())
    assert proxy.told() == [("r2", 2, "flag", "pass"), ("r3", 4, "block", "refuse")]
    assert (proxy.counted("flag"), proxy.counted("block"), proxy.counted("pass")) == (1, 1, 3)
    assert [(r.origin.request_id, r.turn) for r in proxy.sink.records] == [
        *(("r1", 0), ("r2", 2), ("r3", 4), ("r4", 6), ("r5", 8)),
    ]
    assert len({r.origin.session for r in proxy.sink.records}) == 1


def test_the_current_turn_is_always_recorded() -> None:
    """The same request sent again is another request."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            for _ in range(3):
                await proxy.ask("a bomb")
        return proxy

    proxy = asyncio.run(run())
    assert len(proxy.told()) == 3
    assert len({r.origin.session for r in proxy.sink.records}) == 3


def test_the_same_text_elsewhere_is_no_repeat() -> None:
    """Another conversation, another place in it, another client, user or session: each has a record of its own."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.ask("a knife")
            await proxy.ask("a knife", "yes", "so")  # r2: known
            await proxy.ask("hello", "hi", "a knife", "yes", "so")
            await proxy.ask("a knife", "no", "a knife", "yes", "so")  # the second one is new
            await proxy.ask("a knife", "yes", "so", client="other")
            await proxy.ask("a knife", "yes", "so", user="ann")
            await proxy.ask("a knife", "yes", "so", session="s")
            await proxy.ask("a knife", "yes", "so", session="s")
        return proxy

    assert [(request, turn) for request, turn, _, _ in asyncio.run(run()).told()] == [
        *(("r1", 0), ("r3", 2), ("r4", 2), ("r5", 0), ("r6", 0), ("r7", 0)),
    ]


def test_another_decision_is_recorded() -> None:
    """A stricter policy in force, a guard that fails, another policy: what is decided anew has a record, once."""
    reloaded = replace(STRICT, name="default", version="v2")

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.ask("a knife")
            await proxy.ask("a knife", "yes", "so", rules=replace(POLICY, version="v2"))  # decides the same
            for _ in range(2):
                await proxy.ask("a knife", "yes", "so", rules=reloaded)
            for _ in range(2):
                await proxy.ask("a knife", "yes", "so", rules=STRICT)
            proxy.guard.words = {}
            await proxy.ask("a knife", "yes", "so", rules=reloaded)
            await proxy.ask("FAIL", rules=replace(POLICY, on_guard_error="allow"))
            await proxy.ask("FAIL", "yes", "so", rules=replace(POLICY, on_guard_error="allow"))
            await proxy.ask("FAIL", "yes", "so", rules=replace(POLICY, on_guard_error="block"))
        return proxy

    assert asyncio.run(run()).told() == [
        ("r1", 0, "flag", "pass"),
        ("r3", 0, "block", "drop"),
        ("r5", 0, "block", "drop"),
        ("r8", 0, "pass", "pass"),
        ("r10", 0, "block", "drop"),
    ]


@pytest.mark.parametrize(("history", "records"), [("drop", 1), ("allow", 2), ("block", 1)])
def test_a_refused_turn_that_comes_again_is_no_news(history: Any, records: int) -> None:
    """It was withheld when it was sent. That the model gets it as history, if the policy allows that, is news once."""
    rules = replace(POLICY, history=history)

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.ask("a bomb", rules=rules)
            for _ in range(3):
                await proxy.ask("a bomb", REFUSAL, "so", rules=rules)
        return proxy

    assert [(turn, action) for _, turn, action, _ in asyncio.run(run()).told()] == [(0, "block")] * records


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("required", [True, False])
def test_a_turn_that_was_withheld_and_is_forwarded_later_is_news(answered: bool, required: bool) -> None:
    """A harmful message beside it takes it out of the first request. Without that one, the model gets it."""
    beside = [{"role": "user", "content": text} for text in ("a knife", "a bomb")]
    rest = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]

    async def run() -> Proxy:
        async with Proxy(required=required) as proxy:
            await proxy.send([*beside, *rest] if answered else beside, session="s")
            for messages in ([beside[0], *rest], [beside[0], *rest], [*beside, *rest]):
                await proxy.send(messages, session="s")
        return proxy

    told = [one for one in asyncio.run(run()).told() if one[2] == "flag"]
    assert told == [("r1", 0, "flag", "drop" if answered else "pass"), ("r2", 0, "flag", "pass")]


def test_a_turn_of_a_request_that_could_not_be_judged_is_news_when_it_is_forwarded() -> None:
    """A text of the history that takes too long to judge refuses the whole request."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            with pytest.raises(JudgingTooLong):
                await proxy.ask("a knife", "yes", "LONG", "yes", "so", session="s")
            for _ in range(2):
                await proxy.ask("a knife", "yes", "so", session="s")
        return proxy

    told = [one for one in asyncio.run(run()).told() if one[2] == "flag"]
    assert told == [("r1", 0, "flag", "pass"), ("r2", 0, "flag", "pass")]


def test_unreadable_content_of_a_system_message_is_no_repeat_of_the_message_before() -> None:
    """The texts of a system message that is not judged are left out of the hash of a conversation, its images not."""
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    user = {"role": "user", "content": image}
    rest = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.send([user, *rest], session="s")
            await proxy.send([user, {"role": "system", "content": image}, *rest], session="s")
        return proxy

    assert asyncio.run(run()).told() == [("r1", 0, "flag", "pass"), ("r2", 1, "flag", "pass")]


def test_shadow_policies_are_recorded_once_too() -> None:
    """Neither the shadow's decision comes again; another one of it does, with that of the acting policy."""
    other = replace(STRICT, user=SideRules({}))

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.ask("a knife", shadow=(STRICT,))
            for shadow in (STRICT, other, other):
                await proxy.ask("a knife", "yes", "so", shadow=(shadow,))
        return proxy

    records = [r for r in asyncio.run(run()).sink.records if r.turn == 0]
    assert [(r.origin.request_id, r.shadow, r.decision.action) for r in records] == [
        *(("r1", False, "flag"), ("r1", True, "block"), ("r3", False, "flag"), ("r3", True, "pass")),
    ]


def test_parts_and_joined_turns_come_once() -> None:
    """Several messages in a turn are judged alone and joined; an image in a history is flagged once."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    first = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "user", "content": "a knife"},
    ]
    later = [*first, {"role": "assistant", "content": "I see"}, {"role": "user", "content": "so"}]

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.send(first)
            for _ in range(2):
                await proxy.send(later)
        return proxy

    assert {request for request, *_ in asyncio.run(run()).told()} == {"r1"}


def called(number: int) -> list[dict[str, Any]]:
    """The call of a tool, and its result."""
    call = {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": f'{{"n": {number}}}'}}
    result = {"role": "tool", "tool_call_id": f"c{number}", "content": f"result {number} is a knife"}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}, result]


@pytest.mark.parametrize("prompt", ["find it", "a knife"])
def test_the_steps_of_an_agent_are_recorded_once(prompt: str) -> None:
    """The current turn comes again with the result of each call, in whole: what passed is no exception."""
    tools = [{"type": "function", "function": {"name": "f", "description": "finds"}}]

    async def run() -> Proxy:
        async with Proxy() as proxy:
            messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
            for number in range(4):
                await proxy.send(messages, tools=tools)
                messages += called(number)
        return proxy

    records = [(r.origin.request_id, r.side, r.turn) for r in asyncio.run(run()).sink.records]
    # Before the messages stands one with the definitions of the tools; no reply here has recorded the calls. Each
    # result is recorded alone and joined with what the turn had before.
    assert sorted(set(records)) == [
        ("r1", "user", 1),
        *(("r2", "assistant", 2), ("r2", "user", 3)),
        *(("r3", "assistant", 4), ("r3", "user", 5)),
        *(("r4", "assistant", 6), ("r4", "user", 7)),
    ]
    assert len(records) == 10


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_that_comes_back_is_recorded_as_a_reply_alone(streamed: bool) -> None:
    """The client sends the call with its result; both passed."""
    call, result = called(0)
    tools = [{"type": "function", "function": {"name": "f", "description": "finds"}}]
    choice = {"index": 0, "message": call, "finish_reason": "tool_calls"}
    head = {"id": "c", "created": 1, "model": "m"}
    whole = json.dumps({**head, "object": "chat.completion", "choices": [choice]}).encode()
    delta = {"role": "assistant", "tool_calls": [{"index": 0, **call["tool_calls"][0]}]}

    async def run() -> Proxy:
        async with Proxy() as proxy:
            review = await proxy.send([{"role": "user", "content": "find it"}], tools=tools)
            if streamed:
                pieces = [frame(**delta), frame(finish="tool_calls"), b"data: [DONE]\n\n"]
                stream = proxy.pipeline.review_stream(review.exchange, played(pieces), "text/event-stream")
                _ = [piece async for piece in stream]
            else:
                await proxy.pipeline.review_reply(review.exchange, whole)
            await proxy.send([{"role": "user", "content": "find it"}, call, result], tools=tools)
        return proxy

    records = [(r.origin.request_id, r.side, r.turn) for r in asyncio.run(run()).sink.records]
    assert sorted(set(records)) == [("r1", "assistant", 2), ("r1", "user", 1), ("r2", "user", 3)]


def test_what_stands_behind_the_last_answer_is_always_recorded() -> None:
    """Also with a prefill of the answer behind it, and with the same result of a tool sent twice."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            for _ in range(2):
                await proxy.ask("a knife", "Sure:")
            for _ in range(2):
                await proxy.send([{"role": "user", "content": "hello"}, *called(0)])
        return proxy

    told = sorted({(request, turn) for request, turn, *_ in asyncio.run(run()).told()})
    assert told == [("r1", 0), ("r2", 0), ("r3", 2), ("r4", 2)]


def test_the_coverage_of_a_repeat_is_in_its_own_record_alone() -> None:
    """Replay reads from a turn's coverage what no guard could read of this turn."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    first = [{"role": "user", "content": [{"type": "text", "text": "look"}, image]}]
    later = [*first, {"role": "assistant", "content": "I see"}, {"role": "user", "content": "so"}]

    async def run() -> Proxy:
        async with Proxy() as proxy:
            for messages in (first, later):
                await proxy.send(messages)
        return proxy

    records = asyncio.run(run()).sink.records
    assert [[part.why for part in r.coverage if not part.judged] for r in records] == [["opaque: image"], []]
    assert [part.path for part in records[-1].coverage] == ["messages[2].content", "messages[1].content"]


def test_a_flagged_turn_beside_one_that_is_refused_now_is_no_news() -> None:
    """Its exchange is left out for the other's sake, and the other's record says so."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    first = [{"role": "user", "content": "a knife"}, {"role": "user", "content": [image]}]
    later = [*first, {"role": "assistant", "content": "I see"}, {"role": "user", "content": "so"}]
    strict = replace(POLICY, on_opaque={"user": "block", "assistant": "flag"}, version="v2")

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.send(first)
            await proxy.send(later)
            review = await proxy.send(later, strict)
            assert review.dropped == (0, 1, 2)
        return proxy

    assert [told for told in asyncio.run(run()).told() if told[0] != "r1"] == [("r3", 1, "block", "drop")]


def test_system_prompts_that_change_do_not_make_another_conversation() -> None:
    """Many hold the time. Where the policy judges them, they are part of the conversation."""

    async def run(rules: Policy) -> Proxy:
        async with Proxy() as proxy:
            for minute in range(3):
                system = {"role": "system", "content": f"it is 12:0{minute}"}
                chat = [{"role": "user", "content": "a knife"}]
                chat += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}] if minute else []
                await proxy.send([system, *chat], rules)
        return proxy

    assert {request for request, *_ in asyncio.run(run(POLICY)).told()} == {"r1"}
    everyone = replace(POLICY, judge=JudgeScope(("system", "tool", "user")))
    assert {request for request, *_ in asyncio.run(run(everyone)).told()} == {"r1", "r2", "r3"}


# --- what the sinks do -----------------------------------------------------------------------------------------------


def test_a_record_that_was_not_stored_is_made_again() -> None:
    """With a failing sink each later request records the turn, until one record is stored."""

    async def run() -> Proxy:
        async with Proxy(required=False) as proxy:
            proxy.sink.fails = True
            await proxy.ask("a knife")
            await proxy.written()  # three attempts
            await proxy.ask("a knife", "yes", "so")
            await proxy.written()
            assert proxy.sink.attempts == 6
            proxy.sink.fails = False
            for _ in range(2):
                await proxy.ask("a knife", "yes", "so")
                await proxy.written()
        return proxy

    assert asyncio.run(run()).told() == [("r3", 0, "flag", "pass")]


def test_a_dropped_record_is_made_again() -> None:
    """A full queue drops; the turn is not forgotten."""

    async def run() -> Proxy:
        async with Proxy(required=False, queue_size=1) as proxy:
            proxy.sink.slow.clear()
            await proxy.ask("x")
            await proxy.written()  # being written
            await proxy.ask("y")  # waits
            await proxy.ask("a knife")  # dropped
            proxy.sink.slow.set()
            await proxy.written()
            await proxy.ask("a knife", "yes", "so")  # its first record fills the queue
            await proxy.written()
        return proxy

    assert asyncio.run(run()).told() == [("r4", 0, "flag", "pass")]


@pytest.mark.parametrize("fails", [True, False])
def test_a_repeat_waits_for_a_record_that_is_being_written(fails: bool) -> None:
    """The next request comes before the write is done. If it fails, the repeat is recorded in its place, once."""

    async def run() -> Proxy:
        async with Proxy(required=False) as proxy:
            proxy.sink.slow.clear()
            await proxy.ask("a knife")
            await proxy.ask("a knife", "yes", "so")
            await proxy.ask("a knife", "yes", "so")
            await proxy.written()
            proxy.sink.fails = fails
            proxy.sink.slow.set()
            await eventually(lambda: proxy.sink.attempts == (3 if fails else 1))
            proxy.sink.fails = False
            await eventually(lambda: proxy.sink.records)
            await asyncio.sleep(0.5)  # a second record would come now
        return proxy

    assert asyncio.run(run()).told() == [("r2" if fails else "r1", 0, "flag", "pass")]


def test_a_repeat_does_not_wait_for_a_record_that_was_cancelled() -> None:
    """A request that is stopped while its records are queued has given some of them only; the next gives the rest."""
    turns = [text for number in range(100) for text in (f"a knife {number}", "yes")]

    async def run() -> Proxy:
        async with Proxy(required=False) as proxy:
            conversations = Conversations()
            recorder = Recorder(proxy.observers, Metrics(CollectorRegistry()), conversations)
            parts = [Part(f"messages[{i}].content", text) for i, text in enumerate(turns[:-1])]
            messages = tuple(Message(("user", "assistant")[i % 2], (part,)) for i, part in enumerate(parts))
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            request = wire.parse_request("/v1/chat/completions", json.dumps(body).encode())
            request = replace(request, conversation=Conversation(messages))
            exchange = await conversations.placed(Exchange(wire, request, Origin("r", "", "", "u", "m"), POLICY))
            judged = (await judge_request(proxy.pipeline.judging, exchange)).to_record

            def give() -> asyncio.Task[None]:
                return asyncio.create_task(recorder.record(exchange, judged, (), dropped=frozenset(), reply=None))

            first = give()
            while not proxy.counted("flag"):  # noqa: ASYNC110 - it must stop between two records
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            assert first.cancelled()
            await give()
            await proxy.written()
        return proxy

    assert {record.turn for record in asyncio.run(run()).sink.records} == set(range(0, 200, 2))


def test_a_required_record_is_there_before_the_answer() -> None:
    """A record on its way counts for nothing then: the answer of the second request waits for its own."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            proxy.sink.slow.clear()
            asking = [asyncio.ensure_future(proxy.ask("a knife"))]
            await asyncio.sleep(0.05)
            asking.append(asyncio.ensure_future(proxy.ask("a knife", "yes", "so")))
            await asyncio.sleep(0.05)
            proxy.sink.slow.set()
            await asyncio.gather(*asking)
        return proxy

    assert [request for request, *_ in asyncio.run(run()).told()] == ["r1", "r2"]


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_a_reply_that_comes_back_is_no_repeat_of_its_own(streamed: bool) -> None:
    """A flagged reply is recorded as a reply, and not again as a turn of the history."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            review = await proxy.ask("hello")
            if streamed:
                pieces = proxy.pipeline.review_stream(review.exchange, played(frames("a knife")), "text/event-stream")
                _ = [piece async for piece in pieces]
            else:
                await proxy.pipeline.review_reply(review.exchange, reply("a knife"))
            for _ in range(2):
                await proxy.ask("hello", "a knife", "so")
            await proxy.ask("hello", "the poison", "so")  # nobody here has answered that
        return proxy

    assert asyncio.run(run()).told() == [("r1", 1, "flag", "pass"), ("r4", 1, "flag", "pass")]


# --- sessions --------------------------------------------------------------------------------------------------------


def sessions(*chats: tuple[str, ...], infer: bool = True, named: str = "") -> list[str]:
    """The session of each request of these chats; "-" answers with "fine"."""

    async def run() -> Proxy:
        async with Proxy(infer=infer) as proxy:
            for texts in chats:
                review = await proxy.ask(*texts, session=named)
                await proxy.pipeline.review_reply(review.exchange, reply(f"fine {proxy.number}"))
        return proxy

    by_request = {r.origin.request_id: r.origin.session for r in asyncio.run(run()).sink.records}
    return list(by_request.values())


def test_requests_that_continue_each_other_share_a_session() -> None:
    """The longest known beginning counts; a request that continues nothing begins a session."""
    first, second, third, other = sessions(("a",), ("a", "fine 1", "b"), ("a", "fine 1", "b", "x", "c"), ("z",))
    assert first == second == third != other
    assert first.startswith(INFERRED)


def test_beginnings_that_several_have_link_nothing() -> None:
    """Two people say hello; what each of them says next continues the answer that they got, not each other's chat."""
    ann, bob, ann_next, bob_next, unclear = sessions(
        ("hello",), ("hello",), ("hello", "fine 1", "so"), ("hello", "fine 2", "so"), ("hello", "?", "so")
    )
    assert ann == ann_next
    assert bob == bob_next
    assert len({ann, bob, unclear}) == 3


def test_a_request_that_names_a_reply_continues_it() -> None:
    """The upstream keeps the conversation (`previous_response_id`), so the request does not repeat it."""

    async def run() -> list[str]:
        found = []
        async with Proxy() as proxy:
            for number, more in enumerate([{}, {"previous_response_id": "resp_0"}, {"previous_response_id": "other"}]):
                body = json.dumps({"model": "m", "input": "go on", **more}).encode()
                request = responses.parse_request("/v1/responses", body)
                origin = Origin(f"r{number}", "default", responses.name, "u", "m", "c")
                review = await proxy.pipeline.review_request(Exchange(responses, request, origin, POLICY))
                await proxy.pipeline.review_reply(review.exchange, response(f"resp_{number}", "fine"))
                found.append(review.exchange.origin.session)
        return found

    first, second, third = asyncio.run(run())
    assert first == second != third


@pytest.mark.parametrize("rule", ["full", "redacted", "hash", "none"])
def test_masking_leaves_inferred_sessions_readable(rule: Any) -> None:
    """They say of themselves that they are inferred, under every rule of `audit.text`."""

    async def run() -> Proxy:
        async with Proxy() as proxy:
            await proxy.ask("a")
        return proxy

    (stored,) = asyncio.run(run()).sink.records
    assert masked_record(stored, rule).origin.session == stored.origin.session


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=3)), max_size=5), st.data())
def test_prefixes_tell_conversations_apart(written: list[tuple[Any, str]], data: Any) -> None:
    """Equal prefixes mean equal roles and texts up to there: no text of one message looks like two messages."""
    other = data.draw(st.lists(st.sampled_from([*written, ("user", "x"), ("user", "")]), max_size=5))

    def prefixes(chat: list[tuple[Any, str]]) -> tuple[bytes, ...]:
        messages = [Message(role, (Part(f"m{place}", text),)) for place, (role, text) in enumerate(chat)]
        return prefixes_of(messages, JudgeScope(), b"start")

    for length, (mine, its) in enumerate(zip(prefixes(written), prefixes(other), strict=False), 1):
        assert (mine == its) is (written[:length] == other[:length])


def test_prefixes_do_not_depend_on_how_a_text_is_cut() -> None:
    """Two parts are not one part with the same characters, and a kind is not a text."""
    scope = JudgeScope()
    several = [
        (Part("a", "one two"),),
        (Part("a", "one "), Part("b", "two")),
        (Part("a", "one two", "refusal"),),
        (Part("a", "one two", "opaque", "x"),),
        (Part("a", ""), Part("b", "one two")),
        (Part("a", "7 text 0 one two"),),
    ]
    assert len({prefixes_of([Message("user", parts)], scope, b"") for parts in several}) == len(several)


def test_a_named_session_stays_and_none_is_inferred_without_the_option() -> None:
    """`conversation` is the last place of the list, and may be left out of it."""
    assert set(sessions(("a",), ("a", "fine 1", "b"), named="s")) == {"s"}
    assert set(sessions(("a",), ("a", "fine 1", "b"), infer=False)) == {""}
