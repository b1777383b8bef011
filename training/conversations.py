"""Synthetic conversations and replies: harm across the user turns, and replies that alone decide.

Hand-written texts lie in four files. `conversations_halves.jsonl`: a harmful and a harmless first turn, and the second
turn that follows both, so that only the two together are harmful. `conversations_whole.jsonl`: conversations of up to
eight messages, user and assistant in turn, with the label of all user turns together (`categories`) and of the last
turn alone (`last`; null if it is unclear). `conversations_replies.jsonl`: a question with its categories of harm, and a
reply of a kind: "outline" and "partial" comply in vague words, "hollow" talks about it without substance, "refusal",
"aside" (about something else), "harmless" (a harmless question too). `conversations_steps.jsonl`: vague steps for made
replies. No text holds instructions that anybody could follow. All texts were written for this project.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.example import Example, Target
from training.plainharm import AROUND, made_labels, reworked, twins, varied
from training.transform import decline, refusal

COMPLIANT = frozenset({"outline", "partial"})
_WEIGHTS = {"hollow": 0.5, "partial": 0.5}
_WEIGHT = 0.7

ANSWERS = (
    "Sure, tell me more.", "I see.", "What would you like to know?", "Okay. How can I help?", "Got it.", "Understood.",
    "Thanks for the context.", "Alright, go on.", "That is good to know.", "Interesting. What is your question?",
)  # fmt: skip
LEADS = (
    "Sure!", "Of course.", "Okay, here is how it goes.", "Gladly.", "No problem.", "Yes.", "Here you go:",
    "Good question!", "Absolutely.", "This is easy.", "Let me explain.", "As you wish.",
)  # fmt: skip
HEDGES = (
    "I should not tell you this, but", "This is for information only.", "I do not recommend it. Still,",
    "Be careful, okay?", "Normally I would say no.", "Please think twice. Anyway,",
    "It may be illegal where you live, however:",
)  # fmt: skip
TAILS = (
    "Good luck!", "Let me know how it went.", "Anything else?", "I hope this helps.",
    "Tell me if you need more details.", "That is all.", "Have fun!", "Stay safe.", "Shall I go on?",
)  # fmt: skip
STEPS = (
    "Step 1: {a}. Step 2: {b}. Step 3: {c}.", "1. {A}\n2. {B}\n3. {C}", "First, {a}. Then {b}. Finally, {c}.",
    "You could {a}, and after that {b}.", "It is best to {a}. Then {b}, and {c}.", "just {a}, {b} and {c}. done.",
    "- {A}\n- {B}\n- {C}", "I would {a}. If it works, {b}.", "{A}. {B}. {C}.", "You need to {a} and {b}; then {c}.",
)  # fmt: skip
EMPTY = (
    "There is much to say about this. It depends on many things, and every case is different.",
    "This has been discussed for a long time, and opinions differ. It is a wide field.",
    "Some say one thing, others say another. In the end you have to make up your own mind.",
    "A question like this has no short answer. It has a past, a present and a future.",
    "Many films and books deal with this. Which of them do you like best?",
    "I know what you mean. It is one of those things. What makes you think of it?",
    "That word comes up a lot lately. I could name a few general points, but they would not say much.",
    "First comes the beginning, then the middle, and finally the end. The details are details.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thread:
    """Messages of user and assistant in turn, the categories of all user turns together, the label of the last turn."""

    messages: tuple[str, ...]
    categories: tuple[str, ...]
    last: int | None

    @property
    def user_turns(self) -> tuple[str, ...]:
        """What the user wrote."""
        return self.messages[::2]


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, its reply, the kind of the reply, and the categories of its harm (of the question's, if harmless)."""

    kind: str
    categories: tuple[str, ...]
    question: str
    text: str


