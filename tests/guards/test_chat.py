"""A guard that answers with labels on a server: what is sent, what fails, and what stays in use."""

import asyncio
from typing import Any

import pytest

from guardproxy.calibration import Calibration, Platt
from guardproxy.checkapi import verdict_fields, verdict_of
from guardproxy.errors import GuardUnavailable, Overloaded, Unintelligible
from guardproxy.families.policy_text import open_family
from guardproxy.guards.cache import Cached
from guardproxy.guards.combine import AllOf, Cascade
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.ports import Guard
from guardproxy.types import Check, Verdict
from guardproxy.upstreams import Ejection
from tests.guards.chat_kit import MODEL, POLICY, ChatServer, completion, guard_of, said, texts_of
from tests.guards.kit import Fixed, check_of, found

BAD, GOOD = check_of("how do I build a bomb"), check_of("how do I bake bread")


def ask(guard: Guard, *checks: Check) -> list[Verdict | Exception]:
    """The verdicts of a guard that is started for them, or why there is none."""

    async def judged(check: Check) -> Verdict | Exception:
        try:
            return await guard.judge(check)
        except GuardUnavailable as error:
            return error

    async def run() -> list[Verdict | Exception]:
        await guard.start()
        try:
            return [await judged(check) for check in checks]
        finally:
            await guard.close()

    return asyncio.run(run())


def verdict_on(guard: Guard, check: Check) -> Verdict:
    """The verdict."""
    (verdict,) = ask(guard, check)
    assert isinstance(verdict, Verdict), verdict
    return verdict


def test_the_final_channel_is_the_verdict():
    """The reasoning beside it is neither read nor kept; the tokens of the server are counted."""
    server = ChatServer()
    bad, good = ask(guard_of(server), BAD, GOOD)
    assert isinstance(bad, Verdict)
    assert isinstance(good, Verdict)
    assert (bad.unsafe, good.unsafe, bad.guard) == (1.0, 0.0, "reasoner")
    assert bad.rationale == "It asks for a bomb."
    assert "We need to check" not in repr(bad)
    assert (bad.usage.tokens_computed, bad.usage.tokens_reused) == (190, 600)
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["stream"], body["max_tokens"]) == (MODEL, 0, False, 4096)
    assert body["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (completion(None), "is empty"),
        (completion(""), "is empty"),
        (completion(None, "length"), "was cut off"),
        (completion(said(), "length"), "was cut off"),
        (completion(said(), "content_filter"), "refused"),
        (completion(None, refusal="I'm sorry"), "refused"),
        (completion(None, "tool_calls", tool_calls=[{"function": {"name": "safe"}}]), "called a tool"),
        (completion(said(), tool_calls=[{"function": {"name": "safe"}}]), "called a tool"),
        (completion(said(), "other"), "did not end its answer"),
        (completion(f"<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>{said()}"), "channels apart"),
        (completion(f"<think>Hm.</think>{said()}"), "channels apart"),
        (completion("0"), "no JSON object"),
        (400, r"refuses the question \(400\)"),
    ],
)
def test_what_is_no_whole_answer_is_a_failure(answer, why):
    """Never a verdict of safe. It is not asked again: the model would answer so again."""
    server = ChatServer([answer])
    (failure,) = ask(guard_of(server), GOOD)
    assert isinstance(failure, Unintelligible)
    assert why.replace("\\", "") in str(failure)
    assert len(server.asked) == 1


def test_texts_that_confuse_the_model_do_not_take_the_server_out_of_use():
    """A client could otherwise turn the guard off for everybody."""
    server = ChatServer([completion("no JSON")] * 5)
    asking = AskOptions(timeout_s=20, attempts=1, check_every_s=60, ejection=Ejection(2, 30.0, 30.0))
    *failures, last = ask(guard_of(server, asking=asking), *[GOOD] * 6)
    assert all(isinstance(one, Unintelligible) for one in failures)
    assert isinstance(last, Verdict)


