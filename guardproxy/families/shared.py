"""What the families share: hashed taxonomies, conversations as exchanges, checks of options and readings."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.markers import injections, neutralise, neutralise_both
from guardproxy.ports import TOLERANCE, Reading
from guardproxy.types import SIGNALS, Category, Check, Finding, Message, Side, Taxonomy, Verdict

# Rounding of float32 sums: a reading so little above 1 is 1, anything further is senseless.
ROUNDING = 1e-4

# Characters of earlier conversation that are shown beside the judged text.
CONTEXT = 24_000

Choice = TypeVar("Choice", bound=str)


class Problems:
    """Mistakes in a family's options, gathered so that all are told at once."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, wrong: bool, problem: str) -> None:
        """Keep `problem` if it is there."""
        if wrong:
            self._found.append(problem)

    def raise_if_any(self) -> None:
        """Raises ConfigError with every problem kept."""
        if self._found:
            raise ConfigError(self._found)


def one_of(option: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """`value` if it is allowed. Raises ConfigError with what is."""
    for choice in allowed:
        if value == choice:
            return choice
    raise ConfigError(f"{option}: {value!r} is not one of {', '.join(allowed)}")


def hashed(taxonomy: Taxonomy) -> Taxonomy:
    """The taxonomy with the first 12 hex digits of the SHA-256 of its categories as `version`."""
    told = [(c.id, c.name, c.description, c.code, c.examples) for c in taxonomy.categories]
    return replace(taxonomy, version=hashlib.sha256(repr(told).encode()).hexdigest()[:12])


def adapt(taxonomy: Taxonomy | None, stock: Taxonomy) -> Taxonomy:
    """The taxonomy to use: `stock`, or the user's own, checked.

    A category with the id of a stock one and neither name nor description takes both (and the code, if it has none)
    from it. Raises ConfigError: no category, an id twice, a name or id that is empty or holds a line break.
    """
    if taxonomy is None:
        return hashed(stock)
    known = {category.id: category for category in stock.categories}
    categories = tuple(_filled(category, known.get(category.id)) for category in taxonomy.categories)
    where = f"taxonomy {taxonomy.id!r}"
    problems = Problems()
    problems.add(not categories, f"{where}: has no category")
    ids = [category.id for category in categories]
    for category in categories:
        named = f"{where}: category {category.id!r}"
        problems.add(not category.id.strip() or not category.name.strip(), f"{named}: needs an id and a name")
        one_line = len(category.name.splitlines()) < 2 and len(category.code.splitlines()) < 2
        problems.add(not one_line, f"{named}: name and code are one line each")
        problems.add(ids.count(category.id) > 1, f"{named}: stands twice")
    problems.raise_if_any()
    return hashed(replace(taxonomy, categories=categories))


def _filled(category: Category, stock: Category | None) -> Category:
    if stock is None or category.name or category.description:
        return category
    examples = category.examples or stock.examples
    return replace(stock, code=category.code or stock.code, examples=examples)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation as guards were trained to see one: user and assistant in turn, the user first.

    `exchanges` are earlier pairs; `question` is the user text that a judged reply answers ("" on the user side);
    `before` is what the judged speaker said directly before. Texts are stripped and their markers made harmless.
    """

    exchanges: tuple[tuple[str, str], ...]
    question: str
    before: str
    judged: str


def dialogue(check: Check, context: int = CONTEXT) -> Dialogue:
    """The conversation of `check` in the two roles that guards know.

    Tool results are read as the user's (they come in from outside), system and developer messages are left out of
    the context (guards have no such role and are not trained on one) and read as the side's when they are judged.
    Neighbours of one role become one turn, a missing user turn an empty one. Whole messages beyond `context`
    characters are left out, oldest first; of a nearest one that is longer the end is kept. Never raises.
    """
    *history, turn = check.conversation.messages
    runs = _runs(_recent(history, context))
    before = "\n".join(runs.pop()[1]) if runs and runs[-1][0] == check.side else ""
    question = "\n".join(runs.pop()[1]) if runs and check.side == "assistant" else ""
    if runs and runs[0][0] == "assistant":
        runs.insert(0, ("user", []))
    before, judged = neutralise_both(before, turn.text.strip())
    told = [neutralise("\n".join(texts)) for _, texts in runs]
    return Dialogue(
        exchanges=tuple(zip(told[::2], told[1::2], strict=True)),
        question=neutralise(question),
        before=before,
        judged=judged,
    )


def _recent(history: Sequence[Message], context: int) -> list[tuple[Side, str]]:
    """The newest messages that fit into `context` characters, oldest first."""
    kept: list[tuple[Side, str]] = []
    left = context
    for message in reversed(history):
        text = message.text.strip()
        if not text or message.role in {"system", "developer"}:
            continue
        if len(text) > left:
            if not kept and left:
                kept.append((_speaker(message), text[-left:].lstrip()))
            break
        kept.append((_speaker(message), text))
        left -= len(text)
    return kept[::-1]


def _speaker(message: Message) -> Side:
    return "assistant" if message.role == "assistant" else "user"


def _runs(spoken: Sequence[tuple[Side, str]]) -> list[tuple[Side, list[str]]]:
    runs: list[tuple[Side, list[str]]] = []
    for speaker, text in spoken:
        if runs and runs[-1][0] == speaker:
            runs[-1][1].append(text)
        else:
            runs.append((speaker, [text]))
    return runs


def expect(readings: Sequence[Reading], sizes: Sequence[int], *, total: bool = False) -> tuple[tuple[float, ...], ...]:
    """The probabilities of the readings, one tuple for each size; with `total`, each sums to 1.

    Raises GuardUnavailable where they make no sense.
    """
    if len(readings) != len(sizes):
        raise GuardUnavailable(f"{len(readings)} readings for {len(sizes)} prompts")
    sound = tuple(_sound(reading, size) for reading, size in zip(readings, sizes, strict=True))
    if total and any(abs(sum(given) - 1) > 10 * ROUNDING for given in sound):
        raise GuardUnavailable("the probabilities of exclusive labels do not sum to 1")
    return sound


def _sound(reading: Reading, size: int) -> tuple[float, ...]:
    given = reading.probabilities
    if len(given) != size:
        raise GuardUnavailable(f"{len(given)} probabilities for {size} labels")
    for value in (*given, reading.leftover, reading.outside):
        if not math.isfinite(value) or not -ROUNDING <= value <= 1 + ROUNDING:
            raise GuardUnavailable(f"{value!r} is no probability")
    return tuple(min(1.0, max(0.0, value)) for value in given)


def unread(reading: Reading) -> bool:
    """Whether a label list was not explored, because P(unsafe) can reach no threshold: then nothing is known of it."""
    return reading.leftover > TOLERANCE and not any(reading.probabilities[1:])


def overall(findings: Mapping[str, float]) -> float:
    """P(unsafe) of a guard that has no output for it: its worst category of harm.

    A guard that knows nothing but signals (an attack detector) says unsafe by those.
    """
    harms = [probability for category, probability in findings.items() if category not in SIGNALS]
    return max(harms or findings.values(), default=0.0)


def described(taxonomy: Taxonomy) -> Taxonomy:
    """The taxonomy, each of whose categories has a description. Raises ConfigError."""
    problems = Problems()
    for category in taxonomy.categories:
        missing = (
            f"taxonomy {taxonomy.id!r}: category {category.id!r}: needs a description, which is what the guard reads"
        )
        problems.add(not category.description.strip(), missing)
    problems.raise_if_any()
    return taxonomy


def yes_or_no(
    check: Check, readings: Sequence[Reading], guard: str, taxonomy: Taxonomy, *, umbrella: str = ""
) -> Verdict:
    """The verdict of a guard that is asked yes or no once for each category.

    P(unsafe) is that of the category `umbrella`, or of the worst where there is none of that name. Raises
    GuardUnavailable where the readings make no sense.
    """
    pairs = expect(readings, [2] * len(taxonomy.categories), total=True)
    found = {category.id: yes for category, (yes, _) in zip(taxonomy.categories, pairs, strict=True)}
    return Verdict(
        unsafe=found[umbrella] if umbrella in found else overall(found),
        findings=(
            *(Finding(category, probability) for category, probability in found.items()),
            *injections(check.turn.text),
        ),
        guard=guard,
        taxonomy=f"{taxonomy.id}@{taxonomy.version}",
        outside=max(reading.outside for reading in readings),
    )
