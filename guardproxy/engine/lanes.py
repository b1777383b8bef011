"""Split a pass over CPU threads by rows: each thread computes one lane through all layers.

Threads that share every operation synchronise thousands of times per pass, and any other load on a core delays every
synchronisation. Lanes synchronise at most once per layer: when a lane needs the keys of another lane.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")


class LanePool:
    """The CPU threads of one runner. Only one thread may use it at a time; that thread computes the first lane."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="guard-lane")

    def run(self, lanes: Sequence[Callable[[], R]]) -> list[R]:
        """Compute all lanes at the same time, at most `threads` of them, and return their results in order.

        When all have ended, raises the error of the first lane that failed, in order. With more lanes than threads, a
        running lane could wait for the keys of a lane that still waits for its thread.
        """
        threads_per_lane = self.threads // len(lanes)

        def compute(lane: Callable[[], R]) -> R:
            # Both settings hold for the calling thread only, so each lane makes them for itself.
            torch.set_num_threads(threads_per_lane)
            with torch.inference_mode():
                return lane()

        futures = [self._pool.submit(compute, lane) for lane in lanes[1:]]
        try:
            first = compute(lanes[0])
        finally:
            # Wait for all lanes, also after an error: a lane that still ran would take its thread from the next pass.
            for future in futures:
                future.exception()
            torch.set_num_threads(self.threads)  # the caller's thread computes more than this lane
        return [first, *(future.result() for future in futures)]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


class LayerProgress:
    """For each lane of a pass, the number of layers whose keys and values it has stored.

    The lock also orders memory: a lane that has returned from `wait_for` sees the keys that were stored before.
    """

    def __init__(self, lanes: int) -> None:
        self._stored = [0] * lanes
        self._failed = False
        self._changed = threading.Condition()

    def advance(self, lane: int) -> None:
        """Record that `lane` has stored its keys and values of one more layer."""
        with self._changed:
            self._stored[lane] += 1
            self._changed.notify_all()

    def fail(self) -> None:
        """Record that a lane has failed, so that every lane that waits, now or later, fails too."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def wait_for(self, lanes: Sequence[int], layer: int) -> None:
        """Wait until all of `lanes` have stored keys and values of `layer`. Raises RuntimeError if a lane fails."""
        with self._changed:
            # Without the failure flag, the keys of a lane that failed would be waited for without end.
            self._changed.wait_for(lambda: self._failed or all(self._stored[lane] > layer for lane in lanes))
            if self._failed:
                raise RuntimeError("another lane of this pass has failed")


def balance(costs: Sequence[int], lanes: int) -> list[list[int]]:
    """Distribute items over at most `lanes` lanes of similar cost; return the items' indices by lane.

    The most expensive item goes first, each to the lane with the least cost so far (LPT scheduling, Graham 1969).
    """
    out: list[list[int]] = [[] for _ in range(min(lanes, len(costs)))]
    loads = [0] * len(out)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        lane = loads.index(min(loads))
        out[lane].append(index)
        loads[lane] += costs[index]
    return out
