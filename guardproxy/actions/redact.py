"""Remove the sentences that carry the finding and keep the rest of the turn.

The guard has found the turn unsafe, but does not say which sentence is. So halves of it are judged, then halves of the
unsafe halves, down to single sentences: in a long text with few unsafe sentences that takes far fewer checks than
judging each sentence. What is left is judged again as a whole.

This rewrites the text that the model or the client reads. `audit.text: redacted` is a different thing: it masks
credentials and personal data in the text that the audit stores (`observe/masking.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.sentences import sentences
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Part, Replace

_EDITABLE = ("text", "refusal", "reasoning", "tool_result")
_NOT_JUDGED = ("guard_error", "overload")


class _Sentence(NamedTuple):
    """A sentence, or the whole text of a part that cannot be edited; `part` is the index of its part."""

    part: int
    text: str


class RedactAction:
    """Finds the sentences that carry the finding, replaces them with the policy's marker, and judges the result."""

    def __init__(self, policy: Policy) -> None:
        self._marker = policy.rewrite.marker
        self._max_checks = policy.rewrite.max_checks
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the edits, or a refusal if nothing less than the whole turn carries the finding.

        Also refuse if more than the policy's `max_checks` texts would have to be judged, if one of them cannot be
        judged, if what is left is still unsafe, and if the finding is in a tool call, because a marker inside its
        arguments would make a different call.
        """
        refusal = self._block.refusal_of(decision)
        search = _Bisection(turn, judge, self._max_checks)
        found = await search.run()
        if not found:
            return refusal
        new: dict[int, list[str]] = {}
        for place, (part, text) in enumerate(search.pieces):
            new.setdefault(part, []).append(self._marked(text) if place in found else text)
        changed = {search.pieces[place].part for place in found}
        if any(turn.parts[index].kind not in _EDITABLE for index in changed):
            return refusal
        edits = {turn.parts[index].path: "".join(new[index]) for index in sorted(changed)}
        rest = Message(turn.role, tuple(replace(p, text=edits.get(p.path, p.text)) for p in turn.parts))
        if _is_unsafe(await judge(rest)):
            return refusal
        return Replace(tuple(Edit(path, text) for path, text in edits.items()))

    def _marked(self, sentence: str) -> str:
        return self._marker + sentence[len(sentence.rstrip()) :]


class _Bisection:
    """Finds the pieces of an unsafe turn that carry the finding, with at most `max_checks` checks.

    One of them is left to the caller, for what remains of the turn.
    """

    def __init__(self, turn: Message, judge: JudgeAgain, max_checks: int) -> None:
        self.pieces = [piece for index, part in enumerate(turn.parts) for piece in _pieces(index, part)]
        self._turn = turn
        self._judge = judge
        self._left = max_checks - 1
        self._found: set[int] = set()
        self._failed = self._left < 0

    async def run(self) -> set[int]:
        """Return the places of the pieces; empty if there is none, or the search has failed."""
        if self.pieces and not self._failed:
            await self._search(0, len(self.pieces))
        return set() if self._failed else self._found

    async def _search(self, start: int, stop: int) -> None:
        """Search the pieces from `start` to `stop`, which are unsafe together."""
        size = stop - start
        if size == 1:
            self._found.add(start)
            return
        middle, quarter = start + size // 2, size // 4
        unsafe = await self._unsafe((start, middle), (middle, stop))
        if not unsafe and quarter:  # the harm may lie across the cut
            unsafe = await self._unsafe((start + quarter, stop - quarter))
        if unsafe:
            await asyncio.gather(*(self._search(*part) for part in unsafe))
        elif size == len(self.pieces):
            self._failed = True
        else:
            self._found.update(range(start, stop))

    async def _unsafe(self, *ranges: tuple[int, int]) -> list[tuple[int, int]]:
        """Judge ranges of pieces; return those that are unsafe. The search fails if one of them cannot be judged."""
        self._left -= len(ranges)
        self._failed = self._failed or self._left < 0
        if self._failed:
            return []
        decisions = await asyncio.gather(*(self._judge(self._message(start, stop)) for start, stop in ranges))
        self._failed = self._failed or any(decision.cause in _NOT_JUDGED for decision in decisions)
        return [one for one, decision in zip(ranges, decisions, strict=True) if _is_unsafe(decision)]

    def _message(self, start: int, stop: int) -> Message:
        texts: dict[int, list[str]] = {}
        for part, text in self.pieces[start:stop]:
            texts.setdefault(part, []).append(text)
        parts = ((self._turn.parts[index], "".join(found)) for index, found in texts.items())
        return Message(self._turn.role, tuple(Part(part.path, text, part.kind) for part, text in parts))


def _pieces(index: int, part: Part) -> Sequence[_Sentence]:
    if part.kind == "opaque" or not part.text:
        return ()
    return [_Sentence(index, text) for text in (sentences(part.text) if part.kind in _EDITABLE else [part.text])]


def _is_unsafe(decision: Decision) -> bool:
    """Whether a text must not be kept: the policy stops it, or the guard could not judge it."""
    return SEVERITY[decision.action] >= SEVERITY["rewrite"] or decision.cause in _NOT_JUDGED


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return RedactAction(policy)
