"""Replace exactly the matches of patterns by placeholders such as `[credentials]`, and keep the rest of the turn.

Placeholders are not restored: what was masked in a request is not put into the reply.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from guardproxy.offload import computed
from guardproxy.policy import UNSAFE, Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Replace, Span

Matches = Callable[[str], Sequence[tuple[Span, str]]]
"""The place and the category of every match in a text, in the order of the text."""

# In the arguments of a call, a placeholder would make another call of it.
_EDITABLE = ("text", "refusal", "reasoning", "tool_result")


def masked(text: str, matches: Sequence[tuple[Span, str]], categories: Collection[str]) -> str:
    """The text with a placeholder for each match of these categories; matches that overlap have that of the first."""
    pieces, at, end = [], 0, 0
    for (start, stop), category in matches:
        if category not in categories:
            continue
        if start >= end:
            pieces += [text[at:start], f"[{category}]"]
        at = end = max(end, stop)
    return "".join([*pieces, text[at:]])


class MaskAction:
    """Masks the matches of the categories that a rule wants rewritten, and judges the result."""

    def __init__(self, policy: Policy, matches: Matches) -> None:
        self._block = policy.block
        self._matches = matches

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the edits, or a refusal if the text has no match in it or the result is still unsafe.

        So is a finding that only a view of the text shows, or a model. Also refuse a match in a tool call.
        """
        refusal = self._block.refusal_of(decision)
        reasons = {reason.category for reason in decision.reasons if reason.action == "rewrite"}
        parts = []
        for part in turn.parts:
            text = part.text
            if part.kind != "opaque" and text:
                matches = await computed(len(text), self._matches, text)
                # P(unsafe) is that of every category.
                wanted = {category for _, category in matches} if UNSAFE in reasons else reasons
                text = masked(text, matches, wanted)
            if text != part.text and part.kind not in _EDITABLE:
                return refusal
            parts.append(replace(part, text=text))
        edits = [Edit(new.path, new.text) for new, old in zip(parts, turn.parts, strict=True) if new != old]
        if not edits or SEVERITY[(await judge(Message(turn.role, tuple(parts)))).action] >= SEVERITY["rewrite"]:
            return refusal
        return Replace(tuple(edits))


def _none(_: str) -> Sequence[tuple[Span, str]]:
    return ()


def open_action(policy: Policy, matches: Matches = _none) -> Action:
    """Open the action for one policy; `matches` are those of all guards that look for patterns."""
    return MaskAction(policy, matches)
