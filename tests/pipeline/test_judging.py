"""One turn: what the guard is asked, what a failure decides, and what is recorded."""

import asyncio
import sys
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from guardproxy.apart import Apart
from guardproxy.errors import GuardUnavailable, Overloaded
from guardproxy.observe import Metrics, Observers
from guardproxy.offload import MEDIUM
from guardproxy.pipeline.exchange import Exchange, JudgedTurn, Judgement
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.message_views import MessageViews
from guardproxy.pipeline.turns import Turn
from guardproxy.policy import Policy, Rule, SideRules, ThreadPolicy
from guardproxy.types import Check, Coverage, Decision, Message, Origin, Part, Pass, Refuse, Verdict
from guardproxy.wires.openai_chat import wire
from tests.kit import ListSink, WordGuard

RULES = SideRules({"*": (Rule("block", 0.5),)})
POLICY = Policy("default", "v", RULES, RULES, views=("invisible",))
GUARD = WordGuard({"bomb": ("violence_hate", 0.9)})
REQUEST = wire.parse_request("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hi"}]}')
EXCHANGE = Exchange(wire, REQUEST, Origin("id", "route", "openai_chat", "upstream", "m"), POLICY)


class Failing(WordGuard):
    """A guard that fails for texts with the word `late`."""

    def __init__(self, failure: Exception) -> None:
        super().__init__({"bomb": ("violence_hate", 0.9)})
        self.failure = failure

    async def judge(self, check: Check) -> Verdict:
        """Raise, or judge the words."""
        if "late" in check.turn.text:
            raise self.failure
        return await super().judge(check)


def judging(guard: Any = GUARD, sink: ListSink | None = None) -> tuple[Judging, Observers]:
    """The judging of turns with a guard, and the observers of its records."""
    metrics = Metrics(CollectorRegistry())
    observers = Observers({"list": sink or ListSink()}, metrics=metrics, text="full", required=True)
    return Judging(guard, observers, metrics, {}), observers


def user(text: str, **part: Any) -> Message:
    """A user's message with one part."""
    return Message("user", (Part("p", text, **part),))


def decided(message: Message, guard: Any = GUARD, **changes: Any) -> tuple[Verdict | None, Decision, str]:
    """The verdict, decision and error on a message."""
    return asyncio.run(judging(guard)[0].judge((), message, replace(POLICY, **changes)))


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_message_without_text_passes_unasked(text: str) -> None:
    """There is nothing to judge in white space: no verdict, no error, and no check."""
    guard = WordGuard({})
    assert decided(user(text), guard) == (None, Decision("pass", "", ()), "")
    assert guard.asked == []


@pytest.mark.parametrize(
    ("failure", "cause"), [(GuardUnavailable("down"), "guard_error"), (Overloaded("full"), "overload")]
)
def test_a_failure_is_decided_by_its_own_setting(failure: Exception, cause: str) -> None:
    """`on_overload` and `on_guard_error` do not stand in for each other; there is no verdict."""
    setting = {"guard_error": "on_guard_error", "overload": "on_overload"}[cause]
    verdict, decision, error = decided(user("late"), Failing(failure), **{setting: "flag"})
    assert (verdict, decision, error) == (None, Decision("flag", "", (), cause), str(failure))  # type: ignore[arg-type]
    assert decided(user("late"), Failing(failure))[1].action == "block"


def test_a_failure_in_a_view_is_a_failure() -> None:
    """A verdict on the text alone does not count if the guard failed for a view."""
    verdict, decision, error = decided(user("la\u200bte"), Failing(GuardUnavailable("down")))
    assert (verdict, decision.cause, error) == (None, "guard_error", "down")


