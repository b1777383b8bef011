"""The moderation endpoint, asked with the official SDK over a real socket."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from random import Random
from typing import Any

import httpx
import openai
import pytest
from openai import BaseModel
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from guardproxy.access import Client, ClientKey, Clients
from guardproxy.errors import Overloaded, TooLarge, Unreadable
from guardproxy.observe import Metrics, Observers
from guardproxy.observe.masking import short_hash
from guardproxy.pipeline import Judging
from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.policy import Route as Chosen
from guardproxy.settings import AuditSettings, Limits
from guardproxy.types import Check, Verdict
from guardproxy.web.access import Access
from guardproxy.web.apis import ApiParts, parsed
from guardproxy.web.identities import Identities
from guardproxy.web.moderations import WITHIN, ModerationsApi, parse
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.sample import ReviewSample
from tests.kit import ListSink, WordGuard, serve

WORDS = {
    "bullet": ("guns_illegal_weapons", 0.8),
    "swindle": ("criminal_planning", 0.6),
    "bruise": ("violence_hate", 0.7),
    "tipsy": ("regulated_substances", 0.3),
}
RULES = SideRules({"*": (Rule("block", 0.5),), "unsafe": (Rule("block", 0.75),)})


@contextmanager
def standing(**changes: Any) -> Iterator[str]:
    """Serve the endpoint alone, with a guard that finds words; yield its URL."""
    metrics = Metrics(CollectorRegistry())
    guard = changes.get("guard", WordGuard(WORDS))
    observers = Observers(changes.get("sinks", {}), metrics=metrics, text="full", required=True)
    judging = Judging(guard, observers, metrics, {})
    identities, sample = Identities(AuditSettings()), ReviewSample(changes.get("share", 0.0), Random(1))
    access = changes.get("access") or Access()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await observers.start()
        yield
        await observers.close()

    policies = LivePolicies(changes.get("policies", PolicySet({"default": Policy("default", "v", RULES, RULES)})))
    limits, ready = changes.get("limits", Limits()), changes.get("ready", lambda: "")
    parts = ApiParts(judging, policies, limits, ready, identities, sample, access, metrics)
    routes = [Route("/v1/moderations", ModerationsApi(parts))]
    with serve(Starlette(routes=routes, lifespan=lifespan)) as url:
        yield url


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """The official client in front of the endpoint."""
    with standing() as url, openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60) as sdk:
        yield sdk


def ours(parsed: BaseModel) -> dict[str, object]:
    """The categories that are not OpenAI's."""
    return {name: value for name, value in (parsed.model_extra or {}).items() if name not in WITHIN}


def test_a_text_has_one_result(client: openai.OpenAI) -> None:
    """A harmful text is flagged in the categories that reach their thresholds, OpenAI's and guardproxy's."""
    answer = client.moderations.create(input="a bullet", model="omni-moderation-latest")
    (result,) = answer.results
    assert answer.model == "words"
    assert answer.id.startswith("modr-")
    assert result.flagged
    assert (result.categories.illicit, result.category_scores.illicit) == (True, 0.8)
    assert (result.categories.illicit_violent, result.category_scores.illicit_violent) == (True, 0.8)
    assert result.category_applied_input_types.illicit == ["text"]
    assert ours(result.category_scores) == {"guns_illegal_weapons": 0.8, "unsafe": 0.8}
    assert ours(result.categories) == {"guns_illegal_weapons": True, "unsafe": True}


def test_what_has_no_score_is_null(client: openai.OpenAI) -> None:
    """A category of OpenAI's without a score is null and applies to no input type, even if a wider one has a score."""
    (result,) = client.moderations.create(input="a bruise").results
    assert result.flagged
    assert ours(result.categories) == {"violence_hate": True, "unsafe": False}
    assert result.categories.violence is None
    assert result.category_scores.violence is None
    assert result.category_applied_input_types.violence == []


def test_under_its_threshold_a_score_is_told_and_not_flagged(client: openai.OpenAI) -> None:
    """Every score is in the result; the policy's thresholds decide what is flagged."""
    (result,) = client.moderations.create(input="tipsy").results
    assert not result.flagged
    assert (result.categories.illicit, result.category_scores.illicit) == (False, 0.3)


def test_a_list_of_texts_has_a_result_each(client: openai.OpenAI) -> None:
    """Results come in the order of the texts."""
    answer = client.moderations.create(input=["hello", "a swindle", "a bullet", "   "])
    assert [result.flagged for result in answer.results] == [False, True, True, False]
    assert [result.category_scores.illicit for result in answer.results] == [None, 0.6, 0.8, None]


