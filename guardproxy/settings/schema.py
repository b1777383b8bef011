"""First pass: whether every key is known and every value has the right type. Reports all mistakes with positions."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from guardproxy.alerting import AlertCondition
from guardproxy.settings.messages import quoted, shortened, suggestion, type_name, union_members
from guardproxy.settings.model import Document
from guardproxy.settings.model_alerts import ReceiverSettings
from guardproxy.settings.model_clients import ClientKeySettings
from guardproxy.settings.model_policy import PolicySettings, RewriteSettings, ThresholdSettings
from guardproxy.settings.model_upstreams import UpstreamSettings
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_TYPES = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
# What a number in place of these mappings can mean.
_MEANT: dict[Any, str] = {
    ThresholdSettings: "; for a threshold, write {{block: {0}}}, or flag or rewrite in place of block",
    RewriteSettings: "; for a threshold, write {{at: {0}}}",
}

# What a text in place of these mappings can mean.
_MEANT_BY_TEXT: dict[Any, str] = {
    ThresholdSettings: "; write an action with its threshold, such as {block: 0.5}",
    PolicySettings: "; for a preset, write {preset: balanced}",
    UpstreamSettings: "; write {url: ADDRESS}",
    AlertCondition: "; write what it is about, such as {action: block}",
    ReceiverSettings: "; write {webhook: ADDRESS} or {syslog: HOST}",
    ClientKeySettings: "; write {sha256: HASH}, as guardproxy key new NAME prints it",
}
# A number with a comma, and one in percent.
_MEANT_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*(%?)")
_NEVER_EMPTY: tuple[SettingPath, ...] = (("clients",), ("alerts",))
# A text that stands in the wrong place here may be a key, or the address of a webhook.
_PRIVATE = (("clients",), ("alerts",))


@cache
def adapter() -> TypeAdapter[Document]:
    """The validator of a whole document."""
    return TypeAdapter(Document)


def check(root: Node, content: Any) -> tuple[Document | None, list[Problem]]:
    """The document, or None and every mistake in its types. `content` is the tree's plain value with its secrets."""
    try:
        # Strict JSON mode coerces nothing ("0.5" is not a number) and accepts mappings for dataclasses.
        return adapter().validate_json(json.dumps(content), strict=True), _empty(root)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        problems = [_problem(root, dict(detail)) for detail in errors]
        return None, [*(problem for problem in problems if problem), *_empty(root)]


def _empty(root: Node) -> list[Problem]:
    """The sections whose lines are all commented out, where that would admit everybody or tell nobody."""
    problems = []
    for path in _NEVER_EMPTY:
        node = root.get(*path)
        if node is not None and node.value is None and not node.reported:
            problems.append(Problem(node.position, path, "must not be empty; write its options, or remove it"))
    clients = root.get("clients")
    for name, client in clients.entries() if clients else []:
        problems += _empty_of_client(client, ("clients", name))
    return problems


def _empty_of_client(node: Node, path: SettingPath) -> list[Problem]:
    """The limits, ends and keys without a value: each would be one that is left out."""
    if node.value is None and not node.reported and type(None) in _types_at(Document, path):
        return [Problem(node.position, path, "must not be empty; write a value, or remove it")]
    below: list[tuple[str | int, Node]] = [*node.entries(), *node.elements()]
    return [problem for step, child in below for problem in _empty_of_client(child, (*path, step))]


def guards_alone(content: Any) -> Document | None:
    """A document with only the guards and taxonomies of `content`, or None if there is a mistake in these too.

    The categories of the guards can then be checked in spite of mistakes elsewhere.
    """
    if not isinstance(content, dict):
        return None
    parts = {key: content[key] for key in ("guard", "guards", "taxonomies") if key in content}
    if isinstance(parts.get("guard"), dict):
        keys = ("family", "options", "taxonomy", "patterns", "all", "cascade", "by_language", "by_role")
        parts["guard"] = {key: value for key, value in parts["guard"].items() if key in keys}
    try:
        return adapter().validate_json(json.dumps(parts), strict=True)
    except ValidationError:
        return None


def option_error(kind: Any, node: Node) -> str | None:
    """Why a value cannot be a family's option of type `kind`, or None."""
    try:
        TypeAdapter(kind).validate_json(json.dumps(node.plain_value()), strict=True)
    except ValidationError:
        is_number = isinstance(node.value, bool | int | float)
        hint = "; quote it" if is_number and str in union_members(kind) else ""
        value = shortened(node.plain_value()) if node.value else quoted(node)
        return f"must be {type_name(kind)}, not {value}{hint}"
    return None


def _problem(root: Node, error: dict[str, Any]) -> Problem | None:
    """A validation error with its position, or None if it adds nothing to another problem."""
    node, path, rest = _locate(root, error["loc"])
    kind = error["type"]
    if node.reported or (kind == "too_short" and node.value):  # then its entries have mistakes of their own
        return None
    if kind == "missing":
        return Problem(node.key_position, (*path, *rest[-1:]), "is missing")
    others = (_is_of_one_in_a_list(kind, node, path), _is_of_text_or_mapping(kind, node, path))
    if rest and (_is_of_other_member(kind, node) or any(others)):
        return None
    if kind == "unexpected_keyword_argument":
        message = "unknown key; " + suggestion(str(path[-1]), _keys_at(Document, path[:-1]))
        return Problem(node.key_position, path, message)
    return Problem(node.position, path, _message(kind, error, node, path))


