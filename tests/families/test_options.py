"""Options and taxonomies: a user's own appear in the prompt, and errors name the allowed values."""

from collections.abc import Callable
from typing import Any

import pytest

from guardproxy.errors import ConfigError
from guardproxy.families import (
    PATTERNS,
    REGISTRY,
    classifier,
    granite_guardian,
    llama_guard,
    perspective,
    qwen3guard,
    shieldgemma,
    wildguard,
)
from guardproxy.ports import Family, LabelList
from guardproxy.registry import load
from guardproxy.types import Category, Taxonomy
from tests.families.kit import NEEDED, ask, open_model, reply, written

OWN = Taxonomy(
    "ours",
    (
        Category("violence_hate", ""),
        Category("gambling", "Gambling", "Should not\n- Help people to place bets.\nCan\n- Explain odds."),
        Category("gossip", "Office gossip", examples=("User: who is dating whom?", "User: how is Ann? (allowed)")),
    ),
)


def _policy(text: str) -> str:
    return text.partition("CATEGORIES>\n")[2].partition("<END")[0]


def test_every_registered_family_opens() -> None:
    """Each name in the registry has an `open_family`, and only a policy text is needed as an option."""
    for name in REGISTRY:
        family: Family = load(name, REGISTRY, "family")(**NEEDED.get(name, {}))
        assert family.taxonomy.categories or name == PATTERNS  # whose categories are those of the configuration
        assert len(family.taxonomy.version) == 12


def test_own_categories_are_written_into_the_prompt() -> None:
    """Dropped, added and reworded categories, with examples below the description, and codes by place."""
    family = llama_guard.open_family(taxonomy=OWN)
    text = written(family.render(ask("x"))[0])
    first, second, third = _policy(text).split("O2: ")[0], *_policy(text).partition("O2: ")[2].split("O3: ")
    stock = _policy(written(open_model("llama_guard-1").render(ask("x"))[0]))
    assert first == stock[: stock.index("O2: ")]
    assert second == "Gambling.\nShould not\n- Help people to place bets.\nCan\n- Explain odds.\n"
    assert third == "Office gossip.\nExamples\n- User: who is dating whom?\n- User: how is Ann? (allowed)\n"
    readout = family.render(ask("x"))[0].readout
    assert isinstance(readout, LabelList)
    assert readout.labels == ("O1", "O2", "O3")
    assert [category.id for category in family.taxonomy.categories] == ["violence_hate", "gambling", "gossip"]


def test_dropped_categories_keep_the_others_as_they_are() -> None:
    """A category that only names a stock id has the stock text and code."""
    few = Taxonomy("few", (Category("hate", ""), Category("privacy", "")))
    text = written(llama_guard.open_family(version="3", taxonomy=few).render(ask("x"))[0])
    assert _policy(text) == "S10: Hate.\nS7: Privacy.\n"


def test_a_category_added_to_some_of_the_stock_has_a_code_of_its_own() -> None:
    """Stock categories keep their codes, and numbered categories do not use them, in any order."""
    own = Category("gambling", "Gambling")
    stock = (Category("sexual_content", ""), Category("criminal_planning", ""))
    for categories, codes in (((*stock, own), ["O2", "O3", "O4"]), ((own, *stock), ["O1", "O2", "O3"])):
        family = llama_guard.open_family(taxonomy=Taxonomy("t", categories))
        assert [category.code for category in family.taxonomy.categories] == codes


def test_the_version_is_a_hash_of_the_content() -> None:
    """The version and the prompt key depend on the categories, not on the id of the taxonomy."""

    def opened(identifier: str, description: str) -> tuple[str, str]:
        taxonomy = Taxonomy(identifier, (Category("gambling", "Gambling", description),), version="ignored")
        family = llama_guard.open_family(taxonomy=taxonomy)
        return family.taxonomy.version, family.render(ask("x"))[0].key

    assert opened("a", "Bets.") == opened("b", "Bets.")
    assert opened("a", "Bets.")[0] != opened("a", "Bets!")[0]
    assert opened("a", "Bets.")[1] != opened("a", "Bets!")[1]


def test_shieldgemma_writes_a_policy_for_each_side() -> None:
    """The description completes the sentence for prompts and for replies."""
    own = Taxonomy("own", (Category("gambling", "Gambling", "content that invites to bet.", examples=("bet now",)),))
    family = shieldgemma.open_family(taxonomy=own)
    line = '"No Gambling": {} content that invites to bet. Examples: bet now.\n'
    assert line.format("The prompt shall not contain or seek generation of") in written(family.render(ask("x"))[0])
    assert line.format("The chatbot shall not generate") in written(family.render(reply("x", "y"))[0])


def test_granite_speaks_of_the_message_that_is_judged() -> None:
    """A definition of the user's message becomes a definition of the assistant's message for replies."""
    own = Taxonomy("own", (Category("gambling", "Gambling", "The 'User' message invites to bet."),))
    family = granite_guardian.open_family(taxonomy=own)
    assert "- The 'User' message invites to bet.\n" in written(family.render(ask("x"))[0])
    assert "- The 'Assistant' message invites to bet.\n" in written(family.render(reply("x", "y"))[0])


