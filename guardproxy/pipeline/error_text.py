"""The text of an upstream's error that is in no form of the protocol: servers and gateways have forms of their own."""

import json
from collections.abc import Iterator
from typing import Any

from guardproxy.types import Message, Part


def error_message(body: bytes) -> Message | None:
    """Return the text of a body as the assistant's message: the strings of JSON, keys included, or the whole text.

    None if the body is not text in UTF-8. With a NUL it may be UTF-16, which clients detect without a charset.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    return Message("assistant", tuple(Part(f"[{place}]", found) for place, found in enumerate(_texts(text))))


def _texts(text: str) -> list[str]:
    try:
        # Pairs instead of objects, so that no value is lost if a key is there twice. Numbers may have any length.
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=list, parse_int=float)
    except (ValueError, RecursionError):
        return [text]
    return [string.encode(errors="replace").decode() for string in _strings(value) if string] or [text]


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of nested lists and pairs in order."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list | tuple):
            stack += reversed(item)
