"""OpenAI chat completions, and the servers that speak it (vLLM, SGLang, llama.cpp, LM Studio, Mistral, OpenRouter).

Reference: OpenAI API reference, "Chat": "Create chat completion", "The chat completion object", "... chunk object".
The field maps below say of every field whether it is judged, carries no text, or is opaque.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Conversation, Edit, Message, Outcome, Pass, Refuse, Replace, Role
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import at, dumps, read_object, remove, steps
from guardproxy.wires.shared.edits import dropped, rewrite
from guardproxy.wires.shared.parts import (
    Draft,
    Fields,
    Rule,
    an_object,
    beside_turns,
    data,
    each,
    elsewhere,
    fields,
    identifier,
    json_text,
    named,
    opaque,
    passed,
    string_or,
    text,
    typed,
    walk,
)
from guardproxy.wires.shared.repeats import Repeat, token_list
from guardproxy.wires.shared.streams import JSON, Track, new_texts

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/chat/completions|/openai/deployments/[^/]+/chat/completions")

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# --- field maps ----------------------------------------------------------------------------------------------------


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
REPLY_CHOICE: Fields = {**openai.CHOICE, **named("message delta", elsewhere)}


def _template_arguments(draft: Draft, value: Any, path: str) -> None:
    """Switches of the chat template; a text among them is written into the prompt."""
    for key, item in (value if isinstance(value, dict) else {"": value}).items():
        if not isinstance(item, bool | int | float | None):
            json_text("text")(draft, item, at(path, key))


_TOOLS: Rule = each(json_text("tool_definition"))

# The fields of a delta that may leave as soon as their text is judged.
_PLAIN = ("content", "refusal", "reasoning", "reasoning_content")
_CALLS = re.compile(r"function_call\.arguments$|tool_calls\[\d+\]\.(?:function\.arguments|custom\.input)$")

# Of the request, beside its messages.
SETTINGS: Fields = {
    **openai.SETTINGS,
    **openai.SCHEMAS,
    **named("""
        tool_choice function_call parallel_tool_calls modalities audio reasoning_effort verbosity reasoning
        safe_prompt prompt_mode random_seed mm_processor_kwargs add_generation_prompt continue_final_message
        chat_template_content_format thinking thinking_budget reasoning_format separate_reasoning stream_reasoning
        """),
    "messages": elsewhere,
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

# --- reading -------------------------------------------------------------------------------------------------------


def _turns(body: Mapping[str, Any]) -> Iterator[tuple[str, Message]]:
    """Every message of the conversation with its place in the body; what is beside the messages comes first."""
    draft = Draft(Unreadable)
    walk(draft, body, "", SETTINGS)
    for message in beside_turns(draft):
        yield "", message
    for index, message in enumerate(body["messages"]):
        yield f"messages[{index}]", _message(message, f"messages[{index}]")


def _message(message: Any, path: str) -> Message:
    if not isinstance(message, dict):
        raise Unreadable("must be an object", path)
    role = message.get("role")
    if not isinstance(role, str):
        raise Unreadable("must be a string", f"{path}.role")
    draft = Draft(Unreadable)
    walk(draft, message, path, MESSAGE)
    # A role of a server's own is judged as the user's.
    read = draft.message(_ROLES.get(role, "user"))
    if read.role != "tool":
        return read
    results = (replace(part, kind="tool_result") if part.kind == "text" else part for part in read.parts)
    return Message("tool", tuple(results))


def _log_probabilities(state: dict[str, Any], draft: Draft, said: Mapping[str, Any], value: Any, path: str) -> bool:
    """Compare the tokens of `logprobs` with the text they repeat; whether they say more than it, so far."""
    ahead = False
    if value is not None:
        fields({"content": elsewhere, "refusal": elsewhere})(draft, value, path)
    for key in ("content", "refusal"):
        text_said = said.get(key)
        if value is None and not text_said:
            continue
        repeat: Repeat = state.setdefault(key, Repeat())
        tokens = token_list(draft, value and value.get(key), f"{path}.{key}")
        repeat.add(text_said if isinstance(text_said, str) else "", tokens)
        ahead = ahead or repeat.ahead
    return ahead


def _structured(body: Mapping[str, Any]) -> bool:
    wanted = body.get("response_format")
    kind = wanted.get("type", "text") if isinstance(wanted, dict) else "text"
    return kind != "text" or any(
        body.get(key) for key in ("guided_json", "guided_regex", "guided_choice", "structured_outputs")
    )


# --- writing -------------------------------------------------------------------------------------------------------


def _refusal(request: Request, refusal: Refuse) -> dict[str, Any]:
    """The message of a refusal. Where the request wants JSON its text is in `refusal`: parsers choke on prose."""
    if request.structured:
        return {"role": "assistant", "content": None, "refusal": refusal.message}
    return {"role": "assistant", "content": refusal.message, "refusal": None}


class ChatStream(openai.ChoicesStream):
    """A streamed chat completion."""

    def __init__(self, request: Request) -> None:
        super().__init__(request, openai.envelope(request, "chat.completion.chunk", "chatcmpl"))

    def read_choice(self, track: Track, choice: Mapping[str, Any], path: str) -> bool:
        """Read the delta of a choice; whether the chunk must wait for the whole choice."""
        draft = track.draft
        walk(draft, choice, path, REPLY_CHOICE)
        delta = choice.get("delta") or {}
        fields(REPLY_MESSAGE)(draft, delta, f"{path}.message")
        opaque("a whole message in a stream")(draft, choice.get("message"), f"{path}.message")
        for place, call in enumerate(delta.get("tool_calls") or ()):
            if call.get("id"):
                track.extra[f"id {call.get('index', place)}"] = call["id"]
        state = track.extra.setdefault("logprobs", {})
        ahead = _log_probabilities(state, draft, delta, choice.get("logprobs"), f"{path}.logprobs")
        plain = {f"{path}.message.{key}" for key in _PLAIN}
        return ahead or any(place not in plain for place, _ in draft.added)

    def close_track(self, choice: int, track: Track) -> None:
        """Log probabilities of tokens that the text does not have are opaque."""
        if any(repeat.ahead for repeat in track.extra.get("logprobs", {}).values()):
            track.draft.opaque(f"choices[{choice}].logprobs", "log probabilities of another text")

    def opening(self, index: int) -> list[dict[str, Any]]:
        """OpenAI's helper takes new choices in order only."""
        return [_delta(lower, {}) for lower in self.unopened(index)]

    def refusal(self, track: Track, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """The refusal where nothing was said yet, and the end."""
        end = _delta(index, {}, outcome.finish)
        if not track.silent:
            return [end]
        message = _refusal(self.request, outcome)
        said = {key: message[key] for key in ("content", "refusal") if message[key] is not None}
        return [*self._role(track, index), _delta(index, said), end]

    def rest(self, track: Track, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """What the edited texts have beyond what was released, the tool calls, and a normal end."""
        out = self._role(track, index)
        called = False
        for part, new in new_texts(track.draft.message("assistant"), outcome):
            way = steps(part.path)[3:]
            if part.kind == "tool_call":
                if new == part.text:
                    called = True
                    out.append(_delta(index, _call_delta(track, way, new)))
            elif way[0] in (*_PLAIN, "reasoning_details") and (left := track.remainder(part, new)):
                key = "reasoning" if way[0] == "reasoning_details" else str(way[0])
                out.append(_delta(index, {key: left}))
        finish = track.finish or "stop"
        if finish in ("tool_calls", "function_call") and not called:
            finish = "stop"
        return [*out, _delta(index, {}, finish)]

    def _role(self, track: Track, index: int) -> list[dict[str, Any]]:
        return [] if track.started else [_delta(index, {"role": "assistant", "content": ""})]


def _delta(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}


def _call_delta(track: Track, way: Sequence[str | int], said: str) -> dict[str, Any]:
    """A whole tool call as one delta."""
    name, _, arguments = said.partition("\n")
    kind, key = str(way[-2]), str(way[-1])
    called = {"name": name, key: arguments}
    if way[0] == "function_call":
        return {"function_call": called}
    head = {"index": way[1], "id": track.extra.get(f"id {way[1]}", f"call_{way[1]}"), "type": kind}
    return {"tool_calls": [{**head, kind: called}]}


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
        rewrite(body, edits, _CALLS)
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
        draft = Draft(UpstreamUnreadable)
        walk(draft, an_object(draft.error, choice, path), path, REPLY_CHOICE)
        message = choice.get("message") or {}
        fields(REPLY_MESSAGE)(draft, message, f"{path}.message")
        opaque("a piece of a stream")(draft, choice.get("delta"), f"{path}.delta")
        if _log_probabilities({}, draft, message, choice.get("logprobs"), f"{path}.logprobs"):
            draft.opaque(f"{path}.logprobs", "log probabilities of another text")
        return draft.message("assistant")

    def edit_reply(self, request: Request, reply: Reply, outcomes: Mapping[int, Outcome]) -> bytes:
        """The reply with each choice replaced or refused as its outcome says; choices that pass stay as they are."""
        if all(isinstance(outcome, Pass) for outcome in outcomes.values()):
            return reply.raw
        body = json.loads(reply.raw)
        choices = openai.opened(body, openai.envelope(request, "chat.completion", "chatcmpl"))
        for index, outcome in outcomes.items():
            if isinstance(outcome, Pass):
                continue
            choice = choices[index]
            if isinstance(outcome, Refuse):
                new = _whole(choice, _refusal(request, outcome), outcome.finish)
            elif outcome.whole:
                new = _replaced(choice, outcome)
            else:
                rewrite(body, outcome.edits, _CALLS)
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
            return openai.refuse_stream(ChatStream(request), refusal, number)
        message = _refusal(request, refusal)
        choices = [_whole({"index": index}, message, refusal.finish) for index in range(number)]
        head = openai.envelope(request, "chat.completion", "chatcmpl")
        return Answer(200, JSON, dumps({**head, "choices": choices, "usage": openai.NO_USAGE}))

    def error(self, status: int, code: str, message: str) -> Answer:
        """The protocol's own error body."""
        return openai.error_answer(status, code, message)

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the reply to `request`."""
        return ChatStream(request)


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
