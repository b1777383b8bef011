"""The check API in front of a guard that finds words: in the process, as an ASGI application."""

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from guardproxy.access import Client, ClientKey, Clients
from guardproxy.actions import block, replace
from guardproxy.asking import current_asker
from guardproxy.checkapi import Account, Caller, CheckCall, call_of, failure_of, read_account, read_verdict, write_call
from guardproxy.checkapi import calls as codec
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import GrowingReplies, Judging
from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.settings import AuditSettings, Limits
from guardproxy.types import ActionName, Cause, Check, Conversation, Message, Part, PartKind, Role, Side, Verdict
from guardproxy.web.access import Access
from guardproxy.web.apis import ApiParts
from guardproxy.web.checks import CheckApi
from guardproxy.web.identities import Identities
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.sample import ReviewSample
from tests.kit import ListSink, WordGuard

OPENAPI = json.loads(Path("docs/openapi.json").read_text())
SCHEMAS = OPENAPI["components"]["schemas"]
WORDS = {"bullet": ("guns", 0.8), "bruise": ("violence", 0.7)}
RULES = SideRules({"guns": (Rule("block", 0.5),), "violence": (Rule("rewrite", 0.5, "replace"),)})
POLICIES = PolicySet(
    {"default": Policy("default", "v", RULES, RULES), "none": Policy("none", "v", SideRules({}), RULES)}
)
Sent = tuple[int, dict[str, str], bytes]


class Stand:
    """The API with its guard and its records."""

    def __init__(self, guard: Any = None, **changes: Any) -> None:
        self.sink = ListSink()
        self.guard = guard or WordGuard(WORDS)
        metrics = Metrics(CollectorRegistry())
        self._observers = Observers(
            {"list": self.sink}, metrics=metrics, text="full", required=changes.get("required", True)
        )
        actions = {"block": block.open_action, "replace": replace.open_action}
        parts = ApiParts(
            Judging(self.guard, self._observers, metrics, actions),
            LivePolicies(POLICIES),
            changes.get("limits", Limits()),
            changes.get("ready", lambda: ""),
            Identities(AuditSettings()),
            ReviewSample(0.0, Random(1)),
            changes.get("access") or Access(),
            metrics,
        )
        self.growing = GrowingReplies()
        account = Account(self.guard.name, self.guard.taxonomy, ("words",), "w1", ("en",), 0.0)
        self.api = CheckApi(parts, self.growing, lambda: account, plain=changes.get("plain", True))

    def ask(self, body: Any, method: str = "POST", query: str = "", headers: Mapping[str, str] | None = None) -> Sent:
        """Send one request; `body` is JSON, or the bytes of a body."""

        async def one() -> Sent:
            await self._observers.start()
            try:
                return await self.send(body, method, query, headers)
            finally:
                await self._observers.close()

        return asyncio.run(one())

    async def send(
        self,
        body: Any,
        method: str = "POST",
        query: str = "",
        headers: Mapping[str, str] | None = None,
        leaves: asyncio.Event | None = None,
    ) -> Sent:
        """The same in a running loop; the caller disconnects when `leaves` is set."""
        sent: list[dict[str, Any]] = []
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        pending = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop()
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": "/v1/check",
            "raw_path": b"/v1/check",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
        }
        await self.api(scope, receive, send)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


def body_of(*texts: str, role: str = "user", **more: Any) -> dict[str, Any]:
    """A check of the last of these texts."""
    return {"messages": [{"role": role, "parts": [{"text": text}]} for text in texts], **more}


def valid(body: bytes, name: str) -> Any:
    """The parsed answer, which follows a schema of the OpenAPI file."""
    answer = json.loads(body)
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}).validate(answer)
    return answer


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_without_a_policy_the_answer_is_the_guards_own_verdict() -> None:
    """It equals the verdict of the guard in this process, and nothing is recorded."""
    stand = Stand()
    check = Check(Conversation((Message("user", (Part("x", "a bullet"),)),)), "user", "s")
    status, _, body = stand.ask(write_call(CheckCall(check)))
    assert (status, read_verdict(body)) == (200, asyncio.run(stand.guard.judge(check)))
    assert valid(body, "Verdict")["account"]["guard"] == "words"
    assert stand.sink.records == []


