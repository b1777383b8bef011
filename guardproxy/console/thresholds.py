"""A policy with other rules, as an address states them, and the difference between the two as YAML. Pure."""

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from guardproxy.policy import UNSAFE, Policy, PolicySet, Rule, SideRules
from guardproxy.settings import rule_mistakes
from guardproxy.types import Side

SIDES: Final[tuple[Side, ...]] = ("user", "assistant")
PREFIX: Final = "t:"
OFF: Final = "off"  # the value of an address for what a category does not have
OWN: Final = "own"  # the key of an address by which a category has no rules of its own
Part = Literal["flag", "rewrite", "block", "with_unsafe", "rewrite_with_unsafe"]
"""A threshold, or a condition on P(unsafe)."""
ACTION_PARTS: Final[tuple[Part, ...]] = ("flag", "rewrite", "block")
NUMBERS: Final[tuple[Part, ...]] = get_args(Part)
Key = Part | Literal["how", "own"]
KEYS: Final[tuple[Key, ...]] = (*NUMBERS, "how", "own")
_NO_TEXTS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})  # of YAML 1.1, unquoted
Place = tuple[Side, str]
"""The side and the category of rules."""


@dataclass(frozen=True, slots=True)
class CategoryRules:
    """The rules of a category as a configuration file has them; None for what it does not have.

    `with_unsafe` is the P(unsafe) that every action needs, `rewrite_with_unsafe` that of the rewrite alone.
    """

    flag: float | None = None
    rewrite: float | None = None
    block: float | None = None
    with_unsafe: float | None = None
    rewrite_with_unsafe: float | None = None
    how: str = "replace"

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> "CategoryRules":
        """The rules of a policy in this form."""
        by_action: dict[str, Rule] = {rule.action: rule for rule in rules}
        flag, rewrite, block = (by_action.get(action) for action in ACTION_PARTS)
        shared = flag or block or rewrite
        with_unsafe = shared.with_unsafe if shared else 0.0
        own = rewrite.with_unsafe if rewrite and rewrite.with_unsafe != with_unsafe else 0.0
        return cls(
            flag.threshold if flag else None,
            rewrite.threshold if rewrite else None,
            block.threshold if block else None,
            with_unsafe or None,
            own or None,
            rewrite.how if rewrite else "replace",
        )

    def rules(self) -> tuple[Rule, ...]:
        """The rules of a policy, the mildest action first."""
        shared = self.with_unsafe or 0.0
        found: list[Rule] = []
        if self.flag is not None:
            found.append(Rule("flag", self.flag, with_unsafe=shared))
        if self.rewrite is not None:
            found.append(Rule("rewrite", self.rewrite, self.how, self.rewrite_with_unsafe or shared))
        if self.block is not None:
            found.append(Rule("block", self.block, with_unsafe=shared))
        return tuple(found)

    def changed(self, part: "Part", value: float | None) -> "CategoryRules":
        """The rules with another threshold or condition, or without it."""
        parts: dict[str, Any] = {part: value}
        return replace(self, **parts)

    def content(self) -> dict[str, Any]:
        """The rules as the content of a configuration file; null for what it does not have."""
        rewrite = None
        if self.rewrite is not None:
            rewrite = {"at": self.rewrite, "how": self.how, "with_unsafe": self.rewrite_with_unsafe}
        return {"flag": self.flag, "rewrite": rewrite, "block": self.block, "with_unsafe": self.with_unsafe}


@dataclass(frozen=True, slots=True)
class Edits:
    """What an address changes of a policy.

    `rules` has the new rules of each changed category, None if it has none of its own any more; `mistakes` says by the
    key of a field what is wrong with it. `unreadable` has the values that are no number, which change nothing.
    """

    rules: Mapping[Place, CategoryRules | None] = field(default_factory=dict)
    mistakes: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def key_of(place: Place, part: str) -> str:
    """The key of an address that sets a part of a category's rules."""
    return f"{PREFIX}{place[0]}:{place[1]}:{part}"


