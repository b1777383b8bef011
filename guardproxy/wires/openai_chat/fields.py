"""The field maps of chat completions: what of a request, a reply and a chunk is judged, passed, opaque.

Reference: OpenAI API reference, "Chat"; the extra fields are those of the servers that speak it.
"""

import re
from typing import Any

from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import at
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    Fields,
    Rule,
    data,
    each,
    fields,
    handled_in_code,
    identifier,
    json_text,
    named,
    opaque,
    passed,
    string_or,
    text,
    typed,
)

_IMAGE = string_or(data("image"), fields({"url": data("image"), "detail": passed}))
_THOUGHT = string_or(text("reasoning"), each(typed({"text": {"text": text("reasoning")}})))
_PARTS: dict[str, Fields] = {
    "text": {"text": text(), "cache_control": passed, "annotations": each(json_text("text"))},
    "refusal": {"refusal": text("refusal")},
    "image_url": {"image_url": _IMAGE, "uuid": passed},
    "input_audio": {"input_audio": opaque("audio")},
    "audio_url": {"audio_url": opaque("audio"), "uuid": passed},
    "video_url": {"video_url": opaque("video"), "uuid": passed},
    "file": {"file": fields({"filename": text(), "file_data": data("file"), "file_id": opaque("file")})},
    "thinking": {"thinking": _THOUGHT, "closed": passed, "signature": passed},
}
_CONTENT = string_or(text(), each(typed(_PARTS)))
_DETAIL: Fields = named("id format index signature")

# Of a message in the request, and of one in the reply (or its delta).
_SAID: Fields = {
    "role": passed,
    "content": _CONTENT,
    "refusal": text("refusal"),
    "reasoning": string_or(text("reasoning"), json_text("reasoning")),
    "reasoning_content": text("reasoning"),
    "reasoning_details": each(
        typed(
            {
                "reasoning.text": {**_DETAIL, "text": text("reasoning")},
                "reasoning.summary": {**_DETAIL, "summary": text("reasoning")},
                "reasoning.encrypted": {**_DETAIL, "data": opaque("encrypted reasoning")},
            }
        )
    ),
    "tool_calls": openai.calls,
    "function_call": openai.function,
}
MESSAGE: Fields = {
    **_SAID,
    **named("prefix partial cache_control"),
    **named("role tool_call_id", identifier),
    "name": text(),
    "audio": fields({"id": opaque("audio")}),
    "annotations": each(json_text("text")),
}
REPLY_MESSAGE: Fields = {
    **_SAID,
    "audio": fields({"id": passed, "expires_at": passed, "data": opaque("audio"), "transcript": text("transcript")}),
    "annotations": each(json_text("text")),
    "citations": json_text("text"),
    "images": opaque("image"),
    "executed_tools": json_text("tool_result"),
}
DELTA: Fields = {**REPLY_MESSAGE, "tool_calls": openai.call_deltas}
REPLY_CHOICE: Fields = {**openai.CHOICE, **named("message delta", handled_in_code)}


def _template_arguments(builder: MessageBuilder, value: Any, path: str) -> None:
    """Switches of the chat template; a text among them is written into the prompt."""
    for key, item in (value if isinstance(value, dict) else {"": value}).items():
        if not isinstance(item, bool | int | float | None):
            json_text("text")(builder, item, at(path, key))


_TOOLS: Rule = each(json_text("tool_definition"))

# The fields of a delta that may leave as soon as their text is judged.
PLAIN = ("content", "refusal", "reasoning", "reasoning_content")
CALLS = re.compile(r"function_call\.arguments$|tool_calls\[\d+\]\.(?:function\.arguments|custom\.input)$")

# Of the request, beside its messages.
SETTINGS: Fields = {
    **openai.SETTINGS,
    **openai.SCHEMAS,
    **named("""
        tool_choice function_call parallel_tool_calls modalities audio reasoning_effort verbosity reasoning
        safe_prompt prompt_mode random_seed mm_processor_kwargs add_generation_prompt continue_final_message
        chat_template_content_format thinking thinking_budget reasoning_format separate_reasoning stream_reasoning
        """),
    "messages": handled_in_code,
    "tools": _TOOLS,
    "functions": _TOOLS,
    "response_format": fields(
        {"type": passed, "json_schema": json_text("tool_definition"), "schema": json_text("tool_definition")}
    ),
    "prediction": fields({"type": passed, "content": _CONTENT}),
    "web_search_options": json_text("text"),
    "search_settings": json_text("text"),
    "search_parameters": json_text("text"),
    "documents": json_text("text"),
    "chat_template": opaque("chat template"),
    "chat_template_kwargs": _template_arguments,
}
