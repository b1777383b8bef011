"""The field maps of OpenAI's Responses: which fields of requests, responses and events are judged, passed or opaque.

Reference: OpenAI API reference, "Responses" and "Streaming events".
"""

from collections.abc import Mapping
from typing import Any

from guardproxy.types import PartKind
from guardproxy.wires.shared.body import guard_text
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    FieldRule,
    data,
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
from guardproxy.wires.shared.pictures import bare_image
from guardproxy.wires.shared.unmapped import unknown_object

_ITEM: FieldMap = {
    **keys("type status phase caller created_by async agent environment max_output_length"),
    **keys("id call_id namespace server_label", identifier),
    # Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
    "role": one_of("system developer user assistant tool critic discriminator"),
}


def _output_text(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge a text with its annotations; log probabilities that spell another text are opaque."""
    object_with(
        {"type": passed, "text": text(), "annotations": list_of(json_text("text")), "logprobs": handled_in_code}
    )(builder, value, path)
    echo = LogprobEcho(f"{path}.logprobs")
    echo.add(value.get("text") or "", token_list(builder, value.get("logprobs"), f"{path}.logprobs"))
    echo.close(builder)


def _parts(kind: PartKind) -> FieldRule:
    """Read a part of a message's content; `kind` is the kind of its plain texts."""
    cached = {"prompt_cache_breakpoint": passed, "detail": passed}
    file = {
        "filename": text(kind),
        "file_data": data("file", kind),
        "file_id": opaque("file"),
        "file_url": data("file"),
    }
    others = object_by_type(
        {
            "input_text": {**cached, "text": text(kind)},
            "text": {"text": text(kind)},
            "refusal": {"refusal": text("refusal")},
            "reasoning_text": {"text": text("reasoning")},
            "summary_text": {"text": text("reasoning")},
            "input_image": {**cached, "image_url": data("image", kind), "file_id": opaque("image")},
            "input_file": {**cached, **file},
            "input_audio": {"input_audio": opaque("audio")},
        }
    )

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        is_output = isinstance(value, dict) and value.get("type") == "output_text"
        (_output_text if is_output else others)(builder, value, path)

    return rule


PART: FieldRule = _parts("text")
_RESULT: FieldRule = string_or(text("tool_result"), list_of(_parts("tool_result")))


def _call(key: str, more: FieldMap | None = None) -> FieldRule:
    """Read an item that calls a tool: its name and its arguments, at `key`, are one text."""
    table = {**_ITEM, "name": handled_in_code, key: handled_in_code, **(more or {})}

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        object_with(table)(builder, value, path)
        name, arguments = value.get("name"), value.get(key)
        if name is not None and not isinstance(name, str):
            raise builder.error("must be a string", f"{path}.name")
        builder.call(f"{path}.{key}", name or "", "" if arguments is None else guard_text(arguments))

    return rule


_TOOLS: FieldRule = list_of(json_text("tool_definition"))
_ACTION: FieldRule = object_with(
    {**_ITEM, "action": json_text("tool_call"), "pending_safety_checks": json_text("text")}
)
_CODE_OUTPUT = list_of(
    object_by_type(
        {
            "logs": {"logs": text("tool_result")},
            "image": {"url": data("image", "tool_result")},
            "files": {"files": opaque("file")},
        }
    )
)
_SCREENSHOT = object_by_type(
    {"computer_screenshot": {"image_url": data("image", "tool_result"), "file_id": opaque("image")}}
)


def _screenshot(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read what a computer shows; anything but an object is opaque."""
    (_SCREENSHOT if isinstance(value, dict) else opaque("image"))(builder, value, path)


_MCP: FieldMap = {"approval_request_id": identifier, "output": text("tool_result"), "error": json_text("tool_result")}

ITEMS: dict[str, FieldRule] = {
    "message": object_with({**_ITEM, "content": string_or(text(), list_of(PART))}),
    "reasoning": object_with(
        {
            **_ITEM,
            "summary": list_of(PART),
            "content": list_of(PART),
            "encrypted_content": opaque("encrypted reasoning"),
        }
    ),
    "function_call": _call("arguments"),
    "custom_tool_call": _call("input"),
    "mcp_call": _call("arguments", _MCP),
    "mcp_approval_request": _call("arguments"),
    "tool_search_call": _call("arguments", {"execution": passed}),
    "code_interpreter_call": _call("code", {"container_id": identifier, "outputs": _CODE_OUTPUT}),
    "program": _call("code", {"fingerprint": machine_data}),
    "web_search_call": _ACTION,
    "computer_call": _ACTION,
    "local_shell_call": _ACTION,
    "shell_call": _ACTION,
    "apply_patch_call": object_with({**_ITEM, "operation": json_text("tool_call")}),
    "file_search_call": object_with({**_ITEM, "queries": json_text("tool_call"), "results": json_text("tool_result")}),
    "image_generation_call": object_with(
        {
            **_ITEM,
            **keys("action background output_format quality size error svg_usage"),
            "result": bare_image,
            "revised_prompt": text(),
        }
    ),
    "mcp_list_tools": object_with({**_ITEM, "tools": _TOOLS, "error": json_text("tool_result")}),
    "additional_tools": object_with({**_ITEM, "tools": _TOOLS}),
    "tool_search_output": object_with({**_ITEM, "execution": passed, "tools": _TOOLS}),
    "mcp_approval_response": object_with(
        {**_ITEM, "approval_request_id": identifier, "approve": passed, "reason": text()}
    ),
    "function_call_output": object_with({**_ITEM, "name": identifier, "output": _RESULT}),
    "custom_tool_call_output": object_with({**_ITEM, "output": _RESULT}),
    "computer_call_output": object_with(
        {**_ITEM, "output": _screenshot, "acknowledged_safety_checks": json_text("tool_result")}
    ),
    "local_shell_call_output": object_with({**_ITEM, "output": text("tool_result")}),
    "shell_call_output": object_with({**_ITEM, "output": json_text("tool_result")}),
    "apply_patch_call_output": object_with({**_ITEM, "output": text("tool_result")}),
    "program_output": object_with({**_ITEM, "result": text("tool_result")}),
    "compaction": object_with({**_ITEM, "encrypted_content": opaque("encrypted history")}),
    "compaction_trigger": object_with(_ITEM),
    "item_reference": object_with({**_ITEM, "id": opaque("an item stored upstream")}),
}


def item(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read an item of the input or the output; an item of an unknown type is opaque as a whole."""
    if not isinstance(value, dict):
        raise builder.error("must be an object", path)
    kind = kind_of(value)
    if not isinstance(kind, str):
        raise builder.error("must be a string", f"{path}.type")
    if kind in ITEMS:
        ITEMS[kind](builder, value, path)
    else:
        unknown_object(builder, value, path, "item", kind)


def kind_of(value: Mapping[str, Any]) -> Any:
    """Return the type of an item; a message may omit it."""
    return value.get("type") or ("message" if "role" in value else "item_reference")


# A request outside its input.
SETTINGS: FieldMap = {
    **keys(
        """
        stream stream_options access_programs background background_options context_management image
        include max_output_tokens max_tool_calls moderation parallel_tool_calls prompt_cache_options
        prompt_cache_retention reasoning service_tier store temperature tool_choice top_logprobs top_p truncation
        seed priority
        """
    ),
    **keys("model prompt_cache_key request_id cache_salt", name),
    **keys("metadata vllm_xargs safety_identifier user", labels),
    "input": handled_in_code,
    "instructions": string_or(text(), list_of(item)),
    "previous_response_id": opaque("an earlier response stored upstream"),
    "conversation": opaque("a conversation stored upstream"),
    "prompt": object_with(
        {"id": opaque("a prompt stored upstream"), "version": passed, "variables": json_text("text")}
    ),
    "text": object_with({"verbosity": passed, "format": json_text("tool_definition")}),
    "tools": _TOOLS,
}

# Fields of a response that repeat the request; they pass if their texts are the request's (`reading.echoed`).
ECHOES = (
    "instructions",
    "tools",
    "tool_choice",
    "prompt",
    "text",
    "metadata",
    "reasoning",
    "conversation",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)

# A response.
RESPONSE: FieldMap = {
    **keys(
        """
        object created_at completed_at status incomplete_details parallel_tool_calls temperature top_p
        background image input_transformations max_output_tokens max_tool_calls moderation
        prompt_cache_diagnostics prompt_cache_options prompt_cache_retention service_tier tool_usage top_logprobs
        truncation usage store billing access_programs frequency_penalty presence_penalty kv_transfer_params
        """
    ),
    "error": error_text,
    **keys("id model", name),
    **keys(" ".join(ECHOES), handled_in_code),
    "output": list_of(item),
    "output_text": text(),
}

_EVENT: FieldMap = {
    **keys("type sequence_number output_index content_index summary_index annotation_index"),
    "item_id": name,
    "obfuscation": machine_data,
}

# Events that append to a text: its path in the item, and its kind.
DELTAS: dict[str, tuple[str, PartKind]] = {
    "response.output_text.delta": ("content[{content_index}].text", "text"),
    "response.refusal.delta": ("content[{content_index}].refusal", "refusal"),
    "response.reasoning_text.delta": ("content[{content_index}].text", "reasoning"),
    "response.reasoning_summary_text.delta": ("summary[{summary_index}].text", "reasoning"),
    "response.function_call_arguments.delta": ("arguments", "tool_call"),
    "response.mcp_call_arguments.delta": ("arguments", "tool_call"),
    "response.custom_tool_call_input.delta": ("input", "tool_call"),
    "response.code_interpreter_call_code.delta": ("code", "tool_call"),
}

# Events that repeat a text: the field with the text. Its path is that of the matching `.delta` event.
DONES: dict[str, str] = {
    "response.output_text.done": "text",
    "response.refusal.done": "refusal",
    "response.reasoning_text.done": "text",
    "response.reasoning_summary_text.done": "text",
    "response.function_call_arguments.done": "arguments",
    "response.mcp_call_arguments.done": "arguments",
    "response.custom_tool_call_input.done": "input",
    "response.code_interpreter_call_code.done": "code",
}

# Events with an object of the response: the field with the object, its path, and its rule.
SNAPSHOTS: dict[str, tuple[str, str, FieldRule]] = {
    "response.output_item.added": ("item", "output[{output_index}]", item),
    "response.output_item.done": ("item", "output[{output_index}]", item),
    "response.content_part.added": ("part", "output[{output_index}].content[{content_index}]", PART),
    "response.content_part.done": ("part", "output[{output_index}].content[{content_index}]", PART),
    "response.reasoning_summary_part.added": ("part", "output[{output_index}].summary[{summary_index}]", PART),
    "response.reasoning_summary_part.done": ("part", "output[{output_index}].summary[{summary_index}]", PART),
    "response.output_text.annotation.added": (
        "annotation",
        "output[{output_index}].content[{content_index}].annotations[{annotation_index}]",
        json_text("text"),
    ),
    **dict.fromkeys(
        (f"response.{state}" for state in ("created", "queued", "in_progress", "completed", "failed", "incomplete")),
        ("response", "", object_with(RESPONSE)),
    ),
}

# Events about the progress of the upstream's own tools.
PROGRESS: FieldMap = {
    **_EVENT,
    "partial_image_b64": opaque("image"),
    **keys("partial_image_index size quality background output_format code param"),
    "error": error_text,
    "response_id": name,
    "message": text(),
}
ERROR_EVENT: FieldMap = {**_EVENT, **keys("code param"), "message": text(), "error": error_text}


def event_of(texts: str) -> FieldMap:
    """Return the field map of an event whose fields `texts` are read by the stream's code."""
    return {**_EVENT, **keys(texts, handled_in_code)}
