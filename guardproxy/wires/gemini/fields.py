"""The field maps of Gemini: which fields of requests and responses are judged, passed or opaque.

Reference: Gemini API reference, "Generating content". Google's JSON accepts every name in camelCase and in snake_case.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from guardproxy.types import PartKind
from guardproxy.wires.shared.body import guard_text
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    FieldRule,
    error_text,
    handled_in_code,
    identifier,
    json_text,
    keys,
    labels,
    list_of,
    machine_data,
    name,
    object_with,
    one_of,
    opaque,
    passed,
    read_fields,
    text,
)
from guardproxy.wires.shared.pictures import encoded

_CAPITAL = re.compile(r"(?<!^)([A-Z])")


@cache
def snake(name: str) -> str:
    """Return a camelCase name in snake_case: `inlineData` as `inline_data`."""
    return _CAPITAL.sub(r"_\1", name).lower()


def both_spellings(table: FieldMap) -> FieldMap:
    """Return the field map with every name in both spellings."""
    return {**table, **{snake(name): rule for name, rule in table.items()}}


def spelled(value: Mapping[str, Any], name: str) -> str:
    """Return the spelling of `name` that the object uses."""
    return name if name in value else snake(name)


def unique_value(builder: MessageBuilder, value: Mapping[str, Any], name: str, path: str) -> Any:
    """Return the value of `name` in either spelling. Raises the builder's error if both are present."""
    other = snake(name)
    if other != name and name in value and other in value:
        raise builder.error(f"is present as {other!r} too; send one of them", f"{path}.{name}" if path else name)
    return value.get(name, value.get(other))


def _data(kind: PartKind) -> FieldRule:
    """Judge inline data if its media type is text, as text of this kind; otherwise it is opaque, or an image."""
    table = both_spellings({"mimeType": labels, **keys("data displayName", handled_in_code)})

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        object_with(table)(builder, value, path)
        if value is None:
            return
        title = unique_value(builder, value, "displayName", path)
        if isinstance(title, str):
            builder.add(f"{path}.{spelled(value, 'displayName')}", title, kind)
        media_type = str(unique_value(builder, value, "mimeType", path))
        data, note = value.get("data"), "inline data"
        encoded(builder, data, f"{path}.data", media_type=media_type, note=note, kind=kind, url_safe=True)

    return rule


_CALL: FieldMap = both_spellings(
    {"id": identifier, "willContinue": passed} | keys("name args partialArgs", handled_in_code)
)


def _call(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge a function call: its name and its arguments are one text."""
    object_with(_CALL)(builder, value, path)
    if value is None:
        return
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise builder.error("must be a string", f"{path}.name")
    arguments = [
        item for item in (value.get("args"), unique_value(builder, value, "partialArgs", path)) if item is not None
    ]
    builder.call(f"{path}.args", name or "", "".join(guard_text(item) for item in arguments))


_RESULT = object_with(
    both_spellings(
        {
            **keys("willContinue scheduling"),
            **keys("id name", identifier),
            "response": json_text("tool_result"),
            "parts": list_of(
                object_with(both_spellings({"inlineData": _data("tool_result"), "fileData": opaque("file")}))
            ),
        }
    )
)
_FLAGS: FieldMap = keys("thought videoMetadata partMetadata mediaResolution") | {"thoughtSignature": machine_data}
_PART: FieldMap = both_spellings(
    {
        **_FLAGS,
        "inlineData": _data("text"),
        "fileData": opaque("file"),
        "functionCall": _call,
        "functionResponse": _RESULT,
        "executableCode": object_with({"id": identifier, "language": passed, "code": text("tool_call")}),
        "codeExecutionResult": object_with({"id": identifier, "outcome": passed, "output": text("tool_result")}),
        "toolCall": json_text("tool_call"),
        "toolResponse": json_text("tool_result"),
    }
)
_SPELT_TWICE = ("inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult")


def part(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read a part of a content; a thought is reasoning."""
    if not isinstance(value, dict):
        raise builder.error("must be an object", path)
    for key in _SPELT_TWICE:
        unique_value(builder, value, key, path)
    read_fields(builder, value, path, {**_PART, "text": text(_kind(value))})


def _kind(value: dict[str, Any]) -> PartKind:
    return "reasoning" if value.get("thought") is True else "text"


# Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
ROLE: FieldRule = one_of("user model function tool system")
CONTENT: FieldRule = object_with({"role": ROLE, "parts": list_of(part)})

_GENERATION: FieldMap = both_spellings(
    {
        **keys(
            """
            temperature topP topK candidateCount maxOutputTokens presencePenalty frequencyPenalty seed
            responseMimeType responseModalities responseLogprobs logprobs enableEnhancedCivicAnswers mediaResolution
            speechConfig thinkingConfig routingConfig audioTimestamp modelConfig imageConfig modelSelectionConfig
            """
        ),
        "stopSequences": labels,
        "responseSchema": json_text("tool_definition"),
        "responseJsonSchema": json_text("tool_definition"),
        "_responseJsonSchema": json_text("tool_definition"),
    }
)

# A request outside its contents.
SETTINGS: FieldMap = both_spellings(
    {
        "model": name,
        **keys("toolConfig safetySettings store serviceTier modelArmorConfig"),
        "contents": handled_in_code,
        "labels": labels,
        "systemInstruction": CONTENT,
        "tools": list_of(json_text("tool_definition")),
        "generationConfig": object_with(_GENERATION),
        "cachedContent": opaque("content cached upstream"),
    }
)

# A response, and a candidate in it.
REPLY: FieldMap = both_spellings(
    {
        **keys("usageMetadata createTime modelStatus promptFeedback"),
        "error": error_text,
        **keys("modelVersion responseId", name),
        "candidates": handled_in_code,
    }
)
CANDIDATE: FieldMap = both_spellings(
    {
        **keys("index finishReason safetyRatings tokenCount avgLogprobs"),
        **keys("content logprobsResult", handled_in_code),
        "finishMessage": text(),
        "citationMetadata": json_text("text"),
        "groundingMetadata": json_text("text"),
        "groundingAttributions": json_text("text"),
        "urlContextMetadata": json_text("text"),
    }
)
LOGPROBS: FieldMap = both_spellings(keys("logProbabilitySum") | keys("topCandidates chosenCandidates", handled_in_code))
TOKEN: FieldMap = both_spellings(keys("tokenId logProbability") | {"token": handled_in_code})
