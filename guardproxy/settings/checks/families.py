"""Check that the families accept the options and the taxonomy of each guard, and collect the guards' categories."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks.patterns import FAMILY as PATTERNS
from guardproxy.settings.model import Document, GuardSettings
from guardproxy.settings.schema import option_error
from guardproxy.settings.yaml_tree import START, Node, Problem, SettingPath
from guardproxy.types import Taxonomy

_STEP = re.compile(r"[^.\[\]]+")


def categories(
    root: Node, document: Document | None, catalogue: Catalogue
) -> tuple[Collection[str] | None, list[Problem]]:
    """The category ids of all guards, None if those of any guard are unknown; and the mistakes that families report."""
    if document is None:
        return None, []
    guards: list[tuple[SettingPath, GuardSettings]] = [
        (("guards", name), guard) for name, guard in document.members().items()
    ]
    ids: list[str] = []
    problems: list[Problem] = []
    complete = True
    for path, guard in guards or [(("guard",), document.guard)]:
        guard_ids, mistakes = _categories_of(root, path, guard, document.taxonomy_of(guard), catalogue)
        problems += mistakes
        complete = complete and guard_ids is not None
        ids += guard_ids or ()
    opinion, name = document.opinion(), document.audit.second_opinion or ""
    if opinion and name not in document.members():  # its categories are for people, and not for policies
        problems += _categories_of(root, ("guards", name), opinion, document.taxonomy_of(opinion), catalogue)[1]
    return (ids if complete else None), problems


def _categories_of(
    root: Node, path: SettingPath, guard: GuardSettings, taxonomy: Taxonomy | None, catalogue: Catalogue
) -> tuple[Collection[str] | None, list[Problem]]:
    """The category ids of a guard, None if unknown; and the mistakes that its family reports."""
    if catalogue.name_error(guard.family, catalogue.families, "family") or (guard.taxonomy and taxonomy is None):
        return None, []  # reported by the checks of names
    types = catalogue.options.get(guard.family, {})
    problems = _options(root, (*path, "options"), types)
    if problems:
        return None, problems
    # Unknown options are reported by name elsewhere, and must not hide the other mistakes.
    allowed = catalogue.options.get(guard.family, guard.options)
    options = {name: value for name, value in guard.options.items() if name in allowed}
    if guard.patterns is not None and guard.family == PATTERNS:
        options["patterns"] = guard.patterns
    try:
        found = catalogue.categories(guard.family, options, taxonomy)
        return found, [*_reads(root, path, guard, taxonomy, catalogue)]
    except ConfigError as error:
        return None, [_problem(root, path, message, taxonomy) for message in error.problems]
    except Exception as error:  # noqa: BLE001 - a family of the user's own may raise anything
        message = f"the family rejects its options: {type(error).__name__}: {error}"
        return None, [_problem(root, path, message, taxonomy)]


def _reads(
    root: Node, path: SettingPath, guard: GuardSettings, taxonomy: Taxonomy | None, catalogue: Catalogue
) -> Iterator[Problem]:
    """The mistakes in what a guard is shown."""
    node = root.get(*path, "reads")
    if node is None:
        return
    error = catalogue.image_error(guard, taxonomy) if "image" in guard.reads else None
    if "text" not in guard.reads:
        error = "must have text: a guard is shown every text, and an image beside its text"
    elif len(set(guard.reads)) < len(guard.reads):
        error = "names a kind twice; remove one"
    if error:
        yield Problem(node.position, (*path, "reads"), error)


def _options(root: Node, path: SettingPath, types: Mapping[str, Any]) -> list[Problem]:
    """The options of a built-in family that have the wrong type."""
    problems = []
    for name, kind in types.items():
        node = root.get(*path, name)
        message = option_error(kind, node) if node and not node.reported else None
        if node and message:
            problems.append(Problem(node.position, (*path, name), message))
    return problems


def _problem(root: Node, guard: SettingPath, message: str, taxonomy: Taxonomy | None) -> Problem:
    """A family's message, `option: text` or about its taxonomy, at the setting that it concerns."""
    option, _, text = message.partition(": ")
    path: SettingPath = (*guard, "options", option)
    if option.startswith(f"{PATTERNS}."):
        path = (*guard, *(int(step) if step.isdecimal() else step for step in _STEP.findall(option)))
    if root.get(*path) is None:
        path, text = ("taxonomies", taxonomy.id) if taxonomy and "taxonomy" in message else guard, message
    node = root.get(*path)
    return Problem(node.position if node else START, path, text)
