"""Write edited texts into a parsed body."""

import json
import re
from collections.abc import Iterable
from typing import Any

from guardproxy.types import Edit
from guardproxy.wires.shared.body import container_of, find, parsed_object, put, remove, steps
from guardproxy.wires.shared.identifiers import is_value

# A list item that is removed as a whole when its text is removed: without a text it would be malformed.
_ITEM = re.compile(r".*(?:content|parts|system|input|output|summary|documents|prompt)\[\d+\](?=[.\[]|$)")
# A field that the protocol requires even when it is empty.
_KEPT = re.compile(r"(?:.*\.|^)(?:content|text|arguments|input|prompt|output|response)$")


def rewrite(body: Any, edits: Iterable[Edit], calls: re.Pattern[str]) -> None:
    """Write the text of every edit to its path. An empty text removes its part if the protocol does not require it.

    The text of a tool call (a path that matches `calls`) is its name, a line break and its arguments. Arguments that
    are not a JSON object after the edit become `{}`. Any other object that an edit has broken becomes `{}` if the
    protocol requires the field, and is removed otherwise. A call without arguments is removed as a whole, and so is
    a field whose key is text. Raises KeyError or IndexError if the body has nothing at a path.
    """
    removed: list[str] = []
    for edit in edits:
        if _names_text(edit.path):
            removed.append(edit.path)
            continue
        if _is_missing(body, edit.path):
            call = edit.path[: edit.path.rindex("]") + 1] if "]" in edit.path else ""
            find(body, call)
            removed.append(call or edit.path)
            continue
        old = find(body, edit.path)
        text = _arguments(old, edit.text) if calls.search(edit.path) else edit.text
        if isinstance(old, str):
            _rewrite_text(body, edit.path, text, removed)
        else:
            _rewrite_object(body, edit.path, text, removed)
    remove(body, removed)
    for path in removed:
        _tidy(body, path)


def _names_text(path: str) -> bool:
    """Whether the last key of a path is text itself, which was judged with the value and goes with it."""
    last = steps(path)[-1]
    return isinstance(last, str) and not is_value(last)


def _is_missing(body: Any, path: str) -> bool:
    try:
        find(body, path)
    except (KeyError, IndexError, TypeError):
        return True
    return False


def _rewrite_text(body: Any, path: str, text: str, removed: list[str]) -> None:
    item = _ITEM.match(path)
    if text or (item is None and _KEPT.match(path)):
        put(body, path, text)
    else:
        removed.append(item[0] if item else path)


def _rewrite_object(body: Any, path: str, text: str, removed: list[str]) -> None:
    container, last = container_of(body, path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if type(value) is type(container[last]):
        container[last] = value
    elif _KEPT.match(path):
        container[last] = {}
    else:
        removed.append(path)


def _arguments(old: Any, text: str) -> str:
    """Return the arguments in the text of a tool call; the input of a custom tool is free text, not an object."""
    name, line_break, arguments = text.partition("\n")
    if text.startswith("{") or not line_break:
        arguments = name + line_break + arguments
    is_object = not isinstance(old, str) or bool(parsed_object(old)) or old.strip() in ("", "{}")
    return arguments if parsed_object(arguments) or not is_object else "{}"


def _tidy(body: Any, path: str) -> None:
    """Remove a list that has lost its last item; the content of a message becomes an empty text instead."""
    if not path.endswith("]"):
        return
    parent = path[: path.rindex("[")]
    try:
        items = find(body, parent)
    except (KeyError, IndexError, TypeError):  # a list around it became an empty text
        return
    if items == []:
        remove(body, [parent])
        if parent.endswith(".content"):
            container, last = container_of(body, parent)
            container[last] = ""
