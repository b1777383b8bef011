"""Take out the sentences that carry the finding, and keep the rest."""

import asyncio
import re
from collections.abc import Sequence

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Part, Replace

# A sentence ends at . ! ? or an ideographic stop (with closing quotes), or at a line break; the space behind it is its.
_SENTENCE = re.compile(r"[^\n.!?。！？]*(?:[.!?。！？]+[\"'”’)\]]*(?=\s|$)|[.!?。！？]|\n|$)\s*")  # noqa: RUF001
# More pieces than this are judged in groups, so that a long text does not cost a check per sentence.
_PIECES = 48
# A turn of more parts than this is refused: each part costs a check at the least.
_PARTS = 500


def sentences(text: str) -> list[str]:
    """The sentences of `text`, each with the space behind it: joined they are `text` again."""
    return [match.group() for match in _SENTENCE.finditer(text) if match.group()]


def _grouped(pieces: list[str], most: int) -> list[str]:
    size = -(-len(pieces) // most)
    return ["".join(pieces[start : start + size]) for start in range(0, len(pieces), size)]


class Redact:
    """Each sentence is judged alone; the unsafe ones become the marker, and what is left is judged as a whole."""

    def __init__(self, policy: Policy) -> None:
        self._marker = policy.rewrite.marker
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """A refusal where no sentence alone carries the finding, or the rest is still unsafe.

        Findings in tool calls are refused as well: a marker inside arguments would be a different call. So is a turn
        of very many parts.
        """
        refusal = self._block.refusal(decision.categories)
        if len(turn.parts) > _PARTS:
            return refusal
        texts = await asyncio.gather(*(self._redacted(turn, part, judge) for part in turn.parts))
        changed = [
            (part, text) for part, text in zip(turn.parts, texts, strict=True) if text is not None and text != part.text
        ]
        if not changed or any(part.kind not in ("text", "refusal", "reasoning", "tool_result") for part, _ in changed):
            return refusal
        new = {part.path: text for part, text in changed}
        rest = Message(turn.role, tuple(Part(p.path, new.get(p.path, p.text), p.kind, p.note) for p in turn.parts))
        if _acts(await judge(rest)):
            return refusal
        return Replace(tuple(Edit(path, text) for path, text in new.items()))

    async def _redacted(self, turn: Message, part: Part, judge: JudgeAgain) -> str | None:
        if part.kind == "opaque" or not part.text:
            return None
        pieces = _grouped(sentences(part.text), _PIECES)
        return "".join(await self._kept(turn, part, pieces, judge))

    async def _kept(self, turn: Message, part: Part, pieces: Sequence[str], judge: JudgeAgain) -> list[str]:
        async def one(piece: str) -> str:
            if not piece.strip():
                return piece
            alone = Message(turn.role, (Part(part.path, piece, part.kind),))
            if not _acts(await judge(alone)):
                return piece
            return self._marker + piece[len(piece.rstrip()) :]

        return list(await asyncio.gather(*(one(piece) for piece in pieces)))


def _acts(decision: Decision) -> bool:
    return SEVERITY[decision.action] >= SEVERITY["rewrite"]


def open_action(policy: Policy) -> Action:
    """The action of one policy."""
    return Redact(policy)
