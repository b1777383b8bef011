"""What the views of a streamed reply cost: CPU time over all its checks.

    python -m bench.stream_views

A frame has 20 characters of English prose. The times are of one thread, the best of three runs.
"""

import time
from collections.abc import Iterable

from bench.first_words import by_grid, by_number
from bench.pages import machine
from guardproxy.views import VIEWS, views_of

WORDS = "The quick brown fox jumps over the lazy dog and naps in the sun. "
FRAME = 20


def seconds(text: str, ends: Iterable[int]) -> float:
    """The CPU time of the views of every prefix."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for end in ends:
            views_of(text[:end], (), VIEWS)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    """Print the table."""
    print(f"{machine()}\n\n| frames | `every: 200`: checks | ms | `every: auto`: checks | ms | the end alone, ms |")
    print("|--:|--:|--:|--:|--:|--:|")
    for frames in (100, 1000):
        text = (WORDS * (FRAME * frames // len(WORDS) + 1))[: FRAME * frames]
        cells = [f"{frames}"]
        for checks in (by_number(text, 200), by_grid(text)):
            ends = [end for _, end in checks] + [len(text)]
            cells += [f"{len(ends)}", f"{1000 * seconds(text, ends):.1f}"]
        print(f"| {' | '.join([*cells, f'{1000 * seconds(text, [len(text)]):.1f}'])} |")


if __name__ == "__main__":
    main()
