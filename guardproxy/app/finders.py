"""The guards that look for places in a text without a model, and who else needs these places: masks and records."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from guardproxy import actions
from guardproxy.actions.mask import masked
from guardproxy.app.kinds import is_finder
from guardproxy.app.registries import open_family
from guardproxy.errors import GuardUnavailable
from guardproxy.families import PATTERNS, PII
from guardproxy.observe.records import NOT_STORED
from guardproxy.patterns import Finder, Hit, Reach, widest
from guardproxy.policy import Policy
from guardproxy.ports import Action
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, Settings

# The least score of what records do not hold: Presidio's for an entity that it knows by the words before it.
_PERSONAL = 0.4


def single_guards(settings: Settings) -> list[GuardSettings]:
    """The guards of a configuration that combine no others."""
    return [member.guard for member in settings.members.values()] or [settings.guard]


def open_finder(guard: GuardSettings) -> Finder:
    """What a guard without a model looks for. Raises ConfigError for what a check of the file reports."""
    options = {"patterns": guard.patterns} if guard.family == PATTERNS else guard.options
    finder: Finder = open_family(guard.family, options, None)
    return finder


def reaches(settings: Settings) -> Mapping[str, Reach]:
    """How far the matches of every category reach, of all guards that look for places in replies."""
    found: dict[str, Reach] = {}
    by_role = settings.guard.by_role
    of_replies = [settings.members[name].guard for name in by_role.of("assistant")] if by_role else []
    for guard in of_replies or single_guards(settings):
        for category, reach in open_finder(guard).reaches.items() if is_finder(guard) else ():
            found[category] = widest([reach, found.get(category, reach)])
    return found


def matches(settings: Settings) -> Callable[[str], list[Hit]]:
    """What finds every match of all guards that look for places in a text, in order, the most probable first."""
    return _matches([open_finder(guard) for guard in single_guards(settings) if is_finder(guard)])


def _matches(finders: Sequence[Finder]) -> Callable[[str], list[Hit]]:
    def found(text: str) -> list[Hit]:
        hits = [hit for finder in finders for hit in finder.hits(text)]
        return sorted(hits, key=lambda hit: (hit.span[0], -hit.probability, -hit.span[1], hit.category))

    return found


def personal_masking(settings: Settings) -> Callable[[str], str] | None:
    """What masks the personal data in a record's text that a guard of the family `pii` finds; None without one."""
    found = _matches([open_finder(guard) for guard in single_guards(settings) if guard.family == PII])
    if not any(guard.family == PII for guard in single_guards(settings)):
        return None

    def mask(text: str) -> str:
        try:
            return masked(text, [hit for hit in found(text) if hit.probability >= _PERSONAL])
        except GuardUnavailable:
            return NOT_STORED

    return mask


def action_openers(settings: Settings) -> Mapping[str, Callable[[Policy], Action]]:
    """The openers of every built-in action and of every `module:attribute` that a rule names."""
    policies = settings.policies.policies.values()
    sides = [side for one in policies for side in (one.user, one.assistant, one.tool or one.user)]
    named = {rule.how for side in sides for rules in side.by_category.values() for rule in rules if rule.how}
    openers = {name: load(name, actions.REGISTRY, "rewrite") for name in {*actions.REGISTRY, *named}}
    return {**openers, "mask": partial(openers["mask"], matches=matches(settings))}
