"""The official clients as readers of a proxied answer: whole and streamed, with the helpers that join texts."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import anthropic
import ollama
import openai
from google import genai
from google.genai import types as genai_types

from tests.conformance.reading import user
from tests.differential.kit import Sight
from tests.differential.reading import PROMPT, TIMEOUT_S, Reader, line_readers, plain_readers


def _dump(value: Any) -> Any:
    """Return a client's object as JSON values, with the fields that the client does not know."""
    return value.model_dump(warnings=False)


# --- OpenAI ----------------------------------------------------------------------------------------------------------


@cache
def _openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=TIMEOUT_S, max_retries=0)


def _text(content: Any) -> str:
    """Return a content that is a text, or a list of parts whose texts are joined with nothing."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else _dump(part) for part in content]
        return "".join(part.get("text") or "" for part in parts)
    return content if isinstance(content, str) else ""


def _show_message(sight: Sight, message: Any) -> None:
    sight.add("content", _text(message.content))
    sight.add("refusal", message.refusal)
    for call in message.tool_calls or ():
        sight.add("tool name", call.function.name)
        sight.add("tool arguments", call.function.arguments)


def _chat(url: str, sight: Sight) -> None:
    completion = _openai(url).chat.completions.create(model="m", messages=user(PROMPT))
    sight.add("fields", _dump(completion))
    for choice in completion.choices:
        _show_message(sight, choice.message)


def _show_chunks(sight: Sight, chunks: Iterable[Any]) -> None:
    """Join the deltas of each choice and each call, and show every joined text at the end, also after a failure."""
    joined: dict[tuple[int, str], str] = defaultdict(str)
    try:
        for chunk in chunks:
            sight.add("fields of a chunk", _dump(chunk))
            for choice in chunk.choices:
                delta, index = choice.delta, choice.index
                joined[index, "content"] += _text(delta.content)
                joined[index, "refusal"] += delta.refusal or ""
                joined[index, "reasoning"] += getattr(delta, "reasoning_content", None) or ""
                for call in delta.tool_calls or ():
                    joined[index, f"name of call {call.index}"] += call.function.name or ""
                    joined[index, f"arguments of call {call.index}"] += call.function.arguments or ""
    finally:
        for (index, what), text in joined.items():
            sight.add(f"{what} of choice {index}", text)


def _chat_stream(url: str, sight: Sight) -> None:
    _show_chunks(sight, _openai(url).chat.completions.create(model="m", messages=user(PROMPT), stream=True))


def _chat_helper(url: str, sight: Sight) -> None:
    with _openai(url).chat.completions.stream(model="m", messages=user(PROMPT)) as stream:
        for event in stream:
            if event.type == "content.done":
                sight.add("content.done", event.content)
        completion = stream.get_final_completion()
    sight.add("fields", _dump(completion))
    for choice in completion.choices:
        _show_message(sight, choice.message)


def _completions(url: str, sight: Sight) -> None:
    completion = _openai(url).completions.create(model="m", prompt=PROMPT)
    sight.add("fields", _dump(completion))


def _completions_stream(url: str, sight: Sight) -> None:
    joined: dict[int, str] = defaultdict(str)
    try:
        for chunk in _openai(url).completions.create(model="m", prompt=PROMPT, stream=True):
            sight.add("fields of a chunk", _dump(chunk))
            for choice in chunk.choices:
                joined[choice.index] += choice.text or ""
    finally:
        for index, text in joined.items():
            sight.add(f"text of choice {index}", text)


def _responses(url: str, sight: Sight) -> None:
    response = _openai(url).responses.create(model="m", input=PROMPT)
    sight.add("fields", _dump(response))
    sight.add("output_text", response.output_text)


def _show_events(sight: Sight, events: Iterable[Any]) -> None:
    """Join the deltas of texts over all parts and items, and show the last response's text."""
    joined: dict[str, str] = defaultdict(str)
    try:
        for event in events:
            sight.add(f"fields of {event.type}", _dump(event))
            if isinstance(getattr(event, "delta", None), str):
                joined[event.type] += event.delta
            if event.type == "response.completed":
                sight.add("output_text", event.response.output_text)
    finally:
        for kind, text in joined.items():
            sight.add(f"joined {kind}", text)


def _responses_stream(url: str, sight: Sight) -> None:
    _show_events(sight, _openai(url).responses.create(model="m", input=PROMPT, stream=True))


def _responses_helper(url: str, sight: Sight) -> None:
    with _openai(url).responses.stream(model="m", input=PROMPT) as stream:
        _show_events(sight, stream)
        sight.add("final output_text", stream.get_final_response().output_text)


# --- Anthropic -------------------------------------------------------------------------------------------------------


