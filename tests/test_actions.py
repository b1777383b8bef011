"""Actions turn a decision into an outcome. The judge in these tests finds the word "bomb" unsafe."""

import asyncio
from collections.abc import Callable
from dataclasses import replace as replace_fields

from hypothesis import assume, given
from hypothesis import strategies as st

from guardproxy.actions import REGISTRY, REWRITES, block, redact, regenerate, replace, steer
from guardproxy.app import catalogue
from guardproxy.localtext import LocalText
from guardproxy.policy import BlockPolicy, Policy, RewritePolicy, SideRules, on_failure
from guardproxy.ports import Action, JudgeAgain
from guardproxy.registry import load
from guardproxy.settings import load_text
from guardproxy.types import Decision, Edit, Message, Outcome, Part, Reason, Refuse, Replace, Steer

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


class Counting:
    """A judge that counts what it is asked. It fails once, as `on_guard_error: allow` has it: at the check `fails`."""

    def __init__(self, harm: Callable[[str], bool], fails: int | None = None) -> None:
        self.asked = 0
        self._harm = harm
        self._fails = fails

    async def __call__(self, message: Message) -> Decision:
        self.asked += 1
        if self.asked == self._fails:
            return on_failure("allow", "guard_error")
        return UNSAFE if self._harm(message.text) else Decision("pass", "", ())


def redacted(judge: Counting, *texts: str, most: int = 100) -> Outcome:
    """The outcome for a turn with these texts, with at most so many checks."""
    policy = replace_fields(POLICY, rewrite=RewritePolicy(marker="[gone]", max_checks=most))
    turn = Message("user", tuple(Part(f"c[{n}]", text) for n, text in enumerate(texts)))
    return asyncio.run(redact.open_action(policy)(turn, UNSAFE, judge))


def test_redact_finds_a_sentence_among_thousands() -> None:
    """By bisection: the checks grow with the logarithm of the length, over all parts."""
    judge = Counting(lambda text: "bomb" in text)
    texts = ["a bomb." if n == 7 else "fine" for n in range(5000)]
    assert redacted(judge, *texts) == Replace((Edit("c[7]", "[gone]"),))
    assert judge.asked <= 2 * 13 + 1


def test_redact_finds_a_harm_across_the_cuts() -> None:
    """Two sentences that are harmful only together lie in different halves: both go, and nothing else."""
    judge = Counting(lambda text: "one" in text and "two" in text)
    text = "fine. fine. fine. one. two. fine. fine. fine."
    assert redacted(judge, text) == Replace((Edit("c[0]", "fine. fine. fine. [gone] [gone] fine. fine. fine."),))


def test_redact_refuses_what_no_check_answers() -> None:
    """A guard that fails finds nothing safe, whatever the policy lets pass then: in the search, and at the end."""
    for fails in range(1, 6):
        assert isinstance(redacted(Counting(lambda text: "bomb" in text, fails), "fine. fine. a bomb. fine."), Refuse)
    assert isinstance(redacted(Counting(lambda text: "bomb" in text, 6), "fine. fine. a bomb. fine."), Replace)


harmful = st.lists(st.sampled_from(["fine. ", "good! ", "well.\n", "a bomb. ", "bomb? "]), min_size=1, max_size=80)


@given(st.lists(harmful, min_size=1, max_size=3), st.integers(2, 200))
def test_redact_finds_all_or_refuses(parts: list[list[str]], most: int) -> None:
    """With enough checks it removes exactly the harmful sentences; it never asks more, nor returns what is unsafe."""
    judge = Counting(lambda text: "bomb" in text)
    outcome = redacted(judge, *map("".join, parts), most=most)
    assert judge.asked <= most
    sentences = [sentence for part in parts for sentence in part]
    carriers = sum("bomb" in sentence for sentence in sentences)
    assume(carriers)  # a turn is only rewritten if the guard has found it unsafe
    if 2 * carriers * len(sentences).bit_length() + 1 <= most:
        new = ["".join("[gone]" + s[len(s.rstrip()) :] if "bomb" in s else s for s in part) for part in parts]
        expected = [Edit(f"c[{n}]", text) for n, text in enumerate(new) if text != "".join(parts[n])]
        assert outcome == Replace(tuple(expected))
    if isinstance(outcome, Replace):
        assert not any("bomb" in edit.text for edit in outcome.edits)


@given(
    st.lists(st.sampled_from(["a. ", "b. ", "c. ", "d. "]), min_size=1, max_size=40),
    st.sets(st.sampled_from(["a. b", "b. c", "c. d. a", "d. d", "a. "])),
    st.integers(2, 100),
)
def test_what_redact_leaves_is_safe(pieces: list[str], harm: set[str], most: int) -> None:
    """Also if a harm needs several sentences."""
    judge = Counting(lambda text: any(one in text for one in harm))
    text = "".join(pieces)
    outcome = redacted(judge, text, most=most)
    assert judge.asked <= most
    if isinstance(outcome, Replace):
        assert not any(one in edit.text for one in harm for edit in outcome.edits)


STEERS = RewritePolicy(instructions={"violence_hate": LocalText({"*": "Calm down."}), "*": LocalText({"*": "Care."})})


def test_steer_tells_the_model_what_the_leading_category_says() -> None:
    """Nobody judges the instruction. Without one, the turn is refused."""
    steering = steer.open_action(replace_fields(POLICY, rewrite=STEERS))
    assert act(steering, Part("c", "a bomb"), role="user") == Steer("Calm down.")
    other = Decision("rewrite", "steer", (Reason("theft", 0.9, 0.5, "rewrite"),))
    assert asyncio.run(steering(Message("user", (Part("c", "x"),)), other, judge)) == Steer("Care.")
    assert isinstance(act(steer.open_action(POLICY), Part("c", "a bomb"), role="user"), Refuse)


def test_regenerate_names_categories_only_if_refusals_do() -> None:
    """The model must not learn more of the policy than the client."""
    hidden = act(regenerate.open_action(POLICY), Part("c", "a bomb"))
    named = act(regenerate.open_action(replace_fields(POLICY, block=BlockPolicy(name_categories=True))), Part("c", "x"))
    assert isinstance(hidden, Refuse)
    assert isinstance(named, Refuse)
    assert hidden.again == RewritePolicy().retry_instruction
    assert named.again == f"{hidden.again} (violence_hate)"


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
