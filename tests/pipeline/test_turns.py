"""Which turns are judged, and what is dropped together with a turn."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pipeline.turns import (
    CONTEXT_CHARACTERS,
    Turn,
    coverage_of,
    current_start,
    edited,
    exchanges_of,
    in_scope,
    is_full,
    joined_turns,
    recent_context,
    recent_context_starts,
    reply_turn,
    texts_after,
    turn_starts,
    turns_of,
    with_undecoded,
)
from guardproxy.policy import JudgeScope, Policy, SideRules
from guardproxy.types import Coverage, Edit, Message, Part, Replace

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


@pytest.mark.parametrize(
    ("part", "start"),
    [
        (Part("messages[1].content[0].text", "Fine."), 2),
        (Part("messages[1].refusal", "I cannot."), 2),
        (Part("messages[1].content[0].refusal", "I cannot."), 2),
        (Part("messages[1].audio.transcript", "Fine."), 2),
        (Part("messages[1].response", "Fine."), 2),
        (Part("", "Fine."), 2),
        (Part("messages[1].name", "Fine."), 0),
        (Part("messages[1].annotations[0].title", "Fine."), 0),
        (Part("messages[1].content[0].thinking", "Fine.", "reasoning"), 0),
        (Part("messages[1].tool_calls[0].function.arguments", "{1}", "tool_call"), 2),
        (Part("messages[1].content[0].output", "Fine.", "tool_result"), 2),
        (Part("messages[1].content[0]", "", "opaque", "image"), 2),
        (Part("messages[1].extra", "", "opaque", "unknown field"), 0),
    ],
)
def test_an_answer_is_text_that_a_template_shows(part: Part, start: int) -> None:
    """A message's own text, a refusal, a call or a picture separates two turns; a name or an unknown field does not."""
    first, _, second = chat("uau")
    assert current_start([first, Message("assistant", (part,)), second]) == start


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
    (joined,) = joined_turns(chat("uauu"), JudgeScope(), {"messages[3].content": "new"})
    assert (joined.context, joined.message.text) == (2, "u2\nnew")
    assert joined_turns(chat("uau"), JudgeScope(), {}) == []


@pytest.mark.parametrize(
    ("roles", "starts"),
    [("uau", [0, 2]), ("uuauau", [0, 3, 5]), ("uatau", [0, 4]), ("auau", [0, 1, 3]), ("uasuaua", [0, 2, 5]), ("", [0])],
)
def test_where_every_turn_begins(roles: str, starts: list[int]) -> None:
    """Every turn of the history begins as the current turn does: behind an answer, before a user message."""
    assert turn_starts(chat(roles)) == starts


def test_every_turn_of_several_messages_is_joined() -> None:
    """Also in the history, also the results of the tools that a turn calls; the current turn is last."""
    joined = joined_turns(chat("uuauatauu"), JudgeScope(), {})
    assert [(turn.index, turn.context, turn.current, turn.message.text) for turn in joined] == [
        (1, 0, False, "u0\nu1"),
        (5, 3, False, "u3\nt5"),
        (8, 7, True, "u7\nu8"),
    ]
    assert [turn.message.text for turn in joined_turns(chat("uuauatauu"), JudgeScope(("user",)), {})] == [
        "u0\nu1",
        "u7\nu8",
    ]


@pytest.mark.parametrize(
    ("roles", "runs"),
    [
        ("su", [("user", 0, True, "s0\nu1")]),
        ("ssa", [("system", 0, True, "s0\ns1")]),
        ("ssuuau", [("user", 0, False, "s0\ns1\nu2\nu3"), ("user", 0, False, "u2\nu3")]),
        ("sau", []),
        ("stu", [("user", 0, True, "t1\nu2")]),
        ("susu", [("user", 0, True, "s0\nu1"), ("user", 2, True, "s2\nu3"), ("user", 0, True, "u1\nu3")]),
        ("uasu", [("user", 2, True, "s2\nu3")]),
    ],
)
def test_system_messages_are_joined_with_the_user_messages_behind_them(roles: str, runs: list[Any]) -> None:
    """Some templates write them as one text. A policy that does not judge system messages joins none."""
    joined = joined_turns(chat(roles), JudgeScope(("system", "tool", "user")), {})
    assert [(turn.message.role, turn.context, turn.current, turn.message.text) for turn in joined] == runs
    assert not [turn for turn in joined_turns(chat(roles), JudgeScope(), {}) if "s" in turn.message.text]


def test_an_empty_answer_does_not_end_a_run_of_system_messages() -> None:
    """As in `turn_starts`, an assistant message that says nothing separates no texts."""
    first, answer, second = chat("sas")
    silent = Message("assistant", (Part(answer.parts[0].path, " "),))
    (joined,) = joined_turns([first, silent, second], JudgeScope(("system", "user")), {})
    assert joined.message.text == "s0\ns2"


def test_a_turn_of_one_message_hides_no_later_turn() -> None:
    """A first turn without a user's message is passed over, and the split turn after it is joined."""
    (joined,) = joined_turns(chat("auu"), JudgeScope(), {})
    assert (joined.index, joined.context, joined.message) == (
        2,
        1,
        Message("user", (Part("messages[1].content", "u1"), Part("messages[2].content", "u2"))),
    )


def test_only_messages_of_users_and_tools_are_joined() -> None:
    """Messages without parts and roles that the policy does not judge, such as the system's, are in no joined turn."""
    assert [turn.message.text for turn in joined_turns(chat("usu"), JudgeScope(), {})] == ["u0\nu2"]
    assert joined_turns(chat("su"), JudgeScope(), {}) == []
    assert joined_turns([Message("user", ()), *chat("u")], JudgeScope(), {}) == []
    assert joined_turns(chat("ut"), JudgeScope(("user",)), {}) == []


