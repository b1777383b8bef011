"""The rewrites that change what the model is asked: `steer` and `regenerate`, in every protocol, whole and streamed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.app.registries import catalogue
from guardproxy.localtext import LocalText
from guardproxy.policy import BlockPolicy, PolicySet, RewritePolicy, Route, Rule, SideRules, StreamPolicy
from guardproxy.settings import load_text
from guardproxy.types import Check, Finding, Record, Verdict
from tests.kit import WORDS, ListSink, Scripted, WordGuard
from tests.web.alone import Alone, Got
from tests.web.kit import chat, completion, events, policy, standing
from tests.wires.kit import CASES, Case

NOTHING = SideRules({"*": ()})
STEERS = SideRules({"privacy": (Rule("rewrite", 0.5, "steer"),), "weapons": (Rule("block", 0.5),)})
REGENERATES = SideRules({"weapons": (Rule("rewrite", 0.5, "regenerate"),), "hate": (Rule("block", 0.5),)})
KIND = "Be kind, and name help."
TOLD = RewritePolicy(instructions={"*": LocalText({"*": KIND, "de": "Sei nett."})}, retry_instruction="Once more.")
STREAMED = [True, False]


def policies(**changes: Any) -> PolicySet:
    """A policy that steers secrets in requests, and regenerates replies with poison."""
    rules = {"user": STEERS, "assistant": REGENERATES, "rewrite": TOLD, **changes}
    return PolicySet({"default": policy(**rules)})


class LaterGuard(WordGuard):
    """Finds poison in the first replies: until the upstream was asked for `harmless` ones."""

    def __init__(self, alone: list[Alone], harmless: int) -> None:
        super().__init__({"Hello": ("privacy", 0.9)})
        self._alone = alone
        self._harmless = harmless

    async def judge(self, check: Check) -> Verdict:
        """The verdict by words on a request, and by the number of requests on a reply."""
        if check.side == "user":
            return await super().judge(check)
        found = 0.9 if len(self._alone[0].seen) < self._harmless else 0.0
        return Verdict(found, (Finding("weapons", found),), self.name)


def script(case: Case, *, streamed: bool) -> Scripted:
    """The recorded reply of a case."""
    if streamed:
        return Scripted([case.raw], headers={"content-type": case.content_type})
    return Scripted([case.reply])


def asked(case: Case, *, streamed: bool) -> tuple[bytes, str, bytes]:
    """The body, the path and the query of a request, for a stream or a whole reply."""
    path, _, query = case.path.partition("?")
    if case.wire.name == "gemini":
        path = path if streamed else path.replace("streamGenerateContent", "generateContent")
        return json.dumps(case.body).encode(), path, query.encode() if streamed else b""
    return json.dumps({**case.body, "stream": streamed}).encode(), path, b""


def guarded(case: Case, *, streamed: bool, harmless: int, sink: ListSink, **changes: Any) -> Alone:
    """A proxy whose upstream gives the same reply each time, of which the guard passes the `harmless`th."""
    found: list[Alone] = []
    guard = LaterGuard(found, harmless)
    found.append(
        Alone(script(case, streamed=streamed), guard=guard, policies=policies(**changes), sinks={"list": sink})
    )
    return found[0]


each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both = pytest.mark.parametrize("streamed", STREAMED, ids=["streamed", "whole"])


def original(case: Case, *, streamed: bool) -> bytes:
    """What a client gets if the reply passes."""
    alone = Alone(script(case, streamed=streamed))
    body, path, query = asked(case, streamed=streamed)
    return alone.ask(body, path, query=query).body


COUNTS = re.compile(
    rb'"(?:(?:prompt|completion|input|output|total)_tokens|(?:prompt|candidates|total)TokenCount|(?:prompt_)?eval_count)"'
    rb": ?(\d+)"
)


def counts(body: bytes) -> list[int]:
    """The token counts of a reply."""
    return [int(count) for count in COUNTS.findall(body)]


def without_counts(body: bytes) -> list[Any]:
    """A reply or the lines of a stream, as JSON where they are, without their counts."""

    def read(line: bytes) -> Any:
        try:
            return json.loads(COUNTS.sub(b'"count": 0', line.removeprefix(b"data:")))
        except ValueError:
            return line

    whole = read(body)
    return [read(line) for line in body.split(b"\n")] if isinstance(whole, bytes) else [whole]


@each
@both
def test_a_steered_turn_goes_on_with_an_instruction(case: Case, streamed: bool) -> None:
    """Once, beside the client's own words, which stay; the reply is the upstream's; the audit says what was done."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=0, sink=sink, assistant=NOTHING)
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert got.body == original(case, streamed=streamed)
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("rewrite", "privacy")
    (seen,) = alone.seen
    assert seen.body.count(KIND.encode()) == 1
    assert b"Hello there." in seen.body
    record = sink.records[0]
    assert (record.decision.how, record.outcome, record.text) == ("steer", "steer", "Hello there.")


