"""How much of a streamed reply must wait because a pattern that stops it may have begun in it. Pure."""

from collections.abc import Mapping

from guardproxy.patterns import Reach, widest
from guardproxy.policy import UNSAFE, Policy
from guardproxy.types import SEVERITY


def reach_of(policy: Policy, reaches: Mapping[str, Reach]) -> Reach:
    """The reach of all categories whose hits may stop a reply under this policy; no reach if there are none."""
    rules = policy.assistant
    overall = rules.by_category.get(UNSAFE, ())
    return widest(
        reach
        for category, reach in reaches.items()
        if any(SEVERITY[rule.action] >= SEVERITY["rewrite"] for rule in (*rules.covering(category), *overall))
    )
