"""The official SDKs can read all that the wires write: refusals, cuts, rewrites and errors, streamed or not."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import ollama
import openai
import pytest
from google import genai
from google.genai import types as genai_types
from pydantic import BaseModel

from guardproxy.types import Edit, Refuse, Replace
from tests.wires.kit import BY_NAME, MESSAGES, Case, answering, fed
from tests.wires.test_streams import EDITS

REFUSAL = Refuse("I cannot help with that.")
# Of each stream, how many chunks leave before the cut in the middle, and the text that they bring.
CUTS = {
    "chat": (4, "Grüße from the sea,"),
    "completions": (2, " once there was"),
    "responses": (11, "High tide "),
    "messages": (9, "Let me "),
    "ollama-chat": (3, "Ahoy, how are "),
    "ollama-generate": (2, "The sky is"),
    "gemini": (2, "The harbour "),
}
STOPS = {
    "chat": ("content_filter", "stop"),
    "completions": ("content_filter", "stop"),
    "responses": ("content_filter", "completed"),
    "messages": ("refusal", "end_turn"),
    "ollama-chat": ("stop", "stop"),
    "ollama-generate": ("stop", "stop"),
    "gemini": ("SAFETY", "STOP"),
}
each_case = pytest.mark.parametrize("case", [BY_NAME[name] for name in CUTS], ids=lambda case: case.name)


class Answer(BaseModel):
    """The schema that requests for structured output ask for."""

    number: int


# --- clients: each reads an answer of its protocol and gives (text, stop reason) --------------------------------------


def _openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60)


def _async_openai(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60)


def _gemini(url: str) -> genai.Client:
    return genai.Client(api_key="k", http_options=genai_types.HttpOptions(base_url=url, timeout=60_000))


def _chat_stream(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        chunks = [
            c.choices[0] for c in client.chat.completions.create(model="m", messages=MESSAGES, stream=True) if c.choices
        ]
    return "".join(c.delta.content or "" for c in chunks), str(chunks[-1].finish_reason)


def _chat_helper(url: str) -> tuple[str, str]:
    """Read by the helper, which raises an error with the completion in it for a filtered answer."""
    with _openai(url) as client, client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        try:
            choice = stream.get_final_completion().choices[0]
        except openai.ContentFilterFinishReasonError as error:
            choice = error.completion.choices[0]
    assert choice.message.role == "assistant"
    return choice.message.content or "", str(choice.finish_reason)


async def _chat_async(url: str) -> tuple[str, str]:
    async with _async_openai(url) as client:
        chunks = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        choices = [chunk.choices[0] async for chunk in chunks if chunk.choices]
    return "".join(c.delta.content or "" for c in choices), str(choices[-1].finish_reason)


def _chat_whole(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        choice = client.chat.completions.create(model="m", messages=MESSAGES).choices[0]
    return choice.message.content or "", choice.finish_reason


def _completions_stream(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        choices = [c.choices[0] for c in client.completions.create(model="m", prompt="A story:", stream=True)]
    return "".join(choice.text for choice in choices), str(choices[-1].finish_reason)


async def _completions_async(url: str) -> tuple[str, str]:
    async with _async_openai(url) as client:
        chunks = await client.completions.create(model="m", prompt="A story:", stream=True)
        choices = [chunk.choices[0] async for chunk in chunks]
    return "".join(choice.text for choice in choices), str(choices[-1].finish_reason)


def _completions_whole(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        choice = client.completions.create(model="m", prompt="A story:").choices[0]
    return choice.text, str(choice.finish_reason)


def _ended(response: Any) -> str:
    """How a response ended: why, if it is incomplete, or else its status."""
    return str(response.incomplete_details.reason if response.incomplete_details else response.status)


def _responses_stream(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        events = list(client.responses.create(model="m", input="Hello there.", stream=True))
    assert events[0].type == "response.created"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    return events[-1].response.output_text, _ended(events[-1].response)


def _responses_helper(url: str) -> tuple[str, str]:
    with _openai(url) as client, client.responses.stream(model="m", input="Hello there.") as stream:
        events = list(stream)
    done = [event.text for event in events if event.type == "response.output_text.done"]
    return "".join(done), _ended(events[-1].response)


async def _responses_async(url: str) -> tuple[str, str]:
    async with _async_openai(url) as client:
        events = [event async for event in await client.responses.create(model="m", input="Hi.", stream=True)]
    return events[-1].response.output_text, _ended(events[-1].response)


def _responses_whole(url: str) -> tuple[str, str]:
    with _openai(url) as client:
        response = client.responses.create(model="m", input="Hello there.")
    return response.output_text, _ended(response)


def _text_of(message: anthropic.types.Message) -> tuple[str, str]:
    return "".join(b.text for b in message.content if b.type == "text"), str(message.stop_reason)


def _messages_stream(url: str) -> tuple[str, str]:
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=60) as client:
        events = list(client.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    said = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
    return "".join(said), next(str(e.delta.stop_reason) for e in events if e.type == "message_delta")


def _messages_helper(url: str) -> tuple[str, str]:
    with (
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=60) as client,
        client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream,
    ):
        return _text_of(stream.get_final_message())


async def _messages_async(url: str) -> tuple[str, str]:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0, timeout=60) as client,
        client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream,
    ):
        return _text_of(await stream.get_final_message())


def _messages_whole(url: str) -> tuple[str, str]:
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=60) as client:
        return _text_of(client.messages.create(model="m", max_tokens=9, messages=MESSAGES))


def _ollama_stream(url: str) -> tuple[str, str]:
    parts = list(ollama.Client(host=url, timeout=60).chat("m", messages=MESSAGES, stream=True))
    return "".join(part.message.content or "" for part in parts), str(parts[-1].done_reason)


async def _ollama_async(url: str) -> tuple[str, str]:
    stream = await ollama.AsyncClient(host=url, timeout=60).chat("m", messages=MESSAGES, stream=True)
    parts = [part async for part in stream]
    return "".join(part.message.content or "" for part in parts), str(parts[-1].done_reason)


def _ollama_whole(url: str) -> tuple[str, str]:
    reply = ollama.Client(host=url, timeout=60).chat("m", messages=MESSAGES)
    return reply.message.content or "", str(reply.done_reason)


def _generate_stream(url: str) -> tuple[str, str]:
    parts = list(ollama.Client(host=url, timeout=60).generate("m", "Hello there.", stream=True))
    return "".join(part.response or "" for part in parts), str(parts[-1].done_reason)


def _generate_whole(url: str) -> tuple[str, str]:
    reply = ollama.Client(host=url, timeout=60).generate("m", "Hello there.")
    return reply.response or "", str(reply.done_reason)


def _candidate(replies: list[Any]) -> tuple[str, str]:
    candidates = [reply.candidates[0] for reply in replies]
    parts = [part for one in candidates if one.content for part in one.content.parts or []]
    reasons = [one.finish_reason.value for one in candidates if one.finish_reason]
    return "".join(part.text or "" for part in parts if not part.thought), reasons[-1]


def _gemini_stream(url: str) -> tuple[str, str]:
    with _gemini(url) as client:
        return _candidate(list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello.")))


async def _gemini_async(url: str) -> tuple[str, str]:
    async with _gemini(url).aio as client:
        stream = await client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello.")
        return _candidate([reply async for reply in stream])


def _gemini_whole(url: str) -> tuple[str, str]:
    with _gemini(url) as client:
        return _candidate([client.models.generate_content(model="gemini-2.5-flash", contents="Hello.")])


STREAMED: dict[str, list[Callable[[str], Any]]] = {
    "chat": [_chat_stream, _chat_helper, _chat_async],
    "completions": [_completions_stream, _completions_async],
    "responses": [_responses_stream, _responses_helper, _responses_async],
    "messages": [_messages_stream, _messages_helper, _messages_async],
    "ollama-chat": [_ollama_stream, _ollama_async],
    "ollama-generate": [_generate_stream],
    "gemini": [_gemini_stream, _gemini_async],
}
WHOLE: dict[str, Callable[[str], tuple[str, str]]] = {
    "chat": _chat_whole,
    "completions": _completions_whole,
    "responses": _responses_whole,
    "messages": _messages_whole,
    "ollama-chat": _ollama_whole,
    "ollama-generate": _generate_whole,
    "gemini": _gemini_whole,
}


def _read(case: Case, body: bytes) -> list[tuple[str, str]]:
    """Return the stream as every streaming client of the protocol reads it."""
    seen = []
    with answering(200, case.content_type, body) as url:
        for client in STREAMED[case.name]:
            found = client(url)
            seen.append(asyncio.run(found) if asyncio.iscoroutine(found) else found)
    return seen


def _texts(case: Case) -> str:
    """Return the answer's text in a recorded stream."""
    stream = case.open()
    fed(stream, [case.raw])
    return "".join(part.text for part in stream.message(0).parts if part.kind == "text")


