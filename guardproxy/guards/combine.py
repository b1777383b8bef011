"""Several guards as one: all of them asked and their findings put together, or a cheap one before a dear one."""

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from guardproxy.errors import ConfigError
from guardproxy.policy import ANY, UNSAFE
from guardproxy.ports import Guard
from guardproxy.types import SIGNALS, Category, Check, Finding, Taxonomy, Verdict
from guardproxy.verdicts import usage_in_parallel, usage_in_sequence, worst_findings

Weights = Mapping[str, Sequence[float]]


class AllOf:
    """A Guard that asks all of `guards` at once; per category the greatest probability counts, or a weighted mean.

    `mean` holds for each category (`unsafe` for P(unsafe), `"*"` for what it does not name) one weight per guard. A
    category's mean is taken over the guards that judge it, their weights scaled to sum to 1, so that a mean of
    calibrated probabilities is a probability again (the linear opinion pool, Stone 1961). A guard that judges a
    category and reports no finding of it counts with its P(unsafe), the most that the category can have.

    If any guard fails, all fail: a category that only it judges would pass unseen. Raises ConfigError where there
    are no two guards, names repeat, or weights do not fit.
    """

    def __init__(self, guards: Sequence[Guard], mean: Weights | None = None) -> None:
        _named_apart(guards)
        self._guards = tuple(guards)
        self.name = "+".join(guard.name for guard in guards)
        self.taxonomy = _joined([guard.taxonomy for guard in guards])
        self._mean = None if mean is None else _checked(mean, self._guards, self.taxonomy)

    async def judge(self, check: Check) -> Verdict:
        """The verdicts of all, put together. Raises the first failure among them."""
        tasks = [asyncio.ensure_future(guard.judge(check)) for guard in self._guards]
        try:
            verdicts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        joined = Verdict(
            unsafe=self._value(UNSAFE, [verdict.unsafe for verdict in verdicts]),
            findings=self._findings(verdicts),
            guard=self.name,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=max(verdict.leftover for verdict in verdicts),
            outside=max(verdict.outside for verdict in verdicts),
        )
        return replace(joined, usage=usage_in_parallel([verdict.usage for verdict in verdicts]))

    def forget(self, stream: str) -> None:
        """Passed on to every guard."""
        for guard in self._guards:
            guard.forget(stream)

    async def start(self) -> None:
        """Start every guard, one after the other."""
        await _start(self._guards)

    async def close(self) -> None:
        """Close every guard."""
        await _close(self._guards)

    def _findings(self, verdicts: Sequence[Verdict]) -> tuple[Finding, ...]:
        """One finding per category that any guard found, with the label and view of the most probable one."""
        worst = worst_findings(chain.from_iterable(verdict.findings for verdict in verdicts))
        if self._mean is None:
            return tuple(worst.values())
        per_guard = [worst_findings(verdict.findings) for verdict in verdicts]
        judged = [{category.id for category in guard.taxonomy.categories} for guard in self._guards]
        out: list[Finding] = []
        for category, finding in worst.items():
            values = [
                found[category].probability if category in found else verdict.unsafe if category in known else None
                for found, known, verdict in zip(per_guard, judged, verdicts, strict=True)
            ]
            out.append(replace(finding, probability=self._value(category, values)))
        return tuple(out)

    def _value(self, category: str, values: Sequence[float | None]) -> float:
        """The greatest of the values there are, or their weighted mean."""
        if self._mean is None:
            return max(value for value in values if value is not None)
        weights = self._mean.get(category, self._mean.get(ANY, (1.0,) * len(values)))
        pairs = [(weight, value) for weight, value in zip(weights, values, strict=True) if value is not None]
        mass = sum(weight for weight, _ in pairs)
        if mass == 0.0:  # every guard that judges it has weight 0 for it: the most cautious of them counts
            return max(value for _, value in pairs)
        return sum(weight * value for weight, value in pairs) / mass


