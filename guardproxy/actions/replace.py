"""Replace a whole turn with a configured text."""

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Part, Replace


class ReplaceAction:
    """Puts the replacement into the first text part of the turn and removes every other readable part."""

    def __init__(self, policy: Policy) -> None:
        self._text = policy.rewrite.replacement
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the replacement, or a refusal if the turn has no text part or the replacement is judged unsafe.

        A turn that is only a tool call, for example, has no part that could hold the text.
        """
        target = next((part for part in turn.parts if part.kind in ("text", "tool_result")), None)
        refusal = self._block.refusal(decision.categories)
        if target is None:
            return refusal
        again = await judge(Message(turn.role, (Part(target.path, self._text, target.kind),)))
        if SEVERITY[again.action] >= SEVERITY["rewrite"]:
            return refusal
        return Replace((Edit(target.path, self._text),), whole=True)


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return ReplaceAction(policy)
