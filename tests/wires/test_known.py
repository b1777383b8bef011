"""Strings of a request that are enumerated values: its tools' names, and what its reply may repeat."""

from collections.abc import Iterator
from typing import Any

import pytest

from guardproxy.ports import Request
from guardproxy.types import Conversation
from guardproxy.wires.shared.known import Known, repeated_in_reply, tool_names


def request(body: dict[str, Any], model: str = "m") -> Request:
    """Return a request with this body."""
    return Request("w", "/", model, False, Conversation(()), (), b"", body)


def test_the_strings_are_collected_when_somebody_asks() -> None:
    """Most bodies never need them, and none needs them twice."""
    collected: list[str] = []

    def source() -> Iterator[str]:
        for text in ("a", "b"):
            collected.append(text)
            yield text

    known = Known(source())
    assert collected == []
    assert ("a" in known, "b" in known, "c" in known, "a" in known) == (True, True, False, True)
    assert collected == ["a", "b"]


TOOLS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "chat": ({"tools": [{"type": "function", "function": {"name": "x y"}}]}, ["x y"]),
    "chat, custom": ({"tools": [{"type": "custom", "custom": {"name": "x y"}}]}, ["x y"]),
    "chat, old": ({"functions": [{"name": "x y"}, {"name": "z"}]}, ["x y", "z"]),
    "responses": ({"tools": [{"type": "function", "name": "x y"}, {"type": "mcp", "server_label": "z"}]}, ["x y", "z"]),
    "gemini": ({"tools": [{"functionDeclarations": [{"name": "x y"}, {"name": "z"}]}]}, ["x y", "z"]),
    "gemini, other spelling": ({"tools": [{"function_declarations": [{"name": "x y"}]}]}, ["x y"]),
    "gemini, a single tool": ({"tools": {"functionDeclarations": [{"name": "x y"}]}}, ["x y"]),
}


@pytest.mark.parametrize("protocol", TOOLS)
def test_names_of_tools(protocol: str) -> None:
    """Every protocol's definitions have names, which requests and replies repeat."""
    body, names = TOOLS[protocol]
    for known in (tool_names(body), repeated_in_reply(request(body))):
        assert all(name in known for name in names)
        assert "mcp" not in known
        assert "function" not in known


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": None},
        {"tools": "x y"},
        {"tools": ["x y"]},
        {"tools": [{"description": "x y"}]},
        {"tools": [{"parameters": {"name": "x y"}}]},
        {"tools": [{"name": ["x y"]}]},
        {"tools": [{"function": {"name": {"x y": 1}}}]},
        {"name": "x y"},
        {"messages": [{"name": "x y", "content": "x y"}]},
        {"tool_choice": {"name": "x y"}},
    ],
)
def test_other_strings_are_not_known(body: dict[str, Any]) -> None:
    """A description, a schema or a message names no tool."""
    assert "x y" not in tool_names(body)
    assert "x y" not in repeated_in_reply(request(body))


@pytest.mark.parametrize(
    "body",
    [
        {"model": "x y"},
        {"stop": "x y"},
        {"stop": ["a", "x y"]},
        {"stop_sequences": ["x y"]},
        {"options": {"stop": ["x y"]}},
        {"generationConfig": {"stopSequences": ["x y"]}},
        {"generation_config": {"stop_sequences": ["x y"]}},
    ],
)
def test_a_reply_repeats_settings(body: dict[str, Any]) -> None:
    """The model and the stop sequences, in every protocol's place; a request cannot point to them."""
    assert "x y" in repeated_in_reply(request(body))
    assert "x y" not in tool_names(body)


@pytest.mark.parametrize("body", [{}, {"options": "x y"}, {"options": ["x y"]}, {"options": {"seed": "x y"}}])
def test_a_reply_repeats_the_model_of_the_path(body: dict[str, Any]) -> None:
    """Some protocols name the model in the path. Other options are not repeated."""
    known = repeated_in_reply(request(body, model="my model"))
    assert ("my model" in known, "x y" in known) == (True, False)


def noted(*identifiers: str, names: tuple[str, ...] = ()) -> Known:
    """Return a set of these names in which identifiers have been noted, each at a path of its place."""
    known = Known(names)
    for place, identifier in enumerate(identifiers):
        known.note(f"x[{place}]", identifier)
    return known


SIX = ("flamingo", "walrus", "ostrich", "kettle", "pillow", "blanket")


def test_six_words_of_identifiers_are_not_judged() -> None:
    """A body may have that many words of its own, in whatever identifiers."""
    assert noted().take_texts() == []
    assert noted(*SIX).take_texts() == []
    assert noted("flamingo-walrus-ostrich", "kettle-pillow-blanket").take_texts() == []


def test_all_identifiers_are_judged_if_they_have_seven_words() -> None:
    """With the paths at which they were noted; a second call returns those since."""
    known = noted(*SIX, "mattress")
    assert known.take_texts() == [(f"x[{place}]", word) for place, word in enumerate((*SIX, "mattress"))]
    assert known.take_texts() == []
    known.note("y", "carpet")
    known.note("z", "curtain")
    assert known.take_texts() == [("y", "carpet"), ("z", "curtain")]
    assert known.take_texts() == []


def test_identifiers_that_are_not_counted() -> None:
    """Enumerated values, names of the request, and what was noted before have no words of their own."""
    assert noted(*SIX, "auto", "call_1", *SIX).take_texts() == []
    assert noted(*SIX, "mattress", names=("mattress",)).take_texts() == []
    known = noted("auto", "walrus", *SIX, "mattress", "walrus")
    assert [text for _, text in known.take_texts()] == ["walrus", "flamingo", *SIX[2:], "mattress"]
