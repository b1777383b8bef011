"""Personal data in streams and requests: nothing of an entity leaves, and exactly the places are masked."""

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.actions.mask import masked, open_action
from guardproxy.families.pii import open_family
from guardproxy.families.pii.entities import BY_COUNTRY, GENERIC
from guardproxy.guards.rules import FinderGuard
from guardproxy.patterns import Hit
from guardproxy.pipeline.traits import GuardTraits
from guardproxy.policy import Policy, Rule, SideRules, StreamPolicy
from guardproxy.types import Decision, Message, Part, Reason, Refuse, Replace
from tests.pipeline.test_pipeline import TEXT, Run, content_of, finish, frames, policy
from tests.pipeline.test_stream_patterns import arrivals, blocking, released

pytest.importorskip("presidio_analyzer", reason="the extra pii is not installed")

AT = 0.4
FAMILY = open_family(entities=[*GENERIC, *BY_COUNTRY["us"], *BY_COUNTRY["de"]], phone_regions=("US", "DE"))
TRAITS = GuardTraits(FAMILY.reaches, has_model=False)
MASKS = SideRules({"*": (Rule("rewrite", AT, "mask"),)})
# Entities, their halves, what continues an entity to something else, and what stands between.
PIECES = (
    *("bob.smith@example.com", "bob", "@", "example.com", ".uk", "+49 30 1234567", "(212) 555-0100", "555-0100", "+49"),
    *(
        "4111 1111 1111 1111",
        "4111",
        "1111 ",
        "DE89 3704 0044 0532 0130 00",
        "DE89",
        " 2",
        "536-90-4399",
        "536-90",
        "-4399",
    ),
    *("203.0.113.7", "203.", "fe80::1%eth0/64", "::", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "00:1B:44:11:3A:B7"),
    *("phone ", "ssn: ", "passport ", "123456789", "x" * 45, " ", ", ", "\n", ". ", "\\n", "the ", TEXT),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
STREAMS = st.builds(StreamPolicy, every=st.sampled_from(["auto", 1, 7, 60]), lag=st.sampled_from([0, 40]))


def certain(text: str) -> list[Hit]:
    """The matches that reach the threshold."""
    return [hit for hit in FAMILY.hits(text) if hit.probability >= AT]


class Masking(Run):
    """A pipeline whose guard looks for personal data, and which masks them."""

    def __init__(self) -> None:
        super().__init__(FinderGuard("pii", FAMILY), traits=TRAITS)
        actions: Any = self.pipeline.judging.actions
        self.pipeline.use({**actions, "mask": partial(open_action, matches=FAMILY.hits)})


def rules(**changes: Any) -> Policy:
    """A policy that masks every match."""
    return policy(user=MASKS, assistant=MASKS, **changes)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 50), st.lists(st.integers(1, 3000), max_size=6), STREAMS)
def test_nothing_of_an_entity_is_released(text: str, size: int, splits: list[int], stream: StreamPolicy) -> None:
    """A reply with one ends before it; one without arrives byte for byte."""
    source = frames(text, size)
    blocks = blocking(assistant=SideRules({"*": (Rule("block", AT),)}), stream=stream)
    out = Run(FinderGuard("pii", FAMILY), traits=TRAITS).stream(arrivals(source, splits), blocks)
    if hits := certain(text):
        assert finish(out) == ["content_filter"]
        assert text.startswith(released(out))
        assert len(released(out)) <= hits[0].span[0]
    else:
        assert out == b"".join(source)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 50), st.lists(st.integers(1, 3000), max_size=6), STREAMS)
def test_a_stream_has_placeholders_for_its_entities(
    text: str, size: int, splits: list[int], stream: StreamPolicy
) -> None:
    """However its frames are cut; what is masked again has no entity, or the rest is withheld."""
    out = Masking().stream(arrivals(frames(text, size), splits), rules(stream=stream))
    shown = masked(text, certain(text))
    if certain(shown):  # a placeholder between two numbers may leave another number behind
        assert finish(out) == ["content_filter"]
    else:
        assert content_of(out) == shown
        assert finish(out) == ["stop"]


def test_without_a_reach_an_address_would_be_cut_in_two() -> None:
    """The properties above fail without the hold-back that they are about."""
    run = Run(FinderGuard("pii", FAMILY), traits=GuardTraits())
    blocks = blocking(assistant=SideRules({"*": (Rule("block", AT),)}), stream=StreamPolicy("window", every=1))
    out = run.stream(frames("write to bob@example.com now", 1), blocks)
    assert "bob" in released(out)


def test_requests_and_replies_are_masked() -> None:
    """The model reads the names of the entities, and so does the client; what is not certain stays."""
    text = "Pay 4111 1111 1111 1111, order 123456789, write to bob@example.com!"
    shown = "Pay [CREDIT_CARD], order 123456789, write to [EMAIL_ADDRESS]!"
    review = (of_request := Masking()).request(("user", text), rules=rules())
    assert shown.encode() in review.body
    reply = (of_reply := Masking()).reply(text, rules=rules())
    assert shown.encode() in reply.body
    assert [record.outcome for run in (of_request, of_reply) for record in run.records] == ["replace", "replace"]


@pytest.mark.parametrize(
    ("part", "outcome"),
    [
        (Part("p", '{"to": "bob@example.com"}', "tool_result"), Replace),
        (Part("p", '{"to": "bob@example.com"}', "tool_call"), Refuse),
        (Part("p", "to bob@example", "text"), Refuse),
    ],
)
def test_what_cannot_be_masked_is_refused(part: Part, outcome: type) -> None:
    """The arguments of a tool call, and what only a view of the text shows."""

    async def judge(message: Message) -> Decision:
        return Decision("pass", "", ())

    decision = Decision("rewrite", "mask", (Reason("pii_email_address", 1.0, AT, "rewrite"),))
    action = open_action(rules(), FAMILY.hits)
    assert isinstance(asyncio.run(action(Message("user", (part,)), decision, judge)), outcome)
