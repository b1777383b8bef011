"""Harm that no choice or text of a reply contains by itself: choices joined, and deltas in alternation."""

import base64
import json
from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable
from guardproxy.policy import Policy, Rule, SideRules, StreamPolicy
from guardproxy.types import Check, Verdict
from guardproxy.views import VIEWS
from tests.kit import WordGuard
from tests.pipeline.test_pipeline import WORDS, Run, content_of, finish, frame, policy

REDACT = policy(assistant=SideRules({"*": (Rule("rewrite", 0.5, "redact"),)}))
DONE = b"data: [DONE]\n\n"


class Counting(WordGuard):
    """A guard that keeps the texts that it was asked about."""

    def __init__(self) -> None:
        super().__init__(WORDS)
        self.texts: list[str] = []

    async def judge(self, check: Check) -> Verdict:
        self.texts.append(check.turn.text)
        return await super().judge(check)


def contents(run: Run, *texts: str, rules: Policy, **ask: Any) -> list[str]:
    """Return the contents of the choices of a whole reply that the client gets."""
    return [
        choice["message"]["content"] for choice in json.loads(run.reply(*texts, rules=rules, **ask).body)["choices"]
    ]


def test_harm_that_a_reader_finds_when_it_joins_the_choices() -> None:
    """All choices are refused, and their records say that the harm is in the choices together."""
    run = Run()
    review = run.reply("Fine, a bo", "mb", "Fine.", rules=policy())
    assert review.action == "block"
    assert {choice["finish_reason"] for choice in json.loads(review.body)["choices"]} == {"content_filter"}
    assert [record.outcome for record in run.records] == ["refuse"] * 3
    verdicts = [record.verdict for record in run.records]
    assert all(verdict and {finding.view for finding in verdict.findings} == {"choices"} for verdict in verdicts)


def test_harm_in_one_choice_of_a_whole_reply() -> None:
    """A refused choice is refused alone: the others are judged without it, and a rewritten choice as it is sent."""
    first, second = contents(Run(), "Fine.", "The bomb.", rules=policy())
    assert first == "Fine."
    assert "withheld" in second
    assert contents(Run(), "Fine.", "Good. The bomb. ", rules=REDACT) == ["Fine.", "Good. [removed] "]
    assert contents(Run(), "a bo", "mb. The bomb. ", rules=REDACT) != ["a bo", "mb. [removed] "]


@pytest.mark.parametrize("texts", [("Fine.",), ("Fine.", ""), ("", "", "Fine.")])
def test_one_readable_choice_costs_one_check(texts: tuple[str, ...]) -> None:
    guard = Counting()
    assert contents(Run(guard), *texts, rules=policy()) == list(texts)
    assert guard.texts == ["Fine."]


def test_choices_that_are_sentences_cost_one_check_more() -> None:
    guard = Counting()
    contents(Run(guard), "Fine.", "Good.", rules=policy())
    assert guard.texts == ["Fine.", "Good.", "Fine.\nGood."]


def spelled(*pieces: str) -> list[bytes]:
    """Return a stream of two choices in alternation, a piece for each in turn."""
    frames = [frame(n % 2, content=piece) for n, piece in enumerate(pieces)]
    return [frame(0, role="assistant"), frame(1, role="assistant"), *frames, frame(0, "stop"), frame(1, "stop"), DONE]


@pytest.mark.parametrize("mode", ["window", "hold_all"])
@pytest.mark.parametrize("every", [1, 200])
def test_harm_that_alternating_choices_spell(mode: Any, every: int) -> None:
    """No client reads the word in the order of arrival."""
    run = Run()
    out = run.stream(
        spelled("Fine. ", "Good. ", "a b", "o", "m", "b", " x", " y"), policy(stream=StreamPolicy(mode, every))
    )
    pieces = [
        choice["delta"].get("content") or ""
        for line in out.split(b"\n\n")
        if line.startswith(b"data: {")
        for choice in json.loads(line[6:])["choices"]
    ]
    assert "bomb" not in "".join(pieces)
    assert "content_filter" in finish(out)


def test_clean_choices_in_alternation_leave_as_they_came() -> None:
    source = spelled("Fine. ", "Good. ", "It is ", "You are ", "so.", "right.")
    assert Run().stream(source, policy(stream=StreamPolicy(every=1))) == b"".join(source)


