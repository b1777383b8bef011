"""Azure AI Content Safety, `POST /contentsafety/text:analyze` (learn.microsoft.com, REST reference 2024-09-01).

It gives a severity of 0 to 7 for each of four categories; a seventh of it is taken as the probability. The overall one
is the greatest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import GuardUnavailable
from guardproxy.families.scores import CategoryMap, Scores, field_of, scores_for
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

LABELS = ("Hate", "SelfHarm", "Sexual", "Violence")
CATEGORIES: CategoryMap = {
    "Hate": "violence_hate",
    "SelfHarm": "suicide_self_harm",
    "Sexual": "sexual_content",
    "Violence": "violence_hate",
}
# The levels of outputType EightSeverityLevels are 0 to this.
_WORST = 7


@dataclass(frozen=True, slots=True)
class AzureContentSafety:
    """The family with its categories fixed. Build it with `open_family`."""

    scores: Scores
    api_version: str
    # Every resource has an endpoint of its own.
    base_url: str = ""
    key_header: str = "Ocp-Apim-Subscription-Key"
    key_prefix: str = ""
    limit: int = 10_000
    in_bytes: bool = False
    batch: int = 1

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the labels are read for."""
        return self.scores.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """A call for one text."""
        (text,) = texts
        body = {"text": text, "categories": list(self.scores.labels), "outputType": "EightSeverityLevels"}
        return ServiceCall("/contentsafety/text:analyze", body, {"api-version": self.api_version})

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """The verdict, from `categoriesAnalysis`. Raises GuardUnavailable for an answer that is not whole."""
        analyses = field_of(answer, "categoriesAnalysis", list)
        severities: dict[str, object] = {}
        for analysis in analyses if isinstance(analyses, list) else ():
            label, severity = field_of(analysis, "category", str), field_of(analysis, "severity", int)
            if not isinstance(severity, int) or isinstance(severity, bool) or not 0 <= severity <= _WORST:
                raise GuardUnavailable(f"the severity of {label} is {severity!r}, not 0 to {_WORST}")
            severities[str(label)] = severity / _WORST
        return (self.scores.verdict(severities, guard),)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    categories: CategoryMap | None = None,
    api_version: str = "2024-09-01",
) -> AzureContentSafety:
    """Azure AI Content Safety, text.

    `categories` maps its four labels to category ids, one or several (default: CATEGORIES); `unsafe` stands for the
    overall probability. `taxonomy` names and describes these categories. Raises ConfigError.
    """
    scores = scores_for("azure_content_safety", taxonomy, LABELS, categories, CATEGORIES)
    return AzureContentSafety(scores, api_version)
