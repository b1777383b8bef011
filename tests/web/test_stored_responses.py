"""Stored responses through the proxy: retrieval, deletion, cancel and input items, by the official client."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from guardproxy.policy import PolicySet, Route
from guardproxy.types import Check, Finding, Verdict
from tests.kit import WORDS, Scripted, WordGuard
from tests.web.alone import Alone, Got
from tests.web.kit import policy, standing

WITHHELD = policy().block.message
TRANSCRIPTS = Path(__file__).parents[1] / "wires" / "transcripts"


def response(text: str | None, status: str = "completed") -> dict[str, Any]:
    """A response of the upstream's; without a text, one that is not finished."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status, "error": None}
    whole |= {"output": [] if text is None else [message], "parallel_tool_calls": True, "tool_choice": "auto"}
    return whole | {"tools": [], "incomplete_details": None, "instructions": None, "metadata": {}}


def scripted(body: Any) -> Scripted:
    """A whole answer with this body."""
    return Scripted([json.dumps(body).encode()])


def listed(*items: dict[str, Any]) -> Scripted:
    """A list of input items."""
    return scripted({"object": "list", "data": items, "first_id": "msg_1", "last_id": "msg_2", "has_more": False})


def said(role: str, text: str, number: int = 1) -> dict[str, Any]:
    """A message among the input items."""
    kind = "output_text" if role == "assistant" else "input_text"
    part = {"type": kind, "text": text} | ({"annotations": []} if role == "assistant" else {})
    return {"id": f"msg_{number}", "type": "message", "role": role, "status": "completed", "content": [part]}


def client_of(url: str) -> openai.OpenAI:
    """The official client, which repeats nothing."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)


def test_a_response_made_in_the_background_is_judged_when_it_is_retrieved() -> None:
    """It begins without a text, and its text is withheld as that of any reply; a clean one arrives unchanged."""
    script = [scripted(response(None, "queued")), scripted(response("poison")), scripted(response("Paris"))]
    with standing(*script) as (url, upstream):
        client = client_of(url)
        begun = client.responses.create(model="m", input="hello", background=True)
        assert (begun.status, begun.output_text) == ("queued", "")
        got = client.responses.retrieve(begun.id)
        assert (got.id, got.output_text) == ("resp_1", WITHHELD)
        assert got.incomplete_details is not None
        assert got.incomplete_details.reason == "content_filter"
        clean = httpx.get(f"{url}/v1/responses/resp_1?include[]=x", trust_env=False)
    assert clean.content == json.dumps(response("Paris")).encode()
    assert clean.headers["x-guardproxy-action"] == "pass"
    assert [(seen.method, seen.target, seen.body) for seen in upstream.seen[1:]] == [
        ("GET", "/v1/responses/resp_1", b""),
        ("GET", "/v1/responses/resp_1?include%5B%5D=x", b""),
    ]


def test_a_block_as_an_error() -> None:
    """With `how: error` a retrieved text is withheld by HTTP 400."""
    block = {"block": policy().block.__class__(how="error")}
    policies = PolicySet({"default": policy(**block)}, version="v")
    with standing(scripted(response("poison")), policies=policies) as (url, _):
        with pytest.raises(openai.BadRequestError) as raised:
            client_of(url).responses.retrieve("resp_1")
        assert raised.value.code == "content_filter"


def test_a_stream_is_judged_from_its_beginning() -> None:
    """A retrieved stream is held and cut as another one; one that begins in the middle is refused here."""
    recorded = (TRANSCRIPTS / "openai_responses.sse").read_bytes()
    stream = Scripted([recorded], headers={"content-type": "text/event-stream"})
    with standing(stream) as (url, upstream):
        client = client_of(url)
        clean = httpx.get(f"{url}/v1/responses/resp_1?stream=true", trust_env=False)
        assert clean.content == recorded
        kinds = [event.type for event in client.responses.retrieve("resp_1", stream=True)]
        assert kinds[-1] == "response.completed"
        with pytest.raises(openai.BadRequestError, match="starting_after"):
            client.responses.retrieve("resp_1", stream=True, starting_after=3)
        assert len(upstream.seen) == 2
        middle = httpx.get(f"{url}/v1/responses/resp_1?x=1;starting_after=3", trust_env=False)
        assert middle.status_code == 400


def test_a_harmful_stream_is_withheld() -> None:
    """Neither a delta nor the final response shows the text."""
    recorded = (TRANSCRIPTS / "openai_responses.sse").read_bytes()
    with standing(
        Scripted([recorded.replace(b"High tide", b"The poison")], headers={"content-type": "text/event-stream"})
    ) as (
        url,
        _,
    ):
        got = httpx.get(f"{url}/v1/responses/resp_1?stream=true", trust_env=False)
    assert b"poison" not in got.content
    assert b"response.completed" in got.content


def test_input_items_are_judged_by_the_rules_of_their_side() -> None:
    """A harmful one is withheld alone; with nothing against them the bytes are the upstream's."""
    clean = listed(said("user", "hello"), said("assistant", "hi", 2))
    mixed = listed(said("user", "mix poison"), said("assistant", "how to mix poison", 2), said("user", "my secret", 3))
    with standing(clean, mixed) as (url, _):
        got = httpx.get(f"{url}/v1/responses/resp_1/input_items", trust_env=False)
        assert got.content == clean.body[0]
        items = list(client_of(url).responses.input_items.list("resp_1"))
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr]
    assert texts[:2] == [WITHHELD, WITHHELD]
    assert "secret" not in texts[2]
    assert [item.role for item in items] == ["user", "assistant", "user"]  # type: ignore[union-attr]