def test_a_rewrite_in_a_choice_that_alternates() -> None:
    """The rest of the choice is judged behind what was sent of both, and the other choice goes on."""
    out = Run().stream(spelled("Fine. ", "Good. ", "The bomb. ", "It is ", "So.", "right."), REDACT)
    assert content_of(out, 0) == "Fine. [removed] So."
    assert content_of(out, 1) == "Good. It is right."


def test_the_same_text_once_if_nothing_alternates() -> None:
    """Reasoning before the text, in one choice: the guard reads what it reads without the order of arrival."""
    guard = Counting()
    frames = [
        frame(role="assistant", content=""),
        frame(reasoning_content="Hm"),
        frame(content="Fine"),
        frame(0, "stop"),
    ]
    Run(guard).stream([*frames, DONE], policy())
    assert set(guard.texts) == {"Fine\nHm"}


@pytest.mark.parametrize(
    ("spoken", "pieces"),
    [(("content", "reasoning_content"), "bomb"), (("content", "refusal", "reasoning_content"), ("bo", "x", "mb"))],
)
def test_kinds_of_text_in_alternation(spoken: tuple[str, ...], pieces: tuple[str, ...]) -> None:
    """A reader shows text and reasoning in the order of arrival; it may leave out a kind that comes between them."""
    frames = [frame(**{spoken[n % len(spoken)]: piece}) for n, piece in enumerate([*pieces, "."])]
    assert finish(Run().stream([*frames, frame(0, "stop"), DONE], policy())) == ["content_filter"]


class Failing(Counting):
    """A guard that does not judge choices together."""

    async def judge(self, check: Check) -> Verdict:
        if "\n" in check.turn.text:
            raise GuardUnavailable("no answer")
        return await super().judge(check)


def test_choices_that_cannot_be_judged_together() -> None:
    """Their records say that the guard has failed, and the policy decides as for any failure."""
    run = Run(Failing())
    run.reply("Fine.", "Good.", rules=policy(on_guard_error="block"))
    assert [bool(record.error) for record in run.records] == [True, True]
    assert {record.outcome for record in run.records} == {"refuse"}


def test_the_client_is_told_that_choices_could_not_be_judged_together() -> None:
    """A refusal would say that they are against a policy."""
    run = Run(Failing())
    with pytest.raises(GuardUnavailable):
        run.reply("Fine.", "Good.", rules=policy(on_guard_error="error"))
    assert {record.outcome for record in run.records} == {"refuse"}


def test_choices_are_judged_by_the_rules_for_replies() -> None:
    """Rules for users do not hold for choices together."""
    none = SideRules({})
    assert "content_filter" not in finish_of(Run(), "a bo", "mb", rules=policy(assistant=none))
    assert set(finish_of(Run(), "a bo", "mb", rules=policy(user=none))) == {"content_filter"}


def finish_of(run: Run, *texts: str, rules: Policy) -> list[str]:
    """Return why each choice of a whole reply ends."""
    return [choice["finish_reason"] for choice in json.loads(run.reply(*texts, rules=rules).body)["choices"]]


def test_clean_choices_keep_their_verdicts() -> None:
    """The verdict of a choice does not mention the others if they change nothing; a worse one names both texts."""
    run = Run()
    run.reply("Fine.", "Good.", rules=policy())
    alone = Run()
    alone.reply("Fine.", rules=policy())
    assert [record.verdict and record.verdict.findings for record in run.records] == [
        alone.records[0].verdict and alone.records[0].verdict.findings
    ] * 2


def test_choices_with_too_many_encodings_together() -> None:
    """Halves of a text that is encoded too often make the whole reply one that cannot be read."""
    text = "Please do it now"
    for _ in range(8):
        text = base64.b64encode(text.encode()).decode()
    run = Run()
    opaque = {"user": "allow", "assistant": "block"}
    run.reply(text[:7], text[7:], rules=policy(views=VIEWS, on_opaque=opaque))
    assert {record.outcome for record in run.records} == {"refuse"}
    assert all(any(note.why == "opaque: too many encodings" for note in record.coverage) for record in run.records)
