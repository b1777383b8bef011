"""Measure how often the tricks of `tests/escapes` get a text past the embedded guard; write docs/escapes.md.

    python -m bench.escapes docs/escapes.md [--rows 12] [--seed 0]

Guard, thresholds and views are those of `guardproxy serve` without a configuration, and the tricks go through the
pipeline as in the tests. A trick is tried only with texts whose plain form the guard stops: at most `--rows` of them,
drawn from the canaries and from the other texts by their shares. Verdicts are stored, as those of `evaluate`.
"""

import argparse
import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from bench.pages import fill, machine
from bench.sampling import add_options, stratified
from bench.shipped import Stored, measured_guard, weights
from guardproxy.evaluation.metrics import Rate
from guardproxy.policy import Policy
from tests.escapes import tricks
from tests.escapes.attempts import Attempt, Attempts, canaries, prompts
from tests.escapes.disguises import DISGUISES

# About 600 tokens: more than two windows of the embedded guard.
PADDING = tricks.HARMLESS * 40
# Texts tried at once, so that the guard can fill its batches.
AT_ONCE = 64

Row = tuple[str, str, str]


class Trials:
    """Attempts with texts, AT_ONCE at a time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def outcomes(self, texts: Sequence[str], attempt: Callable[[str], Awaitable[Attempt]]) -> list[bool]:
        """For each text, whether the attempt succeeds."""

        async def is_past(text: str) -> bool:
            async with self._slots:
                return (await attempt(text)).past

        return await asyncio.gather(*(is_past(text) for text in texts))

    async def past(self, texts: Sequence[str], attempt: Callable[[str], Awaitable[Attempt]]) -> Rate:
        """The share of texts for which the attempt succeeds."""
        return Rate(sum(await self.outcomes(texts, attempt)), len(texts))

    async def stopped(self, texts: Sequence[str], attempt: Callable[[str], Awaitable[Attempt]]) -> list[str]:
        """The texts for which the attempt fails."""
        outcomes = await self.outcomes(texts, attempt)
        return [text for text, past in zip(texts, outcomes, strict=True) if not past]


def sample(texts: Sequence[str], rows: int, seed: int) -> list[str]:
    """At most `rows` of the texts: of the canaries and of the others their shares."""
    plain = set(canaries())
    groups = [[text for text in texts if (text in plain) is kind] for kind in (True, False)]
    return stratified(groups, rows, seed, lambda text: hashlib.sha256(text.encode()).digest())


def cell(rate: Rate) -> str:
    """A rate as text: the share, its interval and the number of texts."""
    low, high = rate.interval
    return f"{rate.value:.0%} [{low:.0%}, {high:.0%}] of {rate.n}"


class Table:
    """The tables of all tricks, tried on one guard with and without views."""

    def __init__(self, guard: Stored, policy: Policy, rows: int, seed: int) -> None:
        self._attempts = Attempts(guard, policy, PADDING)
        self._bare = Attempts(guard, replace(policy, views=()), PADDING)
        self._rows, self._seed = rows, seed
        self._trials = Trials()
        self._bar = tqdm(
            total=len(DISGUISES) + len(tricks.places()) + len(tricks.replies()), desc="tricks", disable=None
        )

    async def page(self) -> str:
        """The text between the marks of the page."""
        texts, attempts = prompts(), self._attempts
        all_asked = await self._trials.stopped(texts, lambda text: attempts.disguised("plain", text))
        all_said = await self._trials.stopped(texts, lambda text: attempts.replied("content", text, streamed=False))
        asked, said = (sample(stopped, self._rows, self._seed) for stopped in (all_asked, all_said))
        disguises = await asyncio.gather(*(self._disguise(name, asked) for name in DISGUISES))
        places = await asyncio.gather(*(self._place(name, asked, said) for name in tricks.places()))
        replies = await asyncio.gather(*(self._reply(name, said) for name in tricks.replies()))
        self._bar.close()
        summary = (
            f"Measured on {machine()}, with the weights `{weights()}`. Of {len(texts)} plain texts, the guard stops "
            f"{len(all_asked)} as a user's turn and {len(all_said)} as a reply; the other texts are not tried. Each "
            f"trick is tried with {len(asked)} of the former or {len(said)} of the latter, drawn with the seed "
            f"{self._seed}. Intervals are 95 % Wilson score intervals."
        )
        blocks = [
            _table(("disguise", "past without views", "past as shipped"), disguises),
            _table(("place in the request", "side", "past as shipped"), places),
            _table(("place in the reply", "past whole", "past streamed"), replies),
        ]
        return "\n\n".join([summary, *blocks])

    async def _disguise(self, name: str, asked: Sequence[str]) -> Row:
        bare, shipped = [
            await self._trials.past(asked, lambda text, by=by: by.disguised(name, text))  # type: ignore[misc]
            for by in (self._bare, self._attempts)
        ]
        self._bar.update()
        return name, cell(bare), cell(shipped)

    async def _place(self, name: str, asked: Sequence[str], said: Sequence[str]) -> Row:
        side, texts = ("as a reply", said) if name in tricks.AS_REPLY else ("as a user's turn", asked)
        rate = await self._trials.past(texts, lambda text: self._attempts.placed(name, text))
        self._bar.update()
        return name, side, cell(rate)

    async def _reply(self, name: str, said: Sequence[str]) -> Row:
        whole, streamed = [
            await self._trials.past(said, lambda text, how=how: self._attempts.replied(name, text, streamed=how))  # type: ignore[misc]
            for how in (False, True)
        ]
        self._bar.update()
        return name, cell(whole), cell(streamed)


def _table(head: Row, rows: Sequence[Row]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Row, rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| --- | ---: | ---: |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


async def measured(rows: int, seed: int) -> str:
    """Load the shipped guard and policy, and try all tricks on them."""
    async with measured_guard() as (guard, policy):
        page = await Table(guard, policy, rows, seed).page()
        print(f"{time.process_time():.0f} s of CPU time, {guard.new} checks, {guard.known} verdicts from the store")
        return page


def main() -> None:
    """Measure, and replace the text between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    add_options(parser, 12, "the most texts of each side")
    args = parser.parse_args()
    fill(args.page, "escapes", asyncio.run(measured(args.rows, args.seed)))


if __name__ == "__main__":
    main()