def test_with_a_policy_the_answer_has_its_decision_and_is_recorded() -> None:
    """The decision has every reason, the outcome what the reader sees; the record is of the wire `check`."""
    stand = Stand()
    _, head, body = stand.ask(body_of("hello", "a bullet", policy="default"))
    answer = valid(body, "Decided")
    assert answer["decision"]["action"] == "block"
    assert answer["decision"]["reasons"] == [
        {"category": "guns", "probability": 0.8, "threshold": 0.5, "with_unsafe": 0.0, "action": "block"}
    ]
    assert answer["outcome"]["name"] == "refuse"
    assert head["x-guardproxy-action"] == "block"
    (record,) = stand.sink.records
    assert (record.origin.wire, record.text, record.outcome, record.turn) == ("check", "a bullet", "refuse", 1)
    assert record.origin.request_id == head["x-guardproxy-request-id"]


def test_a_rewrite_names_the_callers_own_paths() -> None:
    """Edits are for the paths that the caller gave, or for the places in the body."""
    parts = [{"text": "a bruise", "path": "input.text"}]
    answer = valid(Stand().ask({"messages": [{"role": "user", "parts": parts}], "policy": "default"})[2], "Decided")
    assert answer["outcome"]["name"] == "replace"
    assert [edit["path"] for edit in answer["outcome"]["edits"]] == ["input.text"]
    answer = valid(Stand().ask(body_of("a bruise", policy="default"))[2], "Decided")
    assert [edit["path"] for edit in answer["outcome"]["edits"]] == ["messages[0].parts[0].text"]
    answer = valid(Stand().ask(body_of("a bruise", policy="none"))[2], "Decided")
    assert answer["outcome"] == {"name": "pass"}


def test_a_stream_that_a_policy_judges_is_recorded_at_its_end() -> None:
    """DELETE says that it has ended; until then only a refusal is recorded."""
    stand = Stand(required=False)

    async def run() -> list[list[str]]:
        seen = []
        await stand._observers.start()
        for text in ("One.", "One. Two."):
            await stand.send(body_of("hello", text, policy="default", stream="s", role="assistant"))
        seen.append([record.text for record in stand.sink.records])
        await stand.send(b"", "DELETE", "stream=s")
        await stand._observers.close()
        return [*seen, [record.text for record in stand.sink.records]]

    assert asyncio.run(run()) == [[], ["One. Two."]]


def test_a_blank_text_has_a_decision_and_no_verdict() -> None:
    """Nothing is judged, and nothing is invented."""
    answer = valid(Stand().ask(body_of(" ", policy="default"))[2], "Undecided")
    assert (answer["unsafe"], answer["decision"]["action"]) == (None, "pass")


OPAQUE = [{"text": "", "kind": "opaque", "note": "image"}]


@pytest.mark.parametrize("parts", [[], [{"text": ""}], [{"text": " \n"}], OPAQUE])
@pytest.mark.parametrize("policy", [{}, {"policy": "default"}])
def test_what_is_not_judged_has_no_verdict(parts: Any, policy: dict[str, str]) -> None:
    """The guard would find nothing in no text: no caller may take that for safe."""
    stand = Stand()
    status, _, body = stand.ask({"messages": [{"role": "user", "parts": parts}], **policy})
    answer = valid(body, "Undecided" if policy else "Unjudged")
    assert (status, answer["unsafe"], answer["coverage"]) == (200, None, "none")
    with pytest.raises(GuardUnavailable):
        read_verdict(body)


