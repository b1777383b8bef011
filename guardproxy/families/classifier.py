"""Any sequence classifier: an encoder with a class head whose labels are mapped to categories.

Without options this is the embedded guard. It reads a user text alone and a reply after the question that it answers,
and has independent outputs for each category and for `unsafe`. It reads a reply a second time without the question, so
that a harmless reply is not judged by a harmful question. Describe another model by its labels in the order of its
outputs, with the names in `id2label` of its config:

    toxic-bert       labels [toxic, severe_toxic, obscene, threat, insult, identity_hate], sigmoid
    Prompt Guard 2   labels [LABEL_0, LABEL_1], softmax, categories {LABEL_1: jailbreak}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from guardproxy.errors import ConfigError
from guardproxy.families.shared import (
    OptionErrors,
    one_of,
    overall_probability,
    probabilities_of,
    require_categories,
    versioned,
)
from guardproxy.ports import ClassLogits, Piece, Prompt, Reading
from guardproxy.types import Category, Check, Finding, Span, Taxonomy, Verdict

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
# A reply whose P(unsafe) without its question is below this is not judged by the question: docs/evaluation.md.
HARMLESS_ALONE = 0.03
# A reply with fewer words, or with one of these, may mean something only after its question: "Yes, you should."
_FEWEST_WORDS = 5
_DEPENDENT = frozenset(
    {
        "absolutely", "agree", "agreed", "allowed", "certainly", "course", "definitely", "do", "fine", "go", "good",
        "great", "he", "her", "him", "his", "it", "its", "it's", "no", "nothing", "okay", "ok", "one", "perfectly",
        "right", "she", "should", "so", "sure", "that", "that's", "them", "they", "this", "those", "these",
        "totally", "true", "wrong", "yeah", "yep", "yes", "you", "your", "you're",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Classifier:
    """The family with fixed labels. `sources` has the output indices of each category and of `unsafe`."""

    taxonomy: Taxonomy
    readout: ClassLogits
    sources: Mapping[str, tuple[int, ...]]
    replies: Replies

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """Return the judged text as one prompt; a reply that is judged as a pair also without question. Never raises.

        A pair has a first text even if the question is unknown and the text is empty: only pairs are read as replies.
        """
        judged = Piece(check.turn.text, "judged")
        key = f"classifier:{self.taxonomy.version}:{check.side}"
        if check.side != "assistant" or self.replies != "pair":
            return (Prompt((judged,), self.readout, key, check.least if UNSAFE in self.sources else 0.0),)
        questions = dict.fromkeys((_question(check), "") if _stands_alone(check.turn.text) else (_question(check),))
        return tuple(Prompt((Piece(question, "turn"), judged), self.readout, key) for question in questions)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """Return the verdict from the mapped outputs. Raises GuardUnavailable for an invalid reading.

        A category with several labels has the greatest of independent outputs, or the sum of exclusive outputs. Of a
        reply that was read twice, the reading without the question counts if its P(unsafe) is below HARMLESS_ALONE,
        else the reading with the question.
        """
        sizes = [len(self.readout.labels)] * len(self.render(check))
        outputs = probabilities_of(readings, sizes, total=self.readout.activation == "softmax")
        spans = [reading.spans for reading in readings]
        verdict, *alone = (self._verdict(*read, guard) for read in zip(outputs, spans, strict=True))
        return alone[0] if alone and alone[0].unsafe < HARMLESS_ALONE else verdict

    def _verdict(self, outputs: Sequence[float], spans: Sequence[Span], guard: str) -> Verdict:
        merge = max if self.readout.activation == "sigmoid" else _capped_sum
        found = {
            name: Finding(
                name,
                merge([outputs[place] for place in places]),
                span=spans[max(places, key=outputs.__getitem__)] if spans else None,
            )
            for name, places in self.sources.items()
        }
        whole = found.pop(UNSAFE, None)
        probabilities = {name: finding.probability for name, finding in found.items()}
        return Verdict(
            unsafe=overall_probability(probabilities) if whole is None else whole.probability,
            findings=tuple(found.values()),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            span=None if whole is None else whole.span,
        )


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    labels: Sequence[str] | None = None,
    categories: Mapping[str, str | Sequence[str]] | None = None,
    activation: str = "sigmoid",
    replies: str | None = None,
) -> Classifier:
    """Open a sequence classifier.

    `labels`: the model's labels in the order of its outputs (default: the embedded guard's labels). `categories` maps
    each label to one or several category ids, and `unsafe` means P(unsafe); unmapped labels are ignored (default: each
    label is a category). If no label is mapped to `unsafe`, P(unsafe) is that of the worst category. `activation`:
    `sigmoid` for independent outputs, `softmax` for exclusive outputs. `replies`: `pair` gives the model the question
    and the reply, and the reply without it; `alone` only the reply, as a text (default: `pair` for the embedded guard's
    labels, otherwise `alone`).
    `taxonomy` names and describes the categories; each needs a label. Raises ConfigError for invalid options.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels: {labels!r} must be a list of labels")
    outputs = LABELS if labels is None else tuple(labels)
    mapping = {label: label for label in outputs} if categories is None else dict(categories)
    errors = OptionErrors()
    errors.add(not outputs, "labels: name at least one label")
    errors.add(len(set(outputs)) < len(outputs), "labels: a label is listed twice")
    for label in mapping:
        errors.add(label not in outputs, f"categories: {label!r} is not one of {', '.join(outputs)}")
    errors.raise_if_any()
    sources = _sources(outputs, mapping)
    errors.add(not sources, "categories: map at least one label to a category")
    errors.add(not all(sources), "categories: a category id is empty")
    errors.raise_if_any()
    how: Literal["sigmoid", "softmax"] = one_of("activation", activation, ("sigmoid", "softmax"))
    default = "pair" if labels is None or set(LABELS) <= set(outputs) else "alone"
    reply_form: Replies = one_of("replies", default if replies is None else replies, ("pair", "alone"))
    return Classifier(_taxonomy(taxonomy, sources), ClassLogits(outputs, how), sources, reply_form)


def _sources(labels: Sequence[str], mapping: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[int, ...]]:
    sources: dict[str, tuple[int, ...]] = {}
    for place, label in enumerate(labels):
        targets = mapping.get(label, ())
        for category in (targets,) if isinstance(targets, str) else targets:
            sources[category] = (*sources.get(category, ()), place)
    return sources


def _taxonomy(own: Taxonomy | None, sources: Mapping[str, tuple[int, ...]]) -> Taxonomy:
    ids = [category for category in sources if category != UNSAFE]
    if own is None:
        return versioned(Taxonomy("classifier", tuple(Category(name, _NAMES.get(name, name)) for name in ids)))
    require_categories(own, ids)
    return versioned(own)


def _question(check: Check) -> str:
    """Return the last user text before the reply."""
    before = (message for message in reversed(check.conversation.messages[:-1]) if message.role == "user")
    return next((message.text for message in before if message.text), "")


def _stands_alone(text: str) -> bool:
    """Whether a reply says something without its question, as far as its words tell."""
    words = [word.strip(".,;:!?\"'()*").lower() for word in text.replace("\u2019", "'").split()]
    return len(words) >= _FEWEST_WORDS and not _DEPENDENT.intersection(words)


def _capped_sum(values: Sequence[float]) -> float:
    return min(1.0, sum(values))
