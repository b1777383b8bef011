"""Known histories: a request whose history is known is reviewed and recorded as if nothing were known."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guardproxy.observe.masking import text_hash
from guardproxy.pipeline import Exclusions
from guardproxy.pipeline.by_messages import ByMessages
from guardproxy.pipeline.known_history import KnownHistories, KnownHistory
from guardproxy.policy import JudgeScope, ThreadPolicy
from guardproxy.reviews import Exclusion
from guardproxy.types import Check, Message, Part, Verdict
from guardproxy.wires.shared.base import plain_message
from tests.kit import WORDS, WordGuard
from tests.pipeline.test_known_turns import Asked, reviews, said
from tests.pipeline.test_pipeline import Run, policy

POLICIES = [
    policy(),
    policy(history="block", thread=ThreadPolicy(turns=3)),
    policy(judge=JudgeScope(("system", "tool", "user")), thread=ThreadPolicy(turns=2)),
]
TEXTS = st.sampled_from(["hello", "hi there", "hello", "po", "ison", "", "a poison", "I cannot help with that."])
ROLES = st.sampled_from(["user", "assistant", "user", "assistant", "tool", "system"])
MESSAGES = st.tuples(ROLES, TEXTS).map(lambda pair: {"role": pair[0], "content": pair[1]})


def spoken(count: int, text: str = "hello") -> list[dict[str, Any]]:
    """A conversation of `count` messages, by the user and the assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": f"{text} {place}"} for place in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=4), st.lists(MESSAGES, min_size=1, max_size=4), st.integers(0, 2))
@example([], [{"role": "assistant", "content": "po"}, {"role": "user", "content": "ison"}], 1)
@example([{"role": "user", "content": "po"}], [{"role": "assistant", "content": "hi"}] * 2, 1)
def test_what_follows_a_known_history_is_judged_as_in_any_request(
    first: list[dict[str, Any]], then: list[dict[str, Any]], rules: int
) -> None:
    """Conversations with the same beginning, which is sent often enough to be known, and other policies between."""
    chat = [*first, *spoken(4)]
    ends = [[*then[:length], {"role": "user", "content": "bye"}] for length in range(len(then) + 1)]
    asked = [(chat[:length], POLICIES[rules]) for length in range(1, len(chat) + 1) for _ in range(3)]
    asked += [([*chat, *end], used) for end in ends for used in (POLICIES[rules], POLICIES[0], POLICIES[rules])]
    expected = [said(reviews(Run(WordGuard(WORDS)), one)[0]) for one in asked]
    assert [said(reviewed) for reviewed in reviews(Run(Asked(WordGuard(WORDS))), *asked)] == expected


def plain(count: int) -> list[Message]:
    """The messages of a conversation as wires read them."""
    read = [plain_message(message, f"messages[{n}]", message["role"]) for n, message in enumerate(spoken(count))]
    return [message for message in read if message is not None]


def test_a_history_is_found_by_its_messages_and_policies() -> None:
    histories, used = KnownHistories(), policy()
    messages = plain(5)
    assert messages == plain(5)
    assert all(one is other for one, other in zip(messages, plain(5), strict=True))
    known = KnownHistory(2, b"prefix", ())
    histories.keep(messages, used, (used,), known)
    assert histories.find(messages, used, (used,)) == known
    assert histories.find(plain(7), used, (used,)) == known
    assert histories.find(messages[:2], used, (used,)) is None  # nothing follows it
    assert histories.find(messages, replace(used), (used,)) is None
    assert histories.find(messages, used, (used, policy(name="other"))) is None
    others = [replace(message, parts=(replace(message.parts[0]),)) for message in messages]
    assert others == messages
    assert histories.find(others, used, (used,)) is None


@pytest.mark.parametrize("judge", [JudgeScope(("system", "user")), JudgeScope(("developer", "user"))])
def test_no_history_is_known_if_system_messages_are_judged(judge: JudgeScope) -> None:
    histories, used = KnownHistories(), policy(judge=judge)
    histories.keep(plain(5), used, (used,), KnownHistory(2, b"prefix", ()))
    assert histories.find(plain(5), used, (used,)) is None


