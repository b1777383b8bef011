"""Read a prompt on a server that shows a few tokens at a time: probabilities, and how far they may be off.

A server shows its most probable tokens. One that it does not show is asked for by a bias, if the server can be made to
choose a token. Where it cannot, the token's probability lies between 0 and the least one that is shown. The reading
then has the most that the token can have, and `leftover` says by how much a probability may differ from it.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from guardproxy.engine.decoder.grammar import LISTS_PER_CHECK, Grammar, ListSearch, PartialList
from guardproxy.engine.decoder.prompts import Choice, EncodedPrompt
from guardproxy.errors import GuardUnavailable
from guardproxy.guards.completions.api import CompletionsApi, NextToken
from guardproxy.guards.completions.probe import Abilities
from guardproxy.ports import Reading

# Partial lists of one check that are asked for at once.
_LISTS_AT_ONCE: Final = 8
# The share of `uncertainty` that lists which are not read may have. It is more than on our own engine, because each
# list costs a call or more, and an unsure model has many lists of little probability.
_OF_LISTS: Final = 0.5
# A token that is not shown is not asked for if its share is below this.
_NEGLIGIBLE: Final = 1e-6

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shares:
    """Of each token its least and its most probability; `seen` is the probability of those that were shown."""

    least: tuple[float, ...]
    most: tuple[float, ...]
    seen: float

    @property
    def uncertainty(self) -> float:
        """How far the share of a token among all of them may be off."""
        return max(self._most(index) - self._least(index) for index in range(len(self.least)))

    def of(self, index: int) -> float:
        """The share of a token among all of them, in which each has the most probability that it can have."""
        return self.most[index] / (sum(self.most) or 1.0)

    def certain(self, index: int) -> float:
        """The part of the share of a token among all of them that is certain."""
        return self._least(index)

    def _least(self, index: int) -> float:
        low = self.least[index]
        return low / (low + _others(self.most, index)) if low else 0.0

    def _most(self, index: int) -> float:
        high = self.most[index]
        return high / (high + _others(self.least, index)) if high else 0.0


def _others(values: Sequence[float], index: int) -> float:
    """The sum of the values beside that at `index`; a difference would lose the small ones."""
    return sum(value for place, value in enumerate(values) if place != index)


@dataclass(slots=True)
class Tokens:
    """The tokens of prompts that a server has computed and reused for one check, and the number of calls."""

    computed: int = 0
    reused: int = 0
    calls: int = 0


@dataclass(slots=True)
class PromptReader:
    """Reads the prompts of one check. Label lists are read only if P(unsafe) is above `floor`.

    The search for lists ends when less than half of `uncertainty` is left, or after LISTS_PER_CHECK lists. At most as
    many calls run at once as `open_calls` allows.

    Raises GuardUnavailable if a probability may be off by more than `uncertainty` because tokens are not shown, or if
    the server reads another number of tokens than a prompt has; CallRefused, ReplicaFailed, Overloaded as the calls do.
    """

    api: CompletionsApi
    abilities: Abilities
    open_calls: asyncio.Semaphore
    uncertainty: float
    floor: float = 0.0
    tokens: Tokens = field(default_factory=Tokens)

    async def read(self, encoded: EncodedPrompt) -> Reading:
        """The reading of one prompt."""
        answer = encoded.answer
        if isinstance(answer, Choice):
            return await self._choice(encoded, answer)
        verdict = await self._shares(encoded, (), [answer.unsafe, answer.safe])
        self._require_certain(verdict)
        unsafe, outside = verdict.of(0), max(0.0, 1.0 - verdict.seen)
        if unsafe <= self.floor:
            return Reading((unsafe, *[0.0] * answer.labels), unsafe, outside)
        answer = replace(answer, tolerance=max(answer.tolerance, _OF_LISTS * self.uncertainty))
        search = ListSearch(answer, unsafe)
        hidden = await self._explore(encoded, answer, search)
        if hidden > self.uncertainty:
            raise GuardUnavailable(
                f"the server does not show the tokens of the categories: {hidden:.3f} of the probability is not known, "
                f"more than the {self.uncertainty:g} of completions.uncertainty"
            )
        leftover = min(1.0, max(0.0, search.leftover) + verdict.uncertainty)
        return Reading((unsafe, *(min(share, unsafe) for share in search.result())), leftover, outside)

    async def _choice(self, encoded: EncodedPrompt, answer: Choice) -> Reading:
        tokens = [token for group in answer.groups for token in group]
        single = await self._shares(encoded, (), tokens)
        starts = [sum(map(len, answer.groups[:index])) for index in range(len(answer.groups))]
        of_group = [slice(start, start + len(group)) for start, group in zip(starts, answer.groups, strict=True)]
        grouped = Shares(
            tuple(sum(single.least[part]) for part in of_group),
            tuple(sum(single.most[part]) for part in of_group),
            single.seen,
        )
        self._require_certain(grouped)
        probabilities = tuple(grouped.of(index) for index in range(len(answer.groups)))
        return Reading(probabilities, grouped.uncertainty, max(0.0, 1.0 - grouped.seen))

    def _require_certain(self, shares: Shares) -> None:
        require_certain(shares, self.abilities.shown, self.uncertainty)

    # --- label lists ----------------------------------------------------------------------------------------------

    async def _explore(self, encoded: EncodedPrompt, answer: Grammar, search: ListSearch) -> float:
        """Read lists, the most probable first; return the probability of what the server has not shown."""
        left, hidden = LISTS_PER_CHECK, 0.0
        while lists := search.next_lists(min(_LISTS_AT_ONCE, left)):
            left -= len(lists)
            shown = await gathered([self._options(encoded, answer, one) for one in lists])
            for one, (tokens, shares) in zip(lists, shown, strict=True):
                certain = {token: shares.certain(index) for index, token in enumerate(tokens)}
                hidden += one.mass * max(0.0, 1.0 - sum(certain.values()))
                search.continue_with(one, {token: share for token, share in certain.items() if share > 0.0})
        return hidden

    async def _options(self, encoded: EncodedPrompt, answer: Grammar, one: PartialList) -> tuple[list[int], Shares]:
        """The tokens that may follow a list, and their shares."""
        tokens = list(one.options(answer))
        further = (answer.unsafe, *answer.forced, *one.tokens)
        negligible = min(1.0, answer.tolerance / (10 * len(tokens) * one.mass))
        return tokens, await self._shares(encoded, further, tokens, negligible)

    # --- single tokens --------------------------------------------------------------------------------------------

    async def _shares(
        self, encoded: EncodedPrompt, further: Sequence[int], tokens: Sequence[int], negligible: float = _NEGLIGIBLE
    ) -> Shares:
        """The probabilities of `tokens` behind the prompt and `further` tokens."""
        if self.abilities.forcing == "biased":
            return await self._ratios(encoded, further, tokens)
        forces = self.abilities.forcing == "shown"
        # A forced token is shown even where the model would end its answer, behind which some servers show nothing.
        first = await self._next(encoded, further, tokens[:1] if forces else ())
        names = [self.abilities.naming.name(token) for token in tokens]
        found = {name: first.shown[name] for name in names if name in first.shown}
        total = sum(found.values())
        if forces and first.most_unseen > negligible * total:
            missing = [token for token, name in zip(tokens, names, strict=True) if name not in found]
            more = await gathered([self._next(encoded, further, [token]) for token in missing])
            for token, seen in zip(missing, more, strict=True):
                name = self.abilities.naming.name(token)
                if name in seen.shown:
                    found[name] = seen.shown[name]
        least = tuple(found.get(name, 0.0) for name in names)
        most = tuple(found.get(name, first.most_unseen) for name in names)
        return Shares(least, most, min(1.0, sum(found.values())))

    async def _ratios(self, encoded: EncodedPrompt, further: Sequence[int], tokens: Sequence[int]) -> Shares:
        """The shares of tokens on a server that shows probabilities behind the bias: all get the same.

        Only the verdict needs to know how probable all of them are together: that is what a call without a bias shows.
        """
        plain = None if further else await self._next(encoded, further, ())
        size = max(1, self.abilities.shown - 1)
        ratios: dict[int, float] = {tokens[0]: 1.0}
        rest = list(tokens[1:])
        # Where more tokens are read than are shown, each call compares some of them with the first.
        for start in range(0, len(rest), size):
            part = rest[start : start + size]
            seen = await self._next(encoded, further, [tokens[0], *part])
            shown = [seen.shown.get(self.abilities.naming.name(token), 0.0) for token in [tokens[0], *part]]
            if not shown[0]:
                raise GuardUnavailable("the server does not show the guard's answers, although they have a bias")
            ratios.update((token, share / shown[0]) for token, share in zip(part, shown[1:], strict=True))
        total = sum(ratios.values())
        exact = tuple(ratios[token] / total for token in tokens)
        names = [self.abilities.naming.name(token) for token in tokens]
        return Shares(exact, exact, min(1.0, sum(plain.shown.get(name, 0.0) for name in names)) if plain else 1.0)

    async def _next(self, encoded: EncodedPrompt, further: Sequence[int], forced: Sequence[int]) -> NextToken:
        naming = self.abilities.naming
        async with self.open_calls:
            seen = await self.api.next_token(naming.prompt(encoded, further), forced)
        expected = len(encoded.ids) + len(further)
        if seen.prompt_tokens != expected:
            raise GuardUnavailable(f"the server has read {seen.prompt_tokens} tokens of a prompt of {expected}")
        self.tokens.calls += 1
        self.tokens.reused += seen.reused
        self.tokens.computed += seen.prompt_tokens - seen.reused
        return seen


def require_certain(shares: Shares, shown: int, uncertainty: float) -> None:
    """Raise GuardUnavailable if a share may be off by more than `uncertainty`, where a server shows `shown` tokens."""
    if not sum(shares.most):
        raise GuardUnavailable("the server shows every answer of the guard with the probability 0")
    if shares.uncertainty > uncertainty:
        raise GuardUnavailable(
            f"of the model's next tokens the server shows {shown}, and of the guard's answers only "
            f"{shares.seen:.4f} of the probability: the verdict may be off by {shares.uncertainty:.3f}, more than "
            f"the {uncertainty:g} of completions.uncertainty"
        )


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of work that runs at the same time; if one fails, the others end, and its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
