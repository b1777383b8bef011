"""The check APIs of NeMo Guardrails and of Amazon Bedrock, with the bodies that their own models have."""

from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.policy import Policy
from guardproxy.settings import Limits
from guardproxy.web.bedrock import BedrockApi
from guardproxy.web.nemo import CHECKS, NemoApi
from guardproxy.wires.openai_chat import wire
from tests.web.gateways import RULES, ApiStand, Failing, said

APPLY = "/guardrail/{}/version/DRAFT/apply"
WITHHELD = Policy("p", "v", RULES, RULES).block.message


class Nemo(ApiStand):
    """NeMo's API."""

    def __init__(self, guard: Any = None, **options: Any) -> None:
        super().__init__(lambda parts, pipeline: NemoApi(parts, pipeline, wire), CHECKS, guard, **options)

    def check(self, *texts: str, **more: Any) -> dict[str, Any]:
        """The answer to a check of a conversation."""
        body = {"model": "m", "messages": said(*texts), "guardrails": {"config_id": "x"}, **more}
        status, answer = self.ask(body)
        assert status == 200
        return answer


def test_nemo_passes_modifies_and_blocks() -> None:
    """The answer has the status, and the text of the last message."""
    assert Nemo().check("hello") == {"status": "passed", "content": "hello"}
    assert Nemo().check("a bullet") == {"status": "blocked", "content": WITHHELD, "rail": "guns"}
    assert Nemo().check("Hello. A bruise.") == {"status": "modified", "content": "Hello. [removed]"}
    assert Nemo().check("a bullet", "hm", model="lax-1")["status"] == "passed"


def test_nemo_judges_a_reply_in_its_conversation() -> None:
    """A last message of the assistant is a reply; the record says so."""
    stand = Nemo()
    assert stand.check("hello", "a bullet") == {"status": "blocked", "content": WITHHELD, "rail": "guns"}
    (record,) = stand.sink.records
    assert (record.side, record.turn, record.origin.wire) == ("assistant", 1, "nemo")
    assert Nemo().check("hello", "Hi. A bruise.") == {"status": "modified", "content": "Hi. [removed]"}
    assert Nemo().check("hello", "hi") == {"status": "passed", "content": "hi"}


def test_nemo_cannot_say_that_an_earlier_message_changes() -> None:
    """So it is a block."""
    assert Nemo().check("Hello. A bruise.", "hm", "and now?")["status"] == "blocked"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "Hello. A bruise."}'}}
    reply = {"role": "assistant", "content": "Done.", "tool_calls": [call]}
    assert Nemo().ask({"messages": [*said("hello"), reply]})[1]["status"] == "blocked"


def test_nemo_judges_contexts() -> None:
    """Messages with variables for rails: an object, whose texts and names are judged like the user's other messages."""
    context = {"role": "context", "content": {"user_name": "John", "chunks": ["fine"]}}
    assert Nemo().ask({"messages": [context, *said("hello")]}) == (200, {"status": "passed", "content": "hello"})
    for harmful in ({"chunks": ["fine", "a bullet"]}, {"a bullet": 1}, {"x": {"y": "a bullet"}}):
        answer = Nemo().ask({"messages": [{**context, "content": harmful}, *said("hello")]})
        assert answer == (200, {"status": "blocked", "content": WITHHELD, "rail": "guns"}), harmful
    changed = Nemo().ask({"messages": [context, *said("Hello. A bruise.")]})
    assert changed == (200, {"status": "modified", "content": "Hello. [removed]"})
    reply = Nemo().ask({"messages": [context, *said("hello", "a bullet")]})
    assert reply == (200, {"status": "blocked", "content": WITHHELD, "rail": "guns"})


def test_nemo_refuses_a_context_that_nothing_follows() -> None:
    """With the place, and what to do."""
    status, answer = Nemo().ask({"messages": [*said("hello"), {"role": "context", "content": {"user_name": "John"}}]})
    assert status == 400
    assert answer["error"]["message"].startswith("messages[1]: is a context")
    assert "put it before" in answer["error"]["message"]


@pytest.mark.parametrize("messages", [None, [], "hello", [5], [{"role": "user", "content": 5}]])
def test_nemo_refuses_what_it_cannot_read(messages: Any) -> None:
    """With 400."""
    assert Nemo().ask({"messages": messages})[0] == 400


class Bedrock(ApiStand):
    """Bedrock's API."""

    def __init__(self, guard: Any = None, **options: Any) -> None:
        super().__init__(lambda parts, _: BedrockApi(parts), APPLY.format("gr"), guard, **options)

    def apply(self, *texts: str, source: str = "INPUT", **more: Any) -> dict[str, Any]:
        """The answer for these texts."""
        status, answer = self.ask({"source": source, "content": [{"text": {"text": text}} for text in texts], **more})
        assert status == 200
        return answer


