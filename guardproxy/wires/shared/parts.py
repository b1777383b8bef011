"""Field maps: which fields of a body are text. A map is data that a reviewer can read; `read_fields` applies it.

A field map is a dict from a key to a rule. A rule is a function that is called with the message builder, the value and
the value's path, and adds the parts it finds to the builder. This map reads `{"id": "x1", "role": "user", "content":
[{"type": "text", "text": "Hi"}]}` into one part, with the path `content[0].text` and the text `Hi`:

    MESSAGE: FieldMap = {
        **keys("id role", identifier),
        "content": string_or(text(), list_of(object_by_type({"text": {"text": text()}}))),
        "image": opaque("image"),
        **keys("created usage"),
    }

A rule ends in one of three ways. The field is **judged** (`text`, `json_text`, `data`, `error_text`, and `identifier`
if the value does not look like an identifier), **opaque**, so that the policy decides (`opaque`, `data`), or **passed**
(`passed`, `provider_text`, `user_label`). `list_of`, `object_with`, `object_by_type` and `string_or` apply other rules
to nested values. `handled_in_code` leaves a field to the wire's own code. Every rule accepts null as "no value", except
`object_by_type`.

A key that the map does not have is opaque if its value could carry text (`carries_text`), and passes otherwise.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.types import Message, Part, PartKind, Role
from guardproxy.wires.shared.body import base64_text, child_path, data_url_text, guard_text, is_text_type
from guardproxy.wires.shared.message_builder import MessageBuilder

# A string like this under an unknown key counts as an enumeration, an id or a version; a longer string, or a string
# with white space, counts as text.
_TOKEN = re.compile(r"[A-Za-z0-9_.:/-]{0,40}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/|+=@-]{0,256}")
_TEXTUAL = (str, dict, list)

FieldRule = Callable[[MessageBuilder, Any, str], None]
"""Called with the builder, the value of a field and its path. Raises the builder's error if the value is malformed."""

FieldMap = Mapping[str, FieldRule]
"""The rule for each key of an object."""


# --- rules for a value -----------------------------------------------------------------------------------------------


def text(kind: PartKind = "text") -> FieldRule:
    """Judge a string. Anything but a string or null is an error."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        if not isinstance(value, str):
            raise builder.error("must be a string", path)
        builder.add(path, value, kind)

    return rule


def json_text(kind: PartKind) -> FieldRule:
    """Judge any JSON value as its JSON text, and a string as it is. For free-form values such as schemas."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is not None:
            builder.add(path, guard_text(value), kind)

    return rule


