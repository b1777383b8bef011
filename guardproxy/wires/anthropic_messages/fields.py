"""The field maps of Anthropic's Messages: which fields of requests, replies and events are judged, passed or opaque.

Reference: Anthropic API reference, "Messages" and "Streaming messages".
"""

from collections.abc import Mapping
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
    object_by_type,
    object_with,
    one_of,
    opaque,
    passed,
    string_or,
    text,
)
from guardproxy.wires.shared.pictures import encoded
from guardproxy.wires.shared.unmapped import unknown_object

_COMMON: FieldMap = keys("type cache_control index")
_CITATIONS: FieldRule = list_of(json_text("text"))


def call(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge a tool's name and input as one text; `value` is the block."""
    name, arguments = value.get("name"), value.get("input")
    if name is not None and not isinstance(name, str):
        raise builder.error("must be a string", f"{path}.name")
    builder.call(f"{path}.input", name or "", guard_text(arguments) if arguments else "")


def _tool_call(table: FieldMap) -> FieldRule:
    """Apply a field map to a block that calls a tool, and judge the call."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        object_with(table)(builder, value, path)
        call(builder, value, path)

    return rule


def _encoded(note: str, kind: PartKind) -> FieldRule:
    """Judge a base64 source if its media type is text; otherwise it is opaque with this note, or an image."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        object_with({"type": passed, "media_type": labels, "data": handled_in_code})(builder, value, path)
        media_type = str(value.get("media_type"))
        encoded(builder, value.get("data"), f"{path}.data", media_type=media_type, note=note, kind=kind)

    return rule


def _by_type(rules: Mapping[str, FieldRule]) -> FieldRule:
    """Apply the rule that a block's `type` selects; a block of an unknown type is opaque as a whole."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise builder.error("must be an object with a type", path)
        if kind in rules:
            rules[kind](builder, value, path)
        else:
            unknown_object(builder, value, path, "block", kind)

    return rule


def _source(note: str, inner: FieldRule, kind: PartKind) -> FieldRule:
    return _by_type(
        {
            "base64": _encoded(note, kind),
            "url": object_with({"type": passed, "url": opaque(note)}),
            "file": object_with({"type": passed, "file_id": opaque(note)}),
            "text": object_with({"type": passed, "media_type": labels, "data": text()}),
            "content": object_with({"type": passed, "content": string_or(text(), list_of(inner))}),
        }
    )


_SEARCH_RESULT: FieldMap = {
    **keys("type page_age"),
    "url": text("tool_result"),
    "title": text("tool_result"),
    "encrypted_content": opaque("encrypted search result"),
}
_CALL: FieldMap = {
    **_COMMON,
    "caller": passed,
    **keys("name input", handled_in_code),
    **keys("id toolset_name server_name", identifier),
}
_RESULT: FieldMap = {**_COMMON, **keys("is_error caller"), **keys("tool_use_id toolset_name", identifier)}


def _blocks(kind: PartKind) -> dict[str, FieldRule]:
    """Return the rule for each type of block; `kind` is the kind of their plain texts."""
    plain: dict[str, FieldRule] = {"text": object_with({**_COMMON, "text": text(kind), "citations": _CITATIONS})}
    inner = _by_type({**plain, "image": object_with({**_COMMON, "source": _source("image", _by_type(plain), kind)})})
    document = {"title": text(kind), "context": text(kind), "citations": passed}
    return {
        **plain,
        "image": object_with({**_COMMON, "source": _source("image", inner, kind)}),
        "document": object_with({**_COMMON, **document, "source": _source("document", inner, kind)}),
        "search_result": object_with(
            {**_COMMON, **document, "source": text(kind), "content": list_of(_by_type(plain))}
        ),
        "tool_reference": object_with({**_COMMON, "tool_name": identifier}),
    }


_RESULTS = list_of(_by_type(_blocks("tool_result")))
_WEB_RESULTS = list_of(_by_type({"web_search_result": object_with(_SEARCH_RESULT)}))


def _web_results(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read a list of search results, or the error that stands in its place."""
    (_WEB_RESULTS if isinstance(value, list) else passed)(builder, value, path)


_ANY_RESULT = object_with({**_RESULT, "content": json_text("tool_result")})

_BLOCKS: dict[str, FieldRule] = {
    **_blocks("text"),
    "thinking": object_with({**_COMMON, "thinking": text("reasoning"), "signature": machine_data}),
    "redacted_thinking": object_with({**_COMMON, "data": opaque("encrypted reasoning")}),
    "tool_use": _tool_call(_CALL),
    "server_tool_use": _tool_call(_CALL),
    "mcp_tool_use": _tool_call(_CALL),
    "tool_result": object_with({**_RESULT, "content": string_or(text("tool_result"), _RESULTS)}),
    "mcp_tool_result": object_with({**_RESULT, "content": string_or(text("tool_result"), _RESULTS)}),
    "web_search_tool_result": object_with(
        {
            **_RESULT,
            "content": _web_results,
        }
    ),
    **dict.fromkeys(
        (
            "web_fetch_tool_result",
            "code_execution_tool_result",
            "bash_code_execution_tool_result",
            "text_editor_code_execution_tool_result",
            "tool_search_tool_result",
        ),
        _ANY_RESULT,
    ),
    "container_upload": object_with({**_COMMON, "file_id": opaque("file")}),
}

BLOCK: FieldRule = _by_type(_BLOCKS)
CONTENT: FieldRule = string_or(text(), list_of(BLOCK))
# Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
MESSAGE: FieldMap = {"role": one_of("user assistant system"), "content": CONTENT}

# A request outside its messages.
SETTINGS: FieldMap = {
    **keys(
        """
        max_tokens stream temperature top_p top_k service_tier tool_choice thinking inference_geo speed diagnostics
        cache_control betas anthropic_version anthropic_beta context_management
        """
    ),
    **keys("model container user_profile_id workspace_id", name),
    "messages": handled_in_code,
    "stop_sequences": labels,
    "metadata": object_with({"user_id": labels}),
    "system": string_or(text(), list_of(BLOCK)),
    "tools": list_of(json_text("tool_definition")),
    "output_config": object_with({"effort": passed, "task_budget": passed, "format": json_text("tool_definition")}),
    "output_format": json_text("tool_definition"),
    "mcp_servers": opaque("tools of an MCP server"),
}

# A reply, and the message in a stream's message_start.
STOP_DETAILS: FieldRule = object_with({**keys("type category recommended_model"), "explanation": text()})
REPLY: FieldMap = {
    **keys(
        """
        type stop_reason stop_sequence usage diagnostics context_management service_tier
        """
    ),
    "error": error_text,
    **keys("id model container request_id", name),
    "role": one_of("assistant"),
    "content": list_of(BLOCK),
    "stop_details": STOP_DETAILS,
}

# The deltas of a stream and its events. The stream's code reads `input_json_delta` and `citations_delta`.
DELTAS: dict[str, FieldMap] = {
    "text_delta": {"text": text()},
    "thinking_delta": {"thinking": text("reasoning"), "estimated_tokens": passed},
    "signature_delta": {"signature": machine_data},
    "input_json_delta": {"partial_json": handled_in_code},
    "citations_delta": {"citation": handled_in_code},
}
DELTA: FieldRule = object_by_type(DELTAS)
MESSAGE_DELTA: FieldMap = {**keys("stop_reason stop_sequence"), "container": name, "stop_details": STOP_DETAILS}
EVENTS: dict[str, FieldMap] = {
    "message_start": keys("type") | keys("message", handled_in_code),
    "content_block_start": keys("type index") | keys("content_block", handled_in_code),
    "content_block_delta": keys("type index") | keys("delta", handled_in_code),
    "content_block_stop": keys("type index"),
    "message_delta": keys("type usage context_management") | keys("delta", handled_in_code),
    "message_stop": keys("type amazon-bedrock-invocationMetrics"),
    "ping": keys("type"),
    "error": keys("type") | {"error": error_text, "request_id": name},
}
