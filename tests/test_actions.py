"""Actions turn a decision into an outcome. The judge in these tests finds the word "bomb" unsafe."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.actions import REGISTRY, REWRITES, block, redact, replace
from guardproxy.app import catalogue
from guardproxy.policy import BlockPolicy, Policy, RewritePolicy, SideRules
from guardproxy.ports import Action, JudgeAgain
from guardproxy.registry import load
from guardproxy.settings import load_text
from guardproxy.types import Decision, Edit, Message, Outcome, Part, Reason, Refuse, Replace

POLICY = Policy("p", "v", SideRules({}), SideRules({}), rewrite=RewritePolicy("Removed.", "[gone]"))
UNSAFE = Decision("rewrite", "redact", (Reason("violence_hate", 0.9, 0.5, "rewrite"),))


async def judge(message: Message) -> Decision:
    """Unsafe if the text contains "bomb"."""
    return UNSAFE if "bomb" in message.text else Decision("pass", "", ())


def act(action: Action, *parts: Part, role: str = "assistant") -> Outcome:
    """The outcome for a turn of these parts."""
    return asyncio.run(action(Message(role, parts), UNSAFE, judge))  # type: ignore[arg-type, arg-type]


class ShoutAction:
    """An action of a user's own: the first part in capitals."""

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Replace the first part."""
        return Replace((Edit(turn.parts[0].path, turn.parts[0].text.upper()),))


def open_shout(policy: Policy) -> Action:
    """Open the action."""
    return ShoutAction()


def test_every_action_but_block_is_a_rewrite() -> None:
    """A configuration may name every registered action except `block` as its rewrite."""
    assert set(catalogue().rewrites) == set(REWRITES) == set(REGISTRY) - {"block"}


def test_an_action_of_the_users_own() -> None:
    """A configuration may name `module:attribute` as its rewrite, without an entry in the registry."""
    how = "tests.test_actions:open_shout"
    text = (
        "version: 1\nupstream: {url: http://llm.test}\n"
        f"policies: {{default: {{user: {{unsafe: {{rewrite: {{at: 0.5, how: '{how}'}}}}}}, assistant: {{'*': {{}}}}}}}}"
    )
    rules = load_text(text, "own.yaml", {}, catalogue()).policies.policies["default"].user.by_category
    assert [rule.how for rule in rules["unsafe"]] == [how]
    assert act(load(how, REGISTRY, "rewrite")(POLICY), Part("c", "quiet")) == Replace((Edit("c", "QUIET"),))


def test_block_refuses_in_the_policys_words() -> None:
    """A block refuses with the configured message; it names categories only if the policy says so."""
    assert act(block.open_action(POLICY), Part("c", "x")) == Refuse(
        BlockPolicy().message, "completion", "content_filter", ("violence_hate",), BlockPolicy().closing
    )
    open_policy = Policy("p", "v", SideRules({}), SideRules({}), block=BlockPolicy("error", "No.", "stop", True, ""))
    refusal = act(block.open_action(open_policy), Part("c", "x"))
    assert refusal == Refuse("No. (violence_hate)", "error", "stop", ("violence_hate",), named=("violence_hate",))


def test_replace_stands_for_the_whole_turn() -> None:
    """The first text part becomes the replacement; the rest of the turn is removed."""
    outcome = act(replace.open_action(POLICY), Part("c", "a bomb"), Part("t", "call(bomb)", "tool_call"))
    assert outcome == Replace((Edit("c", "Removed."),), whole=True)


def test_replace_of_a_tool_call_alone_is_a_refusal() -> None:
    """A turn that is only a tool call has no part for the replacement."""
    assert isinstance(act(replace.open_action(POLICY), Part("t", "call(bomb)", "tool_call")), Refuse)


def test_a_replacement_is_not_judged() -> None:
    """It is the operator's own text, whatever the guard would say of it."""
    policy = Policy("p", "v", SideRules({}), SideRules({}), rewrite=RewritePolicy("a bomb", "-"))
    assert act(replace.open_action(policy), Part("c", "x")) == Replace((Edit("c", "a bomb"),), whole=True)


def test_a_rewrite_that_becomes_a_block_names_categories_as_a_block_does() -> None:
    """The text of a refusal does not depend on the action that gave it."""
    policy = Policy("p", "v", SideRules({}), SideRules({}), block=BlockPolicy("completion", "No.", "stop", True, ""))
    refusal = Refuse("No. (violence_hate)", "completion", "stop", ("violence_hate",), named=("violence_hate",))
    for action in (replace, redact):
        assert act(action.open_action(policy), Part("t", "call(bomb)", "tool_call")) == refusal


def test_redact_takes_out_only_the_unsafe_sentences() -> None:
    """Sentences without the finding stay as they are, spaces and line breaks with them."""
    outcome = act(redact.open_action(POLICY), Part("c", "Hello there.  Build a bomb! Then\nrest? Yes."))
    assert outcome == Replace((Edit("c", "Hello there.  [gone] Then\nrest? Yes."),))


def test_redact_in_a_tool_call_is_a_refusal() -> None:
    """A marker inside the arguments would make a different call."""
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
    """If only the whole text is unsafe, no sentence can be removed."""

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
    """The rewritten text is judged safe, whatever the original."""
    text = " ".join(pieces)
    outcome = act(redact.open_action(POLICY), Part("c", text))
    if isinstance(outcome, Replace):
        assert "bomb" not in outcome.edits[0].text
