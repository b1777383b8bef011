"""Refuse the text."""

from guardproxy.policy import BlockPolicy, Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import Decision, Message, Outcome


class Block:
    """Always a refusal, in the shape the policy gives blocks."""

    def __init__(self, policy: BlockPolicy) -> None:
        self._policy = policy

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """The refusal. A failure of the guard reads like any other block: a client cannot probe for it."""
        return self._policy.refusal(decision.categories)


def open_action(policy: Policy) -> Action:
    """The action of one policy."""
    return Block(policy.block)
