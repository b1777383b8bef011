"""Token counts of a reply that includes what other replies to the same request have cost."""

import json
from typing import Any, Final

from guardproxy.wires.shared.body import dumps

# Which count a key has, in any protocol: of what the model has read, of what it has written, or of both.
_COUNTS: Final = {
    **dict.fromkeys(("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count"), 0),
    **dict.fromkeys(("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count"), 1),
    **dict.fromkeys(("total_tokens", "totalTokenCount"), 2),
}
_USAGES: Final = ("usage", "usageMetadata")
_MARKS: Final = tuple(name.encode() for name in (*_USAGES, "eval_count"))
_HOLDERS: Final = ("response", "message")  # objects of an event that may have a usage
_DATA: Final = b"data:"


def with_earlier(data: bytes, earlier: tuple[int, int]) -> bytes:
    """Return a whole reply, or whole frames of a stream, with the counts of `earlier` replies (read, written) added.

    What names no usage stays byte for byte, and so does an event whose data is spread over several lines.
    """
    if earlier == (0, 0) or not any(mark in data for mark in _MARKS):
        return data
    whole = _added(data, earlier)
    if whole is not None:
        return whole
    return b"".join([_line(line, earlier) for line in data.splitlines(keepends=True)])


def _line(line: bytes, earlier: tuple[int, int]) -> bytes:
    field = _DATA if line.startswith(_DATA) else b""
    text = line[len(field) :]
    new = _added(text, earlier)
    return line if new is None else (field and field + b" ") + new + text[len(text.rstrip()) :]


def _added(text: bytes, earlier: tuple[int, int]) -> bytes | None:
    """Return a JSON object with the counts added; None if it is no object or has none."""
    try:
        body = json.loads(text)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    objects = [body, *(body[key] for key in _HOLDERS if isinstance(body.get(key), dict))]
    usages = [one[key] for one in objects for key in _USAGES if isinstance(one.get(key), dict)]
    if body.get("done") is True:  # Ollama's counts lie in the last line itself
        usages.append(body)
    changed = [_add(usage, earlier) for usage in usages]
    return dumps(body) if any(changed) else None


def _add(usage: dict[str, Any], earlier: tuple[int, int]) -> bool:
    found = [key for key in usage if key in _COUNTS and type(usage[key]) is int]
    for key in found:
        usage[key] += (*earlier, sum(earlier))[_COUNTS[key]]
    return bool(found)
