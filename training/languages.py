"""Trains the detector of languages in the Latin alphabet (`guardproxy/languages/latin.py`) and writes its weights.

    python -m training.languages --data ../shared/data

It reads `train/` only. The rows of other languages are those of benign_multilingual, multijail and benign_tldr, and
rows made of frequent words (`function_words.json`): of languages with few rows, and of languages with none, which the
detector calls `other`. The English rows are those of the same sets and of other sets of `train/`.
"""

from __future__ import annotations

import argparse
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from guardproxy.languages import latin
from training.mixture import read_rows

_WORDS = json.loads((Path(__file__).parent / "function_words.json").read_text("utf-8"))
FUNCTION_WORDS: dict[str, str] = _WORDS["named"]
UNNAMED: dict[str, str] = _WORDS["unnamed"]
LABELED = {"benign_multilingual": 1, "multijail": 0, "benign_tldr": 1}
ENGLISH = (
    *("aart", "benign_self_instruct", "benign_taskmaster4", "benign_mtbench_vicuna", "benign_awesome_prompts"),
    *("convabuse", "cyberseceval_mitre", "davidson_hate", "diasafety", "edos_sexism", "hatecheck", "phtest_train"),
    *("coconot", "harmfulqa", "wildguard_train_sample", "pyrit_scorer_evals", "reddit_mental_health_27"),
    *("rtp_decodingtrust", "gptfuzz_responses", "do_not_answer", "jailbreak_prompts_inthewild"),
)
OTHER = "other"
PER_ENGLISH_SET = 3000
PER_LANGUAGE = 6000  # windows of a language, most of them cut from the same rows
MADE = 1200  # windows made of the frequent words of a language
SHORTEST = 10  # letters
EPOCHS = 6
EPOCHS_TO_CLEAN = 2
DECAY = 2e-6
_CODE = (
    "def int var let const func fn return if else elif for while import from class self void public static string null "
    "none true false print echo sudo grep sed awk curl git docker kubectl npm pip select insert where join std cout "
    "vector printf malloc foreach endif stdin stdout argv argc enum struct impl pub mut async await yield lambda"
)


def named_rows(data: Path) -> Iterator[tuple[str, str]]:
    """The language and the text of every row with a language, without the languages that the script alone decides."""
    for source, place in LABELED.items():
        for row in read_rows(data / "train", source):
            yield row["source_labels"][place].partition("_")[0], row["messages"][-1]["content"]


def english_rows(data: Path, rng: random.Random) -> Iterator[str]:
    """English texts of other sets, at most PER_ENGLISH_SET from each."""
    for source in ENGLISH:
        rows = read_rows(data / "train", source)
        rng.shuffle(rows)
        for row in rows[:PER_ENGLISH_SET]:
            yield row["messages"][-1]["content"][:2000]


def window_texts(text: str) -> list[list[str]]:
    """The words of each window of a text that has letters enough."""
    return [window.text.split() for window in latin.windows(text) if window.letters >= SHORTEST]


def crops(words: list[str], rng: random.Random, copies: int) -> Iterator[str]:
    """Pieces of a window: whole, and `copies` times a part of it, with accents or without."""
    for copy in range(copies + 1):
        count = len(words) if copy == 0 else rng.randint(min(3, len(words)), len(words))
        start = rng.randint(0, len(words) - count)
        piece = f" {' '.join(words[start : start + count])} "
        yield plain(piece) if copy and rng.random() < 0.4 else piece


