"""Training examples from the labelled sets: caps, boosts, the held-out tenth, and synthetic rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.answers import answer
from training.benign import benign_examples
from training.conversations import reply_examples, thread_examples
from training.example import Example, Target
from training.labels import CATEGORIES, targets
from training.lookalikes import FAMILIES
from training.multilingual import ENGLISH, balanced, held_out_examples, language_of, multilingual_examples
from training.plainharm import plainharm_examples
from training.recipes import Recipe
from training.transform import compliance, decline, disguise, refusal, wrap


def read_rows(folder: Path, name: str = "*") -> list[dict[str, Any]]:
    """The rows of every `name`.jsonl.gz in `folder`, sets in alphabetical order. Raises FileNotFoundError."""
    files = sorted(folder.glob(f"{name}.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"{folder}: no {name}.jsonl.gz; point --data at the folder that holds train/ and dev/")
    rows: list[dict[str, Any]] = []
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows.extend(json.loads(line) | {"source": file.name.removesuffix(".jsonl.gz")} for line in lines)
    return rows


def last_exchange(row: dict[str, Any]) -> tuple[str | None, str]:
    """(Question, judged text): (last user text, reply) on the assistant side, (None, last text) on the user side."""
    text = row["messages"][-1]["content"]
    if row["side"] == "user":
        return None, text
    before = [m["content"] for m in row["messages"][:-1] if m["role"] == "user"]
    return (before[-1] if before else ""), text


def is_held_out(row: dict[str, Any]) -> bool:
    """Whether the row belongs to the held-out tenth of its set, by hash.

    gptfuzz is split by question, so that no question is on both sides.
    """
    key = f"gptfuzz-{row['question_index']}" if "question_index" in row else str(row["id"])
    return hashlib.md5(key.encode(), usedforsecurity=False).digest()[0] < 26


def plain_examples(rows: Iterable[dict[str, Any]], recipe: Recipe) -> list[Example]:
    """An example per non-empty row, with labels as the recipe weighs them; they are empty if no label is known."""
    out = []
    for row in rows:
        question, text = last_exchange(row)
        if text.strip():
            labels = targets(row, recipe.outside, recipe.implied, recipe.prose)
            out.append(Example(str(row["id"]), row["source"], question, text, labels, language=language_of(row)))
    return out


def _cap(examples: Sequence[Example], recipe: Recipe, rng: random.Random) -> list[Example]:
    by_source: dict[str, list[Example]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    out: list[Example] = []
    for source, group in sorted(by_source.items()):
        known = [e for e in group if e.labels]
        cap = int(recipe.caps.get(source, len(known)))
        chosen = rng.sample(known, cap) if cap < len(known) else known
        out.extend(chosen * recipe.boosts.get(source, 1))
    return out


def _is_request(example: Example) -> bool:
    return example.question is None and example.source in _REQUESTS and len(example.text) < 400


_REQUESTS = frozenset(
    {
        "aart", "advbench", "ailuminate_demo", "catqa", "coconot", "do_not_answer", "figstep_safebench",
        "harmfulqa", "malicious_instruct", "phtest_train", "strongreject", "benign_mtbench_vicuna",
        "benign_self_instruct", "benign_wildchat300", "wildguard_train_sample",
    }
)  # fmt: skip


_WISHES = "benign_tldr"
_RARE = ("sexual_content", "guns_illegal_weapons", "regulated_substances", "suicide_self_harm")
_SELF_CONTAINED = frozenset(
    {"airbench_sample", "benign_self_instruct", "coconot", "gptfuzz_responses", "pyrit_scorer_evals"}
)


def _is_safe(example: Example) -> bool:
    return example.labels.get("unsafe", (1.0, 0.0))[0] == 0


def _scaled(labels: dict[str, Target], factor: float) -> dict[str, Target]:
    return {name: (value, weight * factor) for name, (value, weight) in labels.items() if name != "jailbreak"}


def _all_safe(weight: float) -> dict[str, Target]:
    return dict.fromkeys(("unsafe", *CATEGORIES), (0.0, weight))


def _drawn(requests: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Draw requests with replacement, a third of them from the rare categories."""
    rare = [e for e in requests if any(e.labels.get(name, (0.0, 0.0))[0] == 1 for name in _RARE)]
    return rng.choices(requests, k=count - count // 3) + (rng.choices(rare, k=count // 3) if rare else [])


def _wrapped(requests: Sequence[Example], wrappers: Sequence[str], count: int, rng: random.Random) -> list[Example]:
    """Requests, half of them harmful, inside jailbreak wrappers, so that the wrapper alone is no evidence of harm."""
    out = []
    for value in (1, 0):
        group = [e for e in requests if e.labels["unsafe"][0] == value]
        for example in _drawn(group, count // 2, rng):
            labels = _scaled(example.labels, 0.6 if value else 0.3) | {"jailbreak": (1.0, 1.0)}
            out.append(replace(example, text=wrap(rng.choice(wrappers), example.text), labels=labels, made="wrap"))
    return out


def _pairs(requests: Sequence[Example], texts: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Reply rows whose reply alone decides: refusals, compliant openings, and unrelated texts as replies."""
    out = []
    for example in _drawn(requests, count, rng):
        question = example.text
        kind = rng.random()
        if kind < 0.35:
            labels, reply = _all_safe(0.7), refusal(rng)
        elif kind < 0.65:
            made = compliance(question, rng)
            if made is None:
                continue
            labels, reply = _scaled(example.labels, 0.6), made
        else:
            other = rng.choice(texts)
            labels, reply = _scaled(other.labels, 0.5), other.text
        out.append(Example(example.key, example.source, question, reply, labels, "pair"))
    return out


def _swapped(replies: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Safe and unsafe replies as user turns: prose, as users paste it."""
    chosen = [e for e in replies if e.source in _SELF_CONTAINED and len(e.text) > 40]
    return [
        replace(e, question=None, labels=_scaled(e.labels, 0.5), made="swap")
        for e in rng.sample(chosen, min(count, len(chosen)))
    ]


def _chunks(texts: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Runs of sentences from long harmless texts."""
    out = []
    for example in rng.choices(texts, k=count) if texts else []:
        sentences = example.text.replace("\n", " ").split(". ")
        start = rng.randrange(len(sentences))
        text = ". ".join(sentences[start : start + rng.randint(1, 6)])[:1200].strip()
        if len(text) > 30:
            out.append(replace(example, text=text, labels=_scaled(example.labels, 0.7), made="chunk"))
    return out


def _declined(requests: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Refusals of several sentences that name the harmful request: safe despite its words."""
    harmful = [e for e in requests if e.labels["unsafe"][0] == 1]
    return [
        Example(e.key, e.source, e.text, decline(e.text, rng), _all_safe(0.7), "decline")
        for e in _drawn(harmful, count, rng)
    ]


def _embedded(texts: Sequence[Example], around: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """A short hateful or sexual text inside a run of sentences from long harmless texts."""
    short = [e for e in texts if e.source in _STATEMENTS and len(e.text) < 250 and not _is_safe(e)]
    out = []
    for example in rng.choices(short, k=count) if short and around else []:
        sentences = [s for s in rng.choice(around).text.replace("\n", " ").split(". ") if s.strip()]
        start, length = rng.randrange(len(sentences)), rng.randint(1, 3)
        run = [s[:160] for s in sentences[start : start + length]]
        run.insert(rng.randint(0, len(run)), example.text.strip().rstrip("."))
        out.append(replace(example, text=". ".join(run), labels=_scaled(example.labels, 0.6), made="embed"))
    return out


def _padded(requests: Sequence[Example], around: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """A harmful or harmless request after, before or between runs of sentences from long harmless texts."""
    out = []
    for example in _drawn(requests, count, rng) if around else []:
        runs = []
        for _ in range(2):
            sentences = rng.choice(around).text.replace("\n", " ").split(". ")
            start = rng.randrange(len(sentences))
            runs.append(". ".join(sentences[start : start + rng.randint(1, 4)])[:500].strip())
        place = rng.randrange(3)
        lines = [*(runs[:1] if place != 0 else []), example.text.strip(), *(runs[1:] if place != 1 else [])]
        text = rng.choice((" ", "\n\n")).join(line for line in lines if line)
        out.append(replace(example, text=text, labels=_scaled(example.labels, 0.6), made="padded"))
    return out


def _asides(requests: Sequence[Example], around: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Harmless prose as the reply to a harmful request: safe, because it does not answer the request."""
    harmful = [e for e in requests if e.labels["unsafe"][0] == 1]
    return [
        Example(request.key, request.source, request.text, prose.text, _all_safe(0.7), "aside")
        for request, prose in zip(_drawn(harmful, count, rng), _chunks(around, count, rng), strict=False)
    ]


_STATEMENTS = frozenset({"convabuse", "davidson_hate", "edos_sexism", "hatecheck", "rtp_decodingtrust"})


def _lookalikes(counts: Mapping[str, int], rng: random.Random) -> list[Example]:
    """Texts of the families of `lookalikes.py`; a harmful text is a weak negative of the other categories."""
    out = []
    for family, count in counts.items():
        for number in range(count):
            text, unsafe, categories = FAMILIES[family](rng)
            labels = _all_safe(0.2 if unsafe else 0.7)
            labels |= dict.fromkeys(("unsafe", *categories) if unsafe else (), (1.0, 0.7))
            out.append(Example(f"{family}-{number}", family, None, text, labels, "lookalike"))
    return out


def _answers(count: int, rng: random.Random) -> list[Example]:
    """Replies of `answers.py`. A harmful reply has no label for criminal planning, unless that is its own category."""
    out = []
    for number in range(count):
        question, reply, unsafe, categories = answer(rng)
        labels = _all_safe(0.2 if unsafe else 0.7)
        if unsafe:
            labels.pop("criminal_planning")
            labels |= dict.fromkeys(("unsafe", *categories), (1.0, 0.7))
        out.append(Example(f"answer-{number}", "answer", question, reply, labels, "answer"))
    return out


def _in_languages(rows: Sequence[dict[str, Any]], recipe: Recipe, rng: random.Random) -> list[dict[str, Any]]:
    """The rows, with at most `recipe.languages` of the wishes of command-line users, in English and in others."""
    if recipe.languages is None:
        return list(rows)
    groups: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for row in rows:
        if row["source"] == _WISHES:
            groups[language_of(row) == ENGLISH].append(row)
    drawn = [
        row
        for group, count in zip(groups.values(), recipe.languages, strict=True)
        for row in rng.sample(group, min(count, len(group)))
    ]
    return [row for row in rows if row["source"] != _WISHES] + drawn


def build(rows: Sequence[dict[str, Any]], recipe: Recipe, seed: int) -> list[Example]:
    """The training examples of a recipe, from rows that are not held out; equal seeds give equal examples."""
    rng = random.Random(seed)
    everything = plain_examples(_in_languages(rows, recipe, rng), recipe)
    examples = _cap(everything, recipe, rng)
    unique = sorted({e.key: e for e in examples}.values(), key=lambda e: e.key)
    requests = [e for e in unique if _is_request(e) and "unsafe" in e.labels]
    texts = [e for e in unique if e.question is None and "unsafe" in e.labels and len(e.text) < 800]
    wrappers = [e.text for e in everything if e.source.startswith("jailbreak_")]
    replies = [e for e in unique if e.question is not None]
    long_safe = [e for e in unique if e.question is None and len(e.text) > 500 and _is_safe(e)]
    made = (
        _wrapped(requests, wrappers, recipe.wraps, rng)
        + _pairs(requests, texts, recipe.pairs, rng)
        + _swapped(replies, recipe.swaps, rng)
        + _chunks(long_safe, recipe.chunks, rng)
        + (_declined(requests, recipe.declines, rng) if recipe.declines else [])
        + _embedded(texts, long_safe, recipe.embeds, rng)
        + _lookalikes(recipe.lookalikes, rng)
        + (_padded(requests, long_safe, recipe.padded, rng) if recipe.padded else [])
        + (_asides(requests, long_safe, recipe.asides, rng) if recipe.asides else [])
        + _answers(recipe.answers, rng)
        + benign_examples(rng, recipe.benign)
        + plainharm_examples(rng, recipe.plainharm)
        + thread_examples(rng, recipe.threads)
        + reply_examples(rng, recipe.replies)
        + multilingual_examples(rng, recipe.multilingual)
    )
    disguised = [
        replace(e, text=disguise(e.text, rng), made="disguise")
        for e in rng.sample(unique, min(recipe.disguises, len(unique)))
    ]
    everything = examples + made + disguised
    few = recipe.sample is not None and recipe.sample < len(everything)
    chosen = rng.sample(everything, recipe.sample) if few else everything
    return balanced(chosen) if recipe.multilingual else chosen


def held_out(rows: Iterable[dict[str, Any]], recipe: Recipe) -> list[Example]:
    """The examples for calibration, from rows that are held out.

    Those of a multilingual recipe have its own texts too, a quarter of its caps, and its weights by language.
    """
    held = [e for e in plain_examples(rows, replace(recipe, implied=0, prose=0)) if e.labels]
    if not recipe.multilingual:
        return held
    quarter = replace(recipe, caps={source: -(-cap // 4) for source, cap in recipe.caps.items()})
    few = _cap(held, quarter, random.Random(0)) + held_out_examples()
    return balanced(sorted(few, key=lambda e: hashlib.md5(e.text.encode(), usedforsecurity=False).digest()))


def unlabelled(rows: Iterable[dict[str, Any]], recipe: Recipe, seed: int) -> list[Example]:
    """Rows without a known `unsafe` label, at most `recipe.unlabelled` per set: only a teacher gives them targets."""
    rng = random.Random(seed)
    groups: dict[str, list[Example]] = {}
    for example in plain_examples(rows, recipe):
        if "unsafe" not in example.labels:
            groups.setdefault(example.source, []).append(example)
    out: list[Example] = []
    for _, group in sorted(groups.items()):
        out.extend(rng.sample(group, min(recipe.unlabelled, len(group))))
    return out
