"""Replace exactly the matches of patterns and personal data by placeholders, and keep the rest of the turn.

Placeholders are not restored: what was masked in a request is not put into the reply.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from guardproxy.offload import computed
from guardproxy.patterns import Hit
from guardproxy.policy import UNSAFE, Policy
from guardproxy.ports import Action, JudgeAgain
from guardproxy.types import SEVERITY, Decision, Edit, Message, Outcome, Replace, Side

Matches = Callable[[str], Sequence[Hit]]
"""Every match in a text, in the order of the text."""

# In the arguments of a call, a placeholder would make another call of it.
_EDITABLE = ("text", "refusal", "reasoning", "tool_result")
_PII = "pii_"
_WEIGHT = 8  # personal data take as many times as long as patterns


def placeholder(category: str) -> str:
    """`[credentials]`; of the category `pii_email_address`, `[EMAIL_ADDRESS]`, as Presidio names its entities."""
    return f"[{category.removeprefix(_PII).upper() if category.startswith(_PII) else category}]"


def masked(text: str, matches: Iterable[Hit]) -> str:
    """The text with a placeholder for each match; matches that overlap have that of the first."""
    pieces, at, end = [], 0, 0
    for hit in matches:
        start, stop = hit.span
        if start >= end:
            pieces += [text[at:start], placeholder(hit.category)]
        at = end = max(end, stop)
    return "".join([*pieces, text[at:]])


class MaskAction:
    """Masks the matches of the categories that a rule wants rewritten, and judges the result."""

    def __init__(self, policy: Policy, matches: Matches) -> None:
        self._policy = policy
        self._matches = matches

    async def __call__(self, turn: Message, decision: Decision, judge: JudgeAgain) -> Outcome:
        """Return the edits, or a refusal if the text has no match in it or the result is still unsafe.

        So is a finding that only a view of the text shows, or a model. Also refuse a match in a tool call.
        """
        refusal = self._policy.block.refusal_of(decision)
        thresholds: dict[str, float] = {}
        for reason in decision.reasons:
            if reason.action == "rewrite":
                thresholds[reason.category] = min(reason.threshold, thresholds.get(reason.category, 1.0))
        parts = []
        for part in turn.parts:
            text = part.text
            if part.kind != "opaque" and text:
                matches = await computed(len(text) * _WEIGHT, self._matches, text)
                text = masked(text, [hit for hit in matches if self._is_wanted(hit, turn.side, thresholds)])
            if text != part.text and part.kind not in _EDITABLE:
                return refusal
            parts.append(replace(part, text=text))
        edits = [Edit(new.path, new.text) for new, old in zip(parts, turn.parts, strict=True) if new != old]
        if not edits or SEVERITY[(await judge(Message(turn.role, tuple(parts)))).action] >= SEVERITY["rewrite"]:
            return refusal
        return Replace(tuple(edits))

    def _is_wanted(self, hit: Hit, side: Side, thresholds: Mapping[str, float]) -> bool:
        """Whether a match by itself reaches a threshold of its category, or that of P(unsafe) if it is a harm."""
        of_category = self._policy.calibration.value(side, hit.category, hit.probability)
        of_all = self._policy.calibration.value(side, UNSAFE, hit.probability)
        return of_category >= thresholds.get(hit.category, 2.0) or (
            of_all >= thresholds.get(UNSAFE, 2.0) and not hit.category.startswith(_PII)
        )


def _none(_: str) -> Sequence[Hit]:
    return ()


def open_action(policy: Policy, matches: Matches = _none) -> Action:
    """Open the action for one policy; `matches` are those of all guards that look for places in a text."""
    return MaskAction(policy, matches)
