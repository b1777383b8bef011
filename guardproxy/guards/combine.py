"""Several guards as one: all at once, a second only if the first is unsure, by a text's language, by its role."""

import asyncio
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.languages.detect import languages_in
from guardproxy.languages.scripts import has_other_letters
from guardproxy.policy import ANY, UNSAFE
from guardproxy.ports import Guard
from guardproxy.types import SIGNALS, Category, Check, Finding, Taxonomy, Verdict
from guardproxy.verdicts import usage_in_parallel, usage_in_sequence, worst, worst_findings

Weights = Mapping[str, Sequence[float]]


class AllOf:
    """A Guard that asks all of `guards` at once; each category gets the highest probability, or a weighted mean.

    `mean` holds one weight per guard for each category (`unsafe` for P(unsafe), `"*"` for categories that it does not
    name). The mean of a category is taken over the guards that judge it, with their weights scaled to sum to 1, so that
    a mean of calibrated probabilities is a probability again (linear opinion pool, Stone 1961). A guard that judges a
    category but reports no finding of it counts with its P(unsafe), an upper bound for the category.

    An image goes to the guards that read images, which `see`; the mean is taken over these. If any guard fails, the
    combination fails: a category that only this guard judges would pass unseen. Raises ConfigError for fewer than two
    guards, repeated names, and weights that do not fit the guards.
    """

    JOINED_BY: Final = "+"
    """What stands between the names of the guards in that of the combination."""

    def __init__(self, guards: Sequence[Guard], mean: Weights | None = None, *, see: Collection[str] = ()) -> None:
        _check_names(guards)
        self._guards = tuple(guards)
        self.name = self.JOINED_BY.join(guard.name for guard in guards)
        self.taxonomy = _union([guard.taxonomy for guard in guards])
        self._mean = None if mean is None else _checked_weights(mean, self._guards, self.taxonomy)
        self._see = _named(self._guards, see)

    async def judge(self, check: Check) -> Verdict:
        """Combine the verdicts of all guards that are asked. Raises the first failure among them."""
        asked = _asked_of(self._see, self.name) if check.turn.images else self._guards
        if self._mean is not None:
            check = replace(check, least=0.0)  # a mean needs exact numbers
        verdicts = await _judged_at_once(asked, check)
        given: dict[str, Verdict] = {guard.name: one for guard, one in zip(asked, verdicts, strict=True)}
        by_guard = [given.get(guard.name) for guard in self._guards]
        most = max(verdicts, key=lambda verdict: verdict.unsafe)
        combined = Verdict(
            unsafe=self._combine(UNSAFE, [None if one is None else one.unsafe for one in by_guard]),
            findings=self._findings(by_guard),
            guard=self.name,
            taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}",
            leftover=max(verdict.leftover for verdict in verdicts),
            outside=max(verdict.outside for verdict in verdicts),
            kind=most.kind,
            rationale=most.rationale or next((one.rationale for one in verdicts if one.rationale), ""),
        )
        return replace(combined, usage=usage_in_parallel([verdict.usage for verdict in verdicts]))

    def forget(self, stream: str) -> None:
        """Pass the stream on to every guard."""
        for guard in self._guards:
            guard.forget(stream)

    async def start(self) -> None:
        """Start every guard, one after the other."""
        await _start(self._guards)

    async def close(self) -> None:
        """Close every guard."""
        await _close(self._guards)

    def _findings(self, verdicts: Sequence[Verdict | None]) -> tuple[Finding, ...]:
        """One finding per category that any guard reports, with the label and view of the most probable one.

        The verdict of a guard that was not asked is None.
        """
        found = worst_findings(chain.from_iterable(verdict.findings for verdict in verdicts if verdict is not None))
        if self._mean is None:
            return tuple(found.values())
        by_guard = [worst_findings(verdict.findings if verdict is not None else ()) for verdict in verdicts]
        judged = [{category.id for category in guard.taxonomy.categories} for guard in self._guards]
        out: list[Finding] = []
        for category, finding in found.items():
            values = [
                findings[category].probability
                if category in findings
                else verdict.unsafe
                if verdict is not None and category in categories
                else None
                for findings, categories, verdict in zip(by_guard, judged, verdicts, strict=True)
            ]
            out.append(replace(finding, probability=self._combine(category, values)))
        return tuple(out)

    def _combine(self, category: str, values: Sequence[float | None]) -> float:
        """The highest of the guards' probabilities, or their weighted mean; None for a guard that has none."""
        if self._mean is None:
            return max(value for value in values if value is not None)
        weights = self._mean.get(category, self._mean.get(ANY, (1.0,) * len(values)))
        pairs = [(weight, value) for weight, value in zip(weights, values, strict=True) if value is not None]
        total = sum(weight for weight, _ in pairs)
        if total == 0.0:  # every guard that judges the category has weight 0 for it: take the highest probability
            return max(value for _, value in pairs)
        return sum(weight * value for weight, value in pairs) / total


