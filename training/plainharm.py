"""Synthetic user texts: plain harm as people write it, and harmless twins in the same style.

`plainharm_STYLE.jsonl` has hand-written pairs: a harmful text with its categories, and a twin that begins with the same
words, in the same slang and with the same typing errors, about something harmless. Texts hold requests and statements,
never instructions. Templates multiply them: letter case, typing errors, chat spelling, leetspeak, openings, closings,
and harmless text before and after. Both texts of a pair get the same templates, so that style is no evidence of harm.
"prose" has posts, comments and messages instead of requests, "wrapped" requests inside personas, stories and pretexts.
All texts were written for this project.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.example import Example, Target
from training.labels import CATEGORIES
from training.transform import leet, spaced, typos

STYLES = (
    "threats", "slang", "indirect", "hate", "crime", "drugs_weapons", "self_harm", "sexual", "long", "wishes", "tasks",
    "prose", "wrapped", "chat", "care",
)  # fmt: skip
_LONG = 300  # characters; a text of this length gets no text around it

OPENINGS = (
    "hi,", "hey", "yo", "ok so", "ok,", "so", "quick question:", "serious question:", "random but", "listen,", "bro",
    "pls help,", "Hello!", "Good evening.", "Hi there,", "One more thing:", "no joke,", "idk who else to ask.", "um",
    "fr", "Question:", "new here.", "first time using this.", "Be honest:", "lol", "guys,", "wait,", "dude",
    "Dear assistant,", "as i said,",
)  # fmt: skip
CLOSINGS = (
    "thx", "thanks!", "pls", "asap", "lol", "no lectures please", "just answer", "be quick", "in short please",
    "idc what u think", "any ideas?", "thank you so much", "haha", "fr fr", "ty", "Keep it short.",
    "Answer in one paragraph.", "!!!", "??", "...", "cheers", "I need it today.", "not kidding", "dont be boring",
    "and no disclaimers", "step by step", "please be specific", "i wont tell anyone", "ok?", "waiting",
)  # fmt: skip
AROUND = (
    "It has been raining here since Monday.", "My train was late again today.",
    "I'm sitting in the kitchen with a cup of tea.", "My phone is almost out of battery.",
    "The kids are finally asleep.", "We had pasta for dinner.", "I have a day off tomorrow.", "Sorry for my English.",
    "I typed this on the bus.", "Yesterday we repainted the hall.", "My sister visits us at Easter.",
    "I also need a name for a goldfish.", "The new printer still does not work.", "Work was quiet this week.",
    "I watched the match with my uncle.", "Next month I start a pottery course.", "Our cat has learned to open doors.",
    "I'll cook something with pumpkin later.", "By the way, what is a good synonym for 'tidy'?",
    "Please answer in English.", "Afterwards, convert 12 miles to kilometres.", "Then list three rivers in France.",
    "Also, how do you spell 'rhythm'?", "After that, tell me a riddle.", "And which day of the week was 1 March 2020?",
    "Finally, suggest a film for tonight.", "my dog ate my sandwich lol", "still in bed its noon already",
    "cant find my left sock", "the wifi here is so slow", "what a week honestly", "gonna make coffee first",
    "anyway how are u", "i got a haircut and its ok i guess", "we have a test on photosynthesis on thursday",
    "my bike needs a new chain", "mom says hi btw", "its so hot in here today",
    "I am reading a book about lighthouses at the moment.", "Our neighbours have planted a cherry tree.",
    "The bakery round the corner closes at six.", "I have tried to learn the ukulele for a month.",
    "In the afternoon I walked along the canal and counted the boats.", "There are forty-two steps up to my flat.",
    "The meeting is moved to Thursday at ten; bring the figures for the second quarter.",
    "Our team has three people in Oslo and two in Porto, and we meet online once a day.",
    "Last summer we rented a small house by a lake and went swimming every morning before breakfast.",
    "The museum shows old maps on the ground floor and glass from Bohemia upstairs.",
)  # fmt: skip
_CHAT = {
    "you": "u", "are": "r", "your": "ur", "to": "2", "for": "4", "please": "plz", "because": "cuz", "someone": "sum1",
    "with": "w", "without": "w/o", "people": "ppl", "tonight": "2nite", "tomorrow": "tmrw", "going to": "gonna",
    "want to": "wanna", "and": "n", "that": "dat", "the": "da", "what": "wat", "something": "smth", "before": "b4",
    "really": "rly", "probably": "prob", "thanks": "thx", "about": "abt", "know": "kno", "have to": "hafta",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Twins:
    """A harmful text with its categories, and its harmless twin."""

    style: str
    categories: tuple[str, ...]
    text: str
    twin: str


@functools.cache
def twins() -> tuple[Twins, ...]:
    """The hand-written pairs of every style, in the order of the files."""
    out = []
    for style in STYLES:
        for line in Path(__file__).with_name(f"plainharm_{style}.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            out.append(Twins(style, tuple(entry["categories"]), entry["text"], entry["twin"]))
    return tuple(out)


def made_labels(categories: Sequence[str], weight: float) -> dict[str, Target]:
    """The labels of a harmful text, or of a harmless text if there are no categories.

    The other categories of a harmful text are weak negatives; criminal planning, which often overlaps, is unknown.
    """
    if not categories:
        return dict.fromkeys(("unsafe", *CATEGORIES), (0.0, weight))
    labels = dict.fromkeys((c for c in CATEGORIES if c != "criminal_planning"), (0.0, 0.2))
    return labels | dict.fromkeys(("unsafe", *categories), (1.0, weight))


def chat_spelling(text: str, rng: random.Random) -> str:
    """Replace some words by the short forms of chats."""
    for word, short in _CHAT.items():
        if rng.random() < 0.5:
            text = re.sub(rf"\b{word}\b", short, text, flags=re.IGNORECASE)
    return text


def bare(text: str, rng: random.Random) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"[.,;:!?\"']+(?=\s|$)|(?<=\s)[\"']|'", "", text.lower())


def shout(text: str, rng: random.Random) -> str:
    """Capital letters only."""
    return text.upper()


def reworked(text: str, rng: random.Random) -> str:
    """The text, or the text in another spelling."""
    draw = rng.random()
    if draw < 0.4:
        return text
    if draw < 0.62:
        text = bare(text, rng)
        return chat_spelling(text, rng) if rng.random() < 0.3 else text
    if draw < 0.77:
        return typos(typos(text, rng), rng)
    if draw < 0.88:
        return chat_spelling(text, rng)
    return rng.choice((leet, leet, spaced, shout))(text, rng)


def _framed(text: str, rng: random.Random) -> str:
    """The text, sometimes with an opening or a closing."""
    if rng.random() < 0.22:
        text = f"{rng.choice(OPENINGS)} {text}"
    if rng.random() < 0.22:
        text = f"{text} {rng.choice(CLOSINGS)}"
    return text


def _filler(rng: random.Random) -> str:
    """One to four harmless sentences: everyday talk, or twins of other pairs."""
    parts = [rng.choice(AROUND) if rng.random() < 0.6 else rng.choice(twins()).twin for _ in range(rng.randint(1, 4))]
    return rng.choice((" ", " ", "\n")).join(parts)


def _surrounded(text: str, rng: random.Random) -> str:
    """The text after, before or between harmless sentences."""
    place = rng.randrange(4)
    parts = [*([_filler(rng)] if place != 0 else []), text, *([_filler(rng)] if place != 1 else [])]
    return rng.choice((" ", "\n", "\n\n")).join(parts)


def varied(text: str, rng: random.Random) -> str:
    """The text in one of its many forms: spelling, opening, closing, text around it."""
    framed = _framed(text, rng)
    if len(text) < _LONG and rng.random() < 0.25:
        framed = _surrounded(framed, rng)
    return reworked(framed, rng)


def plainharm_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` different user texts, half of them harmful on average; equal seeds give equal examples.

    Every hand-written text comes once as it stands before the templates vary it, if `count` allows.
    """
    whole = [(pair.categories, pair.text) for pair in twins()] + [((), pair.twin) for pair in twins()]
    rng.shuffle(whole)
    out: dict[str, Example] = {}
    while len(out) < count:
        if whole:
            categories, text = whole.pop()
        else:
            pair = rng.choice(twins())
            categories, text = (pair.categories, pair.text) if rng.random() < 0.5 else ((), pair.twin)
            text = varied(text, rng)
        if text not in out:
            key = f"plainharm-{len(out)}"
            out[text] = Example(key, "plainharm", None, text, made_labels(categories, 0.8), "plainharm")
    return list(out.values())