@each_case
def test_clean_streams(case: Case) -> None:
    """The SDKs can read the recorded streams."""
    assert {text for text, _ in _read(case, case.raw)} == {_texts(case)}


@each_case
@pytest.mark.parametrize("finish", ["content_filter", "stop"])
def test_refused_streams(case: Case, finish: Any) -> None:
    """A stream that is refused from the start has the refusal's text and the protocol's stop reason."""
    refusal = Refuse(REFUSAL.message, finish=finish)
    answer = case.wire.refuse(case.request(), refusal)
    assert answer.status == 200
    assert answer.content_type.partition(";")[0] == case.content_type
    stop = STOPS[case.name][finish == "stop"]
    assert set(_read(case, answer.body)) == {(REFUSAL.message, stop)}


@each_case
def test_cut_streams(case: Case) -> None:
    """A stream that is cut ends with the judged text and the stop reason; no client hangs or raises."""
    count, text = CUTS[case.name]
    stream = case.open()
    chunks = fed(stream, [case.raw])
    out = b"".join(stream.release(chunk) for chunk in chunks[:count])
    out += stream.end(0, REFUSAL) + stream.close()
    assert set(_read(case, out)) == {(text, STOPS[case.name][0])}


@each_case
def test_rewritten_streams(case: Case) -> None:
    """A stream that is rewritten from the start has the new text and a normal end."""
    _, path, new = EDITS[case.name]
    stream = case.open()
    fed(stream, [case.raw])
    out = stream.end(0, Replace((Edit(path, new),), whole=True)) + stream.close()
    assert set(_read(case, out)) == {(new, STOPS[case.name][1])}


