"""Check the taxonomies of the file: names that guards use, well-formed and unique ids and codes."""

import re
from collections.abc import Iterator

from guardproxy.settings.messages import suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath
from guardproxy.types import SIGNALS

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("unsafe", *sorted(SIGNALS))


def taxonomies(root: Node) -> Iterator[Problem]:
    """Every mistake in `taxonomies`, and in the `taxonomy` of each guard."""
    section = root.get("taxonomies")
    entries = section.entries() if section else []
    names = [name for name, _ in entries]
    used: set[str] = set()
    for path, guard in _guards(root):
        node = guard.get("taxonomy")
        name = node.text() if node else None
        if node and name:
            used.add(name)
            if name not in names:
                hint = suggestion(name, names) if names else "define it under taxonomies"
                yield Problem(node.position, (*path, "taxonomy"), f"unknown taxonomy {name!r}; {hint}")
    for name, taxonomy in entries:
        if name not in used:
            message = "is not used; name it in guard.taxonomy or remove it"
            yield Problem(taxonomy.key_position, ("taxonomies", name), message)
        categories = taxonomy.get("categories")
        yield from _categories(("taxonomies", name, "categories"), categories) if categories else ()


def _guards(root: Node) -> Iterator[tuple[SettingPath, Node]]:
    """The sections that describe a guard: `guard`, and the entries of `guards`."""
    guard, guards = root.get("guard"), root.get("guards")
    if guard is not None:
        yield ("guard",), guard
    for name, node in guards.entries() if guards else []:
        yield ("guards", name), node


def _categories(path: SettingPath, categories: Node) -> Iterator[Problem]:
    """The mistakes in the ids and codes of categories."""
    for key in ("id", "code"):
        first_index: dict[str, int] = {}
        for index, category in categories.elements():
            node = category.get(key)
            text = node.text() if node else None
            if node is None or not text:
                continue
            if key == "id" and (not IDENTIFIER.fullmatch(text) or text in RESERVED):
                message = f"must be lower-case letters, digits and _, and not a reserved name ({', '.join(RESERVED)})"
                yield Problem(node.position, (*path, index, key), message)
            if text in first_index:
                message = f"{key} {text!r} is already that of categories[{first_index[text]}]; choose another"
                yield Problem(node.position, (*path, index, key), message)
            first_index.setdefault(text, index)
