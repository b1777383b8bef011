"""OpenAI's moderation API, `POST /v1/moderations` (platform.openai.com/docs/api-reference/moderations).

Its scores are taken as probabilities. The overall one is the greatest of all labels, as arXiv 2312.06674 reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.scores import CategoryMap, Scores, field_of, scores_for
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

LEGACY = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "self-harm", "self-harm/instructions"),
    *("self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
OMNI = (*LEGACY, "illicit", "illicit/violent")
CATEGORIES: CategoryMap = {
    "harassment": "harassment",
    "harassment/threatening": ("harassment", "violence_hate"),
    "hate": "violence_hate",
    "hate/threatening": "violence_hate",
    "illicit": "criminal_planning",
    "illicit/violent": ("criminal_planning", "guns_illegal_weapons"),
    "self-harm": "suicide_self_harm",
    "self-harm/instructions": "suicide_self_harm",
    "self-harm/intent": "suicide_self_harm",
    "sexual": "sexual_content",
    "sexual/minors": ("sexual_content", "child_sexual_exploitation"),
    "violence": "violence_hate",
    "violence/graphic": "violence_hate",
}


@dataclass(frozen=True, slots=True)
class OpenAIModeration:
    """The family with its model and categories fixed. Build it with `open_family`."""

    scores: Scores
    model: str
    base_url: str = "https://api.openai.com"
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    # The guide advises pieces of less than 2,000 characters.
    limit: int = 1_999
    in_bytes: bool = False
    batch: int = 16

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the labels are read for."""
        return self.scores.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """One call for all texts."""
        return ServiceCall("/v1/moderations", {"model": self.model, "input": list(texts)})

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """The verdict of each text, from its `category_scores`. Raises GuardUnavailable for an answer not whole."""
        results = field_of(answer, "results", list)
        if not isinstance(results, list) or len(results) != len(texts):
            raise GuardUnavailable(f"the answer does not have one result for each of {len(texts)} texts")
        found: list[Verdict] = []
        for result in results:
            scores = field_of(result, "category_scores", dict)
            if isinstance(scores, dict):
                found.append(self.scores.verdict(scores, guard))
        return tuple(found)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    model: str = "omni-moderation-latest",
    categories: CategoryMap | None = None,
) -> OpenAIModeration:
    """OpenAI's moderation API with `model`: `omni-moderation-*`, or the legacy `text-moderation-*`.

    `categories` maps its labels to category ids, one or several (default: CATEGORIES); `unsafe` stands for the
    overall probability. `taxonomy` names and describes these categories. Raises ConfigError.
    """
    if not model.startswith(("omni-moderation", "text-moderation")):
        raise ConfigError(f"model: {model!r} is not one of omni-moderation-*, text-moderation-*")
    labels = OMNI if model.startswith("omni-") else LEGACY
    return OpenAIModeration(scores_for("openai_moderation", taxonomy, labels, categories, CATEGORIES), model)
