"""Prompts read by a model many at a time, as the engine's queue gives them to it."""

from collections.abc import Sequence

from guardproxy.engine.runner import Runner, WorkItem
from guardproxy.ports import Prompt, Reading


def read_all(runner: Runner, prompts: Sequence[Prompt]) -> list[list[Reading]]:
    """The readings of every window of each prompt, in batches of windows of similar length."""
    out: list[list[Reading]] = []
    places: list[tuple[int, int]] = []
    works: list[WorkItem] = []
    for number, prompt in enumerate(prompts):
        windows = runner.encode(prompt)
        out.append([Reading(())] * len(windows))
        places += [(number, window) for window in range(len(windows))]
        works += windows
    while works:
        further: list[tuple[tuple[int, int], WorkItem]] = []
        for batch in _batches(works, runner.max_batch_tokens):
            results = runner.run([works[at] for at in batch])
            for at, result in zip(batch, results, strict=True):
                number, window = places[at]
                out[number][window] = result.reading
                if result.then is not None:
                    further.append((places[at], result.then))
        places, works = [place for place, _ in further], [work for _, work in further]
    return out


def _batches(works: Sequence[WorkItem], most: int) -> list[list[int]]:
    """The places of the work items in batches of at most `most` tokens, or of one item; the shortest first."""
    out: list[list[int]] = []
    tokens = most + 1
    for at in sorted(range(len(works)), key=lambda place: works[place].cost):
        if tokens + works[at].cost > most:
            out.append([])
            tokens = 0
        out[-1].append(at)
        tokens += works[at].cost
    return out
