"""Which turns are judged, and what is dropped together with a turn."""

import pytest

from guardproxy.pipeline.turns import coverage_of, current_start, exchanges_of, is_full, joined_turn, turns_of
from guardproxy.policy import JudgeScope, Policy, SideRules
from guardproxy.types import Message, Part

POLICY = Policy("p", "v", SideRules({}), SideRules({}))


def chat(roles: str) -> list[Message]:
    """Messages from initials: s(ystem), u(ser), a(ssistant), t(ool)."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message(names[r], (Part(f"messages[{i}].content", f"{r}{i}"),)) for i, r in enumerate(roles)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "start"),
    [
        ("u", 0),
        ("uau", 2),
        ("uauu", 2),
        ("uaua", 2),  # a trailing assistant prefill hides nothing
        ("uaus", 2),
        ("uat", 0),  # the tool's answer belongs to the turn that called it
        ("suatau", 5),
        ("a", 0),
        ("", 0),
    ],
)
def test_where_the_current_turn_begins(roles: str, start: int) -> None:
    """The current turn follows the last assistant message that precedes a user message."""
    assert current_start(chat(roles)) == start


@pytest.mark.parametrize(("text", "start"), [("", 0), (" \n", 0), ("Fine.", 2)])
def test_an_empty_answer_parts_no_turn(text: str, start: int) -> None:
    """An empty assistant message does not separate two user messages."""
    first, answer, second = chat("uau")
    assert current_start([first, Message("assistant", (Part(answer.parts[0].path, text),)), second]) == start


def test_every_readable_role_is_judged() -> None:
    """User, tool and resent assistant turns are judged; system messages only if the policy says so."""
    messages = chat("suau")
    assert [turn.index for turn in turns_of(messages, JudgeScope())] == [1, 2, 3]
    assert [turn.current for turn in turns_of(messages, JudgeScope())] == [False, False, True]
    everyone = JudgeScope(("system", "user", "tool"))
    assert [turn.index for turn in turns_of(messages, everyone)] == [0, 1, 2, 3]
    assert [turn.current for turn in turns_of(messages, everyone)] == [True, False, False, True]


def test_opaque_content_is_seen_in_any_role() -> None:
    """A system message that is not judged is still a turn if it holds opaque content."""
    messages = [Message("system", (Part("x", "", "opaque", "image"),)), *chat("u")]
    assert [turn.index for turn in turns_of(messages, JudgeScope())] == [0, 1]


def test_split_turn_is_joined() -> None:
    """Two consecutive user messages are also judged as one text; a single message is not judged twice."""
    joined = joined_turn(chat("uauu"), JudgeScope(), {"messages[3].content": "new"})
    assert joined is not None
    assert (joined.context, joined.message.text) == (2, "u2\nnew")
    assert joined_turn(chat("uau"), JudgeScope(), {}) is None


@pytest.mark.parametrize(
    ("roles", "index", "gone"),
    [
        ("suauau", 1, {1, 2}),
        ("suauau", 2, {1, 2}),
        ("uatatau", 2, {0, 1, 2, 3, 4, 5}),
        ("uuau", 1, {0, 1, 2}),
        ("auau", 0, {0}),
        ("uasu", 1, {0, 1}),
    ],
)
def test_an_exchange_goes_together(roles: str, index: int, gone: set[int]) -> None:
    """Dropping a turn drops its whole exchange, so that no answer lacks its question, but no system message."""
    assert exchanges_of(chat(roles), [index]) == gone


def test_a_call_and_its_result_go_together() -> None:
    """A user message with a tool's result and other text belongs to the exchange of the call."""
    messages = chat("uauau")
    result = Part("messages[2].content[0].content", "result", "tool_result")
    messages[2] = Message("user", (result, *messages[2].parts))
    assert exchanges_of(messages, [2]) == {0, 1, 2, 3}
    assert exchanges_of(messages[:3], [0]) == {0, 1}  # the current turn is never left out


def test_coverage_says_why() -> None:
    """Coverage says of each part that it was judged, or why not; parts that the policy skips do not make it partial."""
    coverage = coverage_of(chat("su"), POLICY)
    assert [(item.judged, item.why) for item in coverage] == [
        (False, "policy: role system is not judged"),
        (True, ""),
    ]
    assert is_full(coverage)
    image = Message("user", (Part("p", "", "opaque", "image"),))
    assert not is_full(coverage_of([image], POLICY))
    assert not is_full(coverage_of(chat("u"), POLICY, failed=True))