def rules_of(policy: Policy) -> dict[Place, CategoryRules]:
    """The rules of every category that has some of its own."""
    return {
        (side, category): CategoryRules.of(rules)
        for side in SIDES
        for category, rules in policy.side(side).by_category.items()
    }


def read_edits(
    policy: Policy, query: Mapping[str, Sequence[str]], categories: Collection[str], rewrites: Collection[str]
) -> Edits:
    """What an address changes of a policy. `categories` may have rules, and `rewrites` may rewrite.

    Raises ValueError for a key that sets nothing.
    """
    now = rules_of(policy)
    new: dict[Place, CategoryRules | None] = {}
    unreadable: dict[str, str] = {}
    mistakes: dict[str, str] = {}
    for key, values in query.items():
        if not key.startswith(PREFIX):
            continue
        place, part = place_of(key, {*categories, *(category for _, category in now)})
        rules = new.get(place, now.get(place)) or CategoryRules()
        try:
            new[place] = None if part == OWN else _with(rules, part, values[-1], rewrites)
        except ValueError as error:
            unreadable[key], mistakes[key] = values[-1], str(error)
    changed = {place: rules for place, rules in new.items() if rules != now.get(place)}
    return Edits(changed, {**_without_effect({**now, **changed}, changed), **mistakes}, unreadable)


def place_of(key: str, categories: Collection[str] | None = None) -> tuple[Place, Key]:
    """What a key of an address sets (see `key_of`). Raises ValueError if it sets nothing, or none of `categories`."""
    side, _, rest = key.removeprefix(PREFIX).partition(":")
    category, _, part = rest.rpartition(":")
    for known in SIDES:
        for key_part in KEYS:
            if (side, part) == (known, key_part) and (categories is None or category in categories):
                return (known, category), key_part
    raise ValueError(f"{key}: there is no such rule")


def _with(rules: CategoryRules, part: Part | Literal["how"], value: str, rewrites: Collection[str]) -> CategoryRules:
    if part == "how":
        if value not in {rules.how, *rewrites}:
            raise ValueError(f"there is no rewrite {value!r}; choose {', '.join(rewrites)}")
        return replace(rules, how=value)
    if value == OFF:
        return rules.changed(part, None)
    try:
        found = float(value)
    except ValueError:
        raise ValueError("Write a number from 0 to 1, or remove the rule.") from None
    if not 0 <= found <= 1:
        raise ValueError(f"{value} is not between 0 and 1.")
    if found == 0 and part.endswith("with_unsafe"):
        raise ValueError("P(unsafe) always reaches 0, so this changes nothing: raise it, or remove it.")
    return rules.changed(part, found)


def _without_effect(
    rules: Mapping[Place, CategoryRules | None], changed: Mapping[Place, CategoryRules | None]
) -> dict[str, str]:
    """By the key of a field, why a changed category's rule or condition can never have an effect."""
    found: dict[str, str] = {}
    for place, own in changed.items():
        overall = rules.get((place[0], UNSAFE))
        for path, message in rule_mistakes(
            place[1], _present(own.content()) if own else {}, _present(overall.content()) if overall else None
        ):
            part = {("rewrite", "at"): "rewrite", ("rewrite", "with_unsafe"): "rewrite_with_unsafe"}.get(
                (str(path[0]), str(path[-1])), str(path[0])
            )
            found[key_of(place, part)] = f"It {message}."
    return found


