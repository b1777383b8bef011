"""What chat completions and completions share: settings, the envelope of a reply, errors, the stream of choices.

Reference: OpenAI API reference, "Chat" and "Completions"; the extra fields are those of vLLM, SGLang, llama.cpp, LM
Studio, Mistral, Groq and OpenRouter.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Chunk, Request
from guardproxy.sse import Frame, Sse
from guardproxy.types import Message, Refuse, Replace
from guardproxy.wires.shared.base import BaseWire, request_digest, stream_flag
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    Fields,
    Rule,
    an_object,
    each,
    error_text,
    fields,
    handled_in_code,
    identifier,
    json_text,
    named,
    opaque,
    passed,
    passed_but,
    user_label,
)
from guardproxy.wires.shared.streams import JSON, SSE, BaseStream, ChoiceState, Event

DONE = b"data: [DONE]\n\n"

_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")

# Top-level fields of both requests that carry no text the model reads. Numbers and booleans need no entry.
SETTINGS: Fields = named("metadata stop bad_words vllm_xargs provider", user_label) | named("""
    model stream stream_options user store seed n best_of temperature top_p max_tokens
    max_completion_tokens frequency_penalty presence_penalty logit_bias logprobs top_logprobs service_tier
    safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options moderation
    stop_token_ids allowed_token_ids skip_special_tokens return_tokens_as_token_ids prompt_logprobs
    request_id cache_salt priority kv_transfer_params truncate_prompt_tokens include_stop_str_in_output
    lora_path session_params rid return_hidden_states samplers id_slot cache_prompt timings_per_token lora
    ttl draft_model preset models route transforms usage include_reasoning
    guided_decoding_backend guided_whitespace_pattern regex ebnf guided_regex guided_grammar grammar
    """)

# Schemas and lists that steer the output: the model may read them.
SCHEMAS: Fields = named(
    "guided_json guided_choice structured_outputs json_schema plugins structural_tag", json_text("tool_definition")
)

# What an upstream says of a failure, where servers quote what they could not parse of the model's answer; and what
# Azure's filters say of what they matched.
ERROR: Rule = error_text("message raw param provider_name failed_generation")
FILTERED: Rule = passed_but("message URL license")

# What a reply says beside its choices.
ENVELOPE: Fields = {
    **named("""
        id object created model usage system_fingerprint service_tier provider moderation x_groq timings stats
        model_info runtime kv_transfer_params obfuscation nvext
        """),
    "choices": handled_in_code,
    "error": ERROR,
    "prompt_filter_results": FILTERED,
    "prompt_logprobs": opaque("log probabilities of the prompt"),
    "prompt_token_ids": opaque("token ids"),
    "token_ids": opaque("token ids"),
}

# What a choice says beside its message.
CHOICE: Fields = {
    **named("index finish_reason native_finish_reason stop_reason matched_stop content_filter_offsets"),
    "logprobs": handled_in_code,
    "content_filter_results": FILTERED,
    "error": ERROR,
    "token_ids": opaque("token ids"),
    "prompt_token_ids": opaque("token ids"),
    "prompt_logprobs": opaque("log probabilities of the prompt"),
    "routed_experts": passed,
    "hidden_states": opaque("hidden states"),
}

_STREAM_OPTIONS: Fields = named("include_usage include_obfuscation continuous_usage_stats")


def function(builder: MessageBuilder, value: Any, path: str, key: str = "arguments") -> None:
    """A function with its arguments (or a custom tool with its input), as one text."""
    fields({"name": handled_in_code, key: handled_in_code})(builder, value, path)
    if value is None:
        return
    name, arguments = value.get("name"), value.get(key)
    if name is not None and not isinstance(name, str):
        raise builder.error("must be a string", f"{path}.name")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    builder.call(f"{path}.{key}", name or "", arguments or "")


def _custom(builder: MessageBuilder, value: Any, path: str) -> None:
    function(builder, value, path, "input")


_CALL: Fields = {
    "id": identifier,
    **named("index type"),
    "extra_content": fields({"google": fields({"thought_signature": passed})}),
    "function": function,
    "custom": _custom,
}


calls: Rule = each(fields(_CALL))


def call_deltas(builder: MessageBuilder, value: Any, path: str) -> None:
    """Tool calls in a stream; each says by its index which call it continues."""
    if value is not None and not isinstance(value, list):
        raise builder.error("must be a list", path)
    for place, call in enumerate(value or ()):
        index = an_object(builder.error, call, f"{path}[{place}]").get("index", place)
        if type(index) is not int or not 0 <= index < 1024:
            raise builder.error("must be a small whole number", f"{path}[{place}].index")
        fields(_CALL)(builder, call, f"{path}[{index}]")


def model_of(path: str, body: Mapping[str, Any]) -> str:
    """The model a request names; Azure's path names a deployment instead, whatever the body says."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise Unreadable("must be a string", "model")
    deployment = _DEPLOYMENT.match(path)
    return deployment[1] if deployment else model or ""


