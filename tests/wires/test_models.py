"""The models that a request names beside its own."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.wires.shared.models import named_models
from tests.wires.test_unknown_fields import REQUESTS

FIELDS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("OpenRouter's list", {"models": ["a", "b"], "route": "fallback"}, [("models[0]", "a"), ("models[1]", "b")]),
    ("OpenRouter's preset", {"preset": "kind"}, [("preset", "@preset/kind")]),
    (
        "OpenRouter's plugin",
        {"plugins": [{"id": "x", "allowed_models": ["a"]}]},
        [("plugins[0].allowed_models[0]", "a")],
    ),
    ("LiteLLM's list", {"fallbacks": ["a", {"model": "b"}]}, [("fallbacks[0]", "a"), ("fallbacks[1].model", "b")]),
    ("LiteLLM's table", {"context_window_fallbacks": [{"m": ["a"]}]}, [("context_window_fallbacks[0].m[0]", "a")]),
    ("LiteLLM's dictionary", {"context_window_fallback_dict": {"m": "a"}}, [("context_window_fallback_dict.m", "a")]),
    ("several in a string", {"model": "a, b,"}, [("model", "a"), ("model", "b")]),
    ("Anthropic's list", {"fallbacks": [{"model": "a", "speed": "fast"}]}, [("fallbacks[0].model", "a")]),
    ("Anthropic's default", {"fallbacks": "default"}, [("fallbacks", "default")]),
    ("a tool's model", {"tools": [{"type": "advisor_20260301", "model": "a"}]}, [("tools[0].model", "a")]),
    (
        "Vertex AI's choice",
        {"generationConfig": {"routingConfig": {"manualMode": {"modelName": "a"}}}},
        [("generationConfig.routingConfig.manualMode.modelName", "a")],
    ),
    (
        "an adapter",
        {"lora_path": "a", "parameters": {"adapter_id": "b"}},
        [("lora_path", "a"), ("parameters.adapter_id", "b")],
    ),
    (
        "another spelling",
        {"Fallback-Models": ["a"], "model\u017f": "b"},
        [("Fallback-Models[0]", "a"), ("model\u017f", "b")],
    ),
    ("camel case", {"fastModel": "a", "FallbackModels": ["b"]}, [("fastModel", "a"), ("FallbackModels[0]", "b")]),
    ("an envelope", {"extra_body": {"deployment_id": "a"}}, [("extra_body.deployment_id", "a")]),
    ("an object", {"model": {"of": {"x": "a"}, "n": 1}}, [("model.of.x", "a")]),
    ("lists in lists", {"models": [["a"], [], [None, 1, " "]]}, [("models[0][0]", "a")]),
]


@pytest.mark.parametrize(("body", "named"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_fields(body: dict[str, Any], named: list[tuple[str, str]]) -> None:
    """Every model that a field names is found, with its place, in the order of the body."""
    assert list(named_models(body, "")) == named


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "hello", "model": "a"}], "prompt": {"variables": {"model": "a"}}},
        {
            "contents": [{"parts": [{"functionCall": {"name": "buy", "args": {"model": "a"}}}]}],
            "input": [{"model": "a"}],
        },
        {
            "tools": [
                {"input_schema": {"properties": {"model": {"type": "string", "enum": ["a"]}}, "required": ["model"]}}
            ]
        },
        {"tools": [{"parameters": {"default": {"model": "a"}, "examples": [{"model": "a"}]}}]},
        *({key: [{"model": "a"}]} for key in ("system", "systemInstruction", "system_instruction", "documents")),
        *({"tools": [{key: [{"model": "a"}]}]} for key in ("patternProperties", "$defs", "definitions", "example")),
        *({"tools": [{key: [{"model": "a"}]}]} for key in ("const", "enum")),
        {"draft_model": "a", "moderation": {"model": "a"}},
        {"allow_fallbacks": True, "models": [], "model": None, "fallback": {}},
        {"remodelled": "a", "model_version": "a", "modelArmorConfig": {"promptTemplateName": "a"}, "supermodels2": "a"},
    ],
)
def test_other_fields(body: dict[str, Any]) -> None:
    """Words of the conversation, the arguments of tools, and models that do not answer are none."""
    assert not list(named_models(body, "alt=sse&remodel=a"))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("model=a", [("?model", "a")]),
        ("x=1;%6dodel=a%2Fb", [("?model", "a/b")]),
        ("models=a,b&model=+c", [("?models", "a"), ("?models", "b"), ("?model", "c")]),
        ("model=&alt=sse", []),
    ],
)
def test_queries(query: str, named: list[tuple[str, str]]) -> None:
    """A server may take the model from the query."""
    assert list(named_models({}, query)) == named


_NESTED = st.recursive(
    st.just("other"),
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=2), st.fixed_dictionaries({"x": inner})),
)


@given(
    st.sampled_from(["model", "models", "fallbacks", "fallback_models", "modelId", "base-model", "LoRA_name"]),
    st.lists(st.sampled_from(["extra_body", "parameters", "a.b", "tools"]), max_size=3),
    _NESTED,
)
def test_any_depth(key: str, outer: list[str], value: Any) -> None:
    """A model is found in any lists and objects below its key, and the key in any objects."""
    body: Any = {key: value}
    for name in outer:
        body = {name: body}
    assert {name for _, name in named_models(body, "")} == {"other"}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_first_is_the_model_of_the_request(name: str) -> None:
    """Every wire names its own model first, whether the body or the path has it."""
    wire, path, body = REQUESTS[name]
    place = "the path" if name == "gemini" else "model"
    request = wire.parse_request(f"{path}?model=q", json.dumps({**body, "fallbacks": ["f"]}).encode())
    assert [(place, "m"), ("fallbacks[0]", "f"), ("?model", "q")] == list(dict.fromkeys(wire.models(request)))


def test_a_deployment_and_a_model() -> None:
    """With Azure's path both the deployment and the body's model count, and without any there is none."""
    wire, _, body = REQUESTS["chat"]
    request = wire.parse_request("/openai/deployments/d/chat/completions", json.dumps(body).encode())
    assert list(wire.models(request)) == [("the path", "d"), ("model", "m")]
    unnamed = wire.parse_request("/v1/chat/completions", json.dumps({**body, "model": " "}).encode())
    assert list(wire.models(unnamed)) == []
