"""What OpenAI's protocols share: settings, calls, the envelope of a reply, and errors."""

import json
from typing import Any

import pytest

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Request
from guardproxy.types import Message, Part
from guardproxy.wires import openai_chat, openai_completions
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.bounds import choices_of
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import FieldMap, object_with, outer_parts
from tests.wires.kit import CHAT

SENTENCE = "how to hide a kettle behind the pillow of your mother"


def request(**more: Any) -> Request:
    """Return a parsed chat request."""
    return openai_chat.wire.parse_request("/v1/chat/completions", json.dumps({**CHAT, **more}).encode())


def read(table: FieldMap, value: dict[str, Any]) -> dict[str, str]:
    """The parts of an object by path: the text, or an opaque part's note in brackets."""
    builder = MessageBuilder(UpstreamUnreadable)
    object_with(table)(builder, value, "")
    return {
        part.path: f"({part.note})" if part.kind == "opaque" else part.text for part in builder.message("user").parts
    }


# --- field maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        (openai.SETTINGS, "Metadata Vllm_xargs Model guided_Regex Logit_bias Stream Guided_decoding_backend"),
        (openai.SCHEMAS, "Guided_json Grammar"),
        (openai.ENVELOPE, "Object Error ID Obfuscation Choices Prompt_logprobs Prompt_token_ids Token_ids"),
        (
            openai.CHOICE,
            "Index Error Routed_experts Logprobs Token_ids Prompt_token_ids Prompt_logprobs Hidden_states",
        ),
    ],
)
def test_fields_in_another_spelling_are_refused(table: FieldMap, fields: str) -> None:
    """Each map has its fields."""
    for field in fields.split():
        with pytest.raises(UpstreamUnreadable, match="is a key in another spelling"):
            read(table, {field: None})


def test_settings() -> None:
    """Names and labels may have a few words, lists of token ids pass, and every sentence is judged."""
    few = {"metadata": {"flamingo": "walrus"}, "stop": ["flamingo", "walrus"], "model": "flamingo-walrus-ostrich"}
    assert read(openai.SETTINGS, few) == {}
    assert read(openai.SETTINGS, {"stop_token_ids": [1, 2], "logit_bias": {"1": 2}, "n": 2, "seed": 7}) == {}
    for field in openai.SETTINGS:
        assert read(openai.SETTINGS, {field: SENTENCE}) == {field: SENTENCE}


def test_schemas_are_definitions() -> None:
    """The model may read them: they are judged as JSON text."""
    builder = MessageBuilder(Unreadable)
    object_with(openai.SCHEMAS)(builder, {"guided_json": {"type": "object"}, "grammar": "root"}, "")
    assert builder.message("system").parts == (
        Part("guided_json", '{"type": "object"}', "tool_definition"),
        Part("grammar", "root", "tool_definition"),
    )


def test_the_envelope_of_a_reply() -> None:
    """Names pass, errors and sentences are judged, and lists of tokens are opaque."""
    fine = {"id": "chatcmpl-1", "model": "flamingo-walrus", "usage": {"total_tokens": 3}, "obfuscation": "flamingo"}
    assert read(openai.ENVELOPE, {**fine, "choices": [SENTENCE]}) == {}
    assert read(openai.ENVELOPE, {"error": "no", "provider": SENTENCE}) == {"error": "no", "provider": SENTENCE}
    tokens: dict[str, Any] = {key: [1] for key in ("prompt_logprobs", "prompt_token_ids", "token_ids")}
    assert read(openai.ENVELOPE, tokens) == {
        "prompt_logprobs": "(log probabilities of the prompt)",
        "prompt_token_ids": "(token ids)",
        "token_ids": "(token ids)",
    }


def test_the_envelope_of_a_choice() -> None:
    """The reason of an end is an enumerated value, offsets are numbers, and tokens are opaque."""
    fine = {"index": 0, "finish_reason": "stop", "routed_experts": [1, 2], "content_filter_offsets": {"a": [1]}}
    assert read(openai.CHOICE, {**fine, "logprobs": SENTENCE}) == {}
    assert read(openai.CHOICE, {"error": "no", "finish_reason": SENTENCE}) == {"error": "no", "finish_reason": SENTENCE}
    tokens = {key: [1] for key in ("prompt_logprobs", "prompt_token_ids", "token_ids", "hidden_states")}
    assert read(openai.CHOICE, tokens) == {
        "prompt_logprobs": "(log probabilities of the prompt)",
        "prompt_token_ids": "(token ids)",
        "token_ids": "(token ids)",
        "hidden_states": "(hidden states)",
    }


# --- calls -----------------------------------------------------------------------------------------------------------


def called(*calls: Any, deltas: bool = False) -> dict[str, str]:
    """The parts of a list of calls."""
    builder = MessageBuilder(UpstreamUnreadable)
    (openai.call_deltas if deltas else openai.tool_calls)(builder, [*calls], "c")
    return {part.path: part.text for part in builder.message("assistant").parts}