def wants_stream(body: Mapping[str, Any]) -> bool:
    """Whether the request asks for a stream. Raises Unreadable where `stream` is neither true nor false."""
    stream = stream_flag(body)
    fields(_STREAM_OPTIONS)(MessageBuilder(Unreadable), body.get("stream_options"), "stream_options")
    return stream is True


def wants_usage(request: Request) -> bool:
    """Whether a stream is to end with the usage."""
    options = request.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def count(body: Mapping[str, Any], key: str) -> int:
    """How many choices the request asks for (1 to 128)."""
    number = body.get(key)
    return min(number, 128) if type(number) is int and number > 0 else 1


def envelope(request: Request, kind: str, prefix: str, now: float) -> dict[str, Any]:
    """The head of a reply that no upstream has given at `now` (seconds since 1970): its id is the request's digest."""
    name = f"{prefix}-{request_digest(request)}"
    return {"id": name, "object": kind, "created": int(now), "model": request.model}


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def error_answer(status: int, code: str, message: str) -> Answer:
    """OpenAI's error body."""
    kind = "invalid_request_error" if 400 <= status < 500 and status != 429 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(status, JSON, dumps(body))


class OpenAIWire(BaseWire):
    """What the wires of OpenAI's own protocols have in common."""

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """Return the model, or the deployment that Azure's path names."""
        return model_of(path, body)

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream. Raises Unreadable, also for wrong `stream_options`."""
        return wants_stream(body)

    def error(self, status: int, code: str, message: str) -> Answer:
        """Return OpenAI's error body."""
        return error_answer(status, code, message)


def choices_of(body: Mapping[str, Any]) -> list[Any]:
    """The choices of a reply; none for an error body. Raises UpstreamUnreadable."""
    choices = body.get("choices")
    if choices is None and isinstance(body.get("error"), dict | str):
        return []
    if not isinstance(choices, list):
        raise UpstreamUnreadable("must be a list", "choices")
    return choices


def opened(body: dict[str, Any], head: Mapping[str, Any]) -> list[Any]:
    """The choices of a reply that is to be edited; where it has none, an empty one, in a reply with this head."""
    if not body.get("choices"):
        body.pop("error", None)
        body.update({**head, **body, "choices": [{"index": 0}]})
    found: list[Any] = body["choices"]
    return found


def beside_paths(choice: Message) -> list[str]:
    """The places of a choice's parts that lie outside it."""
    return [part.path for part in choice.parts if not part.path.startswith("choices[")]


