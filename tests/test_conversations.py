"""The synthetic conversations and replies: labels, variety, and distance from the texts that measure the guard."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.test_plainharm import shared
from training import conversations
from training.conversations import last_turn_examples, reply_examples, thread_examples
from training.example import Example
from training.labels import CATEGORIES

Maker = Callable[[random.Random, int], list[Example]]
MAKERS = (thread_examples, last_turn_examples, reply_examples)


@pytest.mark.parametrize("maker", MAKERS)
def test_made_conversations_are_the_same_for_the_same_seed_and_never_repeat(maker: Maker) -> None:
    """Equal seeds give equal examples, no pair of question and text comes twice, and the count is met."""
    made = maker(random.Random(4), 1500)
    assert made == maker(random.Random(4), 1500)
    assert made != maker(random.Random(5), 1500)
    assert len({(e.question, e.text) for e in made}) == len(made) == 1500
    assert maker(random.Random(0), 0) == []


@pytest.mark.parametrize("maker", MAKERS)
def test_labels_of_made_conversations_agree_with_each_other(maker: Maker) -> None:
    """A harmful text has a category, a harmless text has none, and both kinds are frequent."""
    made = maker(random.Random(2), 1500)
    for example in made:
        named = {name for name, (value, _) in example.labels.items() if value == 1} - {"unsafe"}
        assert bool(named) == (example.labels["unsafe"][0] == 1)
        assert named <= set(CATEGORIES)
    assert 0.25 < sum(e.labels["unsafe"][0] for e in made) / len(made) < 0.65


def test_a_conversation_has_two_to_eight_messages_and_ends_with_the_user() -> None:
    """The user has every other turn, the first and the last; a thread joins the user turns only."""
    assert len(conversations.threads()) >= 250
    for thread in conversations.threads():
        assert len(thread.messages) in {3, 5, 7}
        assert set(thread.categories) <= set(CATEGORIES)
    joined = {example.text for example in thread_examples(random.Random(0), len(conversations.threads()))}
    assert joined == {"\n".join(thread.user_turns) for thread in conversations.threads()}


def test_the_first_turn_decides_what_the_second_means() -> None:
    """The same last turn ends harmful and harmless conversations, so that it alone is no evidence."""
    sides: dict[str, set[bool]] = {}
    for thread in conversations.threads():
        sides.setdefault(thread.messages[-1], set()).add(bool(thread.categories))
    assert sum(len(kinds) == 2 for kinds in sides.values()) >= 80


def test_a_harmless_turn_after_a_refused_one_is_harmless_alone() -> None:
    """The user turns together are harmful, the last turn alone is not."""
    turned = [thread for thread in conversations.threads() if thread.categories and thread.last == 0]
    assert len(turned) >= 20
    texts = {thread.messages[-1] for thread in turned}
    made = last_turn_examples(random.Random(1), 70)
    assert all(e.labels["unsafe"][0] == 0 for e in made if e.text in texts)
    assert any(e.text in texts for e in made)


def test_the_reply_alone_decides() -> None:
    """The same harmful question has compliant, hollow, refusing and unrelated replies; only compliance is harmful."""
    kinds = Counter(reply.kind for reply in conversations.replies())
    assert set(kinds) == {"outline", "partial", "hollow", "refusal", "aside", "harmless"}
    label = {(reply.question, reply.text): reply.kind in conversations.COMPLIANT for reply in conversations.replies()}
    assert len(label) == len(conversations.replies()) >= 300
    made = reply_examples(random.Random(3), len(label))
    assert {(str(e.question), e.text): e.labels["unsafe"][0] == 1 for e in made} == label


def test_conversations_share_no_run_of_words_with_the_texts_that_measure_the_guard() -> None:
    """No hand-written turn or reply, and no part of a template, repeats six words of a measured text."""
    texts = [turn for thread in conversations.threads() for turn in thread.messages]
    texts += [text for reply in conversations.replies() for text in (reply.question, reply.text)]
    made = (conversations.ANSWERS, conversations.LEADS, conversations.HEDGES, conversations.TAILS, conversations.EMPTY)
    assert shared([*texts, *conversations.STEPS, *(text for group in made for text in group)]) == []
