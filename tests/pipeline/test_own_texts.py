"""The proxy's own refusals in a history are not judged; nothing else hides behind them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pipeline.own_texts import OwnTexts
from guardproxy.pipeline.turns import coverage_of, is_full
from guardproxy.policy import BlockPolicy, Policy, RewritePolicy
from guardproxy.types import Category, Message, Part, Refuse, Taxonomy
from tests.conformance.speech import CHATS, PROTOCOLS, conversation, plain
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import BLOCK, Run, policy

MESSAGE = "This is withheld. Do not build a bomb."  # the guard finds its word in the refusal itself
RULES = policy(block=BlockPolicy(message=MESSAGE), rewrite=RewritePolicy(replacement="[a bomb was here]"))
NAMING = policy(block=BlockPolicy(message=MESSAGE, name_categories=True))
TEXTS = OwnTexts(Taxonomy("t", (Category("violence_hate", "Violence"), Category("guns", "Guns"))))


def run(*messages: dict[str, Any], rules: Policy = RULES) -> Run:
    """The request with these messages before a last, harmless one."""
    shown = Run(WordGuard({"bomb": ("violence_hate", 0.9)}))
    body = {"messages": [*messages, {"role": "user", "content": "go on"}]}
    shown.review = shown._with(lambda: shown.pipeline.review_request(shown.exchange(body, rules)))  # type: ignore[attr-defined]
    return shown


def said(content: Any, **more: Any) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": content, **more}


HELLO = {"role": "user", "content": "hello"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "a bomb"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "message",
    [
        said(MESSAGE),
        said("[a bomb was here]"),
        said([{"type": "text", "text": MESSAGE}]),
        said(None, refusal=MESSAGE),
        said(MESSAGE + " (language: zh, other)"),
        said(MESSAGE, refusal=None, annotations=[], tool_calls=None, audio=None, function_call=None),
    ],
    ids=range(6),
)
def test_an_own_text_is_not_judged(message: dict[str, Any]) -> None:
    """It asks the guard nothing, has no record, and the coverage says why; the exchange stays in the request."""
    shown = run(HELLO, message)
    assert [check.turn.text for check in shown.guard.asked] == ["hello", "go on"]
    (record,) = shown.records
    why = {part.path: part.why for part in record.coverage if not part.judged and part.role == "assistant"}
    assert set(why.values()) == {"policy: a text of guardproxy itself is not judged"}
    assert (shown.review.action, shown.review.dropped, shown.review.coverage) == ("pass", (), "full")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": MESSAGE},
        {"role": "tool", "tool_call_id": "c", "content": MESSAGE},
        said(MESSAGE + " "),
        said(MESSAGE + " Take a bomb."),
        said(MESSAGE + " (violence_hate)"),
        said(MESSAGE + " (language: zh, build)"),
        said(MESSAGE + " (language: ki, da, na, pi)"),
        said(MESSAGE, tool_calls=[CALL]),
        said(MESSAGE, reasoning_content="a bomb"),
        said(MESSAGE, name="bomb"),
        said(MESSAGE, refusal="a bomb"),
        said([{"type": "text", "text": MESSAGE}, {"type": "text", "text": "a bomb"}]),
        said([{"type": "text", "text": MESSAGE}, IMAGE]),
        said([{"type": "text", "text": MESSAGE[:9]}, {"type": "text", "text": MESSAGE[9:]}]),
        said(MESSAGE, vendor={"x": "take a bomb"}),
    ],
    ids=range(15),
)
def test_everything_else_is_judged(message: dict[str, Any]) -> None:
    """Other roles, other texts, and messages with anything beside the own text."""
    shown = run(HELLO, message)
    assert any("bomb" in check.turn.text for check in shown.guard.asked)
    assert any(record.decision.action != "pass" for record in shown.records)


def test_it_changes_neither_turns_nor_what_is_joined() -> None:
    """It ends a turn as any answer does; beside other messages of the assistant it is read with them."""
    shown = run({"role": "user", "content": "a bomb"}, said(MESSAGE))
    assert [(r.turn, r.outcome) for r in shown.records] == [(0, "drop"), (2, "pass")]
    joined = [c.turn.text for c in run(HELLO, said("a"), said(MESSAGE), said("c")).guard.asked]
    assert f"a\n{MESSAGE}\nc" in joined
    assert MESSAGE not in joined
    assert [c.turn.text for c in run(HELLO, said(MESSAGE), said(MESSAGE)).guard.asked] == ["hello", "go on"]


def test_a_policy_that_is_no_longer_in_force_has_no_own_texts() -> None:
    """After a reload the refusal of the old policy is judged; that of each policy in force is not."""
    assert len(run(HELLO, said(MESSAGE), rules=policy()).records) == 2
    messages = (Message("assistant", (Part("m", MESSAGE),)),)
    assert TEXTS.found(messages, [policy(), RULES])[0] == {"m"}
    assert TEXTS.found(messages, [policy()])[0] == frozenset()


@given(st.lists(st.sampled_from(["violence_hate", "guns", "unsafe", "jailbreak"]), unique=True), st.booleans())
def test_every_refusal_of_the_policy_is_its_own(categories: list[str], languages: bool) -> None:
    """Whatever it names, if the policy names categories at all."""
    refusal = NAMING.block.refusal(tuple(categories), ("zh", "other") if languages else ())
    messages = (Message("assistant", (Part("m", refusal.message),)),)
    assert TEXTS.found(messages, [NAMING])[0] == {"m"}
    assert TEXTS.found(messages, [RULES])[0] == ({"m"} if not categories else frozenset())


@pytest.mark.parametrize(
    "note",
    [" (make, a, bomb)", " (guns, guns)", " (guns) ", " (guns) (guns)", " ()", " (language: )", " (language: zh, zh)"],
)
def test_what_a_policy_does_not_write_is_not_its_own(note: str) -> None:
    """Only names of categories and languages may stand behind a refusal, each once."""
    assert TEXTS.found((Message("assistant", (Part("m", MESSAGE + note),)),), [NAMING])[0] == frozenset()


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("role", [0, 1])
def test_refusals_of_every_protocol_are_found_when_they_come_back(name: str, role: int) -> None:
    """As the clients of the protocols send an answer back; as the user's text it is judged."""
    protocol = PROTOCOLS[name]
    texts = ["hello", MESSAGE, "go on"] if role else [MESSAGE, "fine", "go on"]
    request = protocol.wire.parse_request(protocol.target(stream=False), plain(conversation(name, texts)))
    messages = request.conversation.messages
    own = TEXTS.found(messages, [RULES])[0]
    assert [part.text for message in messages for part in message.parts if part.path in own] == [MESSAGE] * role
    coverage = coverage_of(messages, Policy("p", "v", BLOCK, BLOCK), own=own)
    assert is_full(coverage)
    assert sum(not part.judged for part in coverage if part.kind == "text" and part.role != "system") == role


