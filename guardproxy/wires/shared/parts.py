"""The words in which a wire says what of a body is text: a field map is a dict of rules that a reviewer can read.

A key that the map does not know is `opaque` where its value could carry text, and no text where it could not.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.types import Message, Part, PartKind, Role
from guardproxy.wires.shared.body import at, base64_text, data_url_text, is_text_type, shown
from guardproxy.wires.shared.message_builder import MessageBuilder

# A string like this under an unknown key is taken for an enumeration, an id or a version; anything longer or with
# white space in it for text.
_TOKEN = re.compile(r"[A-Za-z0-9_.:/-]{0,40}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/|+=@-]{0,256}")
_TEXTUAL = (str, dict, list)


Rule = Callable[[MessageBuilder, Any, str], None]
Fields = Mapping[str, Rule]


def handled_in_code(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read by the wire's own code."""


def user_label(builder: MessageBuilder, value: Any, path: str) -> None:
    """The sender's own words or keys, which neither the model nor the client's user reads: labels, stop words."""


def passed(builder: MessageBuilder, value: Any, path: str) -> None:
    """A setting, an id, a count, an enumeration: carries no text that the model or the client's user reads.

    An object or list of such is looked through: a text in it stands in a field that nobody knows, and is opaque.
    """
    _look_through(builder, value, path, frozenset())


def passed_but(names: str) -> Rule:
    """As `passed`, with strings of the upstream's own under these keys: what a filter says of itself."""
    known = frozenset(names.split())

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        _look_through(builder, value, path, known)

    return rule


def error_text(names: str) -> Rule:
    """As `passed`, with strings under these keys that are judged: an error may quote what the model said."""
    known = frozenset(names.split())

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if isinstance(value, str):
            builder.add(path, value)
        else:
            _look_through(builder, value, path, known, builder.add)

    return rule


def _look_through(
    builder: MessageBuilder,
    value: Any,
    path: str,
    known: Container[str],
    read: Callable[[str, str], None] | None = None,
) -> None:
    """What of a value is text; a string under a `known` key is `read`, or passes."""
    stack: list[tuple[Any, str]] = [(value, path)] if isinstance(value, dict | list) else []
    while stack:
        item, place = stack.pop()
        if isinstance(item, list):
            stack.extend((one, f"{place}[{index}]") for index, one in enumerate(item) if isinstance(one, _TEXTUAL))
        elif isinstance(item, dict):
            for key, one in item.items():
                if isinstance(one, str) and key in known:
                    if read is not None:
                        read(at(place, key), one)
                elif _TOKEN.fullmatch(key) is None:
                    builder.opaque(place, "unknown field")
                elif isinstance(one, _TEXTUAL):
                    stack.append((one, at(place, key)))
        elif _IDENTIFIER.fullmatch(item) is None:
            builder.opaque(place, "unknown field")


def identifier(builder: MessageBuilder, value: Any, path: str) -> None:
    """An id or a name: no text, unless it is written as one. Chat templates put ids and roles into the prompt."""
    if isinstance(value, str) and _IDENTIFIER.fullmatch(value) is None:
        builder.add(path, value)


def named(names: str, rule: Rule = passed) -> dict[str, Rule]:
    """The same rule for several fields, named in one string."""
    return dict.fromkeys(names.split(), rule)


def text(kind: PartKind = "text") -> Rule:
    """A string (or null) that is judged."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        if not isinstance(value, str):
            raise builder.error("must be a string", path)
        builder.add(path, value, kind)

    return rule


def json_text(kind: PartKind) -> Rule:
    """Any JSON value, judged as its JSON text (a string as it is)."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is not None:
            builder.add(path, shown(value), kind)

    return rule


def opaque(note: str) -> Rule:
    """No guard can read it; null and empty values are nothing."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value not in (None, "", [], {}):
            builder.opaque(path, note)

    return rule


def data(note: str, kind: PartKind = "text") -> Rule:
    """A URL or data: a text in a `text/*` data URL is judged, everything else opaque."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        found = data_url_text(value) if isinstance(value, str) else None
        if found is not None:
            builder.add(path, found, kind)
        else:
            opaque(note)(builder, value, path)

    return rule


