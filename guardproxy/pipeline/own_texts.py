"""The texts that the proxy itself writes in place of others: in a history, nobody else has said them. Pure."""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from guardproxy.languages.codes import CODES, OTHER
from guardproxy.policy import UNSAFE, Policy
from guardproxy.types import SIGNALS, Message, Part, Taxonomy

# The notes behind a refusal: `BlockPolicy.refusal`.
_NOTES: Final = re.compile(r"(?: \((?P<categories>[^()]*)\))??(?: \(language: (?P<languages>[^()]*)\))?")
_MOST_LANGUAGES = 3  # more codes of two letters could spell a text, so a refusal that names more is judged


class OwnTexts:
    """Finds the texts of a request that the proxy has written. `taxonomy` is the guard's."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._categories = {UNSAFE, *SIGNALS, *(category.id for category in taxonomy.categories)}

    def found(
        self, messages: tuple[Message, ...], policies: Collection[Policy]
    ) -> tuple[frozenset[str], tuple[Message, ...]]:
        """The paths of the proxy's own texts, and the messages without closing sentences; the same if there are none.

        The paths are those of assistant messages that say nothing but a text of one of the `policies`. A message with
        anything else in it, such as a tool call or content that cannot be read, is not among them. What stands before a
        closing sentence is the model's, and judged without it.
        """
        paths: list[str] = []
        shorter: dict[int, Message] = {}
        closings = {policy.block.closing for policy in policies} - {""}
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            said = [part for part in message.parts if part.text or part.kind in ("image", "opaque")]
            only = said[0] if len(said) == 1 and said[0].kind in ("text", "refusal") else None
            if only and (only.text.strip() in closings or self._is_own(only.text, policies)):
                paths.append(only.path)
            elif (kept := _without_closing(message, closings)) is not message:
                shorter[index] = kept
        if shorter:
            messages = tuple([shorter.get(index, message) for index, message in enumerate(messages)])
        return frozenset(paths), messages

    def _is_own(self, text: str, policies: Collection[Policy]) -> bool:
        return any(text == policy.rewrite.replacement or self._refuses(text, policy) for policy in policies)

    def _refuses(self, text: str, policy: Policy) -> bool:
        """Whether the text is a refusal of the policy in any of its messages."""
        return any(text.startswith(said) and self._is_note(text, len(said), policy) for said in policy.block.messages)

    def _is_note(self, text: str, start: int, policy: Policy) -> bool:
        """Whether what follows `start`, if anything, are categories and languages that a refusal may name."""
        notes = _NOTES.fullmatch(text, start)
        if notes is None:
            return False
        if notes["categories"] is not None and not policy.block.name_categories:
            return False
        tool = policy.tool.by_category if policy.tool else ()
        rules = (*policy.user.by_category, *policy.assistant.by_category, *tool)
        categories = _are_names(notes["categories"], {*self._categories, *rules})
        few = (notes["languages"] or "").count(",") < _MOST_LANGUAGES
        return categories and few and _are_names(notes["languages"], CODES | {OTHER})


def _without_closing(message: Message, closings: Collection[str]) -> Message:
    """The message without a closing sentence at the end of one of its texts."""
    parts = tuple([_unclosed(part, closings) if part.kind == "text" else part for part in message.parts])
    return message if parts == message.parts else replace(message, parts=parts)


def _unclosed(part: Part, closings: Collection[str]) -> Part:
    text = part.text.rstrip()
    for closing in closings:
        if text.endswith(closing):
            return replace(part, text=text.removesuffix(closing).removesuffix("\n\n"))
    return part


def _are_names(listed: str | None, known: Collection[str]) -> bool:
    """Whether each of the listed names is known, and none stands twice; also if nothing is listed."""
    names = listed.split(", ") if listed is not None else []
    return len(set(names)) == len(names) and all(name in known for name in names)