class Cascade:
    """A Guard that asks `first`, and then `second` only if P(unsafe) from `first` is within [low, high].

    Below `low` and above `high` the verdict of `first` stands. In between the verdict of `second` does, with the
    findings of `first` in categories that `second` does not judge. An image that only one of them `see`s goes to that
    one. If either guard fails, the cascade fails. Raises ConfigError unless 0 <= low <= high <= 1 and the guards have
    different names.
    """

    JOINED_BY: Final = ">"

    def __init__(self, first: Guard, second: Guard, low: float, high: float, *, see: Collection[str] = ()) -> None:
        _check_names((first, second))
        if not 0.0 <= low <= high <= 1.0:
            raise ConfigError(f"a cascade's bounds must be 0 <= low <= high <= 1, not {low:g} and {high:g}")
        self.name = self.JOINED_BY.join((first.name, second.name))
        self.taxonomy = _union([first.taxonomy, second.taxonomy])
        self._first, self._second = first, second
        self._low, self._high = low, high
        self._see = _named((first, second), see)
        self._second_judges = {category.id for category in second.taxonomy.categories}

    @property
    def parts(self) -> tuple[Guard, Guard]:
        """Both guards, in the order in which they are asked."""
        return self._first, self._second

    async def judge(self, check: Check) -> Verdict:
        """The verdict of the guard that decides, in the cascade's name, with the usage of every guard asked."""
        asked = _asked_of(self._see, self.name) if check.turn.images else self.parts
        check = replace(check, least=0.0)  # the number of the first guard decides whether the second is asked
        first = await asked[0].judge(check)
        verdict = first
        if len(asked) > 1 and self._low <= first.unsafe <= self._high:
            second = await self._second.judge(check)
            known = self._second_judges | {finding.category for finding in second.findings}
            rest = (finding for finding in first.findings if finding.category not in known)
            usage = usage_in_sequence([first.usage, second.usage])
            verdict = replace(second, findings=(*second.findings, *rest), usage=usage)
        return replace(verdict, guard=self.name, taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}")

    def forget(self, stream: str) -> None:
        """Pass the stream on to both guards."""
        self._first.forget(stream)
        self._second.forget(stream)

    async def start(self) -> None:
        """Start both guards."""
        await _start((self._first, self._second))

    async def close(self) -> None:
        """Close both guards."""
        await _close((self._first, self._second))


class ByLanguage:
    """A Guard that asks `first` about texts in the languages `reads`, and `others` about texts in other languages.

    The judged text decides; its context does not. A text with languages of both kinds goes to both guards at once, and
    the worst verdict counts. So does a text of which the detector names no language, if it has letters of another
    alphabet than the Latin one; without such letters (code, names, a few words) it goes to `first`. An image goes to
    those that `see` it, whatever the language of its text. If a guard that is asked fails, the combination fails.
    Raises ConfigError for no languages and for guards with the same name.
    """

    JOINED_BY: Final = "|"

    def __init__(self, first: Guard, others: Guard, reads: Collection[str], *, see: Collection[str] = ()) -> None:
        _check_names((first, others))
        if not reads:
            raise ConfigError(f"the languages that the guard {first.name!r} reads must be known")
        self.name = self.JOINED_BY.join((first.name, others.name))
        self.taxonomy = _union([first.taxonomy, others.taxonomy])
        self._first, self._others = first, others
        self._reads = frozenset(reads)
        self._see = _named((first, others), see)

    @property
    def parts(self) -> tuple[Guard, Guard]:
        """Both guards, that of the known languages first."""
        return self._first, self._others

    async def judge(self, check: Check) -> Verdict:
        """The verdict of the guard for the text's languages, or the worst of both, in the combination's name."""
        asked = _asked_of(self._see, self.name) if check.turn.images else self._asked(check.turn.text)
        verdict = worst(await _judged_at_once(asked, check))
        return replace(verdict, guard=self.name, taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}")

    def forget(self, stream: str) -> None:
        """Pass the stream on to both guards: the languages of its text may have changed while it came."""
        self._first.forget(stream)
        self._others.forget(stream)

    async def start(self) -> None:
        """Start both guards."""
        await _start(self.parts)

    async def close(self) -> None:
        """Close both guards."""
        await _close(self.parts)

    def _asked(self, text: str) -> tuple[Guard, ...]:
        languages = frozenset(languages_in(text))
        if not languages:
            return self.parts if has_other_letters(text) else (self._first,)
        if languages <= self._reads:
            return (self._first,)
        return self.parts if languages & self._reads else (self._others,)


