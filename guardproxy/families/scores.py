"""What the service families share: named scores, and the categories they are read for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.shared import Problems, hashed, overall
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
class Scores:
    """Which of a service's labels are read for which category (or for `unsafe` as a whole)."""

    taxonomy: Taxonomy
    sources: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are read, each once."""
        return tuple(dict.fromkeys(label for labels in self.sources.values() for label in labels))

    def verdict(self, given: Mapping[str, object], guard: str) -> Verdict:
        """The verdict from scores in [0, 1] by label: a category's is its greatest.

        Where no label is read for `unsafe`, the greatest score of all is P(unsafe), labels included that no category
        is read from. A label whose score is null has none, as a model has that does not know it. Raises
        GuardUnavailable for a label that is read and missing, or a score that is no probability.
        """
        scores = {label: _probability(label, value) for label, value in given.items() if value is not None}
        if missing := [label for label in self.labels if label not in scores]:
            raise GuardUnavailable(f"the answer has no score for {', '.join(missing)}")
        best = {category: max(labels, key=scores.__getitem__) for category, labels in self.sources.items()}
        whole = best.pop(UNSAFE, None)
        return Verdict(
            unsafe=overall(scores) if whole is None else scores[whole],
            findings=tuple(Finding(category, scores[label], label=label) for category, label in best.items()),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
        )


def scores_for(
    family: str, taxonomy: Taxonomy | None, labels: Sequence[str], categories: CategoryMap | None, stock: CategoryMap
) -> Scores:
    """The map of a service's `labels`: `categories`, or `stock`. Raises ConfigError."""
    mapping = {label: stock[label] for label in labels if label in stock} if categories is None else dict(categories)
    problems = Problems()
    for label in mapping:
        problems.add(label not in labels, f"categories: {label!r} is not one of {', '.join(labels)}")
    sources: dict[str, tuple[str, ...]] = {}
    for label, named in mapping.items():
        for category in (named,) if isinstance(named, str) else named:
            problems.add(not category.strip(), f"categories: {label!r}: a category id is empty")
            sources[category] = (*sources.get(category, ()), label)
    ids = [category for category in sources if category != UNSAFE]
    problems.add(not ids, "categories: no label is read for a category")
    problems.raise_if_any()
    if taxonomy is None:
        return Scores(hashed(Taxonomy(family, tuple(Category(name, _NAMES.get(name, name)) for name in ids))), sources)
    told = [category.id for category in taxonomy.categories]
    if sorted(told) != sorted(ids):
        raise ConfigError(f"taxonomy {taxonomy.id!r}: has {', '.join(told)}; the labels are read for {', '.join(ids)}")
    return Scores(hashed(taxonomy), sources)


def field_of(value: object, name: str, kind: type) -> object:
    """`value[name]`, of type `kind`. Raises GuardUnavailable where there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise GuardUnavailable(f"the answer has no {name!r}")
    return found


def _probability(label: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise GuardUnavailable(f"the score of {label} is {value!r}, which is no probability")
    return float(value)
