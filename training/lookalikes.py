"""Synthetic look-alikes: harmless texts with words of harm in them, and harmful texts from the same templates.

Every family draws both kinds from the same grammar, so that neither the template, nor a word such as "kill", nor the
name of a group decides. All texts were written for this project.
"""

from __future__ import annotations

import random

from training.terms import (
    ADVERTS,
    CRIMES,
    FACTS,
    GROUPS,
    HATE,
    HELP,
    IDIOMS,
    IMPOSSIBLE,
    NEUTRAL,
    OBJECTS,
    OPINIONS,
    PERSONS,
    PLACES,
    PLAIN,
    SLANDER,
    SMUT,
    SWEARING,
    TARGETS,
    THINGS,
    TROUBLES,
    VICES,
    VIRTUES,
)

Made = tuple[str, int, tuple[str, ...]]  # text, unsafe, its categories

_ASK = (
    "How do I {x}?",
    "How can I {x}?",
    "What is the best way to {x}?",
    "What's the easiest way to {x}?",
    "Could you tell me how to {x}?",
    "I want to {x}. Any tips?",
    "Where can I learn how to {x}?",
    "Please explain how to {x}.",
    "Is there a quick way to {x}?",
    "how to {x}",
)


def ask(rng: random.Random) -> Made:
    """A how-to question whose object alone decides: a process or a neighbour after the same verb."""
    if rng.random() < 0.35:
        return _vice(rng)
    verb = rng.choice(tuple(OBJECTS))
    if rng.random() < 0.62:
        return rng.choice(_ASK).format(x=f"{verb} {rng.choice(OBJECTS[verb])}"), 0, ()
    text = rng.choice(_ASK).format(x=f"{verb} {rng.choice(TARGETS.get(verb, PERSONS))}")
    return text, 1, ("criminal_planning",) if verb in TARGETS else ("violence_hate",)


def _vice(rng: random.Random) -> Made:
    if rng.random() < 0.45:
        return rng.choice(_ASK).format(x=rng.choice(VIRTUES)), 0, ()
    category = rng.choice(tuple(VICES))
    return rng.choice(_ASK).format(x=rng.choice(VICES[category])), 1, (category,)


def figure(rng: random.Random) -> Made:
    """Idioms, facts about crime and war, words to explain, and help for victims of harm: all safe."""
    kind = rng.random()
    if kind < 0.3:
        text = rng.choice(IDIOMS)
    elif kind < 0.65:
        text = rng.choice(FACTS).format(
            crime=rng.choice(CRIMES), place=rng.choice(PLACES), group=rng.choice(GROUPS), thing=rng.choice(THINGS)
        )
    else:
        text = rng.choice(HELP).format(person=rng.choice(PLAIN), trouble=rng.choice(TROUBLES))
    return text[0].upper() + text[1:], 0, ()


def why(rng: random.Random) -> Made:
    """A question about a group: harmless nonsense (why it cannot do something impossible) or slander."""
    if rng.random() < 0.6:
        group, feat = rng.choice(GROUPS), rng.choice(IMPOSSIBLE)
        frame = rng.choice(("Why can't {g} {x}?", "Why can {g} not {x}?", "Why do {g} never {x}?", "Can {g} {x}?"))
        return frame.format(g=group, x=feat), 0, ()
    if rng.random() < 0.4:
        return _why_slander(rng, THINGS), 0, ()
    return _why_slander(rng, GROUPS), 1, ("violence_hate",)


def _why_slander(rng: random.Random, subjects: tuple[str, ...]) -> str:
    frame = rng.choice(("Why are {g} {x}?", "Explain why {g} are {x}.", "Isn't it true that {g} are {x}?"))
    return frame.format(g=rng.choice(subjects), x=rng.choice(SLANDER))


def opinion(rng: random.Random) -> Made:
    """Web prose about groups: news, history, everyday talk, quarrels and swearing; a third of it with hate."""
    group = rng.choice(GROUPS)
    lines = [
        rng.choice(NEUTRAL).format(g=group if rng.random() < 0.7 else rng.choice(GROUPS), place=rng.choice(PLACES))
        for _ in range(rng.randint(1, 4))
    ]
    if rng.random() < 0.6:
        lines.insert(rng.randint(0, len(lines)), rng.choice(OPINIONS))
    if rng.random() < 0.35:
        lines.insert(rng.randint(0, len(lines)), rng.choice(SWEARING))
    unsafe = rng.random() < 0.35
    if unsafe:
        lines.insert(rng.randint(0, len(lines)), rng.choice(HATE).format(g=group))
    text = " ".join(line[0].upper() + line[1:] for line in lines)
    return text, int(unsafe), ("violence_hate",) if unsafe else ()


def advert(rng: random.Random) -> Made:
    """A run of search words and captions, as in web advertisements; half of the draws are pornographic."""
    language = rng.choice(tuple(ADVERTS))
    common = ADVERTS[language]
    unsafe = rng.random() < 0.5
    count = rng.randint(6, 45)
    share = rng.uniform(0.25, 0.8) if unsafe else 0.0
    words = [rng.choice(SMUT[language]) if rng.random() < share else rng.choice(common) for _ in range(count)]
    if unsafe:
        words.insert(rng.randint(0, count), rng.choice(SMUT[language]))
    joined = rng.choice((" ", " ", ", ", " - ", "\n")).join(words)
    text = joined.title() if rng.random() < 0.25 else joined
    return text, int(unsafe), ("sexual_content",) if unsafe else ()


FAMILIES = {"ask": ask, "figure": figure, "why": why, "opinion": opinion, "advert": advert}
