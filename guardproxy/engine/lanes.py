"""A batch on several CPU threads: split into lanes where it can be, so that no thread waits for another at every step.

Two threads that share each operation meet thousands of times a batch, and what else runs on a core is waited for
at every meeting. Two lanes of one thread meet once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

# Threads that share every operation of one pass do the work of threads ** _GAIN (bench/RESULTS.md, Engine).
_GAIN = 0.7

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """The CPU threads of one runner. Used by one thread at a time, which is a lane itself."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="guard-lane")

    def run(self, items: Sequence[T], cost: Callable[[T], int], act: Callable[[Sequence[T]], R]) -> list[R]:
        """`act` on every lane of `items`, at once. Raises what the first failing lane raised, when all have ended."""
        lanes = split([cost(item) for item in items], self._threads)
        each = max(1, self._threads // len(lanes))

        def on(lane: Sequence[int]) -> R:
            torch.set_num_threads(each)  # of this thread alone
            with torch.inference_mode():
                return act([items[index] for index in lane])

        futures = [self._pool.submit(on, lane) for lane in lanes[1:]]
        try:
            first = on(lanes[0])
        finally:
            for future in futures:
                future.exception()  # waits: a lane that is left running would meet the next batch
            torch.set_num_threads(self._threads)
        return [first, *(future.result() for future in futures)]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()


def split(costs: Sequence[int], threads: int) -> list[list[int]]:
    """Indices in the lanes that are expected to end soonest; each lane has an equal share of the threads.

    The longest goes first, to the lane that has least.
    """
    order = sorted(range(len(costs)), key=lambda index: -costs[index])
    best, least = [list(range(len(costs)))], sum(costs) / threads**_GAIN
    for count in range(2, min(threads, len(costs)) + 1):
        lanes: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for index in order:
            lane = loads.index(min(loads))
            lanes[lane].append(index)
            loads[lane] += costs[index]
        expected = max(loads) / (threads // count) ** _GAIN
        if expected < least:
            best, least = lanes, expected
    return best
