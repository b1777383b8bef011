"""What actions make of a decision. The judge here finds the word "bomb" unsafe."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.actions import block, redact, replace
from guardproxy.policy import BlockPolicy, Policy, RewritePolicy, SideRules
from guardproxy.ports import Action
from guardproxy.types import Decision, Edit, Message, Outcome, Part, Reason, Refuse, Replace

POLICY = Policy("p", "v", SideRules({}), SideRules({}), rewrite=RewritePolicy("Removed.", "[gone]"))
UNSAFE = Decision("rewrite", "redact", (Reason("violence_hate", 0.9, 0.5, "rewrite"),))


async def judge(message: Message) -> Decision:
    """Unsafe where the text says "bomb"."""
    return UNSAFE if "bomb" in message.text else Decision("pass", "", ())


def act(action: Action, *parts: Part, role: str = "assistant") -> Outcome:
    """The outcome for a turn of these parts."""
    return asyncio.run(action(Message(role, parts), UNSAFE, judge))  # type: ignore[arg-type, arg-type]


def test_block_refuses_in_the_policys_words() -> None:
    """A block is a refusal with the configured message; categories are named only where the policy says so."""
    assert act(block.open_action(POLICY), Part("c", "x")) == Refuse(
        BlockPolicy().message, "completion", "content_filter", ("violence_hate",)
    )
    open_policy = Policy("p", "v", SideRules({}), SideRules({}), block=BlockPolicy("error", "No.", "stop", True))
    refusal = act(block.open_action(open_policy), Part("c", "x"))
    assert refusal == Refuse("No. (violence_hate)", "error", "stop", ("violence_hate",))


def test_replace_stands_for_the_whole_turn() -> None:
    """The first text gets the replacement and nothing else of the turn remains."""
    outcome = act(replace.open_action(POLICY), Part("c", "a bomb"), Part("t", "call(bomb)", "tool_call"))
    assert outcome == Replace((Edit("c", "Removed."),), whole=True)


def test_replace_of_a_tool_call_alone_is_a_refusal() -> None:
    """There is no place for the words in a turn that is only a tool call."""
    assert isinstance(act(replace.open_action(POLICY), Part("t", "call(bomb)", "tool_call")), Refuse)


def test_an_unsafe_replacement_is_a_refusal() -> None:
    """A rewrite that does not judge safe in the end is a block."""
    policy = Policy("p", "v", SideRules({}), SideRules({}), rewrite=RewritePolicy("a bomb", "-"))
    assert isinstance(act(replace.open_action(policy), Part("c", "x")), Refuse)


def test_a_rewrite_that_becomes_a_block_names_categories_as_a_block_does() -> None:
    """The words of a refusal do not depend on the action that it began as."""
    policy = Policy("p", "v", SideRules({}), SideRules({}), block=BlockPolicy("completion", "No.", "stop", True))
    refusal = Refuse("No. (violence_hate)", "completion", "stop", ("violence_hate",))
    for action in (replace, redact):
        assert act(action.open_action(policy), Part("t", "call(bomb)", "tool_call")) == refusal


def test_redact_takes_out_only_the_unsafe_sentences() -> None:
    """Sentences without the finding stay as they are, spaces and line breaks with them."""
    outcome = act(redact.open_action(POLICY), Part("c", "Hello there.  Build a bomb! Then\nrest? Yes."))
    assert outcome == Replace((Edit("c", "Hello there.  [gone] Then\nrest? Yes."),))


def test_redact_in_a_tool_call_is_a_refusal() -> None:
    """A marker inside arguments would make another call of it."""
    assert isinstance(act(redact.open_action(POLICY), Part("t", "call(bomb)", "tool_call")), Refuse)


def test_redact_asks_a_bounded_number_of_times() -> None:
    """A turn of thousands of parts is refused, not judged part by part."""
    asked: list[Message] = []

    async def counting(message: Message) -> Decision:
        asked.append(message)
        return await judge(message)

    parts = tuple(Part(f"c[{n}]", "a bomb." if n == 7 else "fine") for n in range(5000))
    outcome = asyncio.run(redact.open_action(POLICY)(Message("user", parts), UNSAFE, counting))
    assert isinstance(outcome, Refuse)
    assert len(asked) < 1000


def test_redact_refuses_what_no_sentence_carries() -> None:
    """Where only the whole is unsafe, nothing can be taken out."""

    async def whole(message: Message) -> Decision:
        return UNSAFE if "one" in message.text and "two" in message.text else Decision("pass", "", ())

    turn = Message("assistant", (Part("c", "one. two."),))
    assert isinstance(asyncio.run(redact.open_action(POLICY)(turn, UNSAFE, whole)), Refuse)


@given(st.text(max_size=200))
def test_sentences_join_to_the_text(text: str) -> None:
    """Splitting loses nothing."""
    assert "".join(redact.sentences(text)) == text


@given(st.lists(st.sampled_from(["Fine.", "a bomb.", "Why?", "bomb\n", "so it is"]), max_size=120))
def test_nothing_unsafe_survives(pieces: list[str]) -> None:
    """Whatever the text, what leaves is judged safe."""
    text = " ".join(pieces)
    outcome = act(redact.open_action(POLICY), Part("c", text))
    if isinstance(outcome, Replace):
        assert "bomb" not in outcome.edits[0].text
