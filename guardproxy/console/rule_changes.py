"""Each rule that the workbench changes: from which number to which, and what this change alone would do. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from guardproxy.console.panels import panel_id
from guardproxy.console.thresholds import (
    NUMBERS,
    OWN,
    CategoryRules,
    Edits,
    Place,
    number,
    rules_of,
    with_edits,
    with_policy,
)
from guardproxy.policy import Policy, PolicySet
from guardproxy.replay import CHANGES, Change, Replay, ReplayReport, StoredTurn
from guardproxy.reviews import ChangedRule

_WORDS: Final[Mapping[str, str]] = {
    "with_unsafe": "needs P(unsafe)",
    "rewrite_with_unsafe": "rewrite needs P(unsafe)",
    "how": "how to rewrite",
    OWN: "all rules of its own",
}


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """A changed rule, and what this change alone would do.

    `panel` is the id of the category's panel; `newly` counts the turns that would be decided in another way.
    """

    changed: ChangedRule
    panel: str
    newly: Mapping[Change, int]


def rule_effects(policies: PolicySet, policy: Policy, edits: Edits, turns: Sequence[StoredTurn]) -> list[RuleEffect]:
    """Every changed rule of a policy. `turns` have the decision of `policies`, which are in force."""
    found: list[RuleEffect] = []
    for place, changed, alone in _parts(policy, edits):
        replay = Replay(with_policy(policies, with_edits(policy, Edits({place: alone}))), {}, rows=0)
        for turn in turns:
            if turn.side == place[0]:
                replay.add(turn)
        found.append(RuleEffect(changed, panel_id(place), counted(replay.report())))
    return found


def changed_rules(policy: Policy, edits: Edits) -> tuple[ChangedRule, ...]:
    """Every changed rule of a policy."""
    return tuple(changed for _, changed, _ in _parts(policy, edits))


def counted(report: ReplayReport) -> dict[Change, int]:
    """How many turns are newly blocked, rewritten, flagged, passed, and unchanged."""
    found: dict[Change, int] = dict.fromkeys(CHANGES, 0)
    for group, turns in report.changes.items():
        found[group.change] += turns
    return found


def _parts(policy: Policy, edits: Edits) -> Iterator[tuple[Place, ChangedRule, CategoryRules | None]]:
    """Place and rule of each change, and the rules of the category with this change alone."""
    now = rules_of(policy)
    for place, new in edits.rules.items():
        old = now.get(place, CategoryRules())
        if new is None:
            yield place, ChangedRule(*place, _WORDS[OWN], "; ".join(_said(old)), ""), None
            continue
        for part in NUMBERS:
            before, after = getattr(old, part), getattr(new, part)
            if before != after:
                alone = old.changed(part, after)
                if part == "rewrite" and before is None:
                    alone = replace(alone, how=new.how)  # a new rewrite comes with its way
                yield place, ChangedRule(*place, _WORDS.get(part, part), _shown(before), _shown(after)), alone
        if old.how != new.how and old.rewrite is not None and new.rewrite is not None:
            yield place, ChangedRule(*place, _WORDS["how"], old.how, new.how), replace(old, how=new.how)


def _said(rules: CategoryRules) -> Iterator[str]:
    for part in NUMBERS:
        if (value := getattr(rules, part)) is not None:
            yield f"{_WORDS.get(part, part)} {number(value)}"


def _shown(value: float | None) -> str:
    return "" if value is None else number(value)
