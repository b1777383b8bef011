"""The verdict cache: equal checks share one call, failures are not cached, cancelling hits only its caller."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.guards.cache import Cached, check_key
from guardproxy.types import Category, Check, Conversation, Finding, Message, Part, Side, Taxonomy, Usage, Verdict
from tests.kit import eventually
from tests.sharing.memory import MemoryState

TAXONOMY = Taxonomy("six", (Category("violence_hate", "Violence"),), "v1")


def check(*texts: str, side: Side = "user", stream: str | None = None, place: str = "messages[0]") -> Check:
    """A check of user messages with these texts."""
    return Check(Conversation(tuple(Message("user", (Part(place, text),)) for text in texts)), side, stream)


class Slow:
    """A guard that answers when its gate opens; it records its checks and counts the cancelled ones."""

    def __init__(self, name: str = "slow", taxonomy: Taxonomy = TAXONOMY) -> None:
        self.name = name
        self.taxonomy = taxonomy
        self.asked: list[Check] = []
        self.dropped = 0
        self.forgotten: list[str] = []
        self.running = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Callable[[], Exception] | None = None

    async def judge(self, check: Check) -> Verdict:
        """Waits for the gate, then fails or answers."""
        self.asked.append(check)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        if self.fail is not None:
            raise self.fail()
        usage = Usage(queue_s=1.0, forward_s=2.0, tokens_computed=7, batch=3, windows=2)
        return Verdict(0.25, (Finding("violence_hate", 0.25),), self.name, "six@v1", usage)

    def forget(self, stream: str) -> None:
        """Remembers the stream."""
        self.forgotten.append(stream)

    async def start(self) -> None:
        """Runs."""
        self.running = True

    async def close(self) -> None:
        """Stops."""
        self.running = False


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_hit_costs_nothing_and_says_so() -> None:
    """The second equal check is answered from the cache, with the same scores and the usage of a hit."""

    async def story() -> None:
        guard = Slow()
        cached = Cached(guard, 8)
        first = await cached.judge(check("a"))
        second = await cached.judge(check("a", stream="s", place="elsewhere"))
        assert len(guard.asked) == 1
        assert first.usage.tokens_computed == 7
        assert not first.usage.cached
        assert second.usage == Usage(windows=2, cached=True)
        assert (second.unsafe, second.findings) == (first.unsafe, first.findings)

    asyncio.run(story())


@pytest.mark.parametrize(
    "other",
    [
        check("b"),
        check("a", side="assistant"),
        check("a", ""),
        Check(Conversation((Message("system", (Part("p", "a"),)),)), "user"),
        Check(Conversation((Message("user", (Part("p", "a", "tool_result"),)),)), "user"),
        Check(Conversation((Message("user", (Part("p", "a"), Part("q", "", "opaque", "image"))),)), "user"),
    ],
)
def test_whatever_a_guard_can_read_is_part_of_the_question(other: Check) -> None:
    """Another text, side, role, kind or number of parts gives another key."""
    assert check_key(check("a")) != check_key(other)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_texts_do_not_run_together(left: list[str], right: list[str]) -> None:
    """Two conversations have the same key if and only if their texts are equal, one by one."""
    assert (check_key(check(*left)) == check_key(check(*right))) == (left == right)


def test_lone_surrogates_have_a_key() -> None:
    """Text with an unpaired surrogate has a key like any other."""
    assert check_key(check("\ud800")) != check_key(check("\ud801"))


def test_guards_and_taxonomies_are_told_apart() -> None:
    """The key holds the guard's name and its taxonomy's id and version."""
    keys = {
        Cached(Slow(name, Taxonomy(taxonomy, (), version)), 1)._key(check("a"))
        for name in ("x", "y")
        for taxonomy in ("six", "seven")
        for version in ("v1", "v2")
    }
    assert len(keys) == 8


def test_the_least_recently_used_goes_first() -> None:
    """A full cache drops the verdict that was used longest ago."""

    async def story() -> None:
        guard = Slow()
        cached = Cached(guard, 2)
        for text in ("a", "b", "a", "c", "a", "b"):
            await cached.judge(check(text))
        assert [one.turn.text for one in guard.asked] == ["a", "b", "c", "b"]

    asyncio.run(story())


def test_concurrent_equal_checks_share_one_call() -> None:
    """Eight equal checks at the same time make one call, and seven of them are hits."""

    async def story() -> None:
        guard = Slow()
        guard.gate.clear()
        cached = Cached(guard, 8)
        tasks = [asyncio.create_task(cached.judge(check("a"))) for _ in range(8)]
        await settle()
        guard.gate.set()
        verdicts = await asyncio.gather(*tasks)
        assert len(guard.asked) == 1
        assert sum(verdict.usage.cached for verdict in verdicts) == 7

    asyncio.run(story())


@pytest.mark.parametrize("gone", [0, 1])
def test_cancelling_one_leaves_the_other_its_answer(gone: int) -> None:
    """Of two callers that share a call either may be cancelled; the other still gets its verdict."""

    async def story() -> None:
        guard = Slow()
        guard.gate.clear()
        cached = Cached(guard, 8)
        tasks = [asyncio.create_task(cached.judge(check("a"))) for _ in range(2)]
        await settle()
        tasks[gone].cancel()
        await settle()
        assert tasks[gone].cancelled()
        assert guard.dropped == 0
        guard.gate.set()
        assert (await tasks[1 - gone]).unsafe == 0.25
        assert len(guard.asked) == 1

    asyncio.run(story())


def test_a_call_that_nobody_waits_for_is_dropped() -> None:
    """When all its callers are cancelled the call is too, and the next check starts a new call."""

    async def story() -> None:
        guard = Slow()
        guard.gate.clear()
        cached = Cached(guard, 8)
        tasks = [asyncio.create_task(cached.judge(check("a"))) for _ in range(2)]
        await settle()
        for task in tasks:
            task.cancel()
        await settle()
        assert guard.dropped == 1
        guard.gate.set()
        assert not (await cached.judge(check("a"))).usage.cached
        assert len(guard.asked) == 2

    asyncio.run(story())


@pytest.mark.parametrize("failure", [GuardUnavailable, Overloaded])
def test_failures_reach_all_and_are_not_kept(failure: type[GuardUnavailable]) -> None:
    """All callers of a failing call get its failure, and the next check asks the guard again."""

    async def story() -> None:
        guard = Slow()
        guard.gate.clear()
        guard.fail = lambda: failure("no")
        cached = Cached(guard, 8)
        tasks = [asyncio.create_task(cached.judge(check("a"))) for _ in range(3)]
        await settle()
        guard.gate.set()
        assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [failure] * 3
        guard.fail = None
        assert (await cached.judge(check("a"))).unsafe == 0.25
        assert len(guard.asked) == 2

    asyncio.run(story())


def test_a_call_that_the_guard_drops_is_unavailable() -> None:
    """If the guard cancels the shared call, its callers get GuardUnavailable."""

    async def story() -> None:
        guard = Slow()
        guard.fail = asyncio.CancelledError
        with pytest.raises(GuardUnavailable, match="dropped"):
            await Cached(guard, 8).judge(check("a"))

    asyncio.run(story())


def test_the_rest_of_the_port_is_passed_on() -> None:
    """Start, forget and close reach the guard, and a closed cache is empty."""

    async def story() -> None:
        guard = Slow()
        cached = Cached(guard, 8)
        await cached.start()
        assert guard.running
        await cached.judge(check("a"))
        cached.forget("s")
        await cached.close()
        assert (guard.forgotten, guard.running) == (["s"], False)
        await cached.judge(check("a"))
        assert len(guard.asked) == 2

    asyncio.run(story())


def test_a_cache_without_room_is_a_mistake() -> None:
    """A cache of 0 entries is a configuration error."""
    with pytest.raises(ConfigError, match="room for 1"):
        Cached(Slow(), 0)


# --- what several processes share -------------------------------------------------------------------------------------


def test_what_another_process_has_judged_is_not_judged_again() -> None:
    """Its verdict has the same scores and the usage of a hit, and from then on this process knows it by itself."""

    async def run() -> None:
        state, (one, other) = MemoryState(), (Slow(), Slow())
        first, second = Cached(one, 10, state), Cached(other, 10, state)
        judged = await first.judge(check("hello"))
        await eventually(lambda: state.values)
        known = await second.judge(check("hello"))
        assert (known.unsafe, known.findings, known.guard) == (judged.unsafe, judged.findings, judged.guard)
        assert known.usage == Usage(windows=2, cached=True)
        state.down = True
        assert await second.judge(check("hello")) == known
        assert (len(one.asked), len(other.asked)) == (1, 0)
        assert state.asked == ["verdict", "verdict"]

    asyncio.run(run())


def test_a_state_that_knows_nothing_costs_a_check() -> None:
    """The guard is asked, once for callers at the same time."""

    async def run() -> None:
        state, guard = MemoryState(), Slow()
        state.down = True
        cached = Cached(guard, 10, state)
        both = await asyncio.gather(cached.judge(check("hello")), cached.judge(check("hello")))
        assert [verdict.unsafe for verdict in both] == [0.25, 0.25]
        assert len(guard.asked) == 1

    asyncio.run(run())


def test_failures_and_unfinished_texts_are_not_shared() -> None:
    """A failure says nothing of the text, and no other process has the same piece of a stream."""

    async def run() -> None:
        state, guard = MemoryState(), Slow()
        cached = Cached(guard, 10, state)
        guard.fail = lambda: GuardUnavailable("broken")
        with pytest.raises(GuardUnavailable):
            await cached.judge(check("hello"))
        guard.fail = None
        state.asked.clear()
        await cached.judge(replace(check("hel", stream="s"), unfinished=True))
        await settle()
        assert (state.values, state.asked) == ({}, [])

    asyncio.run(run())
