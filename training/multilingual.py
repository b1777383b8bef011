"""User turns in many languages, and weights that keep the language of a text from being a label.

`multilingual_LANGUAGES.jsonl` has hand-written lines: a harmful text with its categories and a harmless twin in the
same language, style and length, or a harmless text alone. Texts hold requests and statements, never instructions.
Templates multiply them in ways that fit every language: without capital letters and punctuation, without accents, with
a harmless text of the same language around them, as the second text of a pair. Harmful and harmless texts get the same
templates. All texts were written for this project. A tenth of the lines, by hash, is held out.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.example import Example
from training.plainharm import made_labels

PATTERN = "multilingual_*.jsonl"
ENGLISH = "en"
_WEIGHT = 0.8
_AS_REPLY = 0.12  # the share of the varied texts that answer another text
# Where the rows of a set name their language among their labels; all other sets are English.
_PLACES = {"multijail": 0, "benign_multilingual": 1, "benign_tldr": 1}
_DOTLESS_I = "\u0131"


@dataclass(frozen=True, slots=True)
class Turn:
    """A text in a language; it is harmless if it has no categories."""

    language: str
    categories: tuple[str, ...]
    text: str


def language_of(row: Mapping[str, Any]) -> str:
    """The language of a labelled row, as two letters."""
    place = _PLACES.get(row["source"])
    return ENGLISH if place is None else str(row["source_labels"][place]).partition("_")[0]


@functools.cache
def turns(*, held_out: bool = False) -> tuple[Turn, ...]:
    """The hand-written texts that are trained on, or those that are held out, in the order of the files."""
    out = []
    for file in sorted(Path(__file__).parent.glob(PATTERN)):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if _is_held_out(entry["text"]) == held_out:
                out.append(Turn(entry["language"], tuple(entry["categories"]), entry["text"]))
                if "twin" in entry:
                    out.append(Turn(entry["language"], (), entry["twin"]))
    return tuple(out)


def _is_held_out(text: str) -> bool:
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()[0] < 26


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("P")


def without_marks(text: str) -> str:
    """Lower case, without punctuation at the ends of words."""
    low = text.lower()
    ends = [after.isspace() or _is_mark(after) for after in [*low[1:], " "]]
    return "".join(char for char, ends_word in zip(low, ends, strict=False) if not (ends_word and _is_mark(char)))


def without_accents(text: str) -> str:
    """Latin letters without their accents, as people type them; other scripts keep their signs."""
    out: list[str] = []
    for char in unicodedata.normalize("NFD", text):
        follows_latin = bool(out) and unicodedata.name(out[-1], "").startswith("LATIN")
        if not (unicodedata.combining(char) and follows_latin):
            out.append(char)
    return unicodedata.normalize("NFC", "".join(out)).replace("đ", "d").replace("Đ", "D").replace(_DOTLESS_I, "i")


def varied(text: str, others: Sequence[str], rng: random.Random) -> str:
    """The text in one of its many forms; `others` are harmless texts in the same language."""
    if rng.random() < 0.35:
        parts = [text, *rng.choices(others, k=rng.choice((1, 1, 2)))]
        rng.shuffle(parts)
        text = rng.choice((" ", "\n")).join(parts)
    draw = rng.random()
    if draw < 0.3:
        text = without_marks(text)
    if 0.2 < draw < 0.5:
        text = without_accents(text)
    return text


def multilingual_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` different texts: every text once as it stands, if `count` allows, then varied ones.

    Of the varied ones as many are of each language, and half are harmful. Equal seeds give equal examples.
    """
    groups: dict[tuple[str, bool], list[Turn]] = defaultdict(list)
    for turn in turns():
        groups[turn.language, bool(turn.categories)].append(turn)
    both = sorted({language for language, is_harmful in groups if is_harmful and (language, False) in groups})
    whole = list(turns())
    rng.shuffle(whole)
    out: dict[str, Example] = {}
    while len(out) < count and (whole or both):
        question = None
        if whole:
            turn = whole.pop()
            text = turn.text
        else:
            language = rng.choice(both)
            turn = rng.choice(groups[language, rng.random() < 0.5])
            harmless = [other.text for other in groups[language, False]]
            text = varied(turn.text, harmless, rng)
            if rng.random() < _AS_REPLY:
                question = rng.choice(groups[language, rng.random() < 0.5]).text
        if text not in out:
            out[text] = _example(turn, f"multilingual-{len(out)}", text, question)
    return list(out.values())


def held_out_examples() -> list[Example]:
    """The texts that are held out, as they stand."""
    return [_example(turn, f"multilingual-held-{n}", turn.text, None) for n, turn in enumerate(turns(held_out=True))]


def _example(turn: Turn, key: str, text: str, question: str | None) -> Example:
    weight = _WEIGHT if question is None else _WEIGHT / 2
    labels = made_labels(turn.categories, weight)
    return Example(key, "multilingual", question, text, labels, "multilingual", turn.language)


def balanced(examples: Iterable[Example]) -> list[Example]:
    """The examples, weighted so that in every language the harmful and the harmless ones have the same sum of weights.

    The sum is the geometric mean of both sums. A language without harmful or without harmless examples is left out: its
    words would be evidence. So is, in a language, an output other than `unsafe` that is always 0 or always 1 there.
    """
    by_language: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_language[example.language].append(example)
    out: list[Example] = []
    for _, group in sorted(by_language.items()):
        sums: dict[tuple[str, float], float] = defaultdict(float)
        for example in group:
            for name, (value, weight) in example.labels.items():
                sums[name, value] += weight
        both = {name for name, value in sums if sums[name, value] and sums.get((name, 1 - value))}
        if "unsafe" not in both:
            continue
        middle = math.sqrt(sums["unsafe", 0.0] * sums["unsafe", 1.0])
        factors = {value: middle / sums["unsafe", value] for value in (0.0, 1.0)}
        for example in group:
            factor = factors.get(example.labels.get("unsafe", (-1.0, 0.0))[0], 1.0)
            labels = {
                name: (value, weight * factor) for name, (value, weight) in example.labels.items() if name in both
            }
            if labels:
                out.append(replace(example, labels=labels))
    return out