@pytest.mark.parametrize("policy", [{}, {"policy": "default"}])
def test_the_coverage_of_a_text_beside_an_image(policy: dict[str, str]) -> None:
    """A verdict on a part of a message says so."""
    body = body_of("hello", **policy)
    name = "Decided" if policy else "Verdict"
    assert valid(Stand().ask(body)[2], name)["coverage"] == "full"
    body["messages"][-1]["parts"] += OPAQUE
    _, head, answer = Stand().ask(body)
    assert valid(answer, name)["coverage"] == "partial"
    assert head.get("x-guardproxy-coverage") == ("partial" if policy else None)


def test_the_account() -> None:
    """GET says what the guard is, with its categories."""
    stand = Stand()
    status, _, body = stand.ask(b"", "GET")
    assert status == 200
    valid(body, "WholeAccount")
    assert read_account(body).taxonomy == stand.guard.taxonomy
    assert Stand(ready=lambda: "loading").ask(b"", "GET")[0] == 503


# --- failures --------------------------------------------------------------------------------------------------------


class Failing(WordGuard):
    """A guard that fails."""

    def __init__(self, failure: GuardUnavailable) -> None:
        super().__init__(WORDS)
        self._failure = failure

    async def judge(self, check: Check) -> Verdict:
        raise self._failure


@pytest.mark.parametrize("policy", [{}, {"policy": "default"}])
@pytest.mark.parametrize("failure", [GuardUnavailable("it broke"), Overloaded("busy", 2.5), JudgingTooLong("too long")])
def test_a_failure_arrives_as_it_was_raised(failure: GuardUnavailable, policy: dict[str, str]) -> None:
    """The caller raises what the guard raised, with a header for clients that know no more than HTTP."""
    status, head, body = Stand(Failing(failure)).ask(body_of("hello", **policy))
    valid(body, "Error")
    read = failure_of(status, body)
    assert (type(read), str(read), read.retry_s) == (type(failure), str(failure), failure.retry_s)
    assert head.get("retry-after") == {0.0: None, 2.5: "3", 5.0: "5"}[failure.retry_s]


def test_callers_of_a_proxy_are_not_told_how_the_guard_failed() -> None:
    """The message may name services of the operator."""
    _, _, body = Stand(Failing(GuardUnavailable("https://internal.example broke")), plain=False).ask(body_of("hello"))
    assert b"internal.example" not in body


def test_a_bug_is_an_error_in_the_same_shape() -> None:
    """Whatever breaks, the answer is no verdict."""
    broken: Any = RuntimeError("a bug")
    status, _, body = Stand(Failing(broken)).ask(body_of("hello"))
    assert (status, valid(body, "Error")["error"]["code"]) == (500, "internal_error")


def test_who_leaves_has_the_check_dropped() -> None:
    """A check whose caller is gone takes nobody's time."""
    dropped = []

    class Slow(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            leaves.set()
            try:
                await asyncio.Event().wait()
            finally:
                dropped.append(check)
            raise AssertionError

    async def run() -> Sent:
        nonlocal leaves
        leaves = asyncio.Event()
        async with asyncio.timeout(60):
            return await Stand(Slow(WORDS)).send(body_of("hello"), leaves=leaves)

    leaves = asyncio.Event()
    assert asyncio.run(run())[0] == 499
    assert len(dropped) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (body_of("hello", policy="nope"), 404, "policy_unknown"),
        (body_of("hello", role="assistant", side="user", policy="default"), 400, "invalid_request"),
        (body_of("hello", least=0.9, policy="default"), 400, "invalid_request"),
        (body_of("hello", least=1.5), 400, "invalid_request"),
        (body_of("hello", least=True), 400, "invalid_request"),
        (body_of("hello", least="0.9"), 400, "invalid_request"),
        (body_of("\ud83d", policy="default"), 400, "invalid_request"),
        (body_of("hello", stream="\ud83d"), 400, "invalid_request"),
        (body_of("hello", asker={"client": "\ud83d"}), 400, "invalid_request"),
        *(
            ({"messages": [{"role": "user", "parts": [{"text": "x", key: "\ud83d"}]}]}, 400, "invalid_request")
            for key in ("path", "note")
        ),
        (b'{"messages": [{"role": "user", "parts": [{"text": "\xff"}]}]}', 400, "invalid_request"),
        (b'{"messages": [], "messages": []}', 400, "invalid_request"),
        (b'{"messages": NaN}', 400, "invalid_request"),
        (b'{"messages": 1e999}', 400, "invalid_request"),
        (b'{"messages": ' + b"9" * 5000 + b"}", 400, "invalid_request"),
        (b"[" * 100_000, 400, "invalid_request"),
        (b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400, "invalid_request"),
        (b"", 400, "invalid_request"),
        (b"\xef\xbb\xbf{}", 400, "invalid_request"),
        (body_of(*["hello"] * 11_000), 413, "request_too_large"),
        (body_of("x" * 1_000_001), 413, "request_too_large"),
        (b"{" + b" " * 21_000_000 + b"}", 413, "request_too_large"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, dict) else "",
)
def test_what_cannot_be_read_has_a_clear_answer(body: Any, status: int, code: str) -> None:
    """Mistakes are 4xx with a code and a reason, never 500."""
    answered, _, answer = Stand().ask(body)
    error = valid(answer, "Error")["error"]
    assert (answered, error["code"]) == (status, code)
    assert error["message"]


