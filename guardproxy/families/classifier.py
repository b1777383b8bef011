"""Any sequence classifier: an encoder with a class head, its labels mapped to categories.

With no options it is the embedded guard, which reads a user's text alone and a reply behind the question that it
answers, and has one independent output for each category and one for `unsafe` as a whole. Other models are described
by their labels in output order, as the `id2label` of their config names them:

    toxic-bert       labels [toxic, severe_toxic, obscene, threat, insult, identity_hate], sigmoid
    Prompt Guard 2   labels [LABEL_0, LABEL_1], softmax, categories {LABEL_1: jailbreak}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from guardproxy.errors import ConfigError
from guardproxy.families.shared import Problems, expect, hashed, one_of, overall
from guardproxy.ports import ClassLogits, Piece, Prompt, Reading
from guardproxy.types import Category, Check, Finding, Taxonomy, Verdict

UNSAFE = "unsafe"
LABELS = (
    UNSAFE,
    "violence_hate",
    "sexual_content",
    "criminal_planning",
    "guns_illegal_weapons",
    "regulated_substances",
    "suicide_self_harm",
    "jailbreak",
)
_NAMES = {
    "violence_hate": "Violence and Hate",
    "sexual_content": "Sexual Content",
    "criminal_planning": "Criminal Planning",
    "guns_illegal_weapons": "Guns and Illegal Weapons",
    "regulated_substances": "Regulated or Controlled Substances",
    "suicide_self_harm": "Self-Harm",
    "jailbreak": "Jailbreak",
}
Replies = Literal["pair", "alone"]


@dataclass(frozen=True, slots=True)
class Classifier:
    """The family with its labels fixed. `sources`: for each category (and `unsafe`) the outputs it is read from."""

    taxonomy: Taxonomy
    readout: ClassLogits
    sources: Mapping[str, tuple[int, ...]]
    replies: Replies

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """One prompt of a `judged` piece; before it, for a reply judged as a pair, the question as a `turn` piece.

        The pair's first text is there, empty, even where no question is known: it is what tells a reply from a
        question. Never raises.
        """
        judged = Piece(check.turn.text, "judged")
        paired = check.side == "assistant" and self.replies == "pair"
        pieces = (Piece(_question(check), "turn"), judged) if paired else (judged,)
        return (Prompt(pieces, self.readout, f"classifier:{self.taxonomy.version}:{check.side}"),)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """The mapped outputs. A category with several labels has the greatest of independent outputs, the sum of
        exclusive ones. Raises GuardUnavailable where the reading makes no sense."""
        (outputs,) = expect(readings, [len(self.readout.labels)], total=self.readout.activation == "softmax")
        merge = max if self.readout.activation == "sigmoid" else _sum
        found = {name: merge([outputs[place] for place in places]) for name, places in self.sources.items()}
        unsafe = found.pop(UNSAFE, None)
        return Verdict(
            unsafe=overall(found) if unsafe is None else unsafe,
            findings=tuple(Finding(category, probability) for category, probability in found.items()),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
        )


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    labels: Sequence[str] | None = None,
    categories: Mapping[str, str | Sequence[str]] | None = None,
    activation: str = "sigmoid",
    replies: str | None = None,
) -> Classifier:
    """A sequence classifier.

    `labels`: the model's labels in the order of its outputs (default: the embedded guard's). `categories`: label to
    category id, or several ids; `unsafe` stands for the overall probability, and labels that are not named are not
    read (default: each label is its own category). Where no label says `unsafe`, the worst category does.
    `activation`: `sigmoid` for independent outputs, `softmax` for exclusive ones. `replies`: `pair` gives a reply
    behind its question, `alone` without (default: `pair` for the embedded guard's labels, `alone` for others).
    `taxonomy` names and describes the categories, all of which some label must be read for. Raises ConfigError.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels: {labels!r} is not a list of labels")
    outputs = LABELS if labels is None else tuple(labels)
    mapping = {label: label for label in outputs} if categories is None else dict(categories)
    problems = Problems()
    problems.add(not outputs, "labels: there is none")
    problems.add(len(set(outputs)) < len(outputs), "labels: one stands twice")
    for label in mapping:
        problems.add(label not in outputs, f"categories: {label!r} is not one of {', '.join(outputs)}")
    problems.raise_if_any()
    sources = _sources(outputs, mapping)
    problems.add(not sources, "categories: no label is read")
    problems.add(not all(sources), "categories: a category id is empty")
    problems.raise_if_any()
    how: Literal["sigmoid", "softmax"] = one_of("activation", activation, ("sigmoid", "softmax"))
    default = "pair" if labels is None or set(LABELS) <= set(outputs) else "alone"
    shape: Replies = one_of("replies", default if replies is None else replies, ("pair", "alone"))
    return Classifier(_taxonomy(taxonomy, sources), ClassLogits(outputs, how), sources, shape)


def _sources(labels: Sequence[str], mapping: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[int, ...]]:
    sources: dict[str, tuple[int, ...]] = {}
    for place, label in enumerate(labels):
        named = mapping.get(label, ())
        for category in (named,) if isinstance(named, str) else named:
            sources[category] = (*sources.get(category, ()), place)
    return sources


def _taxonomy(given: Taxonomy | None, sources: Mapping[str, tuple[int, ...]]) -> Taxonomy:
    ids = [category for category in sources if category != UNSAFE]
    if given is None:
        return hashed(Taxonomy("classifier", tuple(Category(name, _NAMES.get(name, name)) for name in ids)))
    told = [category.id for category in given.categories]
    if sorted(told) != sorted(ids):
        raise ConfigError(f"taxonomy {given.id!r}: has {', '.join(told)}; the labels are read for {', '.join(ids)}")
    return hashed(given)


def _question(check: Check) -> str:
    """The last user text before the reply."""
    before = (message for message in reversed(check.conversation.messages[:-1]) if message.role == "user")
    return next((message.text for message in before if message.text), "")


def _sum(values: Sequence[float]) -> float:
    return min(1.0, sum(values))