@pytest.mark.parametrize(("on_opaque", "action"), [("block", "block"), ("allow", "flag")])
def test_the_more_severe_of_text_and_opaque_content_applies(on_opaque: str, action: str) -> None:
    """A flag on the text does not soften a block of an image, nor does an allowed image soften the flag."""
    rules = SideRules({"*": (Rule("flag", 0.5),)})
    message = Message("user", (Part("a", "bomb"), Part("b", "", "opaque", "image")))
    _, decision, _ = decided(message, user=rules, on_opaque={"user": on_opaque, "assistant": "flag"})
    assert decision.action == action
    _, decision, _ = decided(user("", kind="opaque"), on_opaque={"user": on_opaque, "assistant": "flag"})
    assert (decision.action, decision.cause) == (("block", "opaque") if on_opaque == "block" else ("pass", "verdict"))


def test_a_turn_is_unremarkable_by_default() -> None:
    """A judged turn without more is the first choice, took no time, and had no error."""
    judged = JudgedTurn(Turn(0, 0, user("hi")), Verdict(0.0, (), "g"), Decision("flag", "", ()), Pass())
    assert (judged.error, judged.latency_s, judged.choice, judged.passed) == ("", 0.0, 0, True)
    assert Judgement(None, Decision("pass", "", ())).error == ""
    assert not replace(judged, error="late").passed
    assert not replace(judged, verdict=None).passed
    assert not replace(judged, decision=Decision("rewrite", "redact", ())).passed


@pytest.mark.parametrize(
    ("characters", "thread", "asked"),
    [(1, ["ab"], ["abc"]), (4, ["ab"], ["abc", "a\nab"]), (9, ["ab"], ["abc", "ab\nabc"]), (9, [], ["abc"])],
)
def test_a_thread_has_its_bound(characters: int, thread: list[str], asked: list[str]) -> None:
    """Earlier turns are joined as far as the bound allows; without room for two texts nothing more is asked."""
    guard = WordGuard({})
    policy = replace(POLICY, thread=ThreadPolicy(2, characters))
    judged = asyncio.run(judging(guard)[0].judgement((), user("abc"), policy, thread=thread))
    assert [check.turn.text for check in guard.asked] == asked
    assert (judged.error, judged.undecoded) == ("", False)


def test_a_message_with_nothing_of_the_user_is_joined_to_nothing() -> None:
    """A tool's result in a user's message is judged, but not behind the thread."""
    guard = WordGuard({})
    policy = replace(POLICY, thread=ThreadPolicy(2, 100))
    asyncio.run(judging(guard)[0].judgement((), user("abc", kind="tool_result"), policy, thread=["ab"]))
    assert [check.turn.text for check in guard.asked] == ["abc"]


@pytest.mark.parametrize(("least", "action"), [(0.0, "block"), (0.9, "block"), (0.91, "pass")])
def test_a_thread_may_need_more_certainty_than_a_turn(least: float, action: str) -> None:
    """The verdict on the joined text counts from the thread's own P(unsafe) on; a turn's own verdict always counts."""
    policy = replace(POLICY, user=SideRules({"*": (Rule("block", 0.5),)}), thread=ThreadPolicy(2, 4000, least))

    def decided_by(word: str) -> str:
        judge, _ = judging(WordGuard({word: ("violence", 0.9)}))
        return asyncio.run(judge.judgement((), user("now"), policy, thread=["a bomb"])).decision.action

    assert decided_by("bomb\nnow") == action
    assert decided_by("now") == "block"
    assert decided_by("gun") == "pass"


def test_an_action_judges_again_without_a_thread_by_default() -> None:
    """A candidate is judged by itself, and behind a thread only if the turn has one."""
    guard = WordGuard({})

    async def act(message: Message, decision: Decision, judge_again: Any) -> Any:
        await judge_again(message)
        return Pass()

    judge, _ = judging(guard)
    judge.actions = {"again": lambda _: act}
    policy = replace(POLICY, thread=ThreadPolicy(2, 4000))
    asyncio.run(judge.act((), user("abc"), Decision("rewrite", "again", ()), policy))
    assert [check.turn.text for check in guard.asked] == ["abc"]
    assert asyncio.run(judge.turn(EXCHANGE, Turn(0, 0, user("hi")), ())).choice == 0


def test_a_turn_is_timed() -> None:
    """The seconds are those of judging and acting."""
    turn = asyncio.run(judging()[0].turn(EXCHANGE, Turn(0, 0, user("hi")), (), 3))
    assert 0 <= turn.latency_s < 60
    assert (turn.choice, turn.outcome, turn.error) == (3, Pass(), "")


