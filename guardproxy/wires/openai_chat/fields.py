"""The field maps of chat completions: which fields of requests, replies and chunks are judged, passed or opaque.

Reference: OpenAI API reference, "Chat"; the extra fields belong to the servers that speak the protocol.
"""

import re
from typing import Any

from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import child_path
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    FieldRule,
    data,
    handled_in_code,
    identifier,
    json_text,
    keys,
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
from guardproxy.wires.shared.pictures import images
from guardproxy.wires.shared.unmapped import judge_key

_IMAGE = string_or(data("image"), object_with({"url": data("image"), "detail": passed}))
_THOUGHT = string_or(text("reasoning"), list_of(object_by_type({"text": {"text": text("reasoning")}})))
_PARTS: dict[str, FieldMap] = {
    "text": {"text": text(), "cache_control": passed, "annotations": list_of(json_text("text"))},
    "refusal": {"refusal": text("refusal")},
    "image_url": {"image_url": _IMAGE, "uuid": identifier},
    "input_audio": {"input_audio": opaque("audio")},
    "audio_url": {"audio_url": opaque("audio"), "uuid": identifier},
    "video_url": {"video_url": opaque("video"), "uuid": identifier},
    "file": {"file": object_with({"filename": text(), "file_data": data("file"), "file_id": opaque("file")})},
    "thinking": {"thinking": _THOUGHT, "closed": passed, "signature": machine_data},
}
_PART = object_by_type(_PARTS)
_CONTENT = string_or(text(), list_of(_PART))
_FORMAT: FieldMap = {**keys("format index"), "id": identifier, "signature": machine_data}
_DETAIL = object_by_type(
    {
        "reasoning.text": {**_FORMAT, "text": text("reasoning")},
        "reasoning.summary": {**_FORMAT, "summary": text("reasoning")},
        "reasoning.encrypted": {**_FORMAT, "data": opaque("encrypted reasoning")},
    }
)

# Envoy AI Gateway passes the object on that Bedrock has in this place.
_BEDROCK_REASONING = object_with(
    {"text": text("reasoning"), "signature": machine_data, "redactedContent": opaque("encrypted reasoning")}
)

# Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
_ROLE = one_of("system developer user assistant tool function")

# A message of a request, and a message (or delta) of a reply.
_ANY_MESSAGE: FieldMap = {
    "role": _ROLE,
    "content": _CONTENT,
    "refusal": text("refusal"),
    "reasoning": string_or(text("reasoning"), json_text("reasoning")),
    "reasoning_content": string_or(text("reasoning"), _BEDROCK_REASONING),
    "reasoning_details": list_of(_DETAIL),
    "tool_calls": openai.tool_calls,
    "function_call": openai.function,
}
MESSAGE: FieldMap = {
    **_ANY_MESSAGE,
    **keys("prefix partial cache_control"),
    "tool_call_id": identifier,
    "name": text(),
    "audio": object_with({"id": opaque("audio")}),
    "annotations": list_of(json_text("text")),
}
REPLY_MESSAGE: FieldMap = {
    **_ANY_MESSAGE,
    "audio": object_with({"id": name, "expires_at": passed, "data": opaque("audio"), "transcript": text("transcript")}),
    "annotations": list_of(json_text("text")),
    "citations": json_text("text"),
    "images": images(object_by_type({"image_url": {"image_url": _IMAGE, "index": passed}})),
    "executed_tools": json_text("tool_result"),
}
DELTA: FieldMap = {
    **REPLY_MESSAGE,
    "images": opaque("image"),
    "content": string_or(text(), openai.by_index(_PART)),
    "reasoning_details": openai.by_index(_DETAIL),
    "annotations": openai.whole_items,
    "tool_calls": openai.call_deltas,
}
REPLY_CHOICE: FieldMap = {**openai.CHOICE, **keys("message delta", handled_in_code)}


def _template_arguments(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge the texts among the arguments of the chat template, which writes them into the prompt, and their names."""
    for key, item in (value if isinstance(value, dict) else {"": value}).items():
        if not builder.may_name(key, child_path(path, key)):
            judge_key(builder, key, item, child_path(path, key))
        elif not isinstance(item, bool | int | float | None):
            json_text("text")(builder, item, child_path(path, key))


_TOOLS: FieldRule = list_of(json_text("tool_definition"))

# The fields of a delta that may be released as soon as their text is judged.
PLAIN = ("content", "refusal", "reasoning", "reasoning_content")
CALLS = re.compile(r"function_call\.arguments$|tool_calls\[\d+\]\.(?:function\.arguments|custom\.input)$")

# A request outside its messages.
SETTINGS: FieldMap = {
    **openai.SETTINGS,
    **openai.SCHEMAS,
    **keys("""
        tool_choice function_call parallel_tool_calls modalities audio reasoning_effort verbosity reasoning
        safe_prompt prompt_mode random_seed mm_processor_kwargs add_generation_prompt continue_final_message
        chat_template_content_format thinking thinking_budget reasoning_format separate_reasoning stream_reasoning
        """),
    "messages": handled_in_code,
    "tools": _TOOLS,
    "functions": _TOOLS,
    "response_format": object_with(
        {"type": passed, "json_schema": json_text("tool_definition"), "schema": json_text("tool_definition")}
    ),
    "prediction": object_with({"type": passed, "content": _CONTENT}),
    "web_search_options": json_text("text"),
    "search_settings": json_text("text"),
    "search_parameters": json_text("text"),
    "documents": json_text("text"),
    "chat_template": opaque("chat template"),
    "chat_template_kwargs": _template_arguments,
}
