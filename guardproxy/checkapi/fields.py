"""Values of JSON with the type that their place asks for; everything else is an error with its path."""

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

from guardproxy.errors import Unreadable

T = TypeVar("T")

_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_SHOWN = 60  # characters of a wrong value in a message
_NAMES = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}


def dumps(value: Any) -> bytes:
    """Compact JSON in ASCII, the keys in their order. Raises ValueError for numbers that JSON lacks."""
    return _COMPACT.encode(value).encode()


def typed(value: object, kind: type[T], path: str) -> T:
    """A value of this type. Raises Unreadable."""
    if not isinstance(value, kind):
        raise Unreadable(f"must be {_NAMES[kind]}, not {shown(value)}", path)
    return value


def object_at(value: object, path: str, keys: Collection[str]) -> Mapping[str, Any]:
    """An object with no other keys than these. Raises Unreadable."""
    found = cast("Mapping[str, Any]", typed(value, dict, path))
    for key in found:
        if key not in keys:
            place = f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN]
            raise Unreadable(f"is not known here; the keys are {', '.join(keys)}", place)
    return found


def text_at(value: Mapping[str, Any], key: str, path: str = "", *, most: int | None = None) -> str:
    """The string at a key, empty if the key is missing, of at most `most` characters. Raises Unreadable.

    So it does for half of a pair of surrogates.
    """
    place = f"{path}.{key}" if path else key
    text = typed(value.get(key, ""), str, place)
    if most is not None and len(text) > most:
        raise Unreadable(f"has {len(text)} characters; it may have {most}", place)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # no store could hold it
            raise Unreadable("contains an unpaired surrogate; send both halves of the pair", place) from None
    return text


def name_at(value: Mapping[str, Any], key: str, *, most: int) -> str:
    """The name at a key of the body, as `text_at`. Raises Unreadable for an empty one too: it would count as none."""
    if value.get(key) == "":
        raise Unreadable("is empty; name one, or leave the key out", key)
    return text_at(value, key, most=most)


def one_of(value: object, allowed: Collection[str], path: str) -> Any:
    """One of these strings. Raises Unreadable."""
    if not isinstance(value, str) or value not in allowed:
        raise Unreadable(f"must be one of {', '.join(allowed)}, not {shown(value)}", path)
    return value


def shown(value: object) -> str:
    """A value for a message, cut to what is worth reading."""
    text = json.dumps(value, default=str) if not isinstance(value, list | dict) else _NAMES[type(value)]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
