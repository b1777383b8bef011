"""What a model that answers in words is asked about a text, and what reads its answer. Pure."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from guardproxy.frozen import frozen
from guardproxy.types import Check, Taxonomy, Verdict


@frozen
class Question:
    """A chat that asks for a label. `options` are further fields of the call's body, such as the form of the answer."""

    messages: tuple[tuple[Literal["system", "user"], str], ...]
    options: Mapping[str, Any]


class LabelFamily(Protocol):
    """How a model that is given a policy text is asked for a label, and how its answer is read. Pure.

    A text of more than `limit` characters is judged in windows. An answer has at most `tokens` tokens, its reasoning
    included. The version of `taxonomy` covers the policy text and everything else that a verdict depends on.
    """

    taxonomy: Taxonomy
    limit: int
    tokens: int

    def ask(self, check: Check) -> Question:
        """The question about the last message of a conversation, which has at most `limit` characters."""

    def parse(self, check: Check, answer: str, guard: str) -> Verdict:
        """The verdict, of labels, from the text of the whole answer. Raises Unintelligible if it is none."""
