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

Every string of a body is an **enumerated value** or an identifier, which passes; **text**, which is judged; or data
that no guard can read, which is **opaque**: the policy decides. No rule passes a string unread. A rule says how
strictly a field is read, and where its text belongs:

- `text`, `json_text`, `data`: the field is text;
- `passed`: the field has enumerated values, numbers, or data of the protocol; any other string in it is judged;
- `one_of`: the field has these enumerated values only; any other string is judged;
- `identifier`, `name`: an id may have one word of its own, the name of a model or a user three; more are judged;
- `labels`: metadata or stop sequences may have three words together; more are judged;
- `error_text`: as `passed`, and the message of an error is text;
- `numbers`: as `passed`, with lists of numbers, which are opaque elsewhere: they may be token ids;
- `machine_data`: a signature or other base64 data that only the server reads; it is judged if it is text;
- `opaque`: content that no guard can read; text in such a field is judged all the same. An inline image is opaque here,
  and carries its data (`pictures`).

The ids, names, labels and unknown keys of a body may have six words of their own together; if they have more, all of
them are judged (`known.Known`).

`list_of`, `object_with`, `object_by_type` and `string_or` apply other rules to nested values. `handled_in_code` leaves
a field to the wire's own code. Every rule accepts null as "no value", except `object_by_type`.

A key that the map does not have is read as `passed`; a key that is itself text is judged with its value.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import compress
from operator import not_
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.images import InlineImage
from guardproxy.types import Message, Part, PartKind
from guardproxy.wires.shared.body import (
    base64_text,
    child_path,
    data_url_image,
    data_url_text,
    guard_text,
    is_text_type,
    steps,
    strings,
)
from guardproxy.wires.shared.identifiers import (
    LENGTH,
    LOOSE,
    NAME_WORDS,
    is_identifier,
    is_machine_data,
    is_name,
    label_words,
    looseness,
)
from guardproxy.wires.shared.known import Known
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.unmapped import is_plain, is_unreadable, judge, judge_key, search, unknown_object

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
    """Judge any JSON value as its JSON text, and a string as it is. For free-form values such as schemas.

    An object or a list that a stream repeats is judged once: some servers repeat an answer's sources in every frame.
    """

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is None:
            return
        value_text = guard_text(value)
        if isinstance(value, str) or not builder.text(path).endswith(value_text):
            builder.add(path, value_text, kind)

    return rule


