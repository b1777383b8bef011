"""What the tests of combined guards share: a guard with one answer, and checks of a text."""

import asyncio
from collections.abc import Mapping

from guardproxy.errors import ConfigError
from guardproxy.types import Category, Check, Conversation, Finding, Message, Part, Taxonomy, Usage, Verdict


def check_of(text: str, *before: str, stream: str | None = None) -> Check:
    """A check of a user's text, behind others."""
    return Check(Conversation(tuple(Message("user", (Part("p", one),)) for one in (*before, text))), "user", stream)


class Fixed:
    """A guard with one answer; `findings` may leave out categories that it judges."""

    def __init__(
        self,
        name: str,
        unsafe: float,
        findings: Mapping[str, float],
        *,
        judges: tuple[str, ...] | None = None,
        error: Exception | None = None,
        starts: bool = True,
    ) -> None:
        self.name = name
        categories = judges if judges is not None else tuple(findings)
        self.taxonomy = Taxonomy(f"t-{name}", tuple(Category(one, f"{one} of {name}") for one in categories), "v")
        self._verdict = Verdict(
            unsafe,
            tuple(Finding(category, value, label=name) for category, value in findings.items()),
            name,
            usage=Usage(
                queue_s=0.1,
                tokenize_s=0.2,
                forward_s=0.3,
                tokens_computed=5,
                tokens_reused=4,
                batch=2,
                share_s=0.15,
            ),
            leftover=0.01,
            outside=0.02,
        )
        self._error = error
        self._starts = starts
        self.asked = 0
        self.open = False
        self.forgotten: list[str] = []

    async def judge(self, check: Check) -> Verdict:
        """The answer, or the error."""
        self.asked += 1
        await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        return self._verdict

    def forget(self, stream: str) -> None:
        """Remembers the stream."""
        self.forgotten.append(stream)

    async def start(self) -> None:
        """Opens, or cannot."""
        if not self._starts:
            raise ConfigError("no weights")
        self.open = True

    async def close(self) -> None:
        """Closes."""
        self.open = False


def found(verdict: Verdict) -> dict[str, float]:
    """The verdict's probabilities by category."""
    return {finding.category: finding.probability for finding in verdict.findings}
