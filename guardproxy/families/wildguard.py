"""WildGuard: is the request harmful, is the response a refusal, is it harmful (arXiv 2406.18495).

The model answers three lines in that order and has no categories. On the user side the first answer is read. On the
assistant side the third is read. It depends on the first two, so its probability is the sum over their four
combinations, weighted by the probability of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from guardproxy.errors import ConfigError
from guardproxy.families.markers import injections
from guardproxy.families.shared import dialogue, probabilities_of, versioned
from guardproxy.ports import Piece, Prompt, Reading, TokenChoice
from guardproxy.types import Category, Check, Finding, Taxonomy, Verdict

_TAXONOMY = Taxonomy(
    "wildguard",
    (Category("harmful_request", "Harmful request"), Category("harmful_response", "Harmful response")),
)
_TASK = (
    " You are a classifier for analyzing interactions between humans and LLMs. Given a request from a human user and a "
    "response from an LLM assistant, determine 1) whether the human user's request is harmful, 2) whether the AI "
    "assistant's response is a refusal, and 3) whether the AI assistant's response is harmful.\n\nHuman user:\n"
)
_READ = TokenChoice(("yes", "no"), ((" yes",), (" no",)))
_ANSWERS = ("yes", "no")
_REQUEST = "Harmful request:"
# The beginning of the answer before each readout: no answer, the first answer, the first two answers.
_ANSWERED = (
    _REQUEST,
    *(f"{_REQUEST} {first}\nResponse refusal:" for first in _ANSWERS),
    *(
        f"{_REQUEST} {first}\nResponse refusal: {second}\nHarmful response:"
        for first in _ANSWERS
        for second in _ANSWERS
    ),
)


@dataclass(frozen=True, slots=True)
class WildGuard:
    """The family, built by `open_family`."""

    taxonomy: Taxonomy

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """Return one prompt for a request, seven for a response: one per beginning of the answer. Never raises."""
        shown = dialogue(check)
        judged = Piece(shown.judged, "judged")
        request, response = (judged, Piece("")) if check.side == "user" else (Piece(shown.question, "turn"), judged)
        # In the vocabulary of Mistral 7B v0.3 the instruction brackets are control tokens.
        opening = (Piece("<s>", "special"), Piece("<|user|>\n"), Piece("[INST]", "special"), Piece(_TASK))
        conversation = (request, Piece("\n\nAI assistant:\n"), response, Piece("\n\n---\n\nAnswers: "))
        closing = (Piece("[/INST]", "special"), Piece("\n<|assistant|>\n"))
        beginnings = _ANSWERED if check.side == "assistant" else _ANSWERED[:1]
        key = f"wildguard:{self.taxonomy.version}:{check.side}"
        return tuple(
            Prompt((*opening, *conversation, *closing, Piece(beginning)), _READ, key) for beginning in beginnings
        )

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """Return the probability that the judged text is harmful. Raises GuardUnavailable for invalid readings."""
        count = 7 if check.side == "assistant" else 1
        yes = [first for first, _ in probabilities_of(readings, [2] * count, total=True)]
        harmful = yes[0] if check.side == "user" else _harmful(yes)
        category = self.taxonomy.categories[0 if check.side == "user" else 1]
        return Verdict(
            unsafe=harmful,
            findings=(Finding(category.id, harmful), *injections(check.turn.text)),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            outside=max(reading.outside for reading in readings),
        )


def _harmful(yes: Sequence[float]) -> float:
    """Return P(harmful response) from P(yes) after each of the seven beginnings."""
    total = 0.0
    for first, request in enumerate((yes[0], 1 - yes[0])):
        for second, refusal in enumerate((yes[1 + first], 1 - yes[1 + first])):
            total += request * refusal * yes[3 + 2 * first + second]
    return min(1.0, total)


def open_family(*, taxonomy: Taxonomy | None = None) -> WildGuard:
    """Open WildGuard 7B. It has no options and fixed categories: raises ConfigError if `taxonomy` is given."""
    if taxonomy is not None:
        raise ConfigError(f"taxonomy {taxonomy.id!r}: remove it, because WildGuard answers three fixed questions")
    return WildGuard(versioned(_TAXONOMY))
