"""The texts that the proxy itself writes in place of others: in a history, nobody else has said them. Pure."""

import re
from collections.abc import Collection, Sequence
from typing import Final

from guardproxy.languages.codes import CODES, OTHER
from guardproxy.policy import UNSAFE, Policy
from guardproxy.types import SIGNALS, Message, Taxonomy

# The notes behind a refusal: `BlockPolicy.refusal`.
_NOTES: Final = re.compile(r"(?: \((?P<categories>[^()]*)\))??(?: \(language: (?P<languages>[^()]*)\))?")
_MOST_LANGUAGES = 3  # more codes of two letters could spell a text, so a refusal that names more is judged


class OwnTexts:
    """Finds the messages of a request that are refusals or replacements of the proxy. `taxonomy` is the guard's."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._categories = {UNSAFE, *SIGNALS, *(category.id for category in taxonomy.categories)}

    def paths(self, messages: Sequence[Message], policies: Collection[Policy]) -> frozenset[str]:
        """The paths of the texts of assistant messages that say nothing but a text of one of the `policies`.

        A message with anything else in it, such as a tool call or content that cannot be read, is not among them.
        """
        found: list[str] = []
        for message in messages:
            said = [part for part in message.parts if part.text or part.kind == "opaque"]
            if message.role == "assistant" and len(said) == 1 and said[0].kind in ("text", "refusal"):
                found += [part.path for part in said if self._is_own(part.text, policies)]
        return frozenset(found)

    def _is_own(self, text: str, policies: Collection[Policy]) -> bool:
        return any(text == policy.rewrite.replacement or self._refuses(text, policy) for policy in policies)

    def _refuses(self, text: str, policy: Policy) -> bool:
        """Whether the text is a refusal of the policy, with the categories and languages that it may name."""
        if not text.startswith(policy.block.message):
            return False
        notes = _NOTES.fullmatch(text, len(policy.block.message))
        if notes is None:
            return False
        if notes["categories"] is not None and not policy.block.name_categories:
            return False
        rules = (*policy.user.by_category, *policy.assistant.by_category)
        categories = _are_names(notes["categories"], {*self._categories, *rules})
        few = (notes["languages"] or "").count(",") < _MOST_LANGUAGES
        return categories and few and _are_names(notes["languages"], CODES | {OTHER})


def _are_names(listed: str | None, known: Collection[str]) -> bool:
    """Whether each of the listed names is known, and none stands twice; also if nothing is listed."""
    names = listed.split(", ") if listed is not None else []
    return len(set(names)) == len(names) and all(name in known for name in names)
