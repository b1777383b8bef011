"""The grammar of label lists, and the search through them, against every list enumerated: no model, no tensors."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine.decoder.grammar import Grammar, ListSearch, PartialList, compile_grammar
from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList

END, STOP = 1, 2
Ids = tuple[int, ...]


def characters(text: str) -> list[int]:
    """A tokenizer with a token for every character."""
    return [ord(character) for character in text]


def control(name: str) -> int | None:
    """The id of the only control token."""
    return STOP if name == "<stop>" else None


def listing(*labels: str, separator: str = ",", end: str = "", tolerance: float = 1e-9) -> LabelList:
    """A readout with these labels."""
    return LabelList("safe", "SAFE", "\n", labels, separator, end, tolerance)


def compiled(
    readout: LabelList, behind: Callable[[str], list[int]] = characters, eos: Sequence[int] = (END,)
) -> Grammar:
    """The grammar of a readout for a tokenizer."""
    return compile_grammar(readout, behind, control, eos)


def logit(seed: int, before: Ids, token: int) -> float:
    """A number between -3 and 3 for a token behind others, the same whenever it is asked for."""
    return random.Random(f"{seed} {before} {token}").uniform(-3, 3)


def explore(search: ListSearch, seed: int, most: int = 3) -> None:
    """Answer what the search asks for until it asks no more."""
    while states := search.next_lists(most):
        assert len(states) <= most
        for state in states:
            tell(search, state, seed)


def tell(search: ListSearch, state: PartialList, seed: int) -> None:
    """Answer for a state."""
    search.expand(state, lambda tokens: [logit(seed, state.tokens, token) for token in tokens])


def brute_force(readout: LabelList, eos: Sequence[int], mass: float, seed: int) -> list[float]:
    """P(label in the list) from every list: each token's softmax over the tokens of all lists that begin alike."""
    shared = len(compiled(readout, eos=eos).forced) + 1
    lists: dict[Ids, Ids] = {}
    for size in range(1, len(readout.labels) + 1):
        for chosen in permutations(range(len(readout.labels)), size):
            answer = readout.separator.join(readout.labels[label] for label in chosen)
            ids = characters(readout.unsafe + readout.opening + answer)[shared:]
            lists.update({(*ids, end): chosen for end in eos})
    inside = [0.0] * len(readout.labels)
    for ids, chosen in lists.items():
        probability = mass
        for at in range(len(ids)):
            options = {other[at] for other in lists if len(other) > at and other[:at] == ids[:at]}
            weights = {token: math.exp(logit(seed, ids[:at], token)) for token in options}
            probability *= weights[ids[at]] / sum(weights.values())
        for label in chosen:
            inside[label] += probability
    return inside


LABELS = [("O1",), ("O1", "O2"), ("O1", "O10", "O2"), ("S1", "S12", "S123"), ("Violence", "Fraud"), ("a", "ab", "cab")]


@given(st.sampled_from(LABELS), st.sampled_from([(END,), (END, STOP)]), st.integers(0, 999), st.integers(1, 4))
def test_a_search_equals_every_list(labels: Ids, eos: Ids, seed: int, most: int) -> None:
    """The probabilities are those of the enumerated lists, and nothing is left over."""
    readout = listing(*labels)
    search = ListSearch(compiled(readout, eos=eos), 0.75)
    explore(search, seed, most)
    assert search.result() == pytest.approx(brute_force(readout, eos, 0.75, seed), abs=1e-6)
    assert search.leftover == pytest.approx(0, abs=1e-6)


@given(st.sampled_from(LABELS), st.integers(0, 999), st.integers(0, 9))
def test_a_search_that_stops_states_what_is_missing(labels: Ids, seed: int, steps: int) -> None:
    """After any number of answers the result is a lower bound, and the leftover bounds what is missing."""
    readout = listing(*labels)
    search = ListSearch(compiled(readout), 1.0)
    for _ in range(steps):
        for state in search.next_lists(1):
            tell(search, state, seed)
    missing = [exact - got for exact, got in zip(brute_force(readout, (END,), 1.0, seed), search.result(), strict=True)]
    assert all(-1e-9 <= gap <= search.leftover + 1e-9 for gap in missing)
    assert sum(partial.mass for partial in search.next_lists(999)) == pytest.approx(search.leftover, abs=1e-9)


