"""The field maps of Anthropic's Messages: what of a request, a reply and a stream's event is judged, passed, opaque.

Reference: Anthropic API reference, "Messages" and "Streaming messages".
"""

from collections.abc import Mapping
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
    string_or,
    text,
    typed,
    user_label,
)

_COMMON: Fields = named("type cache_control index")
_CITATIONS: Rule = each(json_text("text"))


def call(builder: MessageBuilder, value: Any, path: str) -> None:
    """A tool's name and input, as one text; `value` is the block."""
    name, given = value.get("name"), value.get("input")
    if name is not None and not isinstance(name, str):
        raise builder.error("must be a string", f"{path}.name")
    builder.call(f"{path}.input", name or "", shown(given) if given else "")


def _called(table: Fields) -> Rule:
    """A block that calls a tool."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        fields(table)(builder, value, path)
        call(builder, value, path)

    return rule


def _encoded(note: str) -> Rule:
    """A base64 source: a text if its media type says so."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        fields(named("type media_type") | {"data": handled_in_code})(builder, value, path)
        found = file_text(str(value.get("media_type")), value.get("data"))
        if found is None:
            builder.opaque(f"{path}.data", note)
        else:
            builder.add(f"{path}.data", found)

    return rule


def _by_type(rules: Mapping[str, Rule]) -> Rule:
    """A block by the rule for its type; one of an unknown type is opaque."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise builder.error("must be an object with a type", path)
        if kind in rules:
            rules[kind](builder, value, path)
        else:
            builder.opaque(path, f"block of type {kind[:40]}")

    return rule


def _source(note: str, inner: Rule) -> Rule:
    return _by_type(
        {
            "base64": _encoded(note),
            "url": fields({"type": passed, "url": opaque(note)}),
            "file": fields({"type": passed, "file_id": opaque(note)}),
            "text": fields({"type": passed, "media_type": passed, "data": text()}),
            "content": fields({"type": passed, "content": string_or(text(), each(inner))}),
        }
    )


_SEARCH_RESULT: Fields = {
    **named("type url page_age"),
    "title": text("tool_result"),
    "encrypted_content": opaque("encrypted search result"),
}
_CALL: Fields = {
    **_COMMON,
    "caller": passed,
    **named("name input", handled_in_code),
    **named("id toolset_name server_name", identifier),
}
_RESULT: Fields = {**_COMMON, **named("is_error caller"), **named("tool_use_id toolset_name", identifier)}


def _blocks(kind: PartKind) -> dict[str, Rule]:
    """The blocks of a message; `kind` is what their plain texts are."""
    plain: dict[str, Rule] = {"text": fields({**_COMMON, "text": text(kind), "citations": _CITATIONS})}
    inner = _by_type({**plain, "image": fields({**_COMMON, "source": _source("image", _by_type(plain))})})
    document = {"title": text(kind), "context": text(kind), "citations": passed}
    return {
        **plain,
        "image": fields({**_COMMON, "source": _source("image", inner)}),
        "document": fields({**_COMMON, **document, "source": _source("document", inner)}),
        "search_result": fields({**_COMMON, **document, "source": text(kind), "content": each(_by_type(plain))}),
        "tool_reference": fields({**_COMMON, "tool_name": identifier}),
    }


_RESULTS = each(_by_type(_blocks("tool_result")))
_WEB_RESULTS = each(_by_type({"web_search_result": fields(_SEARCH_RESULT)}))
_ANY_RESULT = fields({**_RESULT, "content": json_text("tool_result")})

_BLOCKS: dict[str, Rule] = {
    **_blocks("text"),
    "thinking": fields({**_COMMON, "thinking": text("reasoning"), "signature": passed}),
    "redacted_thinking": fields({**_COMMON, "data": opaque("encrypted reasoning")}),
    "tool_use": _called(_CALL),
    "server_tool_use": _called(_CALL),
    "mcp_tool_use": _called(_CALL),
    "tool_result": fields({**_RESULT, "content": string_or(text("tool_result"), _RESULTS)}),
    "mcp_tool_result": fields({**_RESULT, "content": string_or(text("tool_result"), _RESULTS)}),
    "web_search_tool_result": fields(
        {
            **_RESULT,
            "content": lambda builder, value, path: (_WEB_RESULTS if isinstance(value, list) else passed)(
                builder, value, path
            ),
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
    "container_upload": fields({**_COMMON, "file_id": opaque("file")}),
}

BLOCK: Rule = _by_type(_BLOCKS)
CONTENT: Rule = string_or(text(), each(BLOCK))
MESSAGE: Fields = {"role": identifier, "content": CONTENT}

# Of the request, beside its messages.
SETTINGS: Fields = {
    **named(
        """
        model max_tokens stream temperature top_p top_k service_tier tool_choice
        thinking container inference_geo speed diagnostics user_profile_id workspace_id cache_control betas
        anthropic_version anthropic_beta context_management
        """
    ),
    "messages": handled_in_code,
    "stop_sequences": user_label,
    "metadata": fields({"user_id": user_label}),
    "system": string_or(text(), each(BLOCK)),
    "tools": each(json_text("tool_definition")),
    "output_config": fields({"effort": passed, "task_budget": passed, "format": json_text("tool_definition")}),
    "output_format": json_text("tool_definition"),
    "mcp_servers": opaque("tools of an MCP server"),
}

# Of a reply, and of the message that a stream starts with.
STOP_DETAILS: Rule = fields({**named("type category recommended_model"), "explanation": text()})
ERROR: Rule = error_text("message")
REPLY: Fields = {
    **named(
        """
        id type role model stop_reason stop_sequence usage container diagnostics context_management request_id
        service_tier
        """
    ),
    "error": ERROR,
    "content": each(BLOCK),
    "stop_details": STOP_DETAILS,
}

# Of what a stream adds to a block, and of what it ends with. `citations_delta` is read by the stream itself.
DELTAS: dict[str, Fields] = {
    "text_delta": {"text": text()},
    "thinking_delta": {"thinking": text("reasoning"), "estimated_tokens": passed},
    "signature_delta": {"signature": passed},
    "input_json_delta": {"partial_json": handled_in_code},
    "citations_delta": {"citation": handled_in_code},
}
DELTA: Rule = typed(DELTAS)
MESSAGE_DELTA: Fields = {**named("stop_reason stop_sequence container"), "stop_details": STOP_DETAILS}
EVENTS: dict[str, Fields] = {
    "message_start": named("type") | named("message", handled_in_code),
    "content_block_start": named("type index") | named("content_block", handled_in_code),
    "content_block_delta": named("type index") | named("delta", handled_in_code),
    "content_block_stop": named("type index"),
    "message_delta": named("type usage context_management") | named("delta", handled_in_code),
    "message_stop": named("type amazon-bedrock-invocationMetrics"),
    "ping": named("type"),
    "error": named("type request_id") | {"error": ERROR},
}
