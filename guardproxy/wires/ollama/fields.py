"""The field maps of Ollama: which fields of requests and replies are judged, passed or opaque.

Reference: Ollama's API documentation, "Generate a chat completion", "Generate a completion".
"""

from typing import Any

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
    name,
    numbers,
    object_with,
    one_of,
    opaque,
    passed,
    string_or,
    text,
)
from guardproxy.wires.shared.pictures import bare_image, images


def _calls(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge tool calls. A frame of a stream brings whole calls; their numbers follow those of earlier frames."""
    table = keys("name arguments", handled_in_code) | {"index": passed, "description": text()}
    list_of(object_with({"function": object_with(table), "id": identifier, "type": passed}))(builder, value, path)
    for call in value or ():
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        if name is not None and not isinstance(name, str):
            raise builder.error("must be a string", f"{path}[].function.name")
        place = f"{path}[{builder.calls}].function.arguments"
        builder.call(place, name or "", "" if arguments is None else guard_text(arguments))


def _options(builder: MessageBuilder, value: Any, path: str) -> None:
    """Pass the sampling options; the stop sequences are the sender's own labels."""
    if isinstance(value, dict):
        labels(builder, value.get("stop"), f"{path}.stop")
        value = {key: item for key, item in value.items() if key != "stop"}
    passed(builder, value, path)


MESSAGE: FieldMap = {
    # Chat templates write the role into the prompt, so a role that the protocol does not have is judged.
    "role": one_of("system user assistant tool"),
    "content": text(),
    "thinking": text("reasoning"),
    "images": images(bare_image),
    "tool_calls": _calls,
    **keys("tool_name tool_call_id", identifier),
    "name": text(),
}

# A request outside its messages (chat), or with its prompt (generate).
SETTINGS: dict[str, FieldRule] = {
    **keys("messages prompt", handled_in_code),
    "model": name,
    **keys("stream keep_alive think raw truncate shift logprobs top_logprobs"),
    **keys("width height steps _debug_render_only"),
    "options": _options,
    "tools": list_of(json_text("tool_definition")),
    "format": string_or(passed, json_text("tool_definition")),
    "suffix": text(),
    "system": text(),
    "template": opaque("prompt template"),
    "context": opaque("token ids of an earlier conversation"),
    "images": images(bare_image),
}

# A reply, or a line of a stream. `context` passes: it is the judged conversation as token ids, for the next request.
REPLY: FieldMap = {
    **keys(
        """
        created_at done done_reason total_duration load_duration prompt_eval_count prompt_eval_duration
        eval_count eval_duration completed total
        """
    ),
    "error": error_text,
    **keys("model remote_model remote_host", name),
    "context": numbers,
    "logprobs": handled_in_code,
    "message": object_with(MESSAGE),
    "response": text(),
    "thinking": text("reasoning"),
    "image": bare_image,
}
