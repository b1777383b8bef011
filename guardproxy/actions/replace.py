"""Put a configured text in the place of a whole turn."""

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Part, Replace


class ReplaceTurn:
    """The turn's first text becomes the replacement, everything else readable in it goes."""

    def __init__(self, policy: Policy) -> None:
        self._text = policy.rewrite.replacement
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """A refusal where the turn has no text to stand in for (a tool call), or the replacement is unsafe there."""
        place = next((part for part in turn.parts if part.kind in ("text", "tool_result")), None)
        refusal = self._block.refusal(decision.categories)
        if place is None:
            return refusal
        again = await judge(Message(turn.role, (Part(place.path, self._text, place.kind),)))
        if SEVERITY[again.action] >= SEVERITY["rewrite"]:
            return refusal
        return Replace((Edit(place.path, self._text),), whole=True)


def open_action(policy: Policy) -> Action:
    """The action of one policy."""
    return ReplaceTurn(policy)
