"""Withhold a reply, and have another one asked for."""

from dataclasses import replace

from guardproxy.policy import Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import Decision, Message, Outcome


class RegenerateAction:
    """Answers every decision with a refusal in whose place another reply may be asked for."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the refusal, with the instruction for the next reply. It names categories only if refusals do."""
        refusal = self._policy.block.refusal_of(decision)
        return replace(refusal, again=self._policy.rewrite.retry(refusal.named or ()))


def open_action(policy: Policy) -> Action:
    """Open the action for one policy."""
    return RegenerateAction(policy)
