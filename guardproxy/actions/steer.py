"""Forward the turn as it is, with an instruction for the model."""

from guardproxy.localtext import text_of
from guardproxy.policy import Policy, leading
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import Decision, Message, Outcome, Steer


class SteerAction:
    """Gives the model the instruction for the category that leads."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the instruction, or a refusal if the policy has none for the category.

        It is the operator's own text, so nobody judges it.
        """
        instruction = text_of(self._policy.rewrite.instructions, leading(decision))
        return Steer(instruction) if instruction else self._policy.block.refusal_of(decision)


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return SteerAction(policy)