@each
@both
def test_a_withheld_reply_is_asked_for_again(case: Case, streamed: bool) -> None:
    """The client gets the second reply, and nothing of the first but its tokens; the records name both."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=2, sink=sink, user=NOTHING)
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert without_counts(got.body) == without_counts(original(case, streamed=streamed))
    before, after = (counts(body) for body in (original(case, streamed=streamed), got.body))
    assert [count >= known for count, known in zip(after, before, strict=True)] == [True] * len(before)
    if not streamed and case.wire.name != "gemini":  # whose recorded total is not the sum
        assert after == [2 * count for count in before]
    assert (got.header("x-guardproxy-action"), got.header("x-guardproxy-categories")) == ("rewrite", "weapons")
    first, second = alone.seen
    assert first.body == body
    assert second.body.count(b"Once more.") == 1
    assert (second.method, second.target) == (first.method, first.target)
    replies = [record for record in sink.records if record.side == "assistant"]
    said = [(r.decision.action, r.outcome, r.reply and r.reply.attempt) for r in replies]  # of each choice
    assert [*dict.fromkeys(said)] == [("rewrite", "refuse", 1), ("pass", "pass", 2)]
    assert alone.metric('upstream_asked_again_total{result="passed",upstream="default"}') == 1
    assert got.header("x-guardproxy-attempts") == "2"


@each
@both
def test_after_the_last_try_the_reply_is_blocked(case: Case, streamed: bool) -> None:
    """The client gets a refusal in its protocol, as if there had been one reply; no harmful text is in it."""
    sink = ListSink()
    alone = guarded(case, streamed=streamed, harmless=9, sink=sink, user=NOTHING, rewrite=replace(TOLD, tries=2))
    body, path, query = asked(case, streamed=streamed)
    got = alone.ask(body, path, query=query)
    assert len(alone.seen) == 3
    assert [seen.body.count(b"Once more.") for seen in alone.seen] == [0, 1, 1]
    assert BlockPolicy().message.encode() in got.body
    begun = streamed and case.name != "gemini-array"  # the headers of a stream leave before its last verdict
    assert got.header("x-guardproxy-action") == ("rewrite" if begun else "block")
    assert [*dict.fromkeys(r.reply.attempt for r in sink.records if r.reply)] == [1, 2, 3]
    assert alone.metric('upstream_asked_again_total{result="withheld",upstream="default"}') == 2
    assert all(record.outcome == "refuse" for record in sink.records if record.side == "assistant")


# --- steer ----------------------------------------------------------------------------------------------------------


def sent(alone: Alone) -> list[Any]:
    """The messages of the latest chat that the upstream received."""
    return list(json.loads(alone.seen[-1].body)["messages"])


def conversation(*texts: str) -> bytes:
    """A chat in which the user and the assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return json.dumps({"model": "m", "messages": messages}).encode()


