"""A guard of replicas, over scripted connections: whom it asks, what it does about failures, and whom it believes."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.asking import Asker, asked_by
from guardproxy.errors import ConfigError, GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.guards.links import GuardIdentity, ReplicaFailed
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.types import Check, Finding, Taxonomy, Verdict
from guardproxy.upstreams import Ejection
from tests.families.kit import ask
from tests.kit import eventually

TAXONOMY = Taxonomy("harms", (), "v1")
SAME = GuardIdentity("model", "harms@v1", "abc")
QUICK = AskOptions(timeout_s=20, check_every_s=0.02, start_s=5, ejection=Ejection(2, 0.05, 0.2))

Does = Callable[[Check], Any]


def gone(_: Check) -> Any:
    """Nobody listens."""
    raise ReplicaFailed("unsent", "refused")


def breaks(_: Check) -> Any:
    """The connection breaks."""
    raise ReplicaFailed("unknown", "broken off")


def fails(_: Check) -> Any:
    """Its guard fails."""
    raise GuardUnavailable("cannot")


def busy(_: Check) -> Any:
    """Its guard is overloaded."""
    raise Overloaded("busy", retry_s=7.5)


def too_long(_: Check) -> Any:
    """The text takes too long."""
    raise JudgingTooLong("takes 99 s")


async def never(_: Check) -> Any:
    """No answer."""
    await asyncio.sleep(3600)


BAD: list[Does] = [gone, breaks, fails, busy]


@dataclass
class FakeLink:
    """A replica that does what it is told: `does` with checks, None for a good answer; it `says` what it is."""

    name: str
    does: Does | None = None
    says: GuardIdentity | None = SAME
    version: str = "abc"
    asked: list[tuple[Check, Asker]] = field(default_factory=list)
    forgot: list[str] = field(default_factory=list)
    given_up: int = 0
    said: int = 0
    closed: bool = False

    async def identity(self) -> GuardIdentity:
        """What it is."""
        self.said += 1
        if self.says is None:
            raise ReplicaFailed("unsent", "refused")
        return self.says

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The probability that stands in the text."""
        self.asked.append((check, asker))
        try:
            await asyncio.sleep(0)
            if self.does is not None:
                result = self.does(check)
                if result is not None:
                    await result
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        unsafe = float(check.turn.text)
        return Verdict(unsafe, (Finding("harm", unsafe),), "theirs", "harms@v1"), self.version

    def facts(self) -> dict[str, str | int]:
        """Nothing."""
        return {}

    async def forget(self, stream: str) -> None:
        """Note it."""
        self.forgot.append(stream)

    async def close(self) -> None:
        """Note it."""
        self.closed = True


@asynccontextmanager
async def running(*links: FakeLink, options: AskOptions = QUICK, floor: float = 0.0) -> Any:
    """A guard of these replicas, started."""
    guard = ReplicaGuard("ours", TAXONOMY, links, options, floor=floor)
    await guard.start()
    try:
        yield guard
    finally:
        await guard.close()
        assert all(link.closed for link in links)


def calls(guard: ReplicaGuard, name: str) -> dict[str, int]:
    """The calls of a replica by how they ended."""
    return {result: count for result, count in guard.report()[name][1].calls.items() if count}


def test_the_verdict_comes_in_the_guards_name() -> None:
    """With everything else as the replica gave it."""

    async def run() -> None:
        async with running(FakeLink("a")) as guard:
            verdict = await guard.judge(ask("0.25"))
        assert (verdict.guard, verdict.unsafe, verdict.taxonomy) == ("ours", 0.25, "harms@v1")
        assert verdict.findings == (Finding("harm", 0.25),)

    asyncio.run(run())


@pytest.mark.parametrize("does", BAD)
def test_another_replica_answers(does: Does) -> None:
    """After every failure: judging changes nothing, so it may be repeated."""

    async def run() -> None:
        bad, good = FakeLink("bad", does), FakeLink("good")
        async with running(bad, good) as guard:
            verdicts = await asyncio.gather(*(guard.judge(ask(str(number / 64))) for number in range(64)))
        assert [verdict.unsafe for verdict in verdicts] == [number / 64 for number in range(64)]
        assert bad.asked

    asyncio.run(run())