@pytest.mark.parametrize("query", ["policy=default", "x=1&policy=", "stream=s"])
def test_a_field_in_the_query_is_a_mistake(query: str) -> None:
    """It would not count: the answer would have no decision, and nothing would be recorded."""
    status, _, answer = Stand().ask(body_of("a bullet"), query=query)
    assert (status, valid(answer, "Error")["error"]["path"]) == (400, query.removeprefix("x=1&").partition("=")[0])


def test_parts_that_are_judged_under_a_policy_have_paths_of_their_own() -> None:
    """An edit of a path that two parts have would leave open which of them it changes."""
    parts = [{"text": text, "path": "a"} for text in ("hello", "a bruise")]
    body = {"messages": [{"role": "user", "parts": parts}], "policy": "default"}
    status, _, answer = Stand().ask(body)
    assert (status, valid(answer, "Error")["error"]["path"]) == (400, "messages[0].parts[1].path")
    parts[1]["path"] = "b"
    assert Stand().ask(body)[0] == 200


def test_halves_of_a_pair_travel_without_a_policy() -> None:
    """A stream holds one between two frames."""
    assert Stand().ask(body_of("\ud83d"))[0] == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
def test_other_methods(method: str) -> None:
    """They are refused in the same shape."""
    assert valid(Stand().ask(b"", method)[2], "Error")["error"]["code"] == "method_not_allowed"


def test_a_body_in_another_encoding_is_refused() -> None:
    """It could say something else than what is judged."""
    assert Stand().ask(b"x", headers={"content-encoding": "gzip"})[0] == 415


# --- who asks --------------------------------------------------------------------------------------------------------


