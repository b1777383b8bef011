"""OpenAI completions: one or more prompts, and a text that continues each of them.

Reference: OpenAI API reference, "Completions". Every prompt is a user message; prompts of token ids are opaque.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Message, Refuse, Replace
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.base import Changed
from guardproxy.wires.shared.body import dumps, read_object, remove
from guardproxy.wires.shared.bounds import choices_of
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.instructions import behind, reads_system
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.logprob_echo import LogprobEcho, judge_token
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import (
    FieldMap,
    handled_in_code,
    json_text,
    keys,
    numbers,
    object_with,
    opaque,
    outer_messages,
    outer_parts,
    read_fields,
    require_object,
    text,
    with_outer_parts,
)
from guardproxy.wires.shared.refusals import last_text, reason
from guardproxy.wires.shared.repeated import Gaps
from guardproxy.wires.shared.reply_info import OPENAI, info_of
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import JSON, parts_with_new_texts

_PATH = re.compile(r"(?:/api|/openai)?(?:/v1)?/completions|/openai/deployments/[^/]+/completions")

SETTINGS: FieldMap = {
    **openai.SETTINGS,
    **openai.SCHEMAS,
    **keys("echo add_special_tokens response_format reasoning_effort reasoning"),
    "response_format": json_text("tool_definition"),
    "prompt": handled_in_code,
    "suffix": text(),
    "prompt_embeds": opaque("embeddings"),
    "images": opaque("image"),
}
REPLY_CHOICE: FieldMap = {
    **openai.CHOICE,
    "text": text(),
    "reasoning": text("reasoning"),
    "reasoning_content": text("reasoning"),
}
_LOGPROBS: FieldMap = keys("token_logprobs text_offset token_ids", numbers) | keys(
    "tokens top_logprobs", handled_in_code
)
_NO_CALLS = re.compile(r"(?!)")


def _prompts(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return every prompt, a string or a list of token ids, with its path."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not all(type(item) is int for item in prompt):
        return [(f"prompt[{index}]", item) for index, item in enumerate(prompt)]
    if prompt in (None, "", []) and not body.get("prompt_embeds"):
        raise Unreadable("must be a text or a list of texts", "prompt")
    return [("prompt", prompt)] if prompt else []


def _prompt(path: str, prompt: Any) -> Message:
    builder = MessageBuilder(Unreadable)
    if isinstance(prompt, str):
        builder.add(path, prompt)
    elif isinstance(prompt, list) and all(type(item) is int for item in prompt):
        builder.opaque(path, "token ids")
    else:
        raise Unreadable("must be a text or a list of token ids", path)
    return builder.message("user")


def _log_probabilities(echo: LogprobEcho, builder: MessageBuilder, choice: Mapping[str, Any], path: str) -> None:
    """Compare the tokens of `logprobs` with the text; alternatives to a token are opaque."""
    value = choice.get("logprobs")
    object_with(_LOGPROBS)(builder, value, path)
    tokens = (value or {}).get("tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise builder.error("must be a list of strings", f"{path}.tokens")
    echo.add(choice.get("text") or "", "".join(tokens).encode())
    for place, others in enumerate((value or {}).get("top_logprobs") or ()):
        if others is not None and (not isinstance(others, dict) or set(others) - {*tokens[place : place + 1]}):
            builder.opaque(f"{path}.top_logprobs", "token alternatives")
            for token in others.items() if isinstance(others, dict) else [others]:
                judge_token(builder, [*token] if isinstance(token, tuple) else token, f"{path}.top_logprobs[{place}]")


def _choice(index: int, new_text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": new_text, "logprobs": None, "finish_reason": finish}


class CompletionStream(openai.ChoicesStream):
    """A streamed completion."""

    def __init__(self, request: Request, now: float) -> None:
        super().__init__(request, openai.envelope(request, "text_completion", "cmpl", now))

    def read_choice(self, state: ChoiceState, choice: Mapping[str, Any], path: str) -> bool:
        """Read a choice's text; return whether the chunk must wait for the verdict on the whole choice."""
        read_fields(state.builder, choice, path, REPLY_CHOICE)
        echo = state.echo("text", f"{path}.logprobs")
        _log_probabilities(echo, state.builder, choice, f"{path}.logprobs")
        return echo.ahead

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the place of a text without log probabilities."""
        choices = event.body.get("choices", [])
        if len(choices) != 1 or not path.endswith("].text") or choices[0].get("logprobs") is not None:
            return None
        return Gaps((("choices", 0, "text"),), "text")

    def refusal(self, state: ChoiceState, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """Return the end, behind the refusal's last text."""
        text = last_text(state, outcome)
        return [*([_choice(index, text, None)] if text else []), _choice(index, "", outcome.finish)]

    def edited_rest(self, state: ChoiceState, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """Return the unreleased rest of the edited text, and a normal end."""
        rest = "".join(
            state.remainder(part, new)
            for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome)
            if part.path.endswith(".text") or outcome.whole
        )
        return [*([_choice(index, rest, None)] if rest else []), _choice(index, "", state.finish or "stop")]


