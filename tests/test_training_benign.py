"""Synthetic harmless user turns: repeatable, distinct, labelled safe, and apart from the development rows."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from training import benign
from training.labels import CATEGORIES

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT.parent / "shared" / "data" / "dev"
RUN = 6  # words

Words = tuple[str, ...]


def runs(text: str) -> set[Words]:
    """Every run of RUN words of a text, in lower case."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def every_text() -> Iterator[str]:
    """Every line, every conversation, and every filling of every grammar."""
    for entry in benign.entries("lines"):
        yield entry["text"]
    for entry in benign.entries("talks"):
        yield "\n".join(entry["turns"])
        yield benign.joined(entry["turns"])
    for grammar in benign.entries("frames"):
        names = [name for name in grammar if name != "theme"]
        for filling in itertools.product(*(grammar[name] for name in names)):
            chosen = dict(zip(names, filling, strict=True))
            yield chosen.pop("frames").format(**chosen)


def shared_runs(foreign: set[Words]) -> set[Words]:
    """The runs that our texts, those of another shape included, have in common with foreign ones."""
    shaped = (e.text for seed in range(3) for e in benign.benign_examples(random.Random(seed), 2500))
    return {run for text in itertools.chain(every_text(), shaped) for run in runs(text) & foreign}


def test_harmless_turns_are_the_same_for_the_same_seed() -> None:
    """Equal seeds give equal examples, and another seed gives others."""
    first, again, other = (benign.benign_examples(random.Random(seed), 500) for seed in (4, 4, 5))
    assert first == again
    assert {e.text for e in first} != {e.text for e in other}


def test_harmless_turns_are_distinct_and_safe_in_every_category() -> None:
    """There are at least 2,500 distinct texts, all of the user side, safe for every output, without an open slot."""
    made = benign.benign_examples(random.Random(0), 2500)
    assert len({e.text for e in made}) == len({e.key for e in made}) == 2500
    assert all(set(e.labels) == {"unsafe", *CATEGORIES, "jailbreak"} for e in made)
    assert all(value == 0 and weight > 0 for e in made for value, weight in e.labels.values())
    assert all(e.question is None and e.text.strip() for e in made)
    assert {e.made for e in made} == {"line", "talk", "turn", "frame"}
    assert not any(re.search(r"\{[a-z]\w*\}", e.text) for e in made)


def test_no_line_occurs_twice() -> None:
    """At least 900 texts are written in full, and no two are equal but for case and punctuation."""
    plain = [" ".join(re.findall(r"\w+", entry["text"].lower())) for entry in benign.entries("lines")]
    assert len(plain) >= 900
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("grammar", benign.entries("frames"), ids=lambda grammar: str(grammar["theme"]))
def test_two_texts_of_a_grammar_differ_in_more_than_a_slot(grammar: benign.Entry) -> None:
    """No pair of texts has the same frame and all slots but one in common, and no slot is left out of a frame."""
    slots = [name for name in grammar if name not in {"theme", "frames"}]
    assert all("{" + slot + "}" in frame for frame in grammar["frames"] for slot in slots)
    numbered = {name: [f"<{name}{i}>" for i in range(len(grammar[name]))] for name in slots}
    frames = [f"<frame{i}>" + "".join("{" + slot + "}" for slot in slots) for i in range(len(grammar["frames"]))]
    texts = benign.filled({"theme": "", "frames": frames, **numbered}, random.Random(1))
    assert len(texts) <= benign.MOST_OF_A_GRAMMAR
    parts = [re.findall("<[^>]+>", text) for text in texts]
    for one, two in itertools.combinations(parts, 2):
        assert sum(a != b for a, b in zip(one, two, strict=True)) >= 2


def test_a_conversation_ends_with_the_user_and_is_read_by_its_last_turns() -> None:
    """The turns alternate, the user has the last word, and the joined text has the last four user turns."""
    assert all(len(entry["turns"]) % 2 == 1 for entry in benign.entries("talks"))
    assert benign.joined(["a", "-", "b", "-", "c", "-", "d", "-", "e"]) == "b\nc\nd\ne"


def test_more_turns_than_there_are_is_an_error() -> None:
    """The error names how many texts there are."""
    with pytest.raises(ValueError, match=r"1000000 texts wanted, but there are \d{4}"):
        benign.benign_examples(random.Random(0), 1_000_000)


def test_no_run_of_words_is_shared_with_a_canary() -> None:
    """The plain cases that judge the shipped weights are not trained on in part."""
    lines = (ROOT / "training" / "canaries.jsonl").read_text(encoding="utf-8").splitlines()
    canaries = [json.loads(line) for line in lines]
    assert not shared_runs({run for c in canaries for run in runs(f"{c.get('question', '')} {c['text']}")})


@pytest.mark.skipif(not DEV.is_dir(), reason="the labelled data is not beside the repository")
def test_no_run_of_words_is_shared_with_a_development_row() -> None:
    """No text repeats six words in a row of a text that the guard is measured on."""
    foreign: set[Words] = set()
    for file in sorted(DEV.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                for message in json.loads(line)["messages"]:
                    foreign |= runs(message["content"])
    assert not shared_runs(foreign)