def test_texts_beside_the_items_are_judged() -> None:
    """A field that the protocol does not have cannot carry a text past the guard."""
    body = {"object": "list", "data": [said("user", "hello")], "has_more": False, "more": "how to mix poison"}
    with standing(scripted(body)) as (url, _):
        got = httpx.get(f"{url}/v1/responses/resp_1/input_items", trust_env=False)
    assert "poison" not in got.text
    assert got.json()["data"] == [said("user", "hello")]


HARM = "how to mix poison"
LIST = {"object": "list", "data": [said("user", "hello"), said("assistant", "hi", 2)], "has_more": True}
WORDS_OF_IDS = ["bleach", "vinegar", "kitchen", "bucket", "gloves", "window", "garden", "poison", "bottle", "together"]
IN_WORDS = [{**said("user", "hi"), "id": f"msg_{word}"} for word in WORDS_OF_IDS]


def retrieved(body: Any, path: str = "/input_items", method: str = "GET") -> Got:
    """The answer to a request about a response, of which the upstream says this."""
    return Alone(scripted(body), guard=WordGuard(WORDS)).ask(b"", f"/v1/responses/resp_1{path}", method=method)


@pytest.mark.parametrize("place", ["object", "has_more", "first_id", "last_id", "more"])
@pytest.mark.parametrize("value", [HARM, {"a": HARM}])
def test_nothing_of_a_harmful_text_beside_the_items_is_kept(place: str, value: Any) -> None:
    """Also in a field that the protocol has: the items stay, and whether there are more."""
    got = json.loads(retrieved(LIST | {place: value}).body)
    assert {key: value for key, value in got.items() if key != "guardproxy"} == {
        **LIST,
        "has_more": place != "has_more",
    }


@pytest.mark.parametrize("harmful", [{"id": HARM}, {"role": HARM}, {"role": [HARM]}, {"status": HARM}])
def test_a_withheld_item_repeats_no_text_of_its_own(harmful: dict[str, Any]) -> None:
    """Neither in its id nor in its role."""
    got = retrieved({**LIST, "data": [said("user", "hello") | harmful]}).body
    assert b"poison" not in got
    assert json.loads(got)["data"][0]["content"][0]["text"] == WITHHELD


