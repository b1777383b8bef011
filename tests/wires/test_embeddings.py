"""Embeddings: every input is judged as user text, vectors pass, texts in a reply do not, and a block is an error."""

import json
import struct
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Request, Wire
from guardproxy.types import Edit, Refuse, Replace
from guardproxy.wires import ollama_embed, openai_embeddings
from guardproxy.wires.shared.embedding import vector
from guardproxy.wires.shared.message_builder import MessageBuilder

OPENAI = (openai_embeddings.wire, "/v1/embeddings")
OLLAMA = (ollama_embed.wire, "/api/embed")


def _read(wire: Wire, path: str, body: dict[str, Any]) -> Request:
    return wire.parse_request(path, json.dumps(body).encode())


def _parts(request: Request) -> list[tuple[str, str, str, str]]:
    messages = request.conversation.messages
    return [(m.role, p.kind, p.path, p.text or p.note) for m in messages for p in m.parts]


def floats(*values: float) -> str:
    return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def vectors(*each: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(each)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


@pytest.mark.parametrize(
    ("wire", "path", "body", "parts"),
    [
        (*OPENAI, {"input": "Hello there"}, [("user", "text", "input", "Hello there")]),
        (
            *OPENAI,
            {"input": ["One", [1, 2], {"text": "Two words"}], "user": "ann", "encoding_format": "base64"},
            [
                ("user", "text", "input[0]", "One"),
                ("user", "opaque", "input[1]", "token ids"),
                ("user", "text", "input[2]", '{"text": "Two words"}'),
            ],
        ),
        (*OPENAI, {"input": [1, 2]}, [("user", "opaque", "input", "token ids")]),
        (
            *OPENAI,
            {"input": "One", "instruction": "Tell me how to build it"},
            [("user", "text", "instruction", "Tell me how to build it"), ("user", "text", "input", "One")],
        ),
        (
            *OLLAMA,
            {"input": ["One", "Two"]},
            [("user", "text", f"input[{i}]", t) for i, t in enumerate(["One", "Two"])],
        ),
        (ollama_embed.wire, "/api/embeddings", {"prompt": "One"}, [("user", "text", "prompt", "One")]),
    ],
)
def test_inputs(wire: Wire, path: str, body: dict[str, Any], parts: list[tuple[str, str, str, str]]) -> None:
    """Every input is a user message, token ids are opaque, and texts elsewhere are judged."""
    request = _read(wire, path, {"model": "m", **body})
    assert _parts(request) == parts
    assert (request.model, request.stream) == ("m", False)


def test_an_input_is_edited_and_dropped() -> None:
    """A rewrite changes the text in its place."""
    request = _read(*OPENAI, {"model": "m", "input": ["One", "Two"]})
    assert json.loads(openai_embeddings.wire.edit_request(request, [Edit("input[1]", "2")], []))["input"] == [
        "One",
        "2",
    ]
    assert json.loads(openai_embeddings.wire.edit_request(request, [], [0]))["input"] == ["Two"]


@pytest.mark.parametrize(
    ("body", "place"),
    [({}, "input"), ({"input": []}, "input"), ({"input": [None]}, "input[0]"), ({"input": 3}, "input"),
     ({"input": "x", "stream": True}, "stream"), ({"input": [["a", 1]]}, "input[0]")],
)  # fmt: skip
def test_mistakes(body: dict[str, Any], place: str) -> None:
    """A body that the protocol does not have names the place."""
    with pytest.raises(Unreadable) as raised:
        _read(*OPENAI, {"model": "m", **body})
    assert raised.value.path == place


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_vectors_pass(values: list[float]) -> None:
    """A list of numbers, or their bytes in base64, is no text."""
    small = [value if abs(value) > 1e-9 else 0.0 for value in values]
    for embedding in (small, floats(*small), [round(value * 127) for value in small]):
        body = json.dumps(vectors(embedding)).encode()
        reply = openai_embeddings.wire.parse_reply(_read(*OPENAI, {"model": "m", "input": "x"}), body)
        assert reply.choices == ()
    lines = json.dumps({"model": "m", "embeddings": [small], "total_duration": 5}).encode()
    assert ollama_embed.wire.parse_reply(_read(*OLLAMA, {"model": "m", "input": "x"}), lines).choices == ()


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=12, max_size=60), st.booleans())
def test_a_text_is_no_vector(text: str, encoded: bool) -> None:
    """A sentence in place of a vector is judged, also as base64 of its bytes."""
    text = f"how to build it {text}"
    builder = MessageBuilder(UpstreamUnreadable)
    vector(builder, b64encode(text.ljust(len(text) + -len(text) % 4).encode()).decode() if encoded else text, "e")
    assert builder.message("assistant").parts


def test_texts_of_a_reply() -> None:
    """A text beside the vectors is judged; refused, an error takes the reply's place."""
    request = _read(*OPENAI, {"model": "m", "input": "x"})
    body = {**vectors([0.5]), "note": "Here is how to build it"}
    reply = openai_embeddings.wire.parse_reply(request, json.dumps(body).encode())
    ((part,),) = (choice.parts for choice in reply.choices)
    assert (part.path, part.text) == ("note", "Here is how to build it")
    refused = json.loads(openai_embeddings.wire.edit_reply(request, reply, {0: Refuse("No.")}))
    assert refused["error"]["message"] == "No."
    assert "data" not in refused
    edited = openai_embeddings.wire.edit_reply(request, reply, {0: Replace((Edit("note", "Hm"),))})
    assert json.loads(edited) == {**body, "note": "Hm"}
    with pytest.raises(UpstreamUnreadable, match="not streamed"):
        openai_embeddings.wire.open_stream(request, "text/event-stream")
