"""Text transformations for synthetic training rows: disguises, wrappers, replies. Pure; the caller seeds `rng`."""

from __future__ import annotations

import random
import re

from training.phrases import COMPLIANT, REFUSALS, RESTATED, TURNS

_LEET = str.maketrans({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"})
_SLOT = re.compile(r"\[INSERT PROMPT HERE\]", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:please|can you|could you)\s+)*"
    r"(?:(?:tell me|explain|show me|describe|teach me)\s+)?"
    r"(?:how\s+(?:do|can|could|would|should|might)\s+(?:i|you|we|one|someone|a person)\s+(?:best\s+)?"
    r"|how\s+to\s+"
    r"|what(?:'s| is| are| would be)\s+(?:some |the )?(?:\w+\s+){0,3}(?:ways?|steps?|methods?|strategies)\s+to\s+"
    r"|(?:give me\s+)?(?:some\s+)?(?:ways|tips|instructions|steps)\s+(?:to|on how to|for how to)\s+"
    r"|i\s+(?:want|need|would like)\s+to\s+)",
    re.IGNORECASE,
)
LEFT_CHARS = 500
RIGHT_CHARS = 260


def leet(text: str, rng: random.Random) -> str:
    """Replace some letters with look-alike digits."""
    return "".join(c.translate(_LEET) if rng.random() < 0.6 else c for c in text.lower())


def spaced(text: str, rng: random.Random) -> str:
    """Put a separator between the letters of some words."""
    sep = rng.choice((" ", ".", "-", "_"))
    words = text.split()
    return " ".join(sep.join(w) if len(w) > 3 and rng.random() < 0.4 else w for w in words)


def typos(text: str, rng: random.Random) -> str:
    """Swap, drop or double single letters."""
    out: list[str] = []
    for char in text:
        draw = rng.random()
        if char.isalpha() and draw < 0.015:
            continue
        out.append(char)
        if char.isalpha() and draw > 0.985:
            out.append(char)
        if len(out) > 1 and 0.015 <= draw < 0.03:
            out[-1], out[-2] = out[-2], out[-1]
    return "".join(out)


def disguise(text: str, rng: random.Random) -> str:
    """Apply a random disguise."""
    return rng.choice((leet, spaced, typos))(text, rng)


def wrap(template: str, request: str) -> str:
    """Put `request` at a jailbreak template's slot, or at its end; cut the template to LEFT_CHARS and RIGHT_CHARS."""
    match = _SLOT.search(template)
    left, right = (template[: match.start()], template[match.end() :]) if match else (template + "\n\n", "")
    return left[-LEFT_CHARS:] + request + right[:RIGHT_CHARS]


def refusal(rng: random.Random) -> str:
    """A short refusal, usually with a helpful follow-up."""
    return f"{rng.choice(REFUSALS)} {rng.choice(TURNS)}".strip()


def decline(question: str, rng: random.Random) -> str:
    """A refusal of several sentences; it names the request if the question is a how-to question."""
    rest = _request(question)
    lines = [refusal(rng)]
    if rest is not None:
        lines += [phrase.format(x=rest) for phrase in rng.sample(RESTATED, rng.randint(1, 2))]
    lines += rng.sample(TURNS, rng.randint(1, 4))
    if rng.random() < 0.3:
        rng.shuffle(lines)
    return " ".join(line for line in lines if line)


def compliance(question: str, rng: random.Random) -> str | None:
    """A compliant reply to a how-to question, or None for any other question."""
    rest = _request(question)
    return None if rest is None else rng.choice(COMPLIANT).format(x=rest)


def _request(question: str) -> str | None:
    match = _LEAD.match(question)
    if match is None:
        return None
    rest = question[match.end() :].strip().rstrip("?.!")
    if not 8 <= len(rest) <= 200:
        return None
    rest = re.sub(r"\bmy\b", "your", rest)
    return rest[0].lower() + rest[1:]
