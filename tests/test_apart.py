"""Long texts are read in a process of its own, which may end at any time; the answers are those of this process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.apart import LONGER, MOST_CALLS, Apart
from guardproxy.asking import asked_by
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.offload import MEDIUM
from guardproxy.views import VIEWS, views_of
from tests.kit import until

LONG = MEDIUM + 1


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.close()


def test_only_long_work_leaves_the_process(apart: Apart) -> None:
    async def pids() -> tuple[int, int, int]:
        return (
            await apart.computed(60, MEDIUM, os.getpid),
            await apart.computed(60, LONG, os.getpid),
            await apart.computed(60, LONG, os.getpid),
        )

    here, there, again = asyncio.run(pids())
    assert here == os.getpid() != there == again


def test_errors_reach_the_caller(apart: Apart) -> None:
    async def run() -> Any:
        with pytest.raises(ValueError, match="invalid literal"):
            await apart.computed(60, LONG, int, "no number")
        return await apart.computed(60, LONG, int, "7")

    assert asyncio.run(run()) == 7


def test_a_process_that_ends_fails_its_call_and_no_other(apart: Apart) -> None:
    async def run() -> tuple[int, int]:
        first = await apart.computed(60, LONG, os.getpid)
        with pytest.raises(GuardUnavailable, match="has ended"):
            await apart.computed(60, LONG, os._exit, 3)
        second = await apart.computed(60, LONG, os.getpid)
        os.kill(second, signal.SIGKILL)  # between two calls: whether the next one notices is a race
        try:
            third = await apart.computed(60, LONG, os.getpid)
        except GuardUnavailable:
            third = await apart.computed(60, LONG, os.getpid)
        assert third not in (first, second)
        return first, second

    first, second = asyncio.run(run())
    assert first != second


def test_a_call_without_an_answer_in_time_is_ended_and_no_other() -> None:
    """It takes too long, whoever waits; those behind it are answered by another process."""
    apart = Apart()

    async def run() -> tuple[int, list[int]]:
        first = await apart.computed(60, LONG, os.getpid)
        asker = asked_by("slow")
        slow = asyncio.create_task(apart.computed(2, LONG, time.sleep, 60))
        asked_by("other")
        waiting = [asyncio.create_task(apart.computed(60, LONG, os.getpid)) for _ in range(2)]
        with pytest.raises(JudgingTooLong, match=r"longer than guard.timeout_s: a text was not read in 2 s"):
            await slow
        assert asker.refused  # no other check of the request has to run
        return first, await asyncio.gather(*waiting)

    try:
        first, others = asyncio.run(run())
    finally:
        apart.close()
    assert first != others[0] == others[1]


def test_a_call_that_others_delay_until_its_time_is_over_is_overload(apart: Apart) -> None:
    async def run() -> None:
        asked_by("slow")
        slow = asyncio.create_task(apart.computed(60, LONG, time.sleep, 1))
        asker = asked_by("other")
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"read first, for the 0.2 s of guard.timeout_s"):
            await apart.computed(0.2, LONG, os.getpid)
        assert not asker.refused
        await slow

    asyncio.run(run())


def test_a_request_has_its_time_from_its_admission_on_and_each_check_of_a_reply_for_itself(apart: Apart) -> None:
    async def run() -> None:
        asker = asked_by("client")
        asker.admitted -= 50
        assert await apart.computed(60, LONG, int, "7") == 7
        asker.admitted -= 10
        with pytest.raises(JudgingTooLong):
            await apart.computed(60, LONG, time.sleep, 30)
        asker.refused, asker.answered = "", True
        assert await apart.computed(60, LONG, int, "7") == 7

    asyncio.run(run())


def test_no_client_and_no_request_waits_for_all_calls_of_another(apart: Apart) -> None:
    """In turn: one call of each client, and of a client one of each request."""
    order: list[str] = []

    async def ask(name: str) -> None:
        await apart.computed(60, LONG, int, "7")
        order.append(name)

    async def run() -> None:
        asked_by("first")
        tasks = [asyncio.create_task(apart.computed(60, LONG, time.sleep, 0.2))]
        for client, request in (("many", "a"), ("many", "b"), ("few", "c")):
            asked_by(client)
            tasks += [asyncio.create_task(ask(f"{request}{number}")) for number in range(3 if client == "many" else 1)]
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == ["a0", "c0", "b0", "a1", "b1", "a2", "b2"]


def test_longer_calls_have_a_process_of_their_own(apart: Apart) -> None:
    async def run() -> tuple[int, int]:
        slow = asyncio.create_task(apart.computed(60, LONGER + 1, time.sleep, 30))
        await asyncio.sleep(0)
        there = await apart.computed(60, LONG, os.getpid)
        slow.cancel()
        return there, await apart.computed(60, LONG, os.getpid)

    there, again = asyncio.run(run())
    assert there == again


def test_a_process_that_does_not_start_is_a_failure() -> None:
    for command in (("/nowhere/python",), (sys.executable, "-c", "pass")):
        with pytest.raises(GuardUnavailable):
            asyncio.run(Apart(command).computed(60, LONG, os.getpid))


def test_what_a_function_prints_is_no_answer(apart: Apart) -> None:
    async def run() -> int:
        await apart.computed(60, LONG, print, "a line")
        await apart.computed(60, LONG, os.write, 1, b"\xff" * 64)
        return await apart.computed(60, LONG, int, "7")

    assert asyncio.run(run()) == 7


def test_calls_beyond_the_bound_are_refused_and_those_before_are_answered(apart: Apart) -> None:
    """Those of the client that has the most: one that has many takes no place of another."""

    async def run() -> list[Any]:
        asked_by("many")
        many = [asyncio.ensure_future(apart.computed(60, LONG, int, str(n))) for n in range(MOST_CALLS + 2)]
        await asyncio.sleep(0)
        asked_by("few")
        assert await apart.computed(60, LONG, int, "7") == 7
        return await asyncio.gather(*many, return_exceptions=True)

    answers = asyncio.run(run())
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert 1 <= len(refused) <= 3  # the first has begun, or not
    answered = [answer for answer in answers if not isinstance(answer, Overloaded)]
    assert answered == sorted(answered)
    assert len(answered) + len(refused) == MOST_CALLS + 2


def test_a_caller_that_leaves_stops_nobody(apart: Apart) -> None:
    async def run() -> int:
        left = asyncio.ensure_future(apart.computed(60, LONG, sum, range(3_000_000)))
        waits = asyncio.ensure_future(apart.computed(60, LONG, sum, range(2)))
        follows = asyncio.ensure_future(apart.computed(60, LONG, sum, range(3)))
        await asyncio.sleep(0)
        left.cancel()
        waits.cancel()
        return await follows

    assert asyncio.run(run()) == 3


def test_a_program_ends_while_a_call_runs() -> None:
    program = f"""
import asyncio, time
from guardproxy.apart import Apart

async def run():
    asyncio.create_task(Apart().computed(60, {LONG}, time.sleep, 60))
    await asyncio.sleep(1)

asyncio.run(run())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_a_call_ends_when_its_program_is_killed() -> None:
    program = f"""
import asyncio, os, time
from guardproxy.apart import Apart

async def run():
    apart = Apart()
    print(await apart.computed(60, {LONG}, os.getpid), flush=True)
    await apart.computed(60, {LONG}, time.sleep, 60)

asyncio.run(run())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        there = Path(f"/proc/{int(process.stdout.readline())}")
        process.kill()
    until(lambda: not there.exists() or there.joinpath("stat").read_text().split()[2] == "Z", "it goes on", 20)


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
    found = asyncio.run(apart.computed(60, LONG, views_of, whole, texts[:1], VIEWS, parts))
    assert found == views_of(whole, texts[:1], VIEWS, parts)