def each(rule: Rule) -> Rule:
    """A list (or null), every item by `rule`."""

    def rule_of_list(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        if not isinstance(value, list):
            raise builder.error("must be a list", path)
        for index, item in enumerate(value):
            if item is None:
                raise builder.error("must not be null", f"{path}[{index}]")
            rule(builder, item, f"{path}[{index}]")

    return rule_of_list


def fields(table: Fields) -> Rule:
    """An object (or null), every key by the map's rule for it."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise builder.error("must be an object", path)
        walk(builder, value, path, table)

    return rule


def an_object(error: type[Unreadable], value: Any, path: str) -> dict[str, Any]:
    """`value`, if it is an object. Raises `error`."""
    if not isinstance(value, dict):
        raise error("must be an object", path)
    return value


def typed(tables: Mapping[str, Fields]) -> Rule:
    """An object whose `type` says which map holds; one of an unknown type is opaque."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise builder.error("must be an object", path)
        name = value.get("type", "")
        if not isinstance(name, str):
            raise builder.error("must be a string", f"{path}.type")
        if name in tables:
            walk(builder, value, path, {"type": passed, **tables[name]})
        else:
            builder.opaque(path, f"part of type {name[:40] or 'unknown'}")

    return rule


def string_or(string: Rule, otherwise: Rule) -> Rule:
    """A string by one rule, everything else by another."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        (string if isinstance(value, str) else otherwise)(builder, value, path)

    return rule


def walk(builder: MessageBuilder, value: Mapping[str, Any], path: str, table: Fields) -> None:
    """Read every key of an object by its rule.

    Raises where a key is a known one in another spelling: servers in Go take `Content` for `content`.
    """
    for key, item in value.items():
        rule = table.get(key)
        if rule is None:
            _unknown(builder, key, item, at(path, key), table)
        elif rule is not passed or isinstance(item, dict | list):  # the rule of most fields, and does nothing to others
            rule(builder, item, at(path, key))


def _unknown(builder: MessageBuilder, key: str, value: Any, path: str, table: Fields) -> None:
    folded = key.casefold()
    if folded != key or not key.isascii():
        for known in table:
            if known.casefold() == folded:
                raise builder.error(f"is a key in another spelling; write {known!r}", path)
    if carries_text(value):
        builder.opaque(path, "unknown field")


def outer_parts(body: Mapping[str, Any], table: Fields) -> tuple[Part, ...]:
    """The parts of a reply outside its choices: texts of an error, opaque fields. Raises UpstreamUnreadable."""
    builder = MessageBuilder(UpstreamUnreadable)
    walk(builder, body, "", table)
    return builder.message("assistant").parts if builder.pieces else ()


def with_outer_parts(choices: Sequence[Message], parts: tuple[Part, ...]) -> tuple[Message, ...]:
    """The choices of a reply with its outer parts in the first one; with parts but no choice, a message of its own."""
    if not parts:
        return tuple(choices)
    first, *others = choices or [Message("assistant", ())]
    return (Message(first.role, (*first.parts, *parts)), *others)


def carries_text(value: Any) -> bool:
    """Whether a value under an unknown key could be text that someone reads.

    A string is, unless it looks like an enumeration; a list or object is with any string in it, or with a list of
    whole numbers (token ids).
    """
    if isinstance(value, str):
        return _TOKEN.fullmatch(value) is None
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and item:
            return True
        if isinstance(item, list):
            if item and all(type(number) is int for number in item):
                return True
            stack.extend(item)
        elif isinstance(item, dict):
            if any(_TOKEN.fullmatch(key) is None for key in item):
                return True
            stack.extend(item.values())
    return False


def beside_turns(builder: MessageBuilder, texts: Role = "user", filled: str = "") -> list[Message]:
    """What stands beside the messages of a request, as messages: tool definitions are the system's, texts of `texts`.

    What is opaque there is the user's, who sent it, and so is what fills a template: the text at `filled`.
    """
    parts = builder.message("system").parts
    ours = [part for part in parts if texts == "system" and part.kind != "opaque" and part.path != filled]
    system = tuple(part for part in parts if part.kind == "tool_definition" or part in ours)
    user = tuple(part for part in parts if part not in system)
    return [message for message in (Message("system", system), Message("user", user)) if message.parts]


def file_text(media_type: str, payload: Any) -> str | None:
    """The text of base64 data of a `text/*` (or JSON) type; None for every other."""
    return base64_text(payload) if isinstance(payload, str) and is_text_type(media_type) else None