def test_a_steered_turn_of_the_history_needs_its_instruction_again() -> None:
    """Clients send the turn without it; two steered turns give one instruction."""
    alone = Alone(completion("fine"), policies=policies())
    alone.ask(conversation("a secret", "Ah.", "and a secret", "Oh.", "well"))
    told = {"role": "system", "content": KIND}
    assert sent(alone)[0] == told
    assert [message["content"] for message in sent(alone)[1:]] == ["a secret", "Ah.", "and a secret", "Oh.", "well"]


def test_a_dropped_turn_leaves_no_instruction() -> None:
    """Its exchange is left out for the answer; a turn that is both is refused."""
    for dropped in (("poison, a secret", "Ah."), ("a secret", "rude")):
        _no_instruction_for(*dropped)


def _no_instruction_for(*dropped: str) -> None:
    alone = Alone(completion("fine"), policies=policies())
    got = alone.ask(conversation(*dropped, "well"))
    assert [message["content"] for message in sent(alone)] == ["well"]
    assert got.header("x-guardproxy-dropped-turns") == "0,1"


def test_an_instruction_in_the_readers_language() -> None:
    """As a refusal's message: by `accept-language`."""
    alone = Alone(completion("fine"), policies=policies())
    alone.ask(chat("my secret"), headers=[(b"accept-language", b"de-AT,de;q=0.9")])
    assert sent(alone)[0]["content"] == "Sei nett."


def test_a_request_without_a_place_is_blocked() -> None:
    """The text must not reach the model without the instruction."""
    alone = Alone(completion("fine"), policies=policies())
    got = alone.ask(chat("my secret", chat_template="{{ messages[0] }}"))
    assert (got.header("x-guardproxy-action"), alone.seen) == ("block", [])


def test_a_steered_reply_is_judged() -> None:
    """As any other; and a guard that fails on the turn steers nothing."""
    alone = Alone(completion("take the rude thing"), policies=policies())
    got = alone.ask(chat("my secret"))
    assert got.header("x-guardproxy-action") == "block"
    assert b"rude" not in got.body
    assert alone.ask(chat("my secret FAIL")).status == 503


def test_what_cannot_be_steered_is_refused() -> None:
    """A reply that a rule of somebody's own steers: `validate` would refuse the rule."""
    alone = Alone(completion("my secret"), policies=policies(assistant=STEERS))
    assert b"secret" not in alone.ask(chat()).body


def test_steer_beside_other_rewrites() -> None:
    """A turn that another rule replaces is replaced, however much more probable the steered category is."""
    words = {"poison": ("weapons", 0.6), "secret": ("privacy", 0.9)}
    rules = SideRules({"privacy": STEERS.by_category["privacy"], "weapons": (Rule("rewrite", 0.5, "replace"),)})
    alone = Alone(completion("fine"), policies=policies(user=rules), guard=WordGuard(words))
    alone.ask(chat("secret poison"))
    assert sent(alone) == [{"role": "user", "content": "[removed by policy]"}]


def test_the_sdk_gets_a_steered_answer() -> None:
    """Official clients, through sockets: the answer of the model, and the header that says so."""
    with standing(completion("Here is help."), policies=policies()) as (url, upstream):
        client = openai.OpenAI(api_key="sk", base_url=f"{url}/v1", max_retries=0)
        raw = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "system", "content": "A."}, {"role": "user", "content": "my secret"}]
        )
    assert raw.parse().choices[0].message.content == "Here is help."
    assert raw.headers["x-guardproxy-action"] == "rewrite"
    assert json.loads(upstream.seen[0].body)["messages"][0] == {"role": "system", "content": f"A.\n\n{KIND}"}


# --- regenerate -----------------------------------------------------------------------------------------------------


def replies(sink: ListSink) -> list[Record]:
    return [record for record in sink.records if record.side == "assistant"]


def two_choices(*texts: str) -> Scripted:
    """A whole reply with several choices."""
    choices = [{"index": n, "message": {"role": "assistant", "content": text}} for n, text in enumerate(texts)]
    return Scripted([json.dumps({"id": "c", "choices": choices}).encode()])


