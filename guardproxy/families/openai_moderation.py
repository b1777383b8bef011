"""OpenAI's moderation API, `POST /v1/moderations` (platform.openai.com/docs/api-reference/moderations).

The scores are used as probabilities. P(unsafe) is the greatest score of all labels, as in arXiv 2312.06674. The models
`omni-moderation-*` read images, one in a call, but not for all labels: `category_applied_input_types` says for which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.scores import CategoryMap, LabelMap, field_of, label_map_for
from guardproxy.images import ImageBounds, InlineImage
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

# The most bytes of an image (platform.openai.com/docs/guides/images-vision).
_IMAGE_BYTES = 20_000_000
LEGACY = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "self-harm", "self-harm/instructions"),
    *("self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
_PATH = "/v1/moderations"
_OMNI = "omni-moderation"  # the models that read images
_APPLIED = "category_applied_input_types"
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

    @property
    def image_bounds(self) -> ImageBounds | None:
        """The images that the model reads."""
        return ImageBounds(_IMAGE_BYTES) if self.model.startswith(_OMNI) else None

    def image_calls(self, texts: Sequence[str], image: InlineImage) -> tuple[ServiceCall, ...]:
        """Return a call for each text with the image; the API takes one image in a call."""
        shown = {"type": "image_url", "image_url": {"url": f"data:{image.media_type};base64,{image.data}"}}
        said = [[{"type": "text", "text": text}] if text.strip() else [] for text in texts]
        return tuple(ServiceCall(_PATH, {"model": self.model, "input": [*text, shown]}) for text in said)

    def image_verdict(self, answer: Any, guard: str) -> Verdict:
        """Return the verdict on an image, from the scores that apply to it.

        All other scores are those of the text. Raises GuardUnavailable if the answer is incomplete or no score applies.
        """
        results = field_of(answer, "results", list)
        if not isinstance(results, list) or len(results) != 1:
            raise GuardUnavailable("the answer must have one result for an image with its text")
        types, scores = (field_of(results[0], name, dict) for name in (_APPLIED, "category_scores"))
        assert isinstance(types, dict) and isinstance(scores, dict)  # noqa: S101, PT018 - field_of has checked it
        applied = [label for label, kinds in types.items() if isinstance(kinds, list) and "image" in kinds]
        if not applied:
            raise GuardUnavailable(f"the service has not read the image: no label of {_APPLIED} applies to images")
        return self.label_map.only(applied).verdict({label: scores.get(label) for label in applied}, guard)

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """Return one call for all texts."""
        return ServiceCall(_PATH, {"model": self.model, "input": list(texts)})

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
    if not model.startswith((_OMNI, "text-moderation")):
        raise ConfigError(f"model: {model!r} is not one of omni-moderation-*, text-moderation-*")
    labels = OMNI if model.startswith(_OMNI) else LEGACY
    return OpenAIModeration(label_map_for("openai_moderation", taxonomy, labels, categories, CATEGORIES), model)
