"""Read the files of words and of hashes that `patterns` of a guard names: one on each line."""

from collections.abc import Iterator
from pathlib import Path

from guardproxy.settings.named_files import content, named_file, reported
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_MOST_BYTES = 16_000_000
_LISTS = ("words", "sha256")


def read_pattern_files(root: Node, folder: Path) -> list[Problem]:
    """Put the lines of the files in the place of their names, and return the mistakes.

    Names are relative to `folder`, that of the configuration. Empty lines, and those that begin with #, do not count.
    """
    guards = root.get("guards")
    sections: list[tuple[SettingPath, Node | None]] = [(("guard", "patterns"), root.get("guard", "patterns"))]
    sections += [
        (("guards", name, "patterns"), guard.get("patterns")) for name, guard in (guards.entries() if guards else [])
    ]
    return [problem for path, section in sections if section for problem in _read(path, section, folder)]


def _read(path: SettingPath, section: Node, folder: Path) -> Iterator[Problem]:
    for category, patterns in section.entries():
        for key in _LISTS:
            node = patterns.get(key)
            name = named_file(node) if node is not None else None
            if node is None or name is None:
                continue
            place = (*path, category, key)
            try:
                lines = [line.strip() for line in content(folder / name, _MOST_BYTES).splitlines()]
            except ValueError as error:
                yield reported(node, place, str(error))
                continue
            listed = [line for line in lines if line and not line.startswith("#")]
            if not listed:
                yield reported(node, place, f"{folder / name}: has no line; write one on each line")
                continue
            node.value = [Node(line, node.position, node.key_position) for line in listed]