def passed(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass numbers, booleans and enumerated values; judge every other string, and make other data opaque.

    The same holds for everything in an object or a list. A list of numbers is opaque.
    """
    if isinstance(value, str):
        judge(builder, value, path)
    elif isinstance(value, dict | list) and not is_plain(value):
        search(builder, value, path, with_numbers=False)


def numbers(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read as `passed` does, but pass lists of numbers as well: counts, offsets, and token ids in known places."""
    if isinstance(value, dict | list):
        search(builder, value, path, with_numbers=True)
    else:
        passed(builder, value, path)


def error_text(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge an error, or the `message` of an error object; read the rest as `passed` does.

    Servers quote in errors what the model has written.
    """
    if isinstance(value, str):
        builder.name(path, value)
    else:
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            builder.name(child_path(path, "message"), value["message"])
        passed(builder, value, path)


def one_of(values: str) -> FieldRule:
    """Pass these values, separated by white space, and judge every other string. For roles: prompts contain them."""
    known = frozenset(values.split())

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if isinstance(value, str) and value and value not in known:
            builder.name(path, value)
        elif isinstance(value, dict | list):
            passed(builder, value, path)

    return rule


def _noted(accepts: Callable[[str], bool]) -> FieldRule:
    """Pass a string that `accepts` takes, and count its words; judge any other. Read other values as `passed` does."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if not isinstance(value, str):
            passed(builder, value, path)
        elif accepts(value):
            builder.known.note(path, value)
        else:
            judge(builder, value, path)

    return rule


identifier = _noted(is_identifier)
"""Pass an id, and judge a string that is not an identifier."""

name = _noted(is_name)
"""Pass the name of a model, a user or a server, and judge a string that has more words than a name."""


def labels(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass the sender's metadata or stop sequences if they have no more words than a name; judge all of them if not.

    Neither the model nor the client's user reads them. Punctuation does not count.
    """
    texts = [value] if isinstance(value, str) else [*strings(value)]
    if label_words(" ".join(texts)) > NAME_WORDS:
        passed(builder, value, path)
    else:
        for place, label in _with_paths(value, path):
            builder.known.note(place, label)


def _with_paths(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every string of a value with its path; a key has the path of its value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield child_path(path, key), key
            yield from _with_paths(item, child_path(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _with_paths(item, f"{path}[{index}]")


def machine_data(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass base64 data that only the server reads, such as a signature, and judge a text. Read others as `passed`."""
    if not isinstance(value, str) or not (is_identifier(value) or is_machine_data(value)):
        passed(builder, value, path)


def opaque(note: str) -> FieldRule:
    """Add an opaque part: no guard can read the value, and the policy decides. Null and empty values are no part.

    `note` names the content for records and error messages ("image", "encrypted reasoning"). A string in the value
    that is text, not data, a URL or an id, is judged as well.
    """

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if value in (None, "", [], {}):
            return
        builder.opaque(path, note)
        if isinstance(value, str):
            judge(builder, value, path, is_unreadable)
        elif isinstance(value, dict | list):
            search(builder, value, path, is_unreadable, with_numbers=True)

    return rule


def data(note: str, kind: PartKind = "text") -> FieldRule:
    """Judge the text in a `text/*` or JSON data URL; add everything else as an opaque part with this note.

    The data URL of an image is an opaque part with that image. `kind` is that of a text in this place.
    """

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        found = data_url_text(value) if isinstance(value, str) else None
        if found is not None:
            builder.add(path, found, kind)
            return
        opaque(note)(builder, value, path)
        if isinstance(value, str) and (image := data_url_image(value)) is not None:
            builder.picture(path, InlineImage(*image, kind == "tool_result"))

    return rule


def handled_in_code(builder: MessageBuilder, value: Any, path: str) -> None:
    """Do nothing: code of the wire reads this field. Say so in the map, or the field would be unknown."""


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
    """Apply the field map that an object's `type` selects. An unknown type is opaque, and its text is judged."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise builder.error("must be an object", path)
        kind = value.get("type", "")
        if not isinstance(kind, str):
            raise builder.error("must be a string", f"{path}.type")
        if kind in tables:
            read_fields(builder, value, path, {"type": passed, **tables[kind]})
        else:
            unknown_object(builder, value, path, "part", kind)

    return rule


def string_or(string: FieldRule, otherwise: FieldRule) -> FieldRule:
    """Apply one rule to a string and another rule to every other value."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        (string if isinstance(value, str) else otherwise)(builder, value, path)

    return rule


# --- objects and bodies ----------------------------------------------------------------------------------------------


# These rules pass numbers and enumerated values, which are most values: `read_fields` saves itself the call.
_PASSING = frozenset({passed, identifier, name, labels, machine_data})


def read_fields(builder: MessageBuilder, value: Mapping[str, Any], path: str, table: FieldMap) -> None:
    """Apply a field map to every key of an object.

    Raises the builder's error for a known key in another spelling: servers in Go read `Content` as `content`.
    """
    for key, item in value.items():
        rule = table.get(key)
        if rule is None:
            _read_unknown(builder, key, item, child_path(path, key), table)
        elif rule not in _PASSING:
            rule(builder, item, child_path(path, key))
        elif isinstance(item, str):
            loose = looseness(item) if len(item) <= LENGTH else LENGTH
            if loose > LOOSE:
                rule(builder, item, child_path(path, key))
            elif loose:
                builder.known.note(child_path(path, key), item)
        elif isinstance(item, dict | list):
            rule(builder, item, child_path(path, key))


def _read_unknown(builder: MessageBuilder, key: str, value: Any, path: str, table: FieldMap) -> None:
    folded = key.casefold()
    for known in table:  # the keys of a map are ASCII: their length stays
        if len(known) == len(folded) and known.casefold() == folded:
            raise builder.error(f"is a key in another spelling; write {known!r}", path)
    if builder.may_name(key, path):
        passed(builder, value, path)
    else:
        judge_key(builder, key, value, path)


def require_object(error: type[Unreadable], value: Any, path: str) -> dict[str, Any]:
    """Return `value` if it is an object. Raises `error` otherwise."""
    if not isinstance(value, dict):
        raise error("must be an object", path)
    return value


def file_text(media_type: str, payload: Any) -> str | None:
    """Return the text in base64 data of a `text/*` or JSON media type; None for other data."""
    return base64_text(payload) if isinstance(payload, str) and is_text_type(media_type) else None


def outer_messages(builder: MessageBuilder, system_fields: Collection[str] = ()) -> list[Message]:
    """Return the parts of a request outside its message list, as at most one system and one user message.

    Tool definitions and the texts of the top-level `system_fields` belong to the system message, everything else to
    the user, who has sent it.
    """
    if not builder.pieces:
        return []
    parts = builder.message("system").parts
    of_system = [part.kind == "tool_definition" or _is_in(part, system_fields) for part in parts]
    system = tuple(compress(parts, of_system))
    user = tuple(compress(parts, map(not_, of_system)))
    return [message for message in (Message("system", system), Message("user", user)) if message.parts]


def _is_in(part: Part, fields: Collection[str]) -> bool:
    return bool(fields) and part.kind != "opaque" and steps(part.path)[0] in fields


def outer_parts(body: Mapping[str, Any], table: FieldMap, known: Known | None = None) -> tuple[Part, ...]:
    """Return the parts of a reply outside its choices, such as the texts of an error. Raises UpstreamUnreadable."""
    builder = MessageBuilder(UpstreamUnreadable, known)
    read_fields(builder, body, "", table)
    builder.add_noted()
    return builder.message("assistant").parts if builder.pieces else ()


def with_outer_parts(choices: Sequence[Message], parts: tuple[Part, ...]) -> tuple[Message, ...]:
    """Return the choices with the outer parts added to the first; without a choice, a message of the outer parts."""
    if not parts:
        return tuple(choices)
    first, *others = choices or [Message("assistant", ())]
    return (Message(first.role, (*first.parts, *parts)), *others)
