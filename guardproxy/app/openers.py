"""What a process opens by name: the protocols that it reads, and the actions of its policies."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from guardproxy import actions, wires
from guardproxy.app.guards import matches
from guardproxy.policy import Policy
from guardproxy.ports import Action, Wire
from guardproxy.registry import load
from guardproxy.settings import Settings


def open_wires(names: Sequence[str] | None) -> list[Wire]:
    """The wires by name; None: every built-in one."""
    return [load(name, wires.REGISTRY, "wire") for name in (names if names is not None else wires.REGISTRY)]


def action_openers(settings: Settings) -> Mapping[str, Callable[[Policy], Action]]:
    """The openers of every built-in action and of every `module:attribute` that a rule names."""
    policies = settings.policies.policies.values()
    sides = [side for one in policies for side in (one.user, one.assistant, one.tool or one.user)]
    named = {rule.how for side in sides for rules in side.by_category.values() for rule in rules if rule.how}
    openers = {name: load(name, actions.REGISTRY, "rewrite") for name in {*actions.REGISTRY, *named}}
    return {**openers, "mask": partial(openers["mask"], matches=matches(settings))}