def test_message_parts_are_one_text(client: openai.OpenAI) -> None:
    """A list of parts has a single result."""
    parts: Any = [{"type": "text", "text": "hello"}, {"type": "text", "text": "a bullet"}]
    assert [result.flagged for result in client.moderations.create(input=parts).results] == [True]


def test_an_image_is_refused_not_passed(client: openai.OpenAI) -> None:
    """An image is an error of the request, with its path: a remote one, and any for a guard that reads text only."""
    text, images = (
        {"type": "text", "text": "hello"},
        {"https://x/y.png": "not fetched", "data:image/png;base64,QQ==": "text only"},
    )
    for url, why in images.items():
        parts: Any = [text, {"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(openai.BadRequestError, match=rf"input\[1\]\.image_url\.url: .*{why}"):
            client.moderations.create(input=parts)


def test_a_guard_that_fails_is_no_result(client: openai.OpenAI) -> None:
    """If the guard fails on one of several texts, the answer is an error and no result."""
    with pytest.raises(openai.InternalServerError, match="the guard is unavailable") as caught:
        client.with_options(max_retries=0).moderations.create(input=["hello", "FAIL"])
    assert caught.value.status_code == 503


def test_a_policy_is_chosen_by_route() -> None:
    """Routes apply to this path as to any other."""
    strict = Policy("strict", "v", SideRules({"*": (Rule("flag", 0.1),)}), RULES)
    policies = PolicySet({"default": Policy("default", "v", RULES, RULES), "strict": strict})
    chosen = PolicySet(policies.policies, (Chosen("r", "strict", path="/v1/moderations", model="strict-*"),))
    with standing(policies=chosen) as url:
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60)
        flagged = [sdk.moderations.create(input="tipsy", model=m).results[0].flagged for m in ("strict-1", "other")]
    assert flagged == [True, False]


def test_every_text_is_recorded() -> None:
    """A text is a turn of the user, with its policy, its user and its session; the shadow policy's decision as well."""
    shadow = Policy("shadow", "v", SideRules({"*": (Rule("block", 0.2),)}), RULES)
    policies = {"default": Policy("default", "v", RULES, RULES), "shadow": shadow}
    chosen = PolicySet(policies, (Chosen("r", "default", path="/v1/moderations", shadow=("shadow",)),))
    sink = ListSink()
    with standing(policies=chosen, sinks={"list": sink}, share=1.0) as url:
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-client", timeout=60)
        raw = sdk.moderations.with_raw_response.create(
            input=["hello", "tipsy", "a bullet"],
            model="omni",
            extra_body={"user": "alice"},
            extra_headers={"x-session-id": "s1"},
        )
    rows = [(record.turn, record.text, record.shadow, record.decision.action) for record in sink.records]
    assert rows == [
        (0, "hello", False, "pass"),
        (0, "hello", True, "pass"),
        (1, "tipsy", False, "pass"),
        (1, "tipsy", True, "block"),
        (2, "a bullet", False, "block"),
        (2, "a bullet", True, "block"),
    ]
    assert {record.outcome for record in sink.records} == {"pass"}
    (origin,) = {record.origin for record in sink.records}
    assert (origin.wire, origin.route, origin.model, origin.upstream) == ("moderations", "r", "omni", "")
    assert (origin.user, origin.session) == (short_hash(b"alice"), short_hash(b"s1"))
    assert origin.client == short_hash(b"sk-client")
    assert raw.headers["x-guardproxy-request-id"] == origin.request_id
    assert all(record.sampled and record.side == "user" and record.reply is None for record in sink.records)
    assert [[part.path for part in record.coverage] for record in sink.records][::2] == [
        ["input[0]"],
        ["input[1]"],
        ["input[2]"],
    ]


def test_overload_says_when_to_come_back() -> None:
    """If the guard is overloaded, the answer is 503 with the seconds until it may accept the text."""

    class Busy(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            raise Overloaded("busy", retry_s=1.5)

    with standing(guard=Busy(WORDS)) as url:
        answer = httpx.post(f"{url}/v1/moderations", json={"input": "hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "2"


def test_a_text_that_was_not_judged_is_recorded() -> None:
    """If the guard fails, the record has the reason, and the answer names the request."""
    sink = ListSink()
    with standing(sinks={"list": sink}) as url:
        answer = httpx.post(f"{url}/v1/moderations", json={"input": ["hello", "FAIL"]})
    assert answer.status_code == 503
    assert [(record.text, record.error) for record in sink.records] == [("hello", ""), ("FAIL", "told to fail")]
    assert sink.records[0].origin.request_id == answer.headers["x-guardproxy-request-id"]


@pytest.mark.parametrize("host", ["guard.example", "a/v1/other", "a?b", "a#b", "a/v1/moderations/../x"])
def test_no_host_avoids_a_route(host: str) -> None:
    """The path is that of the request line: a path in the Host header is no part of it."""
    strict = Policy("strict", "v", SideRules({"*": (Rule("flag", 0.1),)}), RULES)
    policies = {"default": Policy("default", "v", RULES, RULES), "strict": strict}
    with standing(policies=PolicySet(policies, (Chosen("r", "strict", path="/v1/moderations"),))) as url:
        answer = httpx.post(f"{url}/v1/moderations", json={"input": "tipsy"}, headers={"host": host}, trust_env=False)
    assert answer.json()["results"][0]["flagged"] is True


def test_several_keys_are_refused() -> None:
    """Keys that lead to different policies are refused here, too."""
    policies = {name: Policy(name, "v", RULES, RULES) for name in ("default", "strict")}
    routes = (Chosen("r", "strict", client="6ab9f1eb8f7d3388"),)  # printf %s k1 | sha256sum | cut -c1-16
    with standing(policies=PolicySet(policies, routes)) as url:
        headers = {"api-key": "k2", "authorization": "Bearer k1"}
        answer = httpx.post(f"{url}/v1/moderations", json={"input": "hello"}, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ambiguous_request")


def test_it_waits_for_the_guard() -> None:
    """While the guard is not ready the answer is 503."""
    with standing(ready=lambda: "the guard is loading") as url:
        answer = httpx.post(f"{url}/v1/moderations", json={"input": "hello"}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the guard is loading")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"input": "\\ud83d"}', "unpaired surrogate"),
        (b'{"input": "a", "input": "b"}', "'input' twice"),
        (b"[]", "must be a JSON object"),
        (b"{}", "input: must be a text"),
        (b'{"input": []}', "input: must be a text"),
        (b'{"input": 5}', "input: must be a text"),
        (b'{"input": "a", "model": 5}', "model: must be a string"),
        (b'{"input": ["a", 5]}', r"input\[0\]: must be a message part"),
        (b'{"input": [{"type": "audio"}]}', r"input\[0\].type: must be 'text', not 'audio'"),
        (b'{"input": [{"type": "text"}]}', r"input\[0\].text: must be a string"),
    ],
)
def test_what_the_format_does_not_have_is_told(body: bytes, message: str) -> None:
    """Every error names the path of the mistake."""
    with pytest.raises(Unreadable, match=message):
        parse(parsed(body, Limits()), Limits())


@pytest.mark.parametrize(
    ("limits", "value"),
    [({"characters": 3}, "four"), ({"characters": 3}, ["ab", "cd"]), ({"messages": 1}, ["a", "b"])],
)
def test_more_than_the_limits_is_refused(limits: Mapping[str, int], value: object) -> None:
    """Too many texts or characters are refused, never cut."""
    with pytest.raises(TooLarge, match="limits"):
        parse(parsed(json.dumps({"input": value}).encode(), Limits(**limits)), Limits(**limits))


def test_a_body_over_the_limit_is_refused() -> None:
    """A body is not read beyond its limit."""
    with standing(limits=Limits(body_bytes=64)) as url:
        answer = httpx.post(f"{url}/v1/moderations", json={"input": "x" * 100}, trust_env=False)
    assert answer.status_code == 413


def test_all_of_the_formats_categories_are_there(client: openai.OpenAI) -> None:
    """The result has every category of the format."""
    raw = client.moderations.with_raw_response.create(input="hello").http_response.json()
    assert set(WITHIN) <= set(raw["results"][0]["categories"])
    assert set(WITHIN) <= set(raw["results"][0]["category_scores"])


def test_clients_and_their_limits_count_here_too() -> None:
    """Without a key 401; the texts count as characters of the client, whom the records name."""
    sink = ListSink()
    access = Access()
    known = ClientKey(sha256(b"k").digest())
    access.clients = Clients([Client("red", (known,), requests_per_minute=10, characters_per_minute=100)], b"secret")
    key = {"authorization": "Bearer k"}
    with standing(access=access, sinks={"list": sink}) as url:
        endpoint = f"{url}/v1/moderations"
        assert httpx.post(endpoint, json={"input": "hello"}).status_code == 401
        assert httpx.post(endpoint, json={"input": ["x" * 60, "x" * 30]}, headers=key).status_code == 200
        refused = httpx.post(endpoint, json={"input": "x" * 60}, headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 20
    assert {record.origin.client for record in sink.records} == {"red"}