def test_the_second_request_is_the_first_with_an_instruction() -> None:
    """What was rewritten stays so; the withheld reply is not quoted; an instruction for the turn comes first."""
    alone = Alone(completion("poison"), completion("fine"), policies=policies())
    got = alone.ask(chat("my secret"))
    assert b"fine" in got.body
    assert sent(alone) == [
        {"role": "system", "content": f"{KIND}\n\nOnce more."},
        {"role": "user", "content": "my secret"},
    ]


def test_a_block_is_not_asked_for_again() -> None:
    """Neither for a harm that the policy blocks, nor if one choice of several must be blocked."""
    alone = Alone(completion("rude"), completion("fine"), policies=policies())
    assert b"withheld" in alone.ask(chat()).body
    assert len(alone.seen) == 1
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}} for n, text in enumerate(["poison", "rude"])
    ]
    two = Scripted([json.dumps({"id": "c", "choices": choices}).encode()])
    alone = Alone(two, completion("fine"), policies=policies())
    alone.ask(chat())
    assert len(alone.seen) == 1


def test_choices_that_are_harmful_together_are_asked_for_again() -> None:
    """A harm that lies in two choices only as a reader joins them is one of the reply."""
    two = two_choices("poi", "son")
    alone = Alone(two, completion("fine"), policies=policies(), guard=WordGuard({"poi\nson": ("weapons", 0.9)}))
    assert b"fine" in alone.ask(chat()).body


FAILURES = [
    Scripted([b"{}"], status=429, headers={"retry-after": "1"}),
    Scripted([b'{"error": "no"}'], status=500),
    Scripted([b"no JSON"]),
    Scripted([None]),
    completion("FAIL"),
]


@pytest.mark.parametrize("failing", FAILURES, ids=["429", "500", "unreadable", "broken", "guard"])
@both
@pytest.mark.parametrize("shape", ["completion", "error"])
def test_a_further_request_that_fails_is_a_block(failing: Scripted, streamed: bool, shape: Any) -> None:
    """The reply that it stands for has a verdict: the client gets the refusal of that one."""
    first = events("poison") if streamed else completion("poison")
    alone = Alone(first, failing, policies=policies(block=BlockPolicy(shape), on_guard_error="allow"))
    got = alone.ask(chat(stream=streamed))
    assert (len(alone.seen), got.ended) == (2, True)
    assert got.status == (400 if shape == "error" else 200)
    assert BlockPolicy().message.encode() in got.body
    assert (got.header("x-guardproxy-action"), got.header("x-should-retry")) == ("block", "false")
    assert alone.metric('upstream_asked_again_total{result="failed",upstream="default"}') == 1
    assert alone.logged("reply_not_regenerated")


def test_a_reply_that_breaks_off_in_the_middle_stays_an_error() -> None:
    """What the client has read of the second reply cannot be taken back, so it ends as any broken stream."""
    broken = events("fine. " * 50, pause_s=0.05)
    broken = replace(broken, body=[*[item for item in broken.body if isinstance(item, bytes)][:2], 0.2, None])
    alone = Alone(events("poison"), broken, policies=policies(stream=StreamPolicy(every=10)))
    got = alone.ask(chat(stream=True))
    assert got.body.count(b"fine. ") > 0
    assert b"event: error" in got.body
    assert BlockPolicy().message.encode() not in got.body


def test_a_stream_that_the_client_has_begun_to_read_is_cut() -> None:
    """Another reply cannot take the place of text that the client has, so the rest is withheld as by a block."""
    sink = ListSink()
    stream = events(*["fine. "] * 40, "poison")
    alone = Alone(stream, events("other"), policies=policies(stream=StreamPolicy(every=10)), sinks={"list": sink})
    got = alone.ask(chat(stream=True))
    assert (len(alone.seen), got.body.count(b"fine. ") > 0) == (1, True)
    assert b"content_filter" in got.body
    assert b"poison" not in got.body
    assert [record.reply.attempt for record in replies(sink) if record.reply] == [1]


