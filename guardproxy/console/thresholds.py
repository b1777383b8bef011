"""A policy with other thresholds, and the difference between the two as YAML. Pure."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from guardproxy.policy import Policy, PolicySet, Rule, SideRules
from guardproxy.types import SEVERITY, ActionName, Side

SIDES: Final[tuple[Side, ...]] = ("user", "assistant")
PREFIX: Final = "t:"


@dataclass(frozen=True, slots=True)
class RulePlace:
    """A rule of a policy: the side, the category and the action that it belongs to."""

    side: Side
    category: str
    action: ActionName

    @property
    def key(self) -> str:
        """The key of an address that sets the rule's threshold."""
        return f"{PREFIX}{self.side}:{self.category}:{self.action}"


def places(policy: Policy) -> dict[RulePlace, Rule]:
    """Every rule of a policy by its place."""
    return {
        RulePlace(side, category, rule.action): rule
        for side in SIDES
        for category, rules in policy.side(side).by_category.items()
        for rule in rules
    }


def read_thresholds(policy: Policy, query: Mapping[str, Sequence[str]]) -> dict[RulePlace, float]:
    """The thresholds that an address sets and that differ from the policy's. Raises ValueError with the key."""
    known = {place.key: (place, rule) for place, rule in places(policy).items()}
    chosen: dict[RulePlace, float] = {}
    for key, values in query.items():
        if not key.startswith(PREFIX):
            continue
        if key not in known:
            continue  # of another policy: the form keeps what it was given when somebody chooses a policy
        place, rule = known[key]
        try:
            value = float(values[-1])
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise ValueError(f"{key}: {values[-1]!r} is not a probability between 0 and 1")
        if value != rule.threshold:
            chosen[place] = value
    return chosen


def with_thresholds(policy: Policy, chosen: Mapping[RulePlace, float]) -> Policy:
    """The policy with other thresholds. Its version differs as well if anything does."""
    if not chosen:
        return policy
    sides = {side: _side(policy.side(side), side, chosen) for side in SIDES}
    return replace(policy, version=f"{policy.version}+", user=sides["user"], assistant=sides["assistant"])


def _side(rules: SideRules, side: Side, chosen: Mapping[RulePlace, float]) -> SideRules:
    return SideRules(
        {
            category: tuple(
                replace(rule, threshold=chosen.get(RulePlace(side, category, rule.action), rule.threshold))
                for rule in own
            )
            for category, own in rules.by_category.items()
        }
    )


def with_policy(policies: PolicySet, policy: Policy) -> PolicySet:
    """The policies with another one in place of that of the same name."""
    return replace(policies, policies={**policies.policies, policy.name: policy})


def unreachable(policy: Policy) -> list[str]:
    """In words, the rules that can never act, because a more severe one of the category applies from there on."""
    found: list[str] = []
    for place, rule in places(policy).items():
        for other in policy.side(place.side).by_category[place.category]:
            worse = SEVERITY[other.action] > SEVERITY[rule.action]
            if worse and other.threshold <= rule.threshold and other.with_unsafe <= rule.with_unsafe:
                found.append(
                    f"{place.side}, {place.category}: {rule.action} from {rule.threshold:g} can never act, because "
                    f"{other.action} applies from {other.threshold:g}; lower it, or remove it from the file"
                )
    return found


def yaml_lines(policy: Policy, categories: Iterable[tuple[Side, str]]) -> list[str]:
    """The rules of some categories as lines of a configuration file."""
    wanted = set(categories)
    lines = ["policies:", f"  {_name(policy.name)}:"]
    for side in SIDES:
        rules = {name: own for name, own in policy.side(side).by_category.items() if (side, name) in wanted}
        if rules:
            lines.append(f"    {side}:")
            lines += [f"      {_name(name)}: {{{_flow(own)}}}" for name, own in rules.items()]
    return lines


def yaml_difference(before: Policy, after: Policy, chosen: Iterable[RulePlace]) -> tuple[list[str], list[str]]:
    """The changed categories as YAML that replaces theirs in the file, and the lines of the difference."""
    categories = [(place.side, place.category) for place in chosen]
    old, new = yaml_lines(before, categories), yaml_lines(after, categories)
    difference = list(difflib.unified_diff(old, new, "now", "new", n=len(old), lineterm=""))
    return new, difference[3:]


def _flow(rules: Iterable[Rule]) -> str:
    parts: list[str] = []
    second = {rule.with_unsafe for rule in rules}
    shared = next(iter(second)) if len(second) == 1 else 0.0
    for rule in rules:
        own = f", with_unsafe: {rule.with_unsafe:g}" if rule.with_unsafe and not shared else ""
        if rule.action == "rewrite":
            parts.append(f"rewrite: {{at: {rule.threshold:g}, how: {_name(rule.how)}{own}}}")
        else:
            parts.append(f"{rule.action}: {rule.threshold:g}")
    # Without a shared one, `with_unsafe` of the category holds for every action but a rewrite with its own.
    common = shared or max((rule.with_unsafe for rule in rules if rule.action != "rewrite"), default=0.0)
    return ", ".join([*parts, *([f"with_unsafe: {common:g}"] if common else [])])


def _name(name: str) -> str:
    return name if name.replace("_", "").isalnum() and not name[0].isdigit() else json.dumps(name)
