"""Llama Guard 1, 2, 3 8B, 3 1B, 3 11B Vision and 4: safe, or unsafe and a list of category codes.

With a stock taxonomy, the prompts equal those of the checkpoints' chat templates byte for byte (arXiv 2312.06674 for
version 1; Meta's model cards for the others). The verdict is read at the position where the model writes it: directly
after `[/INST]` in versions 1 and 2, after the blank line that versions 3 and 4 write first. An image is shown in the
chat of a server, whose template places it; `excluded_category_keys` of the templates leaves categories out
(huggingface.co/blog/llama-guard-4; the model card of Llama Guard 3 11B Vision).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.llama_guard_categories import LLAMA_GUARD_1, hazards
from guardproxy.families.markers import injections
from guardproxy.families.shared import (
    CONTEXT,
    ROUNDING,
    OptionErrors,
    adapt,
    dialogue,
    list_unread,
    one_of,
    probabilities_of,
    versioned,
)
from guardproxy.images import ImageBounds
from guardproxy.ports import LabelList, Piece, Prompt, Reading, Readout, TokenChoice
from guardproxy.questions import ImageQuestion
from guardproxy.types import Category, Check, Finding, Side, Taxonomy, Verdict

Scoring = Literal["label_list", "one_vs_all"]
_ROLES: dict[Side, str] = {"user": "User", "assistant": "Agent"}


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """The differences between the versions.

    `opening` and `end` are the first and last pieces of the prompt; `according`, `heading`, `bullet` and `which` are
    phrases in it; `safe` and `unsafe` are the verdict words as the model writes them after the prompt. `sees`: it was
    trained on images, with all categories but `text_only`.
    """

    name: str
    stock: Taxonomy
    opening: tuple[Piece, ...]
    end: tuple[Piece, ...]
    according: str = "according"
    heading: str = "."
    bullet: str = " - "
    which: str = "ONLY THE LAST {role} message"
    safe: str = "safe"
    unsafe: str = "unsafe"
    sees: bool = False
    text_only: tuple[str, ...] = ()

    @property
    def letter(self) -> str:
        """The first letter of the version's category codes."""
        return self.stock.categories[0].code[0]

    def head(self, role: str, policy: Sequence[Category]) -> str:
        """Return the prompt from the task up to the conversation."""
        return (
            f"Task: Check if there is unsafe content in '{role}' messages in conversations {self.according} our safety "
            "policy with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n"
            + "".join(self._line(category) for category in policy)
            + "<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\n"
        )

    def _line(self, category: Category) -> str:
        # The template of version 1 has a space after this heading only.
        space = " " if self.name == "1" and category.name == LLAMA_GUARD_1[0].name else ""
        body = f"{category.description.strip()}\n" if category.description.strip() else ""
        shots = "".join(f"- {example.strip()}\n" for example in category.examples)
        shots = f"Examples\n{shots}" if shots else ""
        return f"{category.code}: {category.name.rstrip('.')}{self.heading}{space}\n{body}{shots}"

    def closing(self, role: str) -> tuple[Piece, ...]:
        """Return the prompt from the end of the conversation up to the model's answer."""
        asked = (
            f"<END CONVERSATION>\n\nProvide your safety assessment for {self.which.format(role=role)} in the above "
            f"conversation:\n{self.bullet}First line must read 'safe' or 'unsafe'.\n{self.bullet}If unsafe, a second "
            "line must include a comma-separated list of violated categories."
        )
        return (Piece(asked), *self.end)


def _header(role: str, start: str, end: str) -> tuple[Piece, ...]:
    return (Piece(start, "special"), Piece(role), Piece(end, "special"), Piece("\n\n"))


