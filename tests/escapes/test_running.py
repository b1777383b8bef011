"""Tricks as a user would try them: requests to a running proxy, whose upstream must not see them."""

import json

import httpx
import pytest

from guardproxy.policy import JudgeScope, Policy, PolicySet, Route, Rule, SideRules
from guardproxy.views import VIEWS
from tests.escapes import tricks
from tests.escapes.attempts import KnowsThem, prompts
from tests.escapes.disguises import DISGUISES
from tests.web.kit import completion, standing

BLOCK = SideRules({"*": (Rule("block", 0.5),)})
POLICY = Policy("default", "v", BLOCK, BLOCK, views=VIEWS, judge=JudgeScope(("user", "tool")), history="block")
SPLIT = [name for name in tricks.places() if name.startswith("split") and name not in tricks.BY_CONTEXT]
HIDDEN = [name for name in DISGUISES if "apart" in name or "decoys" in name]


def bodies(trick: str) -> list[tricks.Placed]:
    """Three requests with the trick."""
    texts = prompts()[::24]
    if trick in DISGUISES:
        return [tricks.ask(tricks.user(DISGUISES[trick](text))) for text in texts]
    return [tricks.places()[trick](text) for text in texts]


@pytest.mark.parametrize("trick", [*SPLIT, *HIDDEN])
def test_the_upstream_does_not_see_it(trick: str) -> None:
    """The text is refused, and the coverage of a harmless request before it is full."""
    policies = PolicySet({"default": POLICY}, version="v")
    with standing(completion("Fine."), guard=KnowsThem(prompts()), policies=policies) as (url, upstream):
        harmless = httpx.post(f"{url}/v1/chat/completions", json=tricks.ask(tricks.user("Hello.")))
        answers = [
            httpx.post(
                f"{url}/v1/chat/completions",
                content=body if isinstance(body, bytes) else json.dumps(body),
                headers={"content-type": "application/json"},
            )
            for body in bodies(trick)
        ]
    assert (harmless.headers["x-guardproxy-action"], harmless.headers["x-guardproxy-coverage"]) == ("pass", "full")
    assert {answer.headers["x-guardproxy-action"] for answer in answers} == {"block"}
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("field", ["models", "fallbacks", "fallback_models", "extra_body"])
def test_another_model_chooses_no_policy(field: str) -> None:
    """A model with a strict policy is not reached as the second choice of a request under a laxer policy."""
    lax = Policy("lax", "v", SideRules({}), SideRules({}))
    policies = PolicySet({"default": lax, "strict": POLICY}, (Route("strict", "strict", model="strong-*"),))
    named = {"models": ["strong-1"]} if field == "extra_body" else ["weak", "strong-1"]
    with standing(completion("Fine."), guard=KnowsThem(prompts()), policies=policies) as (url, upstream):
        body = {**tricks.ask(tricks.user(prompts()[0])), "model": "weak"}
        first = httpx.post(f"{url}/v1/chat/completions", json=body)
        other = httpx.post(f"{url}/v1/chat/completions", json={**body, field: named})
    assert (first.status_code, other.status_code) == (200, 400)
    assert (
        f"{field}{'.models[0]' if field == 'extra_body' else '[1]'} names a model" in other.json()["error"]["message"]
    )
    assert len(upstream.seen) == 1
