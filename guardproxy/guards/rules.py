"""A guard without a model: it looks for what the configuration lists."""

from guardproxy.families.patterns import PatternFamily
from guardproxy.offload import computed
from guardproxy.types import Check, Verdict


class PatternGuard:
    """Looks for patterns in the judged text alone, without its conversation. Implements ports.Guard."""

    def __init__(self, name: str, family: PatternFamily) -> None:
        self.name = name
        self.taxonomy = family.taxonomy
        self._family = family

    async def judge(self, check: Check) -> Verdict:
        """The verdict: every hit. Long texts are searched on a thread."""
        text = check.turn.text
        return await computed(len(text), self._family.verdict, text, self.name, unfinished=check.unfinished)

    def forget(self, stream: str) -> None:
        """Do nothing: nothing is kept for a stream."""

    async def start(self) -> None:
        """Do nothing: the patterns are compiled when they are opened."""

    async def close(self) -> None:
        """Do nothing."""
