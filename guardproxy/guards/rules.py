"""A guard without a model: it looks for places in a text, such as those of patterns."""

import asyncio

from guardproxy.offload import computed
from guardproxy.patterns import Finder
from guardproxy.types import Check, Verdict


class FinderGuard:
    """Looks for what its family finds in the judged text alone, without its conversation. Implements ports.Guard."""

    def __init__(self, name: str, family: Finder) -> None:
        self.name = name
        self.taxonomy = family.taxonomy
        self._family = family

    async def judge(self, check: Check) -> Verdict:
        """The verdict: every hit. Long texts are searched on a thread."""
        text = check.turn.text
        return await computed(
            len(text) * self._family.weight, self._family.verdict, text, self.name, unfinished=check.unfinished
        )

    def forget(self, stream: str) -> None:
        """Do nothing: nothing is kept for a stream."""

    async def start(self) -> None:
        """Load what the family needs. Raises ConfigError if it cannot."""
        await asyncio.to_thread(self._family.load)

    async def close(self) -> None:
        """Do nothing."""