def test_a_stream_that_is_held_to_its_end_is_asked_for_again() -> None:
    """With `hold_all` every stream can be; nothing of the first leaves."""
    alone = Alone(
        events(*["first. "] * 40, "poison"),
        events("other"),
        policies=policies(stream=StreamPolicy("hold_all")),
    )
    got = alone.ask(chat(stream=True))
    assert (b"first" in got.body, b"other" in got.body, len(alone.seen)) == (False, True, 2)
    assert got.body.count(b"[DONE]") == 1


@pytest.mark.parametrize("second", [events("fine"), events("poison"), completion("fine"), FAILURES[1]])
def test_a_stream_that_began_with_a_comment(second: Scripted) -> None:
    """Comments that keep the connection open are no reply: another one, or the refusal, follows them."""
    alone = Alone(
        replace(events("poison"), body=[events("x").body[0], 0.4, *events("poison").body]),
        second,
        policies=policies(),
        keepalive_s=0.05,
    )
    got = alone.ask(chat(stream=True))
    assert got.body.startswith(b": ")
    assert (got.status, got.ended, got.body.count(b"[DONE]"), len(alone.seen)) == (200, True, 1, 2)
    assert (b"fine" in got.body) is (second == events("fine"))
    assert (BlockPolicy().message.encode() in got.body) is (second != events("fine"))


def test_no_further_reply_after_its_time() -> None:
    """`retry_s` counts from the arrival of the request."""
    slow = replace(completion("poison"), body=[0.2, *completion("poison").body])
    alone = Alone(slow, completion("fine"), policies=policies(rewrite=replace(TOLD, retry_s=0.1)))
    assert b"withheld" in alone.ask(chat()).body
    assert len(alone.seen) == 1


def test_no_further_reply_once_the_client_has_left() -> None:
    """The request for it is cancelled with everything else of the exchange."""
    slow = replace(completion("fine"), body=[30.0, *completion("fine").body])
    alone = Alone(completion("poison"), slow, completion("never"), policies=policies(rewrite=replace(TOLD, tries=3)))
    got = alone.ask(chat(), leaves_s=1.0)
    assert (got.pieces, len(alone.seen)) == ([], 2)


def test_a_schema_stays_a_schema() -> None:
    """A reply that must follow one is asked for again as it was; after that, it is refused."""
    alone = Alone(completion("poison"), completion("{}"), policies=policies())
    body = chat(response_format={"type": "json_object"})
    assert b"{}" in alone.ask(body).body
    assert json.loads(alone.seen[1].body)["response_format"] == {"type": "json_object"}


def test_a_request_without_a_place_for_the_reason_is_blocked() -> None:
    """The same request would most likely bring the same reply."""
    alone = Alone(completion("poison"), completion("fine"), policies=policies())
    got = alone.ask(chat(chat_template="x"))
    assert (got.header("x-guardproxy-action"), len(alone.seen)) == ("block", 1)


def test_an_early_call_is_closed_before_another() -> None:
    """With `overlap`, too, a further reply is asked for after the first."""
    rules = policies().policies["default"]
    routes = (Route("fast", "default", overlap=True),)
    alone = Alone(completion("poison"), completion("fine"), policies=PolicySet({"default": rules}, routes))
    assert b"fine" in alone.ask(chat()).body
    assert len(alone.seen) == 2


