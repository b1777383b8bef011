"""The field maps of Gemini: what of a request and of a response is judged, passed, opaque.

Reference: Gemini API reference, "Generating content". Google's JSON takes every name in camelCase and in snake_case.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from guardproxy.types import PartKind
from guardproxy.wires.shared.body import shown
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    Fields,
    Rule,
    each,
    error_text,
    fields,
    file_text,
    handled_in_code,
    identifier,
    json_text,
    named,
    opaque,
    passed,
    passed_but,
    text,
    user_label,
    walk,
)

_CAPITAL = re.compile(r"(?<!^)([A-Z])")


@cache
def snake(name: str) -> str:
    """`inlineData` as `inline_data`."""
    return _CAPITAL.sub(r"_\1", name).lower()


def both(table: Fields) -> Fields:
    """The map with every name in both spellings."""
    return {**table, **{snake(name): rule for name, rule in table.items()}}


def spelled(value: Mapping[str, Any], name: str) -> str:
    """How an object spells a name."""
    return name if name in value else snake(name)


def taken(builder: MessageBuilder, value: Mapping[str, Any], name: str, path: str) -> Any:
    """The value under a name in either spelling. Raises where both are there: servers differ in which one counts."""
    other = snake(name)
    if other != name and name in value and other in value:
        raise builder.error(f"is there as {other!r} too; send one of them", f"{path}.{name}" if path else name)
    return value.get(name, value.get(other))


def _data(note: str) -> Rule:
    """Inline data: a text if its media type says so."""
    table = both(named("mimeType data displayName", handled_in_code))

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        fields(table)(builder, value, path)
        if value is None:
            return
        name = taken(builder, value, "displayName", path)
        if isinstance(name, str):
            builder.add(f"{path}.{spelled(value, 'displayName')}", name)
        found = file_text(str(taken(builder, value, "mimeType", path)), value.get("data"))
        if found is None:
            builder.opaque(f"{path}.data", note)
        else:
            builder.add(f"{path}.data", found)

    return rule


_CALL: Fields = both(named("id willContinue") | named("name args partialArgs", handled_in_code))


def _call(builder: MessageBuilder, value: Any, path: str) -> None:
    """A function call: its name and its arguments are one text."""
    fields(_CALL)(builder, value, path)
    if value is None:
        return
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise builder.error("must be a string", f"{path}.name")
    given = [item for item in (value.get("args"), taken(builder, value, "partialArgs", path)) if item is not None]
    builder.call(f"{path}.args", name or "", "".join(shown(item) for item in given))


_RESULT = fields(
    both(
        {
            **named("willContinue scheduling"),
            **named("id name", identifier),
            "response": json_text("tool_result"),
            "parts": opaque("parts of a function's response"),
        }
    )
)
_FLAGS: Fields = named("thought thoughtSignature videoMetadata partMetadata mediaResolution")
_PART: Fields = both(
    {
        **_FLAGS,
        "inlineData": _data("inline data"),
        "fileData": opaque("file"),
        "functionCall": _call,
        "functionResponse": _RESULT,
        "executableCode": fields({"id": passed, "language": passed, "code": text("tool_call")}),
        "codeExecutionResult": fields({"id": passed, "outcome": passed, "output": text("tool_result")}),
        "toolCall": json_text("tool_call"),
        "toolResponse": json_text("tool_result"),
    }
)
_SPELT_TWICE = ("inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult")


def part(builder: MessageBuilder, value: Any, path: str) -> None:
    """A part of a content; a thought is reasoning."""
    if not isinstance(value, dict):
        raise builder.error("must be an object", path)
    for name in _SPELT_TWICE:
        taken(builder, value, name, path)
    walk(builder, value, path, {**_PART, "text": text(_kind(value))})


def _kind(value: dict[str, Any]) -> PartKind:
    return "reasoning" if value.get("thought") is True else "text"


CONTENT: Rule = fields({"role": identifier, "parts": each(part)})

_GENERATION: Fields = both(
    {
        **named(
            """
            temperature topP topK candidateCount maxOutputTokens presencePenalty frequencyPenalty seed
            responseMimeType responseModalities responseLogprobs logprobs enableEnhancedCivicAnswers mediaResolution
            speechConfig thinkingConfig routingConfig audioTimestamp modelConfig imageConfig modelSelectionConfig
            """
        ),
        "stopSequences": user_label,
        "responseSchema": json_text("tool_definition"),
        "responseJsonSchema": json_text("tool_definition"),
        "_responseJsonSchema": json_text("tool_definition"),
    }
)

# Of the request, beside its contents.
SETTINGS: Fields = both(
    {
        **named("model toolConfig safetySettings store serviceTier modelArmorConfig"),
        "contents": handled_in_code,
        "labels": user_label,
        "systemInstruction": CONTENT,
        "tools": each(json_text("tool_definition")),
        "generationConfig": fields(_GENERATION),
        "cachedContent": opaque("content cached upstream"),
    }
)

# Of a response, and of a candidate in it.
REPLY: Fields = both(
    {
        **named("usageMetadata modelVersion responseId createTime modelStatus"),
        "candidates": handled_in_code,
        "promptFeedback": passed_but("blockReasonMessage block_reason_message"),
        "error": error_text("message @type description detail"),
    }
)
CANDIDATE: Fields = both(
    {
        **named("index finishReason safetyRatings tokenCount avgLogprobs"),
        **named("content logprobsResult", handled_in_code),
        "finishMessage": text(),
        "citationMetadata": json_text("text"),
        "groundingMetadata": json_text("text"),
        "groundingAttributions": json_text("text"),
        "urlContextMetadata": json_text("text"),
    }
)
LOGPROBS: Fields = both(named("logProbabilitySum") | named("topCandidates chosenCandidates", handled_in_code))
TOKEN: Fields = both(named("tokenId logProbability") | {"token": handled_in_code})
