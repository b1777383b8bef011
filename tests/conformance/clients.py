"""The official clients, each as one way to ask one thing and read the answer.

A client is built as its documentation shows, with its own retries; every call has a time limit.
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
from pydantic import BaseModel


@dataclass(frozen=True)
class Reach:
    """Where a client goes, and with what. `timeout_s` is for one request."""

    url: str
    model: str = "m"
    key: str = "k"
    timeout_s: float = 20.0


@dataclass(frozen=True)
class Read:
    """What a client made of an answer: its text and stop reason, or the status and text of the error it raised.

    `parsed` is what a parser of structured output gave, `refusal` what it took for a refusal.
    """

    text: str
    stop: str
    status: int = 0
    error: str = ""
    parsed: Any = None
    refusal: str = ""


@dataclass(frozen=True)
class Client:
    """One way to ask: `run` takes a Reach and a prompt and gives a Read, or a coroutine of one."""

    name: str
    protocol: str
    run: Callable[[Reach, str], Any]
    streamed: bool = False

    def ask(self, reach: Reach, prompt: str) -> Read:
        """Ask, and read the answer. An error answer is read; what a client cannot parse is raised."""
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


# What each protocol calls an answer that was filtered, and one that ended by itself.
STOPS = {
    "chat": ("content_filter", "stop"),
    "completions": ("content_filter", "stop"),
    "responses": ("incomplete", "completed"),
    "messages": ("refusal", "end_turn"),
    "ollama-chat": ("stop", "stop"),
    "ollama-generate": ("stop", "stop"),
    "gemini": ("SAFETY", "STOP"),
}


class Answer(BaseModel):
    """What structured output is asked for."""

    number: int


def _user(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


# --- OpenAI ----------------------------------------------------------------------------------------------------------


def _openai(reach: Reach) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{reach.url}/v1", api_key=reach.key, timeout=reach.timeout_s)


def _async_openai(reach: Reach) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{reach.url}/v1", api_key=reach.key, timeout=reach.timeout_s)


def _azure(reach: Reach) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=reach.url, api_key=reach.key, api_version="2024-10-21", timeout=reach.timeout_s
    )


def _chat_read(choice: Any) -> Read:
    message = choice.message
    assert message.role == "assistant"
    return Read(
        message.content or "",
        str(choice.finish_reason),
        parsed=getattr(message, "parsed", None),
        refusal=message.refusal or "",
    )


def _filtered(error: openai.ContentFilterFinishReasonError) -> Read:
    assert error.completion is not None
    return _chat_read(error.completion.choices[0])


def _chunks_read(chunks: list[Any]) -> Read:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == 0]
    assert choices[0].delta.role == "assistant"
    return Read("".join(c.delta.content or "" for c in choices), str(choices[-1].finish_reason))


def _chat(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        return _chat_read(client.chat.completions.create(model=reach.model, messages=_user(prompt)).choices[0])


async def _chat_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        answer = await client.chat.completions.create(model=reach.model, messages=_user(prompt))
        return _chat_read(answer.choices[0])


def _chat_stream(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        chunks = client.chat.completions.create(model=reach.model, messages=_user(prompt), stream=True)
        return _chunks_read(list(chunks))


async def _chat_stream_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        chunks = await client.chat.completions.create(model=reach.model, messages=_user(prompt), stream=True)
        return _chunks_read([chunk async for chunk in chunks])


def _chat_helper(reach: Reach, prompt: str) -> Read:
    """The helper raises its own error where a choice ends with `content_filter`; the completion is in it."""
    with _openai(reach) as client:
        try:
            with client.chat.completions.stream(model=reach.model, messages=_user(prompt)) as stream:
                return _chat_read(stream.get_final_completion().choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


async def _chat_helper_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        try:
            async with client.chat.completions.stream(model=reach.model, messages=_user(prompt)) as stream:
                return _chat_read((await stream.get_final_completion()).choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


def _chat_parse(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        try:
            answer = client.chat.completions.parse(model=reach.model, messages=_user(prompt), response_format=Answer)
            return _chat_read(answer.choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


def _azure_chat(reach: Reach, prompt: str) -> Read:
    with _azure(reach) as client:
        return _chat_read(client.chat.completions.create(model=reach.model, messages=_user(prompt)).choices[0])


def _azure_chat_stream(reach: Reach, prompt: str) -> Read:
    with _azure(reach) as client:
        chunks = client.chat.completions.create(model=reach.model, messages=_user(prompt), stream=True)
        return _chunks_read(list(chunks))


def _completions(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        choice = client.completions.create(model=reach.model, prompt=prompt).choices[0]
    return Read(choice.text, str(choice.finish_reason))


def _completions_stream(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        choices = [c.choices[0] for c in client.completions.create(model=reach.model, prompt=prompt, stream=True)]
    return Read("".join(choice.text for choice in choices), str(choices[-1].finish_reason))


async def _completions_stream_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        chunks = await client.completions.create(model=reach.model, prompt=prompt, stream=True)
        choices = [chunk.choices[0] async for chunk in chunks]
    return Read("".join(choice.text for choice in choices), str(choices[-1].finish_reason))


def _responses_read(response: Any) -> Read:
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    refusal = "".join(part.refusal for part in parts if part.type == "refusal")
    return Read(
        response.output_text,
        str(response.status),
        parsed=getattr(response, "output_parsed", None),
        refusal=refusal,
    )


def _events_read(events: list[Any]) -> Read:
    """The deltas must say what the last event says, under one id, in one sequence."""
    assert events[0].type == "response.created"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    opened = sum(event.type == "response.output_item.added" for event in events)
    assert opened == sum(event.type == "response.output_item.done" for event in events)
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    read = _responses_read(events[-1].response)
    assert read.text == said
    return read


def _responses(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        return _responses_read(client.responses.create(model=reach.model, input=prompt))


async def _responses_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        return _responses_read(await client.responses.create(model=reach.model, input=_user(prompt)))


def _responses_stream(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        return _events_read(list(client.responses.create(model=reach.model, input=prompt, stream=True)))


async def _responses_stream_async(reach: Reach, prompt: str) -> Read:
    async with _async_openai(reach) as client:
        events = await client.responses.create(model=reach.model, input=prompt, stream=True)
        return _events_read([event async for event in events])


def _responses_helper(reach: Reach, prompt: str) -> Read:
    """`get_final_response` raises after `response.incomplete`; the events themselves are read."""
    with _openai(reach) as client, client.responses.stream(model=reach.model, input=prompt) as stream:
        return _events_read(list(stream))


def _responses_parse(reach: Reach, prompt: str) -> Read:
    with _openai(reach) as client:
        return _responses_read(client.responses.parse(model=reach.model, input=prompt, text_format=Answer))


# --- Anthropic -------------------------------------------------------------------------------------------------------


def _anthropic(reach: Reach) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=reach.url, api_key=reach.key, timeout=reach.timeout_s)


def _async_anthropic(reach: Reach) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=reach.url, api_key=reach.key, timeout=reach.timeout_s)


def _message_read(message: Any) -> Read:
    said = "".join(block.text for block in message.content if block.type == "text")
    return Read(said, str(message.stop_reason), parsed=getattr(message, "parsed_output", None))


def _messages(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        return _message_read(client.messages.create(model=reach.model, max_tokens=64, messages=_user(prompt)))


async def _messages_async(reach: Reach, prompt: str) -> Read:
    async with _async_anthropic(reach) as client:
        return _message_read(await client.messages.create(model=reach.model, max_tokens=64, messages=_user(prompt)))


def _messages_stream(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        events = list(client.messages.create(model=reach.model, max_tokens=64, messages=_user(prompt), stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    opened = sum(event.type == "content_block_start" for event in events)
    assert opened == sum(event.type == "content_block_stop" for event in events)
    said = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
    return Read("".join(said), next(str(e.delta.stop_reason) for e in events if e.type == "message_delta"))


def _messages_helper(reach: Reach, prompt: str) -> Read:
    with (
        _anthropic(reach) as client,
        client.messages.stream(model=reach.model, max_tokens=64, messages=_user(prompt)) as stream,
    ):
        return _message_read(stream.get_final_message())


async def _messages_helper_async(reach: Reach, prompt: str) -> Read:
    async with (
        _async_anthropic(reach) as client,
        client.messages.stream(model=reach.model, max_tokens=64, messages=_user(prompt)) as stream,
    ):
        return _message_read(await stream.get_final_message())


def _messages_parse(reach: Reach, prompt: str) -> Read:
    with _anthropic(reach) as client:
        asked = _user(prompt)
        message = client.messages.parse(model=reach.model, max_tokens=64, messages=asked, output_format=Answer)
        return _message_read(message)


# --- Ollama ----------------------------------------------------------------------------------------------------------


def _ollama(reach: Reach) -> ollama.Client:
    return ollama.Client(host=reach.url, timeout=reach.timeout_s)


def _parts_read(parts: list[Any]) -> Read:
    said = (part.message.content if hasattr(part, "message") else part.response for part in parts)
    assert parts[-1].done
    return Read("".join(text or "" for text in said), str(parts[-1].done_reason))


def _ollama_chat(reach: Reach, prompt: str) -> Read:
    return _parts_read([_ollama(reach).chat(reach.model, messages=_user(prompt))])


def _ollama_chat_stream(reach: Reach, prompt: str) -> Read:
    return _parts_read(list(_ollama(reach).chat(reach.model, messages=_user(prompt), stream=True)))


async def _ollama_chat_async(reach: Reach, prompt: str) -> Read:
    client = ollama.AsyncClient(host=reach.url, timeout=reach.timeout_s)
    parts = await client.chat(reach.model, messages=_user(prompt), stream=True)
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
    parts = [part for one in candidates if one.content for part in one.content.parts or []]
    stops = [one.finish_reason.value for one in candidates if one.finish_reason]
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
    Client("openai chat.completions.create", "chat", _chat),
    Client("openai chat.completions.create, async", "chat", _chat_async),
    Client("openai chat.completions.create, streamed", "chat", _chat_stream, streamed=True),
    Client("openai chat.completions.create, streamed, async", "chat", _chat_stream_async, streamed=True),
    Client("openai chat.completions.stream", "chat", _chat_helper, streamed=True),
    Client("openai chat.completions.stream, async", "chat", _chat_helper_async, streamed=True),
    Client("AzureOpenAI chat.completions.create", "chat", _azure_chat),
    Client("AzureOpenAI chat.completions.create, streamed", "chat", _azure_chat_stream, streamed=True),
    Client("openai completions.create", "completions", _completions),
    Client("openai completions.create, streamed", "completions", _completions_stream, streamed=True),
    Client("openai completions.create, streamed, async", "completions", _completions_stream_async, streamed=True),
    Client("openai responses.create", "responses", _responses),
    Client("openai responses.create, async", "responses", _responses_async),
    Client("openai responses.create, streamed", "responses", _responses_stream, streamed=True),
    Client("openai responses.create, streamed, async", "responses", _responses_stream_async, streamed=True),
    Client("openai responses.stream", "responses", _responses_helper, streamed=True),
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

# Clients that read the answer as an object of a schema.
PARSERS = [
    Client("openai chat.completions.parse", "chat", _chat_parse),
    Client("openai responses.parse", "responses", _responses_parse),
    Client("anthropic messages.parse", "messages", _messages_parse),
]
