"""The models that a request names beside its `model`: the upstream may answer with any of them. Pure.

OpenRouter has `models` and `preset`, LiteLLM and Anthropic have `fallbacks`, Vertex AI has `manualMode.modelName`,
tools have models of their own, and servers take adapters, deployments and, in the query, `model`. A server that is not
known here has keys like these, so the rule is by the words of a key, not by a list of fields.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from guardproxy.wires.shared.body import child_path

# `draft_model` only guesses tokens that the model checks, and `moderation` names a model that writes nothing.
_NOT_ANSWERING = frozenset({"draft_model", "moderation"})
_NAMES_MODEL = re.compile(
    r"(?:.*_)?(?:model|fallback|deployment|adapter|lora|preset)s?(?:_?(?:name|id|path|list|group|alias|dict|map)s?)?"
)
_CAMEL_STEP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Fields of a body that hold the conversation, where such a key is a word of a user or a tool.
_CONVERSATION = frozenset(
    ("messages", "input", "contents", "prompt", "system", "systemInstruction", "system_instruction", "documents")
)
# Keys of JSON schemas whose values describe a tool's argument; it may be called `model`.
_SCHEMA = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "default", "example", "examples", "const", "enum")
)


def named_models(body: Mapping[str, Any], query: str) -> Iterator[tuple[str, str]]:
    """Yield the JSON path, or `?` and the query parameter, and the name of every model that a request names."""
    outside = {key: value for key, value in body.items() if key not in _CONVERSATION}
    stack: list[tuple[Any, str, str]] = [(outside, "", "")]
    while stack:
        value, path, key = stack.pop()
        if isinstance(value, str):
            yield from ((path, name) for name in _names(key, value))
        elif isinstance(value, list):
            stack.extend((item, f"{path}[{index}]", key) for index, item in reversed([*enumerate(value)]))
        elif isinstance(value, dict):
            stack.extend(_fields(value, path, key))
    for key, value in parse_qsl(query.replace(";", "&")):
        yield from ((f"?{key}", name) for name in _names(_model_key(key), value))


def _fields(value: Mapping[str, Any], path: str, key: str) -> Iterator[tuple[Any, str, str]]:
    """Yield the fields of an object, the last first; without a key of a model, they inherit the object's own key."""
    keys = {name: _model_key(name) for name in value if name not in _SCHEMA}
    inherited = "" if any(keys.values()) else key
    for name in reversed(keys):
        if name not in _NOT_ANSWERING:
            yield value[name], child_path(path, name), keys[name] or inherited


def _model_key(key: str) -> str:
    """Return the key, in small letters, if its value names a model, else an empty string."""
    plain = key.replace("-", "_")
    spellings = (plain.casefold(), _CAMEL_STEP.sub("_", plain).casefold())
    return next((spelling for spelling in spellings if _NAMES_MODEL.fullmatch(spelling)), "")


def _names(key: str, value: str) -> Iterable[str]:
    """Return the models in the value of a model's key; LiteLLM takes several, separated by commas."""
    if not key:
        return ()
    prefix = "@preset/" if "preset" in key else ""  # as OpenRouter writes a preset in `model`
    return (prefix + name.strip() for name in value.split(",") if name.strip())
