"""The wording that the messages of several checks share: suggestions, quoted values, names of types and headers."""

import json
import re
import types
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

from guardproxy.settings.yaml_tree import Node

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SINGULAR = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
_PLURAL = {str: "strings", int: "integers", float: "numbers", bool: "booleans"}


def suggestion(name: str, names: Collection[str]) -> str:
    """`did you mean x?` for the closest of `names`, or the list of them if none is close."""
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


def may_be_hash(pattern: str) -> bool:
    """Whether a pattern can match a hash in hex digits, or several joined by commas."""
    return re.fullmatch(r"([0-9a-f,*?]|\[[^]]+\])*", pattern.strip().lower()) is not None


def quoted(node: Node) -> str:
    """A value as a message quotes it: on one line, at most 60 characters, collections by their type."""
    if node.value is None:
        return "empty"
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    return shortened(node.value)


def shortened(value: Any) -> str:
    """A value as JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def type_name(kind: Any, *, plural: bool = False) -> str:
    """A type in English, such as `a string or a list of strings`; None is left out of a union."""
    members = [member for member in union_members(kind) if member is not type(None)]
    return " or ".join(_member_name(member, plural=plural) for member in members)


def _member_name(kind: Any, *, plural: bool) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Sequence:
        return f"{'lists' if plural else 'a list'} of {type_name(arguments[0], plural=True)}"
    if origin is Mapping:
        return f"{'mappings' if plural else 'a mapping'} to {type_name(arguments[1], plural=True)}"
    return (_PLURAL if plural else _SINGULAR).get(kind, str(kind))


def union_members(kind: Any) -> list[Any]:
    """The types that a value of type `kind` may have: constraints taken off, unions taken apart."""
    if get_origin(kind) is Annotated:
        return union_members(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [inner for member in get_args(kind) for inner in union_members(member)]
    return [kind]