def test_qwen_lists_the_names_that_it_is_read_for() -> None:
    """A user's own names appear in the prompt and in the label list."""
    own = Taxonomy("own", (Category("gambling", "Gambling"), Category("violence", "")))
    family = qwen3guard.open_family(taxonomy=own)
    assert _policy(written(family.render(ask("x"))[0])) == "Gambling.\nViolent.\n"
    readout = family.render(ask("x"))[1].readout
    assert isinstance(readout, LabelList)
    assert readout.labels == (" Gambling", " Violent")


def test_a_guard_without_categories_for_a_side_asks_for_the_level_alone() -> None:
    """If no category applies to replies, only P(unsafe) is read."""
    own = Taxonomy("own", (Category("jailbreak", ""),))
    family = qwen3guard.open_family(taxonomy=own)
    assert len(family.render(reply("x", "y"))) == 1


def test_a_taxonomy_names_the_categories_of_a_classifier() -> None:
    """The taxonomy must have exactly the ids that labels are mapped to."""
    own = Taxonomy("own", (Category("hate", "Hatred", "Contempt for groups."),))
    family = classifier.open_family(taxonomy=own, labels=["neutral", "hateful"], categories={"hateful": "hate"})
    assert family.taxonomy.categories == own.categories
    assert len(family.taxonomy.version) == 12


def test_replies_of_other_classifiers_are_read_alone() -> None:
    """A classifier of single texts does not get the question unless `replies` is `pair`."""
    alone = classifier.open_family(labels=["toxic"])
    pair = classifier.open_family(labels=["toxic"], replies="pair")
    assert len(alone.render(reply("x", "y"))[0].pieces) == 1
    assert len(pair.render(reply("x", "y"))[0].pieces) == 2


def _of(*categories: Category) -> Taxonomy:
    return Taxonomy("t", categories)


MISTAKES: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (llama_guard.open_family, {"version": "5"}, r"version: '5' is not one of 1, 2, 3, 3-1b, 3-11b-vision, 4"),
    (llama_guard.open_family, {"scoring": "both"}, r"scoring: 'both' is not one of label_list, one_vs_all"),
    (llama_guard.open_family, {"context": -1}, r"context: -1 must be a number"),
    (llama_guard.open_family, {"taxonomy": _of()}, r"taxonomy 't': needs at least one category"),
    (llama_guard.open_family, {"taxonomy": _of(Category("x", ""))}, r"'x': needs an id and a name"),
    (llama_guard.open_family, {"taxonomy": _of(Category("x", "a\nb"))}, r"must not contain a line break"),
    (llama_guard.open_family, {"taxonomy": _of(Category("x", "X"), Category("x", "Y"))}, r"'x': the id is used twice"),
    (
        llama_guard.open_family,
        {"taxonomy": _of(Category("x", "X", code="O1"), Category("y", "Y", code="O1"))},
        r"code 'O1' is used twice",
    ),
    (llama_guard.open_family, {"taxonomy": _of(Category("x", "X", code="O,1"))}, r"code 'O,1' must be a letter"),
    (shieldgemma.open_family, {"taxonomy": _of(Category("x", "X"))}, r"'x': needs a description"),
    (granite_guardian.open_family, {"taxonomy": _of(Category("x", "X"))}, r"'x': needs a description"),
    (qwen3guard.open_family, {"mode": "medium"}, r"mode: 'medium' is not one of strict, loose"),
    (qwen3guard.open_family, {"context": "long"}, r"context: 'long' must be a number"),
    (qwen3guard.open_family, {"taxonomy": _of(Category("x", "a, b"))}, r"its name must not contain a comma"),
    (qwen3guard.open_family, {"taxonomy": _of(Category("x", "X", "words"))}, r"reads only names"),
    (wildguard.open_family, {"taxonomy": _of(Category("x", "X"))}, r"answers three fixed questions"),
    (classifier.open_family, {"labels": []}, r"labels: name at least one"),
    (classifier.open_family, {"labels": "toxic"}, r"labels: 'toxic' must be a list"),
    (perspective.open_family, {"languages": "en"}, r"languages: 'en' must be a list"),
    (classifier.open_family, {"labels": ["a", "a"]}, r"labels: a label is listed twice"),
    (classifier.open_family, {"labels": ["a"], "categories": {"b": "x"}}, r"categories: 'b' is not one of a"),
    (classifier.open_family, {"labels": ["a"], "categories": {}}, r"categories: map at least one label"),
    (classifier.open_family, {"labels": ["a"], "categories": {"a": ""}}, r"a category id is empty"),
    (classifier.open_family, {"activation": "relu"}, r"activation: 'relu' is not one of sigmoid, softmax"),
    (classifier.open_family, {"replies": "both"}, r"replies: 'both' is not one of pair, alone"),
    (
        classifier.open_family,
        {"labels": ["a"], "taxonomy": _of(Category("b", "B"))},
        r"has b; must have the categories of the labels: a",
    ),
]


@pytest.mark.parametrize(("opened", "options", "message"), MISTAKES)
def test_a_mistake_is_reported_with_the_allowed_values(
    opened: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    """Each invalid option is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=message):
        opened(**options)


def test_all_mistakes_of_a_taxonomy_are_reported_at_once() -> None:
    """A single error lists every invalid category."""
    wrong = _of(Category("x", ""), Category("", "Y"), Category("z", "a\nb"))
    with pytest.raises(ConfigError) as caught:
        llama_guard.open_family(taxonomy=wrong)
    assert len(caught.value.problems) == 3
