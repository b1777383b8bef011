"""NVIDIA's Nemotron 3 and Nemotron 3.5 Content Safety: texts and one image, judged in the chat of a server.

The form is that of the model cards (huggingface.co/nvidia/Nemotron-3-Content-Safety, Nemotron-3.5-Content-Safety): a
user's message, an image beside its text, the assistant's message if a reply is judged, and the template's variable
`request_categories`. The answer has the lines `User Safety`, `Response Safety` if there is a reply, and `Safety
Categories` if one of both is unsafe. The categories are those of Aegis 2.0 (arXiv 2501.09004).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Final

from guardproxy.errors import ConfigError, Unintelligible
from guardproxy.families.labels import softened
from guardproxy.families.markers import injections
from guardproxy.families.shared import dialogue
from guardproxy.images import ImageBounds
from guardproxy.questions import ChatAnswer, Question
from guardproxy.types import Category, Check, Finding, Taxonomy, Verdict

_TAXONOMY: Final = Taxonomy(
    "nemotron",
    (
        Category("violence", "Violence"),
        Category("sexual_content", "Sexual"),
        Category("criminal_planning", "Criminal Planning/Confessions"),
        Category("guns_illegal_weapons", "Guns and Illegal Weapons"),
        Category("regulated_substances", "Controlled/Regulated Substances"),
        Category("suicide_self_harm", "Suicide and Self Harm"),
        Category("child_sexual_exploitation", "Sexual (minor)"),
        Category("hate", "Hate/Identity Hate"),
        Category("privacy", "PII/Privacy"),
        Category("harassment", "Harassment"),
        Category("threat", "Threat"),
        Category("profanity", "Profanity"),
        Category("needs_caution", "Needs Caution"),
        Category("other", "Other"),
        Category("manipulation", "Manipulation"),
        Category("fraud", "Fraud/Deception"),
        Category("malware", "Malware"),
        Category("government_decisions", "High Risk Gov Decision Making"),
        Category("misinformation", "Political/Misinformation/Conspiracy"),
        Category("intellectual_property", "Copyright/Trademark/Plagiarism"),
        Category("specialized_advice", "Unauthorized Advice"),
        Category("illegal_activity", "Illegal Activity"),
        Category("unethical_acts", "Immoral/Unethical"),
    ),
)
_IDS: Final = {category.name: category.id for category in _TAXONOMY.categories}
_BOUNDS: Final = ImageBounds(20_000_000)
# Version 3.5 can reason before it answers; the template of version 3 does not read the second variable.
_TEMPLATE: Final = {"request_categories": "/categories", "enable_thinking": False}
# The model reads an image only beside a text.
_NO_TEXT: Final = "(an image without a text)"
_USER, _RESPONSE = "User Safety:", "Response Safety:"
_ANSWER: Final = re.compile(
    rf"{_USER} (safe|unsafe)[ \t]*(?:\n+{_RESPONSE} (safe|unsafe)[ \t]*)?(?:\n+Safety Categories: ([^\n]+))?\s*"
)
_TOKENS: Final = 256  # of an answer: all names of categories have fewer than half as many
_FEWEST, _MOST = 200, 200_000  # characters of a window


@dataclass(frozen=True, slots=True)
class Nemotron:
    """The family, built by `open_family`."""

    taxonomy: Taxonomy
    limit: int
    tokens: int = _TOKENS
    image_bounds: ImageBounds | None = _BOUNDS

    def ask(self, check: Check) -> Question:
        """Return the judged text as a user's message, or as the reply to the user's text before it. Never raises.

        An image is shown in the user's message, where the model was trained on it: that of a reply with the reply's
        text as if the user had sent both.
        """
        shown = dialogue(check, self.limit)
        judged = softened(shown.judged)
        images = [part.image for part in check.turn.images if part.image is not None]
        if images:
            return Question((("user", judged or _NO_TEXT),), _options(), images[0], _USER)
        if check.side == "assistant":
            return Question((("user", softened(shown.question)), ("assistant", judged)), _options(), line=_RESPONSE)
        return Question((("user", judged),), _options(), line=_USER)

    def parse(self, check: Check, answer: ChatAnswer, guard: str) -> Verdict:
        """Return P(unsafe) of the judged text, and the categories that the model names as labels.

        Raises Unintelligible for an answer of another form, and for contradictions.
        """
        found = _ANSWER.fullmatch(answer.text)
        if found is None:
            raise Unintelligible("the answer has other lines than User Safety, Response Safety and Safety Categories")
        of_user, of_response, listed = found.groups()
        replied = check.side == "assistant" and not check.turn.images
        if replied != (of_response is not None):
            raise Unintelligible("the answer rates a reply where there is none, or does not rate the reply")
        names = [name.strip() for name in (listed or "").split(",") if name.strip()]
        if bool(names) != ("unsafe" in (of_user, of_response)):
            raise Unintelligible("the answer contradicts itself: safe with categories, or unsafe without one")
        if unknown := [name for name in names if name not in _IDS]:
            raise Unintelligible(f"the answer names {len(unknown)} categories that the taxonomy does not have")
        reading = answer.reading
        if reading is None or len(reading.probabilities) != 2:
            raise Unintelligible("the server shows no probabilities of the answer's words")
        # The list has the categories of both; those of a safe reply are none.
        named = {_IDS[name] for name in names} if (of_response or of_user) == "unsafe" else set()
        labels = tuple(
            Finding(one.id, float(one.id in named), label=one.name, kind="label") for one in self.taxonomy.categories
        )
        return Verdict(
            reading.probabilities[1],
            (*labels, *injections(check.turn.text)),
            guard,
            f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=reading.leftover,
            outside=reading.outside,
        )


def _options() -> dict[str, object]:
    return {"chat_template_kwargs": dict(_TEMPLATE)}


def open_family(*, taxonomy: Taxonomy | None = None, max_characters: int = 16_000) -> Nemotron:
    """Open Nemotron 3 or 3.5 Content Safety. A text of more than `max_characters` is judged in windows.

    Raises ConfigError for another number than 200 to 200,000, and if `taxonomy` is given: the template has its own.
    """
    if taxonomy is not None:
        raise ConfigError(f"taxonomy {taxonomy.id!r}: remove it, because the template of the model has its own")
    if type(max_characters) is not int or not _FEWEST <= max_characters <= _MOST:
        raise ConfigError(f"max_characters: must be from {_FEWEST:,} to {_MOST:,}")
    digest = hashlib.sha256(repr((_TAXONOMY.categories, _TEMPLATE, max_characters)).encode()).hexdigest()[:12]
    return Nemotron(replace(_TAXONOMY, version=digest), max_characters)
