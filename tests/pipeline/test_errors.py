"""Error responses of an upstream: they are judged as replies are, and pass as a whole or not at all."""

import asyncio
import json
from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable
from guardproxy.pipeline import ErrorReview
from guardproxy.pipeline.canary import CANARIES
from guardproxy.policy import BlockPolicy, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Decision, Verdict
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import Run, frame, policy, question


def quoting(text: str) -> bytes:
    """An error body that quotes a text."""
    return json.dumps({"error": {"message": f"cannot parse: {text}", "type": "server_error"}}).encode()


def reviewed(body: bytes | None, stream_type: str = "", run: Run | None = None, **changes: Any) -> ErrorReview:
    """The review of an error body."""
    run = run or Run()
    exchange = run.exchange(question(stream=bool(stream_type)), policy(**changes))
    review = run._with(lambda: run.pipeline.review_error(exchange, body, stream_type))
    assert isinstance(review, ErrorReview)
    return review


def test_an_empty_error_passes_unrecorded() -> None:
    """There is nothing to judge in an empty body."""
    run = Run()
    assert reviewed(b"", run=run) == ErrorReview(True, "pass", (), "full")
    assert (run.records, run.guard.asked) == ([], [])


@pytest.mark.parametrize("stream_type", ["", "text/event-stream"])
def test_a_harmless_error_passes(stream_type: str) -> None:
    """A quoted reply that the guard lets pass goes to the client; it was judged and recorded."""
    run = Run()
    body = quoting("a sentence") if not stream_type else b"data: " + quoting("a sentence") + b"\n\n"
    assert reviewed(body, stream_type, run) == ErrorReview(True, "pass", (), "full")
    assert [(record.side, record.turn, record.outcome) for record in run.records] == [("assistant", 1, "pass")]
    assert "a sentence" in run.records[0].text


@pytest.mark.parametrize("block", [BlockPolicy(), BlockPolicy("error")])
def test_a_harmful_error_does_not_pass(block: BlockPolicy) -> None:
    """A quoted harmful reply stays here, whole or streamed, whether blocks are completions or errors."""
    run = Run()
    review = reviewed(quoting("a bomb"), run=run, block=block)
    assert (review.passes, review.action, review.coverage) == (False, "block", "full")
    assert review.categories == ("violence_hate",)
    assert [record.outcome for record in run.records] == ["refuse"]
    streamed = reviewed(b"data: " + quoting("a bomb") + b"\n\n", "text/event-stream", block=block)
    assert (streamed.passes, streamed.action, streamed.categories) == (False, "block", ("violence_hate",))


FOREIGN = {
    "detail": '{"detail": "TEXT"}',
    "list": '{"detail": [{"loc": ["body"], "msg": "TEXT", "type": "t"}]}',
    "message": '{"message": "TEXT"}',
    "key": '{"detail": {"TEXT": 1}}',
    "two keys": '{"detail": "TEXT", "detail": "m"}',
    "escapes": '{"detail": "ESCAPED"}',
    "long number": '{"detail": "ESCAPED", "n": ' + "9" * 5000 + "}",
    "byte order mark": '\ufeff{"detail": "ESCAPED"}',
    "strings of a list": '["a bo", "mb"]',
    "array": '[{"error": {"message": "TEXT"}}]',
    "string": '"ESCAPED"',
    "text": "TEXT",
    "html": "<html><title>TEXT</title></html>",
    "broken JSON": '{"detail": "TEXT"',
    "nested": "[" * 5000 + '"TEXT"' + "]" * 5000,
}


