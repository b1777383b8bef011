"""Strict JSON: a body that two parsers could read differently is refused, and nesting is bounded; paths in a body."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Any, NoReturn
from urllib.parse import quote

from guardproxy.errors import Unreadable

DIGITS = 308  # of a whole number; a longer one is infinite for parsers that read it as a float
DEPTH = 200  # levels of nesting; the deepest schemas in use have some forty

# A whole string. An unterminated string matches up to the end of the body: the scan stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STEP = re.compile(r'\.?([^.\[\]]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_PLAIN_KEY = re.compile(r"[^.\[\]\"]+")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
# A percent sign that begins no escape. At most so many bytes are decoded in one call, which keeps Python's lock.
_NO_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_DECODED_AT_ONCE = 65536
_TEXT_TYPE = re.compile(r"text/|application/json(?:$|[;\s])")
_CHARSET = re.compile(r"charset\s*=\s*[\"']*([^\s;\"']*)")


def dumps(value: Any) -> bytes:
    """Return compact JSON in ASCII: some clients break the lines of a stream at U+2028 or U+0085."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def guard_text(value: Any) -> str:
    """Return the text of a JSON value for the guard: a string as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_json(body: bytes, error: type[Unreadable] = Unreadable, *, halves: bool = False) -> Any:
    """Parse a JSON text.

    Raises `error` for invalid UTF-8 or JSON, a byte order mark, duplicate keys, NaN, Infinity, numbers out of range
    (1e999, more than DIGITS digits), nesting deeper than DEPTH, and unpaired surrogates unless `halves` are read.
    """
    if body.startswith(_BYTE_ORDER_MARK):
        raise error("begins with a byte order mark, which JSON does not have; send it without")
    _check_depth(body, error)
    try:
        value = _STRICT.decode(body.decode())
    except UnicodeDecodeError as problem:
        raise error(f"is not UTF-8: byte {problem.start} of the body") from None  # the cause quotes the whole body
    except AmbiguousJson as problem:
        raise error(str(problem)) from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"is not valid JSON: {problem}") from problem
    if not halves and _SURROGATE_ESCAPE.search(body):
        _check_surrogates(value, error)
    return value


def read_object(body: bytes, error: type[Unreadable] = Unreadable, *, halves: bool = False) -> dict[str, Any]:
    """Parse a body that must be a JSON object. Raises `error` as `read_json` does, and for any other JSON value."""
    value = read_json(body, error, halves=halves)
    if not isinstance(value, dict):
        raise error("the body must be a JSON object")
    return value


class AmbiguousJson(ValueError):
    """JSON that parsers read differently: some refuse it, others accept it with different values."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise AmbiguousJson(f"has the key {twice[:60]!r} twice in one object; send it once")
    return found


def _no_number(name: str) -> NoReturn:
    raise AmbiguousJson(f"has the number {name}; JSON has no such number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise AmbiguousJson(f"has the number {digits[:40]}, which is out of range")
    return number


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise AmbiguousJson(f"has the number {digits[:40]}..., which is out of range")
    return int(digits)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)


_AT_ONCE = 1024 * 1024  # bytes


def has_more_values(body: bytes, most: int) -> bool:
    """Return whether a JSON text has more than `most` values in lists and objects, without parsing it.

    Counts the commas and opening brackets outside of strings, so a list or object within another one counts twice.
    Time is linear in the text.
    """
    if len(body) <= most or _marks(body, 0, len(body)) <= most:
        return False
    # Each value is at most a key and a string. The end of a string behind a backslash looks like an escaped quote.
    if body.count(b'"') - body.count(b'\\"') > 4 * (most + 1):
        return True
    found = end = 0
    for match in _STRING.finditer(body):  # not one call of `sub`, during which no other thread runs
        found += _marks(body, end, match.start())
        end = match.end()
    return found + _marks(body, end, len(body)) > most


def _marks(body: bytes, start: int, stop: int) -> int:
    pieces = range(start, stop, _AT_ONCE)  # a call keeps Python's lock to its end
    return sum(body.count(mark, at, min(at + _AT_ONCE, stop)) for at in pieces for mark in (b",", b"[", b"{"))


def _check_depth(body: bytes, error: type[Unreadable]) -> None:
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return
    outside, end = [], 0
    for match in _STRING.finditer(body):  # see `has_more_values`
        outside.append(body[end : match.start()])
        end = match.end()
    brackets = b"".join([*outside, body[end:]]).translate(None, _NOT_BRACKETS)
    deltas = (1 if bracket in b"[{" else -1 for bracket in brackets)
    if max(accumulate(deltas), default=0) > DEPTH:
        raise error(f"is nested deeper than {DEPTH} levels; flatten it")


def _check_surrogates(value: Any, error: type[Unreadable]) -> None:
    for text in strings(value):
        if has_half(text):
            raise error("contains an unpaired surrogate; send both halves of the pair")


