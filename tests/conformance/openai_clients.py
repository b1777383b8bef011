"""The ways to ask with OpenAI's client and its Azure form."""

from typing import Any

import openai

from tests.conformance.reading import Answer, Reach, Read, user


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


def chat(reach: Reach, prompt: str) -> Read:
    """A whole chat completion."""
    with _openai(reach) as client:
        return _chat_read(client.chat.completions.create(model=reach.model, messages=user(prompt)).choices[0])


async def chat_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous."""
    async with _async_openai(reach) as client:
        answer = await client.chat.completions.create(model=reach.model, messages=user(prompt))
        return _chat_read(answer.choices[0])


def chat_stream(reach: Reach, prompt: str) -> Read:
    """A streamed chat completion."""
    with _openai(reach) as client:
        chunks = client.chat.completions.create(model=reach.model, messages=user(prompt), stream=True)
        return _chunks_read(list(chunks))


async def chat_stream_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous."""
    async with _async_openai(reach) as client:
        chunks = await client.chat.completions.create(model=reach.model, messages=user(prompt), stream=True)
        return _chunks_read([chunk async for chunk in chunks])


def chat_helper(reach: Reach, prompt: str) -> Read:
    """The `stream` helper raises an error with the completion in it if a choice ends with `content_filter`."""
    with _openai(reach) as client:
        try:
            with client.chat.completions.stream(model=reach.model, messages=user(prompt)) as stream:
                return _chat_read(stream.get_final_completion().choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


async def chat_helper_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous."""
    async with _async_openai(reach) as client:
        try:
            async with client.chat.completions.stream(model=reach.model, messages=user(prompt)) as stream:
                return _chat_read((await stream.get_final_completion()).choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


def chat_parse(reach: Reach, prompt: str) -> Read:
    """A chat completion that is parsed by a schema."""
    with _openai(reach) as client:
        try:
            answer = client.chat.completions.parse(model=reach.model, messages=user(prompt), response_format=Answer)
            return _chat_read(answer.choices[0])
        except openai.ContentFilterFinishReasonError as error:
            return _filtered(error)


def azure_chat(reach: Reach, prompt: str) -> Read:
    """A whole chat completion with Azure's client."""
    with _azure(reach) as client:
        return _chat_read(client.chat.completions.create(model=reach.model, messages=user(prompt)).choices[0])


def azure_chat_stream(reach: Reach, prompt: str) -> Read:
    """A streamed chat completion with Azure's client."""
    with _azure(reach) as client:
        chunks = client.chat.completions.create(model=reach.model, messages=user(prompt), stream=True)
        return _chunks_read(list(chunks))


def completions(reach: Reach, prompt: str) -> Read:
    """A whole completion."""
    with _openai(reach) as client:
        choice = client.completions.create(model=reach.model, prompt=prompt).choices[0]
    return Read(choice.text, str(choice.finish_reason))


def completions_stream(reach: Reach, prompt: str) -> Read:
    """A streamed completion."""
    with _openai(reach) as client:
        choices = [c.choices[0] for c in client.completions.create(model=reach.model, prompt=prompt, stream=True)]
    return Read("".join(choice.text for choice in choices), str(choices[-1].finish_reason))


async def completions_stream_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous."""
    async with _async_openai(reach) as client:
        chunks = await client.completions.create(model=reach.model, prompt=prompt, stream=True)
        choices = [chunk.choices[0] async for chunk in chunks]
    return Read("".join(choice.text for choice in choices), str(choices[-1].finish_reason))


def _responses_read(response: Any) -> Read:
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    refusal = "".join(part.refusal for part in parts if part.type == "refusal")
    filtered = response.incomplete_details and response.incomplete_details.reason
    assert response.status == "completed"  # of a refusal as well: the Agents SDK fails on any other
    return Read(
        response.output_text,
        str(filtered or response.status),
        parsed=getattr(response, "output_parsed", None),
        refusal=refusal,
    )


def _events_read(events: list[Any]) -> Read:
    """Read a response; the deltas must equal the last event, with the same id and rising sequence numbers."""
    assert events[0].type == "response.created"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    opened = sum(event.type == "response.output_item.added" for event in events)
    assert opened == sum(event.type == "response.output_item.done" for event in events)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    read = _responses_read(events[-1].response)
    assert read.text == text
    return read


def responses(reach: Reach, prompt: str) -> Read:
    """A whole response."""
    with _openai(reach) as client:
        return _responses_read(client.responses.create(model=reach.model, input=prompt))


async def responses_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous, with a list as the input."""
    async with _async_openai(reach) as client:
        return _responses_read(await client.responses.create(model=reach.model, input=user(prompt)))


def responses_stream(reach: Reach, prompt: str) -> Read:
    """A streamed response."""
    with _openai(reach) as client:
        return _events_read(list(client.responses.create(model=reach.model, input=prompt, stream=True)))


async def responses_stream_async(reach: Reach, prompt: str) -> Read:
    """The same, asynchronous."""
    async with _async_openai(reach) as client:
        events = await client.responses.create(model=reach.model, input=prompt, stream=True)
        return _events_read([event async for event in events])


def responses_helper(reach: Reach, prompt: str) -> Read:
    """The `stream` helper: its final response is that of the last event."""
    with _openai(reach) as client, client.responses.stream(model=reach.model, input=prompt) as stream:
        read = _events_read(list(stream))
        assert _responses_read(stream.get_final_response()) == read
        return read


def responses_parse(reach: Reach, prompt: str) -> Read:
    """A response that is parsed by a schema."""
    with _openai(reach) as client:
        return _responses_read(client.responses.parse(model=reach.model, input=prompt, text_format=Answer))