@cache
def _anthropic(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", timeout=TIMEOUT_S, max_retries=0)


def _show_blocks(sight: Sight, message: Any) -> None:
    sight.add("fields", _dump(message))
    sight.add("texts of all blocks", "".join(block.text for block in message.content if block.type == "text"))


def _messages(url: str, sight: Sight) -> None:
    _show_blocks(sight, _anthropic(url).messages.create(model="m", max_tokens=64, messages=user(PROMPT)))


def _messages_stream(url: str, sight: Sight) -> None:
    joined: dict[str, str] = defaultdict(str)
    try:
        for event in _anthropic(url).messages.create(model="m", max_tokens=64, messages=user(PROMPT), stream=True):
            sight.add(f"fields of {event.type}", _dump(event))
            delta = getattr(event, "delta", None)
            for name in ("text", "thinking", "partial_json"):
                if isinstance(getattr(delta, name, None), str):
                    joined[f"{name} of block {event.index}" if name != "text" else name] += getattr(delta, name)
    finally:
        for name, text in joined.items():
            sight.add(f"joined {name}", text)


def _messages_helper(url: str, sight: Sight) -> None:
    with _anthropic(url).messages.stream(model="m", max_tokens=64, messages=user(PROMPT)) as stream:
        text = ""
        try:
            for piece in stream.text_stream:
                text += piece
        finally:
            sight.add("text_stream", text)
        _show_blocks(sight, stream.get_final_message())


# --- Ollama ----------------------------------------------------------------------------------------------------------


@cache
def _ollama(url: str) -> ollama.Client:
    return ollama.Client(host=url, timeout=TIMEOUT_S)


def _show_lines(sight: Sight, answers: Iterable[Any]) -> None:
    joined: dict[str, str] = defaultdict(str)
    try:
        for answer in answers:
            sight.add("fields", _dump(answer))
            message = getattr(answer, "message", answer)
            for name in ("content", "response", "thinking"):
                joined[name] += getattr(message, name, None) or ""
    finally:
        for name, text in joined.items():
            sight.add(f"joined {name}", text)


def _ollama_chat(url: str, sight: Sight) -> None:
    _show_lines(sight, [_ollama(url).chat("m", messages=user(PROMPT))])


def _ollama_chat_stream(url: str, sight: Sight) -> None:
    _show_lines(sight, _ollama(url).chat("m", messages=user(PROMPT), stream=True))


def _ollama_generate(url: str, sight: Sight) -> None:
    _show_lines(sight, [_ollama(url).generate("m", PROMPT)])


def _ollama_generate_stream(url: str, sight: Sight) -> None:
    _show_lines(sight, _ollama(url).generate("m", PROMPT, stream=True))


# --- Gemini ----------------------------------------------------------------------------------------------------------


@cache
def _gemini(url: str) -> genai.Client:
    options = genai_types.HttpOptions(base_url=url, api_version="v1beta", timeout=int(TIMEOUT_S * 1000))
    return genai.Client(api_key="k", http_options=options)


def _show_answers(sight: Sight, answers: Iterable[Any]) -> None:
    joined: dict[str, str] = defaultdict(str)
    try:
        for answer in answers:
            sight.add("fields", _dump(answer))
            sight.add(".text", answer.text)
            for candidate in answer.candidates or ():
                for part in (candidate.content and candidate.content.parts) or ():
                    kind = "thoughts" if part.thought else "texts"
                    joined[f"{kind} of candidate {candidate.index}"] += part.text or ""
    finally:
        for name, text in joined.items():
            sight.add(name, text)


def _gemini_whole(url: str, sight: Sight) -> None:
    _show_answers(sight, [_gemini(url).models.generate_content(model="m", contents=PROMPT)])


def _gemini_stream(url: str, sight: Sight) -> None:
    _show_answers(sight, _gemini(url).models.generate_content_stream(model="m", contents=PROMPT))


# --- readers of the first choice of every chunk, whatever its index, as short examples are written --------------------


def _first_choices(url: str, sight: Sight) -> None:
    text = ""
    for chunk in _openai(url).chat.completions.create(model="m", messages=user(PROMPT), stream=True):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    sight.add("choices[0] of all chunks", text)


def _first_candidates(url: str, sight: Sight) -> None:
    answers = _gemini(url).models.generate_content_stream(model="m", contents=PROMPT)
    sight.add(".text of all chunks", "".join(answer.text or "" for answer in answers))


def versions() -> str:
    """Return the versions of the readers, for the message of a failure."""
    names = ("openai", "anthropic", "ollama", "google-genai", "httpx", "requests")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


CLIENTS = [
    Reader("openai chat.completions.create", "chat", False, _chat),
    Reader("openai chat.completions.create, streamed", "chat", True, _chat_stream),
    Reader("openai chat.completions.stream", "chat", True, _chat_helper),
    Reader("openai completions.create", "completions", False, _completions),
    Reader("openai completions.create, streamed", "completions", True, _completions_stream),
    Reader("openai responses.create", "responses", False, _responses),
    Reader("openai responses.create, streamed", "responses", True, _responses_stream),
    Reader("openai responses.stream", "responses", True, _responses_helper),
    Reader("anthropic messages.create", "messages", False, _messages),
    Reader("anthropic messages.create, streamed", "messages", True, _messages_stream),
    Reader("anthropic messages.stream", "messages", True, _messages_helper),
    Reader("ollama chat", "ollama-chat", False, _ollama_chat),
    Reader("ollama chat, streamed", "ollama-chat", True, _ollama_chat_stream),
    Reader("ollama generate", "ollama-generate", False, _ollama_generate),
    Reader("ollama generate, streamed", "ollama-generate", True, _ollama_generate_stream),
    Reader("google-genai generate_content", "gemini", False, _gemini_whole),
    Reader("google-genai generate_content_stream", "gemini", True, _gemini_stream),
]

FIRST_CHOICES = [
    Reader("openai chunk.choices[0]", "chat", True, _first_choices),
    Reader("google-genai chunk.text", "gemini", True, _first_candidates),
]


def readers(protocol: str, *, stream: bool) -> list[Reader]:
    """Return all readers of a protocol's whole answers, or of its streams."""
    clients = [reader for reader in CLIENTS if (reader.protocol, reader.stream) == (protocol, stream)]
    return [*clients, *(line_readers(protocol) if stream else plain_readers(protocol))]
