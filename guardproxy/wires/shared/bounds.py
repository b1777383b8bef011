"""How many choices and pieces of content of a reply are read, whole or streamed: each costs memory and a check."""

from collections.abc import Mapping
from typing import Any

from guardproxy.errors import UpstreamUnreadable

CHOICES = 1024
PIECES = 10_000  # texts, tool calls, images and whatever else is a part of a message


def check_choices(count: int) -> None:
    """Raise UpstreamUnreadable if a reply has more than CHOICES choices."""
    if count > CHOICES:
        raise UpstreamUnreadable(f"it has {count} choices or more, and no more than {CHOICES} are read")


def check_pieces(count: int) -> None:
    """Raise UpstreamUnreadable if a reply has more than PIECES pieces of content."""
    if count > PIECES:
        raise UpstreamUnreadable(f"it has {count} pieces of content or more, and no more than {PIECES} are read")


def choices_of(body: Mapping[str, Any]) -> list[Any]:
    """Return the choices of OpenAI's reply or frame, none for an error body. Raises UpstreamUnreadable."""
    choices = body.get("choices")
    if choices is None and isinstance(body.get("error"), dict | str):
        return []
    if not isinstance(choices, list):
        raise UpstreamUnreadable("must be a list", "choices")
    check_choices(len(choices))
    return choices