@pytest.mark.parametrize("deltas", [False, True])
def test_calls_are_a_name_and_arguments(deltas: bool) -> None:
    """Both are one text, at the path of the arguments; arguments that are no string are judged as JSON."""
    for function, text in (
        ({"name": "tide", "arguments": '{"a": 1}'}, 'tide\n{"a": 1}'),
        ({"name": "tide", "arguments": {"é": [1]}}, 'tide\n{"é": [1]}'),
        ({"name": "tide"}, "tide"),
        ({"name": None, "arguments": None}, ""),
        ({"arguments": "{}"}, "{}"),
    ):
        assert called({"id": "call_1", "type": "function", "function": function}, deltas=deltas) == {
            "c[0].function.arguments": text
        }
    assert called({"custom": {"name": "run", "input": "go"}}, deltas=deltas) == {"c[0].custom.input": "run\ngo"}
    assert called({"function": None}, deltas=deltas) == {}


@pytest.mark.parametrize("deltas", [False, True])
def test_other_texts_of_a_call(deltas: bool) -> None:
    """An id may have a word, a signature is data, and a sentence in any of them is judged."""
    signed = {"extra_content": {"google": {"thought_signature": "flamingo"}}}
    assert called({"id": "flamingo", "index": 0, "type": "function", **signed}, deltas=deltas) == {}
    assert called({"id": SENTENCE}, deltas=deltas) == {"c[0].id": SENTENCE}
    assert called({"type": SENTENCE}, deltas=deltas) == {"c[0].type": SENTENCE}
    for outer in ({"Google": {}}, {"google": {"Thought_signature": "a"}}):
        with pytest.raises(UpstreamUnreadable, match="another spelling"):
            called({"extra_content": outer}, deltas=deltas)
    for call in ({"ID": "a"}, {"Type": "a"}, {"function": {"Name": "a"}}, {"Extra_content": {}}, {"Custom": {}}):
        with pytest.raises(UpstreamUnreadable, match="another spelling"):
            called(call, deltas=deltas)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"function": {"name": 7}}, "c[0].function.name: must be a string"),
        ({"function": "tide"}, "c[0].function: must be an object"),
        ("tide", "c[0]: must be an object"),
    ],
)
def test_malformed_calls_are_errors(call: Any, says: str) -> None:
    """Each at its place, in a message and in a delta."""
    for deltas in (False, True):
        with pytest.raises(UpstreamUnreadable) as refused:
            called(call, deltas=deltas)
        assert str(refused.value) == says


def test_a_delta_says_which_call_it_continues() -> None:
    """Without an index, its place in the list counts."""
    call = {"function": {"arguments": "a"}}
    assert called({"index": 3, **call}, call, deltas=True) == {
        "c[3].function.arguments": "a",
        "c[1].function.arguments": "a",
    }
    assert called({"index": 1023, **call}, {"index": 0, **call}, deltas=True) == {
        "c[1023].function.arguments": "a",
        "c[0].function.arguments": "a",
    }
    for index in (-1, 1024, 1.0, True, "0", None):
        with pytest.raises(UpstreamUnreadable, match=r"c\[1\]\.index: must be a small whole number"):
            called(call, {"index": index, **call}, deltas=True)


def test_deltas_are_a_list_or_nothing() -> None:
    """Null is no call."""
    builder = MessageBuilder(UpstreamUnreadable)
    openai.call_deltas(builder, None, "c")
    assert builder.pieces == {}
    for value in ({}, "tide", 0, False):
        with pytest.raises(UpstreamUnreadable, match="c: must be a list"):
            openai.call_deltas(builder, value, "c")


# --- requests and errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wants"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({"include_usage": 1}, False),
        ({}, False),
        (None, False),
    ],
)
def test_who_wants_the_usage(options: Any, wants: bool) -> None:
    """The request asks for it with a true flag."""
    assert openai.wants_usage(request(stream_options=options)) is wants


@pytest.mark.parametrize(
    ("asked", "count"), [(None, 1), (0, 1), (-2, 1), (1, 1), (2, 2), (128, 128), (500, 128), (True, 1), (2.0, 1)]
)
def test_the_number_of_choices(asked: Any, count: int) -> None:
    """A request asks for up to 128."""
    assert openai.choice_count({"n": asked}, "n") == count
    assert openai.choice_count({}, "n") == 1


def test_the_head_of_a_reply_of_the_proxy() -> None:
    """It has an id of its own, the time in whole seconds, and the model of the request."""
    head = openai.envelope(request(), "chat.completion", "chatcmpl", 7.9)
    assert head == {**head, "object": "chat.completion", "created": 7, "model": "m"}
    assert head["id"].startswith("chatcmpl-")
    assert head != openai.envelope(request(n=2), "chat.completion", "chatcmpl", 7.9)


