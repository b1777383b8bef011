"""Shared by the families of moderation services: scores by label, and the categories that labels are mapped to."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from guardproxy.errors import GuardUnavailable
from guardproxy.families.shared import OptionErrors, overall_probability, require_categories, versioned
from guardproxy.types import Category, Finding, Taxonomy, Verdict

UNSAFE = "unsafe"
CategoryMap = Mapping[str, str | Sequence[str]]
_NAMES = {
    "violence_hate": "Violence and Hate",
    "sexual_content": "Sexual Content",
    "criminal_planning": "Criminal Planning",
    "guns_illegal_weapons": "Guns and Illegal Weapons",
    "suicide_self_harm": "Self-Harm",
    "child_sexual_exploitation": "Child Sexual Exploitation",
    "harassment": "Harassment",
    "profanity": "Profanity",
}


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Maps the labels of a service to categories; `sources` has the labels of each category and of `unsafe`."""

    taxonomy: Taxonomy
    sources: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that any category uses, without duplicates."""
        return tuple(dict.fromkeys(label for labels in self.sources.values() for label in labels))

    def only(self, labels: Collection[str]) -> "LabelMap":
        """The map of what these labels say: a category has those of its labels, or is left out."""
        kept = {category: tuple(one for one in own if one in labels) for category, own in self.sources.items()}
        return LabelMap(self.taxonomy, {category: own for category, own in kept.items() if own})

    def verdict(self, answer: Mapping[str, object], guard: str) -> Verdict:
        """Return the verdict from scores in [0, 1] by label. A category has the greatest score of its labels.

        If no label is mapped to `unsafe`, P(unsafe) is the greatest of all scores, unmapped labels included. A null
        score counts as missing: the service's model does not know that label. Raises GuardUnavailable if a mapped
        label is missing, or for a score outside [0, 1].
        """
        scores = {label: _probability(label, value) for label, value in answer.items() if value is not None}
        if missing := [label for label in self.labels if label not in scores]:
            raise GuardUnavailable(f"the answer has no score for {', '.join(missing)}")
        best = {category: max(labels, key=scores.__getitem__) for category, labels in self.sources.items()}
        whole = best.pop(UNSAFE, None)
        return Verdict(
            unsafe=overall_probability(scores) if whole is None else scores[whole],
            findings=tuple(Finding(category, scores[label], label=label) for category, label in best.items()),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
        )


def label_map_for(
    family: str, taxonomy: Taxonomy | None, labels: Sequence[str], categories: CategoryMap | None, stock: CategoryMap
) -> LabelMap:
    """Map a service's `labels` by `categories`, or by `stock` if that is None. Raises ConfigError."""
    mapping = {label: stock[label] for label in labels if label in stock} if categories is None else dict(categories)
    errors = OptionErrors()
    for label in mapping:
        errors.add(label not in labels, f"categories: {label!r} is not one of {', '.join(labels)}")
    sources: dict[str, tuple[str, ...]] = {}
    for label, targets in mapping.items():
        for category in (targets,) if isinstance(targets, str) else targets:
            errors.add(not category.strip(), f"categories: {label!r}: a category id is empty")
            sources[category] = (*sources.get(category, ()), label)
    ids = [category for category in sources if category != UNSAFE]
    errors.add(not ids, "categories: map at least one label to a category")
    errors.raise_if_any()
    if taxonomy is None:
        return LabelMap(
            versioned(Taxonomy(family, tuple(Category(name, _NAMES.get(name, name)) for name in ids))), sources
        )
    require_categories(taxonomy, ids)
    return LabelMap(versioned(taxonomy), sources)


def field_of(value: object, name: str, kind: type) -> object:
    """Return `value[name]`. Raises GuardUnavailable if it is missing or not of type `kind`."""
    content = value.get(name) if isinstance(value, dict) else None
    if not isinstance(content, kind):
        raise GuardUnavailable(f"the answer has no {name!r}")
    return content


def _probability(label: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise GuardUnavailable(f"the score of {label} is {value!r}, outside [0, 1]")
    return float(value)
