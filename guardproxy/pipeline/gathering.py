"""Many calls at once, so that the event loop goes on between them."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# Calls of one request that run at the same time.
AT_ONCE = 16


async def gathered(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all calls in order, at most AT_ONCE at a time.

    The first error cancels every other call and is raised.
    """
    if len(calls) < 2:
        return [await call for call in calls]
    try:
        async with asyncio.TaskGroup() as group:
            if len(calls) <= AT_ONCE:
                tasks = [group.create_task(call) for call in calls]
            else:
                results: list[T | None] = [None] * len(calls)
                waiting, turnstile = iter(enumerate(calls)), asyncio.Lock()
                for _ in range(AT_ONCE):
                    group.create_task(_work_off(waiting, results, turnstile))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    finally:
        if len(calls) > AT_ONCE:
            for call in calls:
                call.close()  # those that were never started: otherwise Python warns of them
    return [task.result() for task in tasks] if len(calls) <= AT_ONCE else results  # type: ignore[return-value]


async def _work_off(
    waiting: Iterator[tuple[int, Coroutine[Any, Any, T]]], results: list[T | None], turnstile: asyncio.Lock
) -> None:
    for place, call in waiting:
        # In a turn of the event loop one call begins, whose work before it waits for the guard takes milliseconds.
        async with turnstile:
            await asyncio.sleep(0)
        results[place] = await call
