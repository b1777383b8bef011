"""JSON bodies, read strictly: what two parsers could read differently is refused, and every depth is bounded."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NoReturn
from urllib.parse import quote, unquote_to_bytes

from guardproxy.errors import Unreadable

DEPTH = 200  # levels of nesting; the deepest schemas in use have some forty

# A whole string; an unterminated one runs to the end, so that the scan stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = re.compile(r'\.?([^.\[\]]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_PLAIN_KEY = re.compile(r"[^.\[\]\"]+")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_TEXT_TYPE = re.compile(r"text/|application/json(?:$|[;\s])")
_CHARSET = re.compile(r"charset\s*=\s*[\"']*([^\s;\"']*)")


def dumps(value: Any) -> bytes:
    """Compact JSON in ASCII: clients that break lines at U+2028 or U+0085 are not led astray."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def shown(value: Any) -> str:
    """A JSON value as the guard reads it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_json(body: bytes, error: type[Unreadable] = Unreadable) -> Any:
    """The value of a JSON text.

    Raises `error` for invalid UTF-8 or JSON, a byte order mark, duplicate keys, numbers that are none (NaN, Infinity,
    1e999), lone surrogates and nesting deeper than DEPTH.
    """
    _check_depth(body, error)
    try:
        value = _STRICT.decode(body.decode())
    except UnicodeDecodeError as problem:
        raise error(f"is not UTF-8: byte {problem.start} of the body") from None  # it quotes the whole body
    except _Refused as problem:
        raise error(str(problem)) from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"is not valid JSON: {problem}") from problem
    if _SURROGATE_ESCAPE.search(body):
        _check_surrogates(value, error)
    return value


def read_object(body: bytes, error: type[Unreadable] = Unreadable) -> dict[str, Any]:
    """The JSON object that a body is. Raises `error`, also where the body is something else."""
    value = read_json(body, error)
    if not isinstance(value, dict):
        raise error("the body must be a JSON object")
    return value


class _Refused(ValueError):
    """JSON that is valid to some parsers and means different things to them."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the key {twice[:60]!r} twice in one object; send it once")
    return found


def _no_number(name: str) -> NoReturn:
    raise _Refused(f"has {name} for a number; JSON has no such number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _Refused(f"has the number {digits[:40]}, which is out of range")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)


def _check_depth(body: bytes, error: type[Unreadable]) -> None:
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    deltas = (1 if bracket in b"[{" else -1 for bracket in brackets)
    if max(accumulate(deltas), default=0) > DEPTH:
        raise error(f"is nested deeper than {DEPTH} levels; flatten it")


def _check_surrogates(value: Any, error: type[Unreadable]) -> None:
    for text in strings(value):
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise error("has half of a surrogate pair, which is no character; send both halves")


def strings(value: Any) -> Iterable[str]:
    """Every string in a JSON value, keys included."""
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


def object_of(arguments: str) -> dict[str, Any]:
    """The arguments of a call as an object; none where their text is none."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- places in a body ----------------------------------------------------------------------------------------------


def at(path: str, key: str) -> str:
    """The place of `key` in the object at `path`; a key with a dot or a bracket in it is quoted: `usage["a.b"]`."""
    if _PLAIN_KEY.fullmatch(key) is None:
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


def steps(path: str) -> list[str | int]:
    """`messages[3].content` as `["messages", 3, "content"]`."""
    return [
        int(index) if index else json.loads(quoted) if quoted else key for key, index, quoted in _STEP.findall(path)
    ]


def find(body: Any, path: str) -> Any:
    """The value at `path`. Raises KeyError, IndexError or TypeError where there is none."""
    for step in steps(path):
        body = body[step]
    return body


def holder_of(body: Any, path: str) -> tuple[Any, str | int]:
    """The object or list that `path` ends in, and the key there."""
    *way, last = steps(path)
    for step in way:
        body = body[step]
    return body, last


def put(body: Any, path: str, text: str) -> None:
    """Set the string at `path`; a data URL and base64 data stay such. Raises Unreadable where no string is there."""
    holder, last = holder_of(body, path)
    old = holder[last]
    if not isinstance(old, str):
        raise Unreadable("only a text can be given a new text", path)
    if data_url_text(old) is not None:
        text = f"data:text/plain;charset=utf-8,{quote(text)}"
    elif last == "data" and _is_base64(holder):
        text = base64.b64encode(text.encode()).decode()
    holder[last] = text


def _is_base64(holder: Any) -> bool:
    """Whether `data` in this object is base64: Anthropic says it by type, Gemini by the media type beside it."""
    return holder.get("type") == "base64" or "mimeType" in holder or "mime_type" in holder


def remove(body: Any, paths: Iterable[str]) -> None:
    """Remove the values at `paths`, whatever their order; one that is gone already is no error."""
    for way in sorted((steps(path) for path in paths), key=_order, reverse=True):
        holder = body
        try:
            for step in way[:-1]:
                holder = holder[step]
            del holder[way[-1]]
        except (KeyError, IndexError, TypeError):
            continue


def _order(way: list[str | int]) -> list[tuple[int, str]]:
    return [(step, "") if isinstance(step, int) else (-1, step) for step in way]


# --- data URLs -----------------------------------------------------------------------------------------------------


def data_url_text(url: str) -> str | None:
    """The text of a data URL with a text in it (RFC 2397); None for every other URL or text."""
    kind, comma, payload = url[5:].partition(",") if url[:5].lower() == "data:" else ("", "", "")
    if not comma or not is_text_type(kind):
        return None
    data = unquote_to_bytes(payload)
    return base64_text(data) if kind.lower().endswith(";base64") else _utf8(data)


def is_text_type(media_type: str) -> bool:
    """Whether data of this media type is text or JSON in UTF-8; one in another charset says something else."""
    kind = media_type.lower()
    return _TEXT_TYPE.match(kind) is not None and _UTF8.issuperset(_CHARSET.findall(kind))


def base64_text(payload: bytes | str) -> str | None:
    """The UTF-8 text in base64 data; None where it is not one."""
    try:
        return _utf8(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError):
        return None


def _utf8(data: bytes) -> str | None:
    """Data as text; None where it is none. What has NUL in it is UTF-16, or no text at all."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None
