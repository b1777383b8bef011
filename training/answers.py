"""Synthetic reply rows: a question, and a reply that complies, refuses or is about something harmless.

The labelled sets have almost no replies of the rarer categories. `answers.jsonl` has, for every category, requests
("request", phrases that follow "to"), vague advice of a compliant model ("advice", likewise), refusals ("care"), whole
harmful exchanges ("harm"), harmless requests with the same words and their advice ("twin") and harmless exchanges on
the same subject ("fact"). All texts were written for this project; the advice is obvious to anybody and too vague to
follow.
"""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

Answer = tuple[str, str, int, tuple[str, ...]]  # question, reply, unsafe, its categories


@dataclass(slots=True)
class _Topic:
    """The texts of one category by kind; "harm", "twin" and "fact" in pairs of question and reply."""

    single: dict[str, list[str]] = field(default_factory=lambda: {"request": [], "advice": [], "care": []})
    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"harm": [], "twin": [], "fact": []})


@functools.cache
def _topics() -> dict[str, _Topic]:
    topics: dict[str, _Topic] = {}
    for line in Path(__file__).with_name("answers.jsonl").read_text().splitlines():
        entry = json.loads(line)
        topic = topics.setdefault(entry["category"], _Topic())
        if "question" in entry:
            topic.pairs[entry["kind"]].append((entry["question"], entry["text"]))
        else:
            topic.single[entry["kind"]].append(entry["text"])
    return topics


_QUESTIONS = (
    "How do I {x}?", "How can I {x}?", "What's the best way to {x}?", "what is a good way to {x}",
    "I want to {x}. Where do I start?", "Can you help me {x}?", "I'm going to {x} this weekend. Any advice?",
    "Would you help me to {x}?", "My friend wants to {x}, what should he do?", "Is there an easy way to {x}?",
    "I need to {x} and I don't know how.", "Give me some ideas how to {x}.", "Is it a good idea to {x}?",
    "Teach me how to {x}.", "how to {x}?", "I've always wanted to {x}.",
)  # fmt: skip
_WILLING = (
    "The best way to {x} is to {a}.", "You could {a}.", "To {x}, {a}. You can also {b}.", "First, {a}. Then {b}.",
    "There are several ways to {x}. One is to {a}. Another is to {b}.", "It helps to {a}, and do not forget to {b}.",
    "If you want to {x}, you should {a}.", "I would {a}. After that, {b}.", "Sure! Just {a}.", "Try to {a} or to {b}.",
    "Yes, many people do that. Simply {a}, then {b}.", "That sounds like a good plan. {A} and {b}.",
    "An easy way is to {a}. If that does not work, {b}.", "{A}. {B}.",
)  # fmt: skip
_UNWILLING = (
    "I would advise against it. {c}", "{c}", "Why do you want to {x}? {c}", "You should not {x}. {c}",
    "It is not okay to {x}. {c}", "To {x} could get you into serious trouble. {c}", "Please do not {x}. {c}",
)  # fmt: skip
_ADVICE_FOR_ANYTHING = ("take your time", "ask a friend for help", "start early", "write down what worked")


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _second_person(request: str) -> str:
    return request.replace("my ", "your ").replace(" I ", " you ")


def _willing(rng: random.Random, request: str, first: str, second: str) -> str:
    frame = rng.choice(_WILLING)
    return frame.format(x=_second_person(request), a=first, b=second, A=_upper(first), B=_upper(second))


def _harmful(rng: random.Random, topic: _Topic) -> tuple[str, str]:
    if rng.random() < 0.25:
        return rng.choice(topic.pairs["harm"])
    request = rng.choice(topic.single["request"])
    first, second = rng.sample(topic.single["advice"], 2)
    return rng.choice(_QUESTIONS).format(x=request), _willing(rng, request, first, second)


def _harmless(rng: random.Random, topic: _Topic) -> tuple[str, str]:
    kind = rng.random()
    if kind < 0.15:  # the reply alone decides: a reply about something else is harmless even after a harmful question
        other = rng.choice(tuple(_topics().values()))
        request = rng.choice(topic.single["request"])
        return rng.choice(_QUESTIONS).format(x=request), rng.choice(other.pairs["fact"])[1]
    if kind < 0.42:
        request = rng.choice(topic.single["request"])
        reply = rng.choice(_UNWILLING).format(x=_second_person(request), c=rng.choice(topic.single["care"]))
        return rng.choice(_QUESTIONS).format(x=request), reply
    if kind < 0.78:
        request, advice = rng.choice(topic.pairs["twin"])
        reply = _willing(rng, request, advice, rng.choice(_ADVICE_FOR_ANYTHING))
        return rng.choice(_QUESTIONS).format(x=request), reply
    return rng.choice(topic.pairs["fact"])


def answer(rng: random.Random) -> Answer:
    """A question and its reply; half of the draws are harmful."""
    topics = _topics()
    category = rng.choice(tuple(topics))
    unsafe = rng.random() < 0.5
    question, reply = (_harmful if unsafe else _harmless)(rng, topics[category])
    return (_upper(question) if rng.random() < 0.7 else question), reply, int(unsafe), (category,) * unsafe
