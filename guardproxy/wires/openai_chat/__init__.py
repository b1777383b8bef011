"""OpenAI chat completions, and the servers that speak it (vLLM, SGLang, llama.cpp, LM Studio, Mistral, OpenRouter).

Reference: OpenAI API reference, "Chat": "Create chat completion", "The chat completion object", "... chunk object".
The field maps are in `fields`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Conversation, Edit, Message, Outcome, Pass, Refuse, Replace, Role
from guardproxy.wires.openai_chat.fields import CALLS, MESSAGE, REPLY_CHOICE, REPLY_MESSAGE, SETTINGS
from guardproxy.wires.openai_chat.stream import ChatStream, log_probabilities, refusal_message
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import dumps, read_object, remove
from guardproxy.wires.shared.edits import dropped, rewrite
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import an_object, beside_turns, fields, opaque, walk
from guardproxy.wires.shared.streams import JSON

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/chat/completions|/openai/deployments/[^/]+/chat/completions")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def _turns(body: Mapping[str, Any]) -> Iterator[tuple[str, Message]]:
    """Every message of the conversation with its place in the body; what is beside the messages comes first."""
    builder = MessageBuilder(Unreadable)
    walk(builder, body, "", SETTINGS)
    for message in beside_turns(builder):
        yield "", message
    for index, message in enumerate(body["messages"]):
        yield f"messages[{index}]", _message(message, f"messages[{index}]")


def _message(message: Any, path: str) -> Message:
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = message.get("role")
    if not isinstance(role, str):
        raise Unreadable("must be a string", f"{path}.role")
    builder = MessageBuilder(Unreadable)
    walk(builder, message, path, MESSAGE)
    # A role of a server's own is judged as the user's.
    read = builder.message(_ROLES.get(role, "user"))
    if read.role != "tool":
        return read
    results = (replace(part, kind="tool_result") if part.kind == "text" else part for part in read.parts)
    return Message("tool", tuple(results))


def _structured(body: Mapping[str, Any]) -> bool:
    wanted = body.get("response_format")
    kind = wanted.get("type", "text") if isinstance(wanted, dict) else "text"
    return kind != "text" or any(
        body.get(key) for key in ("guided_json", "guided_regex", "guided_choice", "structured_outputs")
    )


class OpenAIChat:
    """The wire of `/v1/chat/completions`."""

    name = "openai_chat"
    keepalive = b": keep-alive\n\n"
    lines = False

    def claims(self, method: str, path: str) -> bool:
        """Whether this wire reads requests to `path`."""
        return method == "POST" and _PATH.fullmatch(path.partition("?")[0]) is not None

    def parse_request(self, path: str, body: bytes) -> Request:
        """Raises Unreadable with the JSON path of what is wrong."""
        parsed = read_object(body)
        messages = parsed.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Unreadable("must be a list of at least one message", "messages")
        return Request(
            wire=self.name,
            path=path,
            model=openai.model_of(path, parsed),
            stream=openai.wants_stream(parsed),
            conversation=Conversation(tuple(message for _, message in _turns(parsed))),
            raw=body,
            body=parsed,
            structured=_structured(parsed),
        )

    def edit_request(self, request: Request, edits: Sequence[Edit], drop: Sequence[int]) -> bytes:
        """The body with new texts at the edits' paths and without the messages `drop` (conversation indices)."""
        body = json.loads(request.raw)
        rewrite(body, edits, CALLS)
        turns = list(_turns(request.body))
        remove(body, (path for index in drop for path in dropped(*turns[index])))
        return dumps(body)

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Raises UpstreamUnreadable."""
        parsed = read_object(body, UpstreamUnreadable)
        choices = openai.choices_of(parsed)
        beside = openai.beside(parsed)
        read = [self._choice(choice, index) for index, choice in enumerate(choices)]
        return Reply(openai.with_beside(read, beside), body, parsed)

    def _choice(self, choice: Any, index: int) -> Message:
        path = f"choices[{index}]"
        builder = MessageBuilder(UpstreamUnreadable)
        walk(builder, an_object(builder.error, choice, path), path, REPLY_CHOICE)
        message = choice.get("message") or {}
        fields(REPLY_MESSAGE)(builder, message, f"{path}.message")
        opaque("a piece of a stream")(builder, choice.get("delta"), f"{path}.delta")
        if log_probabilities({}, builder, message, choice.get("logprobs"), f"{path}.logprobs"):
            builder.opaque(f"{path}.logprobs", "log probabilities of another text")
        return builder.message("assistant")

    def edit_reply(self, request: Request, reply: Reply, outcomes: Mapping[int, Outcome]) -> bytes:
        """The reply with each choice replaced or refused as its outcome says; choices that pass stay as they are."""
        if all(isinstance(outcome, Pass) for outcome in outcomes.values()):
            return reply.raw
        body = json.loads(reply.raw)
        choices = openai.opened(body, openai.envelope(request, "chat.completion", "chatcmpl", request.received))
        for index, outcome in outcomes.items():
            if isinstance(outcome, Pass):
                continue
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
            remove(body, openai.beside_paths(reply.choices[index]))
        return dumps(body)

    def refuse(self, request: Request, refusal: Refuse) -> Answer:
        """A complete valid answer that carries the refusal, streamed if the request asked for a stream."""
        if refusal.shape == "error":
            return self.error(400, "content_filter", refusal.message)
        number = openai.count(request.body, "n")
        if request.stream:
            return openai.refuse_stream(ChatStream(request, request.received), refusal, number)
        message = refusal_message(request, refusal)
        choices = [_whole({"index": index}, message, refusal.finish) for index in range(number)]
        head = openai.envelope(request, "chat.completion", "chatcmpl", request.received)
        return Answer(200, JSON, dumps({**head, "choices": choices, "usage": openai.NO_USAGE}))

    def error(self, status: int, code: str, message: str) -> Answer:
        """The protocol's own error body."""
        return openai.error_answer(status, code, message)

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the reply to `request`."""
        return ChatStream(request, request.received)


def _whole(choice: Mapping[str, Any], message: Mapping[str, Any], finish: str) -> dict[str, Any]:
    """A choice with nothing of the old one but its number."""
    return {"index": choice.get("index", 0), "message": message, "logprobs": None, "finish_reason": finish}


def _replaced(choice: Mapping[str, Any], outcome: Replace) -> dict[str, Any]:
    """A choice that says what the edits say, and nothing else."""
    refusal = [edit.text for edit in outcome.edits if edit.path.endswith(".message.refusal")]
    content = [edit.text for edit in outcome.edits if not edit.path.endswith(".message.refusal")]
    message = {
        "role": "assistant",
        "content": "\n".join(content) if content else None,
        "refusal": "\n".join(refusal) if refusal else None,
    }
    finish = choice.get("finish_reason")
    return _whole(choice, message, "stop" if finish in (None, "tool_calls", "function_call") else finish)


wire: Wire = OpenAIChat()