def plain(text: str) -> str:
    """The text without accents, as people without the keyboard for them write."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return bare.replace("đ", "d").replace("\u0131", "i").replace("ł", "l").replace("ø", "o")


def made(words: str, rng: random.Random) -> Iterator[str]:
    """Windows of random frequent words."""
    known = words.split()
    for _ in range(MADE):
        yield f" {' '.join(rng.choices(known, k=rng.randint(3, 10)))} "


def no_words(rng: random.Random) -> Iterator[str]:
    """Random letters, and words of programming languages in random order."""
    code = _CODE.split()
    for number in range(4 * MADE):
        if number % 2:
            yield f" {' '.join(rng.choices(code, k=rng.randint(3, 9)))} "
            continue
        letters = rng.choice(["bcdfghjklmnpqrstvwxyz", "abcdefghijklmnopqrstuvwxyz"])
        yield f" {' '.join(''.join(rng.choices(letters, k=rng.randint(2, 12))) for _ in range(rng.randint(2, 6)))} "


def samples(data: Path, rng: random.Random) -> list[tuple[str, str]]:
    """(Label, window) of all examples."""
    by_label: dict[str, list[list[str]]] = {label: [] for label in (*FUNCTION_WORDS, latin.ENGLISH)}
    for label, text in named_rows(data):
        if label in by_label:
            by_label[label] += window_texts(text)
    for text in english_rows(data, rng):
        by_label[latin.ENGLISH] += window_texts(text)
    out = []
    for label, rows in by_label.items():
        copies = 1 if label == latin.ENGLISH else max(1, min(40, PER_LANGUAGE // max(1, len(rows))))
        out += [(label, piece) for words in rows for piece in crops(words, rng, copies)]
    out += [(label, piece) for label, words in FUNCTION_WORDS.items() for piece in made(words, rng)]
    out += [(OTHER, piece) for words in UNNAMED.values() for piece in made(words, rng)]
    out += [(latin.NO_LANGUAGE, piece) for piece in no_words(rng)]
    return out


class Batches:
    """The hashed n-grams of all examples in one array, and batches of it."""

    def __init__(self, examples: list[tuple[str, str]], labels: list[str]) -> None:
        grams = [np.concatenate(list(latin.hashes(text))) for _, text in examples]
        self.sizes = np.array([len(one) for one in grams])
        self.starts = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        self.grams = np.concatenate(grams).astype(np.int64)
        self.lengths = np.array([len(text) for _, text in examples])
        self.targets = np.array([labels.index(label) for label, _ in examples])

    def get(self, indices: Any) -> tuple[Any, ...]:
        """The n-grams, offsets, scales and targets of the examples at `indices`."""
        grams = np.concatenate([self.grams[self.starts[i] : self.starts[i] + self.sizes[i]] for i in indices])
        offsets = np.concatenate(([0], np.cumsum(self.sizes[indices])[:-1]))
        scale = 1 / np.sqrt(len(latin.NGRAMS) * self.lengths[indices])
        return (
            torch.from_numpy(grams),
            torch.from_numpy(offsets),
            torch.from_numpy(scale).float()[:, None],
            torch.from_numpy(self.targets[indices]),
        )


def fit(examples: list[tuple[str, str]], labels: list[str], seed: int, epochs: int) -> Any:
    """The table of weights: multinomial logistic regression with Adam."""
    torch.manual_seed(seed)
    batches, counts = Batches(examples, labels), Counter(label for label, _ in examples)
    table = nn.EmbeddingBag(latin.BUCKETS, len(labels), mode="sum")
    nn.init.zeros_(table.weight)
    # The square root: English is the most frequent language of the traffic too.
    weight = torch.tensor([counts[label] ** -0.5 for label in labels])
    loss_of = nn.CrossEntropyLoss(weight=weight / weight.mean())
    size, order = 512, np.random.default_rng(seed)
    total = epochs * (len(examples) // size)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.08)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, 1 - step / total))
    for epoch in range(epochs):
        running = 0.0
        shuffled = order.permutation(len(examples))
        for start in range(0, len(shuffled) - size + 1, size):
            grams, offsets, scale, target = batches.get(shuffled[start : start + size])
            scores = table(grams, offsets) * scale
            loss = loss_of(scores, target) + DECAY * table.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            running += loss.item()
        print(f"epoch {epoch + 1}: loss {running * size / len(shuffled):.4f}", flush=True)
    return table.weight.detach().numpy()


def cleaned(examples: list[tuple[str, str]], labels: list[str], table: Any) -> list[tuple[str, str]]:
    """The examples without those from English rows that `table` takes for another language: many are in it."""
    batches, out = Batches(examples, labels), []
    for index, (label, text) in enumerate(examples):
        if label == latin.ENGLISH:
            start = batches.starts[index]
            sums = table[batches.grams[start : start + batches.sizes[index]]].sum(axis=0)
            if labels[int(sums.argmax())] not in (latin.ENGLISH, latin.NO_LANGUAGE):
                continue
        out.append((label, text))
    return out


def save(table: Any, labels: list[str], path: Path) -> None:
    """Write the weights as 8-bit integers with one scale."""
    scale = np.float32(np.percentile(np.abs(table), 99.995) / 127)
    small = np.clip(np.rint(table / scale), -127, 127).astype(np.int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, table=small, scale=scale, labels=np.array(labels))
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=latin.WEIGHTS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    examples = samples(options.data, random.Random(options.seed))
    labels = [latin.ENGLISH, latin.NO_LANGUAGE, OTHER, *FUNCTION_WORDS]
    print(f"{len(examples):,} windows: {dict(Counter(label for label, _ in examples))}")
    first = fit(examples, labels, options.seed, EPOCHS_TO_CLEAN)
    kept = cleaned(examples, labels, first)
    print(f"{len(examples) - len(kept):,} windows of English rows are in another language")
    save(fit(kept, labels, options.seed, EPOCHS), labels, options.out)


if __name__ == "__main__":
    main()