def identifier(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass an id, a role or a name, but judge it if it does not look like one.

    For ids that chat templates write into the prompt: up to 256 letters, digits and `_.:/|+=@-` pass.
    """
    if isinstance(value, str) and _IDENTIFIER.fullmatch(value) is None:
        builder.add(path, value)


def opaque(note: str) -> FieldRule:
    """Add an opaque part: no guard can read the value, and the policy decides. Null and empty values are no part.

    `note` names the content for records and error messages ("image", "encrypted reasoning").
    """

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value not in (None, "", [], {}):
            builder.opaque(path, note)

    return rule


def data(note: str, kind: PartKind = "text") -> FieldRule:
    """Judge the text in a `text/*` or JSON data URL; add everything else as an opaque part with this note."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        found = data_url_text(value) if isinstance(value, str) else None
        if found is not None:
            builder.add(path, found, kind)
        else:
            opaque(note)(builder, value, path)

    return rule


def passed(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass a setting, an id, a count or an enumeration: neither the model nor the client's user reads it as text.

    Objects and lists are searched all the same: a string in them that does not look like an identifier is opaque, and
    so is an object with a key that is not a short token.
    """
    _search(builder, value, path, frozenset())


def provider_text(names: str) -> FieldRule:
    """Pass as `passed` does, and also any string under these keys: sentences that the provider itself has written.

    `names` are separated by white space. For a content filter's message about its own result.
    """
    known = frozenset(names.split())

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        _search(builder, value, path, known)

    return rule


def error_text(names: str) -> FieldRule:
    """Judge a string, or the strings under these keys of an object, and treat the rest as `passed` does.

    `names` are separated by white space. For errors: servers quote in them what the model has written.
    """
    known = frozenset(names.split())

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if isinstance(value, str):
            builder.add(path, value)
        else:
            _search(builder, value, path, known, builder.add)

    return rule


def user_label(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass the sender's labels and stop sequences unsearched: neither the model nor the client's user reads them."""


def handled_in_code(builder: MessageBuilder, value: Any, path: str) -> None:
    """Do nothing: code of the wire reads this field. Say so in the map, or the field would be unknown and opaque."""


def _search(
    builder: MessageBuilder,
    value: Any,
    path: str,
    known: Container[str],
    judge: Callable[[str, str], None] | None = None,
) -> None:
    """Make nested text opaque; a string under a `known` key passes, or is given to `judge`."""
    stack: list[tuple[Any, str]] = [(value, path)] if isinstance(value, dict | list) else []
    while stack:
        item, place = stack.pop()
        if isinstance(item, list):
            stack.extend(
                (child, f"{place}[{index}]") for index, child in enumerate(item) if isinstance(child, _TEXTUAL)
            )
        elif isinstance(item, dict):
            for key, child in item.items():
                if isinstance(child, str) and key in known:
                    if judge is not None:
                        judge(child_path(place, key), child)
                elif _TOKEN.fullmatch(key) is None:
                    builder.opaque(place, "unknown field")
                elif isinstance(child, _TEXTUAL):
                    stack.append((child, child_path(place, key)))
        elif _IDENTIFIER.fullmatch(item) is None:
            builder.opaque(place, "unknown field")


# --- rules for nested values -----------------------------------------------------------------------------------------


def keys(names: str, rule: FieldRule = passed) -> dict[str, FieldRule]:
    """Return a map that gives several keys, separated by white space, the same rule."""
    return dict.fromkeys(names.split(), rule)


def list_of(rule: FieldRule) -> FieldRule:
    """Apply `rule` to every item of a list. Anything but a list or null, and a null item, is an error."""

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


def object_with(table: FieldMap) -> FieldRule:
    """Apply a field map to an object. Anything but an object or null is an error."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise builder.error("must be an object", path)
        read_fields(builder, value, path, table)

    return rule


def object_by_type(tables: Mapping[str, FieldMap]) -> FieldRule:
    """Apply the field map that an object's `type` selects; an object of an unknown type is opaque as a whole."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise builder.error("must be an object", path)
        name = value.get("type", "")
        if not isinstance(name, str):
            raise builder.error("must be a string", f"{path}.type")
        if name in tables:
            read_fields(builder, value, path, {"type": passed, **tables[name]})
        else:
            builder.opaque(path, f"part of type {name[:40] or 'unknown'}")

    return rule


def string_or(string: FieldRule, otherwise: FieldRule) -> FieldRule:
    """Apply one rule to a string and another rule to every other value."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        (string if isinstance(value, str) else otherwise)(builder, value, path)

    return rule


# --- objects and bodies ----------------------------------------------------------------------------------------------


def read_fields(builder: MessageBuilder, value: Mapping[str, Any], path: str, table: FieldMap) -> None:
    """Apply a field map to every key of an object.

    Raises the builder's error for a known key in another spelling: servers in Go read `Content` as `content`.
    """
    for key, item in value.items():
        rule = table.get(key)
        if rule is None:
            _read_unknown(builder, key, item, child_path(path, key), table)
        elif rule is not passed or isinstance(item, dict | list):  # `passed` does nothing else, and most fields have it
            rule(builder, item, child_path(path, key))


def _read_unknown(builder: MessageBuilder, key: str, value: Any, path: str, table: FieldMap) -> None:
    folded = key.casefold()
    if folded != key or not key.isascii():
        for known in table:
            if known.casefold() == folded:
                raise builder.error(f"is a key in another spelling; write {known!r}", path)
    if carries_text(value):
        builder.opaque(path, "unknown field")


def carries_text(value: Any) -> bool:
    """Return whether a value under an unknown key could be text that somebody reads.

    A string could, unless it is a short token. An object or a list could if it contains any string, any key that is
    not a short token, or a list of whole numbers (token ids).
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


def require_object(error: type[Unreadable], value: Any, path: str) -> dict[str, Any]:
    """Return `value` if it is an object. Raises `error` otherwise."""
    if not isinstance(value, dict):
        raise error("must be an object", path)
    return value


def file_text(media_type: str, payload: Any) -> str | None:
    """Return the text in base64 data of a `text/*` or JSON media type; None for other data."""
    return base64_text(payload) if isinstance(payload, str) and is_text_type(media_type) else None


def outer_messages(builder: MessageBuilder, texts: Role = "user", filled: str = "") -> list[Message]:
    """Return the parts of a request outside its message list, as at most one system and one user message.

    Tool definitions belong to the system message, and so do texts if `texts` is "system". Opaque parts belong to the
    user, who has sent them, and so does the text at the path `filled`, which fills a stored prompt's variables.
    """
    parts = builder.message("system").parts
    ours = [part for part in parts if texts == "system" and part.kind != "opaque" and part.path != filled]
    system = tuple(part for part in parts if part.kind == "tool_definition" or part in ours)
    user = tuple(part for part in parts if part not in system)
    return [message for message in (Message("system", system), Message("user", user)) if message.parts]


def outer_parts(body: Mapping[str, Any], table: FieldMap) -> tuple[Part, ...]:
    """Return the parts of a reply outside its choices, such as the texts of an error. Raises UpstreamUnreadable."""
    builder = MessageBuilder(UpstreamUnreadable)
    read_fields(builder, body, "", table)
    return builder.message("assistant").parts if builder.pieces else ()


def with_outer_parts(choices: Sequence[Message], parts: tuple[Part, ...]) -> tuple[Message, ...]:
    """Return the choices with the outer parts added to the first; without a choice, a message of the outer parts."""
    if not parts:
        return tuple(choices)
    first, *others = choices or [Message("assistant", ())]
    return (Message(first.role, (*first.parts, *parts)), *others)