class ChoicesStream(BaseStream):
    """A stream of chunks with `choices`, ended by `[DONE]`."""

    def __init__(self, request: Request, head: Mapping[str, Any]) -> None:
        super().__init__(request, Sse())
        self.head = dict(head)
        self._usage: Any = None
        self._usage_sent = False
        self._opened: set[int] = set()

    @abstractmethod
    def read_choice(self, state: ChoiceState, choice: Mapping[str, Any], path: str) -> bool:
        """Read one choice of a chunk; whether the chunk must wait for the whole choice."""

    @abstractmethod
    def refusal(self, state: ChoiceState, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """The choices that end `index` with a refusal."""

    @abstractmethod
    def rest(self, state: ChoiceState, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """The choices that bring `index` to its edited texts and end it normally."""

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choices that must precede `index`, for clients that take choices in order only."""
        return []

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """A chunk as a server-sent event."""
        return b"data: " + dumps(body) + b"\n\n"

    def read(self, frame: Frame) -> Chunk:
        """The chunk of a frame. Raises UpstreamUnreadable."""
        data = frame.data or b""
        self.refuse_if_terminated()
        if data.strip() == b"[DONE]":
            self.terminated = True
            return Chunk(frame.raw, self.final_marks(), Event(kind="done", complete=frame.complete))
        body = read_object(data, UpstreamUnreadable)
        event = Event(complete=frame.complete)
        choices = choices_of(body) if "choices" in body or "error" in body else []
        for place, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise UpstreamUnreadable("must be an object", f"choices[{place}]")
            index = choice.get("index", 0)
            if type(index) is not int or index < 0:
                raise UpstreamUnreadable("must be a whole number", f"choices[{place}].index")
            self.advance(index, event, partial(self._read_choice, choice, f"choices[{index}]"))
        self.read_outer(body, ENVELOPE, event)
        self._remember(event.body)
        return Chunk(frame.raw, tuple(event.marks.values()), event)

    def _read_choice(self, choice: Mapping[str, Any], path: str, state: ChoiceState) -> bool:
        whole = self.read_choice(state, choice, path)
        reason = choice.get("finish_reason")
        if reason is not None and not isinstance(reason, str):
            raise UpstreamUnreadable("must be a string", f"{path}.finish_reason")
        if reason:
            state.finish, state.final = reason, True
        return whole

    def _remember(self, body: Mapping[str, Any]) -> None:
        for key in ("id", "object", "created", "model", "system_fingerprint"):
            if body.get(key):
                self.head[key] = body[key]
        if body.get("usage"):
            self._usage = body["usage"]

    def release(self, chunk: Chunk) -> bytes:
        """The chunk's bytes for the client, less what belongs to choices that were ended by the proxy."""
        event: Event = chunk.data
        if self.is_behind_end(event):
            return b""
        if event.kind == "done":
            self.closed = True
        live = self.open_choices(event)
        self.note_released(event)
        self._opened.update(live)
        if len(live) == len(event.marks):
            self._usage_sent = self._usage_sent or bool(event.body.get("usage"))
            return chunk.raw
        kept = [choice for choice in event.body.get("choices", ()) if choice.get("index", 0) in live]
        return self.pack_all([{**event.body, "choices": kept}]) if kept else b""

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Frames that end `choice` in place of everything of it not yet released."""
        state = self.state_of(choice)
        if state.ended or self.closed:
            return b""
        state.ended = True
        say = self.refusal if isinstance(outcome, Refuse) else self.rest
        choices = [*self.opening(choice), *say(state, choice, outcome)]  # type: ignore[arg-type]
        self._opened.update(range(choice + 1))
        return self.pack_all([{**self.head, "choices": [item]} for item in choices])

    def unopened(self, index: int) -> list[int]:
        """The lower choices of which the client has seen nothing yet."""
        return [lower for lower in range(index) if lower not in self._opened]

    def close(self) -> bytes:
        """The usage, where it was asked for and is known, and `[DONE]`."""
        if self.closed:
            return b""
        self.closed = True
        if wants_usage(self.request) and self._usage is not None and not self._usage_sent:
            return self.pack_all([{**self.head, "choices": [], "usage": self._usage}]) + DONE
        return (b"\n\n" if self._cut else b"") + DONE


def refuse_stream(stream: ChoicesStream, refusal: Refuse, number: int) -> Answer:
    """A streamed answer of `number` choices that are all the refusal."""
    body = b"".join(stream.end(index, refusal) for index in range(number))
    if wants_usage(stream.request):
        body += stream.pack_all([{**stream.head, "choices": [], "usage": NO_USAGE}])
    return Answer(200, SSE, body + stream.close())