def test_the_responses_of_a_conversation_that_the_upstream_keeps() -> None:
    """The second request goes on from the same response, and the withheld one is never gone on from."""

    def response(name: str, text: str) -> Scripted:
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"id": f"m{name}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        body = {"id": name, "object": "response", "status": "completed", "model": "m", "output": [message]}
        return Scripted([json.dumps(body).encode()])

    alone = Alone(response("r1", "poison"), response("r2", "fine"), policies=policies())
    body = json.dumps({"model": "m", "input": "a secret", "previous_response_id": "r0"}).encode()
    assert b"fine" in alone.ask(body, "/v1/responses").body
    first, second = (json.loads(seen.body) for seen in alone.seen)
    assert first["previous_response_id"] == second["previous_response_id"] == "r0"
    assert first["input"] == [{"role": "user", "content": "a secret"}, {"role": "developer", "content": KIND}]
    assert second["input"] == [*first["input"], {"role": "developer", "content": "Once more."}]


def test_a_conversation_that_has_the_reply_already_gets_no_other() -> None:
    """With `conversation`, the upstream would keep the user's turn twice, and the withheld reply before the other."""
    part = {"type": "output_text", "text": "poison", "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    reply = {"id": "r1", "object": "response", "status": "completed", "model": "m", "output": [message]}
    alone = Alone(Scripted([json.dumps(reply).encode()]), policies=policies())
    got = alone.ask(json.dumps({"model": "m", "input": "hi", "conversation": "conv_1"}).encode(), "/v1/responses")
    assert (len(alone.seen), b"poison" in got.body, got.header("x-guardproxy-action")) == (1, False, "block")


@pytest.mark.parametrize("streamed", STREAMED)
def test_the_sdk_sees_one_answer(streamed: bool) -> None:
    """The official client reads the second reply, whole or streamed, as if it were the only one."""
    kind = events if streamed else completion
    with standing(kind("poison"), kind("fine"), policies=policies()) as (url, upstream):
        client = openai.OpenAI(api_key="sk", base_url=f"{url}/v1", max_retries=0)
        ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        if streamed:
            chunks = client.chat.completions.create(**ask, stream=True)  # type: ignore[call-overload]
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        else:
            text = client.chat.completions.create(**ask).choices[0].message.content  # type: ignore[call-overload]
    assert (text, len(upstream.seen)) == ("fine", 2)


words = st.lists(st.sampled_from(["fine ", "poi", "son ", "poison ", "rude ", "so "]), min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=4), st.booleans(), st.integers(1, 3))
def test_no_harm_of_any_reply_leaves(texts: list[list[str]], streamed: bool, tries: int) -> None:
    """Whatever the replies say, and however often they are asked for: at most one of them is read, without its harm."""
    kind = [events(*text) if streamed else completion("".join(text)) for text in texts]
    alone = Alone(*kind, policies=policies(user=NOTHING, rewrite=replace(TOLD, tries=tries)))
    got = alone.ask(chat(stream=streamed))
    assert got.ended
    said = read(got, streamed=streamed)
    assert not any(word in said for word in WORDS)
    assert len(alone.seen) <= 1 + tries
    whole = ["".join(text) for text in texts]
    latest = whole[min(len(alone.seen), len(whole)) - 1]
    assert said == latest or BlockPolicy().message in said or (streamed and latest.startswith(said.partition("\n")[0]))


def read(got: Got, *, streamed: bool) -> str:
    """The text that the client reads."""
    if not streamed:
        return str(json.loads(got.body)["choices"][0]["message"]["content"])
    frames = [json.loads(line[6:]) for line in got.body.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_example_of_the_page() -> None:
    """docs/rewrites.md shows what reaches the model under its first policy; `test_docs` validates both policies."""
    page = (Path(__file__).parents[2] / "docs" / "rewrites.md").read_text()
    before, after = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    (text, _) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    rules = load_text(text, "rewrites.md", {}, catalogue()).policies
    guard = WordGuard({"end my life": ("suicide_self_harm", 0.6)})
    alone = Alone(completion("Please call 988."), policies=rules, guard=guard)
    got = alone.ask(before.encode())
    assert json.loads(alone.seen[0].body) == json.loads(after)
    assert b"Please call 988." in got.body
    alone.ask(before.encode(), headers=[(b"accept-language", b"de")])
    assert sent(alone)[0]["content"].endswith("(116 123).")
