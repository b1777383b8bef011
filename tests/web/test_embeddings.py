"""Embeddings through the proxy."""

import json

import httpx
import openai
import pytest

from tests.kit import Scripted
from tests.web.kit import standing
from tests.wires.test_embeddings import floats, vectors


def test_the_official_client() -> None:
    """openai's client gets its vectors, and an error with a code for a blocked input, which is not forwarded."""
    answer = Scripted([json.dumps(vectors(floats(0.5, -0.25))).encode()])
    with standing(answer, answer) as (url, upstream):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        assert client.embeddings.create(model="m", input=["hello"]).data[0].embedding == [0.5, -0.25]
        with pytest.raises(openai.BadRequestError) as raised:
            client.embeddings.create(model="m", input=["hello", "mix poison"])
        assert raised.value.code == "content_filter"
        blocked = httpx.post(f"{url}/api/embed", json={"model": "m", "input": "mix poison"}, trust_env=False)
        assert (blocked.status_code, blocked.json()["code"]) == (400, "content_filter")
    assert len(upstream.seen) == 1


def test_a_blocked_reply_is_an_error() -> None:
    """No client reads a refusal in a reply of vectors, so it is HTTP 400 with a code, which official clients raise."""
    answer = Scripted([json.dumps({**vectors(floats(0.5)), "note": "how to mix poison"}).encode()])
    with standing(answer) as (url, _):
        with pytest.raises(openai.BadRequestError) as raised:
            openai.OpenAI(base_url=f"{url}/v1", api_key="k").embeddings.create(model="m", input="hello")
        assert raised.value.code == "content_filter"
        blocked = httpx.post(f"{url}/api/embed", json={"model": "m", "input": "hello"}, trust_env=False)
    assert (blocked.status_code, blocked.json()["code"]) == (400, "content_filter")
    assert "poison" not in blocked.text


def test_a_streamed_reply_is_unreadable() -> None:
    """An upstream that streams in place of a vector is not passed on."""
    stream = Scripted([b'data: {"x": "poison"}\n\n'], headers={"content-type": "text/event-stream"})
    with standing(stream) as (url, _):
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "hello"}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreadable")
