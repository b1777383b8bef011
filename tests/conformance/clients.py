"""The official clients: every way to ask a question and to read its answer.

Clients are built as their documentation shows, with their own retries. Every call has a time limit.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
from google import genai
from google.genai import types as genai_types

from tests.conformance import openai_clients as by_openai
from tests.conformance.reading import Answer, Reach, Read, user


@dataclass(frozen=True)
class Client:
    """A way to ask: `run` takes a Reach and a prompt and returns a Read or a coroutine of a Read."""

    name: str
    protocol: str
    run: Callable[[Reach, str], Any]
    streamed: bool = False

    def ask(self, reach: Reach, prompt: str) -> Read:
        """Ask, and read the answer or the error answer. Raises what the client raises if it cannot parse the answer."""
        try:
            found = self.run(reach, prompt)
            read = asyncio.run(found) if inspect.iscoroutine(found) else found
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            return Read("", "", error.status_code, str(error.body or error))
        except ollama.ResponseError as error:
            return Read("", "", error.status_code, error.error)
        except genai.errors.APIError as error:
            return Read("", "", error.code, str(error.details))
        assert isinstance(read, Read)
        return read


# The stop reasons of each protocol: for a filtered answer, and for an ordinary end.
STOPS = {
    "chat": ("content_filter", "stop"),
    "completions": ("content_filter", "stop"),
    "responses": ("content_filter", "completed"),
    "messages": ("refusal", "end_turn"),
    "ollama-chat": ("stop", "stop"),
    "ollama-generate": ("stop", "stop"),
    "gemini": ("SAFETY", "STOP"),
}


# --- Anthropic -------------------------------------------------------------------------------------------------------


def _anthropic(reach: Reach) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=reach.url, api_key=reach.key, timeout=reach.timeout_s)


def _async_anthropic(reach: Reach) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=reach.url, api_key=reach.key, timeout=reach.timeout_s)


def _message_read(message: Any) -> Read:
    text = "".join(block.text for block in message.content if block.type == "text")
    return Read(text, str(message.stop_reason), parsed=getattr(message, "parsed_output", None))


def _messages(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        return _message_read(client.messages.create(model=reach.model, max_tokens=64, messages=user(prompt)))


async def _messages_async(reach: Reach, prompt: str) -> Read:
    async with _async_anthropic(reach) as client:
        return _message_read(await client.messages.create(model=reach.model, max_tokens=64, messages=user(prompt)))


def _messages_stream(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        events = list(client.messages.create(model=reach.model, max_tokens=64, messages=user(prompt), stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    opened = sum(event.type == "content_block_start" for event in events)
    assert opened == sum(event.type == "content_block_stop" for event in events)
    texts = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
    return Read("".join(texts), next(str(e.delta.stop_reason) for e in events if e.type == "message_delta"))


def _messages_helper(reach: Reach, prompt: str) -> Read:
    with (
        _anthropic(reach) as client,
        client.messages.stream(model=reach.model, max_tokens=64, messages=user(prompt)) as stream,
    ):
        return _message_read(stream.get_final_message())


async def _messages_helper_async(reach: Reach, prompt: str) -> Read:
    async with (
        _async_anthropic(reach) as client,
        client.messages.stream(model=reach.model, max_tokens=64, messages=user(prompt)) as stream,
    ):
        return _message_read(await stream.get_final_message())


def _messages_parse(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        asked = user(prompt)
        message = client.messages.parse(model=reach.model, max_tokens=64, messages=asked, output_format=Answer)
        return _message_read(message)


# --- Ollama ----------------------------------------------------------------------------------------------------------


def _ollama(reach: Reach) -> ollama.Client:
    return ollama.Client(host=reach.url, timeout=reach.timeout_s)


def _parts_read(parts: list[Any]) -> Read:
    texts = (part.message.content if hasattr(part, "message") else part.response for part in parts)
    assert parts[-1].done
    return Read("".join(text or "" for text in texts), str(parts[-1].done_reason))


def _ollama_chat(reach: Reach, prompt: str) -> Read:
    return _parts_read([_ollama(reach).chat(reach.model, messages=user(prompt))])


def _ollama_chat_stream(reach: Reach, prompt: str) -> Read:
    return _parts_read(list(_ollama(reach).chat(reach.model, messages=user(prompt), stream=True)))


async def _ollama_chat_async(reach: Reach, prompt: str) -> Read:
    client = ollama.AsyncClient(host=reach.url, timeout=reach.timeout_s)
    parts = await client.chat(reach.model, messages=user(prompt), stream=True)
    return _parts_read([part async for part in parts])


def _ollama_generate(reach: Reach, prompt: str) -> Read:
    return _parts_read([_ollama(reach).generate(reach.model, prompt)])


def _ollama_generate_stream(reach: Reach, prompt: str) -> Read:
    return _parts_read(list(_ollama(reach).generate(reach.model, prompt, stream=True)))


# --- Gemini ----------------------------------------------------------------------------------------------------------


def _gemini(reach: Reach, version: str = "v1beta") -> genai.Client:
    options = genai_types.HttpOptions(base_url=reach.url, api_version=version, timeout=int(reach.timeout_s * 1000))
    return genai.Client(api_key=reach.key, http_options=options)


def _candidates_read(answers: list[Any]) -> Read:
    candidates = [answer.candidates[0] for answer in answers if answer.candidates]
    parts = [part for candidate in candidates if candidate.content for part in candidate.content.parts or []]
    stops = [candidate.finish_reason.value for candidate in candidates if candidate.finish_reason]
    return Read("".join(part.text or "" for part in parts if not part.thought), stops[-1])


def _gemini_whole(reach: Reach, prompt: str) -> Read:
    with _gemini(reach) as client:
        return _candidates_read([client.models.generate_content(model=reach.model, contents=prompt)])


def _gemini_stream(reach: Reach, prompt: str) -> Read:
    with _gemini(reach) as client:
        return _candidates_read(list(client.models.generate_content_stream(model=reach.model, contents=prompt)))


async def _gemini_async(reach: Reach, prompt: str) -> Read:
    async with _gemini(reach).aio as client:
        return _candidates_read([await client.models.generate_content(model=reach.model, contents=prompt)])


async def _gemini_stream_async(reach: Reach, prompt: str) -> Read:
    async with _gemini(reach).aio as client:
        answers = await client.models.generate_content_stream(model=reach.model, contents=prompt)
        return _candidates_read([answer async for answer in answers])


def _gemini_v1_stream(reach: Reach, prompt: str) -> Read:
    with _gemini(reach, "v1") as client:
        return _candidates_read(list(client.models.generate_content_stream(model=reach.model, contents=prompt)))


CLIENTS = [
    Client("openai chat.completions.create", "chat", by_openai.chat),
    Client("openai chat.completions.create, async", "chat", by_openai.chat_async),
    Client("openai chat.completions.create, streamed", "chat", by_openai.chat_stream, streamed=True),
    Client("openai chat.completions.create, streamed, async", "chat", by_openai.chat_stream_async, streamed=True),
    Client("openai chat.completions.stream", "chat", by_openai.chat_helper, streamed=True),
    Client("openai chat.completions.stream, async", "chat", by_openai.chat_helper_async, streamed=True),
    Client("AzureOpenAI chat.completions.create", "chat", by_openai.azure_chat),
    Client("AzureOpenAI chat.completions.create, streamed", "chat", by_openai.azure_chat_stream, streamed=True),
    Client("openai completions.create", "completions", by_openai.completions),
    Client("openai completions.create, streamed", "completions", by_openai.completions_stream, streamed=True),
    Client(
        "openai completions.create, streamed, async", "completions", by_openai.completions_stream_async, streamed=True
    ),
    Client("openai responses.create", "responses", by_openai.responses),
    Client("openai responses.create, async", "responses", by_openai.responses_async),
    Client("openai responses.create, streamed", "responses", by_openai.responses_stream, streamed=True),
    Client("openai responses.create, streamed, async", "responses", by_openai.responses_stream_async, streamed=True),
    Client("openai responses.stream", "responses", by_openai.responses_helper, streamed=True),
    Client("anthropic messages.create", "messages", _messages),
    Client("anthropic messages.create, async", "messages", _messages_async),
    Client("anthropic messages.create, streamed", "messages", _messages_stream, streamed=True),
    Client("anthropic messages.stream", "messages", _messages_helper, streamed=True),
    Client("anthropic messages.stream, async", "messages", _messages_helper_async, streamed=True),
    Client("ollama chat", "ollama-chat", _ollama_chat),
    Client("ollama chat, streamed", "ollama-chat", _ollama_chat_stream, streamed=True),
    Client("ollama chat, streamed, async", "ollama-chat", _ollama_chat_async, streamed=True),
    Client("ollama generate", "ollama-generate", _ollama_generate),
    Client("ollama generate, streamed", "ollama-generate", _ollama_generate_stream, streamed=True),
    Client("google-genai generate_content", "gemini", _gemini_whole),
    Client("google-genai generate_content, async", "gemini", _gemini_async),
    Client("google-genai generate_content_stream", "gemini", _gemini_stream, streamed=True),
    Client("google-genai generate_content_stream, async", "gemini", _gemini_stream_async, streamed=True),
    Client("google-genai generate_content_stream, v1", "gemini", _gemini_v1_stream, streamed=True),
]

# Clients that parse the answer into an object of a schema.
PARSERS = [
    Client("openai chat.completions.parse", "chat", by_openai.chat_parse),
    Client("openai responses.parse", "responses", by_openai.responses_parse),
    Client("anthropic messages.parse", "messages", _messages_parse),
]
