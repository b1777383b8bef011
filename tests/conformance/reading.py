"""Where a client goes, and what it makes of an answer."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Reach:
    """Where a client goes, and with what. `timeout_s` is for one request."""

    url: str
    model: str = "m"
    key: str = "k"
    timeout_s: float = 20.0


@dataclass(frozen=True)
class Read:
    """What a client made of an answer: its text and stop reason, or the status and text of the error it raised.

    `parsed` is what a parser of structured output gave, `refusal` what it took for a refusal.
    """

    text: str
    stop: str
    status: int = 0
    error: str = ""
    parsed: Any = None
    refusal: str = ""


class Answer(BaseModel):
    """What structured output is asked for."""

    number: int


def user(prompt: str) -> Any:
    """A conversation of one turn."""
    return [{"role": "user", "content": prompt}]
