"""Bodies of any shape, sent to the guard's APIs for gateways: an answer that passes them, or an error of the caller."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardproxy.web.bedrock import BedrockApi
from guardproxy.web.litellm import LITELLM, LitellmApi, texts_of
from guardproxy.web.moderations import MODERATIONS, ModerationsApi
from guardproxy.web.nemo import CHECKS, NemoApi
from guardproxy.wires.openai_chat import wire
from tests.web.gateways import ApiStand

OPENED: dict[str, Callable[[], ApiStand]] = {
    "bedrock": lambda: ApiStand(lambda parts, _: BedrockApi(parts), "/guardrail/g/version/1/apply"),
    "litellm": lambda: ApiStand(lambda parts, pipeline: LitellmApi(parts, pipeline, wire), LITELLM),
    "moderations": lambda: ApiStand(lambda parts, _: ModerationsApi(parts), MODERATIONS),
    "nemo": lambda: ApiStand(lambda parts, pipeline: NemoApi(parts, pipeline, wire), CHECKS),
}
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "text",
        "type",
        "image",
        "image_url",
        "tool_calls",
        "function",
        "arguments",
        "name",
        "id",
        "url",
    ]
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats()
    | st.sampled_from(
        [
            "user",
            "assistant",
            "tool",
            "text",
            "image_url",
            "hello",
            "a bullet",
            "Hello. A bruise.",
            "INPUT",
            "request",
            "\ud83d",
        ]
    )
)
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
PART = st.fixed_dictionaries({"type": st.just("text"), "text": VALUE}) | VALUE
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.lists(PART, max_size=3) | VALUE},
    optional={"tool_calls": VALUE, "name": VALUE, "tool_call_id": VALUE},
)
MESSAGES = st.lists(MESSAGE | VALUE, max_size=4)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "messages": MESSAGES | VALUE,
        "structured_messages": MESSAGES,
        "texts": st.lists(st.text(max_size=5) | VALUE, max_size=3) | VALUE,
        "input_type": st.sampled_from(["request", "response"]) | VALUE,
        "source": st.sampled_from(["INPUT", "OUTPUT"]) | VALUE,
        "content": st.lists(
            st.fixed_dictionaries({"text": st.fixed_dictionaries({"text": VALUE})}) | VALUE, max_size=3
        ),
        "input": st.lists(PART, max_size=3) | VALUE,
        **dict.fromkeys(
            ["model", "images", "tools", "tool_calls", "guardrails", "request_data", "litellm_call_id"], VALUE
        ),
    },
)


@pytest.mark.parametrize("name", OPENED)
@given(body=BODY, matching=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_makes_an_api_fail(name: str, body: dict[str, Any], matching: bool) -> None:
    """It is answered, or it is a mistake of the caller's; never one of the guard's."""
    messages = body.get("structured_messages")
    if matching and messages is not None:
        body = {**body, "texts": texts_of(messages), "input_type": "request"}
    status, answer = OPENED[name]().ask(body)
    assert status in {200, 400, 413}, (status, answer, json.dumps(body))
