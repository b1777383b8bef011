"""The shared base of OpenAI's protocols: common settings, the envelope of a reply, errors, the stream of choices.

Reference: OpenAI API reference, "Chat" and "Completions"; the extra fields belong to vLLM, SGLang, llama.cpp, LM
Studio, Mistral, Groq and OpenRouter.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from guardproxy.chunks import Chunk
from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.framing import Frame
from guardproxy.ports import Answer, Request
from guardproxy.sse import Sse
from guardproxy.types import Message, Refuse, Replace
from guardproxy.wires.shared.base import BaseWire, Changed, request_digest
from guardproxy.wires.shared.body import dumps, read_object
from guardproxy.wires.shared.bounds import choices_of
from guardproxy.wires.shared.identifiers import value_or
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
    machine_data,
    name,
    numbers,
    object_with,
    opaque,
    require_object,
)
from guardproxy.wires.shared.refusals import estimated_usage, reason, with_estimate
from guardproxy.wires.shared.reply_info import OPENAI, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import JSON, SSE, BaseStream

DONE = b"data: [DONE]\n\n"
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")

# Top-level fields of chat and completion requests without text for the model. Numbers and booleans need no entry.
SETTINGS: FieldMap = (
    keys("metadata models stop bad_words vllm_xargs provider user safety_identifier", labels)
    | keys(
        """
    model prompt_cache_key request_id cache_salt rid lora_path draft_model preset
    guided_regex guided_whitespace_pattern
    """,
        name,
    )
    | keys("stop_token_ids allowed_token_ids logit_bias", numbers)
    | keys("""
    stream stream_options store seed n best_of temperature top_p max_tokens
    max_completion_tokens frequency_penalty presence_penalty logprobs top_logprobs service_tier
    prompt_cache_retention prompt_cache_options moderation skip_special_tokens return_tokens_as_token_ids
    prompt_logprobs
    priority kv_transfer_params truncate_prompt_tokens include_stop_str_in_output
    session_params return_hidden_states samplers id_slot cache_prompt timings_per_token lora
    ttl route transforms usage include_reasoning
    guided_decoding_backend
    """)
)

# Schemas, grammars and lists that constrain the output: the model may read them.
SCHEMAS: FieldMap = keys(
    """
    guided_json guided_choice structured_outputs json_schema plugins structural_tag
    regex ebnf guided_regex guided_grammar grammar guided_whitespace_pattern
    """,
    json_text("tool_definition"),
)

# A reply or a chunk outside its choices.
ENVELOPE: FieldMap = {
    **keys("""
        object created usage service_tier moderation x_groq timings stats model_info runtime kv_transfer_params nvext
        prompt_filter_results
        """),
    "error": error_text,
    **keys("id model system_fingerprint provider", name),
    "obfuscation": machine_data,
    "choices": handled_in_code,
    "prompt_logprobs": opaque("log probabilities of the prompt"),
    "prompt_token_ids": opaque("token ids"),
    "token_ids": opaque("token ids"),
}

# A choice outside its message.
CHOICE: FieldMap = {
    **keys("index finish_reason native_finish_reason stop_reason matched_stop content_filter_results"),
    "error": error_text,
    **keys("content_filter_offsets routed_experts", numbers),
    "logprobs": handled_in_code,
    "token_ids": opaque("token ids"),
    "prompt_token_ids": opaque("token ids"),
    "prompt_logprobs": opaque("log probabilities of the prompt"),
    "hidden_states": opaque("hidden states"),
}

_STREAM_OPTIONS: FieldMap = keys("include_usage include_obfuscation continuous_usage_stats")


def function(builder: MessageBuilder, value: Any, path: str, key: str = "arguments") -> None:
    """Judge a function with its arguments, or a custom tool with its input, as one text."""
    object_with({"name": handled_in_code, key: handled_in_code})(builder, value, path)
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


_CALL: FieldMap = {
    "id": identifier,
    **keys("index type"),
    "extra_content": object_with({"google": object_with({"thought_signature": machine_data})}),
    "function": function,
    "custom": _custom,
}

tool_calls: FieldRule = list_of(object_with(_CALL))


def by_index(rule: FieldRule) -> FieldRule:
    """Apply a rule to every item of a list in a delta; the `index` of an item names the item that it continues."""

    def rule_of_list(builder: MessageBuilder, value: Any, path: str) -> None:
        if value is not None and not isinstance(value, list):
            raise builder.error("must be a list", path)
        for place, item in enumerate(value or ()):
            index = require_object(builder.error, item, f"{path}[{place}]").get("index", place)
            if type(index) is not int or not 0 <= index < 1024:
                raise builder.error("must be a small whole number", f"{path}[{place}].index")
            rule(builder, item, f"{path}[{index}]")

    return rule_of_list


call_deltas = by_index(object_with(_CALL))


def whole_items(builder: MessageBuilder, value: Any, path: str) -> None:
    """Judge the items of a list in a delta as JSON texts. Clients join the strings of two items with the same `index`.

    Raises the builder's error for such an item: its strings would be judged apart.
    """
    if not isinstance(value, list):
        json_text("text")(builder, value, path)
        return
    for place, item in enumerate(value):
        index = item.get("index") if isinstance(item, dict) else None
        where = f"{path}[{index if type(index) is int and index >= 0 else place}]"
        if index is not None and builder.text(where):
            raise builder.error("continues an item that is judged as a whole", where)
        json_text("text")(builder, item, where)


def wants_usage(request: Request) -> bool:
    """Return whether the request asks for the usage at the end of the stream."""
    options = request.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def choice_count(body: Mapping[str, Any], key: str) -> int:
    """Return how many choices the request asks for, 1 to 128."""
    return min(number, 128) if type(number := body.get(key)) is int and number > 0 else 1


def envelope(request: Request, kind: str, prefix: str, now: float) -> dict[str, Any]:
    """Return the head of a reply that the proxy writes at `now` (seconds since 1970)."""
    name = f"{prefix}-{request_digest(request)}"
    return {"id": name, "object": kind, "created": int(now), "model": request.model}


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
NO_USAGE = dict.fromkeys(_COUNTS, 0)


class OpenAIWire(BaseWire):
    """The base of the wires of OpenAI's own protocols."""

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """Return the deployment that Azure's path names, or else the model of the body. Raises Unreadable."""
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise Unreadable("must be a string", "model")
        deployment = _DEPLOYMENT.match(path)
        return deployment[1] if deployment else model or ""

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream. Raises Unreadable, also for malformed `stream_options`."""
        if (options := body.get("stream_options")) is not None:
            object_with(_STREAM_OPTIONS)(MessageBuilder(Unreadable), options, "stream_options")
        return super().wants_stream(path, body)

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return OpenAI's error body."""
        kind = "requests" if status == 429 else "invalid_request_error" if 400 <= status < 500 else "server_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code, **(reason or {})}}
        return Answer(status, JSON, dumps(body))


