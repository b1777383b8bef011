"""First pass: is every value of the right kind, and every key known? All mistakes at once, each with its place."""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from guardproxy.settings.model import Document
from guardproxy.settings.yaml_tree import Node, Path, Problem

_KINDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
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


@cache
def adapter() -> TypeAdapter[Document]:
    """The validator of a whole document."""
    return TypeAdapter(Document)


def check(root: Node, raw: Any) -> tuple[Document | None, list[Problem]]:
    """The document, or every mistake in its shape. `raw` is the tree's plain value with its secrets filled in."""
    try:
        # Strict JSON mode coerces nothing ("0.5" is no number) and takes mappings for dataclasses.
        return adapter().validate_json(json.dumps(raw), strict=True), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [_problem(root, dict(one)) for one in found]
        return None, [problem for problem in problems if problem]


def parse(raw: Any) -> Document | None:
    """The document, or None where there is any mistake."""
    try:
        return adapter().validate_json(json.dumps(raw), strict=True)
    except ValidationError:
        return None


def _problem(root: Node, error: dict[str, Any]) -> Problem | None:
    """One validation error at its place; None where it says nothing new."""
    node, path, rest = _locate(root, error["loc"])
    kind = error["type"]
    if node.broken:
        return None
    if kind == "missing":
        return Problem(node.key, (*path, *rest[-1:]), "is missing")
    if rest and _other_member(kind, node):
        return None
    if kind == "unexpected_keyword_argument":
        return Problem(node.key, path, "unknown key; " + suggest(str(path[-1]), keys_at(Document, path[:-1])))
    return Problem(node.mark, path, _message(kind, error, node, path))


def _locate(root: Node, location: tuple[str | int, ...]) -> tuple[Node, Path, list[str | int]]:
    """The deepest node that a location names, its path, and the steps that are no nodes but union members and such."""
    node, path, rest = root, [], []
    for step in location:
        child = node.child(step)
        if child is None:
            rest.append(step)
        else:
            node = child
            path.append(step)
        if node.broken:
            break
    return node, tuple(path), rest


def _other_member(kind: str, node: Node) -> bool:
    """Whether an error comes from the member of a union (a word, or a mapping) that was not meant."""
    if kind == "dataclass_type":
        return True
    return kind == "literal_error" and isinstance(node.value, dict)


def _message(kind: str, error: dict[str, Any], node: Node, path: Path) -> str:
    shown = show(node)
    if kind in _KINDS:
        hint = "; quote it" if kind == "string_type" and isinstance(node.value, bool | int | float) else ""
        return f"must be {_KINDS[kind]}, not {shown}{hint}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {error['ctx'][name]:g}, not {shown}"
    if kind == "literal_error":
        choices = _choices_at(Document, path)
        return f"must be one of {', '.join(map(str, choices))}, not {shown}" + _hint(node.value, choices)
    if kind in {"too_short", "too_long", "string_too_short"}:
        return "must hold exactly one entry" if isinstance(node.value, dict) else "must not be empty"
    return str(error["msg"])


def _hint(value: Any, choices: list[Any]) -> str:
    close = get_close_matches(value, [str(one) for one in choices], 1) if isinstance(value, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def show(node: Node) -> str:
    """A value as a message quotes it: short, and on one line."""
    if node.value is None:
        return "empty"
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    return _short(node.value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def option_fault(kind: Any, node: Node) -> str | None:
    """What is wrong with the value of a family's option of type `kind`; None where nothing is."""
    try:
        TypeAdapter(kind).validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError:
        number = isinstance(node.value, bool | int | float)
        hint = "; quote it" if number and str in _members(kind) else ""
        return f"must be {_words(kind)}, not {_short(node.plain()) if node.value else show(node)}{hint}"
    return None


def _words(kind: Any, *, many: bool = False) -> str:
    """A type in words: `a text or a list of texts`."""
    members = [one for one in _members(kind) if one is not type(None)]
    return " or ".join(_word(one, many=many) for one in members)


def _word(kind: Any, *, many: bool) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Sequence:
        return f"{'lists' if many else 'a list'} of {_words(inner[0], many=True)}"
    if origin is Mapping:
        return f"{'mappings' if many else 'a mapping'} to {_words(inner[1], many=True)}"
    one, several = {str: ("a text", "texts"), int: ("a whole number", "whole numbers")}.get(kind, (str(kind),) * 2)
    return several if many else one


def suggest(name: str, known: list[str]) -> str:
    """`did you mean x?`, or what there is where nothing comes close."""
    close = get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def keys_at(kind: Any, path: Path) -> list[str]:
    """The keys that the mapping at `path` may have; none where it may have any."""
    return [one.name for member in _members_at(kind, path) if is_dataclass(member) for one in fields(member)]


def _choices_at(kind: Any, path: Path) -> list[Any]:
    return [
        choice for member in _members_at(kind, path) if get_origin(member) is Literal for choice in get_args(member)
    ]


def _members_at(kind: Any, path: Path) -> list[Any]:
    """The types that the value at `path` may have, constraints taken off and unions taken apart."""
    members = _members(kind)
    for step in path:
        members = [member for one in members for inner in _inside(one, step) for member in _members(inner)]
    return members


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [member for one in get_args(kind) for member in _members(one)]
    return [kind]


def _inside(kind: Any, step: str | int) -> list[Any]:
    """The type of what a step into `kind` leads to."""
    if is_dataclass(kind):
        hint = get_type_hints(kind, include_extras=True).get(str(step))
        return [] if hint is None else [hint]
    if get_origin(kind) is Mapping or kind is dict:
        return list(get_args(kind)[1:])
    return list(get_args(kind)[:1]) if get_origin(kind) is tuple else []