class Cascade:
    """A Guard that asks `cheap` first, and `dear` only where P(unsafe) of the cheap one is within [low, high].

    Below `low` and above `high` the cheap verdict stands. Between, the dear verdict does, with the cheap guard's
    findings of categories that the dear one does not judge. Either guard's failure is the cascade's. Raises
    ConfigError where the bounds are not 0 <= low <= high <= 1 or both guards have one name.
    """

    def __init__(self, cheap: Guard, dear: Guard, low: float, high: float) -> None:
        _named_apart((cheap, dear))
        if not 0.0 <= low <= high <= 1.0:
            raise ConfigError(f"a cascade's bounds must be 0 <= low <= high <= 1, not {low:g} and {high:g}")
        self.name = f"{cheap.name}>{dear.name}"
        self.taxonomy = _joined([cheap.taxonomy, dear.taxonomy])
        self._cheap, self._dear = cheap, dear
        self._low, self._high = low, high
        self._judged = {category.id for category in dear.taxonomy.categories}

    async def judge(self, check: Check) -> Verdict:
        """The verdict of the guard that decides. `guard` names the cascade, the usage is of all that was asked."""
        cheap = await self._cheap.judge(check)
        verdict = cheap
        if self._low <= cheap.unsafe <= self._high:
            dear = await self._dear.judge(check)
            known = self._judged | {finding.category for finding in dear.findings}
            rest = (finding for finding in cheap.findings if finding.category not in known)
            verdict = replace(
                dear, findings=(*dear.findings, *rest), usage=usage_in_sequence([cheap.usage, dear.usage])
            )
        return replace(verdict, guard=self.name, taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}")

    def forget(self, stream: str) -> None:
        """Passed on to both guards."""
        self._cheap.forget(stream)
        self._dear.forget(stream)

    async def start(self) -> None:
        """Start both guards."""
        await _start((self._cheap, self._dear))

    async def close(self) -> None:
        """Close both guards."""
        await _close((self._cheap, self._dear))


async def _start(guards: Sequence[Guard]) -> None:
    """One after the other; where one cannot start, those that did are closed again."""
    for index, guard in enumerate(guards):
        try:
            await guard.start()
        except BaseException:
            await _close(guards[:index])
            raise


async def _close(guards: Sequence[Guard]) -> None:
    """All of them, also where one fails to close; the first failure is raised in the end."""
    results = await asyncio.gather(*(guard.close() for guard in guards), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _named_apart(guards: Sequence[Guard]) -> None:
    names = [guard.name for guard in guards]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"guards to combine must be two or more with different names, not {', '.join(names) or 'none'}"
        )


def _joined(taxonomies: Sequence[Taxonomy]) -> Taxonomy:
    """All categories, each id once, as the first taxonomy that has it says it."""
    categories: dict[str, Category] = {}
    for category in chain.from_iterable(taxonomy.categories for taxonomy in taxonomies):
        categories.setdefault(category.id, category)
    told = repr([(taxonomy.id, taxonomy.version) for taxonomy in taxonomies])
    version = hashlib.sha256(told.encode()).hexdigest()[:12]
    return Taxonomy("+".join(taxonomy.id for taxonomy in taxonomies), tuple(categories.values()), version)


def _checked(mean: Weights, guards: Sequence[Guard], taxonomy: Taxonomy) -> Weights:
    problems: list[str] = []
    known = {UNSAFE, ANY, *SIGNALS, *(category.id for category in taxonomy.categories)}
    for category, weights in mean.items():
        if category not in known:
            problems.append(f"mean: no guard judges {category!r}: known are {', '.join(sorted(known))}")
        if len(weights) != len(guards):
            problems.append(f"mean.{category}: {len(weights)} weights for {len(guards)} guards")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
            problems.append(f"mean.{category}: weights must be 0 or more, and not all of them 0")
    if problems:
        raise ConfigError(problems)
    return {category: tuple(weights) for category, weights in mean.items()}
