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