class ByRole:
    """A Guard that asks another guard about the user's texts, about replies, and about the results of tools.

    A check of a message of the role `tool` goes to `tool`; who makes the checks sees to it that what a client calls the
    result of a tool is read as the user's text as well. `members` are all guards that these ask, each once. Raises
    ConfigError for members with the same name.
    """

    JOINED_BY: Final = "&"

    def __init__(self, members: Sequence[Guard], *, user: Guard, assistant: Guard, tool: Guard) -> None:
        if len({guard.name for guard in members}) < len(members):
            raise ConfigError("the guards of the roles must have different names")
        self.name = self.JOINED_BY.join(guard.name for guard in members)
        self.taxonomy = _union([guard.taxonomy for guard in members])
        self._members = tuple(members)
        self._user, self._assistant, self._tool = user, assistant, tool

    async def judge(self, check: Check) -> Verdict:
        """The verdict of the guard for the message's role, in the combination's name."""
        guard = self._tool if check.turn.role == "tool" else self._user
        if check.side == "assistant":
            guard = self._assistant
        verdict = await guard.judge(check)
        return replace(verdict, guard=self.name, taxonomy=f"{self.taxonomy.id}@{self.taxonomy.version}")

    def forget(self, stream: str) -> None:
        """Pass the stream on to every guard: a caller may have any text judged as one that grows."""
        for guard in self._members:
            guard.forget(stream)

    async def start(self) -> None:
        """Start every guard, one after the other."""
        await _start(self._members)

    async def close(self) -> None:
        """Close every guard."""
        await _close(self._members)


def _named(guards: Sequence[Guard], names: Collection[str]) -> tuple[Guard, ...]:
    """The guards with these names, in their order."""
    return tuple(guard for guard in guards if guard.name in names)


def _asked_of(see: Sequence[Guard], name: str) -> Sequence[Guard]:
    """The guards that are asked about an image. Raises GuardUnavailable if there is none."""
    if not see:
        raise GuardUnavailable(f"{name}: no guard of it reads images")
    return see


async def _judged_at_once(guards: Sequence[Guard], check: Check) -> list[Verdict]:
    """The verdicts of all guards, in their order. Raises the first failure among them, and cancels the others."""
    tasks = [asyncio.ensure_future(guard.judge(check)) for guard in guards]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # gather does not cancel the other tasks when one fails
            task.cancel()


async def _start(guards: Sequence[Guard]) -> None:
    """Start the guards one after the other. If one cannot start, close those before it."""
    for index, guard in enumerate(guards):
        try:
            await guard.start()
        except BaseException:
            await _close(guards[:index])
            raise


async def _close(guards: Sequence[Guard]) -> None:
    """Close all guards, even if one fails to close; then raise the first failure."""
    results = await asyncio.gather(*(guard.close() for guard in guards), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _check_names(guards: Sequence[Guard]) -> None:
    names = [guard.name for guard in guards]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"guards to combine must be two or more with different names, not {', '.join(names) or 'none'}"
        )


def _union(taxonomies: Sequence[Taxonomy]) -> Taxonomy:
    """All categories, each id once, as described by the first taxonomy that has it; one taxonomy stays itself."""
    if len(set(taxonomies)) == 1:
        return taxonomies[0]
    categories: dict[str, Category] = {}
    for category in chain.from_iterable(taxonomy.categories for taxonomy in taxonomies):
        categories.setdefault(category.id, category)
    members = repr([(taxonomy.id, taxonomy.version) for taxonomy in taxonomies])
    version = hashlib.sha256(members.encode()).hexdigest()[:12]
    return Taxonomy("+".join(taxonomy.id for taxonomy in taxonomies), tuple(categories.values()), version)


def _checked_weights(mean: Weights, guards: Sequence[Guard], taxonomy: Taxonomy) -> Weights:
    """`mean` with tuples of weights. Raises ConfigError with every mistake in it."""
    problems: list[str] = []
    known = {UNSAFE, ANY, *SIGNALS, *(category.id for category in taxonomy.categories)}
    for category, weights in mean.items():
        if category not in known:
            problems.append(f"mean: no guard judges {category!r}: expected one of {', '.join(sorted(known))}")
        if len(weights) != len(guards):
            problems.append(f"mean.{category}: {len(weights)} weights for {len(guards)} guards")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
            problems.append(f"mean.{category}: weights must be 0 or more, and not all of them 0")
    if problems:
        raise ConfigError(problems)
    return {category: tuple(weights) for category, weights in mean.items()}
