"""Refuse the text."""

from guardproxy.policy import BlockPolicy, Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import Decision, Message, Outcome


class BlockAction:
    """Answers every decision with the refusal that the policy configures."""

    def __init__(self, policy: BlockPolicy) -> None:
        self._policy = policy

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the refusal: that of a guard failure is the one for all texts without a category."""
        return self._policy.refusal_of(decision)


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return BlockAction(policy.block)