def test_a_history_ends_before_a_user_who_says_something() -> None:
    """Otherwise the assistant's texts before and behind it are joined."""
    histories, used = KnownHistories(), policy()
    silent = plain_message({"role": "user", "content": " "}, "messages[2]", "user")
    assert silent is not None
    messages = [*plain(2), silent, *plain(5)[3:]]
    histories.keep(messages, used, (used,), KnownHistory(2, b"prefix", ()))
    assert histories.find(messages, used, (used,)) is None


@pytest.mark.parametrize("mode", ["drop", "block"])
def test_what_follows_a_known_history_in_another_conversation_is_joined_with_it(mode: Any) -> None:
    """The same history may go on with a user who says nothing: then the assistant's texts become one."""
    rules = policy(history=mode)
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "po"}]
    asked = [*history, {"role": "user", "content": " "}, {"role": "assistant", "content": "ison"}]
    asked.append({"role": "user", "content": "bye"})
    known = ([*history, {"role": "user", "content": "go on"}], rules)
    found = reviews(Run(Asked(WordGuard(WORDS))), known, known, known, (asked, rules))[-1]
    assert said(found) == said(reviews(Run(WordGuard(WORDS)), (asked, rules))[0])
    assert (found.refusal is not None, found.dropped != ()) == (mode == "block", mode == "drop")


def test_an_exclusion_that_ends_during_a_request_leaves_no_known_history() -> None:
    """What passed only because of it is judged without it from then on."""

    class Ending(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            if check.turn.text == "and then":
                exclusions.use("test", ())
            return await super().judge(check)

    exclusions, rules = Exclusions(), policy()
    exclusions.use("test", [Exclusion("1", text_hash("a poison"), "*", "a name", "ann", math.inf)])
    run = Run(Asked(Ending(WORDS)), exclusions=exclusions)
    chat = [{"role": "user", "content": "a poison"}, {"role": "assistant", "content": "hello"}]
    asked = [([*chat, {"role": "user", "content": text}], rules) for text in ("hi", "hi", "hi", "and then", "bye")]
    assert [review.dropped for review in reviews(run, *asked)] == [(), (), (), (), (0, 1)]


def test_the_least_recently_used_messages_are_forgotten_first() -> None:
    """They have at most 8 million characters together; longer messages are not kept."""
    kept = ByMessages[int]()
    texts = [Message("user", (Part("p", str(number).rjust(4000)),)) for number in range(3000)]
    for number, message in enumerate(texts):
        kept.keep("context", [message], number)
        kept.find("context", texts[:1])
    found = [kept.find("context", [message]) for message in texts]
    assert found[0] == 0
    assert found[1] is None
    assert found[-1] == 2999
    assert 2000 < sum(one is not None for one in found) < 2100
    long = Message("user", (Part("p", "x" * 5000),))
    kept.keep("context", [long], 1)
    assert kept.find("context", [long]) is None
    assert kept.find("other", texts[:1]) is None


def test_the_record_of_a_turn_behind_a_known_history_says_the_same() -> None:
    """It has the coverage of the whole request, and its thread reaches into the history."""
    rules, guard = policy(thread=ThreadPolicy(turns=3)), Asked(WordGuard(WORDS))
    run, fresh = Run(guard), Run(Asked(WordGuard(WORDS)))
    chat, last = spoken(6), {"role": "user", "content": "and then"}
    reviews(run, *[([*chat, {"role": "user", "content": "hello"}], rules)] * 4, ([*chat, last], rules))
    reviews(fresh, ([*chat, last], rules))
    assert guard.texts[-2:] == ["and then", "hello 2\nhello 4\nand then"]
    assert run.records[-1].coverage == fresh.records[-1].coverage
    assert len(run.records[-1].coverage) == 7