def test_shadow_policies_need_a_verdict() -> None:
    """A turn that was not judged has no shadow record; the turns after it have theirs."""
    sink = ListSink()
    judge, observers = judging(sink=sink)
    strict = replace(POLICY, name="strict", user=SideRules({"*": (Rule("flag", 0.1),)}))
    exchange = replace(EXCHANGE, shadow=(strict, replace(strict, name="other")))
    unread = JudgedTurn(Turn(0, 0, user("a")), None, Decision("block", "", (), "overload"), Refuse("no"), "full")
    read = JudgedTurn(Turn(1, 1, user("b")), Verdict(0.2, (), "g"), Decision("pass", "", ()), Pass())

    async def record() -> None:
        await observers.start()
        await judge.record(exchange, [unread, read], ())
        await observers.close()

    asyncio.run(record())
    assert [(record.turn, record.policy, record.shadow, record.outcome) for record in sink.records] == [
        (0, "default", False, "refuse"),
        (1, "default", False, "pass"),
        (1, "strict", True, "pass"),
        (1, "other", True, "pass"),
    ]


def test_coverage_goes_to_the_record_of_its_turn() -> None:
    """A record has the coverage of its own parts; a part without coverage is left out, and the last has the rest."""
    sink = ListSink()
    judge, observers = judging(sink=sink)
    turns = [
        JudgedTurn(Turn(at, at, Message("user", (Part(path, "x"),))), None, Decision("pass", "", ()), Pass())
        for at, path in enumerate(["a", "unknown", "b"])
    ]
    coverage = tuple(Coverage(path, "user", "text", 1, judged=True) for path in ("a", "b", "c"))

    async def record() -> None:
        await observers.start()
        await judge.record(EXCHANGE, turns, coverage, dropped=frozenset({1}))
        await observers.close()

    asyncio.run(record())
    assert [[item.path for item in record.coverage] for record in sink.records] == [["a"], [], ["b", "c"]]
    assert [record.outcome for record in sink.records] == ["pass", "drop", "pass"]


@pytest.mark.parametrize("others", [0, 1, 2])
def test_the_first_error_ends_all_calls(others: int) -> None:
    """The error itself is raised, not a group of errors, and the other calls are cancelled."""
    cancelled: list[int] = []

    async def fail() -> int:
        await asyncio.sleep(0)
        raise GuardUnavailable("down")

    async def wait(number: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(GuardUnavailable, match="down"):
        asyncio.run(gathered([*(wait(number) for number in range(others)), fail()]))
    assert sorted(cancelled) == list(range(others))


def test_results_keep_the_order_of_the_calls() -> None:
    """A call that ends early does not move forward."""

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    for turns in ([], [3], [3, 1, 2]):
        assert asyncio.run(gathered([after(number) for number in turns])) == turns


def test_a_long_text_that_cannot_be_read_is_not_judged() -> None:
    """The process that computes its views may not start, or end: a failure of the guard, which is not asked."""
    guard = WordGuard({})
    broken = MessageViews(30, Apart((sys.executable, "-c", "pass")))
    metrics = Metrics(CollectorRegistry())
    observers = Observers({"list": ListSink()}, metrics=metrics, text="full", required=True)
    judges = Judging(guard, observers, metrics, {}, views=broken)
    verdict, decision, error = asyncio.run(judges.judge((), user("word " * MEDIUM), POLICY))
    assert (verdict, decision.action, decision.cause) == (None, "block", "guard_error")
    assert "process that reads long texts has ended" in error
    assert guard.asked == []
    assert asyncio.run(judges.judge((), user("word"), POLICY))[1].action == "pass"


def test_the_views_of_a_long_text_count() -> None:
    """What the other process finds is judged as what this one finds."""
    text = "The quick brown fox. " * 5000 + "bo\u200bmb"
    assert decided(user(text))[1].action == "block"
    assert decided(user("The quick brown fox. " * 5000))[1].action == "pass"