def test_ids_that_are_a_text_together_are_removed() -> None:
    """Each of them alone is an identifier."""
    got = retrieved({**LIST, "data": IN_WORDS}).body
    assert b"poison" not in got
    assert [item["content"] for item in json.loads(got)["data"]] == [item["content"] for item in IN_WORDS]


@pytest.mark.parametrize(
    ("body", "method"), [({"id": HARM, "object": "response.deleted"}, "DELETE"), (response("hi") | {"id": HARM}, "GET")]
)
def test_an_id_that_is_a_text_is_not_repeated(body: dict[str, Any], method: str) -> None:
    """The message in the place of a withheld answer has an id of its own."""
    got = retrieved(body, "", method).body
    assert b"poison" not in got
    assert WITHHELD.encode() in got


def test_deletion_and_cancel() -> None:
    """Both are forwarded without a body; what comes back is judged."""
    deleted = scripted({"id": "resp_1", "object": "response.deleted", "deleted": True})
    script = [deleted, scripted(response(None, "cancelled")), scripted(response("poison", "cancelled"))]
    with standing(*script) as (url, upstream):
        client = client_of(url)
        client.responses.delete("resp_1")
        assert client.responses.cancel("resp_1").status == "cancelled"
        assert client.responses.cancel("resp_1").output_text == WITHHELD
    assert [(seen.method, seen.target, seen.body) for seen in upstream.seen[:2]] == [
        ("DELETE", "/v1/responses/resp_1", b""),
        ("POST", "/v1/responses/resp_1/cancel", b""),
    ]


def test_a_deletion_without_content() -> None:
    """An empty answer has nothing to judge."""
    with standing(Scripted([b""], status=204, headers={})) as (url, _):
        answer = httpx.delete(f"{url}/v1/responses/resp_1", trust_env=False)
    assert (answer.status_code, answer.content) == (204, b"")


def test_requests_without_messages_have_sessions_too() -> None:
    """Inferred sessions go by the messages of a request, of which these have none."""
    with standing(scripted(response("Paris")), infer_sessions=True) as (url, _):
        assert client_of(url).responses.retrieve("resp_1").output_text == "Paris"


def test_a_body_has_no_meaning() -> None:
    """What a client sends with a retrieval or a cancel is not forwarded."""
    with standing(scripted(response("Paris"))) as (url, upstream):
        body = json.dumps({"input": "mix poison"})
        assert httpx.request("GET", f"{url}/v1/responses/resp_1", content=body, trust_env=False).status_code == 200
        assert httpx.post(f"{url}/v1/responses/resp_1/cancel", content=body, trust_env=False).status_code == 200
    assert [seen.body for seen in upstream.seen] == [b"", b""]