def _entries(name: str) -> Iterator[dict[str, Any]]:
    for line in Path(__file__).with_name(f"conversations_{name}.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


@functools.cache
def threads() -> tuple[Thread, ...]:
    """The hand-written conversations; both that halves make, and whole ones."""
    out = []
    for number, entry in enumerate(_entries("halves")):
        between = ANSWERS[number % len(ANSWERS)]
        out.append(Thread((entry["harmful"], between, entry["second"]), tuple(entry["categories"]), None))
        out.append(Thread((entry["harmless"], between, entry["second"]), (), None))
    whole = (Thread(tuple(e["messages"]), tuple(e["categories"]), e["last"]) for e in _entries("whole"))
    return (*out, *whole)


@functools.cache
def replies() -> tuple[Reply, ...]:
    """The hand-written replies."""
    return tuple(Reply(e["kind"], tuple(e["categories"]), e["question"], e["reply"]) for e in _entries("replies"))


@functools.cache
def _steps() -> dict[tuple[str, ...], list[str]]:
    out: dict[tuple[str, ...], list[str]] = {}
    for entry in _entries("steps"):
        out.setdefault(tuple(entry["categories"]), []).append(entry["step"])
    return out


def _small_talk(rng: random.Random) -> str:
    return rng.choice(AROUND) if rng.random() < 0.4 else varied(rng.choice(twins()).twin, rng)


def _grown(rng: random.Random) -> tuple[tuple[str, ...], list[str]]:
    """A hand-written conversation with other spelling, or with harmless turns before it."""
    thread = rng.choice(threads())
    turns = [reworked(turn, rng) if rng.random() < 0.4 else turn for turn in thread.user_turns]
    before = [_small_talk(rng) for _ in range(rng.randint(0, 4 - len(turns)))]
    return thread.categories, before + turns


def _mixed(rng: random.Random) -> tuple[tuple[str, ...], list[str]]:
    """Harmless turns; in half of the draws a turn of plain harm takes a place, more often than not the last."""
    turns = [_small_talk(rng) for _ in range(rng.randint(2, 4))]
    if rng.random() < 0.5:
        return (), turns
    pair = rng.choice(twins())
    place = len(turns) - 1 if rng.random() < 0.6 else rng.randrange(len(turns))
    turns[place] = varied(pair.text, rng)
    return pair.categories, turns


def thread_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` different conversations as one user text: the user turns, a line each; equal seeds give equal examples.

    Every hand-written conversation comes once as it stands before the templates vary it, if `count` allows.
    """
    whole = list(threads())
    rng.shuffle(whole)
    out: dict[str, Example] = {}
    while len(out) < count:
        if whole:
            thread = whole.pop()
            categories, turns = thread.categories, list(thread.user_turns)
        else:
            categories, turns = (_grown if rng.random() < 0.6 else _mixed)(rng)
        text = "\n".join(turns)
        out.setdefault(text, Example(f"thread-{len(out)}", "thread", None, text, _labels(categories), "thread"))
    return list(out.values())


def last_turn_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` different last turns of hand-written conversations, alone, if their label is known; first unvaried."""
    known = [thread for thread in threads() if thread.last is not None]
    whole = rng.sample(known, len(known))
    out: dict[str, Example] = {}
    while len(out) < count:
        varies = not whole
        thread = rng.choice(known) if varies else whole.pop()
        text = varied(thread.messages[-1], rng) if varies else thread.messages[-1]
        labels = _labels(thread.categories if thread.last else ())
        out.setdefault(text, Example(f"turn-{len(out)}", "thread", None, text, labels, "turn"))
    return list(out.values())


def _labels(categories: Sequence[str], kind: str = "") -> dict[str, Target]:
    return made_labels(categories, _WEIGHTS.get(kind, _WEIGHT))


def _of_kind(*kinds: str) -> tuple[Reply, ...]:
    return tuple(reply for reply in replies() if reply.kind in kinds)


def _listed(steps: Sequence[str], rng: random.Random) -> str:
    a, b, c = rng.sample(steps, 3)
    upper = {name: text[0].upper() + text[1:] for name, text in zip("ABC", (a, b, c), strict=True)}
    return rng.choice(STEPS).format(a=a, b=b, c=c, **upper)


def _ended(text: str, rng: random.Random) -> str:
    """The reply, sometimes with a lead or a closing sentence, as compliant and harmless replies share them."""
    lead = rng.choice(LEADS) + " " if rng.random() < 0.4 else ""
    return lead + text + (" " + rng.choice(TAILS) if rng.random() < 0.3 else "")


def _question(rng: random.Random, *, harmful: bool, category: str | None = None) -> str:
    pairs = [pair for pair in twins() if category is None or category in pair.categories]
    pair = rng.choice(pairs)
    text = pair.text if harmful else pair.twin
    return reworked(text, rng) if rng.random() < 0.3 else text


def _complies(rng: random.Random) -> Reply:
    """A reply in outline after a question of its category, or after a harmless question."""
    categories = rng.choice([key for key in _steps() if key])
    if rng.random() < 0.5:
        text = _listed(_steps()[categories], rng)
    else:
        text = rng.choice([reply for reply in _of_kind("outline") if reply.categories == categories]).text
    kind = "outline"
    if rng.random() < 0.25:
        kind, text = "partial", f"{rng.choice((*HEDGES, refusal(rng) + ' But'))} {text}"
    return Reply(
        kind, categories, _question(rng, harmful=rng.random() < 0.85, category=categories[0]), _ended(text, rng)
    )


def _refuses(rng: random.Random) -> Reply:
    question = _question(rng, harmful=True)
    text = rng.choice(_of_kind("refusal")).text if rng.random() < 0.3 else decline(question, rng)
    return Reply("refusal", (), question, text)


def _says_nothing(rng: random.Random) -> Reply:
    text = " ".join(rng.sample(EMPTY, rng.randint(1, 2))) if rng.random() < 0.5 else rng.choice(_of_kind("hollow")).text
    return Reply("hollow", (), _question(rng, harmful=True), _ended(text, rng))


def _helps(rng: random.Random) -> Reply:
    """A harmless reply, often with steps, after a harmful or a harmless question."""
    if rng.random() < 0.6:
        text = _ended(_listed(_steps()[()], rng), rng)
    else:
        text = rng.choice(_of_kind("aside", "harmless")).text
    return Reply("aside", (), _question(rng, harmful=rng.random() < 0.5), text)


def _unasked(rng: random.Random) -> Reply:
    """A hand-written reply without its question, as the guard also reads a reply."""
    reply = rng.choice([reply for reply in replies() if reply.kind not in _WEIGHTS])
    return replace(reply, question="")


_MAKERS: tuple[tuple[Callable[[random.Random], Reply], int], ...] = (
    (_complies, 36), (_refuses, 12), (_says_nothing, 8), (_helps, 24), (_unasked, 20),
)  # fmt: skip


def reply_examples(rng: random.Random, count: int) -> list[Example]:
    """`count` different pairs of question and reply, labelled by the reply; equal seeds give equal examples.

    Every hand-written pair comes once as it stands before the templates make others, if `count` allows.
    """
    whole = list(replies())
    rng.shuffle(whole)
    makers, shares = zip(*_MAKERS, strict=True)
    out: dict[tuple[str, str], Example] = {}
    while len(out) < count:
        reply = whole.pop() if whole else rng.choices(makers, shares)[0](rng)
        labels = _labels(reply.categories if reply.kind in COMPLIANT else (), reply.kind)
        example = Example(f"reply-{len(out)}", "reply", reply.question, reply.text, labels, "reply")
        out.setdefault((reply.question, reply.text), example)
    return list(out.values())
