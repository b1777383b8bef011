"""The texts in many languages: their twins and labels, weights by language, and their distance from dev rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from training import multilingual
from training.example import Example
from training.labels import CATEGORIES
from training.mixture import held_out, is_held_out, plain_examples
from training.overlap import row_texts, runs
from training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT.parent / "shared" / "data" / "dev"


def everything() -> tuple[multilingual.Turn, ...]:
    """The texts that are trained on and those that are held out."""
    return multilingual.turns() + multilingual.turns(held_out=True)


def test_no_text_comes_twice_and_every_language_has_both_kinds() -> None:
    """Every language has at least 80 harmful texts, of all categories, and more harmless ones."""
    texts = [turn.text.lower() for turn in everything()]
    assert [text for text, n in Counter(texts).items() if n > 1] == []
    by_language: dict[str, list[multilingual.Turn]] = defaultdict(list)
    for turn in everything():
        by_language[turn.language].append(turn)
    assert len(by_language) >= 20
    for language, group in by_language.items():
        harmful = [turn for turn in group if turn.categories]
        assert 80 <= len(harmful) < len(group) - len(harmful), language
        assert {category for turn in harmful for category in turn.categories} == set(CATEGORIES), language


def test_a_tenth_is_held_out_with_its_twin() -> None:
    """Held-out texts are never trained on, not even as the surroundings of another text."""
    held = {turn.text for turn in multilingual.turns(held_out=True)}
    assert 0.07 < len(held) / len(everything()) < 0.13
    made = multilingual.multilingual_examples(random.Random(1), len(multilingual.turns()) + 500)
    assert not any(text in example.text or text == example.question for example in made for text in held)


def test_examples_are_the_same_for_the_same_seed_and_never_repeat() -> None:
    """Equal seeds give equal examples, in all languages, about half of the varied ones harmful."""
    count = len(multilingual.turns()) + 2000
    made = multilingual.multilingual_examples(random.Random(4), count)
    assert made == multilingual.multilingual_examples(random.Random(4), count)
    assert made != multilingual.multilingual_examples(random.Random(5), count)
    assert len({example.text for example in made}) == len(made) == count
    varied = made[len(multilingual.turns()) :]
    assert 0.45 < sum(example.labels["unsafe"][0] for example in varied) / len(varied) < 0.55
    assert {example.language for example in varied} == {turn.language for turn in multilingual.turns()}
    assert any(example.question for example in varied)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_as_many_examples_as_wished(count: int) -> None:
    """A small count is met exactly."""
    assert len(multilingual.multilingual_examples(random.Random(0), count)) == count


def test_forms_of_a_text_keep_its_letters() -> None:
    """Accents and marks go where people leave them out; signs of other scripts stay."""
    assert multilingual.without_accents("Đường phố, çok güzel, \u0131ş\u0131k") == "Duong pho, cok guzel, isik"
    assert multilingual.without_accents("में ที่นี่ ёлка") == "में ที่นี่ ёлка"
    assert multilingual.without_marks("¿Qué? ¡Ya!... da-me") == "¿qué ¡ya da-me"
    assert multilingual.without_marks("これは何\uff1f क्या।") == "これは何 क्या"


def example(language: str, unsafe: float, weight: float, **more: tuple[float, float]) -> Example:
    """An example with a label for `unsafe`, and others."""
    return Example("k", "s", None, f"{language} {unsafe}", {"unsafe": (unsafe, weight)} | more, language=language)


def test_language_is_no_evidence_of_harm() -> None:
    """In every language harmful and harmless examples weigh the same; a language of one kind is left out."""
    some = [
        example("de", 1, 0.5), example("de", 0, 1), example("de", 0, 1, jailbreak=(0.0, 0.5)),
        example("en", 1, 1, jailbreak=(1.0, 1.0)), example("en", 0, 1, jailbreak=(0.0, 0.5)), example("fi", 0, 1),
    ]  # fmt: skip
    got = multilingual.balanced(some)
    assert {e.language for e in got} == {"de", "en"}
    sums: dict[tuple[str, float], float] = defaultdict(float)
    for e in got:
        value, weight = e.labels["unsafe"]
        sums[e.language, value] += weight
    assert sums["de", 0] == pytest.approx(sums["de", 1]) == pytest.approx(1.0)
    assert sums["en", 0] == pytest.approx(sums["en", 1])
    assert [e.language for e in got if "jailbreak" in e.labels] == ["en", "en"]


def test_rows_name_their_language() -> None:
    """Rows of multilingual sets have the language of their labels, others are English."""
    row = {"id": "x", "side": "user", "messages": [{"role": "user", "content": "text"}], "unsafe": 0, "labels": {}}
    rows = [
        row | {"source": "multijail", "source_labels": ["th", "['Theft']"]},
        row | {"source": "benign_tldr", "source_labels": ["benign", "pt_BR", "ls"]},
        row | {"source": "benign_multilingual", "source_labels": ["benign", "el", "xquad"]},
        row | {"source": "advbench", "source_labels": ["de"]},
    ]
    assert [multilingual.language_of(r) for r in rows] == ["th", "pt", "el", "en"]
    assert [e.language for e in plain_examples(rows, RECIPES["multilingual"])] == ["th", "pt", "el", "en"]


def test_calibration_of_a_multilingual_guard_reads_its_own_texts_too() -> None:
    """The texts that are held out join the held-out rows, in a recipe that trains on the others."""
    own = held_out([], RECIPES["multilingual"])
    assert {e.text for e in own} == {turn.text for turn in multilingual.turns(held_out=True)}
    assert held_out([], RECIPES["large"]) == []
    assert not is_held_out({"id": "x-1"})


def test_texts_share_no_run_of_words_with_dev_rows() -> None:
    """No text repeats six words of a row that measures the guard."""
    if not DEV.is_dir():
        pytest.skip("the labelled data is not here")
    measured = {run for file in sorted(DEV.glob("*.jsonl.gz")) for _, text in row_texts(file) for run in runs(text)}
    assert [turn.text for turn in everything() if runs(turn.text) & measured] == []
