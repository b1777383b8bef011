"""Synthetic harmless user turns that sound harmful: homonyms, protection from harm, facts, medicine, security lessons.

`benign_lines.jsonl` has single texts ("text"), `benign_talks.jsonl` conversations ("turns", user and assistant in turn,
the last one of the user), and `benign_frames.jsonl` grammars: sentences ("frames") with slots, where every filling of
every slot fits. All texts were written for this project; none is a development row or a canary.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import transform
from training.example import Example
from training.labels import CATEGORIES

Entry = dict[str, Any]

MOST_OF_A_GRAMMAR = 40  # texts that one grammar gives
LAST_TURNS = 4  # user turns of a conversation that are joined to one text
SHAPED = 0.25  # share of the texts that get another shape
WEIGHT = 0.9
_SHORT = 200  # characters; only texts up to this length get another shape

_GREETINGS = (
    "Hi! {x}", "hey, {x}", "Hello there. {x}", "Good morning, {x}", "Quick question: {x}", "hi again. {x}",
    "Not sure whether this is the right place. {x}", "Sorry if this sounds odd. {x}", "ok so {x}",
    "Asking for a friend, really: {x}", "Follow-up: {x}", "Dear assistant, {x}", "One more thing. {x}", "Q: {x}\nA:",
)  # fmt: skip
_ENDINGS = (
    "{x} Thanks!", "{x} thx", "{x} Please keep it short.", "{x} I have ten minutes.", "{x} Any help is welcome.",
    "{x} pls explain like i'm five", "{x} A list would be great.", "{x} (for a blog post)",
    "{x} Sources, if you have any.", "{x} I am a beginner.", "{x} Answer in English, please.", "{x} 🙏",
)  # fmt: skip


# How somebody types a text in a chat: lower case, typing errors, leetspeak, a greeting, an ending, a title.
_SHAPES: tuple[Callable[[str, random.Random], str], ...] = (
    lambda text, _: text.lower().rstrip(".?!"),
    lambda text, rng: transform.typos(text.lower().replace("'", ""), rng),
    lambda text, rng: rng.choice(_GREETINGS).format(x=text),
    lambda text, rng: rng.choice(_ENDINGS).format(x=text),
    lambda text, _: text.title().rstrip(".?!"),
    transform.typos,
    transform.leet,
)


@functools.cache
def entries(name: str) -> tuple[Entry, ...]:
    """The entries of `benign_NAME.jsonl`."""
    lines = Path(__file__).with_name(f"benign_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def filled(grammar: Entry, rng: random.Random) -> list[str]:
    """At most MOST_OF_A_GRAMMAR texts; two of them differ in at least two of frame and slots.

    The two shortest lists of options are combined freely, and the sum of their positions decides every other option.
    """
    lists = {name: rng.sample(options, len(options)) for name, options in grammar.items() if name != "theme"}
    first, second, *others = sorted(lists, key=lambda name: len(lists[name]))
    places = [(i, j) for i in range(len(lists[first])) for j in range(len(lists[second]))]
    out = []
    for i, j in rng.sample(places, min(MOST_OF_A_GRAMMAR, len(places))):
        chosen = {first: lists[first][i], second: lists[second][j]}
        chosen |= {name: lists[name][(i + j) % len(lists[name])] for name in others}
        text = chosen.pop("frames").format(**chosen)
        out.append(text[0].upper() + text[1:])
    return out


def joined(turns: list[str]) -> str:
    """The last LAST_TURNS user turns of a conversation, as a guard reads them in their context."""
    return "\n".join(turns[::2][-LAST_TURNS:])


def _texts(rng: random.Random) -> dict[str, str]:
    """Every distinct text, and the kind of entry that it comes from."""
    texts = {entry["text"]: "line" for entry in entries("lines")}
    texts |= {joined(entry["turns"]): "talk" for entry in entries("talks")}
    texts |= {entry["turns"][-1]: "turn" for entry in entries("talks")}
    for grammar in entries("frames"):
        texts |= dict.fromkeys(filled(grammar, rng), "frame")
    return texts


def benign_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` distinct harmless user turns; equal seeds give equal examples. Raises ValueError if there are fewer."""
    texts = _texts(rng)
    if count > len(texts):
        raise ValueError(f"benign_examples: {count} texts wanted, but there are {len(texts)}; ask for fewer")
    labels = dict.fromkeys(("unsafe", *CATEGORIES), (0.0, WEIGHT)) | {"jailbreak": (0.0, 0.5)}
    out: dict[str, Example] = {}
    for number, text in enumerate(rng.sample(sorted(texts), count)):
        changed = rng.choice(_SHAPES)(text, rng) if len(text) <= _SHORT and rng.random() < SHAPED else text
        final = text if changed in texts or changed in out else changed
        out[final] = Example(f"benign-{number}", "benign_made", None, final, dict(labels), texts[text])
    return list(out.values())
