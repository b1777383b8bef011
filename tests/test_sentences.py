"""Cutting a text into sentences, and into the passages that are judged one by one."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.sentences import passages, sentences

WORDS = "We bake the bread at home"


def words(count: int, start: int = 0) -> str:
    """A run of words without a stop."""
    return " ".join(f"w{place}" for place in range(start, start + count))


TEXTS = st.text(st.sampled_from(list("ab .!?\n。\"')")), max_size=200) | st.text(max_size=100)


@given(TEXTS)
def test_no_character_is_lost(text: str) -> None:
    """The sentences are the text, and each stands in a passage if there are several."""
    assert "".join(sentences(text)) == text
    found = passages(text)
    assert text not in found
    assert not found or all(any(one.strip() in passage for passage in [text, *found]) for one in sentences(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("One sentence of five words.", []),
        (f"{WORDS}. How do they do that?", [f"{WORDS}.", "How do they do that?"]),
        (f"{WORDS}\n{WORDS}", [WORDS, WORDS]),
        (f"Hello. {WORDS}! {WORDS}", [f"Hello. {WORDS}!", WORDS, f"{WORDS}!"]),
        (f"{WORDS}? 12 1796263819.12", [f"{WORDS}?"]),
        (f"Ok. {WORDS}?", [f"{WORDS}?"]),
        (f"{WORDS}? 12 1796 26 38 19.12", [f"{WORDS}?", "12 1796 26 38 19.12"]),
        (f"{WORDS}. No. Yes. {WORDS}. Ok.", [f"{WORDS}.", f"No. Yes. {WORDS}. Ok."]),
        ("a cake of 3.5 pounds for example.com guests.", []),
        ("私は家でパンを焼きます。" * 2, []),
        (words(24), []),
        (words(25), [words(14), words(14, 7), words(11, 14)]),
        (
            f"{WORDS}. {words(29)}.",
            [f"{WORDS}.", f"{words(29)}.", *(words(14, at) for at in (0, 7, 14)), f"{words(8, 21)}."],
        ),
    ],
)
def test_passages(text: str, expected: list[str]) -> None:
    """Short sentences are read with a neighbour, long ones in windows; a stop inside a number or a name ends none."""
    assert passages(text) == expected


@pytest.mark.parametrize("number", [2, 64, 65, 128, 800])
def test_passages_are_bounded(number: int) -> None:
    """Of many sentences, as many neighbours are read together as it takes to have at most 64 texts."""
    found = passages("".join(f"We bake bread {place} at home. " for place in range(number)))
    assert len(found) == -(-number // -(-number // 64)) <= 64
    assert {text.count(".") for text in found[:-1]} == {-(-number // 64)}


@given(st.lists(st.sampled_from(["Stop! ", "Stop it. ", "We bake bread at home. ", "one " * 30 + ". "]), max_size=300))
def test_passages_have_a_bound(parts: list[str]) -> None:
    """Those with a neighbour, and the same sentences alone."""
    assert len(passages("".join(parts))) <= 130


def test_the_most_passages() -> None:
    assert len(passages("".join(f"Stop {n}! We bake bread {n} at home. " for n in range(64)))) == 128


@pytest.mark.parametrize("counts", [(25,), (200,), (4000,), (30,) * 20, (30,) * 60, (900, 30, 24)])
def test_long_sentences_have_windows(counts: tuple[int, ...]) -> None:
    """They cover every word, with half of a window shared, and there are no more passages than 64."""
    sentences_of = [f"{words(count, 10_000 * place)}." for place, count in enumerate(counts)]
    found = passages(" ".join(sentences_of))
    assert len(found) <= 64
    windows = [one for one in found if one not in sentences_of]
    sizes = [len(one.split()) for one in windows]
    assert all(size <= max(sizes) == 14 * 2 ** ((max(sizes) // 14).bit_length() - 1) for size in sizes)
    read = {word for one in windows for word in one.split()}
    long = [one for one in sentences_of if len(one.split()) > max(24, max(sizes, default=0))]
    assert not windows or all(read.issuperset(one.split()) for one in long)
    assert windows or len(counts) == 60


def test_a_long_text_has_no_passages() -> None:
    """They would be too long to show harm among harmless text, and cost as much again."""
    line = f"{WORDS}.\n"
    assert passages(line * (25_600 // len(line)))
    assert passages(line * (25_600 // len(line) + 1)) == []


@pytest.mark.parametrize("text", ["." * 25_600 + "a", "a." * 12_800, '."' * 12_800 + "a", "!?" * 12_800])
def test_hostile_texts_take_no_time(text: str) -> None:
    """The time grows with the length of the text, not with its square."""
    began = time.thread_time()
    passages(text)
    assert time.thread_time() - began < 1
