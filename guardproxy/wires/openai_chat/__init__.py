"""OpenAI chat completions, also as vLLM, SGLang, llama.cpp, LM Studio, Mistral and OpenRouter speak it.

Reference: OpenAI API reference, "Chat": "Create chat completion", "The chat completion object", "... chunk object".
The field maps are in `fields`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Message, Refuse, Replace, Role
from guardproxy.wires.openai_chat.fields import CALLS, MESSAGE, REPLY_CHOICE, REPLY_MESSAGE, SETTINGS
from guardproxy.wires.openai_chat.stream import ChatStream, log_probabilities, refusal_message
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.base import Changed, message_list, plain_message, with_tool_results
from guardproxy.wires.shared.body import dumps, read_object, remove
from guardproxy.wires.shared.bounds import choices_of
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.instructions import add_to_messages, reads_system
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    object_with,
    opaque,
    outer_messages,
    outer_parts,
    read_fields,
    require_object,
    with_outer_parts,
)
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.reply_info import OPENAI, info_of
from guardproxy.wires.shared.streams import JSON

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/chat/completions|/openai/deployments/[^/]+/chat/completions")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_FORMS = ("guided_json", "guided_regex", "guided_choice", "structured_outputs")


def _message(message: Any, path: str, known: Known) -> Message:
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = message.get("role")
    if not isinstance(role, str):
        raise Unreadable("must be a string", f"{path}.role")
    if (plain := plain_message(message, path, _ROLES.get(role))) is not None:
        return plain
    builder = MessageBuilder(Unreadable, known)
    read_fields(builder, message, path, MESSAGE)
    # A role that the protocol does not have counts as the user's, which is always judged.
    return with_tool_results(builder.message(_ROLES.get(role, "user")))


class OpenAIChat(openai.OpenAIWire):
    """The wire of `/v1/chat/completions`."""

    name = "openai_chat"
    paths = _PATH
    calls = CALLS

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every message with its path; texts outside the message list come first."""
        messages = message_list(body, "messages")
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", SETTINGS)
        for message in outer_messages(builder):
            yield "", message
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            yield path, _message(message, path, known)

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for JSON or another fixed form."""
        wanted = body.get("response_format")
        kind = wanted.get("type", "text") if isinstance(wanted, dict) else "text"
        return kind != "text" or any(body.get(key) for key in _FORMS)

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the model reads the system message."""
        return reads_system(body)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction into the system message."""
        add_to_messages(body["messages"], instruction, ("system", "developer"))

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply. Raises UpstreamUnreadable."""
        parsed = read_object(body, UpstreamUnreadable)
        choices = choices_of(parsed)
        known = repeated_in_reply(request)
        read = [self._choice(choice, index, known) for index, choice in enumerate(choices)]
        return Reply(
            with_outer_parts(read, outer_parts(parsed, openai.ENVELOPE, known)),
            body,
            parsed,
            info=info_of(parsed, OPENAI),
        )

    def _choice(self, choice: Any, index: int, known: Known) -> Message:
        path = f"choices[{index}]"
        builder = MessageBuilder(UpstreamUnreadable, known)
        read_fields(builder, require_object(builder.error, choice, path), path, REPLY_CHOICE)
        message = choice.get("message") or {}
        object_with(REPLY_MESSAGE)(builder, message, f"{path}.message")
        opaque("a chunk of a stream")(builder, choice.get("delta"), f"{path}.delta")
        echoes: dict[str, LogprobEcho] = {}
        log_probabilities(echoes, builder, message, choice.get("logprobs"), f"{path}.logprobs")
        for echo in echoes.values():
            echo.close(builder)
        return builder.message("assistant")

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with the choices in `changed` replaced or refused, and the other choices as they are."""
        body = json.loads(reply.raw)
        choices = openai.choices_to_edit(
            body, openai.envelope(request, "chat.completion", "chatcmpl", request.received)
        )
        for index, outcome in changed.items():
            choice = choices[index]
            if isinstance(outcome, Refuse):
                new = _whole(choice, refusal_message(request, outcome), outcome.finish)
            elif outcome.whole or not reply.body.get("choices"):
                new = _replaced(choice, outcome)
            else:
                rewrite(body, outcome.edits, CALLS)
                new = {**choice, "logprobs": None}
                if isinstance(new.get("message"), dict):
                    new["message"].pop("annotations", None)
            choices[index] = new
            remove(body, openai.outer_paths(reply.choices[index]))
        return dumps(body | openai.reasons(request, changed))

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        number = openai.choice_count(request.body, "n")
        if request.stream:
            return openai.refuse_stream(ChatStream(request, request.received), refusal, number)
        message = refusal_message(request, refusal)
        choices = [_whole({"index": index}, message, refusal.finish) for index in range(number)]
        head = openai.envelope(request, "chat.completion", "chatcmpl", request.received)
        body = {**head, "choices": choices, "usage": openai.NO_USAGE, **reason(request, refusal)}
        return Answer(200, JSON, dumps(body))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return ChatStream(request, request.received)


def _whole(choice: Mapping[str, Any], message: Mapping[str, Any], finish: str) -> dict[str, Any]:
    """Return a choice with this message; of the old choice, only its number remains."""
    return {"index": choice.get("index", 0), "message": message, "logprobs": None, "finish_reason": finish}


def _replaced(choice: Mapping[str, Any], outcome: Replace) -> dict[str, Any]:
    """Return a choice with the texts of the edits and nothing else."""
    refusal = [edit.text for edit in outcome.edits if edit.path.endswith(".message.refusal")]
    content = [edit.text for edit in outcome.edits if not edit.path.endswith(".message.refusal")]
    message = {
        "role": "assistant",
        "content": "\n".join(content) if content else None,
        "refusal": "\n".join(refusal) if refusal else None,
    }
    finish = value_or(choice.get("finish_reason"), "stop")
    return _whole(choice, message, "stop" if finish in ("tool_calls", "function_call") else finish)


wire: Wire = OpenAIChat()
