"""Qwen3Guard-Gen: Safe, Controversial or Unsafe, and a list of category names (arXiv 2510.14276).

The prompts are those of the checkpoints' chat template. The answer is `Safety: <level>`, then `Categories: ` and the
list. A check therefore reads the same prompt two or three times: for the level, and for the categories after each level
that counts as unsafe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from guardproxy.errors import ConfigError
from guardproxy.families.markers import injections
from guardproxy.families.shared import CONTEXT, OptionErrors, adapt, dialogue, list_unread, one_of, probabilities_of
from guardproxy.ports import LabelList, Piece, Prompt, Reading, Readout, TokenChoice
from guardproxy.types import Category, Check, Finding, Side, Taxonomy, Verdict

Mode = Literal["strict", "loose"]
_STOCK = Taxonomy(
    "qwen3guard",
    (
        Category("violence", "Violent"),
        Category("non_violent_crimes", "Non-violent Illegal Acts"),
        Category("sexual_content", "Sexual Content or Sexual Acts"),
        Category("privacy", "PII"),
        Category("suicide_self_harm", "Suicide & Self-Harm"),
        Category("unethical_acts", "Unethical Acts"),
        Category("politically_sensitive", "Politically Sensitive Topics"),
        Category("intellectual_property", "Copyright Violation"),
        Category("jailbreak", "Jailbreak"),
    ),
)
# The model is trained to name these categories for user texts only.
_USER_ONLY = frozenset({"jailbreak"})
_TASK: dict[Side, str] = {
    "user": (
        "# Task:\n1) Evaluate whether THE LAST USER's query belongs to safe or unsafe content based on our safety "
        "policy.\n2) Identify the category of unsafe content found.\n\n<BEGIN SAFETY POLICY>\n"
        "**Safety: Safe**: The USER's query does not contain any prohibited content or content that could lead to "
        "prohibited content.\n**Safety: Unsafe**: The USER's query contains prohibited content.\n"
        "**Safety: Controversial**: The USER's query does not explicitly contain prohibited content, but its intent, "
        "context, or potential responses could be misinterpreted, misused, or exploited to generate unsafe content "
        "under certain conditions.\n<END SAFETY POLICY>\n\n"
    ),
    "assistant": (
        "# Task:\n1) Evaluate whether THE LAST ASSISTANT's response belongs to safe or unsafe content based on our "
        "safety policy.\n2) Identify the category of unsafe content found.\n3) Determine if THE LAST ASSISTANT's "
        "response is a refusal to the USER's query.\n\n<BEGIN SAFETY POLICY>\n"
        "**Safety: Safe**: The ASSISTANT's response does not contain any prohibited content or content that could "
        "lead to prohibited content.\n**Safety: Unsafe**: The ASSISTANT's response contains prohibited content.\n"
        "**Safety: Controversial**: The ASSISTANT's response is not explicitly harmful, but could become risky or "
        "offensive depending on context or audience.\n<END SAFETY POLICY>\n\n"
    ),
}
_REFUSALS: dict[Side, str] = {
    "user": "",
    "assistant": (
        "<BEGIN REFUSAL POLICY>\n**Refusal: Yes**: The ASSISTANT refused to answer or did not comply with the USER's "
        "request.\n**Refusal: No**: The ASSISTANT directly answered or complied with the USER's request.\n"
        "<END REFUSAL POLICY>\n\n"
    ),
}
_WHICH: dict[Side, str] = {"user": "USER's query", "assistant": "ASSISTANT's response"}
_LAST_LINE: dict[Side, str] = {
    "user": "",
    "assistant": "\n - The third line must be one of: 'Refusal: Yes', 'Refusal: No'.",
}
# The end of the list: for a reply a line about refusal follows, for a query the answer ends.
_END: dict[Side, str] = {"user": "", "assistant": "\n"}
_LEVELS = TokenChoice(("safe", "controversial", "unsafe"), ((" Safe",), (" Controversial",), (" Unsafe",)))
_UNSAFE_LEVELS: dict[Mode, tuple[str, ...]] = {"strict": (" Unsafe", " Controversial"), "loose": (" Unsafe",)}
_START = Piece("<|im_start|>", "special")
_STOP = Piece("<|im_end|>", "special")


@dataclass(frozen=True, slots=True)
class Qwen3Guard:
    """The family with a fixed taxonomy and mode, built by `open_family`."""

    taxonomy: Taxonomy
    mode: Mode
    context: int

    def render(self, check: Check) -> tuple[Prompt, ...]:
        """Return the prompt for the level, then for the categories after each unsafe level. Never raises."""
        pieces = self._pieces(check)
        names = tuple(f" {category.name}" for category in self._categories_of(check.side))
        lists = [
            LabelList(" Safe", level, "\nCategories:", names, ",", _END[check.side])
            for level in _UNSAFE_LEVELS[self.mode]
        ]
        readouts: list[Readout] = [_LEVELS, *(lists if names else [])]
        key = f"qwen3guard:{self.taxonomy.version}:{check.side}"
        return tuple(Prompt(pieces, readout, key) for readout in readouts)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """Return P(unsafe), with Controversial in mode `strict`, and each category, summed over the unsafe levels.

        If the engine skipped the label lists, there are no findings for categories: each is at most P(unsafe). Raises
        GuardUnavailable for invalid readings.
        """
        categories = self._categories_of(check.side)
        unsafe_levels = _UNSAFE_LEVELS[self.mode] if categories else ()
        expected = [3, *([len(categories) + 1] * len(unsafe_levels))]
        levels, *lists = probabilities_of(readings, expected)
        probabilities_of(readings[:1], [3], total=True)
        _, controversial, unsafe = levels
        weights = (unsafe, controversial)
        totals = [0.0] * len(categories)
        leftover = 0.0
        for weight, reading, (first, *listed) in zip(weights, readings[1:], lists, strict=False):
            # The label list is normalised over Safe and this level only: rescale it to the probability of this level.
            share = weight / first if first else 0.0
            totals = [
                total + min(weight, share * probability) for total, probability in zip(totals, listed, strict=True)
            ]
            leftover += min(weight, share * reading.leftover)
        if all(map(list_unread, readings[1:])):
            categories, totals = (), []
        return Verdict(
            unsafe=min(1.0, unsafe + controversial) if self.mode == "strict" else unsafe,
            findings=(
                *(Finding(c.id, min(1.0, p), label=c.name) for c, p in zip(categories, totals, strict=True)),
                *injections(check.turn.text),
            ),
            guard=guard,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=min(1.0, leftover),
            outside=readings[0].outside,
        )

    def _categories_of(self, side: Side) -> tuple[Category, ...]:
        return tuple(c for c in self.taxonomy.categories if side == "user" or c.id not in _USER_ONLY)

    def _pieces(self, check: Check) -> tuple[Piece, ...]:
        side = check.side
        shown = dialogue(check, self.context)
        listed = "".join(f"{category.name}.\n" for category in self._categories_of(side))
        head = (
            f"user\n{_TASK[side]}<BEGIN UNSAFE CONTENT CATEGORIES>\n{listed}<END UNSAFE CONTENT CATEGORIES>\n\n"
            f"{_REFUSALS[side]}<BEGIN CONVERSATION>\n\n"
        )
        tail = (
            "\n\n<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST "
            f"**{_WHICH[side]}** in the above conversation:\n"
            " - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.\n"
            " - The second line should start with 'Categories:' followed by a list of any unsafe content categories, "
            f"separated by commas. If the content is safe, use 'Categories: None'.{_LAST_LINE[side]}"
        )
        turns = [Piece(f"USER: {asked}\n\nASSISTANT: {answer}\n\n", "turn") for asked, answer in shown.exchanges]
        turns.append(Piece("USER: "))
        if side == "assistant":
            turns += [Piece(shown.question, "turn"), Piece("\n\nASSISTANT: ")]
        if shown.before:
            turns.append(Piece(f"{shown.before}\n", "turn"))
        answer = (
            *(_STOP, Piece("\n"), _START, Piece("assistant\n")),
            *(Piece("<think>", "special"), Piece("\n\n"), Piece("</think>", "special"), Piece("\n\nSafety:")),
        )
        return (_START, Piece(head), *turns, Piece(shown.judged, "judged"), Piece(tail), *answer)


def open_family(*, taxonomy: Taxonomy | None = None, mode: str = "strict", context: int = CONTEXT) -> Qwen3Guard:
    """Open Qwen3Guard-Gen 0.6B, 4B or 8B.

    `taxonomy` replaces the stock categories: the prompt lists their names, and the answer is read for them. The level
    Controversial counts as unsafe in mode `strict` and as safe in mode `loose`. `context` is the most characters of
    earlier conversation in the prompt. Raises ConfigError for invalid options.
    """
    chosen = adapt(taxonomy, _STOCK)
    errors = OptionErrors()
    for category in chosen.categories:
        place = f"taxonomy {chosen.id!r}: category {category.id!r}"
        errors.add(
            "," in category.name,
            f"{place}: its name must not contain a comma, which separates names in the guard's answer",
        )
        errors.add(
            bool(category.description or category.examples),
            f"{place}: must have neither description nor examples, because this guard reads only names",
        )
    errors.raise_if_any()
    if not isinstance(context, int) or context < 0:
        raise ConfigError(f"context: {context!r} must be a number of characters, 0 or more")
    how: Mode = one_of("mode", mode, ("strict", "loose"))
    return Qwen3Guard(chosen, how, context)
