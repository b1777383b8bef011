"""Long texts are read in a process of its own, which may end at any time; the answers are those of this process."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.apart import MOST_CALLS, Apart
from guardproxy.errors import GuardUnavailable, Overloaded
from guardproxy.offload import MEDIUM
from guardproxy.views import VIEWS, views_of

LONG = MEDIUM + 1


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.close()


def test_only_long_work_leaves_the_process(apart: Apart) -> None:
    async def pids() -> tuple[int, int, int]:
        return (
            await apart.computed(MEDIUM, os.getpid),
            await apart.computed(LONG, os.getpid),
            await apart.computed(LONG, os.getpid),
        )

    here, there, again = asyncio.run(pids())
    assert here == os.getpid() != there == again


def test_errors_reach_the_caller(apart: Apart) -> None:
    async def run() -> Any:
        with pytest.raises(ValueError, match="invalid literal"):
            await apart.computed(LONG, int, "no number")
        return await apart.computed(LONG, int, "7")

    assert asyncio.run(run()) == 7


def test_a_process_that_ends_fails_its_call_and_no_other(apart: Apart) -> None:
    async def run() -> tuple[int, int]:
        first = await apart.computed(LONG, os.getpid)
        with pytest.raises(GuardUnavailable, match="has ended"):
            await apart.computed(LONG, os._exit, 3)
        second = await apart.computed(LONG, os.getpid)
        os.kill(second, signal.SIGKILL)  # between two calls: whether the next one notices is a race
        try:
            third = await apart.computed(LONG, os.getpid)
        except GuardUnavailable:
            third = await apart.computed(LONG, os.getpid)
        assert third not in (first, second)
        return first, second

    first, second = asyncio.run(run())
    assert first != second


def test_a_call_without_an_answer_in_time_is_ended_and_holds_up_no_other() -> None:
    apart = Apart(timeout_s=3)

    async def run() -> tuple[int, int]:
        first = await apart.computed(LONG, os.getpid)
        slow = asyncio.create_task(apart.computed(LONG, time.sleep, 60))
        await asyncio.sleep(0)
        # These two wait for the slow one: the process is theirs only once it has been ended.
        waiting = [asyncio.create_task(apart.computed(LONG, os.getpid)) for _ in range(2)]
        for call in (slow, *waiting):
            with pytest.raises(GuardUnavailable, match="not read within 3 s"):
                await call
        return first, await apart.computed(LONG, os.getpid)

    try:
        first, second = asyncio.run(run())
    finally:
        apart.close()
    assert first != second


def test_a_process_that_does_not_start_is_a_failure() -> None:
    for command in (("/nowhere/python",), (sys.executable, "-c", "pass")):
        with pytest.raises(GuardUnavailable):
            asyncio.run(Apart(command).computed(LONG, os.getpid))


def test_what_a_function_prints_is_no_answer(apart: Apart) -> None:
    async def run() -> int:
        await apart.computed(LONG, print, "a line")
        await apart.computed(LONG, os.write, 1, b"\xff" * 64)
        return await apart.computed(LONG, int, "7")

    assert asyncio.run(run()) == 7


def test_calls_beyond_the_bound_are_refused_and_those_before_are_answered(apart: Apart) -> None:
    async def run() -> list[int]:
        calls = [asyncio.ensure_future(apart.computed(LONG, int, str(n))) for n in range(MOST_CALLS)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await apart.computed(LONG, os.getpid)
        answers = await asyncio.gather(*calls)
        assert await apart.computed(LONG, int, "7") == 7
        return answers

    assert asyncio.run(run()) == [*range(MOST_CALLS)]


def test_a_caller_that_leaves_stops_nobody(apart: Apart) -> None:
    async def run() -> int:
        left = asyncio.ensure_future(apart.computed(LONG, sum, range(3_000_000)))
        waits = asyncio.ensure_future(apart.computed(LONG, sum, range(2)))
        follows = asyncio.ensure_future(apart.computed(LONG, sum, range(3)))
        await asyncio.sleep(0)
        left.cancel()
        waits.cancel()
        return await follows

    assert asyncio.run(run()) == 3


TEXTS = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["aGVsbG8gd29ybGQgdGhpcyBpcyB0ZXh0", "h0w t0 m4k3 b0mb5", "gur dhvpx oebja sbk", "b o m b", "\u202eabc"]
    ),
)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_views_are_those_of_this_process(apart: Apart, texts: list[str], in_parts: bool) -> None:
    whole, parts = "\n".join(texts), texts if in_parts else []
    found = asyncio.run(apart.computed(LONG, views_of, whole, texts[:1], VIEWS, parts))
    assert found == views_of(whole, texts[:1], VIEWS, parts)