def _locate(root: Node, location: tuple[str | int, ...]) -> tuple[Node, SettingPath, list[str | int]]:
    """The deepest node at a pydantic location, its path, and the steps that are not nodes, such as union members."""
    node, path, rest = root, [], []
    for step in location:
        child = node.child(step)
        if child is None:
            rest.append(step)
        else:
            node = child
            path.append(step)
        if node.reported:
            break
    return node, tuple(path), rest


def _is_of_other_member(kind: str, node: Node) -> bool:
    """Whether an error comes from the other member of a union of a literal and a mapping or an integer."""
    if kind == "dataclass_type":
        return True
    if kind == "int_type":
        return isinstance(node.value, str | list)
    return kind == "literal_error" and isinstance(node.value, dict | int | float)


def _is_of_one_in_a_list(kind: str, node: Node, path: SettingPath) -> bool:
    """Whether an error comes from the other member of a union of a name and a list of names."""
    if isinstance(node.value, list):
        may_be_list = any(get_origin(member) is tuple for member in _types_at(Document, path))
        return may_be_list and kind in {"string_type", "literal_error"}
    return kind == "tuple_type"


def _is_of_text_or_mapping(kind: str, node: Node, path: SettingPath) -> bool:
    """Whether an error comes from the other member of a union of a text and a mapping."""
    members = _types_at(Document, path)
    if str not in members or not any(get_origin(member) is Mapping for member in members):
        return False
    return kind == ("string_type" if isinstance(node.value, dict) else "dict_type")


def _message(kind: str, error: dict[str, Any], node: Node, path: SettingPath) -> str:
    value = quoted(node)
    if kind in _TYPES:
        if node.text() is not None and path[:1] in _PRIVATE:
            value = "a text"
        return f"must be {_TYPES[kind]}, not {value}{_meant(kind, node, path, value)}"
    if kind in _BOUNDS:
        relation, bound = _BOUNDS[kind]
        limit = error["ctx"][bound]
        return f"must be {relation} {limit:g}, not {value}{_meant_in_percent(node.value) if limit == 1 else ''}"
    if kind == "literal_error":
        choices = _choices_at(Document, path)
        named = ", ".join(map(str, choices))
        wanted = f"{named} or an integer" if int in _types_at(Document, path) else f"one of {named}"
        return f"must be {wanted}, not {value}" + _hint(node.value, choices)
    if kind in {"too_short", "too_long", "string_too_short"}:
        return "must have exactly one entry" if path[-1:] == ("header",) else "must not be empty"
    return str(error["msg"])


def _meant(kind: str, node: Node, path: SettingPath, value: str) -> str:
    """What a value of a wrong type, which the message shows as `value`, probably means; empty if that is unknown."""
    text, is_number = node.text(), isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if kind == "string_type" and (is_number or isinstance(node.value, bool)):
        return "; quote it"
    if kind == "tuple_type" and text is not None:
        return f"; put it in brackets: [{text if value != 'a text' else '...'}]"
    if kind == "float_type" and (number := _MEANT_NUMBER.fullmatch(text or "")):
        share = float(number[1].replace(",", ".")) / (100 if number[2] else 1)
        return f"; write {share:g}"
    if kind == "dataclass_type":
        members = _types_at(Document, path)
        if is_number:
            return next((_MEANT[member] for member in members if member in _MEANT), "").format(value)
        if text is not None or isinstance(node.value, bool):
            return next((_MEANT_BY_TEXT[member] for member in members if member in _MEANT_BY_TEXT), "")
    return ""


def _meant_in_percent(value: Any) -> str:
    if isinstance(value, int | float) and 5 <= value <= 100:
        return f"; write {value / 100:g} for {value:g} %"
    return ""


def _hint(value: Any, choices: list[Any]) -> str:
    close = get_close_matches(value, map(str, choices), 1) if isinstance(value, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def _keys_at(kind: Any, path: SettingPath) -> list[str]:
    """The keys that the mapping at `path` may have; empty if it may have any."""
    return [key.name for member in _types_at(kind, path) if is_dataclass(member) for key in fields(member)]


def _choices_at(kind: Any, path: SettingPath) -> list[Any]:
    return [choice for member in _types_at(kind, path) if get_origin(member) is Literal for choice in get_args(member)]


def _types_at(kind: Any, path: SettingPath) -> list[Any]:
    """The types that the value at `path` may have."""
    members = union_members(kind)
    for step in path:
        members = [inner for member in members for part in _types_below(member, step) for inner in union_members(part)]
    return members


def _types_below(kind: Any, step: str | int) -> list[Any]:
    """The type of the value one step below a value of type `kind`; empty if there is no such step."""
    if is_dataclass(kind):
        hint = get_type_hints(kind, include_extras=True).get(str(step))
        return [] if hint is None else [hint]
    if get_origin(kind) is Mapping or kind is dict:
        return list(get_args(kind)[1:])
    return list(get_args(kind)[:1]) if get_origin(kind) is tuple else []
