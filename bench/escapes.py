"""Measure how often the tricks of `tests/escapes` get a text past the embedded guard; write docs/escapes.md.

    python -m bench.escapes docs/escapes.md

Guard, thresholds and views are those of `guardproxy serve` without a configuration, and the tricks go through the
pipeline as in the tests. A trick is tried only with texts whose plain form the guard stops.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from bench.pages import fill, machine
from bench.shipped import shipped, weights
from guardproxy.errors import GuardUnavailable
from guardproxy.evaluation.metrics import Rate
from guardproxy.ports import Guard
from guardproxy.types import Check, Verdict
from tests.escapes import tricks
from tests.escapes.attempts import Attempt, Attempts, prompts
from tests.escapes.disguises import DISGUISES

# About 600 tokens: more than two windows of the embedded guard.
PADDING = tricks.HARMLESS * 40
# Texts tried at once, so that the guard can fill its batches.
AT_ONCE = 8

Row = tuple[str, str, str]


class FailFast:
    """A guard whose failure ends the run: a text that is stopped because the guard failed must not count as found."""

    def __init__(self, guard: Guard) -> None:
        self.name, self.taxonomy = guard.name, guard.taxonomy
        self._guard = guard

    async def judge(self, check: Check) -> Verdict:
        """The guard's verdict. Raises RuntimeError if the guard fails."""
        try:
            return await self._guard.judge(check)
        except GuardUnavailable as error:
            raise RuntimeError(f"the guard failed while it was measured: {error}") from error

    def forget(self, stream: str) -> None:
        """Pass the call on."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Load the guard."""
        await self._guard.start()

    async def close(self) -> None:
        """Release the guard."""
        await self._guard.close()


async def past(texts: Sequence[str], attempt: Callable[[str], Awaitable[Attempt]]) -> Rate:
    """The share of texts for which the attempt succeeds."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def is_past(text: str) -> bool:
        async with slots:
            return (await attempt(text)).past

    return Rate(sum(await asyncio.gather(*(is_past(text) for text in texts))), len(texts))


async def stopped(texts: Sequence[str], attempt: Callable[[str], Awaitable[Attempt]]) -> list[str]:
    """The texts for which the attempt fails."""
    return [text for text in texts if not (await attempt(text)).past]


def cell(rate: Rate) -> str:
    """A rate as text: the share, its interval and the number of texts."""
    low, high = rate.interval
    return f"{rate.value:.0%} [{low:.0%}, {high:.0%}] of {rate.n}"


class Table:
    """The tables of all tricks, tried on one guard with and without views."""

    def __init__(self, guard: Guard, attempts: Attempts, bare: Attempts) -> None:
        self._guard, self._attempts, self._bare = guard, attempts, bare
        self._bar = tqdm(
            total=len(DISGUISES) + len(tricks.places()) + len(tricks.replies()), desc="tricks", disable=None
        )

    async def page(self) -> str:
        """The text between the marks of the page."""
        began = time.monotonic()
        texts = prompts()
        asked = await stopped(texts, lambda text: self._attempts.disguised("plain", text))
        said = await stopped(texts, lambda text: self._attempts.replied("content", text, streamed=False))
        blocks = [
            _table(("disguise", "past without views", "past as shipped"), await self._disguises(asked)),
            _table(("place in the request", "side", "past as shipped"), await self._places(asked, said)),
            _table(("place in the reply", "past whole", "past streamed"), await self._replies(said)),
        ]
        self._bar.close()
        summary = (
            f"Measured on {machine()}, in {time.monotonic() - began:.0f} s, with the weights `{weights()}`. Of "
            f"{len(texts)} plain texts, the guard stops {len(asked)} as a user's turn and {len(said)} as a reply; the "
            "other texts are not tried. Intervals are 95 % Wilson score intervals."
        )
        return "\n\n".join([summary, *blocks])

    async def _disguises(self, asked: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for name in DISGUISES:
            found = [
                await past(asked, lambda text, by=by, name=name: by.disguised(name, text))  # type: ignore[misc]
                for by in (self._bare, self._attempts)
            ]
            rows.append((name, cell(found[0]), cell(found[1])))
            self._bar.update()
        return rows

    async def _places(self, asked: Sequence[str], said: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for name in tricks.places():
            side, texts = ("as a reply", said) if name in tricks.AS_REPLY else ("as a user's turn", asked)
            rate = await past(texts, lambda text, name=name: self._attempts.placed(name, text))  # type: ignore[misc]
            rows.append((name, side, cell(rate)))
            self._bar.update()
        return rows

    async def _replies(self, said: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for name in tricks.replies():
            found = [
                await past(said, lambda text, name=name, how=how: self._attempts.replied(name, text, streamed=how))  # type: ignore[misc]
                for how in (False, True)
            ]
            rows.append((name, cell(found[0]), cell(found[1])))
            self._bar.update()
        return rows


def _table(head: Row, rows: Sequence[Row]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Row, rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| --- | ---: | ---: |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


async def measured() -> str:
    """Load the shipped guard and policy, and try all tricks on them."""
    guard, policy = shipped()
    guard = FailFast(guard)
    await guard.start()
    try:
        attempts = Attempts(guard, policy, PADDING)
        return await Table(guard, attempts, Attempts(guard, replace(policy, views=()), PADDING)).page()
    finally:
        await guard.close()


def main() -> None:
    """Measure, and replace the text between the marks of the page."""
    fill(Path(sys.argv[1]), "escapes", asyncio.run(measured()))


if __name__ == "__main__":
    main()