def test_keys_and_streams() -> None:
    """With clients, a key is needed for everything, and one client cannot end the stream of another."""
    forgotten: list[str] = []
    seen: list[str | None] = []

    class Streams(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            seen.append(check.stream)
            return await super().judge(check)

        def forget(self, stream: str) -> None:
            forgotten.append(stream)

    access = Access()
    access.clients = Clients([Client(n, (ClientKey(sha256(n.encode()).digest()),)) for n in ("a", "b")], b"secret")
    stand = Stand(Streams(WORDS), access=access)
    for method in ("GET", "POST", "DELETE"):
        assert stand.ask(b"", method, "stream=1")[0] == 401
    for name in ("a", "b"):
        headers = {"authorization": f"Bearer {name}"}
        assert stand.ask(body_of("hello", stream="1"), headers=headers)[0] == 200
        status, head, _ = stand.ask(b"", "DELETE", "stream=1", headers)
        assert (status, "content-length" in head) == (204, False)
    assert seen == forgotten == ["a:1", "b:1"]
    assert stand.ask(b"", "DELETE", "", headers)[0] == 400


def test_the_checks_of_one_request_share_an_asker() -> None:
    """The guard's queue takes them as one request of one client, whatever connection they come by."""
    askers = []

    class Asked(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            askers.append(current_asker())
            await asyncio.sleep(0.01)
            return await super().judge(check)

    def call(request: str, client: str = "c", *, answered: bool = False) -> bytes:
        check = call_of(body_of("hello")).check
        return write_call(CheckCall(check, Caller(client, request, answered)))

    async def run() -> None:
        stand = Stand(Asked(WORDS))
        bodies = [call("1"), call("1"), call("2"), call("1", "d"), call("3", answered=True)]
        await asyncio.gather(*(stand.send(body) for body in bodies))

    asyncio.run(run())
    assert askers[0] is askers[1]
    assert len({id(asker) for asker in askers}) == 4
    assert [asker.client for asker in askers] == [":c", ":c", ":c", ":d", ":c"]
    assert [asker.answered for asker in askers] == [False, False, False, False, True]


# --- the OpenAPI file ------------------------------------------------------------------------------------------------


def test_the_file_names_what_the_code_reads() -> None:
    """Fields, limits and words of a check are those of the code."""
    check = SCHEMAS["Check"]["properties"]
    assert list(check) == list(codec.KEYS)
    assert list(SCHEMAS["Message"]["properties"]) == list(codec._MESSAGE_KEYS)
    assert list(SCHEMAS["Part"]["properties"]) == list(codec._PART_KEYS)
    assert list(SCHEMAS["Asker"]["properties"]) == list(codec._ASKER_KEYS)
    assert check["side"]["enum"] == list(get_args(Side))
    assert SCHEMAS["Message"]["properties"]["role"]["enum"] == list(get_args(Role))
    assert list(SCHEMAS["Image"]["properties"]) == list(codec._IMAGE_PART_KEYS)
    assert list(SCHEMAS["Image"]["properties"]["image"]["properties"]) == list(codec._IMAGE_KEYS)
    kinds = [SCHEMAS[name]["properties"]["kind"]["enum"] for name in ("Part", "Image")]
    assert {*kinds[0], *kinds[1]} == {*get_args(PartKind)}
    assert SCHEMAS["Decision"]["properties"]["action"]["enum"] == list(get_args(ActionName))
    assert SCHEMAS["Decision"]["properties"]["cause"]["enum"] == list(get_args(Cause))
    assert {place["maxLength"] for place in (check["stream"], check["policy"])} == {codec.LONGEST_NAME}
    assert SCHEMAS["Part"]["properties"]["path"]["maxLength"] == codec._PATH


_RESPONSES = OPENAPI["paths"]["/v1/check"]["post"]["responses"]


def following(schema: Any) -> st.SearchStrategy[Any]:
    """Values that follow a schema of the file."""
    schema = SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "anyOf" in schema:
        return st.one_of(*map(following, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "object":
        fields = {name: following(field) for name, field in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema["required"]}
        wrong = set(schema.get("not", {}).get("required", [None]))
        return st.fixed_dictionaries(needed, optional=fields).filter(lambda value: not wrong <= value.keys())
    if schema["type"] == "array":
        return st.lists(following(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if schema["type"] in ("boolean", "number"):
        return st.booleans() if schema["type"] == "boolean" else st.floats(schema["minimum"], schema["maximum"])
    return st.text(min_size=schema.get("minLength", 0), max_size=min(9, schema.get("maxLength", 9)))


_BODIES = following(SCHEMAS["Check"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*codec.KEYS, "role", "x"]), inner),
    max_leaves=8,
)


@given(_BODIES | _JSON | st.binary(max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_answer_is_one_of_the_file(body: Any) -> None:
    """Bodies that follow the file, and any others, have an answer that it describes, and never 500."""
    status, _, answer = Stand().ask(body)
    assert str(status) in _RESPONSES
    assert status < 500
    schema = _RESPONSES[str(status)]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(json.loads(answer))


@given(_BODIES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_follows_the_file_is_read(body: Any) -> None:
    """A body that follows the file is not refused for its form."""
    call_of(body)
