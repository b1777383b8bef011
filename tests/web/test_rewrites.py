"""The rewrites that change what the model is asked: `steer` and `regenerate`, in every protocol, whole and streamed."""

import json
from dataclasses import replace
from typing import Any

import pytest

from guardproxy.localtext import LocalText
from guardproxy.policy import BlockPolicy, PolicySet, RewritePolicy, Rule, SideRules
from guardproxy.types import Check, Finding, Verdict
from tests.kit import ListSink, Scripted, WordGuard
from tests.web.alone import Alone
from tests.web.kit import policy
from tests.wires.kit import CASES, Case

NOTHING = SideRules({"*": ()})
STEERS = SideRules({"privacy": (Rule("rewrite", 0.5, "steer"),), "weapons": (Rule("block", 0.5),)})
REGENERATES = SideRules({"weapons": (Rule("rewrite", 0.5, "regenerate"),), "hate": (Rule("block", 0.5),)})
KIND = "Be kind, and name help."
TOLD = RewritePolicy(instructions={"*": LocalText({"*": KIND, "de": "Sei nett."})}, retry_instruction="Once more.")
STREAMED = [True, False]


def policies(**changes: Any) -> PolicySet:
    """A policy that steers secrets in requests, and regenerates replies with poison."""
    rules = {"user": STEERS, "assistant": REGENERATES, "rewrite": TOLD, **changes}
    return PolicySet({"default": policy(**rules)})


class LaterGuard(WordGuard):
    """Finds poison in the first replies: until the upstream was asked for `harmless` ones."""

    def __init__(self, alone: list[Alone], harmless: int) -> None:
        super().__init__({"Hello": ("privacy", 0.9)})
        self._alone = alone
        self._harmless = harmless

    async def judge(self, check: Check) -> Verdict:
        """The verdict by words on a request, and by the number of requests on a reply."""
        if check.side == "user":
            return await super().judge(check)
        found = 0.9 if len(self._alone[0].seen) < self._harmless else 0.0
        return Verdict(found, (Finding("weapons", found),), self.name)


def script(case: Case, *, streamed: bool) -> Scripted:
    """The recorded reply of a case."""
    if streamed:
        return Scripted([case.raw], headers={"content-type": case.content_type})
    return Scripted([case.reply])


def asked(case: Case, *, streamed: bool) -> tuple[bytes, str, bytes]:
    """The body, the path and the query of a request, for a stream or a whole reply."""
    path, _, query = case.path.partition("?")
    if case.wire.name == "gemini":
        path = path if streamed else path.replace("streamGenerateContent", "generateContent")
        return json.dumps(case.body).encode(), path, query.encode() if streamed else b""
    return json.dumps({**case.body, "stream": streamed}).encode(), path, b""


def guarded(case: Case, *, streamed: bool, harmless: int, sink: ListSink, **changes: Any) -> Alone:
    """A proxy whose upstream gives the same reply each time, of which the guard passes the `harmless`th."""
    found: list[Alone] = []
    guard = LaterGuard(found, harmless)
    found.append(
        Alone(script(case, streamed=streamed), guard=guard, policies=policies(**changes), sinks={"list": sink})
    )
    return found[0]


each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both = pytest.mark.parametrize("streamed", STREAMED, ids=["streamed", "whole"])


def original(case: Case, *, streamed: bool) -> bytes:
    """What a client gets if the reply passes."""
    alone = Alone(script(case, streamed=streamed))
    body, path, query = asked(case, streamed=streamed)
    return alone.ask(body, path, query=query).body


@each
@both
def test_a_steered_turn_goes_on_with_an_instruction(case: Case, streamed: bool) -> None:
    """Once, beside the client's own words, which stay; the reply is the upstream's; the audit says what was done."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=0, sink=sink)
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert got.body == original(case, streamed=streamed)
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("rewrite", "privacy")
    (seen,) = alone.seen
    assert seen.body.count(KIND.encode()) == 1
    assert b"Hello there." in seen.body
    record = sink.records[0]
    assert (record.decision.how, record.outcome, record.text) == ("steer", "steer", "Hello there.")


@each
@both
def test_a_withheld_reply_is_asked_for_again(case: Case, streamed: bool) -> None:
    """The client gets the second reply byte for byte, and nothing of the first; the records name both."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=2, sink=sink, user=NOTHING)
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert got.body == original(case, streamed=streamed)
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("rewrite", "weapons")
    first, second = alone.seen
    assert first.body == body
    assert second.body.count(b"Once more.") == 1
    assert (second.method, second.target) == (first.method, first.target)
    replies = [record for record in sink.records if record.side == "assistant"]
    said = [(r.decision.action, r.outcome, r.reply and r.reply.attempt) for r in replies]  # of each choice
    assert [*dict.fromkeys(said)] == [("rewrite", "refuse", 1), ("pass", "pass", 2)]
    assert alone.metric('replies_asked_again_total{result="passed"}') == 1


@each
@both
def test_after_the_last_try_the_reply_is_blocked(case: Case, streamed: bool) -> None:
    """The client gets a refusal in its protocol, as if there had been one reply; no harmful text is in it."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=9, sink=sink, user=NOTHING, rewrite=replace(TOLD, tries=2))
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert len(alone.seen) == 3
    assert [seen.body.count(b"Once more.") for seen in alone.seen] == [0, 1, 1]
    assert BlockPolicy().message.encode() in got.body
    begun = streamed and case.name != "gemini-array"  # the headers of a stream leave before its last verdict
    assert got.header("x-guardproxy-action") == ("rewrite" if begun else "block")
    assert [*dict.fromkeys(r.reply.attempt for r in sink.records if r.reply)] == [1, 2, 3]
    assert all(record.outcome == "refuse" for record in sink.records if record.side == "assistant")
