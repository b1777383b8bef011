"""OpenAI's moderation API, `POST /v1/moderations` (platform.openai.com/docs/api-reference/moderations).

The scores are used as probabilities. P(unsafe) is the greatest score of all labels, as in arXiv 2312.06674.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.scores import CategoryMap, LabelMap, field_of, label_map_for
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

    label_map: LabelMap
    model: str
    base_url: str = "https://api.openai.com"
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    # The service's guide recommends texts of less than 2,000 characters.
    limit: int = 1_999
    in_bytes: bool = False
    batch: int = 16

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the labels are mapped to."""
        return self.label_map.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """Return one call for all texts."""
        return ServiceCall("/v1/moderations", {"model": self.model, "input": list(texts)})

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """Return each text's verdict, from `category_scores`. Raises GuardUnavailable if the answer is incomplete."""
        results = field_of(answer, "results", list)
        if not isinstance(results, list) or len(results) != len(texts):
            raise GuardUnavailable(f"the answer must have one result for each of {len(texts)} texts")
        verdicts: list[Verdict] = []
        for result in results:
            scores = field_of(result, "category_scores", dict)
            if isinstance(scores, dict):
                verdicts.append(self.label_map.verdict(scores, guard))
        return tuple(verdicts)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    model: str = "omni-moderation-latest",
    categories: CategoryMap | None = None,
) -> OpenAIModeration:
    """Open OpenAI's moderation API with `model`: `omni-moderation-*` or the legacy `text-moderation-*`.

    `categories` maps each label to one or several category ids (default: CATEGORIES); `unsafe` means P(unsafe).
    `taxonomy` names and describes these categories. Raises ConfigError for invalid options.
    """
    if not model.startswith(("omni-moderation", "text-moderation")):
        raise ConfigError(f"model: {model!r} is not one of omni-moderation-*, text-moderation-*")
    labels = OMNI if model.startswith("omni-") else LEGACY
    return OpenAIModeration(label_map_for("openai_moderation", taxonomy, labels, categories, CATEGORIES), model)