@pytest.mark.parametrize("answer", [500, 503, "no JSON", {"choices": []}, {"choices": [{}, {}]}])
def test_another_server_is_asked_if_one_fails(answer):
    """What is the server's fault, and not that of the text, is asked again elsewhere."""
    servers = ChatServer([answer]), ChatServer([answer])
    assert verdict_on(guard_of(*servers, asking=AskOptions(attempts=3, check_every_s=60)), BAD).unsafe == 1.0


def test_a_server_over_its_limit_is_overload():
    """Its 429 is no failure of the guard."""
    (failure,) = ask(guard_of(ChatServer([429, 429]), asking=AskOptions(attempts=1, check_every_s=60)), BAD)
    assert isinstance(failure, Overloaded)


def test_a_long_text_is_judged_in_windows():
    """Each window is one question; the worst counts, and names its place."""
    family = open_family(policy=POLICY, max_characters=200)
    server = ChatServer()
    text = "bread " * 80 + "bomb" + " bread" * 40
    verdict = verdict_on(guard_of(server, family=family), check_of(text))
    assert verdict.unsafe == 1.0
    assert verdict.span is not None
    assert "bomb" in text[slice(*verdict.span)]
    assert len(texts_of(server.asked)) == 4
    assert verdict.usage.windows == 4
    assert verdict.rationale == "It asks for a bomb."


def test_a_cascade_has_labels_and_probabilities_side_by_side():
    """Each number says what it is. The first guard alone decides where it is sure."""
    first = Fixed("first", 0.5, {"guns_illegal_weapons": 0.4, "jailbreak": 0.3})
    verdict = verdict_on(Cascade(first, guard_of(ChatServer()), 0.2, 0.8), BAD)
    kinds = {one.category: one.kind for one in verdict.findings}
    assert (verdict.kind, kinds["guns_illegal_weapons"], kinds["jailbreak"]) == ("label", "label", "probability")
    assert found(verdict)["jailbreak"] == 0.3
    assert verdict.rationale
    sure = verdict_on(Cascade(Fixed("first", 0.9, {"violence_hate": 0.9}), guard_of(ChatServer()), 0.2, 0.8), BAD)
    assert (sure.kind, sure.rationale) == ("probability", "")


def test_of_several_guards_the_greatest_number_says_what_it_is():
    """A label of 1 is the greatest; a label of 0 is not."""
    both: Any = lambda: AllOf([Fixed("first", 0.5, {"violence_hate": 0.4}), guard_of(ChatServer())])  # noqa: E731
    bad, good = verdict_on(both(), BAD), verdict_on(both(), GOOD)
    assert (bad.unsafe, bad.kind, good.unsafe, good.kind) == (1.0, "label", 0.5, "probability")


def test_calibration_leaves_labels_as_they_are():
    """A label of 1 must not become a probability of 0.7."""
    verdict = verdict_on(guard_of(ChatServer()), BAD)
    maps = {"unsafe": Platt(0.1, -2.0), "guns_illegal_weapons": Platt(0.1, -2.0)}
    after = Calibration(user=maps).applied("user", verdict)
    assert (after.unsafe, found(after), after.raw) == (1.0, found(verdict), ())


def test_a_verdict_travels_with_its_kind_and_reason():
    """A replica of this guard gives the same verdict."""
    verdict = verdict_on(guard_of(ChatServer()), BAD)
    assert verdict_of(verdict_fields(verdict)) == verdict


class Remembering:
    """Shared state that remembers what it is given."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    async def get(self, *_: Any) -> None:
        """Nothing is known."""

    async def put(self, kind: str, key: bytes, value: Any) -> None:
        """Remember it."""
        self.values.append(value)


def test_shared_state_gets_no_reason():
    """It may quote the text, and values of several processes hold none."""
    state: Any = Remembering()
    guard = guard_of(ChatServer())
    verdict = verdict_on(Cached(guard, 10, state), BAD)
    assert verdict.rationale
    assert [value["rationale"] for value in state.values] == [""]


def test_a_model_that_the_server_does_not_have_is_named():
    """Until it does, checks fail."""
    guard: ReplicaGuard = guard_of(ChatServer(model="other"))
    (failure,) = ask(guard, GOOD)
    assert "it has no model 'openai/gpt-oss-safeguard-20b', but 'other'" in str(failure)
