"""Reads what no field map describes: nested values of known fields, unknown fields, objects of unknown types."""

import re
from collections.abc import Callable
from typing import Any

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.body import child_path, data_url_text, guard_text, strings
from guardproxy.wires.shared.identifiers import LENGTH, LOOSE, is_identifier, is_machine_data, is_value, looseness
from guardproxy.wires.shared.message_builder import MessageBuilder

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|[^,]{0,200},)\S*")
_SPACE = re.compile(r"\s")
_PIECE = 65536  # characters
_LONGEST_HEAD = 256  # characters of a URL behind the colon, up to those that can be anything but a space
_NUMERAL = re.compile(r"\s*[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?\s*")


def is_unreadable(value: str) -> bool:
    """Return whether a string is an identifier, a URL, or data: all that a field with an image or a file may have."""
    return is_identifier(value) or is_machine_data(value) or _is_url(value)


def _is_url(value: str) -> bool:
    """Whether a string is a URL. A long one is searched in pieces: a search keeps Python's lock to its end."""
    if len(value) <= _PIECE or ":" not in value[: _PIECE - _LONGEST_HEAD]:
        return _URL.fullmatch(value) is not None
    if _URL.fullmatch(value[:_PIECE]) is None:
        return False
    return not any(_SPACE.search(value, start, start + _PIECE) for start in range(_PIECE, len(value), _PIECE))


def judge(builder: MessageBuilder, value: str, path: str, accepts: Callable[[str], bool] = is_value) -> None:
    """Judge a string that `accepts` refuses and the builder does not know; data is opaque, not text.

    A string behind a text at the same place is judged in any case: a stream may bring a text in pieces.
    """
    goes_on = accepts is not is_unreadable and bool(builder.text(path))
    if not goes_on and (accepts(value) or value in builder.known):
        return
    readable = data_url_text(value)
    if readable is None and (is_machine_data(value) or (value[:5].lower() == "data:" and _is_url(value))):
        builder.opaque(path, "unreadable data")
    else:
        builder.name(path, value if readable is None else readable)


def judge_key(builder: MessageBuilder, key: str, value: Any, path: str) -> None:
    """Judge a key that is text, with the JSON text of its value."""
    builder.name(path, f"{key}\n{guard_text(value)}")


def search(
    builder: MessageBuilder,
    value: dict[str, Any] | list[Any],
    path: str,
    accepts: Callable[[str], bool] = is_value,
    *,
    with_numbers: bool,
) -> None:
    """Judge the strings in a nested value that `accepts` refuses, and the keys that are text, with their values.

    A text may be split over the strings of a list: all of them are judged if `accepts` refuses any.
    """
    if accepts is is_value and _loose_segments(value) > 2 * LOOSE:
        accepts = _is_worded
    # The rule for the strings of a list is found once for the list and the lists in it: None if it is to be found.
    stack: list[tuple[Any, str, Callable[[str], bool] | None]] = [(value, path, None)]
    while stack:
        item, place, rule = stack.pop()
        if isinstance(item, str):
            judge(builder, item, place, rule or accepts)
        elif isinstance(item, list):
            if not with_numbers and _may_be_token_ids(item):
                builder.opaque(place, "numbers that may be token ids")
            rule = rule or (accepts if _is_accepted(item, accepts) else _is_empty)
            stack.extend((child, f"{place}[{index}]", rule) for index, child in reversed([*enumerate(item)]))
        elif isinstance(item, dict):
            for key, child in reversed(item.items()):
                inner = child_path(place, key)
                if builder.may_name(key, inner):
                    stack.append((child, inner, None))
                else:
                    judge_key(builder, key, child, inner)


def is_plain(value: dict[str, Any] | list[Any]) -> bool:
    """Return whether `search` would find nothing. Most values are plain, and this takes less time."""
    stack: list[Any] = [value]
    loose = 0
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            loose += looseness(item) if len(item) <= LENGTH else 1000
        elif isinstance(item, dict):
            stack += item
            stack += item.values()
        elif isinstance(item, list):
            if _may_be_token_ids(item):
                return False
            stack += item
        if loose > 2 * LOOSE:
            return False
    return True


def _loose_segments(value: dict[str, Any] | list[Any]) -> int:
    """Return how many different segments in a value could be letters of a spelled-out text."""
    return sum(looseness(text) for text in set(strings(value)) if is_value(text))


def _is_worded(value: str) -> bool:
    """Return whether a string is an enumerated value that consists of words and numbers."""
    return is_value(value) and looseness(value) == 0


def _is_accepted(items: list[Any], accepts: Callable[[str], bool]) -> bool:
    """Return whether all strings in a list, and in lists in it, are accepted, and at most one has a word of its own."""
    words = 0
    stack = [*items]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, str):
            words += not is_value(item) and is_identifier(item)
            if words > 1 or not accepts(item):
                return False
    return True


def _is_empty(value: str) -> bool:
    return not value


def _may_be_token_ids(items: list[Any]) -> bool:
    """Return whether a list has numbers, all of them whole, in any format and also as strings."""
    found = [number for item in items if (number := _number(item)) is not None]
    return bool(found) and all(number == number // 1 for number in found)


def _number(item: Any) -> float | None:
    """Return a JSON number, or the number in a string; None for anything else."""
    if isinstance(item, str):
        return float(item) if len(item) < 40 and _NUMERAL.fullmatch(item) else None
    return item if isinstance(item, int | float) and not isinstance(item, bool) else None


def unknown_object(builder: MessageBuilder, value: dict[str, Any], path: str, what: str, kind: str) -> None:
    """Judge the text in an object of an unknown type. The object is opaque, too, unless it is only a text.

    `what` and `kind` describe the object in the note of the opaque part.
    """
    before = len(builder.added)
    named = {key: item for key, item in value.items() if key != "type" or not is_identifier(kind)}
    search(builder, named, path, with_numbers=False)
    is_text = len(builder.added) > before and not any("://" in text or text[:5] == "data:" for text in strings(value))
    if kind or not is_text:
        builder.opaque(path, f"{what} of type {kind if kind and is_identifier(kind) else 'unknown'}")


def carries_text(value: Any) -> bool:
    """Return whether a value has anything but enumerated values and numbers: text, data, or a list of numbers."""
    builder = MessageBuilder(Unreadable)
    search(builder, [value], "", with_numbers=False)
    return bool(builder.pieces)
