"""A training example: a text, its question if it is a reply, and its labels."""

from __future__ import annotations

from dataclasses import dataclass

Target = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn from.

    `question` is None on the user side. `labels` maps an output to (target, weight); a missing output is unknown.
    `key` names the row that the example comes from, `made` the kind of a synthetic example, `language` the language of
    the text.
    """

    key: str
    source: str
    question: str | None
    text: str
    labels: dict[str, Target]
    made: str = ""
    language: str = "en"
