"""A pass on several CPU threads: split into lanes, so that no thread waits for another at every step.

Threads that share each operation meet thousands of times a pass, and what else runs on a core is waited for at every
meeting. Lanes of one thread meet once a layer at most.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")


class Lanes:
    """The CPU threads of one runner. Used by one thread at a time, which is the first lane itself."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="guard-lane")

    def run(self, acts: Sequence[Callable[[], R]]) -> list[R]:
        """All of `acts` at once, one a thread at most. Raises what the first that failed raised, when all ended."""
        each = self.threads // len(acts)

        def on(act: Callable[[], R]) -> R:
            torch.set_num_threads(each)  # of this thread alone
            with torch.inference_mode():
                return act()

        futures = [self._pool.submit(on, act) for act in acts[1:]]
        try:
            first = on(acts[0])
        finally:
            for future in futures:
                future.exception()  # waits: a lane that is left running would meet the next pass
            torch.set_num_threads(self.threads)
        return [first, *(future.result() for future in futures)]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()


class Progress:
    """How many layers each lane of a pass has given its keys and values for."""

    def __init__(self, lanes: int) -> None:
        self._done = [0] * lanes
        self._broken = False
        self._changed = threading.Condition()

    def gave(self, lane: int) -> None:
        """`lane` has given those of one more layer."""
        with self._changed:
            self._done[lane] += 1
            self._changed.notify_all()

    def broke(self) -> None:
        """A lane has failed: nobody waits for it."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def wait(self, lanes: Sequence[int], layer: int) -> None:
        """Until all of `lanes` have given those of `layer`. Raises RuntimeError where a lane has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or all(self._done[lane] > layer for lane in lanes))
            if self._broken:
                raise RuntimeError("another lane of this pass has failed")


def split(costs: Sequence[int], lanes: int) -> list[list[int]]:
    """Indices in at most `lanes` lanes of like cost: the longest goes first, to the lane that has least."""
    out: list[list[int]] = [[] for _ in range(min(lanes, len(costs)))]
    loads = [0] * len(out)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        lane = loads.index(min(loads))
        out[lane].append(index)
        loads[lane] += costs[index]
    return out