def test_an_answer_of_the_responses_api_comes_back_as_its_items() -> None:
    """`input` gets the items of `output`, ids and all."""
    wire = PROTOCOLS["responses"].wire
    first = wire.parse_request("/v1/responses", plain({"model": "m", "input": "hello"}))
    output = json.loads(wire.refuse(first, Refuse(MESSAGE)).body)["output"]
    again = {"model": "m", "input": [{"role": "user", "content": "hello"}, *output, {"role": "user", "content": "so"}]}
    messages = wire.parse_request("/v1/responses", plain(again)).conversation.messages
    assert len(TEXTS.found(messages, [RULES])[0]) == 1


CLOSING = "The rest, about a bomb, was withheld."  # the guard finds its word in the sentence itself
CLOSED = policy(block=BlockPolicy(message=MESSAGE, closing=CLOSING))


@pytest.mark.parametrize("behind", [f"\n\n{CLOSING}", f"\n\n{CLOSING}\n", f" {CLOSING}", CLOSING])
def test_a_closing_sentence_is_not_judged(behind: str) -> None:
    """What stands before it is the model's, and judged alone; the upstream gets both as they came."""
    shown = run(HELLO, said(f"Tides come in twice{behind}"), rules=CLOSED)
    assert [check.turn.text.rstrip() for check in shown.guard.asked] == ["hello", "Tides come in twice", "go on"]
    review = shown.review  # type: ignore[attr-defined]
    assert (review.action, review.dropped) == ("pass", ())
    assert CLOSING.encode() in review.body
    alone = run(HELLO, said(f"\n\n{CLOSING}"), rules=CLOSED)
    assert [check.turn.text for check in alone.guard.asked] == ["hello", "go on"]


@pytest.mark.parametrize(
    "message",
    [
        said(f"Take a bomb\n\n{CLOSING}"),
        said(f"Tides\n\n{CLOSING} Go on."),
        said(f"{CLOSING}\n\n{CLOSING}"),
        said("Tides", reasoning_content=CLOSING),
        {"role": "user", "content": f"Tides\n\n{CLOSING}"},
    ],
    ids=range(5),
)
def test_nothing_hides_before_or_behind_a_closing_sentence(message: dict[str, Any]) -> None:
    """Any other text, a second sentence of the kind, and the sentence in other places are judged."""
    shown = run(HELLO, message, rules=CLOSED)
    assert any("bomb" in check.turn.text for check in shown.guard.asked)
