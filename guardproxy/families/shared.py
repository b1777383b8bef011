"""Shared by the families: versioned taxonomies, conversations as exchanges, validation of options and readings."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.markers import injections, neutralise, neutralise_both
from guardproxy.ports import TOLERANCE, Reading
from guardproxy.types import SIGNALS, Category, Check, Finding, Message, Side, Taxonomy, Verdict

# Tolerance for float32 rounding: a probability this little outside [0, 1] is clipped, any other is an error.
ROUNDING = 1e-4

# The most characters of earlier conversation in a prompt.
CONTEXT = 24_000

Choice = TypeVar("Choice", bound=str)


class OptionErrors:
    """Collects the mistakes in a family's options, so that one ConfigError reports all of them."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def add(self, wrong: bool, message: str) -> None:
        """Collect `message` if `wrong`."""
        if wrong:
            self._messages.append(message)

    def raise_if_any(self) -> None:
        """Raise ConfigError with every collected message, if there is any."""
        if self._messages:
            raise ConfigError(self._messages)


def one_of(option: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """Return `value` if it is allowed. Raises ConfigError with the allowed values."""
    for choice in allowed:
        if value == choice:
            return choice
    raise ConfigError(f"{option}: {value!r} is not one of {', '.join(allowed)}")


def versioned(taxonomy: Taxonomy) -> Taxonomy:
    """Return the taxonomy; its `version` is the first 12 hex digits of the SHA-256 of its categories."""
    content = [(c.id, c.name, c.description, c.code, c.examples) for c in taxonomy.categories]
    return replace(taxonomy, version=hashlib.sha256(repr(content).encode()).hexdigest()[:12])


def adapt(taxonomy: Taxonomy | None, stock: Taxonomy) -> Taxonomy:
    """Return the taxonomy to use: `stock`, or the validated `taxonomy` of the user.

    A category with a stock id but neither name nor description takes both from the stock category, and code and
    examples if it has none. Raises ConfigError if there is no category, an id is used twice, an id or name is empty,
    or a name or code contains a line break.
    """
    if taxonomy is None:
        return versioned(stock)
    known = {category.id: category for category in stock.categories}
    categories = tuple(_completed(category, known.get(category.id)) for category in taxonomy.categories)
    where = f"taxonomy {taxonomy.id!r}"
    errors = OptionErrors()
    errors.add(not categories, f"{where}: needs at least one category")
    ids = [category.id for category in categories]
    for category in categories:
        place = f"{where}: category {category.id!r}"
        errors.add(not category.id.strip() or not category.name.strip(), f"{place}: needs an id and a name")
        single_line = len(category.name.splitlines()) < 2 and len(category.code.splitlines()) < 2
        errors.add(not single_line, f"{place}: name and code must not contain a line break")
        errors.add(ids.count(category.id) > 1, f"{place}: the id is used twice")
    errors.raise_if_any()
    return versioned(replace(taxonomy, categories=categories))


def _completed(category: Category, stock: Category | None) -> Category:
    if stock is None or category.name or category.description:
        return category
    examples = category.examples or stock.examples
    return replace(stock, code=category.code or stock.code, examples=examples)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation in the form that guards are trained on: user and assistant alternate, the user comes first.

    `exchanges` are earlier pairs of user and assistant texts; `question` is the user text that a judged reply answers
    ("" on the user side); `before` is the text directly before the judged text with the same role. All texts are
    stripped, and prompt markers in them are neutralised.
    """

    exchanges: tuple[tuple[str, str], ...]
    question: str
    before: str
    judged: str


def dialogue(check: Check, context: int = CONTEXT) -> Dialogue:
    """Return the conversation of `check` with the two roles that guards know. Never raises.

    Tool results become user texts, because they come from outside. System and developer messages are left out of the
    context, because guards have no such role; when judged, they take the role of the check's side. Consecutive messages
    of a role become one turn, and a missing user turn becomes an empty text. Context beyond `context` characters is
    dropped in whole messages, oldest first; if the newest message is longer, its end is kept.
    """
    *history, turn = check.conversation.messages
    runs = _runs(_recent(history, context))
    before = "\n".join(runs.pop()[1]) if runs and runs[-1][0] == check.side else ""
    question = "\n".join(runs.pop()[1]) if runs and check.side == "assistant" else ""
    if runs and runs[0][0] == "assistant":
        runs.insert(0, ("user", []))
    before, judged = neutralise_both(before, turn.text.strip())
    texts_of_turns = [neutralise("\n".join(texts)) for _, texts in runs]
    return Dialogue(
        exchanges=tuple(zip(texts_of_turns[::2], texts_of_turns[1::2], strict=True)),
        question=neutralise(question),
        before=before,
        judged=judged,
    )


def _recent(history: Sequence[Message], context: int) -> list[tuple[Side, str]]:
    """Return the newest messages that fit into `context` characters, oldest first."""
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


def _runs(messages: Sequence[tuple[Side, str]]) -> list[tuple[Side, list[str]]]:
    runs: list[tuple[Side, list[str]]] = []
    for speaker, text in messages:
        if runs and runs[-1][0] == speaker:
            runs[-1][1].append(text)
        else:
            runs.append((speaker, [text]))
    return runs


def probabilities_of(
    readings: Sequence[Reading], sizes: Sequence[int], *, total: bool = False
) -> tuple[tuple[float, ...], ...]:
    """Return the probabilities of each reading, clipped to [0, 1]. `sizes` has the expected number for each reading.

    Raises GuardUnavailable for a wrong number, a value outside [0, 1] or not finite, or, with `total`, probabilities
    that do not sum to 1.
    """
    if len(readings) != len(sizes):
        raise GuardUnavailable(f"{len(readings)} readings for {len(sizes)} prompts")
    checked = tuple(_checked(reading, size) for reading, size in zip(readings, sizes, strict=True))
    if total and any(abs(sum(probabilities) - 1) > 10 * ROUNDING for probabilities in checked):
        raise GuardUnavailable("the probabilities of exclusive labels do not sum to 1")
    return checked


def _checked(reading: Reading, size: int) -> tuple[float, ...]:
    probabilities = reading.probabilities
    if len(probabilities) != size:
        raise GuardUnavailable(f"{len(probabilities)} probabilities for {size} labels")
    for value in (*probabilities, reading.leftover, reading.outside):
        if not math.isfinite(value) or not -ROUNDING <= value <= 1 + ROUNDING:
            raise GuardUnavailable(f"the guard returned {value!r}, outside [0, 1]")
    return tuple(min(1.0, max(0.0, value)) for value in probabilities)


def list_unread(reading: Reading) -> bool:
    """Whether the engine skipped the label list because P(unsafe) is below every threshold: its zeros mean unknown."""
    return reading.leftover > TOLERANCE and not any(reading.probabilities[1:])


def overall_probability(findings: Mapping[str, float]) -> float:
    """Return P(unsafe) for a guard without an output for it: the greatest probability of a category of harm.

    If the guard has only signals, as an attack detector does, return their greatest probability.
    """
    harms = [probability for category, probability in findings.items() if category not in SIGNALS]
    return max(harms or findings.values(), default=0.0)


def require_descriptions(taxonomy: Taxonomy) -> Taxonomy:
    """Return the taxonomy. Raises ConfigError if a category has no description."""
    errors = OptionErrors()
    for category in taxonomy.categories:
        missing = f"taxonomy {taxonomy.id!r}: category {category.id!r}: needs a description, which the guard reads"
        errors.add(not category.description.strip(), missing)
    errors.raise_if_any()
    return taxonomy


def require_categories(taxonomy: Taxonomy, ids: Sequence[str]) -> None:
    """Raise ConfigError unless the taxonomy has exactly the categories `ids`, in any order."""
    own = [category.id for category in taxonomy.categories]
    if sorted(own) != sorted(ids):
        raise ConfigError(
            f"taxonomy {taxonomy.id!r}: has {', '.join(own)}; must have the categories of the labels: {', '.join(ids)}"
        )


def yes_no_verdict(
    check: Check, readings: Sequence[Reading], guard: str, taxonomy: Taxonomy, *, umbrella: str = ""
) -> Verdict:
    """Return the verdict of a guard that answers yes or no once for each category.

    P(unsafe) is the probability of the category `umbrella`, or `overall_probability` if the taxonomy lacks it. Raises
    GuardUnavailable for invalid readings.
    """
    pairs = probabilities_of(readings, [2] * len(taxonomy.categories), total=True)
    probabilities = {category.id: yes for category, (yes, _) in zip(taxonomy.categories, pairs, strict=True)}
    return Verdict(
        unsafe=probabilities[umbrella] if umbrella in probabilities else overall_probability(probabilities),
        findings=(
            *(Finding(category, probability) for category, probability in probabilities.items()),
            *injections(check.turn.text),
        ),
        guard=guard,
        taxonomy=f"{taxonomy.id}@{taxonomy.version}",
        outside=max(reading.outside for reading in readings),
    )
