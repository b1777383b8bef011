"""Perspective's comment analyzer, `POST /v1alpha1/comments:analyze` (developers.perspectiveapi.com, method reference).

Its summary scores are probabilities. By default TOXICITY and SEVERE_TOXICITY, which name no kind of harm, are read for
the overall probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.families.scores import CategoryMap, Scores, field_of, scores_for
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

# The production attributes, and of the experimental ones those that are about harm (English alone).
PRODUCTION = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
LABELS = (*PRODUCTION, "SEXUALLY_EXPLICIT", "FLIRTATION")
CATEGORIES: CategoryMap = {
    "TOXICITY": "unsafe",
    "SEVERE_TOXICITY": "unsafe",
    "IDENTITY_ATTACK": "violence_hate",
    "THREAT": "violence_hate",
    "INSULT": "harassment",
    "PROFANITY": "profanity",
}


@dataclass(frozen=True, slots=True)
class Perspective:
    """The family with its attributes fixed. Build it with `open_family`."""

    scores: Scores
    languages: tuple[str, ...]
    base_url: str = "https://commentanalyzer.googleapis.com"
    # The key may stand in the query as well, from where it gets into logs.
    key_header: str = "x-goog-api-key"
    key_prefix: str = ""
    limit: int = 20_480
    in_bytes: bool = True
    batch: int = 1

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the attributes are read for."""
        return self.scores.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """A call for one text, which the service is told not to keep."""
        (text,) = texts
        attributes: dict[str, dict[str, str]] = {label: {} for label in self.scores.labels}
        body: dict[str, object] = {
            "comment": {"text": text, "type": "PLAIN_TEXT"},
            "requestedAttributes": attributes,
            "doNotStore": True,
        }
        if self.languages:
            body["languages"] = list(self.languages)
        return ServiceCall("/v1alpha1/comments:analyze", body)

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """The verdict, from `attributeScores`. Raises GuardUnavailable for an answer that is not whole."""
        found = field_of(answer, "attributeScores", dict)
        scores: dict[str, object] = {}
        for label, entry in found.items() if isinstance(found, dict) else ():
            summary = field_of(entry, "summaryScore", dict)
            scores[label] = summary.get("value") if isinstance(summary, dict) else None
        return (self.scores.verdict(scores, guard),)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    categories: CategoryMap | None = None,
    languages: Sequence[str] = (),
) -> Perspective:
    """Perspective's comment analyzer.

    `categories` maps its attributes to category ids, one or several, and so says which are asked for (default:
    CATEGORIES); `unsafe` stands for the overall probability. `languages` are ISO 639-1 codes of the text (default: the
    service finds out, and refuses texts whose language it does not know). `taxonomy` names and describes the
    categories. Raises ConfigError.
    """
    if isinstance(languages, str):
        raise ConfigError(f"languages: {languages!r} is not a list of codes, such as [en]")
    return Perspective(scores_for("perspective", taxonomy, LABELS, categories, CATEGORIES), tuple(languages))