def choices_to_edit(body: dict[str, Any], head: Mapping[str, Any]) -> list[Any]:
    """Return the list of choices in `body`, for editing. A body without choices gets an empty one and this head."""
    if not body.get("choices"):
        body.pop("error", None)
        body.update({**head, **body, "choices": [{"index": 0}]})
    choices: list[Any] = body["choices"]
    return choices


def reasons(request: Request, changed: Changed) -> dict[str, Any]:
    """Return the reason of a whole reply with refused choices, for programs; nothing if none is refused."""
    refusals = [outcome for outcome in changed.values() if isinstance(outcome, Refuse)]
    if not refusals:
        return {}
    named = [name for refusal in refusals for name in refusal.named or ()]
    told = tuple(dict.fromkeys(named)) if refusals[0].named is not None else None
    return reason(request, replace(refusals[0], named=told))


def outer_paths(choice: Message) -> list[str]:
    """Return the paths of the outer parts that were counted to this choice."""
    return [part.path for part in choice.parts if not part.path.startswith("choices[")]


class ChoicesStream(BaseStream):
    """A stream of chunks with `choices`, terminated by `[DONE]`."""

    def __init__(self, request: Request, head: Mapping[str, Any]) -> None:
        super().__init__(
            request, Sse(events=("error",), padded=True)
        )  # no other event has a name, and this one on some servers
        self.head = dict(head)
        self.usage: Any = None  # the latest that the upstream has named
        self._usage_sent = False
        self._opened: set[int] = set()  # choices that the client has seen
        self._noted: Event | None = None  # the latest frame, whose envelope `info` and `head` repeat

    @abstractmethod
    def read_choice(self, state: ChoiceState, choice: Mapping[str, Any], path: str) -> bool:
        """Read a choice of a chunk; return whether the chunk must wait for the verdict on the whole choice."""

    @abstractmethod
    def refusal(self, state: ChoiceState, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """Return the `choices` entries that end choice `index` with a refusal."""

    @abstractmethod
    def edited_rest(self, state: ChoiceState, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """Return the `choices` entries with the unreleased rest of the edited texts and a normal end."""

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Return the `choices` entries that must come first, for clients that accept new choices in order only."""
        return []

    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return a chunk as a server-sent event."""
        return b"data: " + dumps(body) + b"\n\n"

    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of a frame. Raises UpstreamUnreadable."""
        data = frame.data or b""
        self.refuse_if_terminated()
        if data.strip() == b"[DONE]":
            self.terminated = True
            return Chunk(frame.raw, self.final_marks(), Event(kind="done", complete=frame.complete))
        body = read_object(data, UpstreamUnreadable)
        self._noted = event = Event(complete=frame.complete)
        self.info = info_of(body, OPENAI, self.info)
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
            state.finish, state.final = value_or(reason, "stop"), True
        return whole

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a frame that repeats another one.

        It has the text of the other frame: the body of a frame with one choice is read for its envelope only.
        """
        if self._noted is not event:
            self._noted, self.info = event, info_of(event.body, OPENAI, self.info)
            self._remember(event.body)
        return event.body

    def again_in_run(self, event: Event, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Do what `again` does for frames in a row: one body is that of all."""
        return super().again_in_run(event, rows[:1]) * len(rows)

    def _remember(self, body: Mapping[str, Any]) -> None:
        for key in ("id", "object", "created", "model", "system_fingerprint"):
            if body.get(key):
                self.head[key] = body[key]
        if body.get("usage"):
            self.usage = body["usage"]

    def release(self, chunk: Chunk) -> bytes:
        """Return the chunk's bytes for the client, without the choices that the proxy has ended."""
        event: Event = chunk.data
        if self.closed and self.is_behind_end(event):
            return b""
        if event.kind == "done":
            if any(state.ended for state in self._states.values()):
                return self.close()  # an upstream that has named no usage
            self.closed = True
        open_choices = self.open_choices(event)
        self.note_released(event)
        self._opened.update(open_choices)
        if len(open_choices) == len(event.marks):
            self._usage_sent = self._usage_sent or bool(event.body.get("usage"))
            return chunk.raw
        kept = [choice for choice in event.body.get("choices", ()) if choice.get("index", 0) in open_choices]
        return self.pack_all([{**event.body, "choices": kept}]) if kept else b""

    def end(self, choice: int, outcome: Replace | Refuse) -> bytes:
        """Return frames that end `choice` in place of its unreleased frames."""
        state = self.state_of(choice)
        if state.ended or self.closed:
            return b""
        self.end_choice(choice, outcome)
        if isinstance(outcome, Refuse):
            last = self.refusal(state, choice, outcome)
        else:
            last = self.edited_rest(state, choice, outcome)
        entries = [*self.opening(choice), *last]
        self._opened.update(range(choice + 1))
        bodies = [{**self.head, "choices": [entry]} for entry in entries]
        if isinstance(outcome, Refuse):
            bodies[-1] |= reason(self.request, outcome)
        return self.pack_all(bodies)

    def unopened(self, index: int) -> list[int]:
        """Return the choices below `index` that the client has not seen yet."""
        return [lower for lower in range(index) if lower not in self._opened]

    def close(self) -> bytes:
        """Return `[DONE]`, behind the usage if it was asked for; the rest of one that was cut off."""
        if self.closed:
            return self.rest_of_cut()
        self.closed = True
        if wants_usage(self.request) and not self._usage_sent:
            usage = self.usage or with_estimate(NO_USAGE, estimated_usage(self, self.request), _COUNTS)
            return self.pack_all([{**self.head, "choices": [], "usage": usage}]) + DONE
        return self.rest_of_cut() + DONE


def refuse_stream(stream: ChoicesStream, refusal: Refuse, number: int) -> Answer:
    """Return a streamed answer with `number` choices, all of them the refusal."""
    stream.usage = NO_USAGE
    return Answer(200, SSE, b"".join(stream.end(index, refusal) for index in range(number)) + stream.close())