def has_half(text: str) -> bool:
    """Whether a text has an unpaired surrogate."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def strings(value: Any) -> Iterable[str]:
    """Yield every string in a JSON value, keys included."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def parsed_object(arguments: str) -> dict[str, Any]:
    """Parse the arguments of a tool call; an empty object if they are not a JSON object."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- paths in a body -----------------------------------------------------------------------------------------------


def child_path(path: str, key: str) -> str:
    """Return the path of `key` in the object at `path`; a key with a dot or bracket is quoted: `usage["a.b"]`."""
    return _short_path(path, key) if len(path) + len(key) <= _SHORT else _child_path(path, key)


def _child_path(path: str, key: str) -> str:
    if _PLAIN_KEY.fullmatch(key) is None:
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


_SHORT = 128  # characters of a path that is kept: clients choose keys
_short_path = lru_cache(maxsize=4096)(_child_path)


def steps(path: str) -> list[str | int]:
    """Split a path into its steps: `messages[3].content` into `["messages", 3, "content"]`."""
    return [
        int(index) if index else json.loads(quoted) if quoted else key for key, index, quoted in _STEP.findall(path)
    ]


def find(body: Any, path: str) -> Any:
    """Return the value at `path`. Raises KeyError, IndexError or TypeError if there is none."""
    for step in steps(path):
        body = body[step]
    return body


def container_of(body: Any, path: str) -> tuple[Any, str | int]:
    """Return the object or list that contains the value at `path`, and the value's key or index in it."""
    *parents, last = steps(path)
    for step in parents:
        body = body[step]
    return body, last


def put(body: Any, path: str, text: str) -> None:
    """Replace the string at `path`, keeping a data URL or base64 data such. Raises Unreadable if it is not a string."""
    container, last = container_of(body, path)
    old = container[last]
    if not isinstance(old, str):
        raise Unreadable("only a string can get a new text", path)
    if data_url_text(old) is not None:
        text = f"data:text/plain;charset=utf-8,{quote(text)}"
    elif last == "data" and _is_base64(container):
        text = base64.b64encode(text.encode()).decode()
    container[last] = text


def _is_base64(container: Any) -> bool:
    """Whether `data` in this object is base64: Anthropic marks that by `type`, Gemini by a media type."""
    return container.get("type") == "base64" or "mimeType" in container or "mime_type" in container


def remove(body: Any, paths: Iterable[str]) -> None:
    """Remove the values at `paths`; a value that does not exist is no error.

    Later items of a list go first, so that a removal does not shift the index of another path.
    """
    for way in sorted((steps(path) for path in paths), key=_order, reverse=True):
        container = body
        try:
            for step in way[:-1]:
                container = container[step]
            del container[way[-1]]
        except (KeyError, IndexError, TypeError):
            continue


def _order(way: list[str | int]) -> list[tuple[int, str]]:
    return [(step, "") if isinstance(step, int) else (-1, step) for step in way]


# --- data URLs -----------------------------------------------------------------------------------------------------


def data_url_text(url: str) -> str | None:
    """Return the text of a data URL (RFC 2397) whose media type is text or JSON; None for any other string."""
    media_type, comma, payload = url[5:].partition(",") if url[:5].lower() == "data:" else ("", "", "")
    if not comma or not is_text_type(media_type):
        return None
    data = percent_decoded(payload)
    return base64_text(data) if media_type.lower().endswith(";base64") else _utf8(data)


def percent_decoded(text: str) -> bytes:
    """The bytes of a text with percent-encoding (RFC 3986, section 2.1); a sign that begins no escape stays.

    The same as `urllib.parse.unquote_to_bytes`, which makes an object for each escape: 18 MB of them took 1.7 GB.
    """
    data, found, start = text.encode(), [], 0
    while start < len(data):
        end = start + _DECODED_AT_ONCE
        if end < len(data) and (sign := data.rfind(b"%", end - 2, end)) >= 0:
            end = sign  # an escape is in one piece
        piece = _NO_ESCAPE.sub(b"%25", data[start:end]).replace(b"=", b"%3D").replace(b"%", b"=")
        found.append(binascii.a2b_qp(piece))
        start = end
    return b"".join(found)


def data_url_image(url: str) -> tuple[str, str] | None:
    """Return the media type and the base64 data of a data URL of an image; None for any other string."""
    head, comma, payload = url[5:].partition(",") if url[:11].lower() == "data:image/" else ("", "", "")
    media_type, *parameters = [step.strip().lower() for step in head.split(";")]
    return (media_type, payload) if comma and parameters[-1:] == ["base64"] else None


def is_text_type(media_type: str) -> bool:
    """Whether data of this media type is text or JSON in UTF-8; in another charset it would be another text."""
    folded = media_type.lower()
    return _TEXT_TYPE.match(folded) is not None and _UTF8.issuperset(_CHARSET.findall(folded))


def base64_text(payload: bytes | str) -> str | None:
    """Decode base64 data into UTF-8 text; None if it is neither."""
    try:
        return _utf8(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError):
        return None


def _utf8(data: bytes) -> str | None:
    """Decode UTF-8 text; None if it is invalid, or contains NUL (it is UTF-16 then, or binary data)."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None
