"""New texts in a parsed body."""

import json
import re
from collections.abc import Iterable
from typing import Any

from guardproxy.types import Edit
from guardproxy.wires.shared.body import find, holder_of, object_of, put, remove

# An item of a list that goes as a whole when its text goes.
_ITEM = re.compile(r".*(?:content|parts|system|input|output|summary|documents|prompt)\[\d+\](?=[.\[]|$)")
# A field that the protocol wants even when it is empty.
_KEPT = re.compile(r"(?:.*\.|^)(?:content|text|arguments|input|prompt|output|response)$")


def rewrite(body: Any, edits: Iterable[Edit], calls: re.Pattern[str]) -> None:
    """Give parts new texts. An empty text removes its part where the protocol can do without it.

    The text of a tool call (a path that `calls` finds) is its name, a line break and its arguments; arguments that
    are no JSON object after the edit become `{}`, as does every other object that an edit has broken, or it goes. A
    call that has no arguments goes as a whole. Raises KeyError or IndexError for a text that is nowhere.
    """
    gone: list[str] = []
    for edit in edits:
        if _is_missing(body, edit.path):
            call = edit.path[: edit.path.rindex("]") + 1] if "]" in edit.path else ""
            find(body, call)
            gone.append(call or edit.path)
            continue
        old = find(body, edit.path)
        text = _arguments(old, edit.text) if calls.search(edit.path) else edit.text
        if isinstance(old, str):
            _rewrite_text(body, edit.path, text, gone)
        else:
            _rewrite_object(body, edit.path, text, gone)
    remove(body, gone)
    for path in gone:
        _tidy(body, path)


def _is_missing(body: Any, path: str) -> bool:
    try:
        find(body, path)
    except (KeyError, IndexError, TypeError):
        return True
    return False


def _rewrite_text(body: Any, path: str, text: str, gone: list[str]) -> None:
    item = _ITEM.match(path)
    if text or (item is None and _KEPT.match(path)):
        put(body, path, text)
    else:
        gone.append(item[0] if item else path)


def _rewrite_object(body: Any, path: str, text: str, gone: list[str]) -> None:
    holder, last = holder_of(body, path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if type(value) is type(holder[last]):
        holder[last] = value
    elif _KEPT.match(path):
        holder[last] = {}
    else:
        gone.append(path)


def _arguments(old: Any, text: str) -> str:
    """The arguments in the text of a tool call; the input of a custom tool is free text."""
    name, line_break, arguments = text.partition("\n")
    if text.startswith("{") or not line_break:
        arguments = name + line_break + arguments
    is_object = not isinstance(old, str) or bool(object_of(old)) or old.strip() in ("", "{}")
    return arguments if object_of(arguments) or not is_object else "{}"


def _tidy(body: Any, path: str) -> None:
    """A list that has lost its last item goes too; a message's content becomes an empty text."""
    if not path.endswith("]"):
        return
    parent = path[: path.rindex("[")]
    try:
        left = find(body, parent)
    except (KeyError, IndexError):
        return
    if left == []:
        remove(body, [parent])
        if parent.endswith(".content"):
            holder, last = holder_of(body, parent)
            holder[last] = ""