def test_an_answer_that_is_split_over_messages_is_joined() -> None:
    """Assistant messages are joined until a user or a tool says something between them, in the middle or at the end."""
    joined = joined_turns(chat("uaasau"), JudgeScope(), {})
    assert [(turn.index, turn.context, turn.message.role, turn.message.text) for turn in joined] == [
        (4, 1, "assistant", "a1\na2\na4")
    ]
    (last,) = joined_turns(chat("uaa"), JudgeScope(), {})
    assert (last.index, last.context, last.current, last.message.text) == (2, 1, True, "a1\na2")
    assert joined_turns(chat("uata"), JudgeScope(("user",)), {}) == []


def test_opaque_parts_are_in_no_joined_turn() -> None:
    """A joined turn has the readable parts of its messages."""
    first, second = chat("uu")
    picture = Part("messages[0].image", "", "opaque", "image")
    (joined,) = joined_turns([Message("user", (*first.parts, picture)), second], JudgeScope(), {})
    assert joined.message.parts == (*first.parts, *second.parts)


def test_undecoded_parts_are_not_covered() -> None:
    """A part whose encodings were not all decoded is unreadable in coverage and in the conversation."""
    (item,) = coverage_of(chat("u"), POLICY, undecoded={"messages[0].content"})
    assert (item.judged, item.why) == (False, "opaque: too many encodings")
    marked = with_undecoded(chat("uu"), {"messages[0].content"})
    readable = Part("messages[0].content", "u0")
    assert [message.parts for message in marked] == [
        (readable, Part("messages[0].content", "", "opaque", "too many encodings")),
        (Part("messages[1].content", "u1"),),
    ]


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


def test_skipped_kinds_are_not_reported_as_judged() -> None:
    """A kind that the policy skips is listed as not judged, for that reason; an opaque part by its own."""
    parts = (
        Part("a", "call", "tool_call"),
        Part("b", "think", "reasoning"),
        Part("c", "", "opaque", "image"),
        Part("d", "", "opaque"),
        Part("e", "text"),
    )
    policy = Policy("p", "v", SideRules({}), SideRules({}), judge=JudgeScope(skip=("tool_call", "reasoning")))
    assert coverage_of([Message("assistant", parts)], policy) == (
        Coverage("a", "assistant", "tool_call", 4, judged=False, why="policy: tool_call is not judged"),
        Coverage("b", "assistant", "reasoning", 5, judged=False, why="policy: reasoning is not judged"),
        Coverage("c", "assistant", "opaque", 0, judged=False, why="opaque: image"),
        Coverage("d", "assistant", "opaque", 0, judged=False, why="opaque: unreadable"),
        Coverage("e", "assistant", "text", 4, judged=True, why=""),
    )
    assert in_scope(Message("assistant", parts), policy.judge).parts == parts[2:]
    plain = Message("user", parts[4:])
    assert in_scope(plain, policy.judge) is plain


def test_a_whole_replacement_names_every_readable_part() -> None:
    """Parts that no edit names become empty, whatever their kind; an opaque part has no text to change."""
    parts = (Part("a", "one"), Part("b", "two"), Part("c", "", "opaque", "image"), Part("d", "call", "tool_call"))
    message = Message("user", parts)
    edits = (Edit("b", "new"),)
    assert texts_after(message, Replace(edits, whole=True)) == {"a": "", "b": "new", "d": ""}
    assert texts_after(message, Replace(edits)) == {"b": "new"}


def test_edited_messages_keep_their_places() -> None:
    """New texts go to the parts of their paths; a dropped message stays as an empty one."""
    messages = edited(chat("uau"), {"messages[2].content": "new"}, [1])
    assert [(message.role, message.text, len(message.parts)) for message in messages] == [
        ("user", "u0", 1),
        ("assistant", "", 0),
        ("user", "new", 1),
    ]


@given(st.lists(st.integers(0, CONTEXT_CHARACTERS), max_size=12))
def test_a_recent_context_is_as_long_as_its_bound_allows(sizes: list[int]) -> None:
    """A context is the longest run of messages before the turn that fits, with a frame of 32 characters each."""
    messages = [Message("user", (Part(str(index), "x" * size),)) for index, size in enumerate(sizes)]
    starts = recent_context_starts(messages)
    costs = [size + 32 for size in sizes]
    fitting = [min(s for s in range(end + 1) if sum(costs[s:end]) <= 16_000) for end in range(len(costs) + 1)]
    assert starts == fitting
    assert recent_context(messages) == tuple(messages[starts[-1] :])


@pytest.mark.parametrize(("size", "start"), [(15_936, 0), (15_937, 1)])
def test_a_context_of_exactly_its_bound_is_recent(size: int, start: int) -> None:
    """16,000 characters with two frames of 32 are kept; with a character more, the oldest message is left out."""
    messages = [Message("user", (Part("a", "x" * (size - 100)),)), Message("user", (Part("b", "x" * 100),))]
    assert recent_context_starts(messages) == [0, 0, start]


def test_the_turn_of_a_reply_stands_behind_the_conversation() -> None:
    """A reply is the message after all others, judged in the context of all of them."""
    answer = Message("assistant", (Part("x", "hi"),))
    assert reply_turn(chat("ua"), answer) == Turn(2, 2, answer, current=True)
