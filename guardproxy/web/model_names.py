"""The names that an upstream has for the client's models, put into the path and the body of a request."""

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

from guardproxy.upstreams import model_at

# Where a path names a model: Gemini's and OpenAI's `models/NAME`, Azure's `deployments/NAME`.
_SEGMENT: Final = re.compile(r"/(models|tunedModels|deployments)/([^/:]+)")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]]', re.DOTALL)
_COLON: Final = re.compile(rb"\s*:\s*")


def with_models(path: str, body: bytes, models: Iterable[tuple[str, str]]) -> tuple[str, bytes]:
    """The path, percent-encoded, and the body with the upstream's names in place of the client's.

    Every other byte stays. What the body names beside its own `model`, such as fallbacks, stays as well.
    """
    models = tuple(models)

    def in_path(found: re.Match[str]) -> str:
        own = model_at(models, unquote(found[2]))
        return found[0] if own is None else f"/{found[1]}/{quote(own, safe='')}"

    return _SEGMENT.sub(in_path, path), _in_body(body, models)


def _in_body(body: bytes, models: Iterable[tuple[str, str]]) -> bytes:
    try:
        span = _model_span(body) if body.lstrip()[:1] == b"{" else None
        own = model_at(models, json.loads(body[slice(*span)])) if span else None
    except ValueError:  # what no wire has read, which passes as it is
        return body
    return body if span is None or own is None else body[: span[0]] + json.dumps(own).encode() + body[span[1] :]


def _model_span(body: bytes) -> tuple[int, int] | None:
    """Where the value of `model` stands in a JSON object, if it is a string."""
    depth, at = 0, -1
    for token in _TOKEN.finditer(body):
        text = token[0]
        if token.start() == at:
            return token.span() if text[:1] == b'"' else None
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif depth == 1 and (colon := _COLON.match(body, token.end())) and json.loads(text) == "model":
            at = colon.end()
    return None