def _present(content: Mapping[str, Any]) -> dict[str, Any]:
    """A content without what is null."""
    return {
        key: _present(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }


def default_value(rules: CategoryRules, part: Part, most: float = 1.0) -> float:
    """A threshold to begin with: 0.5, or what lies between the milder and the more severe actions of the category.

    A condition begins below `most`, from which on P(unsafe) alone decides.
    """
    if part not in ACTION_PARTS:
        return 0.5 if most > 0.5 else round(most / 2, 3)
    at = ACTION_PARTS.index(part)
    milder = [value for name in ACTION_PARTS[:at] if (value := getattr(rules, name)) is not None]
    severer = [value for name in ACTION_PARTS[at + 1 :] if (value := getattr(rules, name)) is not None]
    low, high = max(milder, default=0.0), min(severer, default=1.0)
    return 0.5 if low < 0.5 < high else round((low + high) / 2, 4)


def with_edits(policy: Policy, edits: Edits) -> Policy:
    """The policy with its new rules. Its version differs as well if anything does."""
    if not edits.rules:
        return policy
    sides: dict[Side, SideRules] = {}
    for side in SIDES:
        rules = dict(policy.side(side).by_category)
        for (changed, category), own in edits.rules.items():
            if changed == side and own is None:
                rules.pop(category, None)
            elif changed == side and own is not None:
                rules[category] = own.rules()
        sides[side] = SideRules(rules)
    return replace(policy, version=f"{policy.version}+", user=sides["user"], assistant=sides["assistant"])


def with_policy(policies: PolicySet, policy: Policy) -> PolicySet:
    """The policies with another one in place of that of the same name."""
    return replace(policies, policies={**policies.policies, policy.name: policy})


def query_of_edits(policy: Policy, edits: Edits) -> dict[str, list[str]]:
    """The shortest address of the changes, with the values that cannot be read as they were typed."""
    now, found = rules_of(policy), {key: [value] for key, value in edits.unreadable.items()}
    for place, rules in edits.rules.items():
        if rules is None:
            found[key_of(place, OWN)] = [OFF]
            continue
        before = now.get(place, CategoryRules())
        for part in fields(CategoryRules):
            value = getattr(rules, part.name)
            if value != getattr(before, part.name) and key_of(place, part.name) not in found:
                text = OFF if value is None else value if isinstance(value, str) else number(value)
                found[key_of(place, part.name)] = [text]
        if place not in now and not rules.rules():
            found.setdefault(key_of(place, "block"), [OFF])  # a category that nothing acts on
    return found


# --- as YAML ---------------------------------------------------------------------------------------------------------


def change_yaml(edits: Edits) -> str:
    """The changes as `settings.with_rules` takes them: null for what goes."""
    by_side: dict[Side, dict[str, Any]] = {}
    for (side, category), rules in edits.rules.items():
        by_side.setdefault(side, {})[category] = None if rules is None else rules.content()
    return _flow(by_side)


def yaml_lines(policy: Policy, places: Iterable[Place], preset: str = "") -> list[str]:
    """The rules of some categories as lines of a configuration file; `preset` is what the file's policy builds on."""
    wanted = set(places)
    lines = ["policies:", f"  {_scalar(policy.name)}:", *([f"    preset: {preset}"] if preset else [])]
    for side in SIDES:
        rules = {name: own for name, own in policy.side(side).by_category.items() if (side, name) in wanted}
        if rules:
            lines.append(f"    {side}:")
            lines += [
                f"      {_scalar(name)}: {_flow(_present(CategoryRules.of(own).content()))}"
                for name, own in rules.items()
            ]
    return lines


def yaml_difference(before: Policy, after: Policy, edits: Edits, preset: str = "") -> tuple[list[str], list[str]]:
    """The changed categories as YAML that replaces theirs in the file, and the lines of the difference."""
    old, new = (yaml_lines(policy, edits.rules, preset) for policy in (before, after))
    difference = list(difflib.unified_diff(old, new, "now", "new", n=len(old), lineterm=""))
    gone = [f"# remove {side}: {_scalar(name)}" for (side, name), rules in edits.rules.items() if rules is None]
    return [*new, *gone], difference[3:]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(below)}" for key, below in value.items()) + "}"
    return "null" if value is None else number(value) if isinstance(value, float) else _scalar(value)


def number(value: float) -> str:
    """A probability with all its digits and without an exponent, which YAML 1.1 takes for a text."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scalar(name: str) -> str:
    plain = name.replace("_", "").isalnum() and not name[0].isdigit() and name.lower() not in _NO_TEXTS
    return name if plain else json.dumps(name, ensure_ascii=False)