@given(st.sampled_from(LABELS[1:]), st.integers(0, 999), st.integers(0, 6), st.floats(0.01, 0.9))
def test_the_best_states_are_taken_and_no_more_than_needed(
    labels: Ids, seed: int, steps: int, tolerance: float
) -> None:
    """States are taken in the order of their mass, until those that stay hold less than the tolerance."""
    grammar = compiled(listing(*labels, tolerance=tolerance))
    search, every = ListSearch(grammar, 1.0), ListSearch(replace(grammar, tolerance=0), 1.0)
    for _ in range(steps):
        for state in search.next_lists(1):
            tell(search, state, seed)
            tell(every, *every.next_lists(1), seed)
    masses = [state.mass for state in every.next_lists(999)]
    assert masses == sorted(masses, reverse=True)
    wanted = 0
    while wanted < len(masses) and sum(masses[wanted:]) >= tolerance:
        wanted += 1
    assert [state.mass for state in search.next_lists(99)] == masses[:wanted]


def test_the_leftover_may_equal_the_tolerance() -> None:
    """A search goes on while the leftover is not below the tolerance, and stops when it is."""
    assert len(ListSearch(compiled(listing("a", "b", tolerance=0.5)), 0.5).next_lists(1)) == 1
    assert ListSearch(compiled(listing("a", "b", tolerance=0.5)), 0.4).next_lists(1) == []


def test_the_token_forms() -> None:
    """The common beginning of the labels is forced; each label keeps a token of its own."""
    grammar = compiled(listing("O1", "O10", "O2", tolerance=0.1))
    assert (grammar.safe, grammar.unsafe) == (ord("s"), ord("S"))
    assert grammar.forced == tuple(characters("AFE\nO"))
    assert (grammar.labels, grammar.tolerance, grammar.ends) == (3, 0.1, (END,))
    assert sorted(grammar.first.children) == [ord("1"), ord("2")]
    assert list(grammar.further.children) == [ord(",")]
    assert (grammar.first.depth, grammar.further.depth) == (2, 4)


def test_one_label_is_certain() -> None:
    """A list with one possible label needs no answer: its probability is the whole mass."""
    search = ListSearch(compiled(listing("O1")), 0.6)
    assert (search.next_lists(9), search.result(), search.leftover) == ([], [0.6], 0.0)
    assert compiled(listing("O1")).further.children == {}


def test_a_label_that_every_completion_holds_counts_before_the_end() -> None:
    """An open list counts for the labels in it, and for the last label that can follow."""
    search = ListSearch(compiled(listing("ab", "cd", separator=";")), 1.0)
    (state,) = search.next_lists(1)
    search.expand(state, lambda tokens: [math.log(3.0) if token == ord("a") else 0.0 for token in tokens])
    assert search.result() == pytest.approx([0.75, 0.25])
    assert [state.mass for state in search.next_lists(9)] == pytest.approx([0.75, 0.25])


def test_logits_of_any_size() -> None:
    """The softmax does not overflow, however large the logits are."""
    search = ListSearch(compiled(listing("a", "b")), 1.0)
    (state,) = search.next_lists(1)
    search.expand(state, lambda tokens: [5000.0 if token == ord("a") else 0.0 for token in tokens])
    assert search.result() == pytest.approx([1.0, 0.0])


def test_answers_of_another_length_are_a_mistake() -> None:
    """A runner that answers for too few tokens is noticed."""
    search = ListSearch(compiled(listing("a", "b")), 1.0)
    (state,) = search.next_lists(1)
    with pytest.raises(ValueError, match="shorter"):
        search.expand(state, lambda tokens: [0.0 for _ in tokens[1:]])


