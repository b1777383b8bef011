"""Replace a whole turn with a configured text."""

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import Decision, Edit, Message, Outcome, Replace


class ReplaceAction:
    """Puts the replacement into the first text part of the turn and removes every other readable part."""

    def __init__(self, policy: Policy) -> None:
        self._text = policy.rewrite.replacement
        self._block = policy.block

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the replacement, or a refusal if the turn has no text part: a tool call could not hold it.

        The replacement is the operator's own text, so nobody judges it.
        """
        target = next((part for part in turn.parts if part.kind in ("text", "tool_result")), None)
        if target is None:
            return self._block.refusal_of(decision)
        return Replace((Edit(target.path, self._text),), whole=True)


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return ReplaceAction(policy)
