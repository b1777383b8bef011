"""LiteLLM's guardrail API, with the bodies that litellm 1.106 sends: what it takes out of messages, and puts back."""

import asyncio
from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.patterns import Reach
from guardproxy.pipeline.growing import GrowingReplies
from guardproxy.pipeline.traits import GuardTraits
from guardproxy.policy import Policy, StreamPolicy
from guardproxy.settings import Limits
from guardproxy.web.litellm import LITELLM, LitellmApi, _beyond, texts_of
from guardproxy.wires.openai_chat import wire
from tests.kit import eventually
from tests.web.gateways import RULES, ApiStand, Failing, said


class Stand(ApiStand):
    """LiteLLM's API."""

    def __init__(self, guard: Any = None, **options: Any) -> None:
        super().__init__(lambda parts, pipeline: LitellmApi(parts, pipeline, wire), LITELLM, guard, **options)


def request_of(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What LiteLLM sends for a request with these messages."""
    return {
        "input_type": "request",
        "litellm_call_id": "call",
        "litellm_trace_id": "trace",
        "structured_messages": messages,
        "texts": texts_of(messages),
        "images": None,
        "tools": None,
        "tool_calls": None,
        "request_data": {"user_api_key_end_user_id": "ada"},
        "request_headers": {"host": "x"},
        "additional_provider_specific_params": {},
        "model": "m",
        **more,
    }


def reply_of(*texts: str, **more: Any) -> dict[str, Any]:
    """What LiteLLM sends for a reply with these texts."""
    return {"input_type": "response", "litellm_call_id": "call", "texts": list(texts), "request_data": {}, **more}


def test_a_clean_request_passes_and_is_recorded() -> None:
    """The record names the API, the end user, and the session."""
    stand = Stand()
    assert stand.ask(request_of(said("hello"))) == (200, {"action": "NONE"})
    (record,) = stand.sink.records
    assert (record.origin.wire, record.origin.user, record.origin.model) == ("litellm", "ada", "m")
    assert (record.side, record.text, record.origin.session) == ("user", "hello", "trace")


def test_a_harmful_request_is_blocked() -> None:
    """The reason is what the policy says."""
    assert Stand().ask(request_of(said("a bullet")))[1] == {
        "action": "BLOCKED",
        "blocked_reason": Policy("p", "v", RULES, RULES).block.message,
    }


def test_a_sentence_is_masked_in_its_place() -> None:
    """Every text has its place, those of parts too; what did not change is as it was."""
    parts = [{"type": "text", "text": "Hello. A bruise. Bye."}, {"type": "text", "text": "More."}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts}]
    _, answer = Stand().ask(request_of(messages))
    assert answer == {"action": "GUARDRAIL_INTERVENED", "texts": ["Be kind.", "Hello. [removed] Bye.", "More."]}


def test_a_refused_turn_of_the_history_does_not_refuse_the_conversation() -> None:
    """LiteLLM cannot remove a message, so it says that it was withheld."""
    _, answer = Stand().ask(request_of(said("a bullet", "No.", "hello")))
    assert answer["action"] == "GUARDRAIL_INTERVENED"
    assert "bullet" not in str(answer["texts"])
    assert answer["texts"][-1] == "hello"
    assert len(answer["texts"]) == 3
    assert Stand(history="block").ask(request_of(said("a bullet", "No.", "hello")))[1]["action"] == "BLOCKED"


def test_texts_that_do_not_belong_to_the_messages_are_judged() -> None:
    """Whatever LiteLLM shows its guardrail, the texts that it will use are judged."""
    body = request_of(said("hello"), texts=["hello", "a bullet"])
    assert Stand().ask(body)[1]["action"] == "BLOCKED"
    assert Stand().ask({**body, "structured_messages": None})[1]["action"] == "BLOCKED"


def test_what_texts_cannot_say_is_blocked() -> None:
    """The arguments of a call cannot be changed by a guardrail, nor can a name or a refusal."""
    named = [{"role": "user", "name": "Hello. A bruise. Bye.", "content": "hello"}]
    assert Stand().ask(request_of(named))[1]["action"] == "BLOCKED"
    refused = [*said("hello"), {"role": "assistant", "content": None, "refusal": "A bruise."}, *said("hello")]
    assert Stand().ask(request_of(refused))[1]["action"] == "BLOCKED"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "Hello. A bruise."}'}}
    messages = [*said("hello"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "1", "content": "fine"})
    assert Stand().ask(request_of(messages))[1]["action"] == "BLOCKED"
    assert Stand().ask(reply_of("Hello.", tool_calls=[call]))[1]["action"] == "BLOCKED"
    assert Stand().ask(reply_of("Hello.", tool_calls=[{**call, "function": {"name": "f"}}]))[1]["action"] == "NONE"


def test_texts_of_a_reply_are_judged_together_and_each_by_itself() -> None:
    """Each has its place in the answer."""
    _, answer = Stand().ask(reply_of("Fine.", "Hello. A bruise."))
    assert answer["texts"] == ["Fine.", "Hello. [removed]"]
    assert Stand().ask(reply_of("a bul", "let"))[1]["action"] == "BLOCKED"
    assert Stand().ask(reply_of("Fine.", "a bullet"))[1]["action"] == "BLOCKED"


@pytest.mark.parametrize(
    ("mode", "held"), [({"mode": "window"}, [40, 90]), ({"mode": "hold_all"}, [12, 96]), ({"mode": "monitor"}, [0, 0])]
)
def test_the_end_of_a_streamed_reply_is_held_back(mode: Any, held: list[int]) -> None:
    """A sentence that has not ended is not sent, as the policy's `stream` says."""
    _, answer = Stand(stream=StreamPolicy(**mode)).ask(reply_of("Hello there.", "Done. " + "word " * 18))
    assert answer == {"action": "NONE", "stream_holdback_chars": held}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "a bullet"}'}}


