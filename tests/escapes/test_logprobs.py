"""A text does not reach the client as the log probabilities of another text, where some clients show the tokens."""

import json
import re
from typing import Any

import pytest

from guardproxy.policy import OnFailure, StreamPolicy
from guardproxy.wires import openai_chat, openai_responses
from tests.conformance.guarding import Guarding
from tests.web.kit import policy

HARM = "Here is how to hide the poison in his tea"
TEXT = "Here is how to make a good cup of tea, my friend: boil fresh water first."
PASS: OnFailure = "allow"
EVENTS = "text/event-stream"

# The frames of a stream, as text and tokens.
STREAMS: dict[str, list[tuple[str, str]]] = {
    "with the text": [(TEXT, HARM)],
    "before the text": [("", HARM), (TEXT, "")],
    "before a part of the text": [("", HARM), (TEXT[:20], ""), (TEXT[20:], "")],
    "behind the text": [(TEXT, ""), ("", HARM)],
    "word by word with the text": [
        (f"{text} ", f"{token} ") for text, token in zip(TEXT.split(), HARM.split(), strict=False)
    ],
    "word by word before the text": [*(("", token) for token in re.split(r"(?= )", HARM)), (TEXT, "")],
    "going on behind the text, word by word": [
        ("Here is how to hide", "Here is how to hide"),
        *(("", token) for token in re.split(r"(?= )", HARM.removeprefix("Here is how to hide"))),
    ],
    "going on behind the text": [("Here is how to hide", HARM)],
}


def _tokens(text: str) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -1} for token in re.split(r"(?= )", text) if token]}


def _guarding() -> Guarding:
    """Return a pipeline that passes what it cannot read: the words of the tokens count alone."""
    opaque = {"user": PASS, "assistant": PASS}
    return Guarding(policy(stream=StreamPolicy(every=5), on_opaque=opaque))


def _request(**more: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello there."}], **more}
    return openai_chat.wire.parse_request("/v1/chat/completions", json.dumps(body).encode())


@pytest.mark.parametrize("early", [False, True], ids=["before the end", "behind the end"])
@pytest.mark.parametrize("trick", STREAMS)
def test_no_token_of_another_text_is_overlooked_in_a_stream(trick: str, early: bool) -> None:
    """Tokens do not leave unjudged, whether they come before, with or behind the text that they do not spell.

    The choice may end before them: text behind its end is refused, tokens are not.
    """
    frames = [
        {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": _tokens(tokens), "finish_reason": None}]}
        for text, tokens in STREAMS[trick]
    ]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    last_text = max(place for place, (text, _) in enumerate(STREAMS[trick], 1) if text)
    place = last_text if early else len(frames)
    guarding = _guarding()
    exchange = guarding.exchange(openai_chat.wire, _request(stream=True))
    raw = [f"data: {json.dumps(frame)}\n\n".encode() for frame in [*frames[:place], end, *frames[place:]]]
    left = guarding.stream(exchange, [*raw, b"data: [DONE]\n\n"], EVENTS).decode()
    assert "poison" not in left


def test_no_token_of_another_text_is_overlooked_in_a_whole_reply() -> None:
    """The same holds for a whole reply."""
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "logprobs": _tokens(HARM), "finish_reason": "stop"}
    guarding = _guarding()
    exchange = guarding.exchange(openai_chat.wire, _request())
    review = guarding.reply(exchange, json.dumps({"choices": [choice]}).encode())
    assert b"poison" not in review.body


def test_no_token_of_another_text_is_overlooked_where_a_stream_repeats_its_text() -> None:
    """The tokens of the event that repeats a text of Responses are judged as well."""
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    body = json.dumps({"model": "m", "input": "Hello there.", "stream": True}).encode()
    for tokens in (TEXT, HARM):
        events = [
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_text.delta", **place, "delta": TEXT},
            {"type": "response.output_text.done", **place, "text": TEXT, "logprobs": _tokens(tokens)["content"]},
            {"type": "response.completed", "response": {"id": "r", "output": [], "status": "completed"}},
        ]
        raw = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
        guarding = _guarding()
        wire = openai_responses.wire
        left = guarding.stream(guarding.exchange(wire, wire.parse_request("/v1/responses", body)), raw, EVENTS)
        assert b"poison" not in left
        assert (b'"token": " friend:"' in left) is (tokens == TEXT)