@pytest.mark.parametrize("source", ["INPUT", "OUTPUT"])
def test_bedrock_does_nothing_masks_and_blocks(source: str) -> None:
    """The answer has the texts that take the place of those sent."""
    clean = Bedrock().apply("hello", source=source)
    assert (clean["action"], clean["outputs"], clean["assessments"]) == ("NONE", [], [])
    assert clean["guardrailCoverage"] == {"textCharacters": {"guarded": 5, "total": 5}}
    assert Bedrock().apply("hello", outputScope="FULL", source=source)["outputs"] == [{"text": "hello"}]
    masked = Bedrock().apply("fine", "Hello. A bruise.", source=source)
    assert masked["action"] == "GUARDRAIL_INTERVENED"
    assert masked["outputs"] == [{"text": "fine"}, {"text": "Hello. [removed]"}]
    (masked_topic,) = masked["assessments"][0]["topicPolicy"]["topics"]
    assert (masked_topic["name"], masked_topic["action"]) == ("violence", "NONE")
    stand = Bedrock()
    blocked = stand.apply("a bullet", source=source)
    assert (blocked["action"], blocked["outputs"]) == ("GUARDRAIL_INTERVENED", [{"text": WITHHELD}])
    topic = {"name": "guns", "type": "DENY", "action": "BLOCKED", "detected": True}
    assert blocked["assessments"] == [{"topicPolicy": {"topics": [topic]}}]
    (record,) = stand.sink.records
    assert (record.side, record.origin.wire) == ({"INPUT": "user", "OUTPUT": "assistant"}[source], "bedrock")


def test_bedrock_chooses_the_policy_by_a_route_for_its_path() -> None:
    """The guardrail of the path is one."""
    body = {"source": "INPUT", "content": [{"text": {"text": "a bullet"}}]}
    assert Bedrock().ask(body, APPLY.format("lax"))[1]["action"] == "NONE"
    assert Bedrock().ask(body, APPLY.format("other"))[1]["action"] == "GUARDRAIL_INTERVENED"
    arn = "arn:aws:bedrock:eu-west-1:123456789012:guardrail/{}"
    assert Bedrock().ask(body, APPLY.format(arn.format("lax")))[1]["action"] == "NONE"
    assert Bedrock().ask(body, APPLY.format(arn.format("other")))[1]["action"] == "GUARDRAIL_INTERVENED"


def test_bedrock_texts_are_judged_together_and_images_as_the_policy_says() -> None:
    """Neither cutting a text nor an image gets past."""
    assert Bedrock().apply("a bul", "let")["action"] == "GUARDRAIL_INTERVENED"
    image = {"image": {"format": "png", "source": {"bytes": "aaaa"}}}
    opaque = {"user": "block", "assistant": "block"}
    stand = Bedrock(on_opaque=opaque)
    body = {"source": "INPUT", "content": [{"text": {"text": "see"}}, image]}
    assert stand.ask(body)[1]["action"] == "GUARDRAIL_INTERVENED"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"source": "BOTH", "content": [{"text": {"text": "x"}}]},
        {"source": "INPUT", "content": []},
        {"source": "INPUT", "content": [{"text": {"text": "x"}}], "outputScope": "ALL"},
        {"source": "INPUT", "content": [{"text": {"text": "x"}}], "outputScope": ["FULL"]},
        {"source": "INPUT", "content": "x"},
        {"source": "INPUT", "content": [{"text": "x"}]},
        {"source": "INPUT", "content": [{"text": {"text": 5}}]},
        {"source": "INPUT", "content": [{"video": {}}]},
        {"source": "INPUT", "content": [{"text": {"text": "x"}, "image": {}}]},
    ],
)
def test_bedrock_refuses_what_it_cannot_read(body: dict[str, Any]) -> None:
    """With 400."""
    status, answer = Bedrock().ask(body)
    assert status == 400
    assert answer["message"]


def test_the_coverage_of_what_was_not_read() -> None:
    """An image that the policy allows beside a text, or alone, is no full coverage."""
    image = {"image": {"format": "png", "source": {"bytes": "aaaa"}}}
    text = {"text": {"text": "see"}}
    for content, coverage in (([text], b"full"), ([text, image], b"partial"), ([image], b"partial")):
        stand = Bedrock(on_opaque={"user": "allow", "assistant": "allow"})
        answer = stand.ask({"source": "INPUT", "content": content})[1]
        assert answer["action"] == "NONE"
        assert stand.headers[b"x-guardproxy-coverage"] == coverage
        images = {"guarded": 0, "total": 1} if image in content else None
        assert answer["guardrailCoverage"].get("images") == images
    nemo = Nemo(on_opaque={"user": "allow", "assistant": "allow"})
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    assert nemo.ask({"messages": [*said("hello"), {"role": "assistant", "content": parts}]})[0] == 200
    assert nemo.headers[b"x-guardproxy-coverage"] == b"partial"


def test_a_failure_never_passes() -> None:
    """What was not judged is an error, and what cannot be judged is blocked."""
    for failure in (GuardUnavailable("broke"), Overloaded("busy")):
        assert Nemo(Failing(failure)).ask({"messages": said("hello")})[0] == 503
        assert Nemo(Failing(failure)).ask({"messages": said("hello", "hi")})[0] == 503
        assert Bedrock(Failing(failure)).ask({"source": "INPUT", "content": [{"text": {"text": "hello"}}]})[0] == 503
    for guard, limits in ((Failing(JudgingTooLong("long")), None), (None, Limits(characters=3))):
        assert Nemo(guard, limits=limits).check("hello")["status"] == "blocked"
        assert Nemo(guard, limits=limits).check("hello", "hi there")["status"] == "blocked"
        assert Bedrock(guard, limits=limits).apply("hello")["action"] == "GUARDRAIL_INTERVENED"