@pytest.mark.parametrize(
    "more",
    [
        {"tool_calls": [CALL]},
        {"structured_messages": said("a bullet")},
        {"structured_messages": [*said("hello"), {"role": "system", "content": "a bullet"}]},
        {"structured_messages": [{"role": "user", "content": [{"type": "text", "text": "a bullet"}]}]},
        {"structured_messages": [*said("hello"), {"role": "assistant", "tool_calls": [CALL]}], "texts": ["hello", "x"]},
        {"structured_messages": ["a bullet"]},
    ],
)
def test_what_comes_beside_the_texts_of_a_request_is_judged(more: dict[str, Any]) -> None:
    """Also if it is not what LiteLLM would have taken out of the messages: nothing of a request passes unread."""
    assert Stand().ask({**request_of(said("hello")), **more})[1]["action"] == "BLOCKED"


def test_images_beside_the_messages_count() -> None:
    """They decide as images in a message do."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    within = request_of([{"role": "user", "content": [{"type": "text", "text": "hello"}, image]}], images=["x"])
    other = {**request_of(said("hello")), "structured_messages": [{"role": "user", "content": [image]}]}
    for body in (request_of(said("hello"), images=["x"]), within, other):
        assert Stand(on_opaque={"user": "block", "assistant": "block"}).ask(body)[1]["action"] == "BLOCKED"
        assert Stand(on_opaque={"user": "flag", "assistant": "flag"}).ask(body)[1]["action"] == "NONE"


def test_what_may_begin_a_match_is_held_back() -> None:
    """Also where the match would go over the end of a sentence."""
    said, stream = "Hello there to everybody who reads this. Falcon. N", StreamPolicy("window", lag=0)
    for reach, held in (({}, 1), ({"guns": Reach(words=2)}, len("Falcon. N")), ({"other": Reach(words=2)}, 1)):
        _, answer = Stand(stream=stream, traits=GuardTraits(reach)).ask(reply_of(said))
        assert answer["stream_holdback_chars"] == [held]


def test_a_route_chooses_the_policy() -> None:
    """Routes know the API by its name, and the model that LiteLLM names."""
    assert Stand().ask(request_of(said("a bullet"), model="lax-1"))[1]["action"] == "NONE"


def test_an_image_is_what_the_policy_says() -> None:
    """It cannot be read, whether it comes in a message or beside the texts."""
    url = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, url]}]
    opaque: Any = {"user": "block", "assistant": "block"}
    assert Stand(on_opaque=opaque).ask(request_of(messages))[1]["action"] == "BLOCKED"
    assert Stand(on_opaque=opaque).ask(reply_of("see", images=["https://x/y.png"]))[1]["action"] == "BLOCKED"
    assert Stand(on_opaque=opaque).ask(reply_of("see"))[1]["action"] == "NONE"


def test_the_coverage_of_an_image() -> None:
    """It is not read, whatever the policy says of it."""
    for body, coverage in ((reply_of("see", images=["https://x/y.png"]), b"partial"), (reply_of("see"), b"full")):
        stand = Stand(on_opaque={"user": "allow", "assistant": "allow"})
        assert stand.ask(body)[1]["action"] == "NONE"
        assert stand.headers[b"x-guardproxy-coverage"] == coverage


@pytest.mark.parametrize("body", [request_of(said("hello")), reply_of("hello")])
def test_a_failure_never_says_none(body: dict[str, Any]) -> None:
    """What was not judged is an error, or blocked: too long a text is blocked whatever LiteLLM does with errors."""
    assert Stand(Failing(GuardUnavailable("broke"))).ask(body)[0] == 503
    assert Stand(Failing(Overloaded("busy"))).ask(body)[0] == 503
    assert Stand(Failing(JudgingTooLong("long"))).ask(body)[1]["action"] == "BLOCKED"
    assert Stand(limits=Limits(characters=3)).ask(body)[1]["action"] == "BLOCKED"
    assert Stand(Failing(GuardUnavailable("broke")), on_guard_error="block").ask(body)[1]["action"] == "BLOCKED"
    assert Stand(Failing(GuardUnavailable("broke")), on_guard_error="allow").ask(body)[1]["action"] == "NONE"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_type": "request", "texts": "hello"},
        {"input_type": "request", "texts": [5]},
        {"input_type": "robot", "texts": ["hello"]},
        reply_of("hello", tool_calls=5),
        reply_of("hello", litellm_call_id=5),
        request_of([*said("hello"), {"role": 5, "content": "x"}]),
        request_of(said("hello"), model=["m"]),
    ],
)
def test_what_cannot_be_read_is_an_error(body: dict[str, Any]) -> None:
    """LiteLLM blocks on it."""
    assert Stand().ask(body)[0] == 400


def test_a_reply_that_grows_has_one_record() -> None:
    """Its last one, of each call; what is refused is recorded at once."""
    stand = Stand(required=False)
    scans = [
        reply_of("One. "),
        reply_of("One. Two. "),
        reply_of("Other.", litellm_call_id="b"),
        reply_of("One. Two. 3."),
    ]
    assert [answer["action"] for _, answer in stand.ask_all(scans)] == ["NONE"] * 4
    assert sorted(record.text for record in stand.sink.records) == ["One. Two. 3.", "Other."]
    refused = Stand(required=False)
    refused.ask_all([reply_of("One. "), reply_of("One. a bullet")])
    assert [(record.text, record.outcome) for record in refused.sink.records] == [("One. a bullet", "refuse")]
    each = Stand(required=True)
    each.ask_all([reply_of("One. "), reply_of("One. Two. ")])
    assert [record.text for record in each.sink.records] == ["One. ", "One. Two. "]


def test_a_reply_that_grows_no_more_is_recorded_after_a_while() -> None:
    """Without the end of the service."""
    written: list[str] = []

    async def write(text: str) -> None:
        written.append(text)

    async def run() -> None:
        replies = GrowingReplies(wait_s=0.01)
        replies.grown("a", lambda: write("first"))
        replies.grown("a", lambda: write("second"))
        await eventually(lambda: written)
        await replies.close()

    asyncio.run(run())
    assert written == ["second"]


def test_an_image_that_litellm_took_out_is_known_only_if_it_is_nothing_else() -> None:
    """Whatever else stands in its item stays opaque: nothing reads it."""
    url = "data:image/png;base64,QQ=="
    items = {
        "plain": {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        "short": {"type": "image_url", "image_url": url},
        "hidden": {"type": "image_url", "image_url": {"url": url, "detail": "a poison"}},
        "beside": {"type": "image_url", "image_url": {"url": url}, "note": "a poison"},
        "other": {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    }
    left = {name for name, item in items.items() if [*_beyond([{"content": [item]}], [], [url])]}
    assert left == {"hidden", "beside", "other"}