@each_case
@pytest.mark.parametrize("finish", ["content_filter", "stop"])
def test_refused_replies(case: Case, finish: Any) -> None:
    """A whole refusal is read, both without an upstream's answer and in place of it."""
    request = _unstreamed(case)
    refusal = Refuse(REFUSAL.message, finish=finish)
    instead = case.wire.refuse(request, refusal)
    reply = case.wire.parse_reply(request, case.reply)
    for body in (instead.body, case.wire.edit_reply(request, reply, {0: refusal})):
        with answering(200, "application/json", body) as url:
            assert WHOLE[case.name](url) == (REFUSAL.message, STOPS[case.name][finish == "stop"])


@each_case
def test_rewritten_replies(case: Case) -> None:
    """A rewritten reply has the new text and a normal end."""
    request = _unstreamed(case)
    _, path, new = EDITS[case.name]
    reply = case.wire.parse_reply(request, case.reply)
    body = case.wire.edit_reply(request, reply, {0: Replace((Edit(path, new),), whole=True)})
    with answering(200, "application/json", body) as url:
        assert WHOLE[case.name](url) == (new, STOPS[case.name][1])


def _unstreamed(case: Case) -> Any:
    if case.name == "gemini":
        path = "/v1beta/models/gemini-2.5-flash:generateContent"
        return case.wire.parse_request(path, case.request().raw)
    return case.request(stream=False)


@contextmanager
def _error(case: Case) -> Iterator[str]:
    answer = case.wire.refuse(case.request(), Refuse("Not this.", shape="error"))
    with answering(answer.status, answer.content_type, answer.body) as url:
        yield url


@pytest.mark.parametrize("name", ["chat", "completions", "responses"])
def test_openai_errors(name: str) -> None:
    """A block as an error is a BadRequestError with its code, which is not retried."""
    with _error(BY_NAME[name]) as url, pytest.raises(openai.BadRequestError) as caught:
        WHOLE[name](url)
    assert caught.value.code == "content_filter"
    assert caught.value.type == "invalid_request_error"


def test_other_errors() -> None:
    """Every other SDK raises its own error with the message."""
    with _error(BY_NAME["messages"]) as url, pytest.raises(anthropic.BadRequestError, match="Not this"):
        _messages_whole(url)
    with _error(BY_NAME["ollama-chat"]) as url, pytest.raises(ollama.ResponseError, match="Not this"):
        _ollama_whole(url)
    with _error(BY_NAME["gemini"]) as url, pytest.raises(genai.errors.ClientError, match="Not this"):
        _gemini_whole(url)


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "description": "A number."}}}


def _parse(url: str) -> Any:
    with _openai(url) as client:
        return client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Answer)


def test_structured_chat() -> None:
    """`parse` recognises a refusal, and the end of a filtered answer."""
    case = BY_NAME["chat"]
    request = case.request(stream=False, response_format=SCHEMA)
    assert request.structured
    with answering(200, "application/json", case.wire.refuse(request, Refuse("No.", finish="stop")).body) as url:
        message = _parse(url).choices[0].message
    assert (message.refusal, message.parsed) == ("No.", None)
    with (
        answering(200, "application/json", case.wire.refuse(request, Refuse("No.")).body) as url,
        pytest.raises(openai.ContentFilterFinishReasonError),
    ):
        _parse(url)


def test_structured_responses_and_messages() -> None:
    """The other parsers of structured output can read a refusal as well."""
    case = BY_NAME["responses"]
    request = case.request(stream=False, text={"format": {"type": "json_schema", "name": "a", "schema": {}}})
    with answering(200, "application/json", case.wire.refuse(request, REFUSAL).body) as url, _openai(url) as client:
        response = client.responses.parse(model="m", input="x", text_format=Answer)
    assert response.output_parsed is None
    assert response.output[0].content[0].type == "refusal"
    case = BY_NAME["messages"]
    request = case.request(stream=False, output_config={"format": {"type": "json_schema", "schema": {}}})
    with (
        answering(200, "application/json", case.wire.refuse(request, REFUSAL).body) as url,
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
    ):
        message = client.messages.parse(model="m", max_tokens=9, messages=MESSAGES, output_format=Answer)
    assert (message.parsed_output, message.stop_reason) == (None, "refusal")