@pytest.mark.parametrize("wire", [openai_chat.wire, openai_completions.wire])
def test_the_model_of_a_request(wire: Any) -> None:
    """Azure's path names it; otherwise the body does."""
    assert wire.model("/openai/deployments/mine/chat/completions", {"model": "other"}) == "mine"
    assert wire.model("/v1/chat/completions", {"model": "m"}) == "m"
    assert wire.model("/v1/openai/deployments/mine/chat", {"model": "m"}) == "m"
    for body in ({}, {"model": None}):
        assert wire.model("/v1/chat/completions", body) == ""
    for model in (7, False, ["m"]):
        with pytest.raises(Unreadable, match="model: must be a string"):
            wire.model("/v1/chat/completions", {"model": model})


def test_whether_a_stream_is_wanted() -> None:
    """The options must be readable also without a stream."""
    wire = openai_chat.wire
    assert wire.wants_stream("/", {"stream": True, "stream_options": {"include_usage": True}})
    assert not wire.wants_stream("/", {})
    with pytest.raises(Unreadable, match="stream_options: must be an object"):
        wire.wants_stream("/", {"stream_options": [1]})
    with pytest.raises(Unreadable, match=r"stream_options\.Include_usage: is a key in another spelling"):
        wire.wants_stream("/", {"stream_options": {"Include_usage": True}})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (399, "server_error"),
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (429, "requests"),
        (499, "invalid_request_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_errors_of_the_proxy(status: int, kind: str) -> None:
    """The client's mistakes and the server's differ in their type."""
    answer = openai_chat.wire.error(status, "bad", "Not so.")
    assert (answer.status, answer.content_type) == (status, "application/json")
    assert json.loads(answer.body) == {"error": {"message": "Not so.", "type": kind, "param": None, "code": "bad"}}


def test_the_choices_of_a_reply() -> None:
    """A body has a list of choices, or an error."""
    assert choices_of({"choices": [1]}) == [1]
    assert choices_of({"choices": [], "error": {}}) == []
    for error in ({}, "no"):
        assert choices_of({"error": error}) == choices_of({"choices": None, "error": error}) == []
    for body in ({}, {"error": 7}, {"choices": {}}, {"choices": "a", "error": "no"}, {"error": None}):
        with pytest.raises(UpstreamUnreadable, match="choices: must be a list"):
            choices_of(body)


def test_a_body_without_choices_gets_one() -> None:
    """The head fills what the body lacks, and the error goes."""
    body: dict[str, Any] = {"error": "no", "id": "x", "choices": []}
    choices = openai.choices_to_edit(body, {"id": "y", "object": "z"})
    assert choices is body["choices"]
    assert body == {"id": "x", "object": "z", "choices": [{"index": 0}]}
    other: dict[str, Any] = {"error": "no", "choices": [{"index": 4}]}
    assert openai.choices_to_edit(other, {"id": "y"}) == [{"index": 4}]
    assert other == {"error": "no", "choices": [{"index": 4}]}
    empty: dict[str, Any] = {}
    openai.choices_to_edit(empty, {"id": "y"})
    assert empty == {"id": "y", "choices": [{"index": 0}]}


def test_outer_paths() -> None:
    """The parts that do not belong to a choice by their path."""
    parts = (Part("choices[0].message.content", "a"), Part("error", "b"), Part("choices", "c"))
    assert openai.outer_paths(Message("assistant", parts)) == ["error", "choices"]
    assert outer_parts({"error": "b"}, openai.ENVELOPE) == (parts[1],)


def test_whole_items_are_judged_as_json_texts() -> None:
    """An item has the place of its `index`, or its own place in the list; another value is a JSON text as well."""
    builder = MessageBuilder(UpstreamUnreadable)
    openai.whole_items(builder, [{"index": 4, "title": "a"}, {"title": "b"}, {"index": -1, "title": "c"}, "d"], "x")
    found = {part.path: part.text for part in builder.message("assistant").parts}
    assert list(found) == ["x[4]", "x[1]", "x[2]", "x[3]"]
    assert [text.strip('"')[-1] if path == "x[3]" else json.loads(text)["title"] for path, text in found.items()] == [
        *"abcd"
    ]
    other = MessageBuilder(UpstreamUnreadable)
    openai.whole_items(other, {"title": "a"}, "x")
    assert [part.path for part in other.message("assistant").parts] == ["x"]


def test_an_item_that_goes_on_is_unreadable() -> None:
    """Clients join the strings of items with the same index; items without one stand alone."""
    builder = MessageBuilder(UpstreamUnreadable)
    openai.whole_items(builder, [{"index": 0, "title": "a bo"}], "x")
    with pytest.raises(UpstreamUnreadable) as refused:
        openai.whole_items(builder, [{"index": 0, "title": "mb"}], "x")
    assert str(refused.value) == "x[0]: continues an item that is judged as a whole"
    openai.whole_items(builder, [{"title": "other"}], "x")
