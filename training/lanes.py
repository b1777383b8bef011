"""Passes of a model over windows: their size, their order on the cores, and rows that are kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.checkpoints import Checkpoints, Pace, Rows

Result = TypeVar("Result")
_PASS = 4096  # most tokens in a forward pass; a larger batch accumulates the gradients of several passes
_LOW_PASS = 1024  # the same where no gradient is needed: a CPU's caches hold it
_SAVED = 500  # such passes between two checkpoints


def device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bound(chosen: Sequence[int], lengths: Sequence[int]) -> int:
    """The most tokens in a pass of a batch: on a CPU at most one core's share, so that no core waits for another."""
    lanes = torch.get_num_threads() if device().type == "cpu" else 1
    longest = max(lengths[i] for i in chosen)
    return min(_PASS, -(-len(chosen) // lanes) * longest)


def passes(chosen: Sequence[int], lengths: Sequence[int], bound: int = _PASS) -> Iterator[Sequence[int]]:
    """Split `chosen` into passes of at most `bound` tokens, padding included; a longer window is a pass of its own."""
    start, longest = 0, 0
    for end, i in enumerate(chosen):
        longest = max(longest, lengths[i])
        if end > start and longest * (end + 1 - start) > bound:
            yield chosen[start:end]
            start, longest = end, lengths[i]
    if chosen:
        yield chosen[start:]


def in_lanes(act: Callable[[Sequence[int]], Result], parts: Iterable[Sequence[int]]) -> list[Result]:
    """`act` on every part, in order; on a CPU one part per core at a time.

    Two products side by side are faster than one product on two cores: the steps between products use both cores too.
    """
    lanes = torch.get_num_threads() if device().type == "cpu" else 1
    if lanes == 1:
        return [act(part) for part in parts]
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(act, parts))


def read_all(
    act: Callable[[NDArray[Any], Sequence[int]], None],
    lengths: Sequence[int],
    shape: tuple[int, ...],
    dtype: type[np.generic],
    *,
    name: str,
    kept: Checkpoints | None,
) -> NDArray[Any]:
    """An array of this shape and type, into which `act` writes the rows of some windows at a time.

    With checkpoints it is a file called `name`, which a later process continues; only then is the progress printed.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts = list(passes(order, lengths, _LOW_PASS))
    rows = kept.rows(name, shape, dtype) if kept else Rows(np.zeros(shape, dtype))
    pace = Pace(f"{name} pass", len(parts), rows.done)
    for start in range(rows.done, len(parts), _SAVED):
        some = parts[start : start + _SAVED]
        in_lanes(lambda part: act(rows.array, part), some)
        rows.filled(start + len(some))
        if kept:
            pace.tell(rows.done)
    return rows.array