_HEADER_3 = ("<|start_header_id|>", "<|end_header_id|>")
_HEADER_4 = ("<|header_start|>", "<|header_end|>")
_BEGIN = Piece("<|begin_of_text|>", "special")
_OPENING_3 = (_BEGIN, *_header("user", *_HEADER_3))
_END_3 = (Piece("<|eot_id|>", "special"), *_header("assistant", *_HEADER_3))
# Servers scale images down to what the model reads; `limits` has lower bounds.
_IMAGES = ImageBounds(20_000_000)
_NOT_IN_2 = ("defamation", "elections", "code_interpreter_abuse")
_VERSIONS = {
    version.name: version
    for version in (
        PromptVersion(
            name="1",
            stock=Taxonomy("llama_guard_1", LLAMA_GUARD_1),
            opening=(Piece("[INST] "),),
            end=(Piece(" [/INST]"),),
            bullet="- ",
            which="{role}",
            # SentencePiece encodes the verdict with a leading space.
            safe=" safe",
            unsafe=" unsafe",
        ),
        PromptVersion(
            name="2",
            stock=Taxonomy("llama_guard_2", hazards(without=_NOT_IN_2)),
            opening=(Piece("[INST] "),),
            end=(Piece(" [/INST]"),),
            heading=". ",
        ),
        PromptVersion(
            name="3",
            stock=Taxonomy("llama_guard_3", hazards()),
            # The template of the 8B model begins with a space.
            opening=(Piece(" "), *_OPENING_3),
            end=_END_3,
        ),
        PromptVersion(
            name="3-1b",
            stock=Taxonomy("llama_guard_3_1b", hazards(without=("code_interpreter_abuse",))),
            opening=_OPENING_3,
            end=(Piece(" "), *_END_3),
        ),
        PromptVersion(
            name="3-11b-vision",
            stock=Taxonomy("llama_guard_3_11b_vision", hazards(without=("code_interpreter_abuse",))),
            opening=_OPENING_3,
            end=(Piece(" "), *_END_3),
            sees=True,
        ),
        PromptVersion(
            name="4",
            stock=Taxonomy("llama_guard_4", hazards()),
            opening=(_BEGIN, *_header("user", *_HEADER_4)),
            end=(Piece(" "), Piece("<|eot|>", "special"), *_header("assistant", *_HEADER_4)),
            according="according to",
            sees=True,
            text_only=("code_interpreter_abuse",),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class LlamaGuard:
    """The family with a fixed version, taxonomy and scoring, built by `open_family`."""

    version: PromptVersion
    taxonomy: Taxonomy
    scoring: Scoring
    context: int

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """Return one prompt; with `one_vs_all`, also one prompt for each category alone. Never raises."""
        conversation = self._conversation(check)
        if self.scoring == "label_list":
            return (self._prompt(check, conversation, self.taxonomy.categories, self._list()),)
        choice = TokenChoice(("safe", "unsafe"), ((self.version.safe,), (self.version.unsafe,)))
        policies = (self.taxonomy.categories, *((category,) for category in self.taxonomy.categories))
        return tuple(self._prompt(check, conversation, policy, choice) for policy in policies)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """Return P(unsafe) and the probability of each category. Raises GuardUnavailable for invalid readings.

        If the engine skipped the label list, there are no findings for categories: each is at most P(unsafe).
        """
        count = len(self.taxonomy.categories)
        if self.scoring == "label_list":
            ((unsafe, *listed),) = probabilities_of(readings, [count + 1])
            if any(probability > unsafe + ROUNDING for probability in listed):
                raise GuardUnavailable("a category is more probable than unsafe, although its list follows unsafe")
            if list_unread(readings[0]):
                listed = []
        else:
            (_, unsafe), *single = probabilities_of(readings, [2] * (count + 1), total=True)
            listed = [probability for _, probability in single]
        findings = (
            Finding(category.id, probability, label=category.code)
            for category, probability in zip(self.taxonomy.categories, listed, strict=bool(listed))
        )
        return Verdict(
            unsafe=unsafe,
            findings=(*findings, *injections(check.turn.text)),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=max(reading.leftover for reading in readings),
            outside=max(reading.outside for reading in readings),
        )

    @property
    def image_bounds(self) -> ImageBounds | None:
        """The images that the version reads; None if it reads none, or the taxonomy has other categories than its own.

        The chat template of a server can leave categories out, and not all templates can add one.
        """
        own = {replace(category, id="") for category in self.version.stock.categories}
        known = all(replace(category, id="") in own for category in self.taxonomy.categories)
        return _IMAGES if self.version.sees and known and self._of_images() else None

    def image_questions(self, check: Check, characters: int) -> tuple[ImageQuestion, ...]:
        """Return the question about all categories, then one for each category that images have."""
        shown = dialogue(check, min(self.context, characters))
        turns = tuple(text for exchange in shown.exchanges for text in exchange)
        judged = f"{shown.before}\n{shown.judged}" if shown.before else shown.judged
        # The server trims each text; the roles alternate, as the templates demand.
        texts = (*turns, *([shown.question] if check.side == "assistant" else []), judged)
        own = [category.code for category in self.taxonomy.categories]
        stock = [category.code for category in self.version.stock.categories]
        left_out = [code for code in stock if code not in own]
        single = [[code for code in stock if code != category.code] for category in self._of_images()]
        return tuple(
            ImageQuestion(texts, {"excluded_category_keys": excluded} if excluded else {})
            for excluded in (left_out, *single)
        )

    def image_verdict(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """Return the verdict on an image, from the readings of the first question alone or of all questions.

        Raises GuardUnavailable for invalid readings.
        """
        asked = self._of_images()
        unread = len(readings) == 1
        (_, unsafe), *single = probabilities_of(readings, [2] * (1 if unread else len(asked) + 1), total=True)
        findings = [
            Finding(category.id, probability, label=category.code)
            for category, (_, probability) in zip(asked, single, strict=not unread)
        ]
        leftover = max(reading.leftover for reading in readings)
        return Verdict(
            unsafe=unsafe,
            findings=(*findings, *injections(check.turn.text)),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=max(leftover, unsafe) if unread else leftover,
            outside=max(reading.outside for reading in readings),
        )

    def _of_images(self) -> list[Category]:
        return [category for category in self.taxonomy.categories if category.id not in self.version.text_only]

    def _list(self) -> LabelList:
        codes = tuple(category.code for category in self.taxonomy.categories)
        return LabelList(self.version.safe, self.version.unsafe, "\n", codes, ",", "")

    def _conversation(self, check: Check) -> list[Piece]:
        """Return the conversation block. Each exchange is one piece, so that dropping a piece leaves whole turns."""
        shown = dialogue(check, self.context)
        pieces = [Piece(f"User: {asked}\n\nAgent: {answer}\n\n", "turn") for asked, answer in shown.exchanges]
        pieces.append(Piece("User: "))
        if check.side == "assistant":
            pieces += (
                [Piece(shown.question, "turn"), Piece("\n\nAgent: ")] if shown.question else [Piece("\n\nAgent: ")]
            )
        if shown.before:
            pieces.append(Piece(f"{shown.before}\n", "turn"))
        return [*pieces, Piece(shown.judged, "judged"), Piece("\n\n")]

    def _prompt(self, check: Check, conversation: list[Piece], policy: Sequence[Category], readout: Readout) -> Prompt:
        role = _ROLES[check.side]
        head = self.version.head(role, policy)
        key = f"llama_guard-{self.version.name}:{self.taxonomy.version}:{check.side}"
        if len(policy) < len(self.taxonomy.categories):
            key += f":{policy[0].id}"
        return Prompt((*self.version.opening, Piece(head), *conversation, *self.version.closing(role)), readout, key)


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    version: str | int = "1",
    scoring: str = "label_list",
    context: int = CONTEXT,
) -> LlamaGuard:
    """Open Llama Guard, `version` 1, 2, 3, 3-1b, 3-11b-vision or 4.

    `taxonomy` replaces the stock categories. The prompt shows each as `CODE: name.`, with its description and examples
    below; missing codes are numbered. `scoring`: `label_list` reads all categories from the label lists of one prompt,
    `one_vs_all` adds a prompt for each category with a policy of that category alone. `context` is the most characters
    of earlier conversation in the prompt. Raises ConfigError for invalid options.
    """
    known = _VERSIONS[one_of("version", str(version), tuple(_VERSIONS))]
    chosen = _coded(adapt(taxonomy, known.stock), known)
    if not isinstance(context, int) or context < 0:
        raise ConfigError(f"context: {context!r} must be a number of characters, 0 or more")
    how: Scoring = one_of("scoring", scoring, ("label_list", "one_vs_all"))
    return LlamaGuard(known, chosen, how, context)


def _coded(taxonomy: Taxonomy, version: PromptVersion) -> Taxonomy:
    """Return the taxonomy with a code for each category: its own, or the version's letter and a free number.

    The number is the category's place, or the next number after it whose code no other category uses.
    """
    taken = {category.code for category in taxonomy.categories}
    categories: list[Category] = []
    for place, category in enumerate(taxonomy.categories, 1):
        numbered = (f"{version.letter}{number}" for number in itertools.count(place))
        code = category.code or next(free for free in numbered if free not in taken)
        taken.add(code)
        categories.append(replace(category, code=code))
    codes = [category.code for category in categories]
    errors = OptionErrors()
    for code in codes:
        where = f"taxonomy {taxonomy.id!r}: code {code!r}"
        errors.add(codes.count(code) > 1, f"{where} is used twice")
        valid = code.isascii() and code.isalnum() and code[0].isalpha()
        errors.add(not valid, f"{where} must be a letter followed by letters and digits, such as {version.letter}1")
    errors.raise_if_any()
    return versioned(replace(taxonomy, categories=tuple(categories)))