@given(st.lists(st.sampled_from([None, *BAD]), min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_verdict_is_right_or_there_is_none(script: list[Does | None], attempts: int) -> None:
    """Whatever replicas do: a good one that may be asked answers, and otherwise the error is the guard's."""

    async def run() -> None:
        links = [FakeLink(str(number), does) for number, does in enumerate(script)]
        options = AskOptions(timeout_s=0.5, attempts=attempts, check_every_s=60, ejection=QUICK.ejection)
        async with running(*links, options=options) as guard:
            (found,) = await asyncio.gather(guard.judge(ask("0.5")), return_exceptions=True)
        if isinstance(found, GuardUnavailable):
            assert None not in script or attempts < len(script)
            assert isinstance(found, Overloaded) == any(link.asked for link in links if link.does is busy)
            assert not isinstance(found, Overloaded) or found.retry_s == 7.5
        else:
            assert isinstance(found, Verdict)
            assert found.unsafe == 0.5
            assert None in script
        assert sum(len(link.asked) for link in links) <= attempts

    asyncio.run(run())


def test_a_check_that_takes_too_long_is_not_repeated() -> None:
    """All replicas run the same model; and no other check of the request is asked."""

    async def run() -> None:
        links = [FakeLink(name, too_long) for name in "ab"]
        async with running(*links) as guard:
            asked_by("client")
            for _ in range(2):
                with pytest.raises(JudgingTooLong, match="99 s"):
                    await guard.judge(ask("0.5"))
        assert sum(len(link.asked) for link in links) == 1

    asyncio.run(run())


def test_the_asker_travels() -> None:
    """The queue there is fair between the same clients and requests as here."""

    async def run() -> None:
        link = FakeLink("a")
        async with running(link) as guard:
            asker = asked_by("client")
            await guard.judge(ask("0.5"))
        assert link.asked[0][1] is asker

    asyncio.run(run())


def test_a_replica_that_gives_no_answer_is_ejected_and_its_calls_go_to_another() -> None:
    """It no longer says what it is either: it hangs, or the network is gone. Long before the time of a check is up."""

    async def run() -> None:
        hangs, good = FakeLink("hangs", never), FakeLink("good")
        options = AskOptions(timeout_s=300, check_every_s=0.02, ejection=QUICK.ejection)
        async with running(hangs, good, options=options) as guard:
            judging = [asyncio.ensure_future(guard.judge(ask("0.5"))) for _ in range(8)]
            await eventually(lambda: len(hangs.asked) + len(good.asked) >= 8)
            assert hangs.asked
            hangs.says = None
            verdicts = await asyncio.gather(*judging)
            assert [verdict.unsafe for verdict in verdicts] == [0.5] * 8
            assert guard.report()["hangs"][1].ejections == 1
            hangs.does, hangs.says = None, SAME
            await eventually(lambda: guard.states()["hangs"] == "up")

    asyncio.run(run())


def test_a_replica_whose_connection_broke_is_asked_behind_the_others() -> None:
    """Until it has said what it is: it may have been restarted as something else."""

    async def run() -> None:
        good, broken = FakeLink("good"), FakeLink("broken", breaks)
        options = AskOptions(check_every_s=60, ejection=Ejection(failures=1000))
        async with running(good, broken, options=options) as guard:
            broken.says = None
            while not broken.asked:
                await guard.judge(ask("0.5"))
            for _ in range(50):
                await guard.judge(ask("0.5"))
        assert len(broken.asked) == 1

    asyncio.run(run())


def test_a_replica_that_fails_its_checks_is_ejected_although_it_says_what_it_is() -> None:
    """The answers to that question do not make up for them."""

    async def run() -> None:
        good, failing = FakeLink("good"), FakeLink("failing", fails)
        options = AskOptions(check_every_s=0.02, ejection=Ejection(failures=3, first_s=600, longest_s=600))
        async with running(good, failing, options=options) as guard:
            while guard.states()["failing"] == "up":
                await guard.judge(ask("0.5"))
                before = failing.said
                await eventually(lambda before=before: failing.said > before or guard.states()["failing"] == "down")
                assert len(failing.asked) <= 3
        assert len(failing.asked) == 3

    asyncio.run(run())


def test_a_check_ends_after_its_time() -> None:
    """And the call is dropped at the replica."""

    async def run() -> None:
        link = FakeLink("a", never)
        async with running(link, options=AskOptions(timeout_s=0.05, check_every_s=60)) as guard:
            with pytest.raises(GuardUnavailable, match="a: no answer in time"):
                await guard.judge(ask("0.5"))
        assert link.given_up == 1

    asyncio.run(run())


def test_cancelling_drops_the_check_and_counts_for_nothing() -> None:
    """A client that leaves says nothing of the replica."""

    async def run() -> None:
        link = FakeLink("a", never)
        async with running(link) as guard:
            for _ in range(5):
                judging = asyncio.ensure_future(guard.judge(ask("0.5")))
                before = len(link.asked)
                await eventually(lambda before=before: len(link.asked) > before)
                judging.cancel()
                await asyncio.wait([judging])
            assert guard.states() == {"a": "up"}
            assert calls(guard, "a") == {"given_up": 5}
        assert link.given_up == 5

    asyncio.run(run())


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (SAME._replace(name="another"), "b runs another"),
        (SAME._replace(version="def"), "version def"),
        (SAME._replace(taxonomy="harms@v2"), "harms@v2"),
        (SAME._replace(floor=0.4), "a threshold here is 0.3"),
    ],
)
def test_replicas_that_differ_are_a_mistake_at_the_start(says: GuardIdentity, message: str) -> None:
    """Of the configuration: the operator reads which one, and how."""

    async def run() -> None:
        guard = ReplicaGuard("ours", TAXONOMY, [FakeLink("a"), FakeLink("b", says=says)], QUICK, floor=0.3)
        with pytest.raises(ConfigError, match=message):
            await guard.start()
        await guard.close()

    asyncio.run(run())


