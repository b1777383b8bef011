"""The synthetic texts of plain harm: their twins, labels and distance from the texts that measure the guard."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from training import plainharm
from training.labels import CATEGORIES
from training.mixture import read_rows

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT.parent / "shared" / "data" / "dev"
RUN = 6  # words


def runs(text: str) -> set[tuple[str, ...]]:
    """Every run of RUN words in the text, without case and punctuation."""
    words = re.findall(r"\w+", text.lower().replace("'", ""))
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


@cache
def measured() -> set[tuple[str, ...]]:
    """The runs of the canaries, and of the development rows if the data is there."""
    lines = (ROOT / "training" / "canaries.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [entry.get("question", "") + "\n" + entry["text"] for entry in map(json.loads, lines)]
    if DEV.is_dir():
        texts += [message["content"] for row in read_rows(DEV) for message in row["messages"]]
    return {run for text in texts for run in runs(text)}


def shared(texts: list[str]) -> list[str]:
    """The runs that the texts share with the texts that measure the guard."""
    return sorted(" ".join(run) for text in texts for run in runs(text) & measured())


def test_every_text_of_plain_harm_has_its_own_twin() -> None:
    """No text occurs twice, every pair has a valid category, and every category has many pairs."""
    pairs = plainharm.twins()
    texts = [text for pair in pairs for text in (pair.text, pair.twin)]
    assert [text for text, n in Counter(text.lower() for text in texts).items() if n > 1] == []
    assert all(pair.categories and set(pair.categories) <= set(CATEGORIES) for pair in pairs)
    counts = Counter(category for pair in pairs for category in pair.categories)
    assert min(counts[category] for category in CATEGORIES) >= 60
    assert len(pairs) >= 700


def test_a_twin_is_as_long_as_its_text_and_begins_like_it() -> None:
    """Neither length nor the first words tell a harmful text from its twin."""
    pairs = plainharm.twins()
    ratio = sum(len(pair.twin) for pair in pairs) / sum(len(pair.text) for pair in pairs)
    assert 0.9 < ratio < 1.1
    same = [pair for pair in pairs if pair.text.lower().split()[0] == pair.twin.lower().split()[0]]
    assert len(same) > 0.75 * len(pairs)


def test_plain_harm_is_the_same_for_the_same_seed_and_never_repeats() -> None:
    """Equal seeds give equal examples, no text comes twice, and about half of the texts are harmful."""
    made = plainharm.plainharm_examples(random.Random(4), 3000)
    assert made == plainharm.plainharm_examples(random.Random(4), 3000)
    assert made != plainharm.plainharm_examples(random.Random(5), 3000)
    assert len({e.text for e in made}) == len(made) == 3000
    assert 0.4 < sum(e.labels["unsafe"][0] for e in made) / len(made) < 0.6


@pytest.mark.parametrize("count", [0, 1, 50])
def test_as_many_texts_of_plain_harm_as_wished(count: int) -> None:
    """A small count is met exactly."""
    assert len(plainharm.plainharm_examples(random.Random(0), count)) == count


def test_labels_of_plain_harm_agree_with_each_other() -> None:
    """A harmful text has a category, a harmless text has none; all outputs are known ones."""
    for example in plainharm.plainharm_examples(random.Random(2), 1500):
        named = {name for name, (value, _) in example.labels.items() if value == 1} - {"unsafe"}
        assert bool(named) == (example.labels["unsafe"][0] == 1)
        assert set(example.labels) <= {"unsafe", *CATEGORIES}


def test_plain_harm_shares_no_run_of_words_with_the_texts_that_measure_the_guard() -> None:
    """No hand-written text, and no part of a template, repeats six words of a measured text."""
    texts = [text for pair in plainharm.twins() for text in (pair.text, pair.twin)]
    assert shared([*texts, *plainharm.OPENINGS, *plainharm.CLOSINGS, *plainharm.AROUND]) == []
