"""What the views of a streamed reply cost: CPU time over all its checks, as they are computed, and each anew.

    python -m bench.stream_views

A frame has 20 characters of English prose. The times are of one thread, the best of three runs.
"""

import time
from collections.abc import Iterable

from bench.first_words import by_grid, by_number
from bench.pages import machine
from guardproxy.views import VIEWS, GrowingViews, views_of

WORDS = "The quick brown fox jumps over the lazy dog and naps in the sun. "
FRAME = 20


def seconds(text: str, ends: Iterable[int], *, anew: bool = False) -> float:
    """The CPU time of the views of every prefix."""
    best = float("inf")
    for _ in range(3):
        began, growing = time.process_time(), GrowingViews()
        for end in ends:
            views_of(text[:end], (), VIEWS) if anew else growing.of(text[:end], (), VIEWS)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    """Print the table."""
    print(f"{machine()}\n\n| frames | `every` | checks | ms | each anew, ms | the end alone, ms |")
    print("|--:|--:|--:|--:|--:|--:|")
    for frames in (100, 1000):
        text = (WORDS * (FRAME * frames // len(WORDS) + 1))[: FRAME * frames]
        every = {"50": by_number(text, 50), "200": by_number(text, 200), "auto": by_grid(text)}
        for name, checks in every.items():
            ends = [end for _, end in checks] + [len(text)]
            cells = [seconds(text, ends), seconds(text, ends, anew=True), seconds(text, [len(text)], anew=True)]
            print(f"| {frames} | {name} | {len(ends)} | {' | '.join(f'{1000 * cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
