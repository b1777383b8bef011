"""Remove the sentences that carry the finding and keep the rest of the turn.

This rewrites the text that the model or the client reads. `audit.text: redacted` is a different thing: it masks
credentials and personal data in the text that the audit stores (`observe/masking.py`).
"""

import asyncio
import re
from collections.abc import Sequence

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Part, Replace

# A sentence ends at . ! ? or an ideographic stop (with closing quotes), or at a line break. It includes the white space
# after it.
_SENTENCE = re.compile(r"[^\n.!?。！？]*(?:[.!?。！？]+[\"'”’)\]]*(?=\s|$)|[.!?。！？]|\n|$)\s*")  # noqa: RUF001
# The most pieces that one part is judged in: sentences of a longer text are judged in groups, to bound the checks.
_MAX_PIECES = 48
# A turn with more parts is refused, because each part costs at least one check.
_MAX_PARTS = 500
_EDITABLE = ("text", "refusal", "reasoning", "tool_result")


def sentences(text: str) -> list[str]:
    """Split `text` into sentences, each with the white space after it; joined, they give `text` again."""
    return [match.group() for match in _SENTENCE.finditer(text) if match.group()]


def _grouped(pieces: list[str], most: int) -> list[str]:
    size = -(-len(pieces) // most)
    return ["".join(pieces[start : start + size]) for start in range(0, len(pieces), size)]


class RedactAction:
    """Judges each sentence alone, replaces unsafe sentences with the policy's marker, and judges the result."""

    def __init__(self, policy: Policy) -> None:
        self._marker = policy.rewrite.marker
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the edits, or a refusal if no sentence alone carries the finding or the result is still unsafe.

        Also refuse a finding in a tool call, because a marker inside its arguments would make a different call, and a
        turn with more than 500 parts.
        """
        refusal = self._block.refusal_of(decision)
        if len(turn.parts) > _MAX_PARTS:
            return refusal
        texts = await asyncio.gather(*(self._redacted_text(turn, part, judge) for part in turn.parts))
        changed = [
            (part, text) for part, text in zip(turn.parts, texts, strict=True) if text is not None and text != part.text
        ]
        if not changed or any(part.kind not in _EDITABLE for part, _ in changed):
            return refusal
        new = {part.path: text for part, text in changed}
        rest = Message(turn.role, tuple(Part(p.path, new.get(p.path, p.text), p.kind, p.note) for p in turn.parts))
        if _is_unsafe(await judge(rest)):
            return refusal
        return Replace(tuple(Edit(path, text) for path, text in new.items()))

    async def _redacted_text(self, turn: Message, part: Part, judge: JudgeAgain) -> str | None:
        if part.kind == "opaque" or not part.text:
            return None
        pieces = _grouped(sentences(part.text), _MAX_PIECES)
        return "".join(await self._redacted_pieces(turn, part, pieces, judge))

    async def _redacted_pieces(self, turn: Message, part: Part, pieces: Sequence[str], judge: JudgeAgain) -> list[str]:
        async def redacted(piece: str) -> str:
            if not piece.strip():
                return piece
            alone = Message(turn.role, (Part(part.path, piece, part.kind),))
            if not _is_unsafe(await judge(alone)):
                return piece
            return self._marker + piece[len(piece.rstrip()) :]

        return list(await asyncio.gather(*(redacted(piece) for piece in pieces)))


def _is_unsafe(decision: Decision) -> bool:
    return SEVERITY[decision.action] >= SEVERITY["rewrite"]


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return RedactAction(policy)
