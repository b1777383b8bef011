"""Work beyond a size runs on a thread; many calls leave the event loop to others."""

import asyncio
import threading

import pytest

from guardproxy.offload import ON_LOOP, computed
from guardproxy.pipeline.gathering import AT_ONCE, gathered


def test_only_large_work_leaves_the_thread_of_the_loop() -> None:
    async def threads() -> list[int]:
        return [await computed(size, threading.get_ident) for size in (ON_LOOP, ON_LOOP + 1, 10**9)]

    small, medium, large = asyncio.run(threads())
    assert small == threading.get_ident()
    assert len({small, medium, large}) == 3


def test_errors_of_a_thread_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(computed(10**6, lambda: 1 // 0))


@pytest.mark.parametrize("count", [1, 16, 17, 500])
def test_results_come_in_order_and_the_loop_goes_on(count: int) -> None:
    beats = [0]

    async def beat() -> None:
        while True:
            beats[0] += 1
            await asyncio.sleep(0)

    async def call(number: int) -> int:
        return number

    async def run() -> list[int]:
        task = asyncio.create_task(beat())
        try:
            return await gathered([call(number) for number in range(count)])
        finally:
            task.cancel()

    assert asyncio.run(run()) == list(range(count))
    assert beats[0] >= (count if count > AT_ONCE else 0)  # of many calls, one begins in a turn of the loop


def test_the_first_error_stops_the_other_calls() -> None:
    done = []

    async def call(number: int) -> None:
        await asyncio.sleep(0)
        if number == 20:
            raise ValueError(number)
        done.append(number)

    with pytest.raises(ValueError, match="20"):
        asyncio.run(gathered([call(number) for number in range(10_000)]))
    assert len(done) < 100


def test_large_work_does_not_hold_up_medium_work() -> None:
    release = threading.Event()

    async def run() -> bool:
        large = asyncio.ensure_future(computed(10**9, release.wait, 60))
        await asyncio.sleep(0)
        await computed(ON_LOOP + 1, int)
        release.set()
        return await large

    assert asyncio.run(run())
