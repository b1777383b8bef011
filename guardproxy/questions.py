"""What a model on a server is asked in a chat, and what reads its answer. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from guardproxy.frozen import frozen
from guardproxy.images import ImageBounds, InlineImage
from guardproxy.ports import Family, Reading
from guardproxy.types import Check, Taxonomy, Verdict


@frozen
class Question:
    """A chat that asks for a label. `options` are further fields of the call's body, such as the form of the answer.

    The last message of the user shows the `image`. `line` is the beginning of a line of the answer whose word is read
    with its probabilities: `safe` or `unsafe`. If it is empty, only the text of the answer is read.
    """

    messages: tuple[tuple[Literal["system", "user", "assistant"], str], ...]
    options: Mapping[str, Any]
    image: InlineImage | None = None
    line: str = ""


@frozen
class ChatAnswer:
    """The whole text of an answer, and P(safe) and P(unsafe) of the word in the question's `line`, if it has one."""

    text: str
    reading: Reading | None = None


class LabelFamily(Protocol):
    """How a model on a server is asked for a label in a chat, and how its answer is read. Pure.

    A text of more than `limit` characters is judged in windows. An answer has at most `tokens` tokens, its reasoning
    included. The version of `taxonomy` covers the policy text and everything else that a verdict depends on.
    """

    taxonomy: Taxonomy
    limit: int
    tokens: int

    def ask(self, check: Check) -> Question:
        """The question about the last message of a conversation, which has at most `limit` characters."""

    def parse(self, check: Check, answer: ChatAnswer, guard: str) -> Verdict:
        """The verdict from the whole answer. Raises Unintelligible if it is none."""


@frozen
class ImageQuestion:
    """A chat whose last turn shows an image. `texts` are those of its turns: the user's and the assistant's alternate.

    `template` are further variables of the server's chat template.
    """

    texts: tuple[str, ...]
    template: Mapping[str, Any]


@runtime_checkable
class ChatImageFamily(Family, Protocol):
    """A family whose model reads images of these bounds in the chat of a server; None: not as it is configured. Pure.

    Its model answers with the words of the family's prompts, at once or behind a blank line.
    """

    image_bounds: ImageBounds | None

    def image_questions(self, check: Check, characters: int) -> tuple[ImageQuestion, ...]:
        """The question for P(unsafe), then one for each category. At most `characters` are of earlier turns."""

    def image_verdict(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        """The verdict, from P(safe) and P(unsafe) for the first question alone or for all. Raises GuardUnavailable."""