class OpenAICompletions(openai.OpenAIWire):
    """The wire of `/v1/completions`."""

    name = "openai_completions"
    paths = _PATH
    calls = _NO_CALLS

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every prompt with its path; texts outside the prompts come first."""
        builder = MessageBuilder(Unreadable, known)
        read_fields(builder, body, "", SETTINGS)
        for message in outer_messages(builder):
            yield "", message
        for place, prompt in _prompts(body):
            yield place, _prompt(place, prompt)

    def instructible(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether every prompt is a text that the model reads from its beginning, and the reply repeats none."""
        texts = all(isinstance(prompt, str) for _, prompt in _prompts(body)) and not body.get("prompt_embeds")
        return texts and not body.get("echo") and reads_system(body)

    def add_instruction(self, path: str, body: dict[str, Any], instruction: str) -> None:
        """Write an instruction before every prompt: the model continues what it reads last."""
        prompt = body["prompt"]
        texts = [prompt] if isinstance(prompt, str) else prompt
        new = [behind(instruction, text) for text in texts]
        body["prompt"] = new[0] if isinstance(prompt, str) else new

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply. Raises UpstreamUnreadable."""
        parsed = read_object(body, UpstreamUnreadable)
        choices = choices_of(parsed)
        known = repeated_in_reply(request)
        read = [self._choice(choice, f"choices[{index}]", known) for index, choice in enumerate(choices)]
        return Reply(
            with_outer_parts(read, outer_parts(parsed, openai.ENVELOPE, known)),
            body,
            parsed,
            info=info_of(parsed, OPENAI),
        )

    def _choice(self, choice: Any, path: str, known: Known) -> Message:
        builder = MessageBuilder(UpstreamUnreadable, known)
        echo = LogprobEcho(f"{path}.logprobs")
        read_fields(builder, require_object(builder.error, choice, path), path, REPLY_CHOICE)
        _log_probabilities(echo, builder, choice, f"{path}.logprobs")
        echo.close(builder)
        return builder.message("assistant")

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with the choices in `changed` replaced or refused, and the other choices as they are."""
        body = json.loads(reply.raw)
        choices = openai.choices_to_edit(body, openai.envelope(request, "text_completion", "cmpl", request.received))
        for index, outcome in changed.items():
            choice = choices[index]
            number = choice.get("index", index)
            if isinstance(outcome, Refuse):
                choices[index] = _choice(number, outcome.message, outcome.finish)
            elif outcome.whole or not reply.body.get("choices"):
                new_text = "\n".join(edit.text for edit in outcome.edits)
                choices[index] = _choice(number, new_text, value_or(choice.get("finish_reason"), "stop"))
            else:
                rewrite(body, outcome.edits, _NO_CALLS)
                choice["logprobs"] = None
            remove(body, openai.outer_paths(reply.choices[index]))
        return dumps(body | openai.reasons(request, changed))

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        number = openai.choice_count(request.body, "n") * max(1, len(_prompts(request.body)))
        if request.stream:
            return openai.refuse_stream(CompletionStream(request, request.received), refusal, number)
        choices = [_choice(index, refusal.message, refusal.finish) for index in range(number)]
        head = openai.envelope(request, "text_completion", "cmpl", request.received)
        body = {**head, "choices": choices, "usage": openai.NO_USAGE, **reason(request, refusal)}
        return Answer(200, JSON, dumps(body))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply."""
        return CompletionStream(request, request.received)


wire: Wire = OpenAICompletions()
