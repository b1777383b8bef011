"""What programs read of a refusal with the official clients: the reason, the usage, and how a conversation goes on."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as genai_types

from tests.conformance.clients import CLIENTS
from tests.conformance.reading import user
from tests.conformance.speech import PROTOCOLS, plain
from tests.conformance.stand import REFUSAL, Stand, standing
from tests.kit import Scripted

# A client of each protocol that reads a stream, and one that does not.
STREAMED = {client.protocol: client for client in CLIENTS if client.streamed}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module."""
    with standing() as found:
        yield found


def _openai(stand: Stand) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stand.watch.url}/v1", api_key="k", timeout=60)


def _chat(stand: Stand, prompt: str) -> tuple[Any, Any]:
    """The reason and the usage of a whole chat completion."""
    with _openai(stand) as client:
        answer: Any = client.chat.completions.create(model="m", messages=user(prompt))
        return answer.guardproxy, answer.usage.completion_tokens


def _chat_stream(stand: Stand, prompt: str) -> tuple[Any, Any]:
    with _openai(stand) as client:
        asked: Any = {"model": "m", "messages": user(prompt), "stream_options": {"include_usage": True}}
        chunks: list[Any] = list(client.chat.completions.create(stream=True, **asked))
        assert chunks[-2].choices[0].finish_reason == "content_filter"
        return chunks[-2].guardproxy, chunks[-1].usage.completion_tokens


def _completions_stream(stand: Stand, prompt: str) -> tuple[Any, Any]:
    with _openai(stand) as client:
        options: Any = {"include_usage": True}
        chunks: list[Any] = list(
            client.completions.create(model="m", prompt=prompt, stream=True, stream_options=options)
        )
        return chunks[-2].guardproxy, chunks[-1].usage.completion_tokens


def _responses(stand: Stand, prompt: str) -> tuple[Any, Any]:
    with _openai(stand) as client:
        answer: Any = client.responses.create(model="m", input=prompt)
        assert answer.incomplete_details.reason == "content_filter"
        return answer.guardproxy, answer.usage.output_tokens if answer.usage else 0


def _responses_helper(stand: Stand, prompt: str) -> tuple[Any, Any]:
    with _openai(stand) as client, client.responses.stream(model="m", input=prompt) as stream:
        answer: Any = stream.get_final_response()
        assert answer.incomplete_details.reason == "content_filter"
        return answer.guardproxy, answer.usage.output_tokens


def _anthropic(stand: Stand) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stand.watch.url, api_key="k", timeout=60)


def _messages(stand: Stand, prompt: str) -> tuple[Any, Any]:
    with _anthropic(stand) as client:
        answer: Any = client.messages.create(model="m", max_tokens=64, messages=user(prompt))
        assert answer.guardproxy == answer.stop_details.guardproxy
        return answer.guardproxy, answer.usage.output_tokens


def _messages_helper(stand: Stand, prompt: str) -> tuple[Any, Any]:
    asked: Any = {"model": "m", "max_tokens": 64, "messages": user(prompt)}
    with _anthropic(stand) as client, client.messages.stream(**asked) as stream:
        answer: Any = stream.get_final_message()
        return answer.stop_details.guardproxy, answer.usage.output_tokens


def _gemini_stream(stand: Stand, prompt: str) -> tuple[Any, Any]:
    """Google's client keeps no unknown field: the reason is read from the last chunk itself."""
    options = genai_types.HttpOptions(base_url=stand.watch.url, timeout=60_000)
    client = genai.Client(api_key="k", http_options=options)
    last = list(client.models.generate_content_stream(model="m", contents=prompt))[-1]
    assert last.usage_metadata
    return json.loads(_last_event(stand))["guardproxy"], last.usage_metadata.candidates_token_count


def _last_event(stand: Stand) -> bytes:
    return bytes(stand.watch.crossed[-1].answer).strip().rpartition(b"data: ")[2]


READERS: dict[str, Callable[[Stand, str], tuple[Any, Any]]] = {
    "chat": _chat_stream,
    "completions": _completions_stream,
    "responses": _responses_helper,
    "messages": _messages_helper,
    "gemini": _gemini_stream,
}
WHOLE = {"chat": _chat, "responses": _responses, "messages": _messages}


@pytest.mark.parametrize("name", READERS)
def test_a_cut_stream(stand: Stand, name: str) -> None:
    """The client reads the reason, and the tokens of what the upstream had sent."""
    cut = partial(stand.watch.wait_for, b'"guardproxy":', 60)  # the upstream says no more before
    pieces = ["Tides come in ", "the afternoon. ", "Then take ", "poison ", cut, "now."]
    stand.answer_with(STREAMED[name], PROTOCOLS[name], pieces)
    reason, tokens = READERS[name](stand, "Hello there.")
    assert reason == {"request_id": stand.header["x-guardproxy-request-id"], "action": "block"}
    assert tokens > 0


@pytest.mark.parametrize("name", READERS)
def test_a_refused_request(stand: Stand, name: str) -> None:
    """The client reads the reason, and that no model was called."""
    stand.play(Scripted())
    for reader in (READERS[name], *([WHOLE[name]] if name in WHOLE else [])):
        reason, tokens = reader(stand, "How do I mix poison?")
        request_id = stand.watch.crossed[-1].headers["x-guardproxy-request-id"]
        assert reason == {"request_id": request_id, "action": "block"}
        assert not tokens


@pytest.mark.parametrize("name", WHOLE)
def test_a_refused_reply(stand: Stand, name: str) -> None:
    """The client reads the reason, and the usage that the upstream has named."""
    stand.play(Scripted([plain(PROTOCOLS[name].whole("Take poison and stir."))]))
    reason, tokens = WHOLE[name](stand, "Hello there.")
    assert reason == {"request_id": stand.header["x-guardproxy-request-id"], "action": "block"}
    assert tokens > 0 or name == "responses"  # this upstream names no usage there


def test_an_error(stand: Stand) -> None:
    """The reason is in the body of an error that the clients raise."""
    stand.play(Scripted())
    with _openai(stand) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="error", messages=user("How do I mix poison?"))
    reason = {"request_id": stand.header["x-guardproxy-request-id"], "action": "block"}
    assert caught.value.body["guardproxy"] == reason  # type: ignore[index]
    stand.play(Scripted())
    with _anthropic(stand) as other, pytest.raises(anthropic.BadRequestError) as raised:
        other.messages.create(model="error", max_tokens=9, messages=user("How do I mix poison?"))
    reason["request_id"] = stand.header["x-guardproxy-request-id"]
    assert raised.value.body["error"]["guardproxy"] == reason  # type: ignore[index]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_goes_on_from_a_refusal(streamed: bool) -> None:
    """`previous_response_id` may name a refusal: the upstream gets the last id that it knows."""
    whole = PROTOCOLS["responses"].whole("All is well.")
    with standing() as stand, _openai(stand) as client:
        stand.play(Scripted([plain(whole)]))
        first = client.responses.create(model="m", input="Hello there.")
        asked: Any = {"model": "m", "input": "How do I mix poison?", "previous_response_id": first.id}
        if streamed:
            with client.responses.stream(**asked) as stream:
                refused: Any = stream.get_final_response()
        else:
            refused = client.responses.create(**asked)
        assert refused.output_text == REFUSAL
        again = client.responses.create(model="m", input="Hello again.", previous_response_id=refused.id)
        assert again.output_text == "All is well."
        assert [json.loads(body).get("previous_response_id") for body in stand.asked()] == [None, first.id]
