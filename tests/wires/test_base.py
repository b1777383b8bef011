"""What all protocols do alike: models, flags, refusals, and the fields that a message stands in."""

import hashlib
import json
from typing import Any

import pytest

from guardproxy.errors import Unreadable
from guardproxy.types import Message, Part, Refuse
from guardproxy.wires.shared.base import message_list, request_digest, stream_flag, with_tool_results
from tests.wires.kit import BY_NAME, CASES

BODIES = [case for case in CASES if "model" in case.body]


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case.name)
def test_the_model_is_the_body_s(case: Any) -> None:
    """A request names its model; one without a model names the empty text, and any other value is refused."""
    assert case.request(model="gpt-4").model == "gpt-4"
    without = {key: value for key, value in case.body.items() if key != "model"}
    assert case.wire.parse_request(case.path, json.dumps(without).encode()).model == ""
    for model in (1, ["m"]):
        with pytest.raises(Unreadable) as refused:
            case.request(model=model)
        assert (refused.value.path, str(refused.value)) == ("model", "model: must be a string")


HELLO = {"role": "user", "content": "hello"}


def test_every_model_that_a_request_names() -> None:
    """The protocol's model comes first, with its place; then those of other fields and of the query."""
    wire = BY_NAME["chat"].wire

    def models(query: str = "", **body: Any) -> list[tuple[str, str]]:
        raw = json.dumps({"messages": [HELLO], **body}).encode()
        return [*wire.models(wire.parse_request(f"/v1/chat/completions{query}", raw))]

    assert models(model="a")[0] == ("model", "a")
    assert models("?model=b", model="a", models=["c"])[1:] == [("model", "a"), ("models[0]", "c"), ("?model", "b")]
    assert models(model=" ", models=["c"]) == [("models[0]", "c")]
    gemini = BY_NAME["gemini"]
    assert [*gemini.wire.models(gemini.request())] == [("the path", "gemini-2.5-flash")]


def test_identifiers_with_many_words_are_a_message_of_the_user() -> None:
    """It comes first, and can be removed from the fields that the identifiers stand in."""
    case = BY_NAME["chat"]
    few = {"user": "flamingo-walrus", "safety_identifier": "ostrich", "prompt_cache_key": "kettle-pillow"}
    assert [message.text for message in case.request(messages=[HELLO], **few).conversation.messages] == ["hello"]
    fields = few | {"model": "mattress-curtain"}
    request = case.request(messages=[HELLO], **fields)
    first, second = request.conversation.messages
    assert (first.role, second.text) == ("user", "hello")
    assert {part.path: part.text for part in first.parts} == fields
    assert [{*places} for places in request.places] == [{*fields}, {"messages[0]"}]
    assert json.loads(case.wire.edit_request(request, [], [0]))["messages"] == [HELLO]


def test_an_ordinary_request_is_not_structured() -> None:
    """Only a request that asks for JSON is."""
    for case in CASES:
        assert not case.request().structured, case.name
    assert BY_NAME["chat"].request(response_format={"type": "json_object"}).structured


def test_streams_of_lines_have_no_keepalives() -> None:
    """Event streams are kept alive by comments, which JSON lines do not have."""
    chat, ollama = BY_NAME["chat"].wire, BY_NAME["ollama-chat"].wire
    assert (chat.keepalive, chat.lines) == (b": keep-alive\n\n", False)
    assert ollama.lines


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_has_the_shape_that_the_policy_names(case: Any) -> None:
    """`error` is the protocol's error body with HTTP 400, `completion` an answer with HTTP 200."""
    request = case.request()
    error = case.wire.refuse(request, Refuse("No.", "error"))
    why = {"guardproxy": {"request_id": "", "action": "block"}}
    assert error == case.wire.error(400, "content_filter", "No.", why)
    assert error.status == 400
    answer = case.wire.refuse(request, Refuse("No."))
    assert (answer.status, answer == case.wire.refusal(request, Refuse("No."))) == (200, True)
    assert b"No." in error.body
    assert b"No." in answer.body


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": {}}, {"messages": None}])
def test_a_list_of_messages_is_needed(body: dict[str, Any]) -> None:
    """The error names the list and what it is of."""
    with pytest.raises(Unreadable, match="must be a list of at least one message") as refused:
        message_list(body, "messages")
    assert refused.value.path == "messages"
    with pytest.raises(Unreadable, match="at least one content"):
        message_list(body, "messages", "content")
    assert message_list({"messages": [1]}, "messages") == [1]


@pytest.mark.parametrize("stream", ["true", 1, []])
def test_stream_is_a_boolean(stream: Any) -> None:
    """A flag that parsers could take either way is refused."""
    with pytest.raises(Unreadable) as refused:
        stream_flag({"stream": stream})
    assert str(refused.value) == "stream: must be true or false"
    assert [stream_flag(body) for body in ({}, {"stream": None}, {"stream": True}, {"stream": False})] == [
        None,
        None,
        True,
        False,
    ]


def test_an_answer_without_an_upstream_has_the_request_s_digest() -> None:
    """The id is the same for the same bytes: 24 hexadecimal digits."""
    request = BY_NAME["chat"].request()
    assert request_digest(request) == hashlib.sha256(request.raw).hexdigest()[:24]
    assert len(request_digest(request)) == 24


def test_a_tool_s_text_is_a_result() -> None:
    """The texts of a tool's message are results; its other parts, and other messages, stay as they are."""
    parts = (Part("a", "x"), Part("b", "", "opaque"), Part("c", "y", "refusal"))
    assert [part.kind for part in with_tool_results(Message("tool", parts)).parts] == [
        "tool_result",
        "opaque",
        "refusal",
    ]
    user = Message("user", parts)
    assert with_tool_results(user) is user


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_posts_to_its_paths_are_a_wire_s(case: Any) -> None:
    """The query does not count, the method and the rest of the path do."""
    path = case.path.partition("?")[0]
    assert case.wire.claims("POST", path)
    assert case.wire.claims("POST", f"{path}?a=b?c")
    assert not case.wire.claims("GET", path)
    assert not case.wire.claims("POST", f"{path}/more")
