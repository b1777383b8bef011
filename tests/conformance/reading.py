"""Where a client sends its requests, and what it reads of an answer."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Reach:
    """Where and how a client sends its requests. `timeout_s` applies to a single request."""

    url: str
    model: str = "m"
    key: str = "k"
    timeout_s: float = 20.0


@dataclass(frozen=True)
class Read:
    """The answer as a client reads it: text and stop reason, or status and text of the error that the client raised.

    `parsed` is the object from a parser of structured output, `refusal` the text that the parser takes for a refusal.
    """

    text: str
    stop: str
    status: int = 0
    error: str = ""
    parsed: Any = None
    refusal: str = ""


class Answer(BaseModel):
    """The schema that requests for structured output ask for."""

    number: int


def user(prompt: str) -> Any:
    """Return a conversation of a single turn."""
    return [{"role": "user", "content": prompt}]
