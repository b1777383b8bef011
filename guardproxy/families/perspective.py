"""Perspective's comment analyzer, `POST /v1alpha1/comments:analyze` (developers.perspectiveapi.com, method reference).

Its summary scores are probabilities. By default TOXICITY and SEVERE_TOXICITY, which name no kind of harm, are mapped to
P(unsafe).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.families.scores import CategoryMap, LabelMap, field_of, label_map_for
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

# The production attributes, and the experimental attributes about harm, which support only English.
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

    label_map: LabelMap
    languages: tuple[str, ...]
    base_url: str = "https://commentanalyzer.googleapis.com"
    # The API accepts the key in the query too, but queries get into logs.
    key_header: str = "x-goog-api-key"
    key_prefix: str = ""
    limit: int = 20_480
    in_bytes: bool = True
    batch: int = 1

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the attributes are mapped to."""
        return self.label_map.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """Return the call for one text, which asks the service not to store it."""
        (text,) = texts
        attributes: dict[str, dict[str, str]] = {label: {} for label in self.label_map.labels}
        body: dict[str, object] = {
            "comment": {"text": text, "type": "PLAIN_TEXT"},
            "requestedAttributes": attributes,
            "doNotStore": True,
        }
        if self.languages:
            body["languages"] = list(self.languages)
        return ServiceCall("/v1alpha1/comments:analyze", body)

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """Return the verdict, from `attributeScores`. Raises GuardUnavailable if the answer is incomplete."""
        attributes = field_of(answer, "attributeScores", dict)
        scores: dict[str, object] = {}
        for label, entry in attributes.items() if isinstance(attributes, dict) else ():
            summary = field_of(entry, "summaryScore", dict)
            scores[label] = summary.get("value") if isinstance(summary, dict) else None
        return (self.label_map.verdict(scores, guard),)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    categories: CategoryMap | None = None,
    languages: Sequence[str] = (),
) -> Perspective:
    """Open Perspective's comment analyzer.

    `categories` maps each attribute to one or several category ids (default: CATEGORIES); `unsafe` means P(unsafe).
    Only mapped attributes are requested. `languages` are ISO 639-1 codes of the text (default: the service detects the
    language and refuses texts in languages that it does not support). `taxonomy` names and describes the categories.
    Raises ConfigError for invalid options.
    """
    if isinstance(languages, str):
        raise ConfigError(f"languages: {languages!r} must be a list of codes, such as [en]")
    return Perspective(label_map_for("perspective", taxonomy, LABELS, categories, CATEGORIES), tuple(languages))
