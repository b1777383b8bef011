"""Check the rules of one category: every rule can be reached, and every second condition has an effect."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guardproxy.policy import UNSAFE
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.yaml_tree import START, Node, Problem, SettingPath

# The actions from the mildest to the most severe, each with the path of its threshold.
_THRESHOLDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("flag", ("flag",)),
    ("rewrite", ("rewrite", "at")),
    ("block", ("block",)),
)
_WITH_UNSAFE = "with_unsafe"


@dataclass(frozen=True, slots=True)
class _ActionThreshold:
    """An action with its threshold and the path to it; `condition` is the P(unsafe) that it needs, at `place`."""

    action: str
    path: SettingPath
    node: Node
    at: float
    condition: float
    place: tuple[str, ...]


def rules(path: SettingPath, category: Node, overall: Node | None, catalogue: Catalogue) -> Iterator[Problem]:
    """The mistakes of a category's rules; `overall` are the rules of `unsafe` on the same side."""
    yield from _without_effect(path, category, overall)
    how = category.get("rewrite", "how")
    name = how.text() if how else None
    error = catalogue.name_error(name, catalogue.rewrites, "rewrite") if name else None
    if how and error:
        yield Problem(how.position, (*path, "rewrite", "how"), error)


def rule_mistakes(
    category: str, thresholds: Mapping[str, Any], overall: Mapping[str, Any] | None
) -> list[tuple[SettingPath, str]]:
    """The rules and conditions without effect among a category's `thresholds`, each as its keys and a message.

    `thresholds` and `overall`, the rules of `unsafe` on the same side, are as a configuration file has them.
    """
    problems = _without_effect((category,), _node(thresholds), None if overall is None else _node(overall))
    return [(problem.path[1:], problem.message) for problem in problems]


def _node(value: Any) -> Node:
    below = {key: _node(child) for key, child in value.items()} if isinstance(value, Mapping) else value
    return Node(below, START, START)


def _without_effect(path: SettingPath, category: Node, overall: Node | None) -> Iterator[Problem]:
    thresholds = list(_thresholds(category))
    yield from _unreachable(path, thresholds)
    yield from _conditions(path, category, thresholds)
    if path[-1] != UNSAFE and overall is not None:
        yield from _decided_by_unsafe(path, category, thresholds, list(_thresholds(overall)))


def _thresholds(category: Node) -> Iterator[_ActionThreshold]:
    """The thresholds that are numbers in [0, 1], the mildest action first."""
    for action, below in _THRESHOLDS:
        node = category.get(*below)
        own = (*below[:-1], _WITH_UNSAFE)
        place = own if category.get(*own) else (_WITH_UNSAFE,)
        condition = category.get(*place)
        at = _probability(node) if node else None
        if node and at is not None:
            needed = _probability(condition) if condition else None
            yield _ActionThreshold(action, below, node, at, needed or 0.0, place)


def _unreachable(path: SettingPath, thresholds: list[_ActionThreshold]) -> Iterator[Problem]:
    """The mistakes of milder actions that do not begin below every more severe one."""
    for index, mild in enumerate(thresholds):
        for severe in thresholds[index + 1 :]:
            if mild.at >= severe.at and mild.condition >= severe.condition:
                message = f"is unreachable, because {severe.action} applies from {severe.at:g}; lower it"
                yield Problem(mild.node.position, (*path, *mild.path), message)
                break


def _conditions(path: SettingPath, category: Node, thresholds: list[_ActionThreshold]) -> Iterator[Problem]:
    """The mistakes of second conditions that no rule needs."""
    used = {threshold.place for threshold in thresholds}
    for place in ((_WITH_UNSAFE,), ("rewrite", _WITH_UNSAFE)):
        node = category.get(*place)
        if node is not None and path[-1] == UNSAFE:
            message = "has no effect, because these rules compare P(unsafe) already; raise their thresholds instead"
            yield Problem(node.key_position, (*path, *place), message)
        elif node is not None and len(place) == 1 and place not in used:
            yield Problem(node.key_position, (*path, *place), "has no effect, because no action uses it; remove it")


def _decided_by_unsafe(
    path: SettingPath, category: Node, thresholds: list[_ActionThreshold], overall: list[_ActionThreshold]
) -> Iterator[Problem]:
    """The mistakes of second conditions from which on the rules of `unsafe` decide by themselves.

    That is so for a rewrite or block, if `unsafe` is a block. A flag then still names the category in records, and of
    two rewrites either may apply.
    """
    blocks = [other for other in overall if other.action == "block"]
    for threshold in thresholds:
        for other in blocks if threshold.action != "flag" else ():
            if 0 < other.at <= threshold.condition:
                node = category.get(*threshold.place)
                message = f"has no effect, because `{UNSAFE}` alone blocks from {other.at:g}; lower it"
                if node:
                    yield Problem(node.position, (*path, *threshold.place), message)


def _probability(node: Node) -> float | None:
    """A value in [0, 1], or None."""
    value = node.value
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None