@pytest.mark.parametrize("form", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("on_opaque", ["flag", "block"])
def test_an_error_in_no_form_of_the_protocol_is_judged_as_text(form: str, on_opaque: str) -> None:
    """Gateways have forms of their own. Their text is judged, whatever the policy says of opaque content."""
    changes: Any = {"on_opaque": {"user": on_opaque, "assistant": on_opaque}}
    for text, passes in (("a bomb", False), ("a bone", "a bo" not in form)):
        body = form.replace("ESCAPED", "".join(f"\\u{ord(letter):04x}" for letter in text)).replace("TEXT", text)
        run = Run()
        review = reviewed(body.encode(), run=run, **changes)
        assert review == ErrorReview(passes, "pass" if passes else "block", review.categories, "full")
        (record,) = run.records
        assert (record.side, record.outcome, record.error) == ("assistant", "pass" if passes else "refuse", "")
        assert "a bo" in record.text


def test_an_error_of_text_that_would_be_rewritten_does_not_pass() -> None:
    """Its bytes pass unchanged or not at all; a flagged text passes, and half of a surrogate pair breaks nothing."""
    for action, passes in (("rewrite", False), ("flag", True)):
        rules = SideRules({"*": (Rule(action, 0.5, "replace"),)})  # type: ignore[arg-type]
        review = reviewed(rb'{"detail": "a bomb \ud800"}', assistant=rules)
        assert (review.passes, review.action) == (passes, "flag" if passes else "block")


def test_an_error_of_text_that_could_not_be_judged_is_partial() -> None:
    """A guard that fails leaves the coverage of a text partial, whatever the policy then decides."""
    assert reviewed(b"FAIL", on_guard_error="allow") == ErrorReview(True, "pass", (), "partial")
    assert not reviewed(b"FAIL").passes


def test_an_error_is_never_rewritten() -> None:
    """A rewrite of an error is a refusal of it."""
    rules = SideRules({"*": (Rule("rewrite", 0.5, "replace"),)})
    run = Run()
    assert not reviewed(quoting("a bomb"), run=run, assistant=rules).passes
    assert [record.outcome for record in run.records] == ["refuse"]


@pytest.mark.parametrize(("on_opaque", "passes"), [("block", False), ("flag", True), ("allow", True)])
@pytest.mark.parametrize("body", [b"\xff", b"<\0h\0t\0m\0l\0>\0", b'{"detail": "\xff"}'])
def test_an_unreadable_error_is_decided_as_opaque(body: bytes, on_opaque: str, passes: bool) -> None:
    """A body that cannot be read is what `on_opaque` of the assistant's side decides."""
    run = Run()
    review = reviewed(body, run=run, on_opaque={"user": "allow", "assistant": on_opaque})
    action = {"block": "block", "flag": "flag", "allow": "pass"}[on_opaque]
    assert review == ErrorReview(passes, action, (), "partial")  # type: ignore[arg-type]
    (record,) = run.records
    assert (record.side, record.turn, record.verdict) == ("assistant", 1, None)
    assert record.decision == Decision(action, "", (), "opaque")  # type: ignore[arg-type]
    assert record.outcome == ("pass" if passes else "refuse")
    assert [item.why for item in record.coverage] == ["opaque: error body that cannot be read"]
    assert record.error


@pytest.mark.parametrize("on_opaque", ["block", "flag", "allow"])
def test_an_error_that_cannot_be_decoded_never_passes(on_opaque: str) -> None:
    """Nobody can say what the client would read of it: it is blocked whatever the policy says of opaque content."""
    run = Run()
    review = reviewed(None, run=run, on_opaque={"user": "allow", "assistant": on_opaque})
    assert review == ErrorReview(False, "block", (), "partial")
    (record,) = run.records
    assert (record.decision, record.outcome) == (Decision("block", "", (), "opaque"), "refuse")
    assert record.error == "its body cannot be decoded"


@pytest.mark.parametrize("mode", ["window", "hold_all", "monitor"])
def test_a_flagged_error_stream_says_so(mode: Any) -> None:
    """What passes flagged is marked with the decision and its categories, as a whole error is."""
    body = b"data: " + quoting("a bomb") + b"\n\ndata: [DONE]\n\n"
    changes: Any = {"stream": StreamPolicy(mode), "assistant": SideRules({"*": (Rule("flag", 0.5),)})}
    flagged = ErrorReview(True, "flag", ("violence_hate",), "full")
    assert reviewed(body, "text/event-stream", **changes) == flagged
    assert reviewed(quoting("a bomb"), **changes) == flagged


def test_a_monitored_error_stream_is_flagged_whatever_the_rule() -> None:
    """A stream that is only monitored passes: the action says flagged, the record what the policy decided."""
    run = Run()
    body = b"data: " + quoting("a bomb") + b"\n\n"
    review = reviewed(body, "text/event-stream", run, stream=StreamPolicy("monitor"))
    assert review == ErrorReview(True, "flag", ("violence_hate",), "full")
    assert [(record.decision.action, record.outcome) for record in run.records] == [("block", "pass")]


def test_the_worst_choice_of_an_error_stream_counts() -> None:
    """The action and the categories are those of the most severe decision on a choice."""
    source = [frame(n, content=text, finish="stop") for n, text in enumerate(("Fine.", "a bomb", "Fine."))]
    rules = SideRules({"*": (Rule("flag", 0.5),)})
    review = reviewed(b"".join([*source, b"data: [DONE]\n\n"]), "text/event-stream", assistant=rules)
    assert review == ErrorReview(True, "flag", ("violence_hate",), "full")


def test_an_error_stream_passes_without_its_comments() -> None:
    """The judged frames pass; what no client may get of a stream is cleaned away, as in any other stream."""
    data = b"data: " + quoting("a sentence") + b"\n\n"
    review = reviewed(b": a bomb\n" + data + b"data: [DONE]\n\n", "text/event-stream")
    assert review == ErrorReview(True, "pass", (), "full", data + b"data: [DONE]\n\n")


def test_an_error_stream_that_becomes_unreadable_does_not_pass() -> None:
    """An unreadable frame withholds the whole, also behind the end of every choice; the coverage is partial."""
    fine = frame(content="Fine.", finish="stop")
    for body in (fine + b"data: {nonsense\n\n", b"data: {nonsense\n\n"):
        review = reviewed(body, "text/event-stream")
        assert (review.passes, review.action, review.coverage) == (False, "block", "partial")


def test_a_stream_of_errors_that_could_not_be_judged_is_partial() -> None:
    """A guard that fails for an error stream leaves its coverage partial, whatever the policy then decides."""
    body = b"data: " + quoting("FAIL") + b"\n\n"
    review = reviewed(body, "text/event-stream", on_guard_error="allow")
    assert review == ErrorReview(True, "pass", (), "partial")
    assert reviewed(quoting("FAIL"), on_guard_error="allow").coverage == "partial"


@pytest.mark.parametrize(("bad", "good", "trusted"), [(0.9, 0.1, True), (0.5, 0.5, False), (0.1, 0.9, False)])
def test_a_guard_must_find_the_known_bad_turns_worse(bad: float, good: float, trusted: bool) -> None:
    """Equal probabilities are not enough; the answer names both."""
    bads = {message.text for _, message, _ in CANARIES}

    class Scored(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            return Verdict(bad if check.turn.text in bads else good, (), "g")

    why = asyncio.run(Run(Scored({})).pipeline.canaries(policy()))
    assert why == (
        ""
        if trusted
        else f"the guard gives a known-bad user turn P(unsafe) {bad:.3f} and a known-good turn {good:.3f}; "
        "the first must be higher"
    )


def test_the_known_turns_test_both_sides() -> None:
    """For each side a bad and a good turn of the same role, each with a text of its own; an answer has its question."""
    assert [bad.side for _, bad, _ in CANARIES] == ["user", "assistant"]
    for context, bad, good in CANARIES:
        assert [message.role for message in context] == (["user"] if bad.role == "assistant" else [])
        assert bad.role == good.role
        turns = (*context, bad, good)
        assert len({message.text.strip() for message in turns} - {""}) == len(turns)
        assert {part.path for message in turns for part in message.parts} == {"canary"}


def test_a_guard_that_fails_cannot_be_trusted() -> None:
    """The reason names the guard's error."""

    class Down(WordGuard):
        async def judge(self, check: Check) -> Verdict:
            raise GuardUnavailable("down")

    assert asyncio.run(Run(Down({})).pipeline.canaries(policy())) == "the guard cannot judge: down"