def test_a_replica_that_comes_back_as_another_guard_is_not_used() -> None:
    """It is told as `other`; when it is the same again, it is used again."""

    async def run() -> None:
        a, b = FakeLink("a"), FakeLink("b")
        async with running(a, b) as guard:
            b.says, b.version, b.does = SAME._replace(version="def"), "def", breaks
            await guard.judge(ask("0.5"))
            await eventually(lambda: guard.states()["b"] == "other")
            b.does, asked = None, len(b.asked)
            for _ in range(20):
                assert (await guard.judge(ask("0.5"))).unsafe == 0.5
            assert len(b.asked) == asked
            b.says, b.version = SAME, "abc"
            await eventually(lambda: guard.states()["b"] == "up")

    asyncio.run(run())


def test_a_verdict_of_another_version_is_not_taken() -> None:
    """The replica was restarted with another model between two questions what it is."""

    async def run() -> None:
        a, b = FakeLink("a"), FakeLink("b")
        options = AskOptions(timeout_s=20, check_every_s=60, ejection=QUICK.ejection)
        async with running(a, b, options=options) as guard:
            b.version = "def"
            for _ in range(20):
                await guard.judge(ask("0.5"))
            assert "answered" not in calls(guard, "b")
            assert calls(guard, "a") == {"answered": 20}

    asyncio.run(run())


def test_without_any_replica_the_guard_starts_and_fails_its_checks() -> None:
    """So that the proxy is ready as soon as one is there."""

    async def run() -> None:
        link = FakeLink("a", gone, says=None)
        async with running(link, options=AskOptions(timeout_s=1, attempts=2, check_every_s=0.02)) as guard:
            with pytest.raises(GuardUnavailable, match="refused"):
                await guard.judge(ask("0.5"))
            link.says, link.does = SAME, None
            await eventually(lambda: guard.states()["a"] == "up")
            assert (await guard.judge(ask("0.5"))).unsafe == 0.5

    asyncio.run(run())


def test_checks_of_a_stream_go_to_one_replica_until_it_is_gone() -> None:
    """Every replica that has judged it is told of its end."""

    async def run() -> None:
        links = {name: FakeLink(name) for name in "abc"}
        async with running(*links.values()) as guard:
            for _ in range(10):
                await guard.judge(Check(ask("0.5").conversation, "assistant", "stream-1"))
            (own,) = [link for link in links.values() if link.asked]
            own.does = breaks
            for _ in range(10):
                await guard.judge(Check(ask("0.5").conversation, "assistant", "stream-1"))
            used = [link for link in links.values() if link.asked]
            assert len(used) == 2
            guard.forget("stream-1")
            await eventually(lambda: all(link.forgot == ["stream-1"] for link in used))
            assert not [link for link in links.values() if link not in used and link.forgot]

    asyncio.run(run())


def test_work_goes_to_the_replica_with_the_fewest_open_calls() -> None:
    """One that hangs keeps its calls, and gets no more than the other has."""

    async def run() -> None:
        slow, quick = FakeLink("slow", never), FakeLink("quick")
        options = AskOptions(timeout_s=300, check_every_s=60)
        async with running(slow, quick, options=options) as guard:
            waiting = []
            for _ in range(50):
                waiting.append(asyncio.ensure_future(guard.judge(ask("0.5"))))
                await eventually(lambda: all(one.done() or slow.asked for one in waiting))
            assert len(slow.asked) == 1
            for one in waiting:
                one.cancel()

    asyncio.run(run())


def test_a_slow_check_is_asked_twice_with_hedging() -> None:
    """The first answer counts, and the other call is dropped."""

    async def run() -> None:
        slow, quick = FakeLink("slow"), FakeLink("quick")
        options = AskOptions(timeout_s=300, hedge=True, check_every_s=60)
        async with running(slow, quick, options=options) as guard:
            for _ in range(200):
                await guard.judge(ask("0.5"))
            slow.does = never
            while not slow.given_up:
                assert (await guard.judge(ask("0.5"))).unsafe == 0.5
            assert guard.report()["quick"][1].hedges >= 1
            assert calls(guard, "slow")["given_up"] >= 1

    asyncio.run(run())


def test_with_hedging_a_failure_goes_to_another_as_without() -> None:
    """And what takes too long is not repeated."""

    async def run() -> None:
        bad, good = FakeLink("bad", breaks), FakeLink("good")
        async with running(bad, good, options=AskOptions(hedge=True)) as guard:
            for _ in range(20):
                assert (await guard.judge(ask("0.5"))).unsafe == 0.5
            bad.does = good.does = too_long
            with pytest.raises(JudgingTooLong):
                await guard.judge(ask("0.5"))

    asyncio.run(run())
