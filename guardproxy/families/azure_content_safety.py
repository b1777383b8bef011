"""Azure AI Content Safety, `POST /contentsafety/text:analyze` (learn.microsoft.com, REST reference 2024-09-01).

The service returns a severity from 0 to 7 for each of four categories. The severity divided by 7 is the category's
probability; the greatest is P(unsafe). Images go to `image:analyze`, without the text beside them. It returns 0, 2, 4
or 6, which stand for two severities each, so there the divisor is 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import GuardUnavailable
from guardproxy.families.scores import CategoryMap, LabelMap, field_of, label_map_for
from guardproxy.images import ImageBounds, InlineImage
from guardproxy.ports import ServiceCall
from guardproxy.types import Taxonomy, Verdict

LABELS = ("Hate", "SelfHarm", "Sexual", "Violence")
CATEGORIES: CategoryMap = {
    "Hate": "violence_hate",
    "SelfHarm": "suicide_self_harm",
    "Sexual": "sexual_content",
    "Violence": "violence_hate",
}
# The highest severity with outputType EightSeverityLevels.
_MAX_SEVERITY = 7
_MAX_OF_IMAGES = 6  # with FourSeverityLevels, which is all that images have
# The input requirements of the service's overview: up to 4 MB, 50 x 50 to 7200 x 7200 pixels.
_BOUNDS = ImageBounds(4 * 2**20, least=50, most=7200)


@dataclass(frozen=True, slots=True)
class AzureContentSafety:
    """The family with its categories fixed. Build it with `open_family`."""

    label_map: LabelMap
    api_version: str
    # Every customer has an endpoint, so there is no default.
    base_url: str = ""
    key_header: str = "Ocp-Apim-Subscription-Key"
    key_prefix: str = ""
    limit: int = 10_000
    in_bytes: bool = False
    batch: int = 1
    image_bounds: ImageBounds | None = _BOUNDS

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the labels are mapped to."""
        return self.label_map.taxonomy

    def request(self, texts: Sequence[str]) -> ServiceCall:
        """Return the call for one text."""
        (text,) = texts
        body = {"text": text, "categories": list(self.label_map.labels), "outputType": "EightSeverityLevels"}
        return ServiceCall("/contentsafety/text:analyze", body, {"api-version": self.api_version})

    def image_calls(self, texts: Sequence[str], image: InlineImage) -> tuple[ServiceCall, ...]:
        """Return the call for an image; the service reads it without a text."""
        labels = list(self.label_map.labels)
        body = {"image": {"content": image.data}, "categories": labels, "outputType": "FourSeverityLevels"}
        return (ServiceCall("/contentsafety/image:analyze", body, {"api-version": self.api_version}),)

    def image_verdict(self, answer: Any, guard: str) -> Verdict:
        """Return the verdict on an image. Raises GuardUnavailable if the answer is incomplete."""
        return self._verdict(answer, guard, _MAX_OF_IMAGES)

    def parse(self, answer: Any, texts: Sequence[str], guard: str) -> tuple[Verdict, ...]:
        """Return the verdict, from `categoriesAnalysis`. Raises GuardUnavailable if the answer is incomplete."""
        return (self._verdict(answer, guard, _MAX_SEVERITY),)

    def _verdict(self, answer: Any, guard: str, highest: int) -> Verdict:
        analyses = field_of(answer, "categoriesAnalysis", list)
        severities: dict[str, object] = {}
        for analysis in analyses if isinstance(analyses, list) else ():
            label, severity = field_of(analysis, "category", str), field_of(analysis, "severity", int)
            if not isinstance(severity, int) or isinstance(severity, bool) or not 0 <= severity <= highest:
                raise GuardUnavailable(f"the severity of {label} is {severity!r}, outside 0 to {highest}")
            severities[str(label)] = severity / highest
        return self.label_map.verdict(severities, guard)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    categories: CategoryMap | None = None,
    api_version: str = "2024-09-01",
) -> AzureContentSafety:
    """Open Azure AI Content Safety for texts and images.

    `categories` maps each of its four labels to one or several category ids (default: CATEGORIES); `unsafe` means
    P(unsafe). `taxonomy` names and describes these categories. Raises ConfigError for invalid options.
    """
    scores = label_map_for("azure_content_safety", taxonomy, LABELS, categories, CATEGORIES)
    return AzureContentSafety(scores, api_version)
