"""The texts for evaluation: their promised make-up, and that no training learns from them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guardproxy.evaluation.datasets import read
from training import overlap
from training.labels import CATEGORIES
from training.lookalikes import FAMILIES
from training.mixture import build, read_rows
from training.recipes import Recipe

EVERYDAY, HARMFUL, MULTITURN = overlap.EVALUATION


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def last_texts() -> list[str]:
    """The judged text of every row of all files."""
    return [row["messages"][-1]["content"] for file in overlap.EVALUATION for row in rows_of(file)]


def test_everyday_prompts_are_harmless_and_of_many_trades() -> None:
    """300 safe prompts on at least thirty subjects; about half have words of harm; some are conversations."""
    rows = rows_of(EVERYDAY)
    assert len(rows) == 300
    assert all(row["unsafe"] == 0 and row["labels"] == dict.fromkeys(CATEGORIES, 0) for row in rows)
    assert len({row["topic"] for row in rows}) >= 30
    wording = Counter(row["wording"] for row in rows)
    assert set(wording) == {"harm", "plain"}
    assert 130 <= wording["harm"] <= 170
    assert 25 <= sum(len(row["messages"]) > 1 for row in rows) <= 35
    styles = {"one_line", "few_sentences", "paragraph", "code", "log", "typos", "chat", "conversation"}
    assert {row["style"] for row in rows} == styles


def test_harmful_prompts_cover_every_category_and_style() -> None:
    """150 unsafe prompts, each of one category; every category has at least fifteen, every style at least five."""
    rows = rows_of(HARMFUL)
    assert len(rows) == 150
    assert all(row["unsafe"] == 1 and len(row["labels"]) == 1 for row in rows)
    assert all(row["labels"] == {row["topic"]: 1} for row in rows)
    categories = Counter(row["topic"] for row in rows)
    assert set(categories) == set(CATEGORIES)
    assert min(categories.values()) >= 15
    assert min(Counter(row["style"] for row in rows).values()) >= 5


def test_multiturn_conversations_are_of_both_kinds() -> None:
    """Attacks over several user turns and harmless chats, enough of each, of similar length."""
    rows = rows_of(MULTITURN)
    turns = {label: [len(row["messages"]) for row in rows if row["unsafe"] == label] for label in (0, 1)}
    assert min(len(numbers) for numbers in turns.values()) >= 70
    assert all(3 <= number <= 9 and number % 2 for numbers in turns.values() for number in numbers)
    assert all([m["role"] for m in row["messages"]][:3] == ["user", "assistant", "user"] for row in rows)


def test_every_prompt_is_a_readable_row_of_its_own() -> None:
    """`evaluate` reads every row as a user's turn; ids and texts are unique over all files."""
    for file in overlap.EVALUATION:
        data = read(file)
        assert data.kind == "guardproxy"
        assert {row.check.side for row in data.rows} == {"user"}
        assert {row["source"] for row in rows_of(file)} == {file.stem}
        assert {row["confidence"] for row in rows_of(file)} == {"gold"}
    ids = [row["id"] for file in overlap.EVALUATION for row in rows_of(file)]
    assert len(set(ids)) == len(ids)
    assert len(set(last_texts())) == len(ids)


def test_no_evaluation_text_is_in_the_training_texts() -> None:
    """No evaluation text shares a run of six words with a module or file that training examples are made from."""
    assert overlap.main([]) == 0


def test_a_borrowed_phrase_is_found_with_both_places(tmp_path: Path) -> None:
    """Case, apostrophes and punctuation do not hide a run; a short text matches only as a whole."""
    module = tmp_path / "templates.py"
    module.write_text('TEXTS = ("Mow the lawn, but DON\'T wake {person}, please!", "Good day")\n')
    evaluation = [
        ("a:1", "mow the lawn but dont wake anybody"),
        ("a:2", "good day"),
        ("a:3", "a good day to all of you"),
    ]
    assert overlap.shared(evaluation, overlap.module_texts(module)) == [
        ("mow the lawn but dont wake", "a:1", "templates.py:1"),
        ("good day", "a:2", "templates.py:1"),
    ]


def test_labelled_rows_are_searched_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy in train/ or dev/ is reported, and the exit status is 1; a folder without rows is an error."""
    (tmp_path / "dev").mkdir()
    copy = {"messages": [{"role": "user", "content": rows_of(EVERYDAY)[0]["messages"][0]["content"]}]}
    (tmp_path / "dev" / "copied.jsonl.gz").write_bytes(gzip.compress(json.dumps(copy).encode()))
    assert overlap.main(["--data", str(tmp_path)]) == 1
    assert "is also in copied.jsonl.gz:1" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="point --data at the folder"):
        overlap.main(["--data", str(tmp_path / "dev")])


def test_training_never_reads_the_evaluation_files() -> None:
    """Rows come from .jsonl.gz files only, no other module names these files, and no synthetic row has their text."""
    with pytest.raises(FileNotFoundError):
        read_rows(overlap.FOLDER)
    names = [file.name for file in overlap.EVALUATION]
    modules = [module for module in overlap.FOLDER.glob("*.py") if module.name != "overlap.py"]
    texts = [placed for module in modules for placed in overlap.module_texts(module)]
    assert not [place for place, text in texts if any(name in text for name in names)]
    counts = dict.fromkeys(FAMILIES, 1000)
    recipe = Recipe(wraps=0, pairs=0, swaps=0, chunks=0, disguises=0, lookalikes=counts, answers=1000)
    made = {text for example in build([], recipe, 0) for text in (example.question, example.text)}
    assert len(made) > 1000
    assert not made & set(last_texts())
