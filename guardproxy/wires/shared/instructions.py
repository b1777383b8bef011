"""Where an instruction of the operator's is written into the body of a request."""

from collections.abc import Collection, Mapping
from typing import Any

# Fields of servers that decide which part of the messages the model reads: another template may leave out the system
# message, and a prompt that is cut to so many tokens loses its beginning.
_LOSING = ("chat_template", "template", "truncate_prompt_tokens")


def reads_system(body: Mapping[str, Any]) -> bool:
    """Return whether nothing in a request keeps its system message from the model."""
    return all(body.get(key) is None for key in _LOSING)


def behind(text: str, instruction: str) -> str:
    """Return a text, which may be empty, with an instruction behind it."""
    return f"{text}\n\n{instruction}" if text else instruction


def add_to_messages(messages: list[Any], instruction: str, roles: Collection[str] = ("system",)) -> None:
    """Add an instruction to the last of the system messages at the beginning, or as the first message.

    Many chat templates allow no system message anywhere else, and only one. `roles` are those of system messages.
    """
    leading = 0
    while leading < len(messages) and messages[leading].get("role") in roles:
        leading += 1
    if leading:
        message = messages[leading - 1]
        message["content"] = with_text(message.get("content"), instruction)
    else:
        messages.insert(0, {"role": "system", "content": instruction})


def with_text(content: Any, instruction: str) -> Any:
    """Return a content, which is a text, a list of blocks or None, with an instruction behind it."""
    if isinstance(content, list):
        return [*content, {"type": "text", "text": instruction}]
    return behind(content or "", instruction)