def test_equal_states_are_taken_in_the_order_of_their_tokens() -> None:
    """Among states of the same probability the first one wins, so a reading can be repeated."""
    search = ListSearch(compiled(listing("ax", "bx", "cx", "dx", tolerance=0.3)), 1.0)
    (state,) = search.next_lists(1)
    search.expand(state, lambda tokens: [0.0 for _ in tokens])
    assert [chr(state.tokens[0]) for state in search.next_lists(3)] == ["a", "b", "c"]


def test_states_are_compared_by_their_lists() -> None:
    """The node of the trie follows from the tokens, and is neither compared nor shown."""
    first, further = compiled(listing("a", "b")).first, compiled(listing("a", "b")).further
    state = PartialList((5,), 0.5, frozenset(), first)
    assert state == PartialList((5,), 0.5, frozenset(), further)
    assert repr(state) == "PartialList(tokens=(5,), mass=0.5, used=frozenset())"


def test_a_label_is_never_behind_itself() -> None:
    """A tokenizer may write a label in another way behind itself: no list repeats a label."""
    assert compiled(listing("O1", "O2"), last_of("O1,O1")) == compiled(listing("O1", "O2"))


def test_ends() -> None:
    """A text ends a list by its first token; a control token by its id, beside the model's own ends."""
    assert compiled(listing("O1", "O2", end=".!")).ends == (ord("."),)
    assert compiled(listing("O1", "O2", end="<")).ends == (ord("<"),)
    assert compiled(listing("O1", "O2", end=">")).ends == (ord(">"),)
    assert compiled(listing("O1", "O2", end="<stop>")).ends == (END, STOP)
    assert compiled(listing("O1", "O2", end="<other>")).ends == (END,)
    assert compiled(listing("O1", "O2", end="<stop>"), eos=()).ends == (STOP,)
    with pytest.raises(GuardUnavailable, match="no token that ends"):
        compiled(listing("O1", "O2"), eos=())
    with pytest.raises(GuardUnavailable, match="no token that ends"):
        compiled(listing("O1", "O2", end="<other>"), eos=())


def merged(*merges: str) -> Callable[[str], list[int]]:
    """A tokenizer with a token for every character and for these texts."""

    def behind(text: str) -> list[int]:
        ids: list[int] = []
        while text:
            merge = next((merge for merge in merges if text.startswith(merge)), text[0])
            ids.append(ord(merge) if len(merge) == 1 else 10_000 + merges.index(merge))
            text = text[len(merge) :]
        return ids

    return behind


def last_of(context: str) -> Callable[[str], list[int]]:
    """A tokenizer of characters whose last token differs where `context` ends the text."""
    return lambda text: [*characters(text)[:-1], 10_000] if text.endswith(context) else characters(text)


@pytest.mark.parametrize(
    ("readout", "behind", "message"),
    [
        (LabelList("UNSURE", "UNSAFE", "\n", ("O1",), ",", ""), characters, "same token"),
        (listing("O1", "O2"), merged("SAFE\n"), "depends on the text that follows"),
        (listing("A1", "B2"), merged("SAFE\nB"), "depends on the text that follows"),
        (listing("O1", "O2", "O3"), last_of("O1,O2"), "depend on the label before"),
        (listing("O1", "O2"), merged("1,"), "merge across the parts"),
        (listing("O1", "O2", separator=""), lambda text: characters(text[:7]), "merge across the parts"),
        (listing("O1", "o1"), lambda text: characters(text.replace("o", "O")), "two labels"),
        (listing("O1", "O2", end=","), characters, "both ends a label list and continues it"),
        (listing("O1", "O1,2"), characters, "both ends a label and continues it"),
        (listing("O1", "O2", end="1."), merged("11"), "merge across the parts"),
    ],
)
def test_tokenizers_that_do_not_fit(readout: LabelList, behind: Callable[[str], list[int]], message: str) -> None:
    """A tokenizer that merges over the seams of the grammar, or makes it ambiguous, makes the guard unavailable."""
    with pytest.raises(GuardUnavailable, match=message):
        compiled(readout, behind)
