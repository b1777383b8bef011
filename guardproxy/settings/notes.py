"""What `validate` says of policies without mistakes: effects of their rules that somebody may not expect. Pure."""

from collections.abc import Iterator

from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.types import Side

_TURNS: dict[Side, str] = {"user": "requests", "assistant": "replies"}


def notes(policy: Policy) -> Iterator[str]:
    """One line for each such effect."""
    replaced = [name for name, rules in policy.user.by_category.items() if any(rule.how == "replace" for rule in rules)]
    if replaced:
        yield (
            f"requests with {', '.join(replaced)}: the model reads {policy.rewrite.replacement!r} in their place, and "
            "the client the model's answer to it; a text for the client is block.message"
        )
    for side, turns in _TURNS.items():
        for category, at, blocked in _behind_unsafe(policy.side(side)):
            yield (
                f"{turns} with {category}: rewritten from {at:g}, but `{UNSAFE}` blocks from {blocked:g}; only a text "
                "whose P(unsafe) is below that of the category is rewritten"
            )


def _behind_unsafe(rules: SideRules) -> Iterator[tuple[str, float, float]]:
    """Each category with a rewrite that the block of `unsafe` mostly forestalls, and both thresholds."""
    blocks = _thresholds(rules.by_category.get(UNSAFE, ()), "block")
    for category, own in rules.by_category.items():
        for at in _thresholds(own, "rewrite") if category != UNSAFE else ():
            if blocks and at >= min(blocks):
                yield category, at, min(blocks)


def _thresholds(rules: tuple[Rule, ...], action: str) -> list[float]:
    return [rule.threshold for rule in rules if rule.action == action]