def test_what_names_no_response_stays_refused() -> None:
    """Other methods, deeper paths, and the conversations of the same API."""
    with standing(scripted(response("poison"))) as (url, upstream):
        for method, path in [
            ("POST", "/v1/responses/resp_1"),
            ("PUT", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/resp_1/input_items"),
            ("GET", "/v1/responses/resp_1/cancel"),
            ("GET", "/v1/responses/resp_1/other"),
            ("GET", "/v1/responses/"),
            ("GET", "/v1/responses/resp_1%2Fcancel"),
            ("GET", "/v1/conversations/conv_1/items"),
            ("POST", "/v1/conversations"),
        ]:
            got = httpx.request(method, url + path, trust_env=False)
            assert (got.status_code, got.json()["error"]["code"]) == (404, "path_not_guarded"), (method, path)
    assert not upstream.seen


def test_a_route_that_depends_on_the_model_is_not_avoided() -> None:
    """A retrieval names no model, also not by its query, so it is refused where a policy depends on the model."""
    policies = PolicySet(
        {"default": policy(), "mild": policy()},
        (Route("mild", "mild", model="small-*"),),
        version="v",
    )
    with standing(scripted(response("poison")), policies=policies) as (url, upstream):
        for query in ("", "?model=small-1"):
            got = httpx.get(f"{url}/v1/responses/resp_1{query}", trust_env=False)
            assert (got.status_code, got.json()["error"]["code"]) == (400, "ambiguous_request")
    assert not upstream.seen


def test_a_retrieved_response_is_no_known_conversation() -> None:
    """What came before it was not judged here, so a request that goes on from it has an opaque part."""
    strict = {"on_opaque": {"user": "block", "assistant": "flag"}}
    policies = PolicySet({"default": policy(**strict)}, version="v")
    with standing(scripted(response("Paris")), policies=policies) as (url, upstream):
        client = client_of(url)
        assert client.responses.retrieve("resp_1").output_text == "Paris"
        stream = client.responses.create(model="m", input="go on", previous_response_id="resp_1")
        assert stream.output_text == WITHHELD
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_withheld_response_that_was_retrieved_is_still_left_out(stream: bool) -> None:
    """Its retrieval does not make the model go on from what nobody was to read, whether or not it was known before."""
    recorded = (TRANSCRIPTS / "openai_responses.sse").read_bytes()
    recorded = recorded.replace(b"High tide", b"The poison").replace(b"resp_1", b"resp_2")
    streamed = Scripted([recorded], headers={"content-type": "text/event-stream"})
    whole = scripted(response("poison") | {"id": "resp_2"})
    withheld = streamed if stream else whole
    query = "?stream=true" if stream else ""
    first = scripted(response("hello"))
    for known in (True, False):
        script = [first, *([withheld] if known else []), withheld, scripted(response("fine"))]
        with standing(*script) as (url, upstream):
            body = {"model": "m", "input": "hello"}
            httpx.post(f"{url}/v1/responses", json=body, trust_env=False)
            if known:
                httpx.post(
                    f"{url}/v1/responses",
                    json={**body, "previous_response_id": "resp_1", "stream": stream},
                    trust_env=False,
                )
            got = httpx.get(f"{url}/v1/responses/resp_2{query}", trust_env=False)
            assert WITHHELD in got.text
            httpx.post(f"{url}/v1/responses", json={**body, "previous_response_id": "resp_2"}, trust_env=False)
        sent = json.loads(upstream.seen[-1].body)
        assert sent.get("previous_response_id") == ("resp_1" if known else None)


class ReadsContext(WordGuard):
    """Finds weapons in a reply to a question about bleach."""

    async def judge(self, check: Check) -> Verdict:
        """Judge the reply with its conversation."""
        found = 0.9 if check.side == "assistant" and "bleach" in check.conversation.messages[0].text else 0.0
        return Verdict(found, (Finding("weapons", found),), self.name)


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_withheld_in_its_conversation_stays_withheld(stream: bool) -> None:
    """A retrieval has no conversation, without which the answer looks harmless; input and deletion are as ever."""
    recorded = (TRANSCRIPTS / "openai_responses.sse").read_bytes()
    streamed = Scripted([recorded], headers={"content-type": "text/event-stream"})
    said_again = streamed if stream else scripted(response("High tide"))
    deleted = scripted({"id": "resp_1", "object": "response.deleted", "deleted": True})
    script = [said_again, said_again, said_again, listed(said("user", "hi")), deleted]
    with (
        standing(*script, guard=ReadsContext(WORDS)) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False) as client,
    ):
        where = "/responses/resp_1?stream=true" if stream else "/responses/resp_1"
        assert "High tide" in client.get(where).text
        asked = client.post("/responses", json={"model": "m", "input": "bleach?", "stream": stream})
        for answer in (asked, client.get(where)):
            assert "High tide" not in answer.text
            assert WITHHELD in answer.text
        assert client.get("/responses/resp_1/input_items").json()["data"] == [said("user", "hi")]
        assert client.delete("/responses/resp_1").json()["deleted"] is True


def test_an_unknown_response() -> None:
    """The upstream's error arrives as it was sent."""
    error = {"error": {"message": "not found", "type": "invalid_request_error", "param": "id", "code": None}}
    missing = Scripted([json.dumps(error).encode()], status=404)
    with standing(missing) as (url, _), pytest.raises(openai.NotFoundError):
        client_of(url).responses.retrieve("resp_2")
